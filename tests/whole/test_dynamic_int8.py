"""Dynamic int8: WARN in batches, a verdict for batches of one image with `--batch-size 1`, the same by every way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.evidence import Options
from robustcheck_onnx.checker.measure.job import Job
from robustcheck_onnx.checker.measure.workers import measure_all
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.verdict.notes import notes_of
from robustcheck_onnx.checker.verdict.rule import judge
from robustcheck_onnx.thresholds import profile
from support import Capture, Place, but, lookup, robustcheck

HOLDS = "The verdict holds for batches of one image:"
D = 512


PRODUCT = """
    a, a.scale, a.zero = DynamicQuantizeLinear(rows); integers = MatMulInteger(a, w, a.zero)
    float = Cast(integers, to=FLOAT); scale = Mul(a.scale, 0.01); product = Mul(float, scale)
"""
"""it quantises the rows in the run"""
WEIGHT = 100 * np.eye(D) + 60 * np.roll(np.eye(D), 1, axis=1)  # features that are not orthogonal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lookup_pass: Place) -> Path:
    """Rows with one persistent outlier feature, whose norms differ by a factor of ten."""
    folder = tmp_path_factory.mktemp("dynamic")
    (folder / "photos").symlink_to(lookup_pass[1])
    rows = lookup.passing_rows(shortest=0.2)
    for name, end in (
        ("model", "representation = Identity(product)"),
        # alone, an image keeps all of itself
        ("mixed", "mean = ReduceMean(product, [0]); twice = Add(product, product); representation = Sub(twice, mean)"),
    ):
        lookup.write_lookup_model(folder / f"{name}.onnx", rows, then=PRODUCT + end, w=WEIGHT.astype(np.int8))
    return folder


def run(place: Path, batch_size: int, name: str = "model.onnx", **options: Any) -> Report:
    return check(place / name, images=place / "photos", device="cpu", batch_size=batch_size, **options)


def ids(report: Report) -> list[str]:
    return [reason.id for reason in report.verdict.reasons]


def test_in_batches_it_depends_on_them_and_alone_the_verdict_holds_for_one_image(place: Path) -> None:
    together, alone = run(place, 32), run(place, 1)
    assert ids(together) == ["batch_dependent"]
    assert "`--batch-size 1`" in together.verdict.reasons[0].next_step
    assert not any(note.startswith(HOLDS) for note in together.notes)
    assert (alone.verdict.verdict, ids(alone)) == ("PASS", [])
    model = alone.evidence.model
    assert model.batch_difference == together.evidence.model.batch_difference
    assert model.batch_difference is not None
    assert model.batch_difference > 0.05
    assert model.fixed_scale_difference is not None
    assert model.fixed_scale_difference < 1e-3
    (note,) = [note for note in alone.notes if note.startswith(HOLDS)]
    assert f"changed by {model.batch_difference:.2g} (relative)" in note


def test_what_else_mixes_the_batch_stays_a_warning_at_any_size(place: Path) -> None:
    for batch_size in (1, 32):
        report = run(place, batch_size, "mixed.onnx")
        assert "batch_dependent" in ids(report)
        assert not any(note.startswith(HOLDS) for note in report.notes)
        seen = next(reason.seen for reason in report.verdict.reasons if reason.id == "batch_dependent")
        assert ("though the scales of its quantisers were held fixed" in seen) == (batch_size == 1)


def test_shards_measured_alone_give_the_same(place: Path) -> None:
    whole = profile.seal(but(profile.load(), id="all", min_images=80))
    options = Options(images=str(place / "photos"), device="cpu", batch_size=1)
    (evidence,) = measure_all(Job(place / "model.onnx", options), whole)
    single = run(place, 1, thresholds=whole)
    assert (evidence.statistics, evidence.model) == (single.evidence.statistics, single.evidence.model)
    assert (judge(evidence, whole), notes_of(evidence, whole)) == (single.verdict, single.notes)


def test_the_command_says_it_in_the_report_and_in_json(place: Path, capsys: Capture) -> None:
    model, file = place / "model.onnx", place / "report.json"
    images = ["--images", place / "photos"]
    words = [*images, "--batch-size", "1", "-o"]
    assert robustcheck(model, *words, "terminal", "-o", f"json={file}") == 0
    assert robustcheck("verify", file, model, *images) == 0
    assert HOLDS in " ".join(capsys.readouterr().out.split())
    assert robustcheck("compare", model, model, *words, "json") == 0
    assert HOLDS in capsys.readouterr().out
