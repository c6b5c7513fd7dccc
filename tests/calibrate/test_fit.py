"""Rows of a results table: which take part in a fit, which tensor wins, and what does not matter to it."""

from pathlib import Path

import pytest

from robustcheck_onnx.checker.calibrate import run
from robustcheck_onnx.checker.calibrate.run import Task
from robustcheck_onnx.checker.verdict.rule import ALIKE_SPREAD
from robustcheck_onnx.thresholds import tables
from robustcheck_onnx.thresholds.calibrate import fitted_profile, rows_of
from robustcheck_onnx.thresholds.profile import End
from robustcheck_onnx.thresholds.suite import Entry, Member
from support import but
from support.calibrations import N_MODELS, Calibrated


def test_what_takes_no_part_in_a_fit(calibrated: Calibrated) -> None:
    row = but(tables.read(calibrated.table)[0], label="present")
    assert tables.ALIKE_SPREAD == ALIKE_SPREAD
    assert tables.excluded(row) == ""
    unknown = row.statistics | {"strength": tables.Measured(estimate=None, low=None, high=None)}
    for change, why in (
        ({"n_nonfinite": 1}, "1 representations not finite or constant"),
        ({"statistics": unknown}, "not measurable: strength"),
        ({"image_findings": ("images_not_photo_like",)}, "images: images_not_photo_like"),
        ({"n_varied": 49}, "49 varied images"),
        ({"preprocessing_source": "assumed"}, "preprocessing was assumed"),
        ({"context": {"spread": 0.1}}, "representations of all images alike, which never passes"),
        ({"label": "unlabelled"}, "unlabelled"),
    ):
        assert tables.excluded(row.model_copy(update=change)) == why
    assert tables.excluded(but(row, label="absent", context={"spread": 0.1})) == ""


def test_the_pooled_tensor_is_compared_where_models_have_it(calibrated: Calibrated) -> None:
    """Sharper pooled rows win; a classifier, which has no other tensor, stands by its representation."""
    some = tables.read(calibrated.table)
    pooled = []
    for row in (r for r in some if r.label == "present"):
        sharper = {
            name: tables.Measured(**{end: 2 * value for end, value in row.statistics[name].model_dump().items()})
            for name in ("strength", "kurtosis")
        }
        change = {"tensor": "pooled", "rule": "pooled", "ends_in": End("normalisation")}
        pooled.append(but(row, **change, statistics={**row.statistics, **sharper}))
    assert len(rows_of([*some, *pooled], "pooled")) == N_MODELS
    fitted = fitted_profile([*some, *pooled], id="both")
    assert (fitted.tensor, fitted.tensor_rules, fitted.ends) == ("pooled", ("pooled",), (End("normalisation"),))
    gaps = {one.tensor: one.gap for one in fitted.calibration.tensors}
    assert (gaps["pooled"] or 0) > (gaps["representation"] or 0)  # a trap is the nearest to both
    plain = fitted_profile([*some, *pooled], id="both", tensor="representation")
    assert plain.tensor == "representation"
    twice = 2 * plain.thresholds["strength"].lowest_with
    assert fitted.thresholds["strength"].lowest_with == pytest.approx(twice, rel=1e-4)


def test_a_table_can_be_read_whatever_engine_and_day_wrote_it(calibrated: Calibrated) -> None:
    some = tables.read(calibrated.table)
    later = [but(row, date="2030-01-01", wall_s=99.0, execution={}) for row in some]
    assert tables.digest_of(later) == tables.digest_of(reversed(some))
    assert tables.digest_of(some[1:]) != tables.digest_of(some)
    assert fitted_profile(later, id="x").calibration.date == "2030-01-01"


def test_rows_of_other_images_are_kept_beside_the_table(calibrated: Calibrated, tmp_path: Path) -> None:
    path, (first, *others) = tmp_path / "t.jsonl", tables.read(calibrated.table)
    path.write_bytes(calibrated.table.read_bytes())
    entry = Entry(model="m.onnx", group="other", label="absent")
    task = Task(Member(first.id, first.id, entry, "absent", None, False), path, None, "another key")
    assert run.open_table(path, [task]) == others
    assert (tables.read(path), tables.read(run.superseded(path))) == (others, [first])
