"""Where a scan measures: the ends of a model's blocks and how their axes read, and the model with the nodes for it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from robustcheck_onnx.checker.arrays import AnyArray
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.model import Layers, ModelFile, build_layers, choose_pool, show_shape, with_shapes
from robustcheck_onnx.checker.runtime import Runner
from robustcheck_onnx.checker.text import quoted

from . import blocks as cutting
from .blocks import Block
from .taps import MIN_OPSET, OUTPUT, Tap, add_scan, add_shapes, read_shapes

MIN_FEATURES = 8  # narrower tensors (kurtosis is at most about the width) are left out
FLOATS = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
)
_OR_UNKNOWN = FLOATS | {None}


@dataclass(frozen=True)
class Plan:
    """Where to measure."""

    blocks: tuple[Block, ...]
    taps: tuple[Tap, ...]
    """one a block"""
    rule: str
    n_left_out: int


def plan_scan(
    model: ModelFile,
    pixels: AnyArray,
    device: str = "cpu",
    named: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
) -> Plan:
    """Find the ends of a model's blocks, and how their axes read, from its graph and the shapes of one run.

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
    where = str(model.path)
    proto = model.graph.light()
    opset = model.opsets.get("ai.onnx", 0)
    if opset < MIN_OPSET:
        raise CannotAssessError(
            f"{where}: opset is {opset}; the nodes of a scan need {MIN_OPSET}", "export with opset 18, then scan again"
        )
    weights = {weight.name: tuple(weight.dims) for weight in proto.graph.initializer}
    layers = build_layers(with_shapes(proto), model.image_input.name, weights)
    nodes = list(proto.graph.node)
    residuals = [] if named else cutting.find_residuals(layers, nodes, model.fetch)
    passages = [] if named else cutting.find_passages(layers, nodes, model.fetch)
    for name in named:
        _check_named(layers, name, where)
    wanted = {name for r in residuals for name in (*r.branches, r.total, r.output, r.source)}
    wanted |= {*passages, *named}
    tensors = [name for name in dict.fromkeys([*sorted(wanted), model.fetch]) if layers.types.get(name) in _OR_UNKNOWN]
    pixels = np.concatenate([pixels, pixels])[: max(2, len(pixels))]
    add_shapes(proto, tensors, model.image_input.name, opset)
    runner = Runner(_with_output(model, proto), device, preprocessing=preprocessing)
    shapes, batch = _shapes(runner, tensors, pixels)
    order = {name: index for index, node in enumerate(nodes) for name in node.output}
    rule = "named" if named else "residual"
    if named:
        blocks = [Block(name, "named") for name in sorted(set(named), key=lambda name: order[name])]
    else:
        blocks = cutting.residual_blocks(layers, cutting.keep_residuals(residuals, shapes), order)
    if not blocks:
        rule = "stages"
        blocks = cutting.stage_blocks(layers, passages, shapes)
    blocks = [block for block in blocks if block.tensor != model.fetch] + [Block(model.fetch, "representation")]
    read = [
        (block, _tap(layers, block.tensor, shapes.get(block.tensor, ()), batch, pixels.shape[1:3])) for block in blocks
    ]
    readable = [(block, tap) for block, tap in read if tap is not None]
    if not any(block.kind != "representation" for block, _ in readable):
        unread = "; ".join(f"{block.tensor} {show_shape(shapes.get(block.tensor))}" for block, _ in read[:3])
        raise CannotAssessError(
            f"{where}: number of blocks found is 0 (seen: {unread}); a scan needs residual additions or layers that "
            f"change width or resolution, with the image as first axis and at least {MIN_FEATURES} features",
            f"robustcheck scan {quoted(where)} --block TENSOR",
        )
    return Plan(
        blocks=tuple(block for block, _ in readable),
        taps=tuple(tap for _, tap in readable),
        rule=rule,
        n_left_out=len(read) - len(readable),
    )


def measuring_model(model: ModelFile, plan: Plan) -> ModelFile:
    """The model with the nodes that measure, to be asked for OUTPUT."""
    proto = model.graph.light()
    add_scan(proto, plan.taps, model.precision == "fp64", model.opsets["ai.onnx"])
    return _with_output(model, proto)


def _check_named(layers: Layers, name: str, where: str) -> None:
    names = sorted(layers.image_tensors & layers.producers.keys())
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5)
        raise UsageError(
            f"{where}: --block is {name!r}; no tensor of that name is computed from the image",
            f"--block with one of: {', '.join(near)}" if near else f"robustcheck inspect {quoted(where)}",
        )
    if layers.types.get(name) not in _OR_UNKNOWN:
        kind = onnx.TensorProto.DataType.Name(layers.types[name])
        raise UsageError(
            f"{where}: --block is {name!r} of type {kind}; only float tensors are measured",
            f"robustcheck inspect {quoted(where)}",
        )


def _shapes(runner: Runner, tensors: Sequence[str], pixels: AnyArray) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shapes in one run, and the number of images that it ran."""
    (rows,) = runner.represent(pixels, whole=True)
    return dict(zip(tensors, read_shapes(rows[0], len(tensors)), strict=True)), runner.fixed_batch or len(pixels)


def _tap(layers: Layers, tensor: str, shape: tuple[int, ...], batch: int, size: tuple[int, int]) -> Tap | None:
    """Find which axes of a tensor are images, places and features; None where that is unclear or features are too few.

    batch, size: number of images, and their height and width (px).
    """
    if len(shape) not in {2, 3, 4} or 0 in shape:
        return None
    form = "vector" if len(shape) == 2 else "tokens"
    if shape[0] != batch:
        if len(shape) != 3 or shape[1] != batch:
            return None  # rows are no images: windows, images and tokens in one axis
        form, shape = "tokens_first", (shape[1], shape[0], shape[2])
    pooling = choose_pool(layers, tensor, shape)
    if len(shape) == 4:
        last = _read_last(layers, tensor) if pooling.assumed else pooling.feature_axis == -1
        if last is None:
            return None
        form = "map_last" if last else "map"
        edges = shape[1:3] if last else shape[2:]
        # windows and their tokens, not height and width: within rounding, a map has the sides of the image
        if abs(edges[0] * size[1] - edges[1] * size[0]) > max(size):
            return None
    features = shape[1] if form == "map" else shape[-1]
    if features < MIN_FEATURES:
        return None
    node = layers.producers.get(tensor)
    return Tap(
        tensor,
        form,
        features,
        shape[2:] if form == "map" else shape[1:-1],
        class_token=pooling.pool == "token_cls" and not pooling.assumed,
        rectified=node is not None and node.op_type == "Relu",
    )


def _read_last(layers: Layers, tensor: str) -> bool | None:
    """Whether the features are on the last axis, by the layer that reads the tensor; None where it does not show."""
    for node in layers.producers.values():
        if tensor in node.input[:1]:
            if node.op_type in ("LayerNormalization", "MatMul", "Gemm"):
                return True
            if "Conv" in node.op_type or node.op_type in ("BatchNormalization", "InstanceNormalization"):
                return False
    return None


def _with_output(model: ModelFile, proto: onnx.ModelProto) -> ModelFile:
    rows = replace(model.representation, tensor=OUTPUT, pool="none", feature_axis=-1, dequantize=())
    return replace(model, graph=model.graph.changed(proto), fetch=OUTPUT, representation=rows, added_output=False)
