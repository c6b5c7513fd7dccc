"""Wrong pixels through the whole check: real sessions, a model that passes with the right ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.evidence import IMAGENET
from robustcheck_onnx.checker.inspection.run import inspect_model
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.thresholds import profile
from support import Fields, lookup, measuring

MEAN, STD = np.array(IMAGENET.mean, np.float32), np.array(IMAGENET.std, np.float32)


def model(path: Path, *, baked: bool, beside: bool = False, **preprocessing: Any) -> Path:
    """A look-up model of photos in 0–1; `baked`: its graph normalises them first.

    Its first two layers, with six outputs between them, undo ImageNet's normalisation, as learned ones might: no walk
    sees that. `beside`: a branch that reads the image as it is, and adds nothing.
    """
    contract = lookup.lookup_contract()
    contract["preprocessing"] |= preprocessing
    kernel = np.zeros((6, 3, 3, 3), np.float32)
    kernel[range(6), [0, 1, 2] * 2, 1, 1] = np.tile(STD, 2)
    halves = np.tile(np.eye(3, dtype=np.float32) / 2, 2).reshape(3, 6, 1, 1)
    weights: Fields = {"kernel": kernel, "bias": np.tile(MEAN, 2), "halves": halves}
    if baked:
        weights |= {"mean": MEAN.reshape(3, 1, 1), "std": STD.reshape(3, 1, 1)}
    nodes = [
        "centred = Sub(image, mean); normalised = Div(centred, std)" if baked else "normalised = Identity(image)",
        "six = Conv(normalised, kernel, bias, pads=[1, 1, 1, 1]); three = Conv(six, halves)",
        "level = ReduceMean(image, keepdims=1); zero = Mul(level, 0.0)" if beside else "",
        "unit = Add(three, zero)" if beside else "unit = Identity(three)",
    ]
    return lookup.write_lookup_model(path, lookup.passing_rows(), contract=contract, before="\n".join(nodes), **weights)


NORMALISE = {"mean": MEAN.tolist(), "std": STD.tolist()}


def told(report: Report) -> set[str]:
    return {reason.id for reason in report.verdict.reasons} & {"normalised_twice", "unusual_pixels"}


def test_a_model_that_passes_is_warn_with_pixels_scaled_twice_or_not_at_all(tmp_path: Path, photos_80: Path) -> None:
    cases: list[tuple[bool, Fields, set[str]]] = [
        (True, {}, set()),
        (False, NORMALISE, set()),
        (True, NORMALISE, {"normalised_twice"}),
        (True, {"rescale": 1.0}, {"unusual_pixels"}),
        (False, NORMALISE | {"rescale": 1.0}, {"unusual_pixels"}),
        (False, {"rescale": 1.0}, set()),  # raw bytes are said
    ]
    for baked, preprocessing, reasons in cases:
        path = model(tmp_path / "m.onnx", baked=baked, **preprocessing)
        report = check(path, images=photos_80)
        raw = not baked and preprocessing == {"rescale": 1.0}
        assert any("0 to 255" in note for note in report.notes) == raw
        assert told(report) == reasons
        assert raw or report.passed == (not reasons)
        answer = inspect_model(path, profile.load()).can_pass
        assert ({reason.id for reason in answer.reasons}, answer.answer) == (reasons, "no" if reasons else "yes")


def test_a_branch_beside_a_normalisation_hides_nothing(tmp_path: Path, photos_80: Path) -> None:
    path = tmp_path / "m.onnx"
    sound = check(model(path, baked=True, beside=True), images=photos_80)
    facts = sound.evidence.model
    assert sound.passed
    assert facts.scaling is not None
    assert [facts.scaling.ops, *(other.ops for other in facts.other_scalings)] == [("Sub", "Div"), ()]
    twice = check(model(path, baked=True, beside=True, **NORMALISE), images=photos_80)
    assert (twice.passed, told(twice)) == (False, {"normalised_twice"})


def levels(photos: Path) -> np.ndarray:
    """Of the photos, (image, height, width, 3)."""
    return np.stack([np.asarray(Image.open(photo)) for photo in sorted(photos.iterdir())])


def test_what_was_measured_is_numpys(tmp_path: Path, photos_80: Path) -> None:
    path = model(tmp_path / "m.onnx", baked=False, color_order="BGR", **NORMALISE)
    values = ((levels(photos_80).reshape(-1, 3) / 255.0 - MEAN) / STD)[:, ::-1]
    found = check(path, images=photos_80, thresholds=measuring.never_decided()).evidence.levels
    assert found is not None
    assert found.mean == pytest.approx(values.mean(axis=0), rel=1e-5)
    assert found.sd == pytest.approx(values.std(axis=0), rel=1e-5)


def test_tensors_are_judged_by_what_they_hold(tmp_path: Path, photos_80: Path) -> None:
    # the contract's normalisation is in the graph too: not judged, since nothing was done to these pixels
    path = model(tmp_path / "m.onnx", baked=True, **NORMALISE)
    for divided_by, reasons in ((255, set[str]()), (255**2, {"unusual_pixels"})):
        tensors = (levels(photos_80).transpose(0, 3, 1, 2) / divided_by).astype(np.float32)
        np.save(tmp_path / "tensors.npy", tensors)
        report = check(path, images=tmp_path / "tensors.npy", thresholds=measuring.never_decided())
        assert told(report) == reasons
        assert report.evidence.levels is not None
        assert report.evidence.levels.sd == pytest.approx(tensors.std(axis=(0, 2, 3), dtype=np.float64), rel=1e-3)
