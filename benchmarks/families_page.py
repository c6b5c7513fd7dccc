"""Writes docs/families.json and docs/families.md from the records of benchmarks/sweep.py."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.reference import references

DOCS = Path(__file__).parent.parent / "docs"
PACKAGES = ("timm", "torchvision", "open_clip_torch", "torch", "onnx")
FIELDS = ("library", "family", "name", "options", "exporter", "size_mb", "input", "outcome", "error", "open_s", "rule",
          "pool", "ends_in", "tensor_assumed", "pool_assumed", "obstacles", "tensor", "width", "wanted_width",
          "difference", "wanted_tensor", "wanted_pool", "refused", "message", "check_code", "check_s", "reasons",
          "as_output")  # fmt: skip
MESSAGE_CHARACTERS = 160
ABOUT_STATISTICS = ("too_few_images", "rectified", "no_persistent_outlier_features", "low_kurtosis", "undecided")
Record = dict[str, Any]

HEAD = """# Families: what is read of each, and which can pass

Written by `python benchmarks/sweep.py`; the records are in `families.json`. Each architecture was exported as a
stranger would export it: no contract, no metadata, torch's legacy exporter (its new one where that fails), a dynamic
batch. **All weights are random**, so nothing here says what a trained model gets: the page says which tensor is read,
what it ends in, and whether a file of that family could pass at all.

A family *can pass* if the tensor is not assumed and its kind, its pooling and its end are among those of the packaged
thresholds ({kinds}; pooled by {pools}; ends {ends}). Whether a model of it does is a matter of its weights: they must
have made persistent outlier features, and its width must lie between {min_features} and {max_features} features (the
smallest members were taken here; some are narrower).

## Why these ends

The thresholds hold for what was measured. These published representations of real weights show persistent outlier
features:

{positives}

All of them are image embeddings of CLIP models or SigLIP's pooled ones: what the last linear layer, or a sum of
branches, made. For an encoder that ends otherwise there is no such example, so nothing is known about which number
would be high:

- **A normalisation layer** ends most classifiers' and self-supervised encoders' representations (ViT, DeiT, Swin,
  ConvNeXt, DINO). Its learned gain and bias alone can make a feature large in every image.
- **An activation** (ReLU, SiLU, GELU) before the pooling makes features one-sided. Their large values are no outliers
  about a mean, and WARN says `rectified` where that shows in the numbers.
- **A linear layer on rectified, pooled features** (`linear_of`): an outlier feature there may come from that layer
  alone.
"""


def write(records: Sequence[Record]) -> None:
    """Write both files."""
    shown = sorted(({k: r[k] for k in FIELDS if r.get(k) not in (None, {}, [])} for r in records), key=_order)
    for record in shown:
        record.pop("as_output", None) if _same(record) else None
        if "message" in record:
            record["message"] = record["message"][:MESSAGE_CHARACTERS]
    versions = {package: version(package) for package in PACKAGES}
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in shown)
    text = f'{{"versions": {json.dumps(versions)},\n"records": [\n{lines}\n]}}\n'
    (DOCS / "families.json").write_text(text, encoding="utf-8")
    (DOCS / "families.md").write_text(page(list(records), versions), encoding="utf-8")


def page(records: list[Record], versions: dict[str, str]) -> str:
    """The page as Markdown."""
    profile = profiles.load()
    head = HEAD.format(
        kinds=", ".join(profile.tensor_rules),
        pools=", ".join(profile.pools),
        ends=", ".join(map(str, profile.ends)),
        min_features=profile.min_features,
        max_features=profile.max_features,
        positives=_positives(),
    )
    parts = [head, _summary(records, versions), "## Families that can pass\n", table(records, can_pass=True)]
    parts += ["## Families that can't pass\n", table(records, can_pass=False), _others(records)]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _positives() -> str:
    rows = [row for row in references() if row.expected == "present" and not row.excluded]
    return "\n".join(f"- {checkpoint}" for checkpoint in sorted({row.checkpoint for row in rows}))


def _summary(records: list[Record], versions: dict[str, str]) -> str:
    outcomes: dict[str, int] = defaultdict(int)
    for record in records:
        outcomes[record["outcome"]] += 1
    opened = [r["open_s"] for r in records if "open_s" in r]
    codes: dict[str, int] = defaultdict(int)
    for record in records:
        if "check_code" in record:
            codes[str(record["check_code"])] += 1
    largest = max((r["difference"] for r in records if r["outcome"] == "right"), default=0)
    return f"""## Counts

{len(records)} architectures ({", ".join(f"{package} {number}" for package, number in versions.items())}).

| | |
|---|---|
| tensor that is read, against the library's own on the same input | {_counts(outcomes)} |
| largest relative difference of a right one | {largest:.1e} |
| seconds to open the file, as `inspect` does | median {sorted(opened)[len(opened) // 2]:.2f}, most {max(opened):.2f} |
| exit codes of `check` on 8 bundled photos | {_counts(codes)} |
"""


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{key}: {n}" for key, n in sorted(counts.items(), key=lambda item: -item[1]))


def table(records: list[Record], *, can_pass: bool) -> str:
    """One row for the members of a family that are read alike."""
    rows: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        if "rule" in record and (not record["obstacles"]) == can_pass:
            kind = record["rule"] + ("" if record["pool"] == "none" else f", {record['pool']}")
            wrong = ["wrong tensor"] if record["outcome"] == "wrong tensor" else []
            why_not = "; ".join([*wrong, *record["obstacles"]])
            rows[record["family"], record["library"], kind, record["ends_in"], why_not].append(record)
    lines = [
        "| family | library | architectures | representation | ends in | features |"
        + ("" if can_pass else " why not |")
    ]
    lines.append("|---" * (6 if can_pass else 7) + "|")
    for (family, library, kind, end, why_not), members in sorted(rows.items(), key=lambda row: row[0][0].lower()):
        widths = sorted({member["width"] for member in members if "width" in member})
        width = f"{widths[0]}–{widths[-1]}" if len(widths) > 1 else "".join(map(str, widths))
        names = ", ".join(member["name"] for member in members)
        cells = [family, library, names, kind, f"`{end}`", width, *([] if can_pass else [why_not])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _others(records: list[Record]) -> str:
    """Those without a representation, each with what was said."""
    lines = []
    titles = {"refused": "Refused with a message", "hang": "Never opened", "crash": "Crashed"}
    for outcome, title in (titles | {"not exported": "Not exported by torch"}).items():
        members = [record for record in records if record["outcome"] == outcome]
        if members:
            lines += [f"## {title}\n"]
            lines += [f"- {m['library']} {m['name']}: {_said(m)}" for m in members]
            lines.append("")
    return "\n".join(lines)


def _said(record: Record) -> str:
    text = str(record.get("message") or record.get("error", ""))
    return text if len(text) <= MESSAGE_CHARACTERS else text[:MESSAGE_CHARACTERS] + "…"


def _same(record: Record) -> bool:
    other = record.get("as_output", {})
    return all(other.get(key) == record.get(key) for key in ("rule", "pool", "ends_in", "tensor_assumed", "refused"))


def _order(record: Record) -> tuple[str, str, str]:
    return record["library"], record["family"].lower(), record["name"]
