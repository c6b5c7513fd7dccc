"""Open an ONNX model for the check: its image input, its representation, and the bytes for ONNX Runtime.

Weights in external files are not touched: the graph gets one more output and ONNX Runtime reads the weights
from their folder, so read-only folders, hard links and models over 2 GB work.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import onnx
import onnx.inliner
import onnxruntime as ort
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, shape_inference
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from robustcheck_onnx.checker.basis import is_change_of_basis
from robustcheck_onnx.checker.contract import Contract, parse_contract
from robustcheck_onnx.checker.dense import refuse_dense
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.image_input import ImageInput, find_image_input
from robustcheck_onnx.checker.layers import Head, Layers, build_layers
from robustcheck_onnx.checker.onnx_file import PROTOBUF_LIMIT_BYTES, Content, OnnxFile, read_onnx
from robustcheck_onnx.checker.representation import Candidate, Representation, choose
from robustcheck_onnx.checker.weights import ExternalFile

SMALL_ELEMENTS = 1024  # initializers up to this size stay in for shape inference: they may be shapes
QUANTISED_OPS = re.compile(r"^(QLinear|QGemm|MatMulInteger|ConvInteger|Dynamic|Quantize|Dequantize|QAttention)")


@dataclass(frozen=True)
class Output:
    """One output of the graph as the author wrote it."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class ModelFile:
    """A model opened for the check; nothing of it has run."""

    path: Path
    digest: str
    """sha256:… of the model: the file's own without external data, else over all digests"""
    model_digest: str
    external: tuple[ExternalFile, ...]
    size_bytes: int
    """with external data"""
    opsets: Mapping[str, int]
    """domain ("ai.onnx" for the default one): version"""
    ir_version: int
    producer: str
    precision: str
    """fp32, fp16, bf16 or int8 (any quantised layer)"""
    image_input: ImageInput
    outputs: tuple[Output, ...]
    contract: Contract | None
    representation: Representation
    candidates: tuple[Candidate, ...]
    head: Head | None
    class_output: str | None
    fetch: str
    """the output to ask ONNX Runtime for"""
    added_output: bool
    """whether `fetch` was added to the graph"""
    graph_bytes: bytes
    """the graph as its author wrote it, and what was added behind"""
    own_size: int
    """bytes of `graph_bytes` before the addition"""
    external_folder: Path | None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height, width (px) that the graph insists on; None when either is open."""
        height, width = self.image_input.height, self.image_input.width
        return None if height is None or width is None else (height, width)

    @property
    def external_digests(self) -> dict[str, str]:
        """Each external file's digest by the name the model gives it."""
        return {file.location: file.digest for file in self.external}


def open_model(
    path: str | Path, *, tensor: str | None = None, pool: str | None = None, read: Content | None = None
) -> ModelFile:
    """Open an ONNX image model and find its representation by rule, or take the user's tensor and pool.

    Args:
        path: the file.
        tensor, pool: as for `pipeline.check`.
        read: the file's content, where that was read already.

    Raises:
        UsageError: no such file; several inputs; the representation can't be told; no such tensor or pool.
        CannotAssessError: unreadable or unsupported model, text encoder, object detector, no image input.
    """
    file = read_onnx(path, read)
    where = str(file.path)
    proto = onnx.inliner.inline_local_functions(file.proto) if file.proto.functions else file.proto
    check_supported(proto, where)
    contract = parse_contract({prop.key: prop.value for prop in proto.metadata_props}, where)
    graph = with_shapes(proto)
    image_input = find_image_input(graph, {tensor.name for tensor in proto.graph.initializer}, where)
    weights = {weight.name: tuple(weight.dims) for weight in proto.graph.initializer}
    layers = build_layers(graph, image_input.name, weights)
    names = tuple(output.name for output in proto.graph.output)
    if contract is None and tensor is None:
        refuse_dense(list(proto.graph.node), layers, names, where)
    choice = choose(layers, names, where, contract=contract, tensor=tensor, pool=pool)
    found = choice.representation
    if found.ends_in in ("linear", "other:Add"):
        turned = is_change_of_basis(proto, layers, found.tensor, file.external_folder)
        if turned is not False:
            ends_in = "change_of_basis" if turned else "linear_unread"
            choice = replace(choice, representation=replace(found, ends_in=ends_in))
    fetch, addition = _addition(proto, choice.representation, layers)
    own = _own_content(proto, file)
    return ModelFile(
        path=file.path,
        digest=digest_of(file),
        model_digest=file.model_digest,
        external=file.external,
        size_bytes=file.size_bytes + sum(part.size_bytes for part in file.external),
        opsets={entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        precision=_precision(proto),
        image_input=image_input,
        outputs=tuple(_output(layers, name) for name in names),
        contract=contract,
        representation=choice.representation,
        candidates=choice.candidates,
        head=choice.head,
        class_output=choice.class_output,
        fetch=fetch,
        added_output=addition is not None,
        graph_bytes=own if addition is None else _with(own, addition, where),
        own_size=len(own),
        external_folder=file.external_folder,
    )


def own_bytes(model: ModelFile) -> bytes:
    """The graph without the added output, as its author wrote it."""
    return model.graph_bytes[: model.own_size]


def check_supported(proto: onnx.ModelProto, where: str) -> None:
    """Refuse what the installed ONNX Runtime can't run, by names and versions, before it is loaded.

    Raises:
        CannotAssessError: opset or IR version too new; an operator that ONNX Runtime does not have.
    """
    runtime = f"ONNX Runtime {ort.__version__}"
    opset, ir_version = supported_versions()
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and opset and entry.version > opset:
            raise CannotAssessError(
                f"{where}: opset is {entry.version}; {runtime} supports up to {opset}",
                f"pip install --upgrade onnxruntime-gpu, or export with opset {min(opset, 18)}",
            )
    if ir_version and proto.ir_version > ir_version:
        raise CannotAssessError(
            f"{where}: IR version is {proto.ir_version}; {runtime} supports up to {ir_version}",
            "pip install --upgrade onnxruntime-gpu, or export with an older onnx",
        )
    known = _operators()
    for node in _nodes(proto.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if known and (domain, node.op_type) not in known:
            close = difflib.get_close_matches(node.op_type, [op for name, op in known if name == domain], n=1)
            raise CannotAssessError(
                f"{where}: node {node.name or node.output[0]!r} uses operator "
                f"{domain or 'ai.onnx'}:{node.op_type}; {runtime} has no such operator"
                + (f" (closest: {close[0]})" if close else ""),
                "export with standard operators; custom operator libraries are not loaded",
            )


@lru_cache(maxsize=1)
def supported_versions() -> tuple[int | None, int | None]:
    """Newest opset and IR version of the installed ONNX Runtime, None where it does not say.

    It has no function for this: its refusal of two absurd one-node models names both limits.
    """
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [end])
    options = ort.SessionOptions()
    options.log_severity_level = 4  # ORT's "fatal": the refusal is wanted, its log line is not
    found: list[int | None] = []
    for opset, ir_version, pattern in (
        (9999, 8, r"till opset (\d+)"),
        (13, 9999, r"max supported IR version: (\d+)"),
    ):
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
        match = None
        try:
            ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except (ort_state.Fail, ort_state.InvalidGraph, ort_state.NotImplemented) as error:
            match = re.search(pattern, str(error))
        found.append(int(match.group(1)) if match else None)
    return found[0], found[1]


@lru_cache(maxsize=1)
def _operators() -> frozenset[tuple[str, str]]:
    schemas = getattr(ort_state, "get_all_operator_schema", None)
    return frozenset((schema.domain, schema.name) for schema in schemas()) if schemas else frozenset()


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
                yield from _nodes(inner)


def with_shapes(proto: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with inferred shapes; big weights stand in as inputs, so that no weight is copied."""
    light = onnx.ModelProto(ir_version=max(proto.ir_version, 4), opset_import=proto.opset_import)
    graph = light.graph
    graph.name = "shapes"
    graph.node.extend(proto.graph.node)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    weights = {weight.name for weight in proto.graph.initializer}
    graph.input.extend(value for value in proto.graph.input if value.name not in weights)
    inline = [
        weight
        for weight in proto.graph.initializer
        if weight.data_location != TensorProto.EXTERNAL and _elements(weight) <= SMALL_ELEMENTS
    ]
    graph.initializer.extend(inline)
    small = {weight.name for weight in inline}
    for weight in proto.graph.initializer:
        if weight.name not in small:
            graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    try:
        return shape_inference.infer_shapes(light, data_prop=True).graph
    except shape_inference.InferenceError:
        # a contradiction in the file's own annotations: ONNX Runtime decides, the walk does without shapes
        return graph


def _elements(tensor: onnx.TensorProto) -> int:
    size = 1
    for dim in tensor.dims:
        size *= dim
    return size


def _output(layers: Layers, name: str) -> Output:
    kind = layers.types.get(name)
    return Output(name, TensorProto.DataType.Name(kind).lower() if kind else "unknown", layers.shapes.get(name))


def _addition(
    proto: onnx.ModelProto, representation: Representation, layers: Layers
) -> tuple[str, onnx.GraphProto | None]:
    """The output to ask for, and what must be added to the graph to have it; None if it is there."""
    fetch, kind = representation.tensor, layers.types.get(representation.tensor)
    addition = onnx.GraphProto()
    if representation.dequantize:
        fetch, kind = f"{fetch}_dequantized", TensorProto.FLOAT
        addition.node.append(
            helper.make_node("DequantizeLinear", [representation.tensor, *representation.dequantize], [fetch])
        )
    if any(output.name == fetch for output in proto.graph.output):
        return fetch, None
    value = onnx.ValueInfoProto(name=fetch)
    if kind:
        value.type.tensor_type.elem_type = kind
    addition.output.append(value)
    return fetch, addition


def _precision(proto: onnx.ModelProto) -> str:
    if any(QUANTISED_OPS.match(node.op_type) for node in proto.graph.node):
        return "int8"
    elements: dict[int, int] = {}
    for weight in proto.graph.initializer:
        elements[weight.data_type] = elements.get(weight.data_type, 0) + _elements(weight)
    names: dict[int, str] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.DOUBLE: "fp64"}
    floats = {kind: size for kind, size in elements.items() if kind in (*names, TensorProto.FLOAT)}
    return names.get(max(floats, key=lambda kind: floats[kind]), "fp32") if floats else "fp32"


def _own_content(proto: onnx.ModelProto, file: OnnxFile) -> bytes:
    """The model without an added output: the file's own bytes, unless something had to be rewritten in them."""
    if proto is file.proto and not file.external:
        return file.content
    try:
        content: bytes = proto.SerializeToString()
    except EncodeError as error:
        raise _too_large(str(file.path)) from error
    return content


def _with(own: bytes, addition: onnx.GraphProto, where: str) -> bytes:
    """The model with nodes and outputs added, without writing its weights again.

    Protobuf merges messages that stand one behind the other: repeated fields (nodes, outputs) are appended.
    """
    merged: bytes = own + onnx.ModelProto(graph=addition).SerializeToString()
    if len(merged) > PROTOBUF_LIMIT_BYTES:
        raise _too_large(where)
    return merged


def _too_large(where: str) -> CannotAssessError:
    return CannotAssessError(
        f"{where}: model can't be written with one more output; protobuf ends at 2 GiB",
        "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
    )


def digest_of(file: OnnxFile) -> str:
    """sha256:… of a model: the file's own without external data, else over all digests."""
    digests = [file.model_digest, *(f"{part.location} {part.digest}" for part in file.external)]
    return file.model_digest if len(digests) == 1 else _digest("\n".join(digests))


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
