"""The committed table of labelled stamps that benchmarks/predicted_accuracy.py reads."""

from __future__ import annotations

import csv

from support import ROOT


def test_every_stamp_is_named_once_with_classes_of_imagenet() -> None:
    with (ROOT / "benchmarks" / "stamps.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["path"] for row in rows}) == 304  # what docs/shift.md says
    by_label = {row["label"]: row["classes"] for row in rows}
    assert all(by_label[row["label"]] == row["classes"] for row in rows)
    for row in rows:
        bounds = [int(bound) for part in row["classes"].split() for bound in part.split("-")]
        assert bounds
        assert bounds == sorted(bounds)
        assert 0 <= bounds[0] <= bounds[-1] < 1000
