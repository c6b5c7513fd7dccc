"""Measure outlier features at the end of every block. They are measured inside the model's own graph.

Information, not a verdict. Silent; progress goes to a callback.

A residual block is an addition of two branches that part at one tensor, its source, when at least one of them holds a
linear layer and the other is the source itself or a linear map, norm or pooling of it (the shortcut of a block that
changes its width). That is how the residual stream of transformers and the blocks of ResNets, ConvNeXts and MobileNets
are written. A graph without one is cut where width or resolution of what all paths lead through changes.
"""

from __future__ import annotations  # help() names the types as the package does

import difflib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
import onnx

from ...arrays import AnyArray
from ...core.evidence import Execution, ImageFacts, Preprocessing, RunOptions
from ...core.measure.collect import first_pixels
from ...core.measure.job import Job
from ...core.measure.loop import batches, decode
from ...core.measure.opening import Inputs, model_read, open_runner, question_notes, read_inputs
from ...core.measure.prepare import stack
from ...core.measure.probe import take_probe
from ...core.measure.sums import ImagesRead
from ...core.model.ends import ACTIVATION, NORMALISATION
from ...core.model.layers import LINEAR, POOL, RESHAPE, Layers, build_layers, show_shape, with_shapes
from ...core.model.open import ModelFile
from ...core.model.pooling import choose_pool
from ...core.progress import Progress, Tell, tell_stage
from ...core.runtime.runner import SAME_OUTPUT, Runner
from ...core.runtime.session import relative_difference
from ...core.statistics.definitions import usable_rows
from ...core.verdict.notes import execution_notes, image_notes
from ...errors import CannotAssessError, UsageError, unfit
from ...outside.image_sets.open import Images, opener, settle
from ...outside.isolation import NO_LIMITS, Limits, apart, is_possible
from ...outside.representations import Provenance, checked_path, saving
from ...outside.storage.places import local_path
from ...report.record import Clock, Time
from ...text import VERSION, Texts, quoted
from .document import Layer, ScanModel, ScanReport, summary
from .taps import GRID, MIN_OPSET, OUTPUT, Depth, Shape, Tap, add_scan, add_shapes, read_shapes

MAX_IMAGES = 64  # by default: a profile needs no tight interval
FEW_IMAGES = 50  # a check needs as many; fewer make persistent features unreliable (docs/statistics.md)


def scan(
    model: str | Path,
    *,
    blocks: Sequence[str] = (),
    images: Images | None = None,
    save_representations: str | Path | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> ScanReport:
    """Measure outlier features at the end of every block. The representation is measured, too.

    Args:
        model: path of the ONNX file.
        blocks: measure these tensors instead of the ends of blocks found by rule.
        images: as in `check`.
        save_representations: as in `check`: of the representation, not of the blocks.
        isolate: as in `check`.
        limits: as in `check`.
        progress: called when a stage begins and after every batch.
        options: as in `check`; tensor and pool are the representation's, max_images is 64 unless it is given.

    Raises:
        UsageError: as for a check; no such tensor among `blocks`.
        CannotAssessError: as for a check; no block was found; an opset below 11; nothing finite to measure.
        EnvironmentFaultError: as for a check.
    """
    clock, (run, source) = Clock(), settle(images, options, max_images=MAX_IMAGES)
    path = local_path(model, "model")
    save_representations = None if save_representations is None else str(checked_path(save_representations))
    if isolate and is_possible(source, run.images):
        return apart(scan, str(model), limits)(
            model, blocks=blocks, save_representations=save_representations, progress=progress, **run.keywords
        )
    limits.refuse_here()
    tell_stage(progress, "opening the model and the images")
    inputs = read_inputs(Job(path, run), opener(source))
    (opened,), read = inputs.models, ImagesRead()
    with saving(save_representations) as saver:
        with decode(inputs) as decoded:
            tell_stage(progress, "finding the blocks")
            first = take_probe(decoded)  # the next ones are decoded while the sessions open
            pixels = first_pixels(first, inputs.source)
            plan = plan_scan(opened, pixels, run.device, blocks, preprocessing=inputs.preprocessing.preprocessing)
            runner, difference = _open_measuring(inputs, plan, pixels, progress)
            depths = [Depth(tap) for tap in plan.taps]
            for batch in batches(
                itertools.chain(first, decoded), read, run.batch_size, n_images=len(inputs.source), progress=progress
            ):
                rows, representations = runner.represent(stack(batch))
                if saver is not None:
                    usable = usable_rows(representations).usable
                    saver.add(representations[usable], list(itertools.compress(batch, usable)))
                _add(depths, rows, opened.path)
        read.check_usable(inputs.source, run.max_bad)
        layers = _layers(plan, depths, opened.path, read.n_usable)
        facts, of_images = _model(opened, plan, difference), read.facts(inputs.source)
        begins = next((index for index, layer in enumerate(layers) if layer.statistics.has_outliers), None)
        report = ScanReport(
            tool_version=VERSION,
            model=facts,
            layers=layers,
            begins=begins,
            summary=summary(layers, begins),
            preprocessing=inputs.preprocessing,
            images=of_images,
            execution=runner.execution,
            notes=_notes(inputs, facts, layers, of_images, runner.execution),
            time=Time.until_now(clock, read.n_usable),
        )
        if saver is not None:
            saver.write(Provenance.of(report, facts.file))
    return report


def _open_measuring(inputs: Inputs, plan: Plan, pixels: AnyArray, progress: Tell | None) -> tuple[Runner, float]:
    """Open the model with the nodes that measure. Return also how far they change its own outputs on some pixels."""
    (opened,), preprocessing = inputs.models, inputs.preprocessing.preprocessing
    own = Runner(opened, inputs.job.options.device, preprocessing=preprocessing).run(pixels)
    tell_stage(progress, "loading the model")
    runner = open_runner(inputs, (measuring_model(opened, plan), replace(opened, added_output=False)))
    difference = relative_difference(own.representation, runner.represent(pixels)[1])
    if own.class_output is not None:
        again = runner.run(pixels).class_output
        assert again is not None
        difference = max(difference, relative_difference(own.class_output, again))
    return runner, difference


def _add(depths: Sequence[Depth], rows: AnyArray, where: Path) -> None:
    """Add the numbers of some images to the sums of every tensor. Refuse rows of another length than planned."""
    *ends, n_numbers = np.cumsum([depth.tap.n_numbers for depth in depths])
    if rows.shape[1] != n_numbers:
        raise CannotAssessError(
            f"{where}: statistics of an image are {rows.shape[1]} numbers; {n_numbers} were planned "
            "from its first images: the number of tokens must not depend on the images",
            f"robustcheck scan {quoted(where)} --block TENSOR",
        )
    for depth, part in zip(depths, np.split(rows, ends, axis=1), strict=True):
        depth.update(part)


def _layers(plan: Plan, depths: Sequence[Depth], where: Path, n_images: int) -> tuple[Layer, ...]:
    """Conclude the statistics of every tensor. Refuse a run in which no image could be measured anywhere."""
    layers = tuple(
        Layer(
            kind=kind,
            tensor=tap.tensor,
            form=tap.form,
            width=tap.features,
            positions=tap.positions,
            measured=tap.measured,
            class_token=tap.class_token,
            statistics=depth.statistics(),
        )
        for kind, tap, depth in zip(plan.kinds, plan.taps, depths, strict=True)
    )
    if not any(layer.statistics.n_images for layer in layers):
        raise unfit(
            where,
            f"number of images with finite, not constant values is 0 of {n_images} "
            "at every block; at least one is needed",
        )
    return layers


def _model(opened: ModelFile, plan: Plan, difference: float) -> ScanModel:
    return ScanModel(
        **model_read(opened),
        rule=plan.rule,
        n_left_out=plan.n_left_out,
        output_difference=difference,
        output_unchanged=difference <= SAME_OUTPUT[opened.precision],
    )


def _notes(
    inputs: Inputs, facts: ScanModel, layers: Sequence[Layer], images: ImageFacts, execution: Execution
) -> Texts:
    """What a reader must know next to the numbers."""
    notes = question_notes(inputs) + image_notes(images)
    if (n_good := images.n_usable) < FEW_IMAGES:
        notes.append(f"Only {n_good} images: a feature that persists over few images need not persist over many.")
    notes += [f"Image set: {finding.seen}." for finding in images.sanity.findings]
    if facts.rule == "stages":
        notes.append("No residual block was found: layers are cut where width or resolution changes.")
    if facts.n_left_out:
        tensors = "1 tensor was" if facts.n_left_out == 1 else f"{facts.n_left_out} tensors were"
        notes.append(f"{tensors} left out: their axes could not be told apart, or they have too few features.")
    if any(layer.measured != layer.positions for layer in layers):
        notes.append(f"Feature maps are measured at up to {GRID} × {GRID} evenly spaced positions of each image.")
    if n_not_finite := max(layer.statistics.n_not_finite for layer in layers):
        notes.append(f"At some layer {n_not_finite} images were left out: their values are not finite.")
    if not facts.output_unchanged:
        notes.append(
            "The nodes that a scan adds changed the model's own output (relative difference "
            f"{facts.output_difference:.2g}): with them ONNX Runtime fuses layers in another way, so the numbers are "
            "of a slightly different model."
        )
    return (*notes, *execution_notes(execution))


MIN_FEATURES = 8  # narrower tensors (kurtosis is at most about the width) are left out
FLOATS = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
)
_OR_UNKNOWN = FLOATS | {None}


class Plan(NamedTuple):
    """Where to measure."""

    taps: tuple[Tap, ...]
    kinds: Texts
    """of the block that each ends"""
    rule: str
    n_left_out: int


def plan_scan(
    model: ModelFile,
    pixels: AnyArray,
    device: str = "cpu",
    named: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
) -> Plan:
    """Find the ends of a model's blocks, and their axes. The graph and the shapes of one run decide.

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
    proto = model.graph.stripped()
    opset = model.opsets.get("ai.onnx", 0)
    if opset < MIN_OPSET:
        raise CannotAssessError(
            f"{where}: opset is {opset}; the nodes of a scan need {MIN_OPSET}", "export with opset 18, then scan again"
        )
    layers = build_layers(with_shapes(proto), model.image_input.name, proto.graph.initializer)
    nodes = list(proto.graph.node)
    residuals = [] if named else find_residuals(layers, nodes, model.fetch)
    passages = [] if named else find_passages(layers, nodes, model.fetch)
    for name in named:
        _check_named(layers, name, where)
    wanted = {name for r in residuals for name in (*r.branches, r.total, r.output, r.source)}
    wanted |= {*passages, *named}
    tensors = [name for name in dict.fromkeys([*sorted(wanted), model.fetch]) if layers.types.get(name) in _OR_UNKNOWN]
    pixels = np.concatenate([pixels, pixels])[: max(2, len(pixels))]
    add_shapes(proto, tensors, model.image_input.name, opset)
    runner = Runner(_with_output(model, proto), device, preprocessing=preprocessing)
    ((row, *_),) = runner.represent(pixels, one_pass=True)
    shapes, batch = dict(zip(tensors, read_shapes(row, len(tensors)), strict=True)), runner.fixed_batch or len(pixels)
    order = {name: index for index, node in enumerate(nodes) for name in node.output}
    rule = "named" if named else "residual"
    kinds = dict.fromkeys(sorted(set(named), key=order.__getitem__), "named")
    kinds = kinds or residual_blocks(layers, residuals, shapes, order)
    if not kinds:
        rule, kinds = "stages", stage_blocks(layers, passages, shapes)
    kinds.pop(model.fetch, None)
    kinds[model.fetch] = "representation"
    taps = {name: _tap(layers, name, shapes.get(name, ()), batch, pixels.shape[1:3]) for name in kinds}
    readable = [(tap, kinds[name]) for name, tap in taps.items() if tap is not None]
    if all(kind == "representation" for _, kind in readable):
        unread = "; ".join(f"{name} {show_shape(shapes.get(name))}" for name in list(kinds)[:3])
        raise CannotAssessError(
            f"{where}: no blocks found (seen: {unread}); a scan needs residual additions or layers that "
            f"change width or resolution, with the image as first axis and at least {MIN_FEATURES} features",
            f"robustcheck scan {quoted(where)} --block TENSOR",
        )
    chosen_taps, of_kind = zip(*readable, strict=True)
    return Plan(chosen_taps, of_kind, rule, n_left_out=len(taps) - len(readable))


def measuring_model(model: ModelFile, plan: Plan) -> ModelFile:
    """Return the model with the nodes that measure. Its output is OUTPUT."""
    proto = model.graph.stripped()
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


def _tap(layers: Layers, tensor: str, shape: Shape, batch: int, size: tuple[int, int]) -> Tap | None:
    """Return the axes of images, places and features. None where they are unclear or features are too few.

    batch, size: number of images, and their height and width (px).
    """
    if len(shape) not in {2, 3, 4} or 0 in shape:
        return None
    form = "vector" if len(shape) == 2 else "tokens"
    if shape[0] != batch:
        if len(shape) != 3 or shape[1] != batch:
            return None  # rows are not images: windows, images and tokens in one axis
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
    """Whether the features are on the last axis.

    The layer that reads the tensor decides; None where it does not show.
    """
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


ATTENTION = frozenset(
    ("Softmax", "Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "QLinearSoftmax")
)
SUMS = frozenset(("Add", "Sum", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"))
SKIP_SUM_AT = 3  # output of ONNX Runtime's Skip…LayerNormalization that holds the sum itself
SAME_VALUES = frozenset(("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"))
SHORTCUT = LINEAR | NORMALISATION | POOL | RESHAPE | frozenset(("Add", "Mul", "Pad"))
KINDS = ("stem", "stage", "attention", "mlp", "convolution", "named", "representation")
Kinds = dict[str, str]
"""The tensors at the ends of blocks, in the order of the graph, and the kind of each.

attention, mlp or convolution: what the branch of a residual block holds; stem: what enters the first of them; stage:
what enters one and is the end of no other, or the last tensor before a change of width or resolution; named: by the
user
"""


class Residual(NamedTuple):
    """An addition that may end a residual block. Shapes decide."""

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
        self.nodes = [node for node in nodes if any(name in layers.image_tensors for name in node.output)]
        self.own = Counter[str]()  # bit of the node that makes a tensor; 0 for the image
        self.above = Counter[str]()  # bits of the nodes that compute a tensor
        for i, node in enumerate(self.nodes):
            bits = own = 1 << i
            for name in self.reads(node):
                bits |= self.above[name]
            for name in filter(None, node.output):
                self.own[name], self.above[name] = own, bits
        self.to_end = self.above[end]

    def reads(self, node: onnx.NodeProto) -> list[str]:
        """Return the inputs of a node that need the image."""
        return [name for name in node.input if name in self.layers.image_tensors]

    def members(self, bits: int) -> Iterable[onnx.NodeProto]:
        """The nodes of a set of bits, in order."""
        while bits:
            lowest = bits & -bits
            yield self.nodes[lowest.bit_length() - 1]
            bits ^= lowest

    def has_linear(self, bits: int) -> bool:
        """Whether a linear layer is among the nodes."""
        return any(node.op_type in LINEAR or node.op_type in ATTENTION for node in self.members(bits))


def find_residuals(layers: Layers, nodes: Sequence[onnx.NodeProto], end: str) -> list[Residual]:
    """Return additions that may end a residual block.

    They lie on the way to the tensor `end`, in order; connections alone decide.

    Shapes are not looked at: `residual_blocks` does.
    """
    ancestry = Ancestry(layers, nodes, end)
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in ancestry.nodes:
        for name in ancestry.reads(node):
            consumers.setdefault(name, []).append(node)
    residuals: list[Residual] = []
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
            output = readers[0].output[0] if reader in ACTIVATION and "oftmax" not in reader else total
            ops = {member.op_type for member in ancestry.members(inside)}
            kind = "attention" if ops & ATTENTION else "convolution" if any("Conv" in op for op in ops) else "mlp"
            residuals.append(Residual(total, output, source, branches, kind, ancestry.own[total], inside))
    return residuals


def residual_blocks(
    layers: Layers, residuals: Iterable[Residual], shapes: Mapping[str, Shape], order: Mapping[str, int]
) -> Kinds:
    """Return the ends of the residual blocks. They are in the order of the graph.

    They are the additions whose branches and sum have one shape of 2 to 4 axes, and that no other holds: an addition
    inside the branch of another one is none (relative positions added to attention scores, the inner sums of a Res2Net
    block). What enters a block and is the end of no other is among them.

    order: position of the node that makes a tensor. What comes of an end by a cast or quantisation is that end.
    """
    alike = [
        residual
        for residual in residuals
        if {shapes.get(name) for name in residual.branches} == {shapes.get(residual.total)}
        and 2 <= len(shapes.get(residual.total, ())) <= 4
    ]
    outermost = [residual for residual in alike if not any(residual.own & other.inside for other in alike)]
    ends = {residual.output: residual.kind for residual in outermost}
    end_tensors = ends.keys() | {residual.total for residual in outermost}
    entries = [r.source for r in outermost if _same_values(layers, r.source) not in end_tensors and r.source in order]
    first = min(entries, key=order.__getitem__, default=None)
    kinds = {name: "stem" if name == first else "stage" for name in entries} | ends
    return {name: kinds[name] for name in sorted(kinds, key=order.__getitem__)}


def find_passages(layers: Layers, nodes: Sequence[onnx.NodeProto], end: str) -> list[str]:
    """Return the tensors on every path to `end`. Paths start at the image; in order, `end` left out."""
    ancestry = Ancestry(layers, nodes, end)
    members = list(ancestry.members(ancestry.to_end))
    last_read = {name: i for i, node in enumerate(members) for name in ancestry.reads(node)} | {end: len(members)}
    passages = []
    # the last node that reads anything made so far, the image included
    reach = max((i for name, i in last_read.items() if not ancestry.own[name]), default=0)
    for i, node in enumerate(members):
        outputs = [name for name in node.output if name in last_read]
        if reach <= i and len(outputs) == 1 and outputs[0] != end:
            passages.append(outputs[0])
        reach = max([reach, *(last_read[name] for name in outputs)])
    return passages


def stage_blocks(layers: Layers, passages: Sequence[str], shapes: Mapping[str, Shape]) -> Kinds:
    """Return the last tensor before each change of size.

    Width or resolution changes, and the stretch computes something new.

    A stretch is a run of passages of one shape (2 to 4 axes); one without a linear layer or a concatenation (pooling,
    a reshape) is not a stage.
    """
    blocks: Kinds = {}
    stretch: list[str] = []
    for name in [*passages, ""]:
        shape = shapes.get(name)
        if stretch and shape == shapes.get(stretch[-1]):
            stretch.append(name)
            continue
        if {layers.producers[member].op_type for member in stretch} & (LINEAR | {"Concat"}):
            blocks[stretch[-1]] = "stage"
        stretch = [name] if shape is not None and 2 <= len(shape) <= 4 else []
    return blocks


def _source(ancestry: Ancestry, a: str, b: str) -> tuple[str, int] | None:
    """Return where two branches part, and their nodes as bits. None when they are not a shortcut and a branch."""
    candidates: list[tuple[int, str, int]] = []
    for shortcut, main in ((a, b), (b, a)):
        for steps, source in enumerate(_shortcut(ancestry.layers, shortcut)):
            bypass, inside = (ancestry.above[branch] & ~ancestry.above[source] for branch in (shortcut, main))
            parts_here = ancestry.own[source] & ancestry.above[main] and bypass & inside == 0
            if parts_here and ancestry.has_linear(inside):
                candidates.append((steps, source, bypass | inside))
                break
    return min(candidates, key=lambda candidate: candidate[0])[1:] if candidates else None


def _shortcut(layers: Layers, tensor: str) -> Iterable[str]:
    """Yield `tensor`, then the sources of a shortcut. It is a linear map, norm or pooling of each."""
    yield tensor
    while (node := layers.producers.get(tensor)) is not None and node.op_type in SHORTCUT:
        names = layers.data.get(node.output[0], ())
        if len(names) != 1:
            return
        tensor = names[0]
        yield tensor


def _same_values(layers: Layers, tensor: str) -> str:
    """The tensor whose values `tensor` holds, but for rounding."""
    while (node := layers.producers.get(tensor)) is not None and node.op_type in SAME_VALUES:
        tensor = node.input[0]
    return tensor
