"""What must hold of a parsed model before it is walked on: names are text, types exist, nodes have their inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

import onnx
from onnx import TensorProto

from robustcheck_onnx.checker.errors import CannotAssessError

from .layers import bodies

AGAIN = "download or export it again"
MOST_VERSION = 2**31  # ONNX's schemas take no larger one
MOST_DIMENSIONS = 32  # NumPy's own limit was that for long; models have up to eight
TYPES = frozenset(TensorProto.DataType.values())


def check_well_formed(where: str, proto: onnx.ModelProto) -> None:
    """Check a model and its inner graphs and functions; a negative size becomes an unknown one, in place.

    ONNX's shape inference ends the process at some negative sizes; exporters write −1 for "any number".

    Raises:
        CannotAssessError: a name that is no UTF-8, two inputs of one name, a type that ONNX does not know, a node
            with fewer inputs than its operator needs.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    names: list[object] = [*versions, *(entry.key for entry in proto.metadata_props)]
    _check_nodes(where, [node for function in proto.functions for node in function.node], versions)
    names += [word for f in proto.functions for word in (f.name, f.domain, *f.input, *f.output, *f.attribute)]
    for graph in _graphs(proto):
        _check_nodes(where, graph.node, versions)
        values = [*graph.input, *graph.output, *graph.value_info]
        names += [value.name for value in values] + [weight.name for weight in graph.initializer]
        names += [word for node in graph.node for word in (node.op_type, node.domain, *node.input, *node.output)]
        names += [attribute.name for node in graph.node for attribute in node.attribute]
        for weight in graph.initializer:
            if weight.data_type == TensorProto.UNDEFINED:
                raise CannotAssessError(f"{where}: weight '{weight.name!s:.80}' has no type; each needs one", AGAIN)
        for value in values:
            _check_type(where, value)
    for word in names:
        if not isinstance(word, str):  # protobuf gives bytes where a name is no UTF-8
            raise CannotAssessError(f"{where}: name in the graph is {word!r:.80}; names must be UTF-8 text", AGAIN)
    twice = [name for name, n in Counter(value.name for value in proto.graph.input).items() if n > 1]
    if twice:
        raise CannotAssessError(
            f"{where}: several inputs are named '{twice[0]:.80}'; each needs a name of its own", AGAIN
        )


def check_dimensions(where: str, what: str, n: int) -> None:
    """Refuse a tensor of many dimensions: their product is a number of as many digits as there is memory for.

    Raises:
        CannotAssessError.
    """
    if n > MOST_DIMENSIONS:
        raise CannotAssessError(f"{where}: {what} has {n:,} dimensions; at most {MOST_DIMENSIONS} are possible", AGAIN)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph, and those inside its nodes and functions."""
    yield proto.graph
    for part in (proto.graph, *proto.functions):
        yield from bodies(part.node)


def _check_type(where: str, value: onnx.ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    if tensor.elem_type not in TYPES:
        raise CannotAssessError(
            f"{where}: type of '{value.name!s:.80}' is {tensor.elem_type}; ONNX has no such type", AGAIN
        )
    check_dimensions(where, f"'{value.name!s:.80}'", len(tensor.shape.dim))
    for size in tensor.shape.dim:
        if size.dim_value < 0:
            size.ClearField("dim_value")


def _check_nodes(where: str, nodes: Iterable[onnx.NodeProto], versions: dict[str, int]) -> None:
    for node in nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        least = _least_inputs(node.op_type, domain, versions.get(domain, 0))
        if len(node.input) < least:
            raise CannotAssessError(
                f"{where}: node {node.op_type} has {len(node.input)} inputs; it needs at least {least}", AGAIN
            )


@cache
def _least_inputs(op: object, domain: object, version: int) -> int:
    """How many inputs an operator needs; 0 for one that ONNX does not know.

    version: of its domain; below 1, as where the model names none, the newest.
    """
    if not isinstance(op, str) or not isinstance(domain, str) or version >= MOST_VERSION:
        return 0
    try:
        if version < 1:
            return int(onnx.defs.get_schema(op, domain).min_input)
        return int(onnx.defs.get_schema(op, version, domain).min_input)
    except onnx.defs.SchemaError:
        return 0
