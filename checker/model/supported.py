"""Refuse models that can't be checked: unknown operators, object detectors, segmenters."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Set as AbstractSet
from functools import lru_cache

import onnx
import onnx.inliner
import onnxruntime as ort
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from robustcheck_onnx.checker.errors import CannotAssessError

from .layers import LINEAR, Layers, nested_nodes
from .roles import EMBEDDING_NAME

ONE_EACH = "one representation for each image is needed"
DETECTOR_NAME = re.compile(
    r"(^|[^a-z])(box(es)?|bbox(es)?|dets?|detections?|num_det\w*|anchors?|masks?|keypoints?)([^a-z]|$)", re.I
)
DETECTOR_OPS = frozenset(("NonMaxSuppression", "RoiAlign", "MaxRoiPool", "EfficientNMS_TRT", "BatchedNMS_TRT"))
UPSAMPLING_OPS = frozenset(("Resize", "Upsample", "ConvTranspose", "DepthToSpace"))


def check_supported(proto: onnx.ModelProto, where: str) -> frozenset[str]:
    """Refuse what the installed ONNX Runtime can't run, by names and versions, before it is loaded.

    Returns:
        The names of all operators of the graph, of those inside its nodes too.

    Raises:
        CannotAssessError: opset or IR version too new; an operator that ONNX Runtime does not have.
    """
    runtime = f"ONNX Runtime {ort.__version__}"
    package = "onnxruntime-gpu" if "CUDAExecutionProvider" in ort.get_available_providers() else "onnxruntime"
    opset, ir_version = supported_versions()
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and opset and entry.version > opset:
            raise CannotAssessError(
                f"{where}: opset is {entry.version}; {runtime} supports up to {opset}",
                f"pip install --upgrade {package}, or export with opset {min(opset, 18)}",
            )
    if ir_version and proto.ir_version > ir_version:
        raise CannotAssessError(
            f"{where}: IR version is {proto.ir_version}; {runtime} supports up to {ir_version}",
            f"pip install --upgrade {package}, or export with an older onnx",
        )
    known = _operators()
    examples = {(node.domain, node.op_type): node for node in nested_nodes(proto.graph.node)}
    for node in examples.values():
        domain = "" if node.domain == "ai.onnx" else node.domain
        if known and (domain, node.op_type) not in known:
            close = difflib.get_close_matches(node.op_type, [op for name, op in known if name == domain], n=1)
            raise CannotAssessError(
                f"{where}: node {node.name or ''.join(node.output[:1])!r} uses operator "
                f"{domain or 'ai.onnx'}:{node.op_type}; {runtime} has no such operator"
                + (f" (closest: {close[0]})" if close else ""),
                "export with standard operators; custom operator libraries are not loaded",
            )
    return frozenset(op for _, op in examples)


def refuse_dense(operators: AbstractSet[str], layers: Layers, outputs: tuple[str, ...], where: str) -> None:
    """Refuse object detectors and models that predict for every pixel.

    operators: as `check_supported` gives them.

    Raises:
        CannotAssessError: what shows it, and `--tensor` as the way to measure its backbone.
    """
    command = f"robustcheck inspect {shlex.quote(where)} --tensor {shlex.quote(_deepest_map(layers) or 'NAME')}"
    hint = f"to look at its vision encoder: {command}"
    for name in outputs:
        if DETECTOR_NAME.search(name):
            raise CannotAssessError(f"{where}: output {name!r} is an object detector's; {ONE_EACH}", hint)
    for op in sorted(DETECTOR_OPS & operators):
        raise CannotAssessError(f"{where}: graph has {op}, as object detectors have; {ONE_EACH}", hint)
    upsampling = _upsamples(layers) if UPSAMPLING_OPS & operators else ""
    ranks = {name: len(layers.shapes[name]) for name in outputs if name in layers.shapes}
    for name, rank in ranks.items():
        if upsampling and rank > 2 and not EMBEDDING_NAME.search(name):
            raise CannotAssessError(
                f"{where}: output {name!r} has {rank} axes behind {upsampling}, as detectors and segmenters "
                f"have; {ONE_EACH}",
                hint,
            )


def _upsamples(layers: Layers) -> str:
    """Name the op that makes what a linear layer gave larger; "" where none does."""
    deep: set[str] = set()
    found = ""
    for tensor, names in layers.data.items():
        op = layers.ops[tensor]
        if op in LINEAR or not deep.isdisjoint(names):
            deep.add(tensor)
            if op in UPSAMPLING_OPS and names[0] in deep:
                found = op
    return found


def _deepest_map(layers: Layers) -> str:
    """Name the last of the feature maps with the most channels: of a detector, the end of its backbone as a rule."""
    maps = [
        (shape[1], name)
        for name in layers.data
        if len(shape := layers.shapes.get(name, ())) == 4 and shape[1] is not None and layers.ops[name] in LINEAR
    ]
    widest = max((channels for channels, _ in maps), default=0)
    return next((name for channels, name in reversed(maps) if channels == widest), "")


@lru_cache(maxsize=1)
def supported_versions() -> tuple[int | None, int | None]:
    """Ask the installed ONNX Runtime for the newest opset and IR version that it runs; None where it does not say.

    It has no function for this: its refusal of two absurd one-node models names both limits.
    """
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [end])
    options = ort.SessionOptions()
    options.log_severity_level = 4  # ORT's "fatal": the refusal is wanted, its log line is not
    limits: list[int | None] = []
    for opset, ir_version, pattern in (
        (9999, 8, r"till opset (\d+)"),
        (13, 9999, r"max supported IR version: (\d+)"),
    ):
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
        match = None
        try:
            ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except (ort_state.Fail, ort_state.InvalidGraph, ort_state.NotImplemented) as error:
            match = re.search(pattern, str(error))
        limits.append(int(match.group(1)) if match else None)
    return limits[0], limits[1]


@lru_cache(maxsize=1)
def _operators() -> frozenset[tuple[str, str]]:
    """List the (domain, name) of every operator that ONNX Runtime has; empty where it does not say."""
    schemas = getattr(ort_state, "get_all_operator_schema", None)
    return frozenset((schema.domain, schema.name) for schema in schemas()) if schemas else frozenset()
