"""Make two tiny encoders from the bundled photos; excerpt their reports.

Making them takes numpy and onnx.helper, and under a second.

`ordinary` is trained, in closed form: a least-squares map that predicts the lower half of a photo, in grey, from its
coarse upper half. `planted` is the same map with a mean that was made by hand, extreme in one feature; its contract
says that it is synthetic.
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.parser import parse_model
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from ..arrays import Array, Float32s
from ..core.images.preprocess import apply
from ..core.images.source import DecodedImage
from ..core.model.contract import CONTRACT_KEY, graph_digest
from ..core.preprocessing import Preprocessing
from ..core.verdict import kinds
from ..errors import EnvironmentFaultError
from ..outside.image_sets.open import open_images
from ..report import numbers
from ..report.check import Report
from ..report.document import Column
from ..report.terminal import COLOURS, Pen, empty_table, hanging, section
from ..text import Fields, number_text, quoted

Name = Literal["ordinary", "planted"]
NAMES: tuple[Name, ...] = ("ordinary", "planted")

SIZE_PX = 64  # edge of the model's input
COARSE_PX = 4  # edge of the blocks that the upper half is averaged over: 3 × 8 × 16 = 384 numbers
FINE_PX = 2  # edge of the blocks of the lower half that are predicted: 16 × 32 = 512 features
RIDGE = 0.1  # share of the inputs' mean variance that is added to each: 141 photos for 384 inputs
PLANTED_FEATURE = 92
PLANTED_SD = -15.0  # how far it is shifted, in standard deviations over the features of each image
OTHERS_SD = 0.6  # of the random shifts of the other features: a mean along one feature alone never passes
PREPROCESSING = Preprocessing(
    size=(SIZE_PX, SIZE_PX),
    resize_mode="squash",
    resize_size=(SIZE_PX, SIZE_PX),
    interpolation="bilinear",
    crop="none",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def halves(photos: Float32s) -> tuple[Array, Array]:
    """Split photos into inputs and targets of the regression.

    Args:
        photos: (image, height, width, 3), preprocessed.

    Returns:
        The upper half averaged over 4 × 4 px, (image, 384), channel first; the lower half in grey over 2 × 2 px,
        about the mean of each photo, every other block with its sign turned, (image, 512). The signs make neighbours,
        which are alike, lie on either side of zero: photos are mostly dark with a few bright places, or the reverse.
    """
    n, height, *_ = photos.shape
    upper = photos[:, : height // 2].astype(np.float64)
    lower = photos[:, height // 2 :].astype(np.float64)
    coarse = _block_means(upper, COARSE_PX)
    fine = _block_means(lower.mean(3), FINE_PX)
    is_odd = np.indices(fine.shape[1:]).sum(0) % 2
    grey = (fine - fine.mean((1, 2), keepdims=True)) * (1 - 2 * is_odd)
    inputs = np.moveaxis(coarse, 3, 1)
    return inputs.reshape(n, -1), grey.reshape(n, -1)


def _block_means(values: Array, edge_px: int) -> Array:
    """Average values (image, height, width, …) over square blocks."""
    n, _, width, *others = values.shape
    blocks = values.reshape(n, -1, edge_px, width // edge_px, edge_px, *others)
    means: Array = blocks.mean((2, 4))
    return means


def fit(inputs: Array, targets: Array) -> Array:
    """Return the weights W (input, feature) of ridge regression, which map inputs to targets, both about their means.

    inputs: (image, input), targets: (image, feature); at least two images that differ.
    """
    x = inputs - inputs.mean(0)
    y = targets - targets.mean(0)
    gram = x.T @ x
    penalty = RIDGE * np.trace(gram) / len(gram)
    weights: Array = np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ y)
    return weights


def train() -> tuple[Array, Array]:
    """Fit weights to the bundled photos. Returns weights (384, 512) and the mean of the inputs (384,)."""
    items = open_images(None).items()
    photos = [apply(PREPROCESSING, item.image) for item in items if isinstance(item, DecodedImage)]
    inputs, targets = halves(np.stack(photos))
    return fit(inputs, targets), inputs.mean(0)


GRAPH = """<ir_version: 9, opset_import: ["": 18]>
robustcheck_demo_{name} (float[batch, 3, 64, 64] image) => (float[batch, {width}] representation) {{
    upper = Slice(image, top, middle, height_axis)
    coarse = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (upper)
    flat = Flatten(coarse)
    centred = Sub(flat, mean)
    {last} = MatMul(centred, weights){shift}
}}
"""
"""its versions are what every ONNX Runtime that robustcheck takes can read"""
SHIFT = """
    feature_mean = ReduceMean(predicted, feature_axis)
    deviation = Sub(predicted, feature_mean)
    squares = Mul(deviation, deviation)
    variance = ReduceMean(squares, feature_axis)
    sd = Sqrt(variance)
    shift = Mul(sd, planted)
    representation = Add(predicted, shift)"""


def write(path: Path, name: Name, weights: Array, mean: Array) -> None:
    """Write one of the two encoders, image (batch, 3, 64, 64) → representation (batch, 512), with its contract."""
    width = weights.shape[1]
    last = "representation"
    shift = ""
    places = {"top": 0, "middle": SIZE_PX // 2, "height_axis": 2}
    numbers = {"mean": mean, "weights": weights}
    if name == "planted":
        last = "predicted"
        shift = SHIFT
        places["feature_axis"] = 1
        planted = np.random.default_rng(0).normal(0, OTHERS_SD, size=(width,))
        planted[PLANTED_FEATURE] = PLANTED_SD
        numbers["planted"] = planted
    model = parse_model(GRAPH.format(name=name, width=width, last=last, shift=shift))
    for node in model.graph.node:
        node.ClearField("domain")
    constants = [numpy_helper.from_array(np.array([place], np.int64), key) for key, place in places.items()]
    constants += [numpy_helper.from_array(values.astype(np.float32), key) for key, values in numbers.items()]
    model.graph.initializer.extend(constants)
    contract = _contract(name) | {"graph_digest": graph_digest(model)}
    helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
    onnx.save(model, path)


def _contract(name: Name) -> Fields:
    planted = (
        f"the demo's least-squares encoder with feature {PLANTED_FEATURE} shifted by {PLANTED_SD:g} standard "
        f"deviations of each image's features, and the others at random (SD {OTHERS_SD:g})"
    )
    return {
        "schema_version": 1,
        "preprocessing": PREPROCESSING.model_dump(mode="json"),
        "tensors": {"representation": {"meaning": "a photo's lower half, predicted", "rule": "encoder_output"}},
        "source": {
            "library": "robustcheck demo",
            "name": name,
            "weights": "least squares on the bundled photos",
            "weights_digest": "",
            "random_weights": False,
            "synthetic": planted if name == "planted" else "",
            "matched_to": "none",
        },
        "versions": {"onnx": version("onnx"), "numpy": version("numpy")},
        "precision": "fp32",
    }


EXPECTED = {"ordinary": "WARN", "planted": "PASS"}
SHOWN = {
    "ordinary": "Least squares on the bundled photos: it predicts a photo's lower half from its upper half. A real "
    "encoder, if a tiny one; nothing was planted.",
    "planted": "The same encoder with a mean that was made by hand. It is extreme in one feature, in every image.",
}
MEANS = {
    "ordinary": "WARN: the outlier features are absent. That does not make the encoder fragile.",
    "planted": "PASS, of a SYNTHETIC model: it shows what the check looks for, not that this encoder is robust. Only "
    "the contract in the file shows that the feature was planted.",
}


def copy_models(models: list[Path], folder: Path) -> None:
    """Copy the models into a folder. Each appears there complete. Raises EnvironmentFaultError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for model in models:
            unfinished = folder / f".{model.name}.tmp"
            try:
                shutil.copyfile(model, unfinished)
                unfinished.replace(folder / model.name)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{folder}: models could not be written ({fault.strerror}); the folder must be writable",
            f"ls -ld {quoted(folder.parent)}; df -h",
        ) from fault


def excerpt(name: Name, report: Report, pen: Pen) -> RenderableType:
    """Return of a report what the encoder is, verdict, reasons, and the deciding statistics with their thresholds."""
    verdict = report.verdict
    statistics = report.evidence.statistics
    passes = verdict.verdict == "PASS"
    synthetic = report.evidence.model.synthetic
    rows = [("✗", f"{reason.id}: {reason.seen}") for reason in verdict.reasons]
    if passes:
        rows += [("•", note) for note in report.notes if synthetic in note]
    columns = (
        Column("statistic", no_wrap=True),
        Column("value", right=True),
        Column("must be", right=True),
        Column("ok?"),
    )
    table = empty_table(pen, columns)
    for statistic in report.profile.deciding:
        interval = getattr(statistics, statistic)
        minimum = report.profile.minimum_of(statistic)
        clears = numbers.clears(interval, minimum)
        mark = {"yes": "✓", "no": "✗"}.get(clears, "~")
        value = number_text(interval.estimate)
        cells = (kinds.NAMES[statistic], value, f"> {minimum:g}", f"{mark} {clears}")
        table.add_row(*map(pen.say, cells))
    images = f"{statistics.n_images} bundled photos, {statistics.n_features} features"
    colour = f"bold {COLOURS[verdict.verdict]}"
    sign = "✓" if passes else "▲"
    meaning: RenderableType = Text()
    if verdict.verdict == EXPECTED[name]:
        meaning = Padding(pen.prose(MEANS[name]), (0, 0, 1, 2))
    answer = pen.say(f"{sign} {verdict.verdict}", colour)
    listed = hanging([(pen.say(mark), pen.say(text)) for mark, text in rows])
    return Group(
        section(pen, f"{name} encoder", images, pen.prose(SHOWN[name])),
        Text(),
        Padding(answer, (0, 0, 0, 2)),
        Padding(listed, (0, 0, 0, 2)),
        Padding(table, (1, 0, 1, 2)),
        meaning,
    )


def next_steps(keep: Path | None, pen: Pen) -> RenderableType:
    """Return the commands to type next."""
    label = "Keep these two files for a full report:"
    again = "robustcheck demo --keep FOLDER"
    if keep is not None:
        label = "See the full report:"
        again = f"robustcheck {quoted(keep / 'planted.onnx')}"
    steps = (
        ("Check your model on your photos:", "robustcheck model.onnx --images photos/"),
        ("Read what a reason means:", "robustcheck explain too_weak"),
        (label, again),
    )
    lines = []
    for what, typed in steps:
        lines += [pen.prose(f"  {what}"), pen.command(f"    {typed}")]
    return Group(section(pen, "Next", ""), *lines)
