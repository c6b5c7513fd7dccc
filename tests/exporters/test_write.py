"""Exports of the user's own torch code: parity, what is refused, and the files: all or nothing, and nothing printed."""

import importlib
import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose
from PIL import Image

from robustcheck_onnx.checker.model.file import read_onnx
from robustcheck_onnx.exporters import ExportError, contract, files, quiet
from robustcheck_onnx.exporters.contract import file_digest
from robustcheck_onnx.exporters.run import preprocessed
from support import PATIENCE_S, PHOTOS, Capture, Fields, Patch, raised
from support.torch_models import contract_of, exported, images_of, left_in, outputs_of, refused, torch

pytestmark = pytest.mark.usefixtures("my_vision")


def test_agreement_against_closed_forms() -> None:
    a = np.array([[3, 4, 0], [0, 0, 0]], np.float32)
    b = np.array([[3, 4, 5], [0, 0, 0]], np.float32)
    assert_allclose(files.agreement(a, b), (5, 5 / np.sqrt(25 / 3), 25 / (5 * np.sqrt(50))))
    assert files.agreement(a, a) == (0, 0, 1)
    assert files.agreement(a[1:], b[:1]).max_rel == np.inf
    for wrong in (np.zeros((2, 4)), np.full((2, 3), np.nan)):
        raised(ValueError, r"shapes are|not finite", files.agreement, a, wrong.astype(np.float32))


def test_agreement_is_not_hidden_by_an_outlier_feature() -> None:
    """A feature at 100 SD would make a difference of one SD elsewhere look like 1 % of the maximum."""
    a = default_rng(0).standard_normal((4, 512)).astype(np.float32)
    a[:, 7] = 100
    b = a.copy()
    b[:, 8] += 1
    assert files.agreement(a, b).max_rel > 100 * files.TOLERANCES["fp32"].max_rel


@pytest.mark.long
def test_failed_export_keeps_the_earlier_file_and_leaves_nothing(monkeypatch: Patch) -> None:
    Path("m.onnx").write_bytes(b"earlier")
    said = "m.onnx: output representation at batch 2 disagrees with the source model"
    for factory, code in (("batch_statistics", 3), ("encoder", 4)):
        with refused(code, said):
            exported("torch", f"my_vision:{factory}")
        assert (left_in(), Path("m.onnx").read_bytes()) == (["m.onnx"], b"earlier")
        monkeypatch.setattr(files, "_put_in_place", Mock(side_effect=OSError(28, said := "No space left on device")))
    monkeypatch.setattr(files, "_put_in_place", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        exported("torch", "my_vision:encoder")
    assert (left_in(), Path("m.onnx").read_bytes()) == (["m.onnx"], b"earlier")


@pytest.mark.long
def test_weights_beside_a_big_model(monkeypatch: Patch) -> None:
    monkeypatch.setattr(files, "INLINE_LIMIT_BYTES", 1000)  # stands for 2 GB
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
    assert 1e-6 < record.parity.max_rel < files.TOLERANCES["fp16"].max_rel
    kinds = {t.data_type for t in onnx.load(record.path).graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in kinds, onnx.TensorProto.FLOAT in kinds) == (True, False)
    assert rows[1].dtype == np.float32
    assert_allclose(rows[1], rows[0], rtol=0, atol=2e-2 * np.abs(rows[0]).max())
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.long
def test_a_size_the_model_cannot_run_at() -> None:
    size = {"size": [31, 31], "resize_mode": "squash", "resize_size": [31, 31], "interpolation": "bicubic"}
    Path("p.json").write_text(json.dumps(size))
    for source, name in (("timm", "test_vit"), ("torchvision", "vit_b_32")):
        with refused(3, r"model cannot run on \[31, 31\] px input"):
            exported(source, name, random_weights=True, preprocessing=Path("p.json"))
        assert left_in() == []


FIELDS = {"size": [32, 32], "resize_mode": "shortest", "resize_size": [32, 32], "interpolation": "bicubic"}
STD = [0.2, 0.3, 0.4]


def loaded(**change: Any) -> Any:
    """A model whose library gives the contract's pixels but for one value, by some grey levels."""
    fields = contract.checked_preprocessing(FIELDS | {"std": STD, **change.pop("fields", {})}, "m")

    def transform(image: Image.Image) -> Any:
        theirs = contract.preprocess(fields, image)
        channel = change.get("channel", 0)
        theirs[channel, 3, 4] += change["levels"] / 255 / change["std"]
        return SimpleNamespace(numpy=lambda: theirs[..., : change.get("width", 32)])

    return SimpleNamespace(preprocessing=fields, transform=transform, source=SimpleNamespace(name="m"))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    random = default_rng(4)
    paths = [tmp_path / f"{i}.png" for i in range(files.PARITY_PHOTOS + 1)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return paths


def test_the_contracts_pixels_are_at_most_a_grey_level_from_the_librarys(photos: list[Path]) -> None:
    bgr: Fields = {"fields": {"color_order": "BGR"}, "std": STD[2]}
    apart: list[tuple[float, Fields]] = [
        (levels, {"channel": channel, "std": STD[channel]}) for channel in range(3) for levels in (1.1, -1.1, 9.0)
    ]
    for levels, change in ((0.0, {"std": 1.0}), (0.9, {"std": STD[0]}), (-0.9, {"std": STD[0]}), (0.9, bgr)):
        pixels = preprocessed(loaded(levels=levels, **change), photos)
        assert (pixels.shape, pixels.dtype.name) == ((files.PARITY_PHOTOS, 3, 32, 32), "float32")
    for levels, change in (*apart, (1.1, bgr), (np.inf, {"std": 1.0})):
        said = rf"{abs(levels):g} grey levels from the library's own on 0\.png; at most 1"
        raised(ExportError, said, preprocessed, loaded(levels=levels, **change), photos)
    with pytest.raises(ExportError, match=r"makes \[3, 32, 31\] of 0\.png; it must be \[3, 32, 32\]"):
        preprocessed(loaded(levels=0.0, std=1.0, width=31), photos)


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


@pytest.mark.process
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
    assert list(said) == ["warning: two", "warning: three", "one"]
    assert said.quoted(2) == " [warning: three | one]"
