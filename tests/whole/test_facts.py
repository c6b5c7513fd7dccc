"""What a file says of itself and what it computes: contract and digest, pixels, scales of a run, in whole checks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.evidence import IMAGENET
from robustcheck_onnx.checker.inspection import inspect_model
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.exporters.contract import embed
from robustcheck_onnx.thresholds import profile
from support import Capture, Fields, Place, flip, lookup, measuring, normal, onnx_models, robustcheck
from support.comparisons import Workshop, planted


def seal(path: Path, *, external: bool = False, **source: str) -> Path:
    """Write the contract of a look-up model into it anew, as an export does: the file has the bytes of its export."""
    onnx.save(onnx.load(path), path, save_as_external_data=external, location="model.data")
    model = onnx.load(path, load_external_data=False)
    embed(model, lookup.lookup_contract(source=dict(source)), path.parent)
    onnx.save(model, path)
    return path


def checked(path: Path, photos: Path, capsys: Capture) -> tuple[int, set[str], Fields]:
    """The exit code, the reasons, and what the report says of the model."""
    code = robustcheck(path, "--images", photos, "--device", "cpu", "-o", "json")
    report = json.loads(capsys.readouterr().out)
    return code, {reason["id"] for reason in report["verdict"]["reasons"]}, report["evidence"]["model"]


def can_pass(path: Path, capsys: Capture) -> tuple[str, list[str]]:
    assert robustcheck("inspect", path, "-o", "json") == 0
    answer = json.loads(capsys.readouterr().out)["can_pass"]
    return answer["answer"], [reason["id"] for reason in answer["reasons"]]


def test_a_constant_behind_the_end_is_warn(workshop: Workshop, capsys: Capture) -> None:
    """Noise: WARN. One more vector added to it makes an outlier feature of all images, and clears all else."""
    path = seal(workshop.model("model", normal(80, 384)))
    model = onnx.load(path)
    model.doc_string = model.graph.node[0].name = "reviewed"  # words, and nothing that counts
    onnx.save(model, path)
    code, reasons, facts = checked(path, workshop.photos, capsys)
    assert (code, facts["file_changed"], "not_persistent" in reasons) == (1, False, True)
    model.graph.node[-1].output[0] = "before"
    nodes = onnx_models.graph(f"more = Constant(value_floats={[0.0] * 7 + [14.0] + [0.0] * 376})")
    more = onnx_models.build([*nodes, ("Add", ["before", "more"], ["representation"])], [])
    model.graph.node.extend(more.graph.node)
    onnx.save(model, path)
    assert checked(path, workshop.photos, capsys)[:2] == (1, {"file_changed"})


def test_one_changed_byte_of_a_weight_and_vectors_that_were_matched_are_warn(
    workshop: Workshop, capsys: Capture
) -> None:
    """A model that was trained to match vectors, too."""
    for external, matched_to, ids in ((False, "none", []), (True, "none", []), (False, "CLIP", ["trained_to_match"])):
        path = seal(workshop.model("model", planted()), external=external, matched_to=matched_to)
        code, reasons, facts = checked(path, workshop.photos, capsys)
        assert (code, reasons) == (len(ids), {*ids})
        assert (facts["file_changed"], facts["matched_to"]) == (False, matched_to)
        assert can_pass(path, capsys) == ("no" if ids else "yes", ids)
        file = path.with_name("model.data") if external else path
        # the last bit of a number: the verdict of the numbers stays
        flip(file, file.read_bytes().index(planted().astype(np.float32).tobytes()))
        assert checked(path, workshop.photos, capsys)[:2] == (1, {"file_changed", *ids})
        assert can_pass(path, capsys) == ("no", ["file_changed", *ids])
    assert robustcheck("inspect", path, "-v") == 0
    assert "trained to match: CLIP" in " ".join(capsys.readouterr().out.split())


MEAN, STD = np.array(IMAGENET.mean, np.float32), np.array(IMAGENET.std, np.float32)


def model(path: Path, *, baked: bool, **preprocessing: Any) -> Path:
    """A look-up model of photos in 0–1; `baked`: its graph normalises them first.

    Its first two layers, with six outputs between them, undo ImageNet's normalisation, as learned ones might: no walk
    sees that.
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
        "six = Conv(normalised, kernel, bias, pads=[1, 1, 1, 1]); unit = Conv(six, halves)",
    ]
    return lookup.write_lookup_model(path, lookup.passing_rows(), contract=contract, before="\n".join(nodes), **weights)


NORMALISE = {"mean": MEAN.tolist(), "std": STD.tolist()}


def ids(report: Report) -> list[str]:
    return [reason.id for reason in report.verdict.reasons]


def told(report: Report) -> set[str]:
    return {*ids(report)} & {"normalised_twice", "unusual_pixels"}


def test_a_model_that_passes_is_warn_with_pixels_scaled_twice_or_not_at_all(tmp_path: Path, photos_80: Path) -> None:
    cases: list[tuple[bool, Fields, set[str]]] = [
        (True, {}, set()), (False, NORMALISE, set()), (True, NORMALISE, {"normalised_twice"}),
        (True, {"rescale": 1.0}, {"unusual_pixels"}), (False, NORMALISE | {"rescale": 1.0}, {"unusual_pixels"}),
    ]  # fmt: skip
    for baked, preprocessing, reasons in cases:
        path = model(tmp_path / "m.onnx", baked=baked, **preprocessing)
        report = check(path, images=photos_80)
        assert (told(report), report.passed) == (reasons, not reasons)
        answer = inspect_model(path, profile.load()).can_pass
        assert ({reason.id for reason in answer.reasons}, answer.answer) == (reasons, "no" if reasons else "yes")


def test_tensors_are_judged_by_what_they_hold(tmp_path: Path, photos_80: Path) -> None:
    # the contract's normalisation is in the graph too: not judged, since nothing was done to these pixels
    path = model(tmp_path / "m.onnx", baked=True, **NORMALISE)
    levels = np.stack([np.asarray(Image.open(photo)) for photo in sorted(photos_80.iterdir())]).transpose(0, 3, 1, 2)
    for divided_by, reasons in ((255, set[str]()), (255**2, {"unusual_pixels"})):
        np.save(tmp_path / "tensors.npy", (levels / divided_by).astype(np.float32))
        report = check(path, images=tmp_path / "tensors.npy", thresholds=measuring.never_decided())
        assert told(report) == reasons


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


def run(place: Path, batch_size: int, name: str = "model.onnx") -> Report:
    return check(place / name, images=place / "photos", device="cpu", batch_size=batch_size)


def test_in_batches_it_depends_on_them_and_alone_the_verdict_holds_for_one_image(place: Path) -> None:
    together, alone = run(place, 32), run(place, 1)
    assert ids(together) == ["batch_dependent"]
    assert "`--batch-size 1`" in together.verdict.reasons[0].next_step
    assert not any(note.startswith(HOLDS) for note in together.notes)
    assert alone.passed
    model = alone.evidence.model
    assert 0.05 < (model.batch_difference or 0) == together.evidence.model.batch_difference
    assert any(note.startswith(HOLDS) for note in alone.notes)
    assert "Change with the batch, scales fixed" in alone.to_html()


def test_what_else_mixes_the_batch_stays_a_warning_at_any_size(place: Path) -> None:
    for batch_size in (1, 32):
        report = run(place, batch_size, "mixed.onnx")
        assert "batch_dependent" in ids(report)
        assert not any(note.startswith(HOLDS) for note in report.notes)
        seen = "".join(reason.seen for reason in report.verdict.reasons)
        assert ("though the scales of its quantisers were held fixed" in seen) == (batch_size == 1)
