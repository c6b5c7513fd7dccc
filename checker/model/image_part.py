"""Cut a graph with several inputs down to the outputs that need the image alone, or say which output needs what.

A whole CLIP takes pixel values and the tokens of texts; its image embedding needs only the pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet

import onnx

from robustcheck_onnx.checker.errors import CannotAssessError

from .image_input import VISION_ALONE, describe_input, looks_like_image
from .sort import reads

SHOWN = 4  # outputs that a message names


def keep_image_part(proto: onnx.ModelProto, where: str) -> tuple[str, ...]:
    """Remove, in place, what the outputs that need only the image input don't need; name what was left out.

    Weights that a file lists as inputs (they are defaults) are no inputs here. A graph with one input, or without an
    image input, stays as it is.

    Args:
        proto: its nodes are sorted and its functions opened up. where: its file, named in errors.

    Returns:
        The inputs, then the outputs that were left out, each as "input NAME" or "output NAME".

    Raises:
        CannotAssessError: several inputs, and no output needs the image alone, or each of several images has some.
    """
    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    images = [value.name for value in inputs if looks_like_image(value)]
    if len(inputs) < 2 or not images:
        return ()
    needs = _needs(graph, [value.name for value in inputs])
    by_image = {image: [name for name, found in needs.items() if found == {image}] for image in images}
    found = {image: names for image, names in by_image.items() if names}
    if len(found) != 1:
        raise _unclear(inputs, needs, found, where)
    ((image, outputs),) = found.items()
    left_out = [f"input {value.name}" for value in inputs if value.name != image]
    left_out += [f"output {name}" for name in needs if name not in outputs]
    _keep(graph, outputs, {value.name for value in inputs} - {image})
    return tuple(left_out)


def _needs(graph: onnx.GraphProto, inputs: Sequence[str]) -> dict[str, set[str]]:
    """Name, for each output of a sorted graph, the inputs that it is computed from, be it only from their shapes."""
    bits = {name: 1 << index for index, name in enumerate(inputs)}  # of each tensor, the set of its inputs as bits
    for node in graph.node:
        needed = 0
        for name in reads(node):
            needed |= bits.get(name, 0)
        if needed:
            bits.update(dict.fromkeys(node.output, needed))
            bits.pop("", None)  # an output that is left out, as is an input of that name
    return {
        value.name: {name for index, name in enumerate(inputs) if bits.get(value.name, 0) >> index & 1}
        for value in graph.output
    }


def _keep(graph: onnx.GraphProto, outputs: Collection[str], without: AbstractSet[str]) -> None:
    """Keep of a sorted graph what `outputs` need, but for the inputs `without`, which they don't."""
    needed, nodes = set(outputs), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(reads(node), node.output)
    kept = {
        "node": nodes[::-1],
        "input": [value for value in graph.input if value.name not in without and value.name in needed],
        "output": [value for value in graph.output if value.name in outputs],
        "initializer": [tensor for tensor in graph.initializer if tensor.name in needed],
        "sparse_initializer": [tensor for tensor in graph.sparse_initializer if tensor.values.name in needed],
        "value_info": [value for value in graph.value_info if value.name in needed],
        "quantization_annotation": [note for note in graph.quantization_annotation if note.tensor_name in needed],
    }
    for field, entries in kept.items():
        graph.ClearField(field)
        getattr(graph, field).extend(entries)


def _unclear(
    inputs: Sequence[onnx.ValueInfoProto],
    needs: dict[str, set[str]],
    found: dict[str, list[str]],
    where: str,
) -> CannotAssessError:
    listed = ", ".join(describe_input(value) for value in inputs)
    if found:
        pairs = "; ".join(f"{names[0]} needs {image} alone" for image, names in found.items())
        return CannotAssessError(
            f"{where}: inputs are {listed}; {pairs}; it must be clear which of them takes the photos", VISION_ALONE
        )
    pairs = "; ".join(f"{name} needs {', '.join(sorted(used)) or 'none'}" for name, used in [*needs.items()][:SHOWN])
    more = f"; … ({len(needs)} outputs)" if len(needs) > SHOWN else ""
    return CannotAssessError(
        f"{where}: inputs are {listed}; {pairs}{more}; an output must need the image input alone", VISION_ALONE
    )
