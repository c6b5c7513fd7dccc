"""Refuse models that cannot be checked: unknown operators, giant constants, object detectors and segmenters.

Giant constants are those that the graph computes and that are far larger than what the file holds: ONNX Runtime
computes them while it opens a session, and no signal reaches it there.
"""

import math
import re
from collections import Counter
from collections.abc import Set as AbstractSet
from difflib import get_close_matches
from functools import cache

import onnxruntime as ort
from onnx import GraphProto, ModelProto
from onnx.parser import parse_model
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ...errors import CannotAssessError
from ...text import quoted
from .layers import LINEAR, Layers, computed_constants
from .nodes import Names, bodies, nested_nodes, op_set
from .roles import EMBEDDING_NAME


def check_supported(proto: ModelProto) -> frozenset[str]:
    """Refuse what the installed ONNX Runtime cannot run, by names and versions, before it is loaded.

    Returns:
        The names of all operators of the graph, of those inside its nodes too.

    Raises:
        CannotAssessError: opset or IR version too new; an operator that ONNX Runtime does not have.
    """
    runtime = f"ONNX Runtime {ort.__version__}"
    package = "onnxruntime-gpu" if "CUDAExecutionProvider" in ort.get_available_providers() else "onnxruntime"
    opset, ir_version = supported_versions()
    versions = [("opset", entry.version, opset) for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    for label, version, newest in (*versions, ("IR version", proto.ir_version, ir_version)):
        if newest and version > newest:
            export = "an older onnx" if label == "IR version" else f"opset {min(newest, 18)}"
            raise CannotAssessError(
                f"{label} is {version}; {runtime} supports up to {newest}",
                f"pip install --upgrade {package}, or export with {export}",
            )
    supported = _operators()
    examples = {(node.domain, node.op_type): node for node in nested_nodes(proto.graph.node)}
    for node in examples.values():
        domain = "" if node.domain == "ai.onnx" else node.domain
        if supported and (domain, node.op_type) not in supported:
            of_domain = [op for name, op in supported if name == domain]
            closest = "".join(f" (closest: {op})" for op in get_close_matches(node.op_type, of_domain, n=1))
            name = node.name or "".join(node.output[:1])
            raise CannotAssessError(
                f"node {name!r} uses operator {domain or 'ai.onnx'}:{node.op_type}; {runtime} has no such operator"
                f"{closest}",
                "export with standard operators; custom operator libraries are not loaded",
            )
    return frozenset(op for _, op in examples)


@cache
def supported_versions() -> tuple[int | None, int | None]:
    """Return ONNX Runtime's newest opset and IR version: None where its refusal of absurd models does not name one.

    ONNX Runtime has no function that names them.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # ORT's "fatal": the refusal is wanted, its log line is not

    def limit(opset: int, ir_version: int, pattern: str) -> int | None:
        head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
        proto = parse_model(f"{head} probe (float[1] x) => (float[1] y) {{ y = Identity(x) }}")
        try:
            ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except (ort_state.Fail, ort_state.InvalidGraph, ort_state.NotImplemented) as error:
            if match := re.search(pattern, str(error)):
                return int(match.group(1))
        return None

    return limit(9999, 8, r"till opset (\d+)"), limit(13, 9999, r"max supported IR version: (\d+)")


@cache
def _operators() -> frozenset[tuple[str, str]]:
    """Return the (domain, name) of every supported operator: none where ONNX Runtime does not tell."""
    schemas = getattr(ort_state, "get_all_operator_schema", list)
    return frozenset((schema.domain, schema.name) for schema in schemas())


PER_IMAGE = "one representation for each image is needed"
DETECTOR_NAME = re.compile(
    r"(^|[^a-z])(box(es)?|bbox(es)?|dets?|detections?|num_det\w*|anchors?|masks?|keypoints?)([^a-z]|$)", re.I
)
DETECTOR_OPS = op_set("NonMaxSuppression RoiAlign MaxRoiPool EfficientNMS_TRT BatchedNMS_TRT")
UPSAMPLING_OPS = op_set("Resize Upsample ConvTranspose DepthToSpace")


def refuse_dense(operators: AbstractSet[str], layers: Layers, outputs: Names, where: str) -> None:
    """Refuse object detectors and models that predict per pixel.

    operators: as `check_supported` gives them.

    Raises:
        CannotAssessError: what shows it, and `--tensor` as the way to measure its backbone.
    """
    tensor = quoted(_deepest_map(layers) or "NAME")
    hint = f"to look at its vision encoder: robustcheck inspect {quoted(where)} --tensor {tensor}"
    for name in outputs:
        if DETECTOR_NAME.search(name):
            raise CannotAssessError(f"output {name!r} is an object detector's; {PER_IMAGE}", hint)
    for op in sorted(DETECTOR_OPS & operators):
        raise CannotAssessError(f"graph has {op}, as object detectors have; {PER_IMAGE}", hint)
    upsampling = _upsamples(layers) if UPSAMPLING_OPS & operators else ""
    for name in outputs:
        rank = len(layers.shapes.get(name, ()))
        if upsampling and rank > 2 and not EMBEDDING_NAME.search(name):
            raise CannotAssessError(
                f"output {name!r} has {rank} axes after {upsampling}, as detectors and segmenters have; {PER_IMAGE}",
                hint,
            )


def _upsamples(layers: Layers) -> str:
    """Return the op that enlarges a linear layer's output: "" where none does."""
    deep: set[str] = set()
    last = ""
    for tensor, names in layers.data.items():
        op = layers.ops[tensor]
        if op in LINEAR or not deep.isdisjoint(names):
            deep.add(tensor)
            if op in UPSAMPLING_OPS and names[0] in deep:
                last = op
    return last


def _deepest_map(layers: Layers) -> str:
    """Return the last of the widest feature maps, which is mostly the end of a detector's backbone."""
    widest = 0
    deepest = ""
    for name in layers.data:
        shape = layers.shapes.get(name, ())
        is_map = len(shape) == 4 and layers.ops[name] in LINEAR
        if is_map and shape[1] is not None and shape[1] >= widest:
            widest = shape[1]
            deepest = name
    return deepest


FREE = 1 << 28  # values that a graph may compute from nothing: 1 GiB as float32
TIMES = 16  # and for each value that the file holds: weights are cast, transposed, dequantised …


def refuse_giants(proto: ModelProto, graph: GraphProto) -> None:
    """Refuse a graph that computes constants of more than `FREE` values and `TIMES` those that the file holds.

    Args:
        proto: the model.
        graph: the same with inferred shapes (`with_shapes`); what has no known shape is not counted.

    Raises:
        CannotAssessError.
    """
    values = [*graph.output, *graph.value_info]
    for body in bodies(graph.node):
        values += body.value_info
    sizes = Counter[str]()
    for value in values:
        if value.type.tensor_type.HasField("shape"):
            sizes[value.name] = math.prod(size.dim_value for size in value.type.tensor_type.shape.dim)
    stored = sum(math.prod(weight.dims) for weight in proto.graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            stored += sum(sizes[name] for name in node.output)
    computed = sum(math.prod(sparse.dims) for sparse in proto.graph.sparse_initializer)
    computed += sum(sizes[name] for name in computed_constants(proto))
    if computed > FREE + TIMES * stored:
        raise CannotAssessError(
            f"constants that the graph computes hold {computed:,} values, the file {stored:,}; at most {FREE:,} and "
            f"{TIMES} times those of the file may be computed",
            "export the model again, with its constants folded",
        )
