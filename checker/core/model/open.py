"""Open an ONNX model for the check: find its image input, its representation, and the bytes for ONNX Runtime.

Weights in external files are not touched: the graph gets one more output and ONNX Runtime reads the weights
from their folder, so read-only folders, hard links and models over 2 GB work. Models that can't be checked are refused:
unknown operators, object detectors, segmenters.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import make_node

from ....thresholds.ends import End
from ...errors import CannotAssessError
from ...text import frozen
from ..evidence import GraphScaling
from .constants import Constants, is_change_of_basis
from .contract import Contract, changed, parse_contract
from .ends import EMBEDDINGS
from .file import Graph, OnnxFile, drop_pages, read_onnx
from .image_input import ImageInput, find_image_input, keep_image_part
from .last_layer import Head
from .layers import BITS, FLOATS, SMALL_FLOATS, Layers, Shape, build_layers, name_of_type, with_shapes
from .nodes import Names, integer, nested_nodes, sort_model
from .refusals import check_supported, refuse_dense, refuse_giants
from .representation import Candidate, Representation, choose, find_candidates
from .scaling import find_scalings
from .watched import refuse_changed
from .weights import about, tensors_of

MOST_NODES = 100_000  # that functions may open up to; they can call each other, twice as many a level
DEEPEST_CALL = 101  # onnx refuses calls of functions that are deeper than 100
QUANTISED_OPS = re.compile(r"^(QLinear|QGemm|MatMulInteger|ConvInteger|Dynamic|Quantize|Dequantize|QAttention)")


class GraphOutput(NamedTuple):
    """One output of the author's graph."""

    name: str
    dtype: str
    shape: Shape | None


@frozen
class ModelFile:
    """A model opened for the check. Nothing of it has run."""

    graph: Graph
    """as its author wrote it, and what is added to it; its `file` has digests and weights"""
    opsets: Mapping[str, int]
    """domain ("ai.onnx" for the default one): version"""
    ir_version: int
    producer: str
    precision: str
    """fp64, fp32, fp16 or bf16, as most weights are; with any quantised layer int8, fp8 or fp4"""
    contract: Contract | None
    file_changed: bool | None
    """whether the graph or weights are others than those the contract was written for; None: no contract says"""

    image_input: ImageInput
    scalings: tuple[GraphScaling, ...]
    """what the graph itself does to the image input before its first layer: several where branches differ"""
    knows_scalings: bool
    """False: what the graph does to the image input could not be read"""
    left_out: Names
    """of a graph with several inputs, each as "input NAME" or "output NAME": what needs more than the image"""

    outputs: tuple[GraphOutput, ...]
    """of the author's graph"""
    class_output: str | None
    """the output that has class scores"""
    head: Head | None
    """the linear layer that makes them"""
    candidates: tuple[Candidate, ...]
    """the tensors that could be the representation"""
    representation: Representation
    """the tensor that is read, and why"""
    fetch: str
    """the output to ask ONNX Runtime for"""
    added_output: bool
    """whether `fetch` was added to the graph"""

    @property
    def file(self) -> OnnxFile:
        """Return the file that was read."""
        return self.graph.file

    @property
    def path(self) -> Path:
        """Return the file's path."""
        return self.file.path

    @property
    def scaling(self) -> GraphScaling | None:
        """Return the first of `scalings`: None where the graph does nothing to the values, or this is unknown."""
        return self.scalings[0] if self.scalings else None


def open_model(path: str | Path, *, tensor: str | None = None, pool: str | None = None) -> ModelFile:
    """Open an ONNX image model and find its representation, by rule or as the user named tensor and pool.

    Args:
        path: the file.
        tensor, pool: as for `check`.

    Raises:
        UsageError: no such file; several tensors could be the representation; no such tensor or pool.
        CannotAssessError: unreadable or unsupported model, a circle of nodes, a name that is written twice, text
            encoder, object detector, no image input, several inputs of which every output needs more than the image.
    """
    file = read_onnx(Path(path))
    where = str(file.path)
    contract = parse_contract(file.proto, where)
    file_changed = changed(contract, file)
    drop_pages(file.weights.content)
    with about(where):
        moved = sort_model(file.proto)
        proto = _inlined(file.proto) if file.proto.functions else file.proto
        left_out = keep_image_part(proto)
        operators = check_supported(proto)
        graph = with_shapes(proto)
        refuse_giants(proto, graph)
        image_input = find_image_input(proto.graph)
        layers = build_layers(graph, image_input.name, proto.graph.initializer)
        names = tuple(output.name for output in proto.graph.output)
        if contract is None and tensor is None:
            refuse_dense(operators, layers, names, where)
    choice = choose(layers, names, where, contract=contract, tensor=tensor, pool=pool)
    constants = Constants(proto, layers, file.weights)
    representation = _with_end_by_weights(choice.representation, constants)
    fetch, addition = _addition(proto, representation, layers)
    if file.mapped is not None:  # what was parsed is what was digested
        refuse_changed(file.path, (file.mapped,))
    scalings = find_scalings(constants, image_input, representation.tensor)
    is_rewritten = moved or bool(left_out) or bool(file.external) or proto is not file.proto
    return ModelFile(
        graph=Graph(file, proto, rewritten=is_rewritten, addition=addition),
        opsets={entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        precision=precision(proto),
        contract=contract,
        file_changed=file_changed,
        image_input=image_input,
        scalings=scalings or (),
        knows_scalings=scalings is not None,
        left_out=left_out,
        outputs=tuple(_output(layers, name) for name in names),
        class_output=choice.class_output,
        head=choice.head,
        candidates=find_candidates(layers, names),
        representation=representation,
        fetch=fetch,
        added_output=bool(addition.output),
    )


def _inlined(proto: ModelProto) -> ModelProto:
    """Open up the functions of a model.

    Raises:
        CannotAssessError: a function calls itself, or has another fault; the graph would have too many nodes.
    """
    functions = {(function.domain, function.name): function for function in proto.functions}
    sizes: dict[tuple[str, str], int] = {}  # nodes of a function, opened up

    def size(nodes: Iterable[NodeProto], depth: int) -> int:
        total = 0
        for node in nested_nodes(nodes):
            key = (node.domain, node.op_type)
            if key in functions and key not in sizes and depth < DEEPEST_CALL:
                sizes[key] = 1  # while it is opened up: ONNX refuses one that calls itself, or calls too deep
                sizes[key] = size(functions[key].node, depth + 1)
            total += max(1, sizes.get(key, 1))
            if total > MOST_NODES:
                break
        return total

    if size(proto.graph.node, 0) > MOST_NODES:
        raise CannotAssessError(
            f"functions expand to more than {MOST_NODES:,} nodes; no image model has so many",
            "export the model again without functions",
        )
    try:
        return onnx.inliner.inline_local_functions(proto)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise CannotAssessError(
            f"functions can't be expanded ({' '.join(str(error).split())[:200]})", "export the model again"
        ) from error


def _with_end_by_weights(representation: Representation, constants: Constants) -> Representation:
    """Return a representation whose end, such as a change of basis, takes the linear layer's weights into account."""
    if representation.ends_in not in EMBEDDINGS:
        return representation
    is_change = is_change_of_basis(constants, representation.tensor)
    if is_change is None:
        return replace(representation, ends_in=End("linear_unread"))
    return replace(representation, ends_in=End("change_of_basis")) if is_change else representation


def _addition(proto: ModelProto, representation: Representation, layers: Layers) -> tuple[str, GraphProto]:
    """Return the output to ask for, and what the graph lacks for it: nothing if it is there."""
    fetch = representation.tensor
    kind = layers.types.get(fetch)
    addition = GraphProto()
    if representation.dequantize:
        quantised = [fetch, *representation.dequantize]
        fetch = f"{fetch}_dequantized"
        kind = TensorProto.FLOAT
        addition.node.append(make_node("DequantizeLinear", quantised, [fetch]))
    if any(output.name == fetch for output in proto.graph.output):
        return fetch, GraphProto()
    value = ValueInfoProto(name=fetch)
    if kind:
        value.type.tensor_type.elem_type = kind
    addition.output.append(value)
    return fetch, addition


def precision(proto: ModelProto) -> str:
    """Return what most weights are, such as fp32; with any quantised layer, int8 or a float of 4 or 8 bits.

    Graphs inside nodes count, too. Where floats and integers are quantised it is int8, whose sums depend on the CPU.
    """
    tensors, _ = tensors_of(proto)
    nodes = list(nested_nodes(proto.graph.node))
    if any(QUANTISED_OPS.match(node.op_type) for node in nodes):
        kinds = {tensor.data_type for tensor in tensors}
        kinds.update(integer(node, "output_dtype", 0) for node in nodes)
        small = {SMALL_FLOATS[kind] for kind in kinds & SMALL_FLOATS.keys()}
        return min(small, default="int8") if kinds.isdisjoint(BITS) else "int8"
    names: dict[int, str] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.DOUBLE: "fp64"}
    sizes = Counter[str]()
    for tensor in tensors:
        if tensor.data_type in FLOATS:
            sizes[names.get(tensor.data_type, "fp32")] += math.prod(tensor.dims)
    return max(sizes, key=sizes.__getitem__, default="fp32")


def _output(layers: Layers, name: str) -> GraphOutput:
    return GraphOutput(name, name_of_type(layers.types.get(name)), layers.shapes.get(name))
