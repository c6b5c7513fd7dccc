"""The scan: outlier features at the end of every block of a model, measured inside its own graph.

Information, not a verdict. Silent; progress goes to a callback.
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx

from robustcheck_onnx.checker import blocks as cutting
from robustcheck_onnx.checker import images, imageset, sidecar
from robustcheck_onnx.checker.blocks import Block
from robustcheck_onnx.checker.delivery import as_json
from robustcheck_onnx.checker.depth import Depth, LayerStatistics, PersistentFeature
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Execution, ImageFacts, PreprocessingFacts
from robustcheck_onnx.checker.graph import ModelFile, open_model, with_shapes
from robustcheck_onnx.checker.layers import Layers, build_layers
from robustcheck_onnx.checker.pipeline import Progress
from robustcheck_onnx.checker.pooling import choose_pool, show_shape
from robustcheck_onnx.checker.preprocess import Preprocessing, apply, apply_uint8, as_photo
from robustcheck_onnx.checker.report import Time
from robustcheck_onnx.checker.runner import SAME_OUTPUT, Array, Runner
from robustcheck_onnx.checker.scan_graph import GRID, MIN_OPSET, OUTPUT, Tap, add_scan, add_shapes, read_shapes
from robustcheck_onnx.thresholds.frozen import Frozen

MAX_IMAGES = 64  # by default: a profile needs no tight interval
BATCH_SIZE = 8  # by default: throughput hardly grows beyond, memory does
FEW_IMAGES = 50  # a check needs as many; fewer make persistent features unreliable (docs/statistics.md)
PROBE_IMAGES = 5  # images that shapes are read from and outputs compared on
NAMED_SKIPS = 20  # skipped images named in the report
DECODERS = 2  # threads that decode ahead of the model
AHEAD = 64  # decoded images that may wait
MIN_FEATURES = 8  # narrower tensors (kurtosis is at most about the width) are left out
FLOATS = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
)
LIMITS = (
    "Information, not a verdict: robustcheck check judges the representation alone. Outlier features of tokens or "
    "positions inside a network do not tell effective robustness: DeiT-III, trained with labels only, has outlier "
    "tokens; DINOv3, trained without text, has constant large features that its last norm scales down; registers take "
    "outlier tokens out of OpenCLIP at unchanged accuracy (Darcet et al. 2024)."
)


class Layer(Frozen):
    """The end of one block, measured."""

    kind: str
    """stem, stage, attention, mlp, convolution, named, or representation (see docs/scan.md)"""
    tensor: str
    form: str
    """vector, tokens, tokens_first, map (features before positions) or map_last"""
    width: int
    """features"""
    positions: tuple[int, ...]
    """tokens; or height and width; empty for a vector"""
    measured: tuple[int, ...]
    """positions at which rows of features are measured"""
    class_token: bool
    statistics: LayerStatistics


class ScanModel(Frozen):
    """The model of a scan."""

    file: str
    digest: str
    source: str
    """what the contract says it is; empty without a contract"""
    tensor: str
    pool: str
    rule: str
    """how blocks were found: residual, stages or named"""
    n_left_out: int
    """ends of blocks that could not be read, such as rows that are no images"""
    output_difference: float
    """largest relative difference of representation and class scores with and without the appended nodes"""
    output_unchanged: bool


class ScanReport(Frozen):
    """Outlier features through the depth of a model."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    kind: Literal["scan"] = "scan"
    tool_version: str
    model: ScanModel
    layers: tuple[Layer, ...]
    """in the order of the graph; the representation last"""
    begins: int | None
    """index of the first layer with a persistent outlier feature"""
    summary: str
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    notes: tuple[str, ...]
    limits: str = LIMITS
    time: Time | None
    """None where the caller asked for no time block"""


@dataclass(frozen=True)
class Plan:
    """Where to measure."""

    blocks: tuple[Block, ...]
    taps: tuple[Tap, ...]
    """one a block"""
    rule: str
    n_left_out: int


@dataclass(frozen=True)
class _Prepared:
    digest: str
    notes: tuple[str, ...]
    pixels: npt.NDArray[np.generic]
    sketch: imageset.Sketch


def scan(
    model: str | Path,
    *,
    images_at: str | Path | None = None,
    max_images: int = MAX_IMAGES,
    max_bad: float = 0.01,
    seed: int = 0,
    preprocess: str | None = None,
    tensor: str | None = None,
    pool: str | None = None,
    blocks: Sequence[str] = (),
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    progress: Callable[[Progress], None] | None = None,
) -> ScanReport:
    """Measure outlier features at the end of every block of a model, and at its representation.

    Args:
        model: path of the ONNX file.
        images_at: as for a check; None = the bundled photos.
        max_images: use at most so many.
        max_bad: largest share of images, 0–1, that may be unusable.
        seed: fixes the order in which images are taken.
        preprocess: as for a check.
        tensor, pool: the representation, as for a check.
        blocks: measure these tensors instead of the ends of blocks found by rule.
        device: auto, cpu, cuda, cuda:N or tensorrt.
        batch_size: images a forward pass.
        progress: called after every batch.

    Raises:
        UsageError: as for a check; no such tensor among `blocks`.
        CannotAssessError: as for a check; no block was found; an opset below 11; nothing finite to measure.
        EnvironmentFaultError: as for a check.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    opened = open_model(model, tensor=tensor, pool=pool)
    contract = opened.contract
    found = sidecar.find_preprocessing(
        opened.path, preprocess, contract.preprocessing if contract else None, opened.image_input.size
    )
    source = images.open_images(images_at, seed=seed, limit=max_images)

    def prepare(item: images.Item) -> _Prepared | images.Skipped:
        return _prepare(item, opened, found.preprocessing)

    probe = _first_usable(source, prepare)
    plan = plan_scan(opened, probe, device, blocks)
    own = Runner(opened, device).run(probe)
    runner = Runner(measuring_model(opened, plan), device, also=(replace(opened, graph_bytes=b"", added_output=False),))
    differences = [_difference(own.representation, runner.represent(probe)[1])]
    if own.class_output is not None:
        again = runner.run(probe).class_output
        assert again is not None
        differences.append(_difference(own.class_output, again))
    depths = [Depth(tap) for tap in plan.taps]
    seen = _run(runner, depths, source, prepare, max_bad, batch_size, progress)
    layers = tuple(
        Layer(
            kind=block.kind,
            tensor=block.tensor,
            form=tap.form,
            width=tap.features,
            positions=tap.positions,
            measured=tap.measured,
            class_token=tap.class_token,
            statistics=depth.statistics(),
        )
        for block, tap, depth in zip(plan.blocks, plan.taps, depths, strict=True)
    )
    if not any(layer.statistics.n_images for layer in layers):
        raise CannotAssessError(
            f"{opened.path}: number of images with finite, not constant values is 0 of {seen.n_read - seen.n_skipped} "
            "at every block; at least one is needed",
            f"robustcheck inspect {shlex.quote(str(opened.path))}",
        )
    facts = ScanModel(
        file=str(opened.path),
        digest=opened.digest,
        source=f"{contract.source.library} {contract.source.name} ({contract.source.weights})" if contract else "",
        tensor=opened.representation.tensor,
        pool=opened.representation.pool,
        rule=plan.rule,
        n_left_out=plan.n_left_out,
        output_difference=max(differences),
        output_unchanged=max(differences) <= SAME_OUTPUT.get(opened.precision, SAME_OUTPUT["fp32"]),
    )
    preprocessing = PreprocessingFacts(
        preprocessing=found.preprocessing,
        source="tensors" if source.kind == "tensors" and found.source != "assumed" else found.source,
        fields=tuple(found.origins),
        against_contract=contract is not None and found.preprocessing != contract.preprocessing,
    )
    begins = next((index for index, layer in enumerate(layers) if layer.statistics.has_outliers), None)
    wall_s = time.perf_counter() - clock
    return ScanReport(
        tool_version=version("robustcheck-onnx"),
        model=facts,
        layers=layers,
        begins=begins,
        summary=summary(layers, begins),
        preprocessing=preprocessing,
        images=seen,
        execution=runner.execution,
        notes=_notes(opened, facts, layers, preprocessing, seen, runner.execution),
        time=Time(
            started=started.isoformat(timespec="seconds"),
            wall_s=round(wall_s, 3),
            images_per_s=round((seen.n_read - seen.n_skipped) / wall_s, 2) if wall_s > 0 else None,
        ),
    )


def to_json(report: ScanReport) -> str:
    """The report as one JSON document."""
    return as_json(report.model_dump(mode="json"))


def plan_scan(model: ModelFile, pixels: Array, device: str = "cpu", named: Sequence[str] = ()) -> Plan:
    """Find the ends of a model's blocks, and how their axes read, from its graph and the shapes of one run.

    Args:
        model: from `open_model`.
        pixels: (image, height, width, 3), preprocessed; one or more.
        device: where to run.
        named: tensors to take instead.

    Raises:
        UsageError: no such tensor.
        CannotAssessError: no block was found; an opset below 11.
    """
    where = str(model.path)
    proto: onnx.ModelProto = onnx.ModelProto.FromString(model.graph_bytes)
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
    shapes, batch = _shapes(model, proto, tensors, pixels, device, opset)
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
    kept = [(block, tap) for block, tap in read if tap is not None]
    if not any(block.kind != "representation" for block, _ in kept):
        unread = "; ".join(f"{block.tensor} {show_shape(shapes.get(block.tensor))}" for block, _ in read[:3])
        raise CannotAssessError(
            f"{where}: number of blocks found is 0 (seen: {unread}); a scan needs residual additions or layers that "
            f"change width or resolution, with the image as first axis and at least {MIN_FEATURES} features",
            f"robustcheck scan {shlex.quote(where)} --block TENSOR",
        )
    return Plan(
        blocks=tuple(block for block, _ in kept),
        taps=tuple(tap for _, tap in kept),
        rule=rule,
        n_left_out=len(read) - len(kept),
    )


def summary(layers: Sequence[Layer], begins: int | None) -> str:
    """Where outlier features begin, in words."""
    n_images = max(layer.statistics.n_images for layer in layers)
    of_class = next((i for i, layer in enumerate(layers) if layer.statistics.n_class_token_persistent), None)
    told = f"No layer has a persistent outlier feature on these {n_images} images."
    if begins is not None:
        layer = layers[begins]
        rows = {0: "images", 1: "tokens", 2: "positions"}[len(layer.positions)]
        told = (
            f"{_named(layers, begins)} is the first with a persistent outlier feature: "
            f"{_first(layer.statistics.persistent, layer.statistics.n_persistent, rows)} measured on "
            f"{layer.statistics.n_images} images."
        )
    if of_class is not None and (begins is None or of_class < begins):
        found = layers[of_class].statistics
        named = _first(found.class_token_persistent, found.n_class_token_persistent, "images")
        told += f" In the class token alone it is {_named(layers, of_class, lower=True)}: {named}."
    return told


def _named(layers: Sequence[Layer], index: int, *, lower: bool = False) -> str:
    layer = layers[index]
    if layer.kind == "representation":
        return ("the" if lower else "The") + f" representation ({layer.tensor})"
    return ("layer" if lower else "Layer") + f" {index + 1} of {len(layers)} ({layer.kind}, {layer.tensor})"


def _first(features: Sequence[PersistentFeature], count: int, rows: str) -> str:
    more = f" and {count - 1} more" if count > 1 else ""
    return f"feature {features[0].feature}{more}, beyond 6 SD in {100 * features[0].frequency:.0f} % of the {rows}"


_OR_UNKNOWN = FLOATS | {None}


def _check_named(layers: Layers, name: str, where: str) -> None:
    names = sorted(layers.image_tensors & layers.producers.keys())
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5)
        raise UsageError(
            f"{where}: --block is {name!r}; no tensor of that name is computed from the image",
            f"--block with one of: {', '.join(near)}" if near else f"robustcheck inspect {shlex.quote(where)}",
        )
    if layers.types.get(name) not in _OR_UNKNOWN:
        kind = onnx.TensorProto.DataType.Name(layers.types[name])
        raise UsageError(
            f"{where}: --block is {name!r} of type {kind}; only float tensors are measured",
            f"robustcheck inspect {shlex.quote(where)}",
        )


def _shapes(
    model: ModelFile, proto: onnx.ModelProto, tensors: Sequence[str], pixels: Array, device: str, opset: int
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shapes in one run, and the number of images that it ran."""
    add_shapes(proto, tensors, model.image_input.name, opset)
    runner = Runner(_with_output(model, proto), device)
    (rows,) = runner.represent(pixels)
    return dict(zip(tensors, read_shapes(rows[0], len(tensors)), strict=True)), runner.fixed_batch or len(pixels)


def _tap(layers: Layers, tensor: str, shape: tuple[int, ...], batch: int, size: tuple[int, int]) -> Tap | None:
    """How a tensor's axes read; None where they can't be told, or it is too narrow.

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


def measuring_model(model: ModelFile, plan: Plan) -> ModelFile:
    """The model with the nodes that measure, to be asked for OUTPUT."""
    proto: onnx.ModelProto = onnx.ModelProto.FromString(model.graph_bytes)
    add_scan(proto, plan.taps, model.precision == "fp64", model.opsets["ai.onnx"])
    return _with_output(model, proto)


def _with_output(model: ModelFile, proto: onnx.ModelProto) -> ModelFile:
    rows = replace(model.representation, tensor=OUTPUT, pool="none", feature_axis=-1, dequantize=())
    return replace(model, graph_bytes=proto.SerializeToString(), fetch=OUTPUT, representation=rows, added_output=False)


def _first_usable(source: images.ImageSource, prepare: Callable[[images.Item], _Prepared | images.Skipped]) -> Array:
    found: list[_Prepared] = []
    skipped: list[images.Skipped] = []
    for item in source.items():
        prepared = prepare(item)
        if isinstance(prepared, images.Skipped):
            skipped.append(prepared)
            continue
        found.append(prepared)
        if len(found) == PROBE_IMAGES:
            break
    images.check_bad(len(found) + len(skipped), len(skipped), 1.0, skipped, source.spec or "bundled photos")
    return np.stack([item.pixels for item in found])


def _run(
    runner: Runner,
    depths: Sequence[Depth],
    source: images.ImageSource,
    prepare: Callable[[images.Item], _Prepared | images.Skipped],
    max_bad: float,
    batch_size: int,
    progress: Callable[[Progress], None] | None,
) -> ImageFacts:
    """Run all images and add them up."""
    clock, total = time.perf_counter(), len(source)
    ends = np.cumsum([depth.tap.n_numbers for depth in depths])[:-1]
    sanity, notes = imageset.ImageSetState(), Counter[str]()
    skipped: list[images.Skipped] = []
    digests: list[str] = []
    waiting: list[_Prepared] = []
    with contextlib.closing(images.prefetch(source, prepare, workers=DECODERS, window=AHEAD)) as decoded:
        for number, item in enumerate(decoded, 1):
            if isinstance(item, images.Skipped):
                skipped.append(item)
            else:
                waiting.append(item)
                sanity.add(item.sketch)
                notes.update(item.notes)
                digests.append(item.digest)
            if waiting and (len(waiting) == batch_size or number == total):
                rows = runner.run(np.stack([each.pixels for each in waiting])).representation
                for depth, part in zip(depths, np.split(rows, ends, axis=1), strict=True):
                    depth.update(part)
                waiting = []
                if progress is not None:
                    progress(Progress(number, total, number / (time.perf_counter() - clock), ""))
    where = source.spec or "bundled photos"
    images.check_bad(total, len(skipped), max_bad, skipped, where, sampled=source.n_found > total)
    return ImageFacts(
        source=where,
        bundled=source.kind == "bundled",
        n_available=source.n_found,
        n_read=total,
        n_skipped=len(skipped),
        skipped=tuple((bad.name, bad.reason) for bad in skipped[:NAMED_SKIPS]),
        notes=dict(sorted(notes.items())),
        digest=images.digest_of(digests),
        seed=source.seed,
        sanity=sanity.facts(),
    )


def _prepare(item: images.Item, model: ModelFile, preprocessing: Preprocessing) -> _Prepared | images.Skipped:
    if isinstance(item, images.Skipped):
        return item
    if isinstance(item, images.Tensor):
        takes = (3, model.image_input.height, model.image_input.width)
        if any(want not in (None, size) for want, size in zip(takes, item.values.shape, strict=True)):
            raise UsageError(
                f"{item.name}: tensor (channel, height, width) is {item.values.shape}; {model.path} takes "
                f"{show_shape(takes)}",
                f"robustcheck inspect {shlex.quote(str(model.path))}",
            )
        pixels = np.ascontiguousarray(np.moveaxis(item.values, 0, -1))
        return _Prepared(item.digest, (), pixels, imageset.describe(as_photo(preprocessing, pixels)))
    make = apply_uint8 if model.image_input.dtype == "uint8" else apply
    try:
        array = make(preprocessing, item.image)
    except CannotAssessError as fault:  # a strip that cannot be resized: this image's fault, not the run's
        return images.Skipped(item.name, fault.message)
    return _Prepared(item.digest, item.notes, array, imageset.describe(item.image))


def _difference(expected: Array, actual: Array) -> float:
    """Largest difference relative to the root mean square, over images; 0 where equal, not finite values included."""
    left, right = expected.astype(np.float64), actual.astype(np.float64)
    if np.array_equal(left, right, equal_nan=True):
        return 0.0
    scale = np.sqrt((left**2).mean(axis=1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(left == right, 0.0, np.abs(left - right) / scale)
    return float(np.nan_to_num(relative, nan=1e9, posinf=1e9).max())


def _notes(
    model: ModelFile,
    facts: ScanModel,
    layers: Sequence[Layer],
    preprocessing: PreprocessingFacts,
    seen: ImageFacts,
    execution: Execution,
) -> tuple[str, ...]:
    """What a reader must know beside the numbers."""
    notes = []
    source = model.contract.source if model.contract else None
    if source is not None and source.synthetic:
        notes.append(f"Synthetic model: {source.synthetic}.")
    if source is not None and source.random_weights:
        notes.append("The model has random weights: it was never trained.")
    if preprocessing.source == "assumed":
        notes.append("The preprocessing was assumed: the file does not say it. Wrong pixels give wrong statistics.")
    if seen.bundled:
        notes.append("The bundled photos were used; your own in-distribution images say more (--images).")
    n_good = seen.n_read - seen.n_skipped
    if n_good < FEW_IMAGES:
        notes.append(f"Only {n_good} images: what is alike in few images need not be in many.")
    notes += [f"Image set: {finding.seen}." for finding in seen.sanity.findings]
    if facts.rule == "stages":
        notes.append("No residual block was found: layers are cut where width or resolution changes.")
    if facts.n_left_out:
        what = "1 tensor was" if facts.n_left_out == 1 else f"{facts.n_left_out} tensors were"
        notes.append(f"{what} left out: the meaning of the axes does not show, or there are too few features.")
    if any(layer.measured != layer.positions for layer in layers):
        notes.append(f"Feature maps are measured at up to {GRID} × {GRID} evenly spaced positions of each image.")
    if lost := max(layer.statistics.n_not_finite for layer in layers):
        notes.append(f"At some layer {lost} images were left out: their values are not finite.")
    if not facts.output_unchanged:
        notes.append(
            f"The appended nodes changed the model's own output (relative difference {facts.output_difference:.2g}): "
            "ONNX Runtime fuses layers in another way with them, so the numbers are those of a slightly other model."
        )
    if execution.fallback_reason:
        notes.append(f"The CPU was used: {execution.fallback_reason}.")
    if seen.n_skipped:
        first = "; ".join(f"{name}: {reason}" for name, reason in seen.skipped[:3])
        notes.append(f"{seen.n_skipped} of {seen.n_read} images were skipped ({first}).")
    return tuple(notes)
