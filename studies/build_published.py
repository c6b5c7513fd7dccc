"""Makes thresholds/data/published_*.csv and published_*.json from tables of published accuracies.

python studies/build_published.py OPEN_CLIP.csv TIMM.csv TESTBED.csv
python studies/build_published.py  # fits only the baselines, to the tables as they are

The three tables hold, per model, the accuracies named in docs/data.md and a column `source`
(repository@commit:path). Values are copied as they stand. Needs the extra `export`: which names of other libraries
mean the same weights is read from open_clip's and torchvision's own tables of downloads.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from robustcheck_onnx.thresholds import published
from robustcheck_onnx.thresholds.published import IMAGENET, PERCENTAGE_POINTS, SHIFTS, BaselineFit, logit, sigmoid

OUTPUT = Path(__file__).parent.parent / "thresholds" / "data"
ACCURACIES = ("imagenet1k", "imagenetv2", "sketch", "imagenet_r", "imagenet_a", "objectnet")
COLUMNS = ("model", "weights", "group", "image_size_px", *ACCURACIES)
LICENCES = {"open_clip": "MIT", "timm": "Apache-2.0", "testbed": "MIT"}  # LICENSE file of each repository
TIMM_GROUPS = {"clip_finetuned": "imagenet_finetuned_clip"}  # not to be taken for contrastive finetuning
TESTBED_GROUPS = {"ROBUST_INTV": "robust_intervention"}  # the others are its types in lower case

# OpenAI's own conversions of its checkpoints for transformers.
OPENAI_FOR_TRANSFORMERS = {
    "openai/clip-vit-base-patch32": "ViT-B-32",
    "openai/clip-vit-base-patch16": "ViT-B-16",
    "openai/clip-vit-large-patch14": "ViT-L-14",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336",
}

MIN_MODELS = 3  # a line through two points has no residual

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(name: str, columns: Iterable[str], rows: Iterable[Row]) -> None:
    with (OUTPUT / name).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(columns), lineterminator="\n", restval="", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def from_open_clip(row: Row) -> Row:
    return row | {"weights": row["pretrained"], "group": "zero_shot_clip"}


def from_timm(row: Row) -> Row:
    model, _, tag = row["model"].partition(".")
    assert tag == row["tag"], row["model"]
    group = TIMM_GROUPS.get(row["group"], row["group"])
    return row | {"model": model, "weights": tag, "group": group, "image_size_px": row["img_size"]}


def from_testbed(row: Row) -> Row:
    return row | {"group": TESTBED_GROUPS.get(row["type"], row["type"].lower())}


def source(rows: list[Row], licence: str) -> dict[str, str | int]:
    (text,) = {row["source"] for row in rows}
    return {"source": text, "licence": licence, "rows": len(rows)}


def alias(library: str, name: str, weights: str, table: str, row: tuple[str, str]) -> Row:
    columns = ("library", "name", "weights", "published_in", "published_model", "published_weights")
    return dict(zip(columns, (library, name, weights, table, *row), strict=True))


def hub_aliases(rows: list[Row]) -> Iterator[Row]:
    """Hub repositories that open_clip itself loads a row's weights from, where they stand for one row."""
    import open_clip

    repositories: dict[str, list[Row]] = {}
    for row in rows:
        hub = str((open_clip.get_pretrained_cfg(row["model"], row["weights"]) or {}).get("hf_hub") or "")
        if hub.endswith("/"):  # a file name after it: a repository of several checkpoints
            repositories.setdefault(hub.rstrip("/"), []).append(row)
    for hub, found in repositories.items():
        if len({tuple(row[name] for name in ACCURACIES) for row in found}) > 1:
            continue  # the same repository for rows with different accuracies: the name does not settle which
        target = (found[0]["model"], found[0]["weights"])
        yield alias("open_clip", f"hf-hub:{hub}", "", "open_clip", target)
        # LAION's own repositories of plain CLIP models hold the same checkpoint in transformers' format
        if hub.startswith("laion/CLIP-ViT-") and "laion2B" in hub and "roberta" not in hub:
            yield alias("transformers", hub, "", "open_clip", target)
    for hub, model in OPENAI_FOR_TRANSFORMERS.items():
        yield alias("transformers", hub, "", "open_clip", (model, "openai"))


def torchvision_aliases(rows: list[Row]) -> Iterator[Row]:
    """torchvision's weights that timm downloads from torchvision: the same file, its hash in the name."""
    import timm
    import torchvision

    entries = {
        entry.url: (name, entry.name)
        for name in torchvision.models.list_models(module=torchvision.models)
        for entry in torchvision.models.get_model_weights(name)
    }
    for model, tag in dict.fromkeys((row["model"], row["weights"]) for row in rows):
        config = timm.models.get_pretrained_cfg(f"{model}.{tag}") if timm.is_model(model) else None
        if config is not None and config.url in entries:
            yield alias("torchvision", *entries[config.url], "timm", (model, tag))


def fit_baseline(acc_in: ArrayLike, acc_shift: ArrayLike) -> BaselineFit:
    """Fit a baseline to models without effective robustness.

    It minimises squares on logit axes.

    logit(acc_shift) = a · logit(acc_in) + b (Taori et al. 2020); equal to scipy.stats.linregress on logits.
    acc_in, acc_shift: (model,), fractions in (0, 1): accuracy on ImageNet and on the shift.
    Raises ValueError: lengths differ, fewer than MIN_MODELS models, an accuracy that is not between 0 and 1, or all
    models with the same ImageNet accuracy.
    """
    x, y = published.fractions("ImageNet accuracy", acc_in), published.fractions("accuracy on the shift", acc_shift)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"accuracies have shapes {x.shape} and {y.shape}; two lists of one length are needed")
    if x.size < MIN_MODELS:
        raise ValueError(f"baseline has {x.size} models; a line with a residual needs {MIN_MODELS} or more")
    if np.all(x == x[0]):
        raise ValueError(f"ImageNet accuracy is {x[0]:g} for all {x.size} models; a line needs different ones")
    u, v = logit(x), logit(y)
    du, dv = u - u.mean(), v - v.mean()
    a = float(du @ dv / (du @ du))
    b = float(v.mean() - a * u.mean())
    spread = float(dv @ dv)
    # models that all have one accuracy on the shift lie on a flat line exactly; there is no correlation to speak of
    r2 = float((du @ dv) ** 2 / (du @ du * spread)) if spread > 0 else 0.0
    residual = PERCENTAGE_POINTS * (y - sigmoid(a * u + b))
    return BaselineFit(
        a=a,
        b=b,
        n=int(x.size),
        r2=r2,
        residual_sd_pp=float(residual.std()),
        low=float(x.min()),
        high=float(x.max()),
    )


def baselines() -> dict[str, dict[str, dict[str, float]]]:
    """Fit the baselines of the tables as they ship: library → shift → fields of Baseline."""
    out: dict[str, dict[str, dict[str, float]]] = {"timm": {}, "testbed": {}}
    for library, lines in out.items():
        for shift in SHIFTS:
            if models := published.ordinary_models(library, shift):
                inside, outside = ([row.accuracy[name] for row in models] for name in (IMAGENET, shift))
                lines[shift] = fit_baseline(inside, outside).model_dump()
    return out


def main(arguments: list[str]) -> None:
    if arguments:
        write_tables(dict(zip(LICENCES, (read(Path(path)) for path in arguments), strict=True)))
    text = json.dumps(baselines(), indent=1) + "\n"
    (OUTPUT / "published_baselines.json").write_text(text, encoding="utf-8")


def write_tables(tables: dict[str, list[Row]]) -> None:
    sources = {name: source(rows, LICENCES[name]) for name, rows in tables.items()}
    converters = {"open_clip": from_open_clip, "timm": from_timm, "testbed": from_testbed}
    compact = {name: [converters[name](row) for row in rows] for name, rows in tables.items()}
    for name, rows in compact.items():
        write(f"published_{name}.csv", COLUMNS, rows)
    aliases = [*hub_aliases(compact["open_clip"]), *torchvision_aliases(compact["timm"])]
    aliases.sort(key=lambda row: (row["library"], row["name"], row["weights"]))
    write("published_aliases.csv", aliases[0], aliases)
    (OUTPUT / "published_sources.json").write_text(json.dumps(sources, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
