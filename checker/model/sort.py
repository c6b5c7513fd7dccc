"""Sort the nodes of a graph so that each stands behind those whose outputs it reads; pure.

ONNX asks for that order, and every walk of this room trusts it. Some tools write another one: the float16 conversion of
onnxruntime.transformers appends its Casts at the end of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from itertools import chain

import onnx

from robustcheck_onnx.checker.errors import CannotAssessError

from .layers import subgraphs

# operators of ONNX and ONNX Runtime that hold graphs; to look for graphs in every node takes longer than all the rest
HOLDERS = frozenset(
    ("If", "Loop", "Scan", "SequenceMap", "FlexAttention", "BeamSearch", "GreedySearch", "Sampling",
     "WhisperBeamSearch")
)  # fmt: skip
BEFORE = -1  # stands for what is there before the first node: inputs and weights


def sort_model(proto: onnx.ModelProto, where: str) -> bool:
    """Sort a model's graph, its functions and the graphs inside nodes, in place; say whether anything moved.

    Args:
        proto: the model. where: its file, named in errors.

    Raises:
        CannotAssessError: one name is written twice; nodes read each other in a circle.
    """
    moved = _sort_graph(proto.graph.node, _given(proto.graph, where), where)
    for function in proto.functions:
        given = dict.fromkeys(function.input, "an input")
        moved |= _sort_graph(function.node, given, f"{where}: function {function.name}")
    return moved


def sorted_nodes(nodes: Sequence[onnx.NodeProto], given: Mapping[str, str], where: str) -> list[onnx.NodeProto] | None:
    """Give the nodes in an order in which each reads only what stands before it; None if they have one already.

    Nodes keep their order but for those that are read too early: these move before their first reader. Takes time
    linear in the number of inputs. A node reads what the graphs inside it read from outside.

    Args:
        nodes: of one graph.
        given: names that are there before the first node, and what each is, in words.
        where: the file, named in errors.

    Raises:
        CannotAssessError: a name is written twice; nodes read each other in a circle. The message names the tensor.
    """
    makers = dict.fromkeys(given, BEFORE)
    for index, node in enumerate(nodes):
        for name in node.output:
            if name in makers:
                raise _written_twice(name, f"{given[name]} and a node" if name in given else "two nodes", where)
            if name:
                makers[name] = index
    if all(makers.get(name, BEFORE) < index for index, node in enumerate(nodes) for name in reads(node)):
        return None
    sources = [[makers[name] for name in reads(node) if name in makers] for node in nodes]
    order: list[int] = []
    placed = bytearray(len(nodes)) + b"\1"  # the last one is BEFORE
    entered = bytearray(len(nodes))
    for start in range(len(nodes)):
        path = [start]
        while path:
            index = path[-1]
            missing = [] if placed[index] else [source for source in sources[index] if not placed[source]]
            if not missing:
                path.pop()
                if not placed[index]:
                    placed[index] = 1
                    order.append(index)
                continue
            entered[index] = 1
            for source in missing:
                if entered[source]:
                    raise _circle(nodes, [at for at in path if entered[at] and not placed[at]], source, where)
            path += reversed(missing)
    return [nodes[index] for index in order]


def reads(node: onnx.NodeProto) -> Sequence[str]:
    """Name what a node reads, and what the graphs inside it read from outside. An input that is left out is ""."""
    if node.op_type not in HOLDERS:
        names: Sequence[str] = node.input
        return names
    return [*node.input, *(name for graph in subgraphs(node) for name in _outer_reads(graph))]


def _outer_reads(graph: onnx.GraphProto) -> Iterator[str]:
    written = {name for node in graph.node for name in node.output}
    written.update(value.name for value in graph.input)
    written.update(_weights(graph))
    within = chain.from_iterable(reads(node) for node in graph.node)
    yield from (name for name in chain(within, (value.name for value in graph.output)) if name not in written)


def _sort_graph(nodes: MutableSequence[onnx.NodeProto], given: Mapping[str, str], where: str) -> bool:
    """Sort the nodes of one graph in place, those of the graphs inside them first. `nodes` is a protobuf field."""
    moved = False
    kept = list(nodes)
    for node in kept:
        if node.op_type in HOLDERS:
            for graph in subgraphs(node):  # not deep: protobuf parses no message that is nested deeper than 100
                moved |= _sort_graph(graph.node, _given(graph, where), where)
    order = sorted_nodes(kept, given, where)
    if order is not None:
        del nodes[:]
        nodes.extend(order)
    return moved or order is not None


def _weights(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)


def _given(graph: onnx.GraphProto, where: str) -> dict[str, str]:
    """Name the inputs and the weights of a graph, and say which each is; an input may have a weight as its default."""
    given = dict.fromkeys((value.name for value in graph.input), "an input")
    for name in _weights(graph):
        if given.get(name) == "a weight":
            raise _written_twice(name, "two weights", where)
        given[name] = "a weight"
    return given


def _written_twice(name: str, by: str, where: str) -> CannotAssessError:
    return CannotAssessError(
        f"{where}: tensor {name!r} is written twice, by {by}; each name must stand for one tensor",
        "export the model again",
    )


def _circle(nodes: Sequence[onnx.NodeProto], path: Sequence[int], source: int, where: str) -> CannotAssessError:
    circle = path[path.index(source) :]
    name = next(name for name in nodes[source].output if name)
    ops = ", ".join(nodes[index].op_type for index in circle[:4]) + ", …" * (len(circle) > 4)
    return CannotAssessError(
        f"{where}: tensor {name!r} is computed from itself, through {len(circle)} node{'s' * (len(circle) > 1)} "
        f"({ops}); the nodes of a graph must not form a circle",
        "export the model again",
    )
