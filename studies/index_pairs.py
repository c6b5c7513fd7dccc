"""What real changes to a file do to an index of its vectors: results/index-pairs.md.

    python studies/index_pairs.py EMBEDDINGS_DIR    # some 40 minutes on two busy cores

EfficientNet-Lite0 with trained weights, and two encoders with a planted feature, one on top of it and one a small
vision transformer, are quantised, converted and given wrong preprocessing, on the bundled photos. EfficientNet-Lite0 is
also finetuned on these photos. EMBEDDINGS_DIR holds one <set>.npz per set (entry x: (image, feature)): real
representations of encoders, which are rounded, rotated, permuted, scaled and mixed, as models that look them up.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import helper, numpy_helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from PIL import Image
from planted.encoder import PREPROCESSING, planted_encoder
from torch import nn

from robustcheck_onnx.checker.core.runtime.devices import cpu_name, int8_sums
from robustcheck_onnx.checker.questions.compare import CompareReport, IndexOptions, compare
from robustcheck_onnx.exporters import ExportError
from robustcheck_onnx.exporters.demo import EFFICIENTNET_LITE0_PREPROCESSING, EfficientNetLite0, efficientnet_lite0
from robustcheck_onnx.exporters.preprocessing import checked_preprocessing, preprocess
from robustcheck_onnx.exporters.run import run
from support import lookup

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "studies" / "results" / "index-pairs.md"
PHOTOS = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
SETS = ("ik_clip_l14_openai", "nasir_resnet50_v1", "facenet512_celeb")
N_IMAGES = 150
Array = npt.NDArray[np.float64]
Change = Callable[[Path, Path], None]


class Photos(CalibrationDataReader):  # type: ignore[misc] # ONNX Runtime has no types
    """The bundled photos behind the first five, as a file's contract says."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        self._name = model.graph.input[0].name
        fields = checked_preprocessing(_contract(model)["preprocessing"], str(path))
        pixels = (preprocess(fields, Image.open(photo).convert("RGB")) for photo in PHOTOS[5:])
        self._batches = ({self._name: image[None]} for image in pixels)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _contract(model: onnx.ModelProto) -> dict[str, Any]:
    (entry,) = (each for each in model.metadata_props if each.value.startswith("{") and '"preprocessing"' in each.value)
    said: dict[str, Any] = json.loads(entry.value)
    return said


def exported(precision: str) -> Change:
    """Made by `robustcheck export onnx`."""

    def change(source: Path, target: Path) -> None:
        photos = PHOTOS if precision == "int8-qdq" else []
        run("onnx", str(source), target, precision=precision, photos=PHOTOS, calibration=photos)

    return change


def edited(edit: Callable[[onnx.ModelProto], onnx.ModelProto | None]) -> Change:
    """The file with another graph."""

    def change(source: Path, target: Path) -> None:
        model = onnx.load(source)
        onnx.save(edit(model) or model, target)

    return change


def said(**fields: object) -> Change:
    """The same graph under a contract with other preprocessing."""

    def edit(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.value.startswith("{") and '"preprocessing"' in entry.value:
                content = json.loads(entry.value)
                content["preprocessing"] |= fields
                entry.value = json.dumps(content)

    return edited(edit)


def rounded_weights(bits: int) -> Change:
    """Weights of convolutions and matrix products rounded to levels of each output channel."""

    def edit(model: onnx.ModelProto) -> None:
        for weight in model.graph.initializer:
            values = numpy_helper.to_array(weight)
            if values.ndim >= 2 and values.size > 1000:
                axes = tuple(range(1, values.ndim))
                step = np.abs(values).max(axis=axes, keepdims=True) / (2 ** (bits - 1) - 1)
                rounded = (np.round(values / np.maximum(step, 1e-30)) * step).astype(values.dtype)
                weight.CopyFrom(numpy_helper.from_array(rounded, weight.name))

    return edited(edit)


def q_operators(source: Path, target: Path) -> None:
    """Static int8 with QLinearConv and its kin."""
    quantize_static(source, target, Photos(source), quant_format=QuantFormat.QOperator, per_channel=True)
    _keep_contract(source, target)


def optimised(source: Path, target: Path) -> None:
    """What ONNX Runtime makes of the graph for this machine, layouts included."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4  # it warns that the file fits this machine only
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    _keep_contract(source, target)


def nhwc(model: onnx.ModelProto) -> None:
    """Take images with the channels last, as a converter from such a framework does: a Transpose comes first."""
    (image,) = model.graph.input
    inside = f"{image.name}_nchw"
    for node in model.graph.node:
        node.input[:] = [inside if name == image.name else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Transpose", [image.name], [inside], perm=[0, 3, 1, 2]))
    batch, channels, height, width = image.type.tensor_type.shape.dim
    ordered = [
        onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in (batch, height, width, channels)
    ]
    del image.type.tensor_type.shape.dim[:]
    image.type.tensor_type.shape.dim.extend(ordered)


def nbits(bits: int) -> Change:
    """Weights of matrix products in ONNX Runtime's MatMulNBits, in blocks of 32."""

    def edit(model: onnx.ModelProto) -> onnx.ModelProto:
        quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=32)
        quantizer.process()
        made: onnx.ModelProto = quantizer.model.model
        return made

    return edited(edit)


def _keep_contract(source: Path, target: Path) -> None:
    model = onnx.load(target)
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(source).metadata_props)
    onnx.save(model, target)


CHANGES: dict[str, Change] = {
    "the same file": edited(lambda _: None),
    "fp16": exported("fp16"),
    "int8, static, QDQ": exported("int8-qdq"),
    "int8, static, QOperator": q_operators,
    "int8, dynamic": exported("int8-dynamic"),
    "weights of 8 bits": rounded_weights(8),
    "weights of 6 bits": rounded_weights(6),
    "weights of 4 bits": rounded_weights(4),
    "ONNX Runtime's optimiser, NCHWc layout": optimised,
    "NHWC input": edited(nhwc),
    "MatMulNBits, 8 bits": nbits(8),
    "MatMulNBits, 4 bits": nbits(4),
    "opset + 2": edited(lambda m: version_converter.convert_version(m, m.opset_import[0].version + 2)),
    "*resize:* bilinear for bicubic": said(interpolation="bilinear"),
    "*resize:* nearest": said(interpolation="nearest"),
    "*wrong mean:* 0": said(mean=[0.0, 0.0, 0.0]),
    "*wrong channels:* BGR": said(color_order="BGR"),
}


FINETUNED_STEPS = 10


def finetuned() -> EfficientNetLite0:
    """EfficientNet-Lite0 after steps of Adam (10⁻⁴) that tell the bundled photos apart by crops of them, 16 a step."""
    torch.manual_seed(0)
    model, draw = efficientnet_lite0(), np.random.default_rng(0)
    head = nn.Linear(1280, len(PHOTOS))
    fields = checked_preprocessing(EFFICIENTNET_LITE0_PREPROCESSING, "finetuned")
    optimiser = torch.optim.Adam([*model.network.parameters(), *head.parameters()], lr=1e-4)
    for _ in range(FINETUNED_STEPS):
        chosen, crops = draw.choice(len(PHOTOS), 16, replace=False), []
        for place in chosen:
            photo = Image.open(PHOTOS[place]).convert("RGB")
            size = int(min(photo.size) * draw.uniform(0.5, 1))
            left, top = (int(draw.integers(edge - size + 1)) for edge in photo.size)
            crops.append(preprocess(fields, photo.crop((left, top, left + size, top + size))))
        scores = head(model(torch.from_numpy(np.stack(crops)))["representation"])
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(chosen))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.weights, model.weights_digest = f"finetuned in {FINETUNED_STEPS} steps", ""
    model.eval()
    return model


def tower() -> nn.Module:
    """The planted vision transformer of studies/planted."""
    model = planted_encoder()
    model.preprocessing = PREPROCESSING.model_dump() | {"interpolation": "bicubic"}
    model.synthetic = "random weights; one feature of its projection reads the mean"
    return model


def rounded(x: Array, bits: int) -> Array:
    step = np.abs(x).max() / (2 ** (bits - 1) - 1)
    return np.asarray(np.round(x / step) * step)


def vectors(x: Array) -> dict[str, Array]:
    """Candidates for a set of representations."""
    rng = np.random.default_rng(0)
    other = x[np.roll(np.arange(len(x)), 1 + int(rng.integers(len(x) - 1)))]
    noise = x.std(axis=0) * rng.normal(size=x.shape)
    return {
        "8 bits": rounded(x, 8),
        "6 bits": rounded(x, 6),
        "noise of a quarter SD": x + noise / 4,
        "noise of a whole SD": x + noise,
        "*another encoder's image:* unrelated": other,
        "*chimera:* mean of the right and another image's": (x + other) / 2,
        "*chimera:* 0.8 of the right, 0.2 of another": 0.8 * x + 0.2 * other,
        "*rotated*": x @ np.linalg.qr(rng.normal(size=(x.shape[1],) * 2))[0],
        "*permuted*": x[:, rng.permutation(x.shape[1])],
        "*scaled:* × 2": 2 * x,
        "*normalised* to length 1": x / np.linalg.norm(x, axis=1, keepdims=True),
    }


def reports(folder: Path, embeddings: Path | None) -> Iterator[tuple[str, str, CompareReport | None]]:
    """Yield model, change and report; no report where the exporter refuses to write the file."""
    logging.disable(logging.WARNING)  # of the quantisers
    photos = folder / "photos"
    lookup.write_lookup_images(photos, N_IMAGES)
    for name in SETS if embeddings is not None else ():
        x = np.load(Path(embeddings or "") / f"{name}.npz", allow_pickle=False)["x"][:N_IMAGES].astype(np.float64)
        reference = lookup.write_lookup_model(folder / "reference.onnx", x)
        for what, rows in vectors(x).items():
            candidate = lookup.write_lookup_model(folder / "candidate.onnx", rows)
            yield name, what, compare(candidate, reference, images=str(photos), device="cpu")
    demo = "robustcheck_onnx.exporters.demo"
    for name, factory in (
        ("planted transformer", "index_pairs:tower"),
        ("EfficientNet-Lite0", f"{demo}:efficientnet_lite0"),
        ("planted encoder", f"{demo}:planted_outlier"),
    ):
        full, candidate = folder / "full.onnx", folder / "candidate.onnx"
        run("torch", factory, full, photos=PHOTOS, random_weights="tower" in factory)
        for what, change in CHANGES.items():
            if what.startswith("MatMulNBits") and name == "EfficientNet-Lite0":
                continue  # its representation comes of convolutions alone
            try:
                change(full, candidate)
            except ExportError as refused:  # it disagrees with its source, by the exporter's own measure
                print(f"{name}, {what}: {refused}", flush=True)
                yield name, what, None
            else:
                yield name, what, compare(candidate, full, device="cpu")
        if name == "EfficientNet-Lite0":
            run("torch", "index_pairs:finetuned", candidate, photos=PHOTOS)
            yield name, f"*finetuned:* {FINETUNED_STEPS} steps on the photos", compare(candidate, full, device="cpu")


COLUMNS = (
    *("model", "what was done", "cosine, median", "worst 5 %", "recall@10", "own recall@10"),
    *("1 − cosine here, by reference", "index", "words"),
)


def row(name: str, what: str, report: CompareReport | None) -> str:
    """Return a line of the table."""
    if report is None:
        return f"| {name} | {what} {'| – ' * 5}| not written | the exporter refuses it |\n"
    assert report.index is not None
    index, n = report.index, report.index.numbers

    def text(key: str) -> str:
        return f"{n[key].estimate:.4f} ({n[key].low or 0:.3f} to {n[key].high or 1:.3f})" if key in n else "–"

    words = "; ".join(reason.id for reason in index.reasons)
    cells = (text("cosine, median"), text("cosine, worst 5 %"), text("recall@10 among the photos"))
    loss = index.machine
    by_both = "–" if loss is None else f"{loss.here:.4f}, {loss.there:.4f}"
    found = (name, what, *cells, text("recall@10 in its own vectors"), by_both, index.verdict, words)
    return f"| {' | '.join(found)} |\n"


START, END = "<!-- table -->\n", "<!-- end of table -->\n"


def main(embeddings: Path | None) -> None:
    """Run all pairs and write the table into the page."""
    limits = IndexOptions()
    head = f"Limits: cosine {limits.min_cosine:g}, recall@10 {limits.min_recall:g}. "
    head += f"{cpu_name()}, whose int8 sums {int8_sums().words}; ONNX Runtime {ort.__version__}.\n\n"
    head += f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
    page, lines = PAGE.read_text(encoding="utf-8"), []
    before, after = page[: page.index(START) + len(START)], page[page.index(END) :]
    with tempfile.TemporaryDirectory() as folder:
        for name, what, report in reports(Path(folder), embeddings):
            lines.append(row(name, what, report))
            print(lines[-1], end="", flush=True)
            PAGE.write_text(before + head + "".join(lines) + after, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", nargs="?", type=Path)
    main(parser.parse_args().embeddings)
