"""Defines the ONNX contract, what a file says about itself, and the loaded model that an export starts from.

docs/onnx-contract.md is the same thing for people who write their own exporter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import USAGE, ExportError
from .zero_shot import Prompts

if TYPE_CHECKING:
    import onnx
    import torch
    from PIL import Image

METADATA_KEY = "robustcheck.contract"  # key in the ONNX file's metadata_props
SCHEMA_VERSION = 1  # of the JSON under METADATA_KEY
INPUT_NAME = "image"
BATCH_AXIS = "batch"  # name of the dynamic axis 0 of the input and of every output
RULES = ("encoder_output", "head_input", "pooled", "logits")
INT8 = ("int8-dynamic", "int8-qdq")  # made by quantising the fp32 file
PRECISIONS = ("fp32", "fp16", *INT8)

_RESIZE_MODES = ("shortest", "longest", "squash", "none")
_INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
_DEFAULTS: dict[str, Any] = {
    "crop": "center",
    "crop_rounding": "round",
    "fill": (0, 0, 0),
    "rescale": 1 / 255,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "color_order": "RGB",
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "resize_mode": _RESIZE_MODES,
    "interpolation": _INTERPOLATIONS,
    "crop": ("center", "none"),
    "crop_rounding": ("round", "floor"),
    "color_order": ("RGB", "BGR"),
}
_LENGTHS = {"size": 2, "resize_size": 2, "fill": 3, "mean": 3, "std": 3}
PREPROCESSING_FIELDS = ("size", "resize_mode", "resize_size", "interpolation", *_DEFAULTS)


@dataclass(frozen=True, slots=True)
class Output:
    """One output of the exported graph: its name, what it is in words, and the rule that chose it."""

    name: str
    meaning: str
    rule: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model came from, as it stands in the contract.

    `weights_digest` is "sha256:" + hex of the weights file when one file was read, otherwise of the state
    dict in memory (see loading.state_digest). `synthetic` says what was planted by hand; empty when nothing.
    `matched_to` names the encoder whose vectors the model was trained to give (distillation, feature matching); "none"
    says that it was not, None is not said.
    """

    library: str
    name: str
    weights: str
    weights_digest: str
    random_weights: bool = False
    synthetic: str = ""
    matched_to: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to export.

    Args:
        module: torch module; forward(image), image (batch, channel, height, width) float32, returns a tuple
            of (batch, feature) tensors in the order of `outputs`.
        outputs: "representation" is always among them.
        preprocessing: the fields of the contract (see checked_preprocessing).
        transform: the library's own PIL image → (channel, height, width) float32 tensor.
        source: where it came from.
        packages: distributions whose versions the contract records beside torch and onnx.
        zero_shot: class names and templates behind the output "logits", where a text tower made them.
    """

    module: torch.nn.Module
    outputs: tuple[Output, ...]
    preprocessing: Mapping[str, Any]
    transform: Callable[[Image.Image], torch.Tensor]
    source: Source
    packages: tuple[str, ...] = field(default=())
    zero_shot: Prompts | None = None


def checked_preprocessing(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the preprocessing with defaults filled in, or say which field is wrong.

    Args:
        values: size and resize_size (height, width; px), resize_mode, interpolation; optional crop,
            crop_rounding, fill (RGB 0–255), rescale, mean, std, color_order.
        where: the file or object named in the error.

    Raises:
        ExportError: a field is missing, unknown, of the wrong length, or out of range (exit 2).
    """

    def wrong(what: str) -> ExportError:
        hint = f'fields: {", ".join(PREPROCESSING_FIELDS)} (see the page "The ONNX contract")'
        return ExportError(f"{where}: {what}", hint, exit_code=USAGE)

    if unknown := sorted(set(values) - set(PREPROCESSING_FIELDS)):
        raise wrong(f"preprocessing field {unknown[0]} is unknown")
    complete = {**_DEFAULTS, **values}
    if missing := [name for name in PREPROCESSING_FIELDS if name not in complete]:
        raise wrong(f"preprocessing field {missing[0]} is missing")
    for name, choices in _CHOICES.items():
        if complete[name] not in choices:
            raise wrong(f"preprocessing field {name} is {complete[name]!r}; it must be one of {', '.join(choices)}")
    for name, length in _LENGTHS.items():
        value = complete[name]
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != length:
            raise wrong(f"preprocessing field {name} is {value!r}; it must be {length} numbers")
        if not all(_is_number(v) for v in value):
            raise wrong(f"preprocessing field {name} is {value!r}; it must be finite numbers")
        whole = name in ("size", "resize_size", "fill")
        if whole and not all(float(v).is_integer() and v >= (0 if name == "fill" else 1) for v in value):
            raise wrong(f"preprocessing field {name} is {value!r}; it must be positive whole numbers")
        complete[name] = [int(v) if whole else float(v) for v in value]
    if max(complete["fill"]) > 255:
        raise wrong(f"preprocessing field fill is {complete['fill']!r}; it must be 0 to 255")
    if min(complete["std"]) <= 0:
        raise wrong(f"preprocessing field std is {complete['std']!r}; it must be above 0")
    if not _is_number(complete["rescale"]) or complete["rescale"] <= 0:
        raise wrong(f"preprocessing field rescale is {complete['rescale']!r}; it must be a number above 0")
    complete["rescale"] = float(complete["rescale"])
    squashed = complete["resize_mode"] == "squash" and complete["resize_size"] == complete["size"]
    if complete["crop"] == "none" and complete["resize_mode"] != "none" and not squashed:
        raise wrong(
            "preprocessing field crop is 'none'; then resize_mode must be none, or squash with resize_size "
            "equal to size"
        )
    return {name: complete[name] for name in PREPROCESSING_FIELDS}


def shared_preprocessing(candidates: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return the preprocessing that all published weights of a model name agree on.

    A checkpoint file does not say how its images were prepared. Where the library's published weights of
    that name disagree (or there are none), a guess would be silent, so it is an error.

    Args:
        candidates: tag → preprocessing, of every published set of weights.

    Raises:
        ExportError: there are none, or they differ (exit 2).
    """
    values = list(candidates.values())
    if values and all(value == values[0] for value in values):
        return values[0]
    why = (
        f"the published weights ({', '.join(list(candidates)[:3])}, …) differ in theirs"
        if values
        else "the library publishes none for this name"
    )
    raise ExportError(
        f"{name}: preprocessing of this checkpoint is not known; {why}",
        'give it with --preprocessing FILE (see the page "The ONNX contract")',
        exit_code=USAGE,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def build(loaded: Loaded, *, precision: str, parity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contract of a loaded model as plain JSON values (schema_version 1)."""
    source = loaded.source
    head = loaded.zero_shot
    named = {"zero_shot": {"classes": list(head.classes), "templates": list(head.templates)}} if head else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "preprocessing": dict(loaded.preprocessing),
        "tensors": {o.name: {"meaning": o.meaning, "rule": o.rule} for o in loaded.outputs},
        "source": {
            "library": source.library,
            "name": source.name,
            "weights": source.weights,
            "weights_digest": source.weights_digest,
            "random_weights": source.random_weights,
            "synthetic": source.synthetic,
            **({} if source.matched_to is None else {"matched_to": source.matched_to}),
        },
        "versions": versions(loaded.packages),
        "precision": precision,
        "parity": dict(parity),
        **named,
    }


def without_folders(name: str) -> str:
    """Return a model name as it may stand in a published file: of a local folder only its last part.

    >>> without_folders("local-dir:/data/models/clip"), without_folders("hf-hub:org/repo")
    ('local-dir:clip', 'hf-hub:org/repo')
    """
    schema, _, place = name.partition(":")
    return f"{schema}:{Path(place).name}" if schema == "local-dir" else name


def versions(packages: Sequence[str], *, libraries: Sequence[str] = ("torch", "onnxscript")) -> dict[str, str]:
    """Return the installed versions of this project, the ONNX packages, `libraries` and `packages`."""
    ours = ("robustcheck-onnx", "robustcheck-onnx-cpu")
    names = (*ours, "onnx", "onnxruntime", "onnxruntime-gpu", *libraries, *packages)
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # only one of two: this package's distributions, ONNX Runtime's
    return found


def embed(model: onnx.ModelProto, contract: Mapping[str, Any]) -> None:
    """Write the contract into the model's metadata_props, replacing an earlier one."""
    kept = [(p.key, p.value) for p in model.metadata_props if p.key != METADATA_KEY]
    del model.metadata_props[:]
    text = json.dumps(contract, sort_keys=True, allow_nan=False, ensure_ascii=False)
    for key, value in [*kept, (METADATA_KEY, text)]:
        model.metadata_props.add(key=key, value=value)
