"""Writes results/families.json and results/families.md from the records of studies/sweep.py."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.tables import references

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("timm", "torchvision", "open_clip_torch", "torch", "onnx")
FIELDS = ("library", "family", "name", "options", "exporter", "size_mb", "input", "outcome", "error", "open_s", "rule",
          "pool", "ends_in", "tensor_assumed", "pool_assumed", "obstacles", "tensor", "width", "wanted_width",
          "difference", "wanted_tensor", "wanted_pool", "refused", "message", "check_code", "check_s", "reasons",
          "as_output")  # fmt: skip
MESSAGE_CHARACTERS = 160
Record = dict[str, Any]

HEAD = """# Families: what is read of each, and which can pass

Written by `python studies/sweep.py`; the records are in `families.json`. Each architecture was exported as a
stranger would export it: no contract, no metadata, torch's legacy exporter (its new one where that fails), a dynamic
batch; mostly the smallest member of a family. **All weights are random**: nothing here says what a trained model gets.
The page says which tensor is read, what makes it, and whether a file of that family could pass at all.

## Which can pass

A file can pass if its tensor is not assumed, and if the tensor's kind, pooling and end are among those that the
[packaged thresholds](../../docs/calibration.md) hold for:

- kind: {kinds}
- pooling: {pools}
- end: {ends} (`other:Gather` is the look-up table that replays published representations)
- width: {min_features} to {max_features} features; some of the small members taken here are narrower

Whether it does pass is a matter of its weights: they must show persistent outlier features.

Encoders can be robust without them: OpenCLIP ViT-bigG/14 (laion2b_s39b_b160k) and, by the accuracies that its authors
published (Oquab et al. 2023), DINOv2 ViT-g/14 show none. WARN says nothing against such a model.

The thresholds hold for these ends because the real positives have them. Real positives are published representations,
of real weights, that show persistent outlier features:

{positives}

All are projected image embeddings of CLIP models, or SigLIP's pooled one: the last linear layer, or a sum of branches,
makes them. An encoder that ends otherwise has no such example, so the thresholds say nothing about it
([why](../../docs/dev/decisions/verdict-rule.md)):

- **A normalisation layer** makes the features of most classifiers and self-supervised encoders. Its learned scales make
  or hide large features.
- **An activation** (ReLU, SiLU, GELU) makes one-sided features. They have a high kurtosis without any outlier feature.
- **A linear layer behind rectified features** (`linear_of`): a linear map can turn their mean into one large feature.
  So ends the head of MobileCLIP2-S, and the two-layer head of convnext_large_d.
"""
OTHER_WORDS = {
    "wrong tensor": "another tensor than the library's own",
    "assumed another tensor": "another tensor than the library's own, said to be assumed",
}


def write(records: Sequence[Record], n_listed: int) -> None:
    """Write both files; `n_listed` architectures should have a record."""
    shown = sorted(({k: r[k] for k in FIELDS if r.get(k) not in (None, {}, [])} for r in records), key=_order)
    for record in shown:
        record.pop("as_output", None) if _same(record) else None
        if "message" in record:
            record["message"] = record["message"][:MESSAGE_CHARACTERS]
    versions = {package: version(package) for package in PACKAGES}
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in shown)
    text = f'{{"versions": {json.dumps(versions)},\n"records": [\n{lines}\n]}}\n'
    (RESULTS / "families.json").write_text(text, encoding="utf-8")
    (RESULTS / "families.md").write_text(page(list(records), n_listed, versions), encoding="utf-8")


def page(records: list[Record], n_listed: int, versions: dict[str, str]) -> str:
    """The page as Markdown."""
    profile = profiles.load()
    head = HEAD.format(
        kinds=", ".join(profile.tensor_rules),
        pools=", ".join(profile.pools),
        ends=", ".join(f"`{end}`" for end in profile.ends),
        min_features=profile.min_features,
        max_features=profile.max_features,
        positives=_positives(),
    )
    parts = [head, _summary(records, n_listed, versions), "### Families that can pass\n", table(records, can_pass=True)]
    parts += ["### Families that can't pass\n", table(records, can_pass=False), _others(records)]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _positives() -> str:
    rows = [row for row in references() if row.expected == "present" and not row.excluded]
    return "\n".join(f"- {model}" for model in sorted({row.model for row in rows}))


def _summary(records: list[Record], n_listed: int, versions: dict[str, str]) -> str:
    outcomes: dict[str, int] = defaultdict(int)
    for record in records:
        outcomes[record["outcome"]] += 1
    opened = [r["open_s"] for r in records if "open_s" in r]
    codes: dict[str, int] = defaultdict(int)
    for record in records:
        if "check_code" in record:
            codes[str(record["check_code"])] += 1
    largest = max((r["difference"] for r in records if r["outcome"] == "right"), default=0)
    packages = ", ".join(f"{package} {number}" for package, number in versions.items())
    return f"""## Counts

{len(records)} of the {n_listed} architectures that the script lists ({packages}).

| | |
|---|---|
| tensor that is read, against the library's own on the same input | {_counts(outcomes)} |
| largest relative difference of a right one | {largest:.1e} |
| seconds to open the file, as `inspect` does | median {sorted(opened)[len(opened) // 2]:.2f}, most {max(opened):.2f} |
| exit codes of `check` on 8 bundled photos, of the {sum(codes.values())} that were checked | {_counts(codes)} |
"""


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{key}: {n}" for key, n in sorted(counts.items(), key=lambda item: -item[1]))


def table(records: list[Record], *, can_pass: bool) -> str:
    """One row for the members of a family that are read alike."""
    rows: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        if "rule" in record and (not record["obstacles"]) == can_pass:
            kind = record["rule"] + ("" if record["pool"] == "none" else f", {record['pool']}")
            other = [OTHER_WORDS[record["outcome"]]] if record["outcome"] in OTHER_WORDS else []
            why_not = "; ".join([*other, *record["obstacles"]])
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
            lines += [f"### {title}\n"]
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
