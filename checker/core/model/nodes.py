"""Read, check and sort the nodes of a graph.

ONNX requires that a node comes after those whose outputs it reads, and every walk relies on it. Some tools write
another order, so such nodes are sorted: the float16 conversion of onnxruntime.transformers appends its Casts at the end
of the graph.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from ...errors import CannotAssessError
from .weights import about, damaged

ABSENT = AttributeProto()
Names = tuple[str, ...]
Nodes = Sequence[NodeProto]
ByName = Mapping[str, str]
"""a word of each tensor: the op that makes it, for example"""


def op_set(names: str) -> frozenset[str]:
    """Return the operators that a text lists."""
    return frozenset(names.split())


# operators of ONNX and ONNX Runtime that hold graphs; to look for graphs in every node takes longer than all the rest
HOLDERS = op_set("If Loop Scan SequenceMap FlexAttention BeamSearch GreedySearch Sampling WhisperBeamSearch")


def attribute_of(node: NodeProto, name: str, default: AttributeProto = ABSENT) -> AttributeProto:
    """Return an attribute of a node by its name, or an empty one."""
    return next((attribute for attribute in node.attribute if attribute.name == name), default)


def integer(node: NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of a node, or a default."""
    return int(attribute_of(node, name, AttributeProto(i=default)).i)


def integers(node: NodeProto, name: str) -> list[int]:
    """Return an attribute of a node that is a list of integers: empty where there is none."""
    return list(attribute_of(node, name).ints)


def input_at(node: NodeProto, at: int) -> str:
    """Return the name of a node's input: "" where it has none at this place."""
    return node.input[at] if at < len(node.input) else ""


def text_of(node: NodeProto, name: str) -> str:
    """Return a text attribute of a node: "" where there is none."""
    return str(attribute_of(node, name).s.decode())


def einsum_of(node: NodeProto) -> tuple[list[str], str]:
    """Return the terms and the result of an Einsum's equation, empty ones for another node."""
    equation = text_of(node, "equation").replace(" ", "")
    terms, _, result = equation.partition("->")
    return terms.split(","), result


def needed_nodes(nodes: Nodes, wanted: Iterable[str], without: str | None = None) -> tuple[list[NodeProto], set[str]]:
    """Return the nodes that compute some tensors, sorted, and the names that they read. No node makes `without`."""
    needed = {*wanted}
    selected: list[NodeProto] = []
    for node in reversed(nodes):
        if without not in node.output and not needed.isdisjoint(node.output):
            selected.append(node)
            needed.update(inputs_of(node))
    return selected[::-1], needed


def replace_all(field: Any, entries: Iterable[Any]) -> None:
    """Replace the entries of a repeated field of protobuf."""
    new = list(entries)  # `entries` may read the field
    del field[:]
    field.extend(new)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs inside a node: the branches of If, the body of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nested_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield each node, and then the nodes inside it."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):  # not deep: protobuf parses no message that is nested deeper than 100
            yield from nested_nodes(graph.node)


def bodies(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    """Yield the graphs inside nodes, at any depth."""
    for node in nested_nodes(nodes):
        if node.attribute:
            yield from subgraphs(node)


def inputs_of(node: NodeProto) -> list[str]:
    """Return the names that a node reads, those included that its graphs read from outside."""
    names = [name for name in node.input if name]
    if node.op_type not in HOLDERS:
        return names
    for graph in subgraphs(node):
        within = {*weights_in(graph), *(value.name for value in graph.input)}
        read: list[str] = []
        for inner in graph.node:
            within.update(inner.output)
            read += inputs_of(inner)
        read += [value.name for value in graph.output]
        names += [name for name in read if name not in within]
    return names


def weights_in(graph: GraphProto) -> list[str]:
    """Return the names of a graph's initializers."""
    names = [tensor.name for tensor in graph.initializer]
    return names + [sparse.values.name for sparse in graph.sparse_initializer]


MOST_VERSION = 2**31  # ONNX's schemas take no larger one
MOST_DIMENSIONS = 32  # NumPy's own limit was that for long; models have up to eight
TYPES = frozenset(TensorProto.DataType.values())


def check_well_formed(proto: ModelProto) -> None:
    """Check a model with its inner graphs and functions, and make negative sizes unknown ones, in place.

    ONNX's shape inference ends the process at some negative sizes; exporters write −1 for "any number".

    Raises:
        CannotAssessError: a name that is not UTF-8, two inputs of one name, a type that ONNX does not know, a node
            with fewer inputs than its operator needs.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    graphs = [proto.graph, *bodies(proto.graph.node)]
    for function in proto.functions:
        graphs += bodies(function.node)
    for part in (*proto.functions, *graphs):
        for node in part.node:
            domain = "" if node.domain == "ai.onnx" else node.domain
            least = _least_inputs(node.op_type, domain, versions.get(domain, 0))
            if len(node.input) < least:
                raise damaged(f"node {node.op_type} has {len(node.input)} inputs; it needs at least {least}")
    names: list[object] = [*versions, *(entry.key for entry in proto.metadata_props)]
    for function in proto.functions:
        names += [function.name, function.domain, *function.input, *function.output, *function.attribute]
    for graph in graphs:
        values = [*graph.input, *graph.output, *graph.value_info]
        names += [named.name for named in (*values, *graph.initializer)]
        for node in graph.node:
            names += [node.op_type, node.domain, *node.input, *node.output]
            names += [attribute.name for attribute in node.attribute]
        for weight in graph.initializer:
            if weight.data_type == TensorProto.UNDEFINED:
                raise damaged(f"weight '{weight.name!s:.80}' has no type; each needs one")
        for value in values:
            _check_type(value)
    for word in names:
        if not isinstance(word, str):  # protobuf gives bytes where a name is not UTF-8
            raise damaged(f"name in the graph is {word!r:.80}; names must be UTF-8 text")
    inputs = Counter(value.name for value in proto.graph.input)
    for name, n in inputs.items():
        if n > 1:
            raise damaged(f"several inputs are named '{name:.80}'; each needs a name of its own")


def _check_type(value: ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    if tensor.elem_type not in TYPES:
        raise damaged(f"type of '{value.name!s:.80}' is {tensor.elem_type}; ONNX has no such type")
    check_dimensions(f"'{value.name!s:.80}'", len(tensor.shape.dim))
    for size in tensor.shape.dim:
        if size.dim_value < 0:
            size.ClearField("dim_value")


def check_dimensions(subject: str, n: int) -> None:
    """Refuse a tensor with so many dimensions that the digits of their product may fill the memory.

    Raises:
        CannotAssessError.
    """
    if n > MOST_DIMENSIONS:
        raise damaged(f"{subject} has {n:,} dimensions; at most {MOST_DIMENSIONS} are possible")


@cache
def _least_inputs(op: object, domain: object, version: int) -> int:
    """Return how many inputs an operator needs: 0 for one that ONNX does not know.

    version: of its domain; below 1, as where the model names none, the newest.
    """
    if not isinstance(op, str) or not isinstance(domain, str) or version >= MOST_VERSION:
        return 0
    if version < 1:
        version = MOST_VERSION - 1
    try:
        return int(onnx.defs.get_schema(op, version, domain).min_input)
    except onnx.defs.SchemaError:
        return 0


BEFORE = -1  # stands for what is there before the first node: inputs and weights


def sort_model(proto: ModelProto) -> bool:
    """Sort the nodes of a model, of its functions and of inner graphs, in place, and return whether anything moved.

    Raises:
        CannotAssessError: one name is written twice; nodes read each other in a circle.
    """
    moved = _sort_graph(proto.graph.node, _available(proto.graph))
    for function in proto.functions:
        with about(f"function {function.name}"):
            moved |= _sort_graph(function.node, dict.fromkeys(function.input, "an input"))
    return moved


def sorted_nodes(nodes: Nodes, available: ByName) -> list[NodeProto] | None:
    """Return the nodes with producers before consumers: None if they have that order already.

    Nodes keep their order but for those that are read too early, which move before their first reader. A node reads
    what the graphs inside it read from outside. The time is linear in the number of inputs.

    Args:
        nodes: of one graph.
        available: names that are there before the first node, and what each is, in words.

    Raises:
        CannotAssessError: a name is written twice; nodes read each other in a circle. The message names the tensor.
    """
    makers = _makers(nodes, available)
    sources = [[makers[name] for name in inputs_of(node) if name in makers] for node in nodes]
    if all(source < index for index, read in enumerate(sources) for source in read):
        return None
    order: dict[int, None] = {BEFORE: None}  # nodes in the order in which they were placed
    entered: set[int] = set()
    for start in range(len(nodes)):
        path = [start]
        while path:
            missing = [source for source in sources[path[-1]] if source not in order]
            if not missing:
                order.setdefault(path.pop())
                continue
            entered.add(path[-1])
            for source in missing:
                if source in entered:
                    circle = [at for at in path if at in entered and at not in order]
                    raise _circle(nodes, circle[circle.index(source) :])
            path += reversed(missing)
    return [nodes[index] for index in order if index != BEFORE]


def _makers(nodes: Nodes, available: ByName) -> dict[str, int]:
    """Return the index of the node that writes each name: BEFORE for those that are available."""
    makers = dict.fromkeys(available, BEFORE)
    for index, node in enumerate(nodes):
        for name in node.output:
            if name in makers:
                by = f"{available[name]} and a node" if name in available else "two nodes"
                raise _written_twice(name, by)
            if name:
                makers[name] = index
    return makers


def _sort_graph(nodes: MutableSequence[NodeProto], available: ByName) -> bool:
    """Sort the nodes of one graph after those of the graphs inside them, in place, and return whether one moved."""
    moved = False
    for node in nodes:
        if node.op_type in HOLDERS:
            for graph in subgraphs(node):
                moved |= _sort_graph(graph.node, _available(graph))  # protobuf nests messages 100 times at most
    order = sorted_nodes(list(nodes), available)
    if order is None:
        return moved
    replace_all(nodes, order)
    return True


def _available(graph: GraphProto) -> dict[str, str]:
    """Return a graph's inputs and weights with their kind, where an input may have a weight as its default."""
    kinds = dict.fromkeys((value.name for value in graph.input), "an input")
    for name in weights_in(graph):
        if kinds.get(name) == "a weight":
            raise _written_twice(name, "two weights")
        kinds[name] = "a weight"
    return kinds


def _written_twice(name: str, by: str) -> CannotAssessError:
    return CannotAssessError(
        f"tensor {name!r} is written twice, by {by}; each name must belong to one tensor", "export the model again"
    )


def _circle(nodes: Nodes, circle: Sequence[int]) -> CannotAssessError:
    name = next(name for name in nodes[circle[0]].output if name)
    ops = ", ".join(nodes[index].op_type for index in circle[:4])
    more = ", …" if len(circle) > 4 else ""
    count = "1 node" if len(circle) == 1 else f"{len(circle)} nodes"
    return CannotAssessError(
        f"tensor {name!r} is computed from itself, through {count} ({ops}{more}); "
        "the nodes of a graph must not form a circle",
        "export the model again",
    )
