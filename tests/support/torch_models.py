"""Torch models of a user and of open_clip, and what an export of one leaves."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from robustcheck_onnx.exporters import ExportError, contract
from robustcheck_onnx.exporters.delivery import ExportRecord
from robustcheck_onnx.exporters.preprocessing import Array, checked_preprocessing, preprocess
from robustcheck_onnx.exporters.run import run
from support import PHOTOS, Fields, lookup

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

class _Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = _network()
    def forward(self, image): return self.body(image)

def encoder(): return _say(_network())

def silent_about_preprocessing():
    module = _say(_network())
    del module.preprocessing
    return module

class Dict(_Body):
    def forward(self, image):
        seen = self.body[:-1](image)
        return {"logits": self.body[-1](seen), "representation": seen}

def dictionary(): return _say(Dict(), synthetic="nothing planted, only said")

class Chatty(_Body):
    def forward(self, image):
        print("printed by the model")
        logging.warning("logged by the model")
        warnings.warn("warned by the model")
        return self.body(image)

def chatty():
    print("printed by the factory")
    return _say(Chatty())

class AlwaysTraining(_Body):
    def train(self, mode=True): return super().train(True)

def always_training(): return _say(AlwaysTraining())

class BatchStatistics(_Body):
    def forward(self, image):
        out = self.body(image)
        return out - out.mean(dim=0, keepdim=True) / 2

def batch_statistics(): return _say(BatchStatistics())

class Tokens(nn.Module):
    def forward(self, image): return image.flatten(2)

def tokens(): return _say(Tokens())

class NotFinite(nn.Module):
    def forward(self, image): return image.flatten(1)[:, :4] / 0

def not_finite(): return _say(NotFinite())

class Untraceable(_Body):
    def forward(self, image):
        out = self.body(image)
        return out * 2 if float(out.sum()) > 0 else out

def untraceable(): return _say(Untraceable())

def raises(): raise KeyError("no such thing")

def not_a_module(): return 3
"""


def exported(source: str, name: str, file: str | Path = "m.onnx", **options: Any) -> ExportRecord:
    """What an export writes into the current folder, proved on five bundled photos."""
    return run(source, name, Path(file), **({"photos": PHOTOS[:5]} | options))


def left_in(folder: Path = Path()) -> list[str]:
    known = {"my_vision.py", "__pycache__", "w.pth", "p.json"}
    return sorted(p.name for p in folder.iterdir() if p.name not in known)


def contract_of(path: Path) -> Fields:
    model = onnx.load(path, load_external_data=False)
    read: Fields = json.loads({p.key: p.value for p in model.metadata_props}[contract.METADATA_KEY])
    return read


def images_of(photos: list[Path], fields: Fields) -> Any:
    return np.stack([preprocess(fields, Image.open(p)) for p in photos])


def outputs_of(path: Path, images: Any) -> dict[str, Any]:
    """What ONNX Runtime makes of images, by the names of the file's outputs."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


PREPROCESSING = {"size": [8, 8], "resize_mode": "squash", "resize_size": [8, 8], "interpolation": "bilinear"}
PREPROCESSING |= {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def with_contract(model: onnx.ModelProto, **changes: Any) -> onnx.ModelProto:
    """Give a model a contract with `PREPROCESSING`."""
    text = json.dumps(lookup.lookup_contract() | {"preprocessing": PREPROCESSING} | changes)
    onnx.helper.set_model_props(model, {"robustcheck.contract": text})
    return model


def pixels(photos: list[Path]) -> Array:
    """Photos as a model with `PREPROCESSING` reads them."""
    return np.asarray(images_of(photos, checked_preprocessing(PREPROCESSING, "photos")))


def represent(path: Path, images: Array) -> Array:
    return np.asarray(outputs_of(path, images)["representation"])


@contextmanager
def refused(code: int, said: str) -> Iterator[None]:
    """An export ends with this exit code and these words."""
    with pytest.raises(ExportError, match=said) as caught:
        yield
    assert caught.value.exit_code == code


class Lazy:
    """A package that stands at the top of a test's file and is not imported there; without it the test is skipped."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks each object of a file, such as for `__test__`
            raise AttributeError(attribute)
        is_ours = self._name.startswith("robustcheck_onnx")  # needs torch, but must be there
        pytest.importorskip("torch" if is_ours else self._name, reason="extra `export` is not installed")
        return getattr(import_module(self._name), attribute)


LIBRARIES = ("torch", "open_clip", "timm", "torchvision", "transformers")
torch, open_clip, timm, torchvision, transformers = map(Lazy, LIBRARIES)
LOADERS = ("from_open_clip", "from_timm", "from_torchvision", "from_transformers", "loading", "wrappers", "zero_shot")
from_open_clip, from_timm, from_torchvision, from_transformers, loading, wrappers, zero_shot = (
    Lazy(f"robustcheck_onnx.exporters.{name}") for name in LOADERS
)


VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}


def open_clip_folder(
    folder: Path,
    vision: Fields = VISION,
    preprocess: Fields | None = None,
    *,
    init: Callable[[Any], Any] = lambda model: model,
    text: Fields = TEXT,
    **more: Any,
) -> tuple[str, Any]:
    """Write open_clip_config.json and open_clip_model.safetensors, as push_to_hub does; the name and the model."""
    from safetensors.torch import save_file

    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **more}
    folder.mkdir(exist_ok=True)
    pixels = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic"}
    pixels |= {"resize_mode": "shortest", **(preprocess or {})}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}))
    model = init(open_clip.model.CLIP(**config).eval())
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}", model
