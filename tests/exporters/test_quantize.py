"""int8 exports: what the file holds, on which photos its ranges rest, what is refused, and what the gate says of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import numpy_helper
from PIL import Image

from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters import ExportError, contract, files
from support import PHOTOS, Capture, Patch, lookup, onnx_models, raised, robustcheck
from support.onnx_models import written
from support.torch_models import contract_of, exported, images_of, left_in, outputs_of, refused

PREPROCESSING = {"size": [8, 8], "resize_mode": "squash", "resize_size": [8, 8], "interpolation": "bilinear"}
PREPROCESSING |= {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
Array = npt.NDArray[np.float32]
Made = Callable[..., files.ExportRecord]


def with_contract(model: onnx.ModelProto, **changes: Any) -> onnx.ModelProto:
    text = json.dumps(lookup.lookup_contract() | {"preprocessing": PREPROCESSING} | changes)
    onnx.helper.set_model_props(model, {"robustcheck.contract": text})
    return model


@pytest.fixture
def encoder(my_vision: str) -> Path:
    """Conv → ReLU → pooling → linear, as an fp32 file with a contract."""
    model = onnx_models.encoder(64, output="representation")
    return onnx_models.save(with_contract(model), "fp32.onnx")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """25 bundled photos, small; all but the first five lost half of their contrast."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{index:02}.png" for index in range(25)]
    for index, path in enumerate(paths):
        small = Image.open(PHOTOS[index]).convert("RGB").resize((32, 32))
        small.point(lambda level, whole=index < 5: level if whole else 64 + level // 2).save(path)
    return paths


def pixels(paths: list[Path]) -> Array:
    return np.asarray(images_of(paths, contract.checked_preprocessing(PREPROCESSING, "photos")))


def represent(path: Path, images: Array) -> Array:
    return np.asarray(outputs_of(path, images)["representation"])


@pytest.fixture
def made(encoder: Path, photos: list[Path]) -> Made:
    """Quantise the fp32 file to int8.onnx."""

    def quantised(precision: str, source: Path = encoder, **options: Any) -> files.ExportRecord:
        calibration = photos if precision == "int8-qdq" else []
        options = {"precision": precision, "photos": photos[:5], "calibration": calibration} | options
        return exported("onnx", str(source), "int8.onnx", **options)

    return quantised


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("precision", contract.INT8)
def test_the_file_holds_the_digest_of_its_own_graph_and_a_changed_file_is_not_quantised(
    encoder: Path, made: Made, precision: str
) -> None:
    path = made(precision).path
    first, model = path.read_bytes(), onnx.load(encoder)
    assert open_model(path).file_changed is False
    assert contract_of(path)["graph_digest"] == contract.graph_digest(onnx.load(path), Path())
    contract.embed(model, contract_of(encoder), Path())
    whole, weight = model.SerializeToString(), model.graph.initializer[0].raw_data
    encoder.write_bytes(whole)
    assert made(precision).path.read_bytes() == first
    for old, new in ((weight, bytes([weight[0] ^ 1]) + weight[1:]), (b"Relu", b"Selu")):
        encoder.write_bytes(whole.replace(old, new, 1))
        with refused(3, "graph or weights are not those that its contract was written for"):
            made(precision)


@pytest.mark.usefixtures("capsys")
def test_what_a_model_was_matched_to_is_written_once(encoder: Path, made: Made, photos: list[Path]) -> None:
    out, matched = Path("int8.onnx"), "CLIP ViT-B/32"
    words = ["export", "onnx", encoder, "--precision", "int8-dynamic", "-o", out]
    assert robustcheck(*words, "--parity-images", photos[0].parent, "--matched-to", matched) == 0
    assert contract_of(out)["source"]["matched_to"] == matched
    source = lookup.lookup_contract(source={"matched_to": matched})["source"]
    onnx.save(with_contract(onnx.load(encoder), source=source), encoder)
    assert contract_of(made("int8-dynamic").path)["source"] == source
    for wrong in ("none", "", "two\nlines", "x" * 201):
        with refused(2, "contract in .* says CLIP ViT-B/32" if wrong == "none" else "one line of 1 to 200 characters"):
            made("int8-dynamic", matched_to=wrong)


@pytest.mark.parametrize("precision", contract.INT8)
def test_the_file_keeps_the_contract_and_its_parity_is_what_it_says(
    encoder: Path, made: Made, photos: list[Path], precision: str, capfd: Capture
) -> None:
    record = made(precision)
    assert capfd.readouterr() == ("", "")
    assert left_in() == ["fp32.onnx", "int8.onnx"]
    before, after = contract_of(encoder), contract_of(record.path)
    parity, images = after.pop("parity"), pixels(photos[:5])
    assert {name for name in after if after[name] != before.get(name)} == {"precision", "versions", "graph_digest"}
    truth = represent(encoder, images)
    seen = [files.agreement(truth[:n], represent(record.path, images[:n])) for n in (1, 2, 5)]
    worst = [max(each.max_abs for each in seen), min(each.min_cosine for each in seen)]
    assert worst[0] > 0
    assert_allclose([record.parity.max_abs, record.parity.min_cosine], worst, rtol=1e-5)
    assert parity["min_cosine"] == record.parity.min_cosine
    assert (open_model(record.path).precision, after["precision"]) == ("int8", precision)


def test_ranges_are_those_of_the_calibration_photos_and_none_of_the_parity_photos(
    made: Made, photos: list[Path]
) -> None:
    """The input's scale is (max − min)/255 of the preprocessed photos; with the parity photos it would be larger."""
    record = made("int8-qdq")
    assert record.calibrated_on == 20
    graph = onnx.load(record.path).graph
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
    span, wider = (max(seen.max(), 0) - min(seen.min(), 0) for seen in (pixels(photos[5:]), pixels(photos)))
    assert_allclose(values[first.input[1]], span / 255, rtol=1e-5)
    assert wider > 1.3 * span
    kernels = next(node for node in graph.node if getattr(values.get(node.input[0]), "shape", ()) == (24, 3, 3, 3))
    whole = onnx_models.weight(24, 3, 3, 3)  # one scale for each of the convolution's channels
    assert_allclose(values[kernels.input[1]], np.abs(whole).max(axis=(1, 2, 3)) / 127, rtol=1e-5)


def test_weights_beside_the_file_stay_beside_it_and_are_read(
    encoder: Path, made: Made, photos: list[Path], monkeypatch: Patch
) -> None:
    path = made("int8-qdq").path
    whole, rows = path.read_bytes(), represent(path, pixels(photos[:5]))
    with monkeypatch.context() as changed:
        changed.setattr(files, "INLINE_LIMIT_BYTES", 100)  # stands for 2 GB
        made("int8-qdq")
    data = path.with_name("int8.onnx.data")
    assert left_in() == ["fp32.onnx", path.name, data.name]
    assert_array_equal(represent(path, pixels(photos[:5])), rows)
    onnx.save(onnx.load(encoder), encoder, save_as_external_data=True, location="other.onnx.data", size_threshold=0)
    assert made("int8-qdq").path.read_bytes() == whole
    with refused(2, "the file that is quantised, or its weights"):
        exported("onnx", "fp32.onnx", "other.onnx", precision="int8-dynamic")


# ------------------------------------------------------------------------------------------------- refusals


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    weight = model.graph.initializer[-1]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    return model


def ruined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A weight that meets only zeros sets the one scale of the matrix: all others are rounded away."""
    for weight, value in zip(model.graph.initializer, (0, 1e6), strict=True):
        changed = numpy_helper.to_array(weight).copy()
        changed[0] = value
        weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    return model


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "embedding"
    return model


NO_LAYERS = "relu = Relu(image); gap = GlobalAveragePool(relu); representation = Flatten(gap)"
SPOILT: list[tuple[Callable[[onnx.ModelProto], Any], int, str]] = [
    (lambda _: None, 2, "ONNX file is missing"),
    (lambda _: b"\x08\xff\xff no model", 3, "file is not an ONNX model"),
    (lambda m: onnx.ModelProto(graph=m.graph), 3, "contract is missing; to quantise it, robustcheck must know how"),
    (lambda m: m.SerializeToString().replace(b'{"', b"  "), 3, "contract is damaged (JSONDecodeError"),
    (lambda m: with_contract(m, schema_version=True), 3, "contract does not match schema 1"),
    (lambda m: with_contract(m, precision="fp16"), 2, "precision is fp16; fp16 and int8 are made from an fp32 file"),
    (halved, 2, "precision is fp16; fp16 and int8 are made from an fp32 file"),
    (renamed, 3, "names the output representation, which the graph does not have"),
    (lambda _: with_contract(written(NO_LAYERS, before="")), 3, "number of layers that ONNX Runtime can quantise is 0"),
    (ruined, 3, "disagrees with the source model"),
]


def test_files_that_are_refused_leave_nothing(encoder: Path, made: Made) -> None:
    whole = encoder.read_bytes()
    for spoil, code, said in SPOILT:
        spoilt = spoil(onnx.load_from_string(whole))
        encoder.write_bytes(spoilt if isinstance(spoilt, bytes) else (spoilt or onnx.ModelProto()).SerializeToString())
        if spoilt is None:
            encoder.unlink()
        before = left_in()
        caught = raised(ExportError, re.escape(said), made, "int8-dynamic")
        assert (caught.exit_code, bool(caught.hint), left_in()) == (code, True, before)


def test_ranges_from_other_photos_than_the_model_will_see_are_refused(made: Made, photos: list[Path]) -> None:
    """Where every calibration photo is dark, nothing brighter than grey is left of the others."""
    dark = [Path(path.name) for path in photos[5:]]
    for path in dark:
        Image.open(photos[0].parent / path.name).point(lambda level: level // 3).save(path)
    caught = raised(ExportError, "disagrees with the source model", made, "int8-qdq", calibration=dark)
    assert "--calibration-images" in caught.hint
    assert not Path("int8.onnx").exists()


def test_no_more_calibration_photos_than_the_limit() -> None:
    paths = [Path(f"{index}.jpg") for index in range(files.CALIBRATION_PHOTOS + 40)]
    chosen = files.calibration_photos("int8-qdq", paths, paths[:8])
    assert chosen == paths[files.PARITY_PHOTOS :][: files.CALIBRATION_PHOTOS]


# -------------------------------------------------------------------------------------------------- reading


def test_a_relu_that_the_quantiser_took_out_is_still_seen(encoder: Path, made: Made) -> None:
    """A linear map of rectified features is not calibrated; quantised statically, its ReLU is only a zero point.

    Dynamically, convolutions on the image stay as they are.
    """
    assert str(open_model(encoder).representation.ends_in) == "linear_of:Relu"
    for precision, n, kept, gone, end in (
        ("int8-dynamic", 0, {"Conv", "MatMulInteger", "Relu"}, "ConvInteger", "Relu"),
        ("int8-qdq", 20, {"Conv", "QuantizeLinear"}, "Relu", "QuantizeLinear"),
    ):
        record = made(precision)
        ops = {node.op_type for node in onnx.load(record.path).graph.node}
        assert (kept - ops, gone in ops, record.calibrated_on) == (set(), False, n)
        assert str(open_model(record.path).representation.ends_in) == f"linear_of:{end}"


def test_signed_features_stay_signed(made: Made) -> None:
    """With attention before the last layer, the representation is not a function of rectified features alone."""
    model = written("""
        mixed = MatMul(features, w16x16); column = Unsqueeze(mixed, [2]); row = Unsqueeze(features, [1])
        outer = MatMul(column, row); signed = ReduceMean(outer, [2], keepdims=0)
        representation = MatMul(signed, w16x12)
    """)
    path = onnx_models.save(with_contract(model), "signed.onnx")
    assert str(open_model(made("int8-qdq", path).path).representation.ends_in) == "linear"


# ------------------------------------------------------------------------------------------------- the gate


@pytest.mark.long
def test_real_weights_end_to_end(planted_outlier: Path, tmp_path: Path, capsys: Capture) -> None:
    """The planted demo passes in fp32. Both int8 forms keep its feature, and WARN for what they are.

    Dynamically, the result depends on the batch. Statically, the graph shows that attention pools rectified features,
    which the fp32 graph does not: the pooled tokens have no negative values.
    """
    folder = PHOTOS[0].parent
    for precision, words, reason in (
        ("int8-qdq", ["--calibration-images", folder], "end_not_calibrated"),
        ("int8-dynamic", [], "batch_dependent"),
    ):
        out = tmp_path / f"{precision}.onnx"
        assert robustcheck("export", "onnx", planted_outlier, "--precision", precision, *words, "-o", out) == 0
        assert f"{precision}, outputs representation" in capsys.readouterr().out
        call = ["compare", out, planted_outlier, "--max-images", "50", "--device", "cpu", "-o", "json", "-qq"]
        assert robustcheck(*call) == 1
        report = json.loads(capsys.readouterr().out)
        assert [entry["id"] for entry in report["verdict"]["reasons"]] == [reason]
        assert [(feature["index"], feature["fate"]) for feature in report["features"]] == [(92, "kept")]
        assert report["reference"]["verdict"]["verdict"] == "PASS"
    # one image at a time, the dynamic form has a verdict, which says what it holds for
    assert robustcheck(*call, "--batch-size", "1") == 0
    assert "Of the candidate: The verdict holds for batches of one image" in capsys.readouterr().out
