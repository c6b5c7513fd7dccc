"""Append nodes that compute statistics in a graph; sum their numbers. An image gives only a few.

All numbers of an image are one row of one output. Values are cast to float32 first (float64 stays float64) and
centred before they are squared: float16 overflows, and raw moments lose their digits to an offset. Of the images sums
and counts are kept: nothing grows with their number.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...arrays import Array
from ...core.evidence import TOP_FEATURES
from ...core.statistics.definitions import PERSISTENT_SHARE
from ...text import Fields
from .document import FixedOutlier, LayerStatistics, MassiveActivation, PersistentFeature

Shape = tuple[int, ...]
PREFIX = "robustcheck.scan"
OUTPUT = f"{PREFIX}.rows"
MIN_OPSET = 11  # GatherElements; TopK of either end
GRID = 8
"""A feature map is measured at every ⌈edge/8⌉-th row and column, at most 8 × 8 positions. The largest values are taken
over all positions, and placed in one of the 8 × 8 cells."""
MEDIAN_TOKENS = 8  # evenly spaced tokens or positions an image that the medians are taken over: sorting is slow
LARGEST = 3  # features of an image that the largest values are named of
OUTLIER_SD = 6.0  # SD of a row; Bondarenko et al. 2023, Dettmers et al. 2022: their rows are tokens, too
MIN_RELATIVE_VARIANCE: dict[int, float] = {TensorProto.FLOAT: 1e-12, TensorProto.DOUBLE: 1e-18}
"""variance / mean² up to which a row counts as constant: ten times the rounding and more, squared"""


class Tap(NamedTuple):
    """A tensor to measure, and its axes.

    form: vector (image, feature), tokens (image, token, feature), tokens_first (token, image, feature), map (image,
    feature, height, width) or map_last (image, height, width, feature).
    """

    tensor: str
    form: str
    features: int
    positions: Shape
    """tokens; or height and width; empty for a vector"""
    class_token: bool = False
    """whether the first token is the class token"""
    rectified: bool = False
    """whether no value is below 0 (the output of a Relu)"""

    @property
    def strides(self) -> Shape:
        """Step between measured positions, for each axis of positions."""
        return tuple(-(-n // GRID) for n in self.positions) if len(self.positions) == 2 else (1,) * len(self.positions)

    @property
    def measured(self) -> Shape:
        """Number of measured positions, for each axis of positions."""
        return tuple(-(-n // step) for n, step in zip(self.positions, self.strides, strict=True))

    @property
    def n_measured(self) -> int:
        """Rows of features that an image gives."""
        return int(np.prod(self.measured, dtype=int))

    @property
    def median_step(self) -> int:
        """The step between rows that medians are taken over."""
        return -(-self.n_measured // MEDIAN_TOKENS)

    @property
    def fields(self) -> dict[str, int]:
        """Return name and length of a row's pieces, in order."""
        large, features, medians = min(LARGEST, self.features), self.features, -(-self.n_measured // self.median_step)
        pieces = {
            "kurtosis": self.n_measured,  # of each measured token; 0 where constant
            "token_z2": self.n_measured,  # largest z² of each
            "median": medians,  # of |h| of a token, of the tokens that medians are taken over
            "most": medians,  # the largest |h| of the same tokens
            "value_feature": large,  # the features with the largest |h|
            "value": large,  # that |h|
            "value_token": large,  # where, among the measured ones; of a map: the cell that begins there
            "feature_z2": features,  # largest z² of each feature
            "z2": features,  # sums over the measured tokens
            "z4": features,
            "beyond": features,  # number of tokens with |z| > 6
        }
        if not self.rectified:
            pieces["highest"] = large  # largest h of the same features
        if self.positions:
            pieces["mean"] = features  # over all tokens
        if self.class_token:
            pieces["class_beyond"] = features  # of the first token
        return pieces

    @property
    def n_numbers(self) -> int:
        """Length of a row."""
        return sum(self.fields.values())


def add_scan(proto: onnx.ModelProto, taps: Sequence[Tap], double: bool, opset: int) -> None:
    """Append the nodes that measure `taps`. There is one output, OUTPUT: (image, number), float32 or float64.

    A row holds the pieces of each tap's `fields`, tap after tap. double: whether the model computes in float64.
    """
    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
    measured = [_measure(_Writer(proto, f"{PREFIX}.{index}", kind, opset), tap) for index, tap in enumerate(taps)]
    # Each tap's row is joined to those before: this chain makes ONNX Runtime measure a tensor as soon as it is there.
    # One Concat of all makes it run the whole model first and keep every tensor (ResNet-50, 32 images: +1.2 GB).
    graph = _Writer(proto, PREFIX, kind, opset)
    rows = [graph.node("Concat", *pieces, axis=1) for pieces in measured]
    joined = rows[0]
    for row in rows[1:]:
        joined = graph.node("Concat", joined, row, axis=1)
    proto.graph.node.append(helper.make_node("Identity", [joined], [OUTPUT], name=OUTPUT))
    proto.graph.output.append(
        helper.make_tensor_value_info(OUTPUT, kind, ["batch", sum(tap.n_numbers for tap in taps)])
    )


def add_shapes(proto: onnx.ModelProto, tensors: Sequence[str], image: str, opset: int) -> None:
    """Append one output with the shapes of `tensors`. It is OUTPUT: (image, number), each row the same.

    A row holds the number of axes of each tensor, then the axes of all. image: the input.
    """
    graph = _Writer(proto, PREFIX, TensorProto.FLOAT, opset)
    shapes = [graph.node("Shape", tensor) for tensor in tensors]
    numbers = graph.node("Concat", *(graph.node("Shape", shape) for shape in shapes), *shapes, axis=0)
    n_images = graph.slice(graph.node("Shape", image), axis=0, end=1)
    target = graph.node("Concat", n_images, graph.constant([1]), axis=0)
    row = graph.reshape(graph.cast(numbers), [1, -1])
    proto.graph.node.append(helper.make_node("Expand", [row, target], [OUTPUT], name=OUTPUT))
    proto.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", None]))


def read_shapes(row: Sequence[float], n_tensors: int) -> list[Shape]:
    """The shapes in a row of `add_shapes`."""
    numbers = [int(value) for value in row]
    ends = np.cumsum([n_tensors, *numbers[:n_tensors]])
    return [tuple(numbers[start:end]) for start, end in itertools.pairwise(ends)]


END = np.iinfo(np.int64).max  # of an axis


class _Writer:
    """A writer of nodes under one prefix. It uses the graph's opset."""

    def __init__(self, proto: onnx.ModelProto, prefix: str, kind: int, opset: int) -> None:
        self.graph, self.prefix, self.kind, self.opset = proto.graph, prefix, kind, opset
        self._count = 0

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of its output."""
        return self._append(op, inputs, ("value",), attributes)[0]

    def top(self, tensor: str, k: int, **attributes: Any) -> tuple[str, str]:
        """Return the k largest values along an axis. Their places come with them; largest=0 means the smallest."""
        values, indices = self._append("TopK", (tensor, self.constant([k])), ("values", "indices"), attributes)
        return values, indices

    def _append(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Fields) -> list[str]:
        self._count += 1
        name = f"{self.prefix}.{self._count}.{op}"
        names = [f"{name}.{output}" for output in outputs]
        self.graph.node.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Add an initializer."""
        self._count += 1
        name = f"{self.prefix}.{self._count}.c"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def number(self, value: float) -> str:
        """Add a scalar of the statistics' type."""
        return self.constant(value, np.float64 if self.kind == TensorProto.DOUBLE else np.float32)

    def cast(self, tensor: str) -> str:
        return self.node("Cast", tensor, to=self.kind)

    def reduce(self, op: str, tensor: str, axis: int, keep: bool = False) -> str:
        """ReduceSum, ReduceMean, ReduceMax or ReduceMin."""
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.node(op, tensor, self.constant([axis]), keepdims=int(keep))
        return self.node(op, tensor, axes=[axis], keepdims=int(keep))

    def reshape(self, tensor: str, shape: Sequence[int]) -> str:
        return self.node("Reshape", tensor, self.constant(shape))

    def slice(self, tensor: str, axis: int, end: int = END, step: int = 1) -> str:
        """From the start of an axis."""
        return self.node("Slice", tensor, *(self.constant([value]) for value in (0, end, axis, step)))


def _measure(graph: _Writer, tap: Tap) -> list[str]:
    """Append the nodes of one tap. Returns the pieces of its row, each (image, n), in the order of `fields`."""
    rows, size, highest, over_all, axis = _read(graph, tap)
    # standardised over the features of each row: (image, row, feature)
    mean = graph.reduce("ReduceMean", rows, 2, keep=True)
    squares = graph.node("Sub", rows, mean)
    squares = graph.node("Mul", squares, squares)
    variance = graph.reduce("ReduceMean", squares, 2, keep=True)
    least = graph.node("Mul", graph.node("Mul", mean, mean), graph.number(MIN_RELATIVE_VARIANCE[graph.kind]))
    has_spread = graph.node("Greater", variance, least)  # beyond rounding
    inverse = graph.node("Where", has_spread, graph.node("Reciprocal", variance), graph.number(0.0))
    z2 = graph.node("Mul", squares, inverse)
    z4 = graph.node("Mul", z2, z2)
    beyond = graph.node("Greater", z2, graph.number(OUTLIER_SD**2))
    # the largest |h| of features, over all positions
    most = graph.reduce("ReduceMax", size, 3 - axis) if tap.positions else size
    value, chosen = graph.top(most, tap.fields["value"], axis=1)
    # medians, over few rows
    few = rows if tap.median_step == 1 else graph.slice(rows, axis=1, step=tap.median_step)
    few = few if tap.rectified else graph.node("Abs", few)
    pieces = {
        "kurtosis": graph.reduce("ReduceMean", z4, 2),
        "token_z2": graph.reduce("ReduceMax", z2, 2),
        "feature_z2": graph.reduce("ReduceMax", z2, 1),
        "z2": graph.reduce("ReduceSum", z2, 1),
        "z4": graph.reduce("ReduceSum", z4, 1),
        "beyond": graph.reduce("ReduceSum", graph.cast(beyond), 1),
        "value": value,
        "value_feature": graph.cast(chosen),
        "median": _median(graph, few, tap.features),
        "most": graph.reduce("ReduceMax", few, 2),
        "mean": over_all,
    }
    if tap.class_token:
        pieces["class_beyond"] = graph.cast(graph.reshape(graph.slice(beyond, axis=1, end=1), [-1, tap.features]))
    if tap.positions:  # of the chosen features the values at all positions
        n = tap.n_measured
        shape, places = ([1, n, 1], [0, 1, -1]) if axis == 2 else ([1, 1, n], [0, -1, 1])
        wide = graph.node("Expand", graph.reshape(chosen, places), graph.constant(shape))
        columns = graph.node("GatherElements", size, wide, axis=axis)
        pieces["value_token"] = graph.cast(graph.node("ArgMax", columns, axis=3 - axis, keepdims=0))
    else:
        pieces["value_token"] = graph.node("Mul", graph.cast(chosen), graph.number(0.0))
    if highest is not None:
        pieces["highest"] = graph.node("GatherElements", highest, chosen, axis=1)
    return [pieces[name] for name in tap.fields]


def _read(graph: _Writer, tap: Tap) -> tuple[str, str, str | None, str, int]:
    """What a tap's statistics are computed from.

    The measured rows (image, row, feature); the largest |h| of each cell, (image, cell, feature) or (image, feature,
    cell), of a vector (image, feature); the largest h over all positions (None where no h is below 0: the same then)
    and the mean over them, (image, feature); the axis of the features in the second. A cell of tokens is a token.

    Feature maps are read by pooling, which ONNX Runtime does in the blocked layout of its convolutions: a map never
    has to be turned round as a whole.
    """
    features, n = tap.features, tap.n_measured
    values = graph.cast(tap.tensor)
    if tap.form == "tokens_first":
        values = graph.node("Transpose", values, perm=[1, 0, 2])
    if tap.form == "map_last":
        values = graph.node("Transpose", values, perm=[0, 3, 1, 2])
    size = values if tap.rectified else graph.node("Abs", values)
    if tap.form == "vector":
        return graph.reshape(values, [-1, 1, features]), size, None if tap.rectified else values, values, 1
    if tap.form.startswith("tokens"):
        highest = None if tap.rectified else graph.reduce("ReduceMax", values, 1)
        return values, size, highest, graph.reduce("ReduceMean", values, 1), 2

    def pooled(tensor: str, edges: Sequence[int]) -> str:
        if max(tap.strides) > 1:
            # rounding up keeps the cell at the edge; a window of one position has none, and would get one too many
            up = int(max(edges) > 1)
            tensor = graph.node("MaxPool", tensor, kernel_shape=edges, strides=tap.strides, ceil_mode=up)
        return graph.reshape(tensor, [-1, features, n])

    rows = graph.node("Transpose", pooled(values, (1, 1)), perm=[0, 2, 1])

    def over_all(pool: str) -> str:
        return graph.reshape(graph.node(pool, values), [-1, features])

    highest = None if tap.rectified else over_all("GlobalMaxPool")
    return rows, pooled(size, tap.strides), highest, over_all("GlobalAveragePool"), 1


def _median(graph: _Writer, tensor: str, n: int) -> str:
    """Return the median along the last of three axes. The axis has length n and goes. As numpy.median."""
    upper, _ = graph.top(tensor, n // 2 + 1, axis=2, sorted=0)
    if n % 2:
        return graph.reduce("ReduceMin", upper, 2)
    middle, _ = graph.top(upper, 2, axis=2, largest=0, sorted=0)
    return graph.reduce("ReduceMean", middle, 2)


MASSIVE_VALUE = 100.0  # Sun et al. 2024, "Massive Activations in LLMs"
MASSIVE_RATIO = 1000.0  # × the median |value| of the hidden state; the same
NAMED = 16  # features or places named of one tensor; the numbers next to them count all

Spot = tuple[int, int]
"""a feature, and a token or cell"""


class Depth:
    """Sums over images for one tap."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.n_images = self.n_not_finite = self.n_constant = 0
        self._features = {name: np.zeros(tap.features) for name in ("z2", "z4", "beyond", "class_beyond")}
        self._sums: dict[str, float] = defaultdict(float)
        self._tops: dict[Spot, tuple[int, float]] = {}
        """images whose largest |z| is there, and the largest z²"""
        self._massive: dict[Spot, tuple[int, float, float]] = {}
        """images with a massive activation there, the largest value and the largest ratio"""
        self._largest_value = 0.0

    def update(self, rows: npt.ArrayLike) -> None:
        """Add images.

        Args:
            rows: (image, number) float32 or float64 as `add_scan` gives them, pieces as `Tap.fields`
                names them.
        """
        rows = np.asarray(rows)
        least_variance = MIN_RELATIVE_VARIANCE[TensorProto.DOUBLE if rows.dtype == np.float64 else TensorProto.FLOAT]
        values = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
        self.n_not_finite += len(rows) - len(values)
        ends = np.cumsum(list(self.tap.fields.values()))[:-1]
        row = dict(zip(self.tap.fields, np.split(values, ends, axis=1), strict=True))
        n_rows = (row["kurtosis"] > 0).sum(axis=1)  # 0 stands for a constant one; any other is ≥ 1
        usable = n_rows > 0
        row, n_rows = {name: piece[usable] for name, piece in row.items()}, n_rows[usable]
        count = len(n_rows)
        self.n_constant += len(values) - count
        self.n_images += count
        if not count:
            return
        kurtosis = row["kurtosis"].sum(axis=1) / n_rows
        has_median = row["median"] > 0
        ratios = np.divide(row["most"], row["median"], out=np.zeros_like(row["most"]), where=has_median).sum(axis=1)
        n_ratios = has_median.sum(axis=1)
        has_ratio = n_ratios > 0
        numbers: dict[str, npt.ArrayLike] = {
            "rows": n_rows,
            "kurtosis": kurtosis,
            "kurtosis²": kurtosis**2,
            "ratio": ratios[has_ratio] / n_ratios[has_ratio],
            "n_ratio": has_ratio,
            "ratio_rows": n_ratios,
        }
        if self.tap.class_token:
            of_class = row["kurtosis"][:, 0]
            numbers |= {"class": of_class, "n_class": of_class > 0}
        if self.tap.positions:
            of_mean = _kurtosis(row["mean"], least_variance)
            numbers |= {"mean": of_mean, "n_mean": of_mean > 0}
        for name, values in numbers.items():
            self._sums[name] += float(np.sum(values))
        for name in self._features.keys() & row:
            self._features[name] += row[name].sum(axis=0)
        self._place_outliers(row)
        self._place_massive(row)

    def _place_outliers(self, row: dict[str, Array]) -> None:
        for by_feature, by_token in zip(row["feature_z2"], row["token_z2"], strict=True):
            top, features = by_feature.max(), np.flatnonzero(by_feature == by_feature.max())
            tokens = np.flatnonzero(by_token == by_token.max())
            if top > OUTLIER_SD**2 and 1 in {len(features), len(tokens)}:  # else which of them meet is not known
                place = (int(features[0]), int(tokens[0]))
                count, largest = self._tops.get(place, (0, 0.0))
                self._tops[place] = (count + 1, max(largest, float(top)))

    def _place_massive(self, row: dict[str, Array]) -> None:
        size = row["value"]
        signed = np.where(row["highest"] == size, size, -size) if "highest" in row else size
        self._largest_value = max(self._largest_value, float(size.max()))
        # where the median is 0 (most of a rectified map), a ratio to it says nothing
        median = np.median(row["median"], axis=1, keepdims=True)
        massive = (size > MASSIVE_VALUE) & (size >= MASSIVE_RATIO * median) & (median > 0)
        for image, rank in np.argwhere(massive):
            place = (int(row["value_feature"][image, rank]), int(row["value_token"][image, rank]))
            value, ratio = float(signed[image, rank]), float(size[image, rank] / median[image, 0])
            count, most, highest = self._massive.get(place, (0, 0.0, 0.0))
            self._massive[place] = (count + 1, max(most, value, key=abs), max(highest, ratio))

    def statistics(self) -> LayerStatistics:
        """What the images add up to."""
        n, sums = self.n_images, self._sums
        rows = sums["rows"]
        kurtosis = _over(sums["kurtosis"], n)
        spread = max(sums["kurtosis²"] / n - kurtosis**2, 0.0) if kurtosis is not None else 0.0
        s2 = self._features["z2"] / (rows or 1.0)
        shares = self._features["z4"] / (self._features["z4"].sum() or 1.0)
        persistent = _persistent(self._features["beyond"], rows, shares)
        of_class = _persistent(self._features["class_beyond"], n, shares)
        massive = [
            MassiveActivation(**self._place(spot, count), value=value, over_median=ratio)
            for spot, (count, value, ratio) in sorted(self._massive.items(), key=lambda item: (-item[1][0], item[0]))
        ]
        has_medians = n and sums["ratio_rows"] >= 0.5 * n * self.tap.fields["median"]
        return LayerStatistics(
            n_images=n,
            n_rows=round(rows),
            n_not_finite=self.n_not_finite,
            n_constant=self.n_constant,
            kurtosis=kurtosis,
            kurtosis_se=(spread / (n - 1)) ** 0.5 if n > 1 else None,
            class_token_kurtosis=_over(sums["class"], sums["n_class"]),
            mean_token_kurtosis=_over(sums["mean"], sums["n_mean"]),
            rms_kurtosis=float(np.mean(s2**2) / np.mean(s2) ** 2) if rows else None,
            top3_share=float(np.sort(shares)[::-1][:TOP_FEATURES].sum()) if rows else None,
            n_persistent=len(persistent),
            persistent=tuple(persistent[:NAMED]),
            n_class_token_persistent=len(of_class),
            class_token_persistent=tuple(of_class[:NAMED]),
            fixed_outlier=self._fixed_outlier(),
            max_median_ratio=_over(sums["ratio"], sums["n_ratio"]) if has_medians else None,
            largest_value=self._largest_value if n else None,
            massive=tuple(massive[:NAMED]),
            n_massive=len(massive),
        )

    def _fixed_outlier(self) -> FixedOutlier | None:
        count, spot, z2 = max(((count, spot, z2) for spot, (count, z2) in self._tops.items()), default=(0, (0, 0), 0.0))
        is_fixed = count and count >= PERSISTENT_SHARE * self.n_images
        return FixedOutlier(**self._place(spot, count), largest_z=z2**0.5) if is_fixed else None

    def _place(self, spot: Spot, count: int) -> Fields:
        """Return the fields of a `Place`."""
        feature, token = spot
        return {
            "feature": feature,
            "token": token if self.tap.positions else None,
            "where": place_text(self.tap, token),
            "frequency": count / self.n_images,
        }


def place_text(tap: Tap, token: int) -> str:
    """Return a token or cell in words. Empty for a vector.

    >>> place_text(Tap("t", "map", 8, (16, 4)), 5)
    'rows 2–3, column 1'
    """
    if not tap.positions:
        return ""
    if len(tap.positions) == 1:
        return "class token" if tap.class_token and token == 0 else f"token {token}"
    parts: list[str] = []
    cells = divmod(token, tap.measured[1])
    for axis, index, step, n in zip(("row", "column"), cells, tap.strides, tap.positions, strict=True):
        first, last = index * step, min((index + 1) * step, n) - 1
        parts.append(f"{axis} {first}" if first == last else f"{axis}s {first}–{last}")
    return ", ".join(parts)


def _persistent(beyond: Array, rows: float, shares: Array) -> list[PersistentFeature]:
    return [
        PersistentFeature(
            feature=int(feature), frequency=float(beyond[feature] / rows), kurtosis_share=float(shares[feature])
        )
        for feature in np.argsort(-beyond, kind="stable")
        if beyond[feature] >= PERSISTENT_SHARE * rows and beyond[feature] > 0
    ]


def _kurtosis(values: Array, least_variance: float) -> Array:
    """Return the activation kurtosis of (image, feature).

    It is 0 of a constant one: variance / mean² up to `least_variance`.
    """
    mean = values.mean(axis=1, keepdims=True)
    squares = (values - mean) ** 2
    variance = squares.mean(axis=1, keepdims=True)
    z2 = np.divide(squares, variance, out=np.zeros_like(squares), where=variance > least_variance * mean**2)
    kurtosis: Array = (z2**2).mean(axis=1)
    return kurtosis


def _over(total: float, count: float) -> float | None:
    return total / count if count else None
