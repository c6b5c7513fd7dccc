"""int8 exports: what the file holds, on which photos its ranges rest, what is refused, and what the gate says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from PIL import Image

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.model.digest import graph_digest as checked_digest
from robustcheck_onnx.checker.model.file import read_onnx
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters import parity, quantize, write
from robustcheck_onnx.exporters.digest import graph_digest
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import run
from support import PHOTOS, lookup, onnx_models

BUNDLED = PHOTOS
PREPROCESSING = {
    "size": [8, 8],
    "resize_mode": "squash",
    "resize_size": [8, 8],
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}
Array = npt.NDArray[np.float32]


def with_contract(model: onnx.ModelProto, output: str, **changes: Any) -> onnx.ModelProto:
    text = json.dumps(lookup.lookup_contract(output=output) | {"preprocessing": PREPROCESSING} | changes)
    onnx.helper.set_model_props(model, {"robustcheck.contract": text})
    return model


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """Conv → ReLU → pooling → linear, as an fp32 file with a contract."""
    model = onnx_models.encoder(64, output="representation")
    return Path(onnx_models.save(with_contract(model, "representation"), tmp_path / "fp32.onnx"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """25 bundled photos, small; all but the first five lost half of their contrast."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for index, path in enumerate(BUNDLED[:25]):
        with Image.open(path) as opened:
            small = opened.convert("RGB").resize((32, 32))
        paths.append(folder / f"{index:02}.png")
        small.point(lambda level, whole=index < 5: level if whole else 64 + level // 2).save(paths[-1])
    return paths


def pixels(paths: list[Path]) -> Array:
    """The contract's preprocessing, written out."""
    squashed = [Image.open(path).resize((8, 8), Image.Resampling.BILINEAR) for path in paths]
    whole = np.stack([np.asarray(image, np.float32) for image in squashed])
    return ((whole / np.float32(255) - np.float32(0.5)) / np.float32(0.25)).transpose(0, 3, 1, 2)


def represent(path: Path, images: Array) -> Array:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["representation"], {"image": images})[0])


def made(encoder: Path, photos: list[Path], precision: str, **options: Any) -> write.ExportRecord:
    calibration = photos if precision == "int8-qdq" else []
    options = {"photos": photos[:5], "calibration": calibration} | options
    return run("onnx", str(encoder), encoder.with_name("int8.onnx"), precision=precision, **options)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------------- files


def contract_of(path: Path) -> dict[str, Any]:
    (prop,) = [p for p in onnx.load(path, load_external_data=False).metadata_props if p.key == lookup.CONTRACT_KEY]
    read: dict[str, Any] = json.loads(prop.value)
    return read


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-qdq"])
def test_the_file_holds_the_digest_of_its_own_graph_and_a_changed_file_is_not_quantised(
    encoder: Path, photos: list[Path], precision: str
) -> None:
    first = made(encoder, photos, precision)
    assert open_model(first.path).file_changed is False
    file = read_onnx(first.path)
    quantised = onnx.load(first.path, load_external_data=False)
    assert checked_digest(file.proto, file.weights) == graph_digest(quantised, first.path.parent)
    digest = graph_digest(onnx.load(encoder), encoder.parent)
    assert contract_of(first.path)["graph_digest"] != digest
    onnx.save(with_contract(onnx.load(encoder), "representation", graph_digest=digest), encoder)
    assert made(encoder, photos, precision).digest == first.digest
    model = onnx.load(encoder)
    changed = model.graph.initializer[0]
    changed.raw_data = bytes([changed.raw_data[0] ^ 1]) + changed.raw_data[1:]
    onnx.save(model, encoder)
    with pytest.raises(ExportError, match="graph or weights are not those that its contract was written for") as caught:
        made(encoder, photos, precision)
    assert caught.value.exit_code == 3
    (conv,) = [node for node in model.graph.node if node.op_type == "Conv"]
    changed.raw_data = bytes([changed.raw_data[0] ^ 1]) + changed.raw_data[1:]  # as it was
    conv.attribute.append(onnx.helper.make_attribute("strides", [2, 2]))
    onnx.save(model, encoder)
    with pytest.raises(ExportError, match="graph or weights are not those that its contract was written for"):
        made(encoder, photos, precision)


def test_what_a_model_was_matched_to_is_written_once(
    encoder: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = encoder.with_name("int8.onnx")
    words = ["export", "onnx", str(encoder), "--precision", "int8-dynamic", "-o", str(out)]
    assert cli.main([*words, "--parity-images", str(photos[0].parent), "--matched-to", "CLIP ViT-B/32"]) == 0
    assert contract_of(out)["source"]["matched_to"] == "CLIP ViT-B/32"
    source = lookup.lookup_contract(source={"matched_to": "CLIP ViT-B/32"})["source"]
    onnx.save(with_contract(onnx.load(encoder), "representation", source=source), encoder)
    assert contract_of(made(encoder, photos, "int8-dynamic").path)["source"] == source
    with pytest.raises(ExportError, match=r"--matched-to is none; the contract in .* says CLIP ViT-B/32") as caught:
        made(encoder, photos, "int8-dynamic", matched_to="none")
    assert caught.value.exit_code == 2
    for wrong in ("", "two\nlines", "x" * 201):
        with pytest.raises(ExportError, match="must be one line of 1 to 200 characters") as caught:
            made(encoder, photos, "int8-dynamic", matched_to=wrong)
        assert caught.value.exit_code == 2
    capsys.readouterr()


@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic", "int8-qdq"])
def test_the_file_keeps_the_contract_and_its_parity_is_what_it_says(
    encoder: Path, photos: list[Path], precision: str, capfd: pytest.CaptureFixture[str]
) -> None:
    record = made(encoder, photos, precision)
    assert capfd.readouterr() == ("", "")
    assert left(encoder.parent) == ["fp32.onnx", "int8.onnx"]
    before, after = (json.loads(onnx.load(path).metadata_props[0].value) for path in (encoder, record.path))
    assert after["precision"] == precision
    for entry in ("preprocessing", "tensors", "source", "schema_version"):
        assert after[entry] == before[entry]
    images = pixels(photos[:5])
    truth = represent(encoder, images).astype(np.float64)
    assert represent(record.path, images).dtype == np.float32
    apart, angles = [], []
    for n in (1, 2, 5):
        rows = represent(record.path, images[:n]).astype(np.float64)
        apart.append(np.abs(rows - truth[:n]).max())
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(truth[:n], axis=1)
        angles.append(((rows * truth[:n]).sum(axis=1) / norms).min())
    assert max(apart) > 0
    rtol = (
        2**-11 if precision == "fp16" else 1e-5
    )  # with other optimisers than the exporter's, float16 rounds otherwise
    np.testing.assert_allclose([record.parity.max_abs, record.parity.min_cosine], [max(apart), min(angles)], rtol=rtol)
    assert after["parity"]["min_cosine"] == record.parity.min_cosine
    opened = open_model(record.path)
    assert opened.precision == precision.partition("-")[0]
    assert (opened.contract is not None and opened.contract.precision) == precision


def test_ranges_are_those_of_the_calibration_photos_and_none_of_the_parity_photos(
    encoder: Path, photos: list[Path]
) -> None:
    """The input's scale is (max − min)/255 of the preprocessed photos; with the parity photos it would be larger."""
    record = made(encoder, photos, "int8-qdq")
    assert record.calibrated_on == 20
    graph = onnx.load(record.path).graph
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
    seen = pixels(photos[5:])
    span = max(float(seen.max()), 0.0) - min(float(seen.min()), 0.0)
    np.testing.assert_allclose(values[first.input[1]], span / 255, rtol=1e-5)
    everything = pixels(photos)
    assert everything.max() - min(float(everything.min()), 0.0) > 1.3 * span
    weights = {name: value for name, value in values.items() if value.dtype == np.int8 and value.ndim > 1}
    by_channel = values[next(node.input[1] for node in graph.node if node.input[0] in weights)]
    assert by_channel.shape == (24,)  # one scale for each of the convolution's channels
    whole = numpy_helper.to_array(next(w for w in onnx.load(encoder).graph.initializer if w.name == "conv.weight"))
    np.testing.assert_allclose(by_channel, np.abs(whole).max(axis=(1, 2, 3)) / 127, rtol=1e-5)


def test_dynamic_leaves_convolutions_on_the_image_as_they_are(encoder: Path, photos: list[Path]) -> None:
    record = made(encoder, photos, "int8-dynamic")
    ops = [node.op_type for node in onnx.load(record.path).graph.node]
    assert ("Conv" in ops, "ConvInteger" in ops, "MatMulInteger" in ops) == (True, False, True)
    assert record.calibrated_on == 0


def test_weights_beside_the_file_stay_beside_it(
    encoder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "INLINE_LIMIT_BYTES", 100)  # stands for 2 GB
    inside = made(encoder, photos, "int8-qdq", calibration=photos)
    rows = represent(inside.path, pixels(photos[:5]))
    assert left(encoder.parent) == ["fp32.onnx", "int8.onnx", "int8.onnx.data"]
    assert inside.data_path == encoder.with_name("int8.onnx.data")
    monkeypatch.undo()
    inside.data_path.unlink()
    one_file = made(encoder, photos, "int8-qdq")
    assert one_file.data_path is None
    np.testing.assert_array_equal(represent(one_file.path, pixels(photos[:5])), rows)


def test_a_source_with_weights_beside_it(encoder: Path, photos: list[Path]) -> None:
    whole = represent(made(encoder, photos, "int8-qdq").path, pixels(photos[:5]))
    onnx_models.save(onnx.load(encoder), encoder, external=True)
    np.testing.assert_array_equal(represent(made(encoder, photos, "int8-qdq").path, pixels(photos[:5])), whole)
    over = encoder.with_name("fp32.onnx.data")
    over.rename(encoder.with_name("other.onnx.data"))
    model = onnx.load(encoder, load_external_data=False)
    for weight in model.graph.initializer:
        next(entry for entry in weight.external_data if entry.key == "location").value = "other.onnx.data"
    onnx.save(model, encoder)
    with pytest.raises(ExportError, match="the file that is quantised, or its weights") as caught:
        run("onnx", str(encoder), encoder.with_name("other.onnx"), precision="int8-dynamic", photos=photos[:5])
    assert caught.value.exit_code == 2


# ------------------------------------------------------------------------------------------------- refusals


def spoilt(what: str, encoder: Path) -> None:
    """Change the fp32 file so that it can't be quantised."""
    model = onnx.load(encoder)
    if what == "no contract":
        del model.metadata_props[:]
    elif what == "contract no JSON":
        model.metadata_props[0].value = "{"
    elif what == "newer contract":
        with_contract(model, "representation", schema_version=2)
    elif what == "true contract":
        with_contract(model, "representation", schema_version=True)
    elif what == "fp16":
        with_contract(model, "representation", precision="fp16")
    elif what == "half weights":
        weight = next(w for w in model.graph.initializer if w.name == "proj")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), "proj"))
    elif what == "no layers":
        nodes, _ = onnx_models.pooled()
        nodes = [("Relu", ["image"], ["relu"]), nodes[2], ("Flatten", ["gap"], ["representation"])]
        model = with_contract(onnx_models.build(nodes, ["representation"]), "representation")
    elif what == "ruined":
        # a weight that meets only zeros sets the one scale of the matrix: all others are rounded away
        conv, proj = (next(w for w in model.graph.initializer if w.name == n) for n in ("conv.weight", "proj"))
        kernels, matrix = numpy_helper.to_array(conv).copy(), numpy_helper.to_array(proj).copy()
        kernels[0], matrix[0] = 0, 1e6
        conv.CopyFrom(numpy_helper.from_array(kernels, "conv.weight"))
        proj.CopyFrom(numpy_helper.from_array(matrix, "proj"))
    elif what == "no tensor":
        model.graph.output[0].name = model.graph.node[-1].output[0] = "embedding"
    if what == "no model":
        encoder.write_bytes(b"\x08\xff\xff no model")
    elif what == "missing":
        encoder.unlink()
    else:
        onnx.save(model, encoder)


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("missing", 2, "ONNX file is missing"),
        ("no model", 3, "file is no ONNX model"),
        ("no contract", 3, "contract is missing; to quantise it, robustcheck must know how photos become its input"),
        ("contract no JSON", 3, "contract is damaged (JSONDecodeError"),
        ("newer contract", 3, "contract breaks schema 1"),
        ("true contract", 3, "contract breaks schema 1"),
        ("fp16", 2, "precision is fp16; fp16 and int8 are made from an fp32 file"),
        ("half weights", 2, "precision is fp16; fp16 and int8 are made from an fp32 file"),
        ("no tensor", 3, "names the output representation, which the graph does not have"),
        ("no layers", 3, "number of layers that ONNX Runtime can quantise is 0"),
        ("ruined", 3, "disagrees with the source model"),
    ],
)
def test_files_that_are_refused_leave_nothing(
    encoder: Path,
    photos: list[Path],
    what: str,
    code: int,
    said: str,
) -> None:
    spoilt(what, encoder)
    before = left(encoder.parent)
    with pytest.raises(ExportError) as caught:
        made(encoder, photos, "int8-dynamic")
    assert said in caught.value.message
    assert (caught.value.exit_code, bool(caught.value.hint)) == (code, True)
    assert left(encoder.parent) == before


def test_photos_that_preprocessing_leaves_in_several_sizes_make_no_batch(
    lookup_pass: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"preprocessing leaves photos in \d sizes; parity is measured on batches"):
        run("onnx", str(lookup_pass[0]), tmp_path / "int8.onnx", precision="int8-dynamic", photos=BUNDLED[:5])
    assert not list(tmp_path.iterdir())


def test_an_int8_file_is_not_quantised_again(encoder: Path, photos: list[Path]) -> None:
    record = made(encoder, photos, "int8-qdq")
    with pytest.raises(ExportError, match="precision is int8-qdq; fp16 and int8 are made from an fp32 file"):
        run("onnx", str(record.path), encoder.with_name("b.onnx"), precision="int8-dynamic", photos=photos[:5])


@pytest.mark.parametrize(
    ("words", "code", "said", "hint"),
    [
        (["--precision", "int8-static"], 2, "precision is int8-static; it must be one of fp32", "--precision int8-"),
        (["--precision", "fp16,int8-qdq"], 2, "precision is fp16,int8-qdq", "--precision int8-qdq"),
        ([], 2, "an ONNX file is made smaller: fp16, int8-dynamic, int8-qdq", "--precision int8-qdq"),
        (
            ["--precision", "int8-qdq", "--weights", "w.pt"],
            2,
            "--weights is given; an ONNX file has its",
            "export onnx",
        ),
        (["--precision", "int8-qdq", "--calibration-images", "nowhere"], 2, "nowhere", ""),
        (["--precision", "int8-qdq", "--calibration-images", "FEW"], 2, "number of calibration photos is 10", "--cal"),
        (["--precision", "int8-dynamic", "--calibration-images", "FEW"], 2, "only int8-qdq uses them", "int8-qdq"),
        (["--precision", "int8-qdq", "--calibration-images", "BROKEN"], 2, "calibration photo is unreadable", "ls -l"),
        (["--precision", "int8-qdq", "-o", "fp32.onnx"], 2, "target is the file that is quantised", "fp32-int8.onnx"),
    ],
)
def test_calls_that_are_refused(
    encoder: Path,
    photos: list[Path],
    words: list[str],
    code: int,
    said: str,
    hint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = encoder.parent
    monkeypatch.chdir(folder)
    for name, chosen in (("FEW", photos[:10]), ("BROKEN", photos[:20])):
        (folder / name).mkdir()
        for path in chosen:
            (folder / name / path.name).write_bytes(path.read_bytes())
    (folder / "BROKEN" / "00.png").write_bytes(photos[0].read_bytes()[:60])
    target = [] if "-o" in words else ["-o", "int8.onnx"]
    before = left(folder), encoder.read_bytes()
    assert cli.main(["export", "onnx", "fp32.onnx", *target, *words]) == code
    streams = capsys.readouterr()
    assert streams.out == ""
    assert said in " ".join(streams.err.split())
    assert hint in streams.err
    assert (left(folder), encoder.read_bytes()) == before


def test_ranges_from_other_photos_than_the_model_will_see_are_refused(encoder: Path, photos: list[Path]) -> None:
    """Where every calibration photo is dark, nothing brighter than grey is left of the others."""
    dark = []
    for path in photos[5:]:
        dark.append(encoder.parent / path.name)
        Image.open(path).point(lambda level: level // 3).save(dark[-1])
    with pytest.raises(ExportError, match="disagrees with the source model") as caught:
        made(encoder, photos, "int8-qdq", calibration=dark)
    assert "--calibration-images" in caught.value.hint
    assert not encoder.with_name("int8.onnx").exists()


def test_no_more_calibration_photos_than_the_limit() -> None:
    paths = [Path(f"{index}.jpg") for index in range(quantize.CALIBRATION_PHOTOS + 40)]
    chosen = quantize.calibration_photos("int8-qdq", paths, paths[:8])
    assert chosen == paths[parity.PHOTOS :][: quantize.CALIBRATION_PHOTOS]


# -------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-qdq"])
def test_a_relu_that_the_quantiser_took_out_is_still_seen(encoder: Path, photos: list[Path], precision: str) -> None:
    """A linear map of rectified features is not calibrated; quantised statically, its ReLU is only a zero point."""
    assert str(open_model(encoder).representation.ends_in) == "linear_of:Relu"
    record = made(encoder, photos, precision)
    ops = [node.op_type for node in onnx.load(record.path).graph.node]
    assert ("Relu" in ops) == (precision == "int8-dynamic")
    seen = {"int8-dynamic": "linear_of:Relu", "int8-qdq": "linear_of:QuantizeLinear"}
    assert str(open_model(record.path).representation.ends_in) == seen[precision]


def signed(folder: Path) -> Path:
    """Attention between ReLU and the last layer: the representation is no function of the rectified features alone."""
    nodes, weights = onnx_models.pooled()
    nodes += [
        ("MatMul", ["features", "mix"], ["mixed"]),
        ("Unsqueeze", ["mixed", "last"], ["column"]),
        ("Unsqueeze", ["features", "middle"], ["row"]),
        ("MatMul", ["column", "row"], ["outer"]),
        ("ReduceMean", ["outer", "last"], ["signed"], {"keepdims": 0}),
        ("MatMul", ["signed", "w"], ["representation"]),
    ]
    weights |= {"mix": onnx_models.weight(16, 16), "w": onnx_models.weight(16, 12)}
    weights |= {"last": np.array([2]), "middle": np.array([1])}
    output = ("representation", onnx.TensorProto.FLOAT, ("batch", 12))
    model = with_contract(onnx_models.build(nodes, [output], weights), "representation")
    return Path(onnx_models.save(model, folder / "signed.onnx"))


def test_signed_features_stay_signed(
    tmp_path: Path,
    photos: list[Path],
) -> None:
    path = signed(tmp_path)
    ends_in = open_model(path).representation.ends_in
    assert str(ends_in) == "linear"
    record = run("onnx", str(path), tmp_path / "q.onnx", precision="int8-qdq", photos=photos[:5], calibration=photos)
    assert open_model(record.path).representation.ends_in == ends_in


# ------------------------------------------------------------------------------------------------- the gate


@pytest.mark.long
def test_real_weights_end_to_end(planted_outlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The planted demo passes in fp32. Both int8 forms keep its feature, and WARN for what they are.

    Dynamically, the result depends on the batch. Statically, the graph shows that attention pools rectified features,
    which the fp32 graph does not: the pooled tokens have no negative values.
    """
    (tmp_path / "photos").mkdir()
    for path in BUNDLED[-24:]:
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    folder = str(tmp_path / "photos")
    for precision, words, reason in (
        ("int8-qdq", ["--calibration-images", folder], "end_not_calibrated"),
        ("int8-dynamic", [], "batch_dependent"),
    ):
        out = tmp_path / f"{precision}.onnx"
        assert cli.main(["export", "onnx", str(planted_outlier), "--precision", precision, *words, "-o", str(out)]) == 0
        shown = capsys.readouterr().out
        assert f"{precision}, outputs representation" in shown
        assert (f"photos ({folder})" in shown) == (precision == "int8-qdq")
        call = ["compare", str(out), str(planted_outlier), "--max-images", "50", "--device", "cpu", "-o", "json", "-qq"]
        assert cli.main(call) == 1
        report = json.loads(capsys.readouterr().out)
        assert [entry["id"] for entry in report["verdict"]["reasons"]] == [reason]
        assert [(feature["index"], feature["fate"]) for feature in report["features"]] == [(92, "kept")]
        assert report["reference"]["verdict"]["verdict"] == "PASS"
    # one image at a time, the dynamic form has a verdict, which says what it holds for
    assert cli.main([*call, "--batch-size", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert any(
        note.startswith("Of the candidate: The verdict holds for batches of one image") for note in report["notes"]
    )
