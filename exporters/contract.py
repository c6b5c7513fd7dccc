"""Describe models to export, and write the contract into their files.

The contract describes an ONNX file and how photos become its input.

docs/onnx-file.md is the same thing for people who write their own exporter.

The checker computes the same `graph_digest` when it opens a file; docs/dev/graph-digest.md defines it. Needs no torch.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import CallError, ExportError, MissingError, quoted

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

Fields = dict[str, Any]  # values by their names
Array = NDArray[np.float32]
Arrays = dict[str, Array]  # by their names
Photos = Sequence[Path]

METADATA_KEY = "robustcheck.contract"  # key in the ONNX file's metadata_props
BEGINNING_KEY = "robustcheck.beginning"  # next to it, see `embed`
SCHEMA_VERSION = 1  # of the JSON under METADATA_KEY
INPUT_NAME = "image"
BATCH_AXIS = "batch"  # name of the dynamic axis 0 of the input and of every output
RULES = ("encoder_output", "head_input", "pooled", "logits")
INT8 = ("int8-dynamic", "int8-qdq")  # made by quantising the fp32 file
PRECISIONS = ("fp32", "fp16", *INT8)
CLASS_PLACE = "{}"  # where a template takes the class name
CHECKPOINT_MARKS = (b"PK", b"\x80")  # zip (torch, npz) and pickle (old torch; read without unpickling code)
SAFETENSORS_MARK = b"{"  # after eight bytes of length
FIELDS_FILE = "give it with --preprocess FILE; robustcheck explain preprocessing shows one"  # a hint

_DEFAULTS: Fields = {
    "crop": "center",
    "crop_rounding": "round",
    "fill": (0, 0, 0),
    "rescale": 1 / 255,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "color_order": "RGB",
}
_CHOICES = {
    "resize_mode": ("shortest", "longest", "squash", "none"),
    "interpolation": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
    "crop": ("center", "none"),
    "crop_rounding": ("round", "floor"),
    "color_order": ("RGB", "BGR"),
}
_LENGTHS = {"size": 2, "resize_size": 2, "fill": 3, "mean": 3, "std": 3}
_LEAST = {"size": 1, "resize_size": 1, "fill": 0}  # of the fields that are whole numbers
PREPROCESSING_FIELDS = ("size", "resize_mode", "resize_size", "interpolation", *_DEFAULTS)


class Output(NamedTuple):
    """One output of the graph. It has a name, a meaning, and the rule that chose it."""

    name: str
    meaning: str
    rule: str


Outputs = tuple[Output, ...]
EMBEDDING = Output("representation", "projected image embedding", "encoder_output")
LOGITS = Output("logits", "class logits", "logits")


class Source(NamedTuple):
    """Where a model came from, as the contract has it.

    `weights_digest` is "sha256:" + hex of the weights file when one file was read, otherwise of the state
    dict in memory (see state_digest). `synthetic` names what was planted by hand; empty when nothing.
    `matched_to` names the encoder whose vectors the model was trained to give (distillation, feature matching);
    "none" where it was trained otherwise, None where nobody said.
    """

    library: str
    name: str
    weights: str
    weights_digest: str
    random_weights: bool = False
    synthetic: str = ""
    matched_to: str | None = None


class Prompts(NamedTuple):
    """Class names, in the order of the logits, and their templates."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]

    def texts(self, name: str) -> list[str]:
        """Return the prompts of one class: `{}` replaced, other braces kept."""
        return [template.replace(CLASS_PLACE, name) for template in self.templates]


class Wanted(NamedTuple):
    """The model that a caller wants.

    Args:
        name: the library's name; for torch "package.module:factory".
        weights: pretrained tag of the library, or a checkpoint file.
        random_weights: load without weights, and say so in the contract.
        preprocessing: replaces the library's; checked.
        head: torch only: dotted name of the last linear layer.
        prompts: open_clip and transformers CLIP only: the text tower makes a classifier's head of them.
    """

    name: str
    weights: str | None = None
    random_weights: bool = False
    preprocessing: Fields | None = None
    head: str | None = None
    prompts: Prompts | None = None

    def pixels(self) -> tuple[Fields, Any] | None:
        """Return the wanted preprocessing with its transform, None for the library's."""
        return None if self.preprocessing is None else (self.preprocessing, as_transform(self.preprocessing))


class Loaded(NamedTuple):
    """A model ready to export.

    Args:
        module: torch module; forward(image), image (batch, channel, height, width) float32, returns a tuple
            of (batch, feature) tensors in the order of `outputs`.
        outputs: "representation" is always among them.
        preprocessing: the fields of the contract (see checked_preprocessing).
        transform: the library's own PIL image → (channel, height, width) float32 tensor.
        source: where it came from.
        packages: distributions whose versions the contract records with torch and onnx.
        zero_shot: class names and templates of the output "logits", where a text tower made them.
        stated_by: the option that states the preprocessing; empty where the library knows it.
    """

    module: nn.Module
    outputs: Outputs
    preprocessing: Fields
    transform: Callable[[Image.Image], Tensor]
    source: Source
    packages: tuple[str, ...] = ()
    zero_shot: Prompts | None = None
    stated_by: str = ""


def classifier_outputs(head: str) -> Outputs:
    """Return the outputs of a head_tap on a classifier's last layer."""
    return Output("representation", f"input of {head}, the last linear layer", "head_input"), LOGITS


def source_of(library: str, name: str, path: Path | None, weights: str, module: nn.Module) -> Source:
    """Return where a model came from. `path` is its weights file; without one `weights` names them."""
    digest = state_digest(module) if path is None else file_digest(path)
    return Source(library, name, weights if path is None else path.name, digest)


def loaded(
    wanted: Wanted, source: Source, module: nn.Module, outputs: Outputs, pixels: tuple[Fields, Any], *packages: str
) -> Loaded:
    """Return a model ready to export; random weights have no name."""
    if wanted.random_weights:
        source = source._replace(weights="", random_weights=True)
    return Loaded(module, outputs, *pixels, source, packages, wanted.prompts)


def weights_file(weights: str | None) -> Path | None:
    """Return the path of `weights`, None for a tag. It is a file or looks like one.

    Raises:
        ExportError: it looks like a path but there is no such file (exit 4); it is not a checkpoint (exit 3).
    """
    if not weights:
        return None
    path = Path(weights)
    if path.is_file():
        with path.open("rb") as stream:
            start = stream.read(9)
        if not start.startswith(CHECKPOINT_MARKS) and start[8:] != SAFETENSORS_MARK:
            raise ExportError(
                f"{weights}: checkpoint starts with {start!r}; it must be safetensors, a torch state dict or npz",
                f"file {quoted(weights)}",
            )
        return path
    if "/" in weights or path.suffix in {".pt", ".pth", ".bin", ".safetensors", ".npz", ".ckpt"}:
        raise MissingError(
            f"{weights}: weights file is missing; it must be an existing file or a tag",
            f"place the checkpoint at {weights}",
        )
    return None


def refuse_name(name: str, known: Sequence[str], asked: str, rule: str, hint: str = "") -> None:
    """Refuse a model that a library lacks. The error has the closest names (exit 2).

    Args:
        asked: the name as the caller wrote it. rule: what the library has. hint: for a name that is close to none.
    """
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, 3))
        hint = f"closest: {close}" if close else hint or "hf-hub:ORG/REPO loads from the hub"
        raise CallError(f"{asked}: model name is unknown to {rule}", hint)


def unknown_tag(name: str, tag: str, known: Sequence[str]) -> CallError:
    """Return the error for weights that a library has not published."""
    return CallError(
        f"{name}: weights is {tag}; it must be one of {', '.join(known) or 'none published'}, or an existing file",
        f"--weights {(difflib.get_close_matches(tag, known, 1) or known or ['FILE'])[0]}",
    )


def random_weights_error(name: str, hint: str) -> CallError:
    """Return the error against exporting random weights."""
    return CallError(f"{name}: weights are not given; random weights are refused", hint)


def from_hub(repo: str, otherwise: str = "give the checkpoint with --weights FILE") -> str:
    """Return the hint for an unreachable hub repository."""
    return (
        f"run `hf download {repo}` where there is a network and copy models--{repo.replace('/', '--')} into "
        f"$HF_HOME/hub here, or {otherwise}"
    )


def content(loaded: Loaded) -> Fields:
    """Return the contract of a loaded model, without precision and parity."""
    source = loaded.source._asdict()
    if loaded.source.matched_to is None:
        del source["matched_to"]
    return {
        "schema_version": SCHEMA_VERSION,
        "preprocessing": loaded.preprocessing,
        **({"preprocessing_from": loaded.stated_by} if loaded.stated_by else {}),
        "tensors": {o.name: {"meaning": o.meaning, "rule": o.rule} for o in loaded.outputs},
        "source": source,
        "versions": versions("torch", "onnxscript", *loaded.packages),
        **({"zero_shot": loaded.zero_shot._asdict()} if loaded.zero_shot else {}),
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of this project, ONNX and `packages`."""
    found = {}
    for name in ("robustcheck-onnx", "robustcheck-onnx-cpu", "onnx", "onnxruntime", "onnxruntime-gpu", *packages):
        with suppress(metadata.PackageNotFoundError):  # only one of two: our distributions, ONNX Runtime's
            found[name] = metadata.version(name)
    return found


def without_folders(name: str) -> str:
    """Return a model name for a published file. Of a local folder it is only the last part.

    >>> without_folders("local-dir:/data/models/clip"), without_folders("hf-hub:org/repo")
    ('local-dir:clip', 'hf-hub:org/repo')
    """
    schema, _, place = name.partition(":")
    return f"{schema}:{Path(place).name}" if schema == "local-dir" else name


def embed(model: onnx.ModelProto, contract: Fields, folder: Path) -> None:
    """Write the contract into the model's metadata_props, replacing an earlier one.

    It gets the graph digest. Next to it comes the digest of the model's bytes without metadata. They are the file's
    first bytes, so the checker need not compute the graph digest of a file that begins with them.

    Args:
        model, folder: as for `graph_digest`, which may raise.
    """
    digest = graph_digest(model, folder)
    others = [entry for entry in model.metadata_props if entry.key not in (METADATA_KEY, BEGINNING_KEY)]
    text = json.dumps({**contract, "graph_digest": digest}, sort_keys=True, allow_nan=False, ensure_ascii=False)
    del model.metadata_props[:]
    beginning = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    model.metadata_props.extend(others)
    model.metadata_props.add(key=METADATA_KEY, value=text)
    model.metadata_props.add(key=BEGINNING_KEY, value=f"{digest} sha256:{beginning}")


def keep_metadata(item: Any, is_kept: Callable[[str], bool]) -> None:
    """Remove the other entries from a message's metadata_props."""
    for entry in [each for each in item.metadata_props if not is_kept(each.key)]:
        item.metadata_props.remove(entry)


def checked_preprocessing(values: Fields, where: str) -> Fields:
    """Return the preprocessing with defaults filled in.

    Args:
        values: size and resize_size (height, width; px; one number for a square), resize_mode, interpolation; optional
            crop, crop_rounding, fill (RGB 0–255), rescale, mean, std, color_order.
        where: the file or object named in the error.

    Raises:
        ExportError: a field is missing, unknown, of the wrong length, or out of range (exit 2).
    """
    complete = {**_DEFAULTS, **values}
    for field, is_right, wrong in _checks(complete):
        if not is_right:
            raise CallError(f"{where}: preprocessing field {field} is {wrong}", "robustcheck explain preprocessing")
    return {name: complete[name] for name in PREPROCESSING_FIELDS}


def _checks(fields: Fields) -> Iterator[tuple[str, bool, str]]:
    """Yield field, whether it is right, and the fault. Its numbers become plain."""

    def rule(name: str, is_right: bool, words: str) -> tuple[str, bool, str]:
        return name, is_right, f"{fields[name]!r}; it must be {words}"

    yield from ((name, False, "unknown") for name in sorted(set(fields) - set(PREPROCESSING_FIELDS)))
    yield from ((name, name in fields, "missing") for name in PREPROCESSING_FIELDS)
    for name, choices in _CHOICES.items():
        yield rule(name, fields[name] in choices, f"one of {', '.join(choices)}")
    for name, length in _LENGTHS.items():
        value = fields[name] = [fields[name]] * length if _is_number(fields[name]) else fields[name]
        yield rule(name, isinstance(value, list | tuple) and len(value) == length, f"{length} numbers")
        yield rule(name, all(map(_is_number, value)), "finite numbers")
        least = _LEAST.get(name)
        is_whole = least is None or all(float(v).is_integer() and v >= least for v in value)
        yield rule(name, is_whole, "positive whole numbers")
        fields[name] = [float(v) if least is None else int(v) for v in value]
    yield rule("fill", max(fields["fill"]) <= 255, "0 to 255")
    yield rule("std", min(fields["std"]) > 0, "above 0")
    yield rule("rescale", _is_number(fields["rescale"]) and fields["rescale"] > 0, "a number above 0")
    fields["rescale"] = float(fields["rescale"])
    squashed = fields["resize_mode"] == "squash" and fields["resize_size"] == fields["size"]
    is_right = fields["crop"] == "center" or fields["resize_mode"] == "none" or squashed
    yield "crop", is_right, "'none'; then resize_mode must be none, or squash with resize_size equal to size"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def shared_preprocessing(candidates: Mapping[str, Fields], name: str) -> Fields:
    """Return the preprocessing that all published weights of a model name share.

    A checkpoint file does not say how its images were prepared. Where the library's published weights of
    that name disagree (or there are none), a guess would be silent, so it is an error.

    Args:
        candidates: tag → preprocessing, of every published set of weights.

    Raises:
        ExportError: there are none, or they differ (exit 2).
    """
    values = list(candidates.values())
    if values and all(value == values[0] for value in values):
        return dict(values[0])
    why = (
        f"the published weights ({', '.join(list(candidates)[:3])}, …) differ in theirs"
        if values
        else "the library publishes none for this name"
    )
    raise CallError(f"{name}: preprocessing of this checkpoint is not known; {why}", FIELDS_FILE)


def open_photo(path: Path, what: str, why: str, hint: str) -> Image.Image:
    """Return a photo as RGB.

    Args:
        what, why, hint: for the error: what the photo is, why it must be a real one, and the next step.

    Raises:
        ExportError: it is unreadable (exit 2).
    """
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise CallError(f"{path}: {what} is unreadable ({error}); {why}", hint) from error


def preprocess(fields: Fields, image: Image.Image) -> Array:
    """Return a photo as the model sees it: resized, cropped, normalised.

    Shapes: (channel, height, width), float32. Independent equals: open_clip's, timm's, torchvision's and
    transformers' own transforms (tests/exporters/test_families.py).
    """
    image = _resized(image.convert("RGB"), fields)
    if fields["crop"] == "center":
        image = _centred(image, fields)
    pixels = np.asarray(image, dtype=np.float32) * np.float32(fields["rescale"])
    mean, std = (np.asarray(fields[name], dtype=np.float32) for name in ("mean", "std"))
    channels_first = ((pixels - mean) / std).transpose(2, 0, 1)
    if fields["color_order"] == "BGR":
        channels_first = channels_first[::-1]
    return np.ascontiguousarray(channels_first)


def as_transform(fields: Fields) -> Callable[[Image.Image], Tensor]:
    """Return the preprocessing as a function PIL image → torch tensor."""
    import torch

    return lambda image: torch.from_numpy(preprocess(fields, image))


def grey_levels_apart(fields: Fields, ours: Array, theirs: Array) -> float:
    """Return the largest difference of two preprocessed photos in grey levels. Their shapes are the same."""
    if not np.isfinite(theirs).all():
        return math.inf
    std = np.asarray(fields["std"], dtype=np.float64)
    if fields["color_order"] == "BGR":
        std = std[::-1]
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return float((difference * std[:, None, None]).max() / fields["rescale"])


def _resized(image: Image.Image, fields: Fields) -> Image.Image:
    mode, (edge_height, edge_width) = fields["resize_mode"], fields["resize_size"]
    width, height = image.size
    if mode == "none":
        return image
    if mode == "squash":
        target = (edge_width, edge_height)
    elif mode == "shortest" and edge_height == edge_width:
        # the other edge is cut to whole pixels, as torchvision and transformers do
        other = int(edge_height * max(image.size) / min(image.size))
        target = (edge_height, other) if width <= height else (other, edge_height)
    else:  # a box to cover or to fit in: timm's and open_clip's ResizeKeepRatio rounds
        ratios = (height / edge_height, width / edge_width)
        ratio = max(ratios) if mode == "longest" else min(ratios)
        target = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    return image.resize(target, Image.Resampling[fields["interpolation"].upper()])


def _centred(image: Image.Image, fields: Fields) -> Image.Image:
    height, width = fields["size"]

    def start(spare: int) -> int:  # of the crop; the odd pixel of a padding is right and bottom, or left and top
        if fields["crop_rounding"] == "floor":  # as transformers does it
            return spare // 2
        return round(spare / 2) if spare > 0 else -(-spare // 2)

    cropped = Image.new("RGB", (width, height), tuple(fields["fill"]))
    cropped.paste(image, (-start(image.width - width), -start(image.height - height)))
    return cropped


# What no value depends on: fields of any message, and of one kind.
_LEFT_OUT_EVERYWHERE = {"doc_string", "metadata_props"}
_LEFT_OUT = {
    "ModelProto": {"ir_version", "producer_name", "producer_version", "domain", "model_version", "training_info"},
    "GraphProto": {"name", "value_info"},
    "FunctionProto": {"value_info"},
    "NodeProto": {"name"},
}


def graph_digest(model: onnx.ModelProto, folder: Path) -> str:
    """Return "sha256:" + hex over a model's graph and weights.

    Args:
        model: loaded without its external weights, or with them.
        folder: where external weights lie.

    Raises:
        OSError: external weights can't be read.
        ValueError: they end too early.
    """
    text = json.dumps(_value(model, folder), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return "sha256:" + hex of a file's bytes."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def state_digest(module: nn.Module) -> str:
    """Return "sha256:" + hex over the state dict, sorted by name.

    For each entry: UTF-8 text "name dtype d0,d1\\n" (d0, d1, … the shape), then the tensor's bytes (C order).
    """
    import torch

    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        sha.update(f"{name} {tensor.dtype} {','.join(map(str, tensor.shape))}\n".encode())
        sha.update(flat.view(torch.uint8).numpy().tobytes())
    return "sha256:" + sha.hexdigest()


def _value(value: Any, folder: Path) -> Any:
    """Return the fields of a message that are set. Of a tensor it is a digest."""
    if hasattr(value, "DESCRIPTOR"):
        kind = value.DESCRIPTOR.name
        left_out = _LEFT_OUT_EVERYWHERE | _LEFT_OUT.get(kind, set())
        if kind == "TensorProto":
            return _tensor(value, folder)
        return {field.name: _value(inner, folder) for field, inner in value.ListFields() if field.name not in left_out}
    if isinstance(value, float):
        return repr(value)  # JSON has no NaN
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | int) else [_value(item, folder) for item in value]


def _tensor(tensor: onnx.TensorProto, folder: Path) -> list[Any]:
    """Return the fields of a tensor's digest.

    They are [name, data type, dims, hex of the SHA-256 of the raw little-endian bytes].
    """
    import onnx

    digest = hashlib.sha256()
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        size = int(entries["length"])
        with (folder / entries["location"]).open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            content = file.read(size)
        if len(content) < size:
            raise ValueError(f"{entries['location']}: weights end before those of {tensor.name!r}")
        digest.update(content)
    elif tensor.HasField("raw_data"):
        digest.update(tensor.raw_data)
    elif tensor.data_type == onnx.TensorProto.STRING:
        for text in tensor.string_data:
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        digest.update(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)).raw_data)
    return [tensor.name, tensor.data_type, list(tensor.dims), digest.hexdigest()]
