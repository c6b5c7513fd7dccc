"""Exports of the user's own torch code, and int8 forms: parity, what the file holds, on which photos its ranges rest,
what is refused, and the files: all or nothing, and nothing printed.
"""

import importlib
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from onnx import numpy_helper
from PIL import Image

from robustcheck_onnx.checker.core.model.file import read_onnx
from robustcheck_onnx.checker.core.model.int8 import saturating_pairs
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.runtime.devices import int8_sums
from robustcheck_onnx.exporters import ExportError, contract, delivery, quiet, run
from robustcheck_onnx.exporters.delivery import ExportRecord
from robustcheck_onnx.exporters.digests import file_digest, graph_digest
from robustcheck_onnx.exporters.forms import FORMS
from robustcheck_onnx.exporters.photos import CALIBRATION_PHOTOS, PARITY_PHOTOS, quantisation_plan
from robustcheck_onnx.exporters.preprocessing import checked_preprocessing, preprocess
from robustcheck_onnx.exporters.proof import TOLERANCES, agreement
from support import PATIENCE_S, PHOTOS, Capture, Fields, Patch, lookup, onnx_models, raised, robustcheck
from support.onnx_models import written
from support.torch_models import (
    contract_of,
    exported,
    images_of,
    left_in,
    outputs_of,
    pixels,
    refused,
    represent,
    torch,
    with_contract,
)

pytestmark = pytest.mark.usefixtures("my_vision")


def test_agreement_against_closed_forms() -> None:
    a = np.array([[3, 4, 0], [0, 0, 0]], np.float32)
    b = np.array([[3, 4, 5], [0, 0, 0]], np.float32)
    assert_allclose(agreement(a, b), (5, 5 / np.sqrt(25 / 3), 25 / (5 * np.sqrt(50))))
    assert (agreement(a, a), agreement(a[1:], b[:1]).max_rel) == ((0, 0, 1), np.inf)
    for wrong in (np.zeros((2, 4)), np.full((2, 3), np.nan)):
        raised(ValueError, r"shapes are|not finite", agreement, a, wrong.astype(np.float32))


def test_agreement_is_not_hidden_by_an_outlier_feature() -> None:
    """A feature at 100 SD would make a difference of one SD elsewhere look like 1 % of the maximum."""
    a = default_rng(0).standard_normal((4, 512)).astype(np.float32)
    a[:, 7] = 100
    b = a.copy()
    b[:, 8] += 1
    assert agreement(a, b).max_rel > 100 * TOLERANCES["fp32"].max_rel


@pytest.mark.long
def test_failed_export_keeps_the_earlier_file_and_leaves_nothing(monkeypatch: Patch) -> None:
    Path("m.onnx").write_bytes(b"earlier")
    said = "m.onnx: output representation at batch 2 disagrees with the source model"
    for factory, code in (("batch_statistics", 3), ("encoder", 4)):
        with refused(code, said):
            exported("torch", f"my_vision:{factory}")
        assert (left_in(), Path("m.onnx").read_bytes()) == (["m.onnx"], b"earlier")
        monkeypatch.setattr(delivery, "_put_in_place", Mock(side_effect=OSError(28, said := "No space left on device")))
    monkeypatch.setattr(delivery, "_put_in_place", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        exported("torch", "my_vision:encoder")
    assert (left_in(), Path("m.onnx").read_bytes()) == (["m.onnx"], b"earlier")


@pytest.mark.long
def test_weights_beside_a_big_model(monkeypatch: Patch) -> None:
    monkeypatch.setattr(delivery, "INLINE_LIMIT_BYTES", 1000)  # stands for 2 GB
    record = exported("torch", "my_vision:encoder")
    assert left_in() == ["m.onnx", "m.onnx.data"]
    assert record.size_bytes == sum(path.stat().st_size for path in Path().glob("m.onnx*"))
    outputs = outputs_of(record.path, np.zeros((3, 3, 32, 32), np.float32))
    assert outputs["representation"].shape == (3, 5)


@pytest.mark.long
def test_half_precision() -> None:
    """float16 weights inside, float32 outside; close to the float32 model, and not equal to it."""
    rows = []
    for precision in ("fp32", "fp16"):
        record = exported("torch", "my_vision:dictionary", precision=precision)
        read = contract_of(record.path)
        rows.append(outputs_of(record.path, images_of(PHOTOS[:5], read["preprocessing"]))["representation"])
    assert read["precision"] == "fp16"
    assert 1e-6 < record.parity.max_rel < TOLERANCES["fp16"].max_rel
    kinds = {t.data_type for t in onnx.load(record.path).graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in kinds, onnx.TensorProto.FLOAT in kinds) == (True, False)
    assert rows[1].dtype == np.float32
    assert_allclose(rows[1], rows[0], rtol=0, atol=2e-2 * np.abs(rows[0]).max())
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.long
def test_a_size_the_model_cannot_run_at() -> None:
    size = {"size": [31, 31], "resize_mode": "squash", "resize_size": [31, 31], "interpolation": "bicubic"}
    for source, name in (("timm", "test_vit"), ("torchvision", "vit_b_32")):
        with refused(3, r"model cannot run on \[31, 31\] px input"):
            exported(source, name, random_weights=True, preprocessing=size)
        assert left_in() == []


FIELDS = {"size": [32, 32], "resize_mode": "shortest", "resize_size": [32, 32], "interpolation": "bicubic"}
STD = [0.2, 0.3, 0.4]


def loaded(**change: Any) -> Any:
    """A model whose library gives the contract's pixels but for one value, by some grey levels."""
    fields = checked_preprocessing(FIELDS | {"std": STD, **change.pop("fields", {})}, "m")

    def transform(image: Image.Image) -> Any:
        theirs = preprocess(fields, image)
        channel = change.get("channel", 0)
        theirs[channel, 3, 4] += change["levels"] / 255 / change["std"]
        return SimpleNamespace(numpy=lambda: theirs[..., : change.get("width", 32)])

    return SimpleNamespace(preprocessing=fields, transform=transform, source=SimpleNamespace(name="m"))


@pytest.fixture
def uneven(tmp_path: Path) -> list[Path]:
    random = default_rng(4)
    paths = [tmp_path / f"{i}.png" for i in range(PARITY_PHOTOS + 1)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return paths


def test_the_contracts_pixels_are_at_most_a_grey_level_from_the_librarys(uneven: list[Path]) -> None:
    bgr: Fields = {"fields": {"color_order": "BGR"}, "std": STD[2]}
    channels = [{"channel": channel, "std": STD[channel]} for channel in range(3)]
    apart = [(levels, change) for change in channels for levels in (1.1, -1.1, 9.0)]
    for levels, change in ((0.0, {"std": 1.0}), (0.9, {"std": STD[0]}), (-0.9, {"std": STD[0]}), (0.9, bgr)):
        pixels = run.preprocessed(loaded(levels=levels, **change), uneven)
        assert (pixels.shape, pixels.dtype.name) == ((PARITY_PHOTOS, 3, 32, 32), "float32")
    for levels, change in (*apart, (1.1, bgr), (np.inf, {"std": 1.0})):
        said = rf"{abs(levels):g} grey levels from the library's own on 0\.png; at most 1"
        raised(ExportError, said, run.preprocessed, loaded(levels=levels, **change), uneven)
    with pytest.raises(ExportError, match=r"makes \[3, 32, 31\] of 0\.png; it must be \[3, 32, 32\]"):
        run.preprocessed(loaded(levels=0.0, std=1.0, width=31), uneven)


@pytest.mark.long
def test_factories_with_one_tensor_and_with_a_dict() -> None:
    record = exported("torch", "my_vision:encoder")
    read = contract_of(record.path)
    meaning = {"meaning": "representation returned by the module", "rule": "encoder_output"}
    assert read["tensors"] == {"representation": meaning}
    assert (read["source"]["weights"], record.outputs) == ("trained by hand", {"representation": 5})
    assert record.size_bytes == record.path.stat().st_size
    file = read_onnx(record.path)
    assert f"{read['graph_digest']} {file.beginning}" in [entry.value for entry in file.proto.metadata_props]
    assert left_in() == ["m.onnx"]
    first, second = (exported("torch", "my_vision:dictionary", f"{name}.onnx") for name in "ab")
    read = contract_of(first.path)
    assert {n: t["rule"] for n, t in read["tensors"].items()} == {"representation": "head_input", "logits": "logits"}
    assert read["source"]["synthetic"] == "nothing planted, only said"
    assert first.outputs == {"representation": 6, "logits": 5}
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.long
def test_head_names_the_representation(tmp_path: Path, monkeypatch: Patch) -> None:
    """head=6, the last linear layer: its input is the representation, its output the logits."""
    monkeypatch.syspath_prepend(tmp_path)
    network = importlib.import_module("my_vision")._network()
    torch.save(network.state_dict(), "w.pth")
    record = exported("torch", "my_vision:encoder", weights="w.pth", head="6")
    read = contract_of(record.path)
    weights = (read["source"]["weights"], read["source"]["weights_digest"])
    assert weights == ("w.pth", file_digest(Path("w.pth")))
    assert read["tensors"]["representation"] == {"meaning": "input of 6", "rule": "head_input"}
    images = images_of(PHOTOS[:5], read["preprocessing"])
    outputs = outputs_of(record.path, images)
    with torch.no_grad():
        truth = network.eval()[:-1](torch.from_numpy(images))
        assert_allclose(outputs["representation"], truth.numpy(), atol=1e-5)
        assert_allclose(outputs["logits"], network[-1](truth).numpy(), atol=1e-5)


ROWS = """encoder: => 2 => encoder:: name has no colon; it must be package.module:factory
no_such_module:make => 2 => module no_such_module is not found
./my_vision.py:encoder => 2 => ./my_vision.py is a file; a module is named without .py
my_vision:nothing => 2 => my_vision has no function nothing
my_vision:raises => 3 => factory raised KeyError: 'no such thing'
my_vision:not_a_module => 3 => factory returned int; it must return a torch.nn.Module
my_vision:silent_about_preprocessing => 2 => preprocessing is not given
my_vision:always_training => 3 => stays in training mode after eval()
my_vision:tokens => 3 => output representation has shape (1, 3, 1024) for one image
my_vision:not_finite => 3 => output representation is not finite on real photos
my_vision:untraceable => 3 => torch could not export it""".splitlines()
TORCH_REFUSALS: list[tuple[str, Fields, int, str]] = [
    ("my_vision:encoder", {"head": "fc"}, 2, "head fc is not found; linear layers: 5, 6"),
    ("my_vision:encoder", {"weights": "absent.pth"}, 4, "absent.pth: weights file is missing"),
    ("my_vision:encoder", {"weights": "w.pth", "random_weights": True}, 2, "use one of them"),
    ("my_vision:encoder", {"photos": [Path("my_vision.py")] * 5}, 2, "my_vision.py: photo is unreadable"),
    *((name, {}, int(code), said) for name, code, said in (row.split(" => ") for row in ROWS)),
]


@pytest.mark.long
def test_torch_refusals() -> None:
    for name, options, code, text in TORCH_REFUSALS:
        caught = raised(ExportError, "", exported, "torch", name, **options)
        assert text in caught.message
        assert (caught.exit_code, left_in()) == (code, [])


@pytest.mark.long
def test_nothing_is_printed(capfd: Capture, recwarn: pytest.WarningsRecorder) -> None:
    exported("torch", "my_vision:chatty")
    assert capfd.readouterr().out == ""
    assert not [w for w in recwarn if "warned by the model" in str(w.message)]


def test_torch_is_imported_when_used() -> None:
    """`run` imports all that is needed before a source is known."""
    code = "import sys; import robustcheck_onnx.exporters.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S).returncode == 0


def test_quiet_gives_back_what_it_took() -> None:
    before = logging.getLogger().handlers[:]
    with pytest.raises(KeyError), quiet() as said:  # noqa: PT012
        print("one")  # noqa: T201
        logging.getLogger().warning("two")
        warnings.warn("three", stacklevel=1)
        raise KeyError
    assert logging.getLogger().handlers == before
    assert (list(said), said.quoted(2)) == (["warning: two", "warning: three", "one"], " [warning: three | one]")


Made = Callable[..., ExportRecord]


@pytest.fixture
def made(encoder: Path, photos: list[Path]) -> Made:
    """Quantise the fp32 file to int8.onnx."""

    def quantised(precision: str, source: Path = encoder, **options: Any) -> ExportRecord:
        calibration = photos if precision == "int8-qdq" else []
        form = "uint8-weights" if precision == "int8-qdq" else None
        options = {"precision": precision, "form": form, "photos": photos[:32], "calibration": calibration} | options
        return exported("onnx", str(source), "int8.onnx", **options)

    return quantised


@pytest.mark.parametrize("precision", contract.INT8)
def test_the_digest_is_of_the_graph_and_a_changed_file_is_refused(encoder: Path, made: Made, precision: str) -> None:
    path = made(precision).path
    first, model = path.read_bytes(), onnx.load(encoder)
    assert open_model(path).file_changed is False
    assert contract_of(path)["graph_digest"] == graph_digest(onnx.load(path), Path())
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
def test_contract_and_parity(encoder: Path, made: Made, photos: list[Path], precision: str, capfd: Capture) -> None:
    record = made(precision)
    assert (capfd.readouterr(), left_in()) == (("", ""), ["fp32.onnx", "int8.onnx"])
    before, after = contract_of(encoder), contract_of(record.path)
    parity, images = after.pop("parity"), pixels(photos[:5])
    assert parity["int8_sums"] == int8_sums().model_dump()
    assert {name for name in after if after[name] != before.get(name)} == {"precision", "versions", "graph_digest"}
    truth = represent(encoder, images)
    seen = [agreement(truth[:n], represent(record.path, images[:n])) for n in (1, 2, 5)]
    worst = [max(each.max_abs for each in seen), min(each.min_cosine for each in seen)]
    assert worst[0] > 0
    assert_allclose([record.parity.max_abs, record.parity.min_cosine], worst, rtol=1e-5)
    assert parity["min_cosine"] == record.parity.min_cosine
    assert (open_model(record.path).precision, after["precision"]) == ("int8", precision)


def test_fp16_without_sympy(encoder: Path, made: Made, photos: list[Path], monkeypatch: Patch) -> None:
    """ONNX Runtime's symbolic shape inference needs sympy, which `pip install .` does not bring."""
    monkeypatch.setitem(sys.modules, "shape_infer_helper", None)
    record = made("fp16")
    graph = onnx.load(record.path).graph
    kinds = {weight.data_type for weight in graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in kinds, onnx.TensorProto.FLOAT in kinds) == (True, False)
    assert [node.op_type for node in graph.node].count("Cast") == 2  # of the input and the output
    images = pixels(photos[:5])
    truth = represent(encoder, images)
    rows = represent(record.path, images)
    assert 0 < np.abs(rows - truth).max() < 1e-2 * np.abs(truth).max()


def test_ranges_are_of_the_calibration_photos_and_none_of_the_parity_photos(made: Made, photos: list[Path]) -> None:
    """The input's scale is (max − min)/255 of the preprocessed photos; with the parity photos it would be larger."""
    record = made("int8-qdq")
    assert record.calibrated_on == 20
    graph = onnx.load(record.path).graph
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
    span, wider = (max(seen.max(), 0) - min(seen.min(), 0) for seen in (pixels(photos[32:]), pixels(photos)))
    assert_allclose(values[first.input[1]], span / 255, rtol=1e-5)
    assert wider > 1.3 * span
    kernels = next(node for node in graph.node if getattr(values.get(node.input[0]), "shape", ()) == (24, 3, 3, 3))
    whole = onnx_models.weight(24, 3, 3, 3)  # one scale for each of the convolution's channels
    assert_allclose(values[kernels.input[1]], np.abs(whole).max(axis=(1, 2, 3)) / 127, rtol=1e-5)
    assert values[kernels.input[0]].dtype == np.uint8


def test_weights_beside_the_file_stay_there(encoder: Path, made: Made, photos: list[Path], monkeypatch: Patch) -> None:
    path = made("int8-qdq").path
    whole, rows = path.read_bytes(), represent(path, pixels(photos[:5]))
    with monkeypatch.context() as changed:
        changed.setattr(delivery, "INLINE_LIMIT_BYTES", 100)  # stands for 2 GB
        made("int8-qdq")
    data = path.with_name("int8.onnx.data")
    assert left_in() == ["fp32.onnx", path.name, data.name]
    outside = {
        each.data_type for each in onnx.load(path, load_external_data=False).graph.initializer if each.data_location
    }
    assert outside & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} == {onnx.TensorProto.UINT8}
    assert_array_equal(represent(path, pixels(photos[:5])), rows)
    onnx.save(onnx.load(encoder), encoder, save_as_external_data=True, location="other.onnx.data", size_threshold=0)
    assert made("int8-qdq").path.read_bytes() == whole
    Path("circle.onnx").symlink_to("circle.onnx")
    for target, said in (("other.onnx", "the file that is read, or its weights"), ("circle.onnx", "leads in a circle")):
        with refused(2, said):
            exported("onnx", "fp32.onnx", target, precision="int8-dynamic")


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
    (lambda m: onnx.ModelProto(graph=m.graph), 3, "contract is missing; it must state how photos become the input"),
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
    dark = [Path(path.name) for path in photos[32:]]
    for path in dark:
        Image.open(photos[0].parent / path.name).point(lambda level: level // 3).save(path)
    caught = raised(ExportError, "disagrees with the source model", made, "int8-qdq", calibration=dark)
    assert "leave out --form" in caught.hint
    assert not Path("int8.onnx").exists()


def test_photos_for_the_ranges_are_no_more_than_the_limit_and_of_few_at_least_a_third() -> None:
    many = [Path(f"{index}.jpg") for index in range(CALIBRATION_PHOTOS + 100)]
    paths = many[:48]
    calibration = many[64 : 64 + CALIBRATION_PHOTOS]
    one_form = (FORMS[4],)
    assert quantisation_plan("int8-qdq", None, many, many) == ("int8-qdq", FORMS, calibration, many[:64])
    assert quantisation_plan("int8-qdq", "float-ends", paths, paths) == ("int8-qdq", one_form, paths[32:], paths[:32])
    assert quantisation_plan("int8-qdq", None, paths[:16], paths[16:]) == ("int8-qdq", FORMS, paths[:16], paths[16:])
    with refused(2, "number of calibration photos is 15 next to the 32 that the file is compared on; .* at least 16"):
        quantisation_plan("int8-qdq", None, paths[:47], paths[:47])
    with refused(2, "number of parity photos is 31; int8-qdq is compared with the original on at least 32"):
        quantisation_plan("int8-qdq", None, paths, paths[:31])


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


@pytest.mark.long
def test_real_weights_end_to_end(planted_outlier: Path, tmp_path: Path, capsys: Capture) -> None:
    """The planted demo passes in fp32. Both int8 forms keep its feature, and WARN for what they are.

    Dynamically, the result depends on the batch. Statically, the graph shows that attention pools rectified features,
    which the fp32 graph does not: the pooled tokens have no negative values.
    """
    folder = PHOTOS[0].parent
    for precision, words, reason in (
        ("int8-qdq", ["--form", "uint8-weights", "--calibration-images", folder], "end_not_calibrated"),
        ("int8-dynamic", [], "batch_dependent"),
    ):
        out = tmp_path / f"{precision}.onnx"
        assert robustcheck("export", "onnx", planted_outlier, "--precision", precision, *words, "-o", out) == 0
        form = " uint8-weights" if words else ""
        assert f"{precision}{form}, outputs representation" in capsys.readouterr().out
        call = ["compare", out, planted_outlier, "--max-images", "50", "--device", "cpu", "-o", "json", "-qq"]
        assert robustcheck(*call) == 1
        report = json.loads(capsys.readouterr().out)
        assert [entry["id"] for entry in report["verdict"]["reasons"]] == [reason]
        assert [(feature["index"], feature["fate"]) for feature in report["features"]] == [(92, "kept")]
        assert report["reference"]["verdict"]["verdict"] == "PASS"
    # one image at a time, the dynamic form has a verdict, which says what it holds for
    assert robustcheck(*call, "--batch-size", "1") == 0
    assert "Of the candidate: The verdict holds for batches of one image" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.usefixtures("capsys")
def test_the_contract_names_the_option_that_states_the_preprocessing_of_a_torch_model() -> None:
    """A PASS that rests on it shows that first. Without the option the model states it."""
    Path("p.json").write_text(json.dumps(FIELDS | {"mean": [0.5] * 3, "std": STD}))
    words = ["export", "torch", "my_vision:encoder", "-o", "m.onnx"]
    for option, stated in ((["--preprocess", "p.json"], "--preprocess p.json"), ([], "")):
        assert robustcheck(*words, *option) == 0
        assert contract_of(Path("m.onnx")).get("preprocessing_from", "") == stated
        read = open_model(Path("m.onnx")).contract
        assert read is not None
        assert read.preprocessing_from == stated


@pytest.mark.long
def test_the_forms_of_a_real_classifier(efficientnet_lite0: Path, tmp_path: Path, capsys: Capture) -> None:
    """The written file is compatible with the original's index, and has pairs that never saturate."""
    out = tmp_path / "int8.onnx"
    words = ["--precision", "int8-qdq", "-o", out]
    for option, some in (("--parity-images", PHOTOS[:32]), ("--calibration-images", PHOTOS[32:52])):
        folder = tmp_path / option
        folder.mkdir()
        for photo in some:
            (folder / photo.name).symlink_to(photo)
        words += [option, folder]
    assert robustcheck("export", "onnx", efficientnet_lite0, *words) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:7]] == [form.name for form in FORMS]
    assert [line.split()[0] for line in table if line.endswith("written")] == ["uint8-weights"]
    parity = contract_of(out)["parity"]["form"]
    assert parity["name"] == "uint8-weights"
    assert parity["plain"] == parity["exact"]
    assert parity["plain"]["cosine"] > 0.95
    read = read_onnx(out)
    assert not saturating_pairs(read.proto, read.weights)
    call = ["compare", out, efficientnet_lite0, "--max-images", "80", "--device", "cpu", "-o", "json", "-qq"]
    assert robustcheck(*call) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["index"]["verdict"] == "compatible"
