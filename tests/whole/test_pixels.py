"""Wrong pixels through the whole check: real sessions, a model that passes with the right ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.evidence import IMAGENET
from robustcheck_onnx.checker.inspection import inspect_model
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import conclude, merge
from robustcheck_onnx.checker.model.contract import CONTRACT_KEY
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.thresholds import profile
from support import lookup, measuring

MEAN, STD = np.array(IMAGENET.mean, np.float32), np.array(IMAGENET.std, np.float32)
N, WIDTH = 80, 512


def embeddings() -> np.ndarray:
    rng = np.random.default_rng(3)
    h = rng.normal(size=(N, WIDTH)) + rng.normal(0, 0.5, WIDTH)
    h[:, 7] += 20
    return np.asarray(h * rng.uniform(0.5, 2, (N, 1)))


def model(path: Path, *, baked: bool, beside: bool = False, **preprocessing: Any) -> Path:
    """A look-up model of photos in 0–1; `baked`: its graph normalises them first.

    Its first two layers, with six outputs between them, undo ImageNet's normalisation, as learned ones might: no walk
    sees that. `beside`: a branch that reads the image as it is, and adds nothing.
    """
    contract = lookup.lookup_contract()
    contract["preprocessing"] |= preprocessing
    lookup.write_lookup_model(path, embeddings(), contract=contract)
    proto = onnx.load(path)
    kernel = np.zeros((6, 3, 3, 3), np.float32)
    kernel[range(6), [0, 1, 2] * 2, 1, 1] = np.tile(STD, 2)
    halves = np.tile(np.eye(3, dtype=np.float32) / 2, 2).reshape(3, 6, 1, 1)
    constants = {"kernel": kernel, "bias": np.tile(MEAN, 2), "halves": halves, "nothing": np.float32(0)}
    constants |= {"mean": MEAN.reshape(3, 1, 1), "std": STD.reshape(3, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["normalised", "kernel", "bias"], ["six"], pads=[1] * 4),
        helper.make_node("Conv", ["six", "halves"], ["three" if beside else "unit"]),
    ]
    if beside:
        nodes += [
            helper.make_node("ReduceMean", ["image"], ["level"], keepdims=1),
            helper.make_node("Mul", ["level", "nothing"], ["zero"]),
            helper.make_node("Add", ["three", "zero"], ["unit"]),
        ]
    if baked:
        nodes[:0] = [
            helper.make_node("Sub", ["image", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["normalised"]),
        ]
    else:
        nodes[0].input[0] = "image"
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    own = list(proto.graph.node)
    own[0].input[0] = "unit"
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *own])
    onnx.save(proto, path)
    return path


def ids(report: Report) -> set[str]:
    return {reason.id for reason in report.verdict.reasons}


NORMALISE = {"mean": MEAN.tolist(), "std": STD.tolist()}


@pytest.mark.parametrize(
    ("baked", "preprocessing", "reasons"),
    [
        (True, {}, set()),
        (False, NORMALISE, set()),
        (True, NORMALISE, {"normalised_twice"}),
        (True, {"rescale": 1.0}, {"unusual_pixels"}),
        (False, NORMALISE | {"rescale": 1.0}, {"unusual_pixels"}),
    ],
)
def test_a_model_that_passes_is_warn_with_pixels_scaled_twice_or_not_at_all(
    tmp_path: Path, photos_80: Path, baked: bool, preprocessing: dict[str, Any], reasons: set[str]
) -> None:
    path = model(tmp_path / "m.onnx", baked=baked, **preprocessing)
    report = check(path, images=photos_80)
    assert (report.verdict.verdict, ids(report) & {"normalised_twice", "unusual_pixels"}) == (
        "WARN" if reasons else "PASS",
        reasons,
    )
    before = inspect_model(path, profile.load()).can_pass
    assert {reason.id for reason in before.reasons} == reasons
    assert before.answer == ("no" if reasons else "yes")


def test_a_branch_beside_a_normalisation_hides_nothing(tmp_path: Path, photos_80: Path) -> None:
    sound = check(model(tmp_path / "sound.onnx", baked=True, beside=True), images=photos_80)
    assert (sound.verdict.verdict, ids(sound)) == ("PASS", set())
    facts = sound.evidence.model
    assert facts.scaling is not None
    assert [facts.scaling.ops, *(other.ops for other in facts.other_scalings)] == [("Sub", "Div"), ()]
    twice = check(model(tmp_path / "twice.onnx", baked=True, beside=True, **NORMALISE), images=photos_80)
    assert (twice.verdict.verdict, "normalised_twice" in ids(twice)) == ("WARN", True)


@pytest.mark.long
def test_a_real_model_with_its_normalisation_in_the_graph_too_has_no_other_reason(
    planted_outlier: Path, tmp_path: Path
) -> None:
    """Its planted feature outlives the doubled normalisation: every statistic clears its threshold."""
    proto = onnx.load(planted_outlier)
    (image,) = (value.name for value in proto.graph.input)
    for node in proto.graph.node:
        node.input[:] = ["normalised" if name == image else name for name in node.input]
    own = list(proto.graph.node)
    del proto.graph.node[:]
    constants = {"mean": np.array(127 / 255, np.float32), "std": np.array(128 / 255, np.float32)}
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    baked = [("Sub", [image, "mean"], ["centred"]), ("Div", ["centred", "std"], ["normalised"])]
    proto.graph.node.extend([*(helper.make_node(*node) for node in baked), *own])
    (contract,) = (prop for prop in proto.metadata_props if prop.key == CONTRACT_KEY)
    fields = json.loads(contract.value)
    fields.pop("graph_digest", None)  # of the tensors before: not what is asked here
    contract.value = json.dumps(fields)
    onnx.save(proto, tmp_path / "m.onnx")
    assert check(planted_outlier).verdict.verdict == "PASS"
    assert ids(check(tmp_path / "m.onnx")) == {"normalised_twice"}


def test_raw_bytes_are_said_and_are_no_reason(tmp_path: Path, photos_80: Path) -> None:
    path = lookup.write_lookup_model(tmp_path / "m.onnx", embeddings())
    assert not any("0 to 255" in note for note in check(path, images=photos_80).notes)
    raw = model(tmp_path / "raw.onnx", baked=False, rescale=1.0)
    report = check(raw, images=photos_80)
    assert any("0 to 255" in note for note in report.notes)
    assert not ids(report) & {"normalised_twice", "unusual_pixels"}


def test_what_was_measured_is_numpys_and_the_same_in_parts(tmp_path: Path, photos_80: Path) -> None:
    path = model(tmp_path / "m.onnx", baked=False, color_order="BGR", **NORMALISE)
    values = np.stack([np.asarray(Image.open(photo)) for photo in sorted(photos_80.iterdir())]).reshape(-1, 3) / 255.0
    values = ((values - MEAN) / STD)[:, ::-1]
    opened = measure.open_job(measuring.job(path, photos_80))
    facts, everything = measure.probe(opened), profile.load()
    (whole,) = conclude(opened.job, facts, measure.measure_images(opened), everything)
    assert whole.levels is not None
    assert whole.levels.mean == pytest.approx(values.mean(axis=0), rel=1e-5)
    assert whole.levels.sd == pytest.approx(values.std(axis=0), rel=1e-5)
    first, second, third = measuring.parts(opened, (0, 30), (30, 50), (50, N))
    for parts in (merge(merge(first, second), third), merge(third, merge(second, first))):
        assert conclude(opened.job, facts, parts, everything)[0].levels == whole.levels


@pytest.mark.parametrize(("divided_by", "reasons"), [(255, set()), (255**2, {"unusual_pixels"})])
def test_tensors_are_judged_by_what_they_hold(
    tmp_path: Path, photos_80: Path, divided_by: float, reasons: set[str]
) -> None:
    levels = np.stack([np.asarray(Image.open(photo)) for photo in sorted(photos_80.iterdir())]).transpose(0, 3, 1, 2)
    tensors = (levels / divided_by).astype(np.float32)
    np.save(tmp_path / "tensors.npy", tensors)
    # the contract's normalisation is in the graph too: not judged, since nothing was done to these pixels
    path = model(tmp_path / "m.onnx", baked=True, **NORMALISE)
    report = check(path, images=tmp_path / "tensors.npy", thresholds=measuring.never_decided())
    assert ids(report) & {"normalised_twice", "unusual_pixels"} == reasons
    assert report.evidence.levels is not None
    assert report.evidence.levels.sd == pytest.approx(tensors.std(axis=(0, 2, 3), dtype=np.float64), rel=1e-3)
