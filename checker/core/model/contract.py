"""Read the contract: the metadata by which an export describes itself, with a digest of the file's graph and weights.

`exporters/contract.py` computes the same digest when it writes a file; docs/dev/graph-digest.md defines it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any, Literal

from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, StringStringEntryProto, TensorProto
from pydantic import Field, ValidationError, field_validator

from ....thresholds.records import Frozen, unique_keys
from ...errors import NEWER, CannotAssessError
from ...text import Texts, digest_of, short_digest
from ..evidence import Int8Sums
from ..preprocessing import Preprocessing
from .file import OnnxFile
from .weights import Weights, pieces_of

CONTRACT_KEY = "robustcheck.contract"
BEGINNING_KEY = "robustcheck.beginning"  # of metadata, see `changed`
EXPORT_AGAIN = "export the model again with `robustcheck export`"
SCHEMA_VERSION = 1  # the newest contract this version reads


class TensorEntry(Frozen):
    """What one graph output is."""

    meaning: str
    """in words, for the report"""
    rule: Literal["encoder_output", "head_input", "pooled", "logits"]
    """thresholds hold only for the rule that they were calibrated on"""


class SourceModel(Frozen):
    """Which model was exported, and from where."""

    library: str
    name: str
    weights: str
    weights_digest: str
    """sha256:… of the weights file, empty when there was none"""
    random_weights: bool
    """True: nobody trained this model"""
    synthetic: str = ""
    """says what was planted by hand; empty for a model as it was trained"""
    matched_to: str | None = Field(default=None, min_length=1, max_length=200)
    """the encoder whose vectors it was trained to give (distillation, feature matching); "none": it was not; None: not
    said"""


class VectorAgreement(Frozen):
    """What an int8 file keeps of its original's vectors, on photos that did not calibrate."""

    cosine: float
    """of the same photo's vectors, in the worst 5 % of the photos"""
    recall: float
    """recall@10 among the photos"""
    features: int
    """outlier features of the original that are kept"""


class FormParity(Frozen):
    """The form of an int8 file, and how it was chosen."""

    name: str
    photos: int
    outlier_features: int
    """of the original"""
    plain: VectorAgreement
    """in sessions as every run opens them, on the CPU that made the file"""
    exact: VectorAgreement
    """with exact sums"""


class Parity(Frozen):
    """The largest differences between eager mode and ONNX Runtime. They are measured on real photos."""

    max_abs: float
    max_rel: float
    min_cosine: float
    batches: tuple[int, ...]
    photos: int
    int8_sums: Int8Sums | None = None
    """on the processor that an int8 file was compared on; None: of another precision, or not known"""
    form: FormParity | None = None
    """of a file with the precision int8-qdq; None: of another precision, or not known"""


class ZeroShot(Frozen):
    """What the logits of a zero-shot classifier are of."""

    classes: Texts
    """names, in the order of the logits"""
    templates: Texts
    """prompts that the names were put into, {} for the name; their text embeddings were averaged"""


class TakenOver(Frozen):
    """The file whose contract was taken over for a file that another tool made of it."""

    file: str = Field(max_length=255)
    """its name"""
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    """as reports show it: of the file, or over it and its external weights"""


class Contract(Frozen):
    """Schema 1 of the contract. Exporters write it and the checker reads it."""

    schema_version: Literal[1]
    preprocessing: Preprocessing
    preprocessing_from: str = Field(default="", max_length=300)
    """the option or the sidecar that stated it when a plain file got its contract; empty where an exporter knew it"""
    taken_over_from: TakenOver | None = None
    """the unchanged file whose contract this was; None: it was written for this file"""
    tensors: dict[str, TensorEntry]
    """keys are names of graph outputs; "representation" is always there"""
    source: SourceModel
    versions: dict[str, str]
    precision: Literal["fp32", "fp16", "int8-dynamic", "int8-qdq", "fp8-qdq"]
    parity: Parity | None = None
    zero_shot: ZeroShot | None = None
    """only of a file whose logits come from a text tower"""
    graph_digest: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    """of the file's graph and weights when it was written (`graph_digest`); None: not said"""

    @field_validator("tensors")
    @classmethod
    def _names_the_representation(cls, tensors: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
        if "representation" not in tensors:
            raise ValueError('there is no entry "representation"')
        return tensors


def stated_in(contract: Contract | None) -> tuple[Preprocessing | None, str]:
    """Return the preprocessing of a contract and where it has it from: None without a contract.

    That is what stated it when the first contract was written, and the file from which this contract was taken over.
    """
    if contract is None:
        return None, ""
    sources = [contract.preprocessing_from] if contract.preprocessing_from else []
    if taken := contract.taken_over_from:
        sources.append(f"taken over from {taken.file}, {short_digest(taken.digest)}")
    return contract.preprocessing, "; ".join(sources)


def parse_contract(model: ModelProto, where: str) -> Contract | None:
    """Read the contract from a model's metadata properties. None when the model has none.

    `where` names the file in messages.

    Raises:
        CannotAssessError: there are two; the contract is of a newer schema, is not a JSON object, or breaks the schema.
            Such a contract is never ignored: preprocessing and tensor would silently change their meaning.
    """
    texts = [entry.value for entry in model.metadata_props if entry.key == CONTRACT_KEY]
    if not texts:
        return None
    meaning = f"metadata {CONTRACT_KEY} must hold"

    def odd(problem: str, hint: str = EXPORT_AGAIN) -> CannotAssessError:
        return CannotAssessError(f"{where}: contract {problem}", hint)

    if len(texts) > 1:
        message = f"{where}: number of contracts is {len(texts)}; metadata {CONTRACT_KEY} must occur in a file once"
        raise CannotAssessError(message, EXPORT_AGAIN)
    try:
        raw = json.loads(texts[0], object_pairs_hook=unique_keys)
    except RecursionError as error:
        raise odd(f"is nested too deeply; {meaning} one JSON object") from error
    except json.JSONDecodeError as error:
        raise odd(f"is not JSON ({error.msg} at character {error.pos}); {meaning} one JSON object") from error
    except ValueError as error:
        raise odd(f"is ambiguous ({error}); every key of metadata {CONTRACT_KEY} must occur in it once") from error
    if not isinstance(raw, dict):
        raise odd(f"is a JSON {type(raw).__name__}; {meaning} an object")
    version = raw.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise odd(f"has schema version {version}; this robustcheck reads up to {SCHEMA_VERSION}", NEWER)
    if isinstance(version, bool | float):  # equal to 1, to pydantic, too
        raise odd(f"does not match schema {SCHEMA_VERSION} (schema_version: {json.dumps(version)} is not a version)")
    try:
        return Contract.model_validate_json(texts[0], strict=True)
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False)[:3]:
            field = ".".join(str(part) for part in fault["loc"]) or "contract"
            faults.append(f"{field}: {fault['msg']}")
        raise odd(f"does not match schema {SCHEMA_VERSION} ({'; '.join(faults)})") from error


def changed(contract: Contract | None, file: OnnxFile) -> bool | None:
    """Return whether graph or weights changed. None: the contract has no digest of them.

    The export writes the digest of graph and weights together with that of the file's bytes before the metadata. A file
    of the same bytes and metadata, and nothing else, has the same graph and weights: their digest is not computed.
    """
    if contract is None or contract.graph_digest is None:
        return None
    entry = StringStringEntryProto(key=BEGINNING_KEY, value=f"{contract.graph_digest} {file.beginning}")
    if file.beginning and entry in file.proto.metadata_props and not file.external:
        return False
    return contract.graph_digest != graph_digest(file.proto, file.weights)


NONE = Weights(open_folder=None, content=b"", places={})
# What no value depends on; any other field counts, also one that a later ONNX adds.
LEFT_OUT_EVERYWHERE = {"doc_string", "metadata_props"}
LEFT_OUT = {
    "onnx.ModelProto.ir_version",
    "onnx.ModelProto.producer_name",
    "onnx.ModelProto.producer_version",
    "onnx.ModelProto.domain",
    "onnx.ModelProto.model_version",
    "onnx.ModelProto.training_info",
    "onnx.GraphProto.name",
    "onnx.GraphProto.value_info",
    "onnx.FunctionProto.value_info",
    "onnx.NodeProto.name",
}


def graph_digest(proto: ModelProto, weights: Weights = NONE) -> str:
    """Return the digest of nodes, attributes, inputs, outputs, opsets, functions and weights, sha256:….

    The digest is over canonical JSON of the model: an object for each message with the fields that are set, without
    what no value depends on (names of nodes, metadata, doc strings, …). A tensor is [name, data type, dims, hex of the
    SHA-256 of its raw little-endian bytes]. No weight is copied, and external ones are read in pieces.

    Args:
        proto: as `read_onnx` gives it, before anything of it is left out or opened up.
        weights: `OnnxFile.weights`; left out for a model that holds all values itself.
    """
    return digest_of(_form(proto, weights))


def _form(value: Any, weights: Weights) -> Any:
    """Give the JSON form of a field's value."""
    if isinstance(value, TensorProto):
        digest = hashlib.sha256()
        for piece in pieces_of(value, weights):
            digest.update(piece)
        return [value.name, value.data_type, list(value.dims), digest.hexdigest()]
    if isinstance(value, Message):
        if not isinstance(value, ModelProto | GraphProto):  # places are of the main graph's initializers
            weights = replace(weights, places={})
        form = {}
        for field, inner in value.ListFields():
            if field.name not in LEFT_OUT_EVERYWHERE and field.full_name not in LEFT_OUT:
                form[field.name] = _form(inner, weights)
        return form
    if isinstance(value, float):
        return repr(value)  # JSON has no NaN
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str | int):
        return value
    return [_form(item, weights) for item in value]
