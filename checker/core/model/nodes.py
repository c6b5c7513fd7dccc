"""Read, check and sort the nodes of a graph."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from functools import cache

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from ...errors import CannotAssessError
from .weights import about, damaged

Names = tuple[str, ...]
Nodes = Sequence[NodeProto]
ByName = Mapping[str, str]
"""a word of each tensor: the op that makes it, for example"""


def op_set(names: str) -> frozenset[str]:
    """Return the operators that a text lists."""
    return frozenset(names.split())


# operators of ONNX and ONNX Runtime that hold graphs; to look for graphs in every node takes longer than all the rest
HOLDERS = op_set("If Loop Scan SequenceMap FlexAttention BeamSearch GreedySearch Sampling WhisperBeamSearch")


def integer(node: NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of a node. `default` where it has none of this name."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def integers(node: NodeProto, name: str) -> list[int] | None:
    """Return an attribute of a node that is a list of integers. None where it has none of this name."""
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == name), None)


def input_at(node: NodeProto, at: int) -> str:
    """Return the name of a node's input. "" where it has none at this place."""
    return node.input[at] if at < len(node.input) else ""


def text_of(node: NodeProto, name: str) -> str:
    """Return a text attribute of a node. "" where it has none of this name."""
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == name), "")


def einsum_of(node: NodeProto) -> tuple[list[str], str]:
    """Return the terms and the result of an Einsum's equation. Both are empty for another node."""
    terms, _, result = text_of(node, "equation").replace(" ", "").partition("->")
    return terms.split(","), result


def needed_nodes(nodes: Nodes, wanted: Iterable[str], without: str | None = None) -> tuple[list[NodeProto], set[str]]:
    """Return the nodes that compute some tensors.

    They are sorted; the names that they read come with them. None of them makes `without`.
    """
    needed, selected = {*wanted}, list[NodeProto]()
    for node in reversed(nodes):
        if without not in node.output and not needed.isdisjoint(node.output):
            selected.append(node)
            needed.update(inputs_of(node))
    return selected[::-1], needed


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs inside a node. These are the branches of If, and the body of Loop and Scan."""
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
    """Return the names that a node reads. Those that its graphs read from outside are among them."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node) if node.op_type in HOLDERS else ():
        within = {name for inner in graph.node for name in inner.output}.union(
            (value.name for value in graph.input), weights_in(graph)
        )
        read = [name for inner in graph.node for name in inputs_of(inner)] + [value.name for value in graph.output]
        names += [name for name in read if name not in within]
    return names


def weights_in(graph: GraphProto) -> list[str]:
    """Return the names of a graph's initializers."""
    return [tensor.name for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer))]


MOST_VERSION = 2**31  # ONNX's schemas take no larger one
MOST_DIMENSIONS = 32  # NumPy's own limit was that for long; models have up to eight
TYPES = frozenset(TensorProto.DataType.values())


def check_well_formed(proto: ModelProto) -> None:
    """Check a model with its inner graphs and functions. A negative size becomes an unknown one, in place.

    ONNX's shape inference ends the process at some negative sizes; exporters write −1 for "any number".

    Raises:
        CannotAssessError: a name that is not UTF-8, two inputs of one name, a type that ONNX does not know, a node
            with fewer inputs than its operator needs.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    graphs = [proto.graph, *(body for part in (proto.graph, *proto.functions) for body in bodies(part.node))]
    for node in (node for part in (*proto.functions, *graphs) for node in part.node):
        domain = "" if node.domain == "ai.onnx" else node.domain
        least = _least_inputs(node.op_type, domain, versions.get(domain, 0))
        if len(node.input) < least:
            raise damaged(f"node {node.op_type} has {len(node.input)} inputs; it needs at least {least}")
    names: list[object] = [*versions, *(entry.key for entry in proto.metadata_props)]
    names += [word for f in proto.functions for word in (f.name, f.domain, *f.input, *f.output, *f.attribute)]
    for graph in graphs:
        values = [*graph.input, *graph.output, *graph.value_info]
        names += [named.name for named in (*values, *graph.initializer)]
        names += [word for node in graph.node for word in (node.op_type, node.domain, *node.input, *node.output)]
        names += [attribute.name for node in graph.node for attribute in node.attribute]
        for weight in graph.initializer:
            if weight.data_type == TensorProto.UNDEFINED:
                raise damaged(f"weight '{weight.name!s:.80}' has no type; each needs one")
        for value in values:
            _check_type(value)
    for word in names:
        if not isinstance(word, str):  # protobuf gives bytes where a name is not UTF-8
            raise damaged(f"name in the graph is {word!r:.80}; names must be UTF-8 text")
    twice = [name for name, n in Counter(value.name for value in proto.graph.input).items() if n > 1]
    if twice:
        raise damaged(f"several inputs are named '{twice[0]:.80}'; each needs a name of its own")


def _check_type(value: ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    if tensor.elem_type not in TYPES:
        raise damaged(f"type of '{value.name!s:.80}' is {tensor.elem_type}; ONNX has no such type")
    check_dimensions(f"'{value.name!s:.80}'", len(tensor.shape.dim))
    for size in tensor.shape.dim:
        if size.dim_value < 0:
            size.ClearField("dim_value")


def check_dimensions(subject: str, n: int) -> None:
    """Refuse a tensor with too many dimensions. Their product is a number with as many digits as there is memory for.

    Raises:
        CannotAssessError.
    """
    if n > MOST_DIMENSIONS:
        raise damaged(f"{subject} has {n:,} dimensions; at most {MOST_DIMENSIONS} are possible")


@cache
def _least_inputs(op: object, domain: object, version: int) -> int:
    """Return how many inputs an operator needs. 0 for one that ONNX does not know.

    version: of its domain; below 1, as where the model names none, the newest.
    """
    if not isinstance(op, str) or not isinstance(domain, str) or version >= MOST_VERSION:
        return 0
    try:
        return int(onnx.defs.get_schema(op, version if version >= 1 else MOST_VERSION - 1, domain).min_input)
    except onnx.defs.SchemaError:
        return 0


BEFORE = -1  # stands for what is there before the first node: inputs and weights


def sort_model(proto: ModelProto) -> bool:
    """Sort the nodes of a model, in place. Functions and the graphs inside nodes, too; returns whether anything moved.

    Raises:
        CannotAssessError: one name is written twice; nodes read each other in a circle.
    """
    moved = _sort_graph(proto.graph.node, _available(proto.graph))
    for function in proto.functions:
        with about(f"function {function.name}"):
            moved |= _sort_graph(function.node, dict.fromkeys(function.input, "an input"))
    return moved


def sorted_nodes(nodes: Nodes, available: ByName) -> list[NodeProto] | None:
    """Return the nodes with producers before consumers. None if they have that order already.

    Nodes keep their order but for those that are read too early: these move before their first reader. Takes time
    linear in the number of inputs. A node reads what the graphs inside it read from outside.

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
    order, entered = {BEFORE: None}, set[int]()  # placed in this order
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
                    raise _circle(nodes, [at for at in path if at in entered and at not in order], source)
            path += reversed(missing)
    return [nodes[index] for index in order if index != BEFORE]


def _makers(nodes: Nodes, available: ByName) -> dict[str, int]:
    """Return the index of the node that writes each name. It is BEFORE for those that are available."""
    makers = dict.fromkeys(available, BEFORE)
    for index, node in enumerate(nodes):
        for name in node.output:
            if name in makers:
                raise _written_twice(name, f"{available[name]} and a node" if name in available else "two nodes")
            if name:
                makers[name] = index
    return makers


def _sort_graph(nodes: MutableSequence[NodeProto], available: ByName) -> bool:
    """Sort the nodes of one graph, in place.

    Those of the graphs inside them come first. `nodes` is a protobuf field.
    """
    moved = False
    for graph in (graph for node in nodes if node.op_type in HOLDERS for graph in subgraphs(node)):
        moved |= _sort_graph(graph.node, _available(graph))  # protobuf nests messages 100 times at most
    order = sorted_nodes(list(nodes), available)
    if order is not None:
        del nodes[:]
        nodes.extend(order)
    return moved or order is not None


def _available(graph: GraphProto) -> dict[str, str]:
    """Return a graph's inputs and weights with their kind. An input may have a weight as its default."""
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


def _circle(nodes: Nodes, path: Sequence[int], source: int) -> CannotAssessError:
    circle = path[path.index(source) :]
    name = next(name for name in nodes[source].output if name)
    ops = ", ".join(nodes[index].op_type for index in circle[:4]) + ", …" * (len(circle) > 4)
    return CannotAssessError(
        f"tensor {name!r} is computed from itself, through {len(circle)} node{'s' * (len(circle) > 1)} "
        f"({ops}); the nodes of a graph must not form a circle",
        "export the model again",
    )
