"""Find the ends of a model's blocks in its graph.

A residual block is an addition of two branches that part at one tensor, its source, when at least one of them holds a
linear layer and the other is the source itself or a linear map, norm or pooling of it (the shortcut of a block that
changes its width). That is how the residual stream of transformers and the blocks of ResNets, ConvNeXts and MobileNets
are written. A graph without one is cut where width or resolution of what all paths lead through changes.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from ...arrays import AnyArray
from ...core.model.layer_end import ACTIVATION, NORMALISATION
from ...core.model.layers import LINEAR, POOL, RESHAPE, Layers, build_layers, show_shape, with_shapes
from ...core.model.open import ModelFile
from ...core.model.pooling import choose_pool
from ...core.preprocessing import Preprocessing
from ...core.runtime.runner import Runner
from ...errors import CannotAssessError, UsageError
from ...text import quoted
from .nodes import MIN_OPSET, OUTPUT, add_scan, add_shapes, read_shapes
from .taps import Shape, Tap

MIN_FEATURES = 8  # narrower tensors (kurtosis is at most about the width) are left out
_FLOAT_OR_UNKNOWN = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16, None))
ATTENTION = frozenset(
    ("Softmax", "Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "QLinearSoftmax")
)
SUMS = frozenset(("Add", "Sum", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"))
SKIP_SUM_AT = 3  # output of ONNX Runtime's Skip…LayerNormalization that holds the sum itself
SAME_VALUES = frozenset(("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"))
SHORTCUT = LINEAR.union(NORMALISATION, POOL, RESHAPE, ("Add", "Mul", "Pad"))
Kinds = dict[str, str]
"""The tensors at the ends of blocks, in the order of the graph, and the kind of each.

attention, mlp or convolution: what the branch of a residual block holds; stem: what enters the first of them; stage:
what enters one and is the end of no other, or the last tensor before a change of width or resolution; named: by the
user
"""


class ScanPlan(NamedTuple):
    """Where to measure."""

    taps: tuple[Tap, ...]
    rule: str
    n_left_out: int


def plan_scan(
    model: ModelFile,
    pixels: AnyArray,
    device: str = "cpu",
    named: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
) -> ScanPlan:
    """Find the ends of a model's blocks and their axes, from the graph and the shapes of one run.

    Args:
        model: from `open_model`.
        pixels: (image, height, width, 3), as `Runner.run` takes them; one or more.
        device: where to run.
        named: tensors to take instead.
        preprocessing: as for `Runner`.

    Raises:
        UsageError: no such tensor.
        CannotAssessError: no block was found; an opset below 11.
    """
    proto = model.graph.stripped()
    opset = model.opsets.get("ai.onnx", 0)
    if opset < MIN_OPSET:
        raise CannotAssessError(
            f"{model.path}: opset is {opset}; the nodes of a scan need {MIN_OPSET}",
            "export with opset 18, then scan again",
        )
    image = model.image_input.name
    layers = build_layers(with_shapes(proto), image, proto.graph.initializer)
    nodes = list(proto.graph.node)
    residuals = []
    passages = []
    if not named:
        ancestry = Ancestry(layers, nodes, model.fetch)
        residuals = find_residuals(ancestry)
        passages = find_passages(ancestry)
    for name in named:
        _check_named(layers, name, model.path)
    wanted = {model.fetch, *passages, *named}
    for residual in residuals:
        wanted |= {*residual.branches, residual.total, residual.output, residual.source}
    tensors = [name for name in sorted(wanted) if layers.types.get(name) in _FLOAT_OR_UNKNOWN]
    if len(pixels) == 1:
        pixels = np.concatenate([pixels, pixels])  # else any axis of length 1 could be the images'
    add_shapes(proto, tensors, image, opset)
    runner = Runner(_with_output(model, proto), device, preprocessing=preprocessing)
    (representations,) = runner.represent_sets([pixels])
    ((row, *_),) = representations
    shapes = read_shapes(row, tensors)
    batch = runner.fixed_batch or len(pixels)
    size = pixels.shape[1:3]

    order = {name: index for index, node in enumerate(nodes) for name in node.output}
    rule = "named"
    kinds = dict.fromkeys(sorted(set(named), key=order.__getitem__), "named")
    if not kinds:
        rule = "residual"
        kinds = residual_blocks(layers, residuals, shapes, order)
    if not kinds:
        rule = "stages"
        kinds = stage_blocks(layers, passages, shapes)
    kinds.pop(model.fetch, None)
    kinds[model.fetch] = "representation"
    taps = []
    for name, kind in kinds.items():
        tap = _tap(layers, name, shapes.get(name, ()), batch, size)
        if tap is not None:
            taps.append(tap._replace(kind=kind))
    if all(tap.kind == "representation" for tap in taps):
        first = list(kinds)[:3]
        unread = "; ".join(f"{name} {show_shape(shapes.get(name))}" for name in first)
        raise CannotAssessError(
            f"{model.path}: no blocks found (seen: {unread}); a scan needs residual additions or layers that "
            f"change width or resolution, with the image as first axis and at least {MIN_FEATURES} features",
            f"robustcheck scan {quoted(model.path)} --block TENSOR",
        )
    n_left_out = len(kinds) - len(taps)
    return ScanPlan(tuple(taps), rule, n_left_out)


def measuring_model(model: ModelFile, plan: ScanPlan) -> ModelFile:
    """Return the model with the nodes that measure, whose output is OUTPUT."""
    proto = model.graph.stripped()
    is_double = model.precision == "fp64"
    add_scan(proto, plan.taps, is_double, model.opsets["ai.onnx"])
    return _with_output(model, proto)


def _check_named(layers: Layers, name: str, where: Path) -> None:
    names = sorted(layers.image_tensors & layers.producers.keys())
    hint = f"robustcheck inspect {quoted(where)}"
    if name not in names:
        if near := difflib.get_close_matches(name, names, 3, 0.5):
            hint = f"--block with one of: {', '.join(near)}"
        raise UsageError(f"{where}: --block is {name!r}; no tensor of that name is computed from the image", hint)
    if layers.types.get(name) not in _FLOAT_OR_UNKNOWN:
        kind = TensorProto.DataType.Name(layers.types[name])
        raise UsageError(f"{where}: --block is {name!r} of type {kind}; only float tensors are measured", hint)


def _tap(layers: Layers, tensor: str, shape: Shape, batch: int, size: tuple[int, int]) -> Tap | None:
    """Return the axes of images, places and features, or None where they are unclear or features are too few.

    batch, size: number of images, and their height and width (px).
    """
    if len(shape) not in {2, 3, 4} or 0 in shape:
        return None
    form = "vector" if len(shape) == 2 else "tokens"
    if shape[0] != batch:
        if len(shape) != 3 or shape[1] != batch:
            return None  # rows are not images: windows, images and tokens in one axis
        form = "tokens_first"
        shape = (shape[1], shape[0], shape[2])
    pooling = choose_pool(layers, tensor, shape)
    features = shape[-1]
    positions = shape[1:-1]
    if len(shape) == 4:
        last: bool | None = pooling.feature_axis == -1
        if pooling.assumed:
            last = _read_last(layers, tensor)
        if last is None:
            return None
        form = "map_last"
        if not last:
            form = "map"
            features = shape[1]
            positions = shape[2:]
        # windows and their tokens, not height and width: within rounding, a map has the sides of the image
        if abs(positions[0] * size[1] - positions[1] * size[0]) > max(size):
            return None
    if features < MIN_FEATURES:
        return None
    has_class_token = pooling.pool == "token_cls" and not pooling.assumed
    node = layers.producers.get(tensor)
    is_rectified = node is not None and node.op_type == "Relu"
    return Tap(tensor, form, features, positions, has_class_token, is_rectified)


def _read_last(layers: Layers, tensor: str) -> bool | None:
    """Return whether the features are on the last axis, or None where no layer that reads the tensor shows it."""
    for node in layers.producers.values():
        if tensor in node.input[:1]:
            if node.op_type in ("LayerNormalization", "MatMul", "Gemm"):
                return True
            if "Conv" in node.op_type or node.op_type in ("BatchNormalization", "InstanceNormalization"):
                return False
    return None


def _with_output(model: ModelFile, proto: onnx.ModelProto) -> ModelFile:
    graph = model.graph.changed(proto)
    rows = replace(model.representation, tensor=OUTPUT, pool="none", feature_axis=-1, dequantize=())
    return replace(model, graph=graph, fetch=OUTPUT, representation=rows, added_output=False)


class Residual(NamedTuple):
    """An addition that may end a residual block, which its shapes decide."""

    total: str
    """the sum"""
    output: str
    """what the next block reads: the sum, or the activation that alone follows it"""
    source: str
    branches: Sequence[str]
    kind: str
    own: int
    """bit of the node that adds"""
    inside: int
    """bits of the nodes in both branches"""


class Ancestry:
    """The upstream nodes of every tensor, for one end.

    Args:
        layers: of the graph.
        nodes: of the graph, in their (topological) order.
        end: only what leads to this tensor counts.
    """

    def __init__(self, layers: Layers, nodes: Iterable[onnx.NodeProto], end: str) -> None:
        self.layers = layers
        self.end = end
        self.nodes = [node for node in nodes if not layers.image_tensors.isdisjoint(node.output)]
        self.own = Counter[str]()  # bit of the node that makes a tensor; 0 for the image
        self.above = Counter[str]()  # bits of the nodes that compute a tensor
        for i, node in enumerate(self.nodes):
            own = 1 << i
            bits = own
            for name in self.reads(node):
                bits |= self.above[name]
            for name in filter(None, node.output):
                self.own[name] = own
                self.above[name] = bits
        self.to_end = self.above[end]

    def reads(self, node: onnx.NodeProto) -> list[str]:
        """Return the inputs of a node that need the image."""
        return [name for name in node.input if name in self.layers.image_tensors]

    def members(self, bits: int) -> Iterable[onnx.NodeProto]:
        """Yield the nodes of a set of bits, in order."""
        while bits:
            lowest = bits & -bits
            yield self.nodes[lowest.bit_length() - 1]
            bits ^= lowest

    def has_linear(self, bits: int) -> bool:
        """Return whether a linear layer is among the nodes."""
        linear = LINEAR | ATTENTION
        return any(node.op_type in linear for node in self.members(bits))


def find_residuals(ancestry: Ancestry) -> list[Residual]:
    """Return the additions on the way to the end that may end a residual block, in order.

    Connections alone decide; `residual_blocks` looks at the shapes.
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in ancestry.nodes:
        for name in ancestry.reads(node):
            consumers.setdefault(name, []).append(node)
    residuals = []
    for node in ancestry.members(ancestry.to_end):
        branches = ancestry.reads(node)[:2]
        if node.op_type not in SUMS or len(branches) < 2 or branches[0] == branches[1]:
            continue
        total = node.output[0]
        if node.op_type.startswith("Skip"):
            if len(node.output) <= SKIP_SUM_AT or not node.output[SKIP_SUM_AT]:
                continue
            total = node.output[SKIP_SUM_AT]
        if meeting := _source(ancestry, *branches):
            source, inside = meeting
            readers = consumers.get(total, [])
            reader = readers[0].op_type if len(readers) == 1 else ""
            output = total
            if reader in ACTIVATION and "oftmax" not in reader:
                output = readers[0].output[0]
            ops = {member.op_type for member in ancestry.members(inside)}
            kind = "mlp"
            if ops & ATTENTION:
                kind = "attention"
            elif any("Conv" in op for op in ops):
                kind = "convolution"
            residuals.append(Residual(total, output, source, branches, kind, ancestry.own[total], inside))
    return residuals


def residual_blocks(
    layers: Layers, residuals: Iterable[Residual], shapes: Mapping[str, Shape], order: Mapping[str, int]
) -> Kinds:
    """Return the ends of the residual blocks, in the order of the graph.

    The ends are the additions whose branches and sum have one shape of 2 to 4 axes, and that no other holds: an
    addition inside the branch of another one is not an end (relative positions added to attention scores, the inner
    sums of a Res2Net block). What enters a block and is the end of no other is among them.

    order: position of the node that makes a tensor. What comes of an end by a cast or quantisation is that end.
    """
    alike = []
    in_branches = 0  # bits of the nodes
    for residual in residuals:
        shape = shapes.get(residual.total, ())
        of_branches = {shapes.get(name) for name in residual.branches}
        if 2 <= len(shape) <= 4 and of_branches == {shape}:
            alike.append(residual)
            in_branches |= residual.inside
    outermost = [residual for residual in alike if not residual.own & in_branches]
    ends = {residual.output: residual.kind for residual in outermost}
    end_tensors = ends.keys() | {residual.total for residual in outermost}
    sources = [residual.source for residual in outermost if residual.source in order]
    entries = [name for name in sources if _same_values(layers, name) not in end_tensors]
    kinds = dict.fromkeys(entries, "stage")
    if entries:
        kinds[min(entries, key=order.__getitem__)] = "stem"
    kinds |= ends
    return {name: kinds[name] for name in sorted(kinds, key=order.__getitem__)}


def find_passages(ancestry: Ancestry) -> list[str]:
    """Return the tensors on every path from the image to the end, in order and without the end."""
    members = list(ancestry.members(ancestry.to_end))
    last_read: dict[str, int] = {}
    for i, node in enumerate(members):
        last_read |= dict.fromkeys(ancestry.reads(node), i)
    last_read[ancestry.end] = len(members)
    passages = []
    reads_of_image = [i for name, i in last_read.items() if not ancestry.own[name]]
    reach = max(reads_of_image, default=0)  # the last node that reads anything made so far, the image included
    for i, node in enumerate(members):
        outputs = [name for name in node.output if name in last_read]
        if reach <= i and len(outputs) == 1 and outputs[0] != ancestry.end:
            passages.append(outputs[0])
        for name in outputs:
            reach = max(reach, last_read[name])
    return passages


def stage_blocks(layers: Layers, passages: Sequence[str], shapes: Mapping[str, Shape]) -> Kinds:
    """Return the last tensor of each stretch that computes something new, before width or resolution changes.

    A stretch is a run of passages of one shape (2 to 4 axes); one without a linear layer or a concatenation (pooling,
    a reshape) is not a stage.
    """
    blocks: Kinds = {}
    for shape, stretch in groupby(passages, key=lambda name: shapes.get(name, ())):
        members = list(stretch)
        ops = {layers.producers[member].op_type for member in members}
        if 2 <= len(shape) <= 4 and ops & (LINEAR | {"Concat"}):
            blocks[members[-1]] = "stage"
    return blocks


def _source(ancestry: Ancestry, a: str, b: str) -> tuple[str, int] | None:
    """Return where two branches part, and their nodes as bits, or None if they are not a shortcut and a branch."""
    candidates = []
    for shortcut, main in ((a, b), (b, a)):
        for steps, source in enumerate(_shortcut(ancestry.layers, shortcut)):
            before = ancestry.above[source]
            bypass = ancestry.above[shortcut] & ~before
            inside = ancestry.above[main] & ~before
            is_shared = ancestry.own[source] & ancestry.above[main]
            if is_shared and not bypass & inside and ancestry.has_linear(inside):
                candidates.append((steps, source, bypass | inside))
                break
    if not candidates:
        return None
    _, source, nodes = min(candidates, key=lambda candidate: candidate[0])
    return source, nodes


def _shortcut(layers: Layers, tensor: str) -> Iterable[str]:
    """Yield `tensor`, then each tensor that it is a linear map, norm or pooling of (the sources of a shortcut)."""
    yield tensor
    while (node := layers.producers.get(tensor)) is not None and node.op_type in SHORTCUT:
        names = layers.data.get(node.output[0], ())
        if len(names) != 1:
            return
        tensor = names[0]
        yield tensor


def _same_values(layers: Layers, tensor: str) -> str:
    """Return the tensor whose values `tensor` holds, but for rounding."""
    while (node := layers.producers.get(tensor)) is not None and node.op_type in SAME_VALUES:
        tensor = node.input[0]
    return tensor
