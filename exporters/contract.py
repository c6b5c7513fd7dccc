"""Describe models to export, and write the contract into their files.

The contract describes an ONNX file and how photos become its input; docs/onnx-file.md is the same thing for people who
write their own exporter. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from . import Texts
from .digests import file_digest, graph_digest, state_digest
from .preprocessing import Array, Fields, as_transform

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

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
FP8 = "fp8-qdq"  # made by other tools alone
CLASS_PLACE = "{}"  # where a template takes the class name


class Output(NamedTuple):
    """The name and the meaning of an output of the graph, and the rule that chose it."""

    name: str
    meaning: str
    rule: str


Outputs = tuple[Output, ...]
EMBEDDING = Output("representation", "projected image embedding", "encoder_output")
LOGITS = Output("logits", "class logits", "logits")


class ModelSource(NamedTuple):
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

    classes: Texts
    templates: Texts

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
        if self.preprocessing is None:
            return None
        return self.preprocessing, as_transform(self.preprocessing)


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
    source: ModelSource
    packages: Texts = ()
    zero_shot: Prompts | None = None
    stated_by: str = ""


def classifier_outputs(head: str) -> Outputs:
    """Return the outputs of a head_tap on a classifier's last layer."""
    return Output("representation", f"input of {head}, the last linear layer", "head_input"), LOGITS


def source_of(library: str, name: str, path: Path | None, weights: str, module: nn.Module) -> ModelSource:
    """Return where a model came from: its weights are those of the file `path`, or without one named `weights`."""
    if path is None:
        return ModelSource(library, name, weights, state_digest(module))
    return ModelSource(library, name, path.name, file_digest(path))


def loaded(
    wanted: Wanted, source: ModelSource, module: nn.Module, outputs: Outputs, pixels: tuple[Fields, Any], *packages: str
) -> Loaded:
    """Return a model ready to export; random weights have no name."""
    if wanted.random_weights:
        source = source._replace(weights="", random_weights=True)
    return Loaded(module, outputs, *pixels, source, packages, wanted.prompts)


def content(
    outputs: Outputs,
    preprocessing: Fields,
    source: ModelSource,
    stated_by: str,
    packages: Sequence[str] = (),
    zero_shot: Prompts | None = None,
) -> Fields:
    """Return a model's contract, without precision and parity.

    Args:
        stated_by: the option or the sidecar that states the preprocessing; empty where the library knows it.
        packages: distributions whose versions are recorded with ONNX's.
    """
    origin = source._asdict()
    if source.matched_to is None:
        del origin["matched_to"]
    fields: Fields = {
        "schema_version": SCHEMA_VERSION,
        "preprocessing": preprocessing,
        "tensors": {output.name: {"meaning": output.meaning, "rule": output.rule} for output in outputs},
        "source": origin,
        "versions": versions(*packages),
    }
    if stated_by:
        fields["preprocessing_from"] = stated_by
    if zero_shot:
        fields["zero_shot"] = zero_shot._asdict()
    return fields


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of this project, ONNX and `packages`."""
    found = {}
    for name in ("robustcheck-onnx", "robustcheck-onnx-cpu", "onnx", "onnxruntime", "onnxruntime-gpu", *packages):
        with suppress(metadata.PackageNotFoundError):  # only one of two: our distributions, ONNX Runtime's
            found[name] = metadata.version(name)
    return found


def embed(model: onnx.ModelProto, contract: Fields, folder: Path) -> None:
    """Write the contract with the graph digest into the model's metadata_props, replacing an earlier one.

    Next to it comes the digest of the model's bytes without metadata, which are the file's first bytes, so that the
    checker need not compute the graph digest of a file that begins with them.

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


def without_folders(name: str) -> str:
    """Return a model name for a published file, with only the last part of a local folder.

    >>> without_folders("local-dir:/data/models/clip"), without_folders("hf-hub:org/repo")
    ('local-dir:clip', 'hf-hub:org/repo')
    """
    schema, _, place = name.partition(":")
    return f"{schema}:{Path(place).name}" if schema == "local-dir" else name
