"""What the program must find, computed again by plain definitions."""

import math
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import scipy.stats
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from robustcheck_onnx.checker.core.model import last_layer, layer_end, layers
from robustcheck_onnx.checker.questions.scan import document
from robustcheck_onnx.checker.questions.scan import run as scan
from robustcheck_onnx.checker.questions.scan.layer import LayerStatistics
from robustcheck_onnx.checker.questions.scan.taps import Tap
from robustcheck_onnx.thresholds.ends import End
from support import Fields

Array = NDArray[Any]


def assert_close(found: float | None, expected: Any, rtol: float = 1e-7, atol: float = 0, note: str = "") -> None:
    """A number that was measured, and near the expected one."""
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=note)


def rows_of(values: Array, tap: Tap, strides: tuple[int, ...] = (1, 1)) -> Array:
    """(image, position, feature), float64: every position, or those of a map at the strides."""
    x = np.asarray(values, dtype=np.float64)
    if tap.form == "tokens_first":
        x = x.swapaxes(0, 1)
    if tap.form == "map":
        x = np.moveaxis(x, 1, -1)
    if x.ndim == 4:
        x = x[:, :: strides[0], :: strides[1]]
    return x.reshape(len(x), -1, x.shape[-1])


def assert_is_truth(found: LayerStatistics, values: Array, tap: Tap, *, places: bool = True) -> None:
    """Every number of the statistics, computed again from the activations."""
    rows, everything = rows_of(values, tap, tap.strides), rows_of(values, tap)
    kurtosis = scipy.stats.kurtosis(rows, axis=2, fisher=False)
    z = scipy.stats.zscore(rows, axis=2)
    flat = z.reshape(-1, z.shape[-1])
    s2, z4 = (flat**2).mean(axis=0), (flat**4).sum(axis=0)
    assert found.n_rows == len(flat)
    expected = {
        "kurtosis": kurtosis.mean(),
        "rms_kurtosis": (s2**2).mean() / s2.mean() ** 2,
        "top3_share": np.sort(z4)[-3:].sum() / z4.sum(),
        "mean_token_kurtosis": scipy.stats.kurtosis(everything.mean(axis=1), axis=1, fisher=False).mean()
        if tap.positions
        else None,
        "class_token_kurtosis": kurtosis[:, 0].mean() if tap.class_token else None,
    }
    few = np.abs(rows[:, :: tap.median_step])
    medians = np.median(few, axis=2)
    if (medians > 0).all():
        expected["max_median_ratio"] = (few.max(axis=2) / medians).mean()
    elif (medians > 0).mean() < 0.5:
        expected["max_median_ratio"] = None
    for name, value in expected.items():
        if value is None:
            assert getattr(found, name) is None, name
        else:
            assert_close(getattr(found, name), value, rtol=1e-4, note=name)
    assert_close(found.largest_value, np.abs(everything).max(), rtol=1e-5)
    if len(rows) > 1:
        assert_close(found.kurtosis_se, scipy.stats.sem(kurtosis.mean(axis=1)), rtol=1e-3, atol=1e-5)
    frequency, of_class = ((np.abs(each) > 6).mean(axis=0) for each in (flat, z[:, 0] * tap.class_token))
    for features, share in ((found.persistent, frequency), (found.class_token_persistent, of_class)):
        assert {each.feature for each in features} == set(np.flatnonzero(share >= 0.5))
    for feature in found.persistent:
        assert_close(feature.frequency, frequency[feature.feature])
        assert_close(feature.kurtosis_share, z4[feature.feature] / z4.sum(), rtol=1e-4)
    if places:
        assert_places(found, z, everything, np.median(medians, axis=1), tap)


def assert_places(found: LayerStatistics, z: Array, everything: Array, median: Array, tap: Tap) -> None:
    """Where the largest |z| lies, and massive activations with their positions."""
    tops = [np.unravel_index(np.abs(image).argmax(), image.shape) for image in z]
    strong = Counter((int(f), int(t)) for (t, f), image in zip(tops, z, strict=True) if np.abs(image).max() > 6)
    common, n = max(strong.items(), key=lambda place: place[::-1], default=((), 0))
    assert (found.fixed_outlier is not None) == (n >= 0.5 * len(z))
    if found.fixed_outlier is not None:
        assert (found.fixed_outlier.feature, found.fixed_outlier.token or 0) == common
        assert_close(found.fixed_outlier.frequency, n / len(z))
    expected: Counter[tuple[int, int]] = Counter()
    for image, middle in zip(np.abs(everything), median, strict=True):
        size = image.max(axis=0)
        for feature in np.argsort(-size)[:3].tolist():
            if size[feature] > 100 and size[feature] >= 1000 * middle > 0:
                expected[feature, cell_of(int(image[:, feature].argmax()), tap)] += 1
    assert {(m.feature, m.token or 0): round(m.frequency * len(z)) for m in found.massive} == expected


def cell_of(position: int, tap: Tap) -> int:
    if len(tap.positions) != 2:
        return position
    row, column = divmod(position, tap.positions[1])
    return row // tap.strides[0] * tap.measured[1] + column // tap.strides[1]


def activations(model: Path, tensors: list[str], feed: Array) -> dict[str, Array]:
    """Block outputs copied out by another session of the same graph."""
    proto = onnx.load(model)
    own = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in own)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(tensors, session.run(tensors, {proto.graph.input[0].name: feed}), strict=True))


def assert_report_is_truth(report: document.ScanReport, model: Path, feed: Array) -> None:
    found = activations(model, [layer.tensor for layer in report.layers], feed)
    for layer in report.layers:
        rectified = layer.statistics.largest_value is not None and bool((found[layer.tensor] >= 0).all())
        tap = Tap(layer.tensor, layer.form, layer.width, layer.positions, layer.class_token, rectified)
        assert tap.measured == layer.measured
        assert_is_truth(layer.statistics, found[layer.tensor], tap)


def scanned(path: Path, **options: Any) -> tuple[document.ScanReport, Array]:
    """The report of a tiny model, and the input it was run on, in any order."""
    inputs = path.with_suffix(".npy")
    options = {"preprocess": "imagenet", "device": "cpu", "batch_size": 5, **options}
    return scan.scan(path, images=inputs, **options), np.load(inputs)


PERCENT = (90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 2)


def of_head(weight: Array, bias: Array, h: Array, *, centred: bool = False, seed: int = 0) -> Fields:
    """All numbers of one analysis; weight (class, feature), h (image, feature)."""
    w, x = np.asarray(weight, np.float64), np.asarray(h, np.float64)
    wc = w - w.mean(0) if centred else w
    u, s, vt = np.linalg.svd(wc, full_matrices=False)
    if centred and len(w) <= w.shape[1]:
        u, s, vt = u[:, :-1], s[:-1], vt[:-1]  # the last one is the mean, taken away
    cos = np.abs(x @ vt.T) / np.linalg.norm(x, axis=1)[:, None]
    p = s / s.sum() * cos.mean(0)
    q = np.sort(p / p.sum())[::-1]
    full = x @ w.T + bias
    first = full.argmax(1)
    second, best = np.sort(full, axis=1)[:, -2:].T
    confident = np.argsort(second - best, kind="stable")[: (len(x) + 1) // 2]

    def predicted(kept: Array) -> Array:
        return np.asarray((x @ vt[kept].T @ (u[:, kept] * s[kept]).T + bias).argmax(1))

    orders = {
        "importance": np.argsort(-p, kind="stable"),
        "singular value": np.arange(len(s)),
        "random": np.random.default_rng(seed).permutation(len(s)),
    }
    same = {}
    for (name, order), percent in product(orders.items(), PERCENT):
        agree = predicted(order[: int(np.ceil(percent * len(s) / 100))]) == first
        same[name, percent] = (agree.sum(), agree[confident].sum())
    return {
        "sigma": s, "importance": p, "v": np.abs(vt), "order": orders["importance"], "same": same,
        "cosines": cos.mean(0), "half": 1.959963984540054 * s / s.sum() * cos.std(0, ddof=1) / len(x) ** 0.5,
        "sums": [1 / (q**2).sum(), np.exp(scipy.stats.entropy(q)), *(q[:k].sum() for k in (1, 3, 10))],
        "predicted": predicted, "first": first,
    }  # fmt: skip


def changed(weight: Array, bias: Array, h: Array, features: list[int], value: Array | float) -> tuple[int, float]:
    """Predictions that change when features are set to a value, and the share of the margin that goes."""
    other = h.astype(np.float64)
    other[:, features] = value
    scores = [x.astype(np.float64) @ np.asarray(weight, np.float64).T + bias for x in (h, other)]
    best = np.argsort(-scores[0], axis=1, kind="stable")[:, :2]
    before, after = (np.take_along_axis(each, best, axis=1) @ (1, -1) for each in scores)
    n_changed = (scores[0].argmax(1) != scores[1].argmax(1)).sum()
    return int(n_changed), float((before - after).sum() / before.sum())


def assert_is_of_head(
    analysis: Any, expected: Fields, n_images: int, rtol: float = 1e-6, of_largest: float = 0
) -> None:
    """Every number of an `Analysis` against `of_head`.

    of_largest: difference of importances, over the largest one, that is allowed as well: directions of nearly equal
        singular values turn into each other by the last digits of W, which is read in float32.
    """
    sums = (analysis.participation_ratio, analysis.effective_rank, *(top.share for top in analysis.top))
    allowed = max(of_largest * max(expected["importance"]), 1e-12)
    for found, wanted, atol in (
        (analysis.singular_values, expected["sigma"], 1e-12 * expected["sigma"][0]),
        (analysis.importances, expected["importance"], allowed),
        ([each.estimate for each in sums], expected["sums"], 0),
    ):
        assert_allclose(found, wanted, rtol=rtol, atol=atol)
    assert [each.index for each in analysis.leading] == list(expected["order"][:10])
    for each in analysis.leading:
        v, half, middle = expected["v"][each.index], expected["half"][each.index], each.importance.estimate
        assert each.largest_feature == v.argmax()
        assert_allclose(each.largest_component, v.max(), rtol=rtol)
        assert_allclose(each.cosine, expected["cosines"][each.index], rtol=rtol, atol=of_largest)
        assert_allclose([each.importance.low, each.importance.high], [max(middle - half, 0), middle + half], rtol=1e-4)
    points = {(curve.order, point.percent): point for curve in analysis.curves for point in curve.points}
    assert {at: (p.same.n_correct, p.same_confident.n_correct) for at, p in points.items()} == expected["same"]
    assert {point.same.n for point in points.values()} == {n_images}


SUMS = ("Add", "Sum", "Mean")
BLOCKING = ("activation", "normalisation", "pool")
INPUT = End("other", "input")
LINEAR, SUM, SECOND, STREAM = End("linear"), End("other", "Add"), End("second_linear"), End("residual")
GATE = "gate"  # stands among operators for an activation of several, such as x·sigmoid(x)
GATES = [End("activation", op) for op in ("Sigmoid", "HardSigmoid", "Clip", "Softmax")]


class SlowGraph:
    """A graph whose walks are recursive. Its nodes are in order; `constants` are shapes of initializers.

    Every definition calls itself on the inputs of a node, afresh. That takes time that doubles with each node that
    joins two branches; for graphs of a dozen nodes.
    """

    def __init__(self, graph: onnx.GraphProto, image: str, constants: dict[str, tuple[int, ...]]) -> None:
        self.nodes = {name: node for node in graph.node for name in node.output}
        self.image, self.constants = image, constants

    def depends(self, tensor: str) -> bool:
        """Whether the values of a tensor depend on the image."""
        return tensor == self.image or self.node(tensor) is not None

    def node(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes a tensor of the image."""
        node = self.nodes.get(tensor)
        return node if node and node.op_type != "Shape" and any(map(self.depends, node.input)) else None

    def data(self, tensor: str) -> tuple[str, ...]:
        """Inputs that carry the image to a tensor."""
        if (node := self.node(tensor)) is None:
            return ()
        op, of_image = node.op_type, tuple(filter(self.depends, node.input))
        if op in layers.FIRST_INPUT_ONLY or (op == "Gather" and self.depends(node.input[0])):
            return tuple(filter(self.depends, node.input[:1]))
        if op in ("Div", "Sub", "Mul") and len(of_image) > 1:
            return tuple(name for name in of_image if self.statistic(name) is None) or of_image[:1]
        return of_image

    def statistic(self, tensor: str) -> str | None:
        """The Reduce op, where a tensor is a statistic of each image."""
        if (node := self.node(tensor)) is None:
            return None
        if node.op_type in layers.REDUCE:
            return str(node.op_type)
        names = self.data(tensor)
        passes_on = node.op_type in layers.OF_A_STATISTIC and len(names) == 1 == sum(map(self.depends, node.input))
        return self.statistic(names[0]) if passes_on else None

    def chain(self, tensor: str) -> list[str]:
        """The tensor, and every one that it is an elementwise function of, the nearest first."""
        node, names = self.node(tensor), self.data(tensor)
        source = self.common(names) if node and node.op_type in layers.ELEMENTWISE and names else None
        return [tensor] if source is None else [tensor, *self.chain(source)]

    def common(self, tensors: tuple[str, ...]) -> str | None:
        """The nearest tensor that all are elementwise functions of."""
        first, *others = map(self.chain, tensors)
        return next((name for name in first if all(name in chain for chain in others)), None)

    def head(self, tensor: str) -> tuple[str, str, frozenset[str]] | None:
        """("head" or "join", the tensor that it makes, ops crossed); None where no linear layer ends a tensor."""
        node, names = self.node(tensor), self.data(tensor)
        if node is None or not names:
            return None
        if node.op_type in layers.LINEAR:
            return ("head", tensor, frozenset()) if len(names) == 1 else None
        if node.op_type not in last_layer.AFTER_HEAD or (node.op_type == "Gather" and not self.depends(node.input[0])):
            return None
        source = self.common(names)
        if source is None or (node.op_type not in layers.ELEMENTWISE and len(names) > 1):
            return ("join", tensor, frozenset())
        inner, gate = self.head(source), {GATE} if len(names) > 1 else set()
        return inner and (*inner[:2], inner[2] | {node.op_type} | gate)

    def own_end(self, node: onnx.NodeProto, names: tuple[str, ...]) -> End | None:
        """What a node is as an end; None to look through it."""
        op = node.op_type
        if op == "Gather" and not self.depends(node.input[0]):
            vectors = sum(size != 1 for size in self.constants.get(node.input[0], ())) > 1
            return End("other" if vectors else "activation", op)
        if op in layers.RESHAPE:
            return None
        for kinds, end in (
            (layer_end.NORMALISATION, End("normalisation")), (layers.POOL, End("pool")),
            (layers.LINEAR, LINEAR if len(names) == 1 else End("other", op)),
            (layer_end.ACTIVATION, End("activation", op)),
        ):  # fmt: skip
            if op in kinds:
                return end
        if op not in layers.AFFINE or (op == "Div" and node.input[0] not in names):
            return End("other", op)
        if len(names) > 1:
            return End("other", op) if self.common(names) is None else End("activation")
        beside = [name for name in node.input if name not in names]
        vector = any(not self.depends(name) and math.prod(self.constants.get(name, (2,))) > 1 for name in beside)
        scaled = any(self.statistic(name) == "ReduceMean" for name in beside)
        return End("normalisation") if op in ("Mul", "Div") and (vector or scaled) else None

    def is_comparison(self, tensor: str) -> bool:
        """Whether a condition is a comparison, be it turned round or cast."""
        node = self.nodes.get(tensor)
        if node is None or node.op_type == "Greater":
            return node is not None
        return node.op_type in ("Not", "Cast") and self.is_comparison(node.input[0])

    def rectified(self, tensor: str) -> str:
        """The activation that a tensor is an affine function of; "" for none."""
        if (node := self.node(tensor)) is None:
            return ""
        op, names = str(node.op_type), self.data(tensor)
        own, under = self.own_end(node, names), [self.rectified(name) for name in names]
        if own is not None and own.kind == "activation":
            return own.op or "made of several"
        if op in ("Max", "Min", "Sqrt", "ReduceL2", "Pow", "Greater"):
            return op
        if op == "Where" and self.is_comparison(node.input[0]):
            return op
        if op == "Mul" and len(names) == 2:
            gates = [self.end(name) in GATES for name in names]
            if sum(gates) == 1:
                return under[gates.index(False)]
            return op if all(self.end(name).kind == "activation" for name in names) else ""
        if len(names) == 1 or (op in SUMS and all(under)) or op == "Concat":
            return max(under, default="")
        return ""

    def end(self, tensor: str) -> End:
        """What a tensor ends in; the op of an activation made of several stays empty."""
        if (node := self.node(tensor)) is None:
            return INPUT
        op, names, rectified = node.op_type, self.data(tensor), self.rectified(tensor)
        own, under = self.own_end(node, names), [self.end(name) for name in names]
        end = own or INPUT
        if op in (*SUMS, "Sub", "Concat") and len(under) > 1 and end.kind == "other":
            if rectified and op in SUMS and any(e.kind == "linear_of" for e in under):
                return End("linear_of", rectified)
            end = self._joined(op, under)
        elif len(under) == 1 and (own is None or op == "Concat"):
            (end,) = under
        elif len(under) == 1 and end.kind == "pool":
            shines_through = under[0].kind in ("activation", "normalisation", "linear_of") or under[0] == INPUT
            end = under[0] if shines_through else end
        if own == end == LINEAR and not rectified and self.embedding(names[0]) in (LINEAR, SECOND):
            return SECOND
        return End("linear_of", rectified) if end in (LINEAR, SUM) and rectified else end

    def embedding(self, tensor: str) -> End | None:
        """How the embedding ends that a tensor is but for its scale and what was picked from it; None for none."""
        if (node := self.node(tensor)) is None:
            return None
        names, end = self.data(tensor), self.end(tensor)
        if end in (LINEAR, SUM, SECOND):
            return end
        own, numerator = self.own_end(node, names), self.node(names[0])
        centred = own == End("normalisation") and numerator and numerator.op_type == "Sub"
        is_norm = node.op_type == "LayerNormalization" or (centred and any(map(self.statistic, node.input)))
        if is_norm or (own is not None and own.kind == "activation"):
            return None
        return self.embedding(names[0]) if len(names) == 1 else None

    @staticmethod
    def _joined(op: str, under: list[End]) -> End:
        for kind in BLOCKING:
            for end in under:
                if end.kind == kind:
                    return end
        if op == "Concat":
            alike = under if len(set(under)) == 1 else [end for end in under if end.kind == "linear_of"]
            return next(iter(alike), End("other", "Concat"))
        unknown = [e for e in under if e not in (LINEAR, SUM) and e.kind != "linear_of"]
        if unknown:
            return min(unknown, key=lambda end: end.op == "Gather")
        return End("other", "Sub") if op == "Sub" else STREAM if SUM in under else SUM
