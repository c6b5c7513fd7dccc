"""Analyse the directions of a model's linear head. One pass over the images, then linear algebra.

Information, not a verdict. Labels of a labelled set become classes of the head, as in `shift`. Silent; progress goes to
a callback.

Outlier features are found, and how the head uses them and each direction is measured. The head of k directions is
W V_k V_kᵀ h + b; the bias stays whole. Each image is projected once, and the directions are added in their order, so
that a whole curve costs little more than one set of scores.

Directions are the right singular vectors of the head's weight matrix W (class, feature): W = U Σ Vᵀ. Source: Crabbé,
Rodríguez, Shankar, Zappella, Blaas, "Interpreting CLIP: Insights on the Robustness to ImageNet Distribution Shifts",
TMLR 2024. Where singular values are equal, their directions are no more than one choice among many.
"""

from __future__ import annotations  # help() names the types as the package does

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple, Unpack

import numpy as np

from ...arrays import Array, Bools, Floats, Indices, float64
from ...core.evidence import Execution, Interval, RunOptions
from ...core.measure.collect import collect, difference_of_head, n_features, read_head_input
from ...core.measure.job import Job
from ...core.measure.opening import Inputs, model_read, open_runner, question_notes, read_inputs
from ...core.measure.sums import ImagesRead
from ...core.progress import Progress, Tell, tell_stage
from ...core.runtime.head import LinearHead, head_from_file, read_head
from ...core.statistics.definitions import PERSISTENT_SHARE, shares_of_kurtosis, standardise, usable_rows
from ...core.statistics.intervals import CONFIDENCE, Accuracy, wilson
from ...core.verdict.notes import execution_notes, image_notes
from ...errors import CannotAssessError, UsageError, unfit
from ...outside.image_sets.open import Images, opener, settle
from ...outside.isolation import NO_LIMITS, Limits, apart, is_possible
from ...outside.storage.places import as_typed, local_path
from ...report.record import Clock, Time
from ...text import VERSION, Fields, Texts, count_text, quoted
from ..shift import robustness
from ..shift.robustness import Effective, SetResult
from ..shift.run import read_notes
from ..shift.sets import Scores, Spec, class_names, is_correct, labels_of, open_sets, parse_call, with_labels
from . import document
from .document import Analysis, DirectionsReport, Outliers

MAX_IMAGES = 300  # of each set by default: intervals of a share are then 6 points to each side at most
MIN_IMAGES = 2  # fewer have no mean to be replaced by, and no interval
FEW_IMAGES = 50  # a check needs as many


def directions(
    model: str | Path,
    *,
    images: Images | None = None,
    head: str | Path | None = None,
    labelled: str | Path | None = None,
    shifted: Sequence[str | Path] = (),
    classes: Sequence[str] = (),
    baseline: str = "timm",
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[RunOptions],
) -> DirectionsReport:
    """Measure the directions of a classifier's head.

    Which weigh most, and what is left of the predictions without others?

    Args:
        model: path of the ONNX file: a classifier, or an encoder with `head`.
        images: as in `check`; those of `labelled` where only these are given.
        head: file with the weights of a linear head: .npy (class, feature), or .safetensors with weight and bias.
        labelled: in-distribution images with labels, as in `measure_shift`: accuracy is measured on them, too.
        shifted: shifted sets with labels, as in `measure_shift`.
        classes: what labels mean, as in `measure_shift`.
        baseline: timm or testbed, as in `measure_shift`.
        isolate: as in `check`.
        limits: as in `check`.
        progress: called when a stage begins and after every batch.
        options: as in `check`; max_images is of each set, and 300 unless it is given; tensor and pool belong to `head`.

    Raises:
        UsageError: as for a check and `measure_shift`; a head file of another kind, shape or width; tensor
            without head.
        CannotAssessError: as for a check; no head, or several; scores that are not W·h + b; fewer than two images;
            values that are not finite; classes with the same weights.
        EnvironmentFaultError: as for a check.
    """
    clock = Clock()
    specs, maps = parse_sets(labelled, shifted, classes)
    if images is None and specs:
        images = as_typed(specs[0].place)
    run, source = settle(images, options, max_images=MAX_IMAGES)
    path = local_path(model, "model")
    if head is None and (run.tensor is not None or run.pool is not None):
        raise UsageError(
            "--tensor or --pool is given without --head; the model's own head fixes the tensor",
            "--head FILE.npy, or leave --tensor and --pool out",
        )
    if isolate and is_possible(source, run.images, *(as_typed(spec.place) for spec in specs)):
        asked: Fields = {"head": head, "labelled": labelled, "shifted": shifted, "classes": classes}
        return apart(directions, str(model), limits)(
            model, baseline=baseline, progress=progress, **asked, **run.keywords
        )
    limits.refuse_here()
    tell_stage(progress, "opening the model and the images")
    read_job = read_head_input if head is None else read_inputs
    inputs = read_job(Job(path, run), opener(source))
    linear, difference, h, labelled_sets, read, execution = _measure(inputs, head, specs, maps, progress)
    tell_stage(progress, "decomposing the head")
    try:
        raw, centred, outliers = analyse(linear, h, labelled=labelled_sets, baseline=baseline, seed=run.seed)
    except SameWeightsError as fault:
        raise unfit(
            inputs.models[0].path,
            f"weights of {linear.source} are the same for all classes; a prediction must depend on the image",
        ) from fault
    results = [(s.result, s.digests) for s in labelled_sets if s.result]
    report = DirectionsReport(
        tool_version=VERSION,
        model=document.HeadModel(
            **model_read(inputs.models[0]),
            head=linear.source,
            n_classes=len(linear.bias),
            n_features=linear.weight.shape[1],
            score_difference=difference,
        ),
        n_images=len(h),
        n_left_out=read.n_usable - len(h),
        raw=raw,
        centred=centred,
        outliers=outliers,
        confidence=CONFIDENCE,
        in_distribution=results[0][0] if results else None,
        shifted=tuple(robustness.compare_sets(*results[0], *r, baseline) for r in results[1:]),
        baseline=baseline,
        summary=document.summary_of(raw),
        preprocessing=inputs.preprocessing,
        images=read.facts(inputs.source),
        execution=execution,
        notes=(),
        time=Time.until_now(clock, read.n_usable),
    )
    return report.model_copy(update={"notes": _notes(report, inputs, [result for result, _ in results])})


def _measure(
    inputs: Inputs, file: str | Path | None, specs: list[Spec], maps: dict[str, str], progress: Tell | None
) -> tuple[LinearHead, float | None, Floats, list[Labelled], ImagesRead, Execution]:
    """Read the head, and run the model on all images.

    file: of another head than the model's own.
    Returns the head, how far its scores are from the model's, the representations that are not constant, the labelled
    sets, and how images were read and the model ran.
    """
    (opened,) = inputs.models
    own = None if file is not None else read_head(opened)
    tell_stage(progress, "loading the model")
    are_photos = inputs.source.kind != "tensors"
    runner = open_runner(inputs, photos=are_photos)
    head = own or head_from_file(Path(str(file)), n_features(runner, inputs))
    sources = open_sets(specs, inputs)
    n_classes, names = len(head.bias), class_names(opened)
    scores = Scores(n_classes, names if len(names) == n_classes else ())
    prepared = with_labels(specs, sources, [labels_of(source) for source in sources], maps, scores)
    collected = collect(runner, inputs, progress=progress)
    difference = None if own is None else difference_of_head(own, collected, opened)
    h = collected.representations[usable_rows(collected.representations).usable]
    if len(h) < MIN_IMAGES:
        raise CannotAssessError(
            f"{opened.path}: number of images with a representation that is not constant is {len(h)}; at least "
            f"{MIN_IMAGES} are needed",
            "--images FOLDER with photos",
        )
    for_labels = runner if are_photos or not prepared else open_runner(inputs)
    labelled = list[Labelled]()
    for photos in prepared:
        of_set = collected
        if photos.source is not inputs.source:
            of_set = collect(for_labels, inputs, photos.source, progress=progress, label=photos.spec.name)
        usable = set(of_set.names)  # skipped images have no row
        right = [right for e, right in zip(photos.source.entries, photos.right, strict=True) if e.name in usable]
        labelled_set = Labelled(photos.spec.name, of_set.representations, right, photos.map.compete)
        result = photos.result(of_set.read, len(set(right)), correct(head, labelled_set))
        labelled.append(labelled_set._replace(result=result, digests=of_set.digests))
    return head, difference, h, labelled, collected.read, runner.execution


def parse_sets(
    labelled: str | Path | None, shifted: Sequence[str | Path], classes: Sequence[str]
) -> tuple[list[Spec], dict[str, str]]:
    """Return the sets of a call, with their class maps. The in-distribution one comes first (`shift.sets.parse_call`).

    Raises UsageError as that, and for shifted sets or class maps without an in-distribution set.
    """
    if labelled is not None:
        named = parse_call(str(labelled), [str(place) for place in shifted], classes, alone=True)
        return [named.inside, *named.shifted], named.maps
    for option, values in (("--shifted", shifted), ("--classes", classes)):
        if values:
            raise UsageError(
                f"{option} is given without --in; accuracy starts from labelled in-distribution images",
                f"--in photos/ {option} {quoted(values[0])}",
            )
    return [], {}


def _notes(report: DirectionsReport, inputs: Inputs, labelled: Sequence[SetResult]) -> Texts:
    """Write what a reader must know next to the numbers."""
    notes = question_notes(inputs) + image_notes(report.images)
    if report.n_images < FEW_IMAGES:
        notes.append(f"Only {report.n_images} images: intervals are wide, and the order of the directions can change.")
    if report.n_left_out:
        left_out = count_text(report.n_left_out, "image")
        notes.append(f"{left_out} left out: the representation is the same in all features.")
    notes += document.spectrum_notes(report.raw)
    notes += [f"Image set: {finding.seen}." for finding in report.images.sanity.findings]
    for result in labelled:
        if result.n_labels < result.n_compete:
            notes.append(f"{result.name}: {result.n_labels} of {result.n_compete} classes have images.")
        notes += reversed(read_notes(result))
    return (*notes, *execution_notes(report.execution))


LEADING = 10  # directions that are listed
OUTLIER_SD = 6.0  # Bondarenko et al. 2023, "Quantizable Transformers"; Dettmers et al. 2022, LLM.int8
LISTED = 8  # outlier features that are named, those with the largest share of the kurtosis first
PERCENT = (90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 2)
"""share of the directions that is kept at each point of a curve"""
KEEPS = (0.99, 0.95)
"""shares of the predictions for which the smallest number of directions is looked for"""
STEPS = 50  # numbers of directions that are tried for it, evenly spaced; all where there are fewer
Z = 1.959963984540054  # normal quantile of a two-sided 95 % interval
TOP = (1, 3, 10)  # numbers of directions whose share of the importance is reported
BLOCK_CLASSES = 2048  # rows of W in one step of the decomposition
BLOCK_VALUES = 2**20  # values of a table that is worked on at once: 8 MiB, so that it stays in a cache


class SameWeightsError(ValueError):
    """All classes of a head have the same weights."""


class Labelled(NamedTuple):
    """The representations of one labelled set."""

    name: str
    representations: Floats
    """(image, feature)"""
    right: Sequence[tuple[int, ...]]
    """the classes that are right for each image"""
    compete: Sequence[int]
    """the classes among which the prediction is made"""
    result: SetResult | None = None
    """as `shift` reports it, for effective robustness"""
    digests: Sequence[str] = ()  # of the images

    def n_right(self, images: slice, scores: Array) -> int:
        """Count the images predicted right in a piece. scores: (image, class)."""
        return int(is_correct(scores, self.right[images], self.compete).sum())


def correct(head: LinearHead, labelled: Labelled) -> int:
    """Count the labelled images that the head predicts right."""
    return sum(
        labelled.n_right(images, head.scores(labelled.representations[images]))
        for images in pieces(len(labelled.right), len(head.bias))
    )


def analyse(
    head: LinearHead, h: Floats, *, labelled: Sequence[Labelled] = (), baseline: str = "timm", seed: int = 0
) -> tuple[Analysis, Analysis, Outliers]:
    """Measure the directions of a head on some images.

    Args:
        head: two classes or more.
        h: (image, feature), two images or more, finite and not constant.
        labelled: sets on which accuracy is measured, too; the in-distribution one first.
        baseline: of effective robustness, as in `measure_shift`.
        seed: fixes the random order.

    Returns:
        Of W raw, of W centred, and of the outlier features.

    Raises:
        SameWeightsError: all classes have the same weights, so that no prediction depends on the image.
    """
    raw, centred = decompose(head.weight)
    if not centred.sigma[0] > document.SAME * raw.sigma[0]:
        raise SameWeightsError
    predictions = predict(head, h)
    outliers = _outliers(head, h, predictions)

    def effective(accuracy: dict[str, Accuracy]) -> dict[str, Effective]:
        """Return effective robustness by shifted set, from the accuracies of all sets."""
        results = [s.result.model_copy(update={"accuracy": accuracy[s.name]}) for s in labelled if s.result]
        by_name = {r.name: robustness.effective(results[0], r, baseline)[0] for r in results[1:]}
        return {name: value for name, value in by_name.items() if value is not None}

    def analysis(directions: Directions) -> Analysis:
        columns = directions.v.T @ head.weight.T - (directions.v.T @ directions.mean)[:, None]
        projected = directions.project(h)
        others = [(s, directions.project(s.representations)) for s in labelled]
        weighed = _weigh(directions, h, projected, [feature.index for feature in outliers.features])
        n, importances = weighed.n_directions, np.array(weighed.importances)
        numbers = {percent: math.ceil(percent * n / 100) for percent in PERCENT}
        steps = {math.ceil(n * step / STEPS) for step in range(1, STEPS + 1)} - {n}
        orders: dict[document.Order, Indices] = {
            "importance": np.argsort(-importances, kind="stable"),
            "singular value": np.arange(n),
            "random": np.random.default_rng(seed).permutation(n),
        }
        curves, same = [], dict[int, float]()
        for name, order in orders.items():
            tried = {*numbers.values(), *(steps if name == "importance" else ())}
            predicted = {k: np.empty(len(projected), dtype=np.intp) for k in tried}
            for k, part, scores in pruned_scores(columns, projected, head.bias, order, tried):
                predicted[k][part] = scores.argmax(axis=1)
            agrees = {k: predictions.agrees(classes) for k, classes in predicted.items()}
            same = same or {k: float(agree.mean()) for k, agree in agrees.items()}  # of the first order
            right = Counter[tuple[int, str]]()
            for labelled_set, of_set in others:
                for k, part, scores in pruned_scores(columns, of_set, head.bias, order, numbers.values()):
                    right[k, labelled_set.name] += labelled_set.n_right(part, scores)
            points = tuple(
                document.Point(
                    percent=percent,
                    kept=k,
                    importance=min(float(importances[order[:k]].sum() / importances.sum()), 1.0),
                    same=_share(agrees[k]),
                    same_confident=_share(agrees[k][predictions.confident]),
                    accuracy=(of_sets := {s.name: wilson(right[k, s.name], len(s.right)) for s in labelled}),
                    effective_robustness=effective(of_sets),
                )
                for percent, k in numbers.items()
            )
            curves.append(document.Curve(order=name, points=points))
        fewest = []
        for share in KEEPS:  # from there on every larger number tried keeps that share, too
            too_few = max((k for k in same if same[k] < share), default=0)
            least = min((k for k in same if k > too_few), default=n)
            fewest.append(document.Fewest(share=share, directions=least, percent=100 * least / n))
        return weighed.model_copy(update={"curves": tuple(curves), "fewest": tuple(fewest)})

    return analysis(raw), analysis(centred), outliers


def _weigh(directions: Directions, h: Floats, projected: Array, named: Sequence[int]) -> Analysis:
    """Weigh the directions on some images, without pruning them.

    Intervals are normal ones over images: of a function of the mean importances by the delta method, its gradient times
    each image's importances standing for the image.

    Args:
        directions: of a head whose singular values are not all 0.
        h: (image, feature), two images or more, not 0.
        projected: (image, direction) h V.
        named: features whose part in the leading directions is reported.
    """
    sigma, n = directions.sigma, len(directions.sigma)
    scale = sigma / sigma.sum()
    absolute = np.abs(projected) / np.sqrt(np.einsum("ij,ij->i", h, h, dtype=np.float64))[:, None]
    cosines = absolute.mean(axis=0)
    values, errors = scale * cosines, scale * absolute.std(axis=0, ddof=1) / np.sqrt(len(h))
    order = np.argsort(-values, kind="stable")

    def interval(value: float, half: float, ceiling: float = math.inf) -> Interval:
        return Interval(estimate=value, low=max(value - half, 0.0), high=min(value + half, ceiling))

    def estimate(value: float, gradient: Array, ceiling: float) -> Interval:
        """Return a value with its interval. `gradient` is by each direction's importance."""
        return interval(value, float(Z * (absolute @ (scale * gradient)).std(ddof=1) / np.sqrt(len(h))), ceiling)

    total, squares = values.sum(), float((values**2).sum())
    shares = values / total
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    entropy = -float((shares * logs).sum())
    rank = float(np.exp(entropy))
    tops = []
    for k in TOP:
        selected = np.zeros(n)
        selected[order[:k]] = 1.0
        share = min(float(shares @ selected), 1.0) if k < n else 1.0
        tops.append(document.TopShare(directions=k, share=estimate(share, (selected - share) / total, 1.0)))
    leading = []
    for i in map(int, order[:LEADING]):
        components = np.abs(directions.v[:, i])
        leading.append(
            document.Direction(
                index=i,
                singular_value=float(sigma[i]),
                cosine=float(cosines[i]),
                importance=interval(float(values[i]), Z * float(errors[i])),
                largest_feature=int(components.argmax()),
                largest_component=float(components.max()),
                on_features=tuple(components[named].tolist()),
            )
        )
    by_ratio = 2 * total / squares - 2 * total**2 * values / squares**2
    return Analysis(
        n_directions=n,
        singular_values=tuple(sigma.tolist()),
        importances=tuple(values.tolist()),
        participation_ratio=estimate(float(total**2 / squares), by_ratio, n),
        effective_rank=estimate(rank, np.where(shares > 0, -rank * (logs + entropy) / total, 0.0), n),
        top=tuple(tops),
        leading=tuple(leading),
        curves=(),
        fewest=(),
    )


def _outliers(head: LinearHead, h: Floats, predictions: Predictions) -> Outliers:
    """Find the outlier features, and replace them by mean and by zero. The value is the same in every image.

    They have |z| > 6 in at least half of the images; without any it is the feature with most of the kurtosis.

    h: (image, feature), finite and not constant (`definitions.usable_rows`).
    """
    x, z = float64(h), standardise(h)
    frequency = (np.abs(z) > OUTLIER_SD).mean(axis=0)
    share = shares_of_kurtosis((z**4).sum(axis=0))
    by_share = np.argsort(-share, kind="stable")
    persistent = by_share[frequency[by_share] >= PERSISTENT_SHARE]
    chosen = persistent if len(persistent) else by_share[:1]
    difference = head.weight[predictions.first][:, chosen] - head.weight[predictions.second][:, chosen]
    values: dict[Literal["mean over images", "zero"], Array] = {
        "mean over images": x[:, chosen].mean(axis=0),
        "zero": np.zeros(len(chosen)),
    }
    replacements = []
    for name, value in values.items():
        other = x.copy()
        other[:, chosen] = value
        predicted = [head.scores(other[images]).argmax(axis=1) for images in pieces(len(other), len(head.bias))]
        contributions = (difference * (x[:, chosen] - value)).sum(axis=1)
        replacements.append(
            document.Replacement(
                value=name,
                changed=_share(~predictions.agrees(np.concatenate(predicted))),
                margin_share=margin_share(contributions, predictions.margins),
            )
        )
    return Outliers(
        persistent=bool(len(persistent)),
        n_features=len(chosen),
        features=tuple(
            document.HeadFeature(index=i, frequency=float(frequency[i]), kurtosis_share=float(share[i]))
            for i in map(int, chosen[:LISTED])
        ),
        replacements=tuple(replacements),
    )


def margin_share(contributions: Array, margins: Array) -> Interval:
    """Return the features' share of the margins.

    It is the sum over images of what they give over the sum of the margins.

    The interval is normal over images (delta method of a ratio of means).

    Args:
        contributions: (image,) Σ_j (W_aj − W_bj)·(h_j − r_j), over the features j, with a and b the classes of the
            largest and the second score and r_j what h_j is replaced by.
        margins: (image,) the first score less the second.

    Returns:
        Nothing measured where all margins are 0. Below 0 where the features speak against the predictions; above 1
        where the rest of the representation does.
    """
    mean, n = float(margins.mean()), len(margins)
    if mean <= 0:
        return Interval(estimate=None, low=None, high=None)
    share = float(contributions.mean()) / mean
    half = Z * float((contributions - share * margins).std(ddof=1)) / mean / n**0.5
    return Interval(estimate=share, low=share - half, high=share + half)


class Predictions(NamedTuple):
    """What the whole head makes of some images."""

    first: Indices
    """(image,) class of the largest score; a tie goes to the smaller index"""
    second: Indices
    """(image,) class of the largest score of the others"""
    margins: Array
    """(image,) the first score less the second"""
    copies: Indices
    """(class,) the first of each class's copies, which have the same weights and bias: only rounding decides there"""

    def agrees(self, classes: Indices) -> Bools:
        """Return whether a class is the predicted one, (image,). A copy of it counts as the same."""
        return np.asarray(self.copies[classes] == self.copies[self.first])

    @property
    def confident(self) -> Indices:
        """Return the half of the images with the largest margins. The middle one is included."""
        return np.argsort(-self.margins, kind="stable")[: -(-len(self.margins) // 2)]


def predict(head: LinearHead, h: Floats) -> Predictions:
    """Predict with the whole head. h: (image, feature)."""
    parts = []
    for images in pieces(len(h), len(head.bias)):
        scores = head.scores(h[images])
        rows, first = np.arange(len(scores)), scores.argmax(axis=1)
        best = scores[rows, first]
        scores[rows, first] = -np.inf
        second = scores.argmax(axis=1)
        parts.append((first, second, best - scores[rows, second]))
    firsts: dict[bytes, int] = {}
    classes = zip(head.weight, head.bias, strict=True)
    copies = [
        firsts.setdefault(blake2b(row.tobytes() + bias.tobytes()).digest(), i) for i, (row, bias) in enumerate(classes)
    ]
    first, second, margins = map(np.concatenate, zip(*parts, strict=True))
    return Predictions(first, second, margins, np.array(copies))


def pruned_scores(
    columns: Array, projected: Array, bias: Array, order: Indices, numbers: Collection[int]
) -> Iterator[tuple[int, slice, Array]]:
    """Yield a head's scores with fewer directions. They come a piece of the images at a time.

    Args:
        columns: (direction, class) (U Σ)ᵀ.
        projected: (image, direction) h V, h as the head takes it (of length 1 where it normalises).
        bias: (class,).
        order: (direction,) which direction is added first.
        numbers: of directions.

    Yields:
        The number kept, the piece of the images, and its (image, class) scores. They are overwritten afterwards.
    """
    levels = sorted(set(numbers))
    added = [columns[order[low:high]] for low, high in zip([0, *levels], levels, strict=False)]
    for images in pieces(len(projected), len(bias)):
        total, low = np.tile(bias, (len(projected[images]), 1)), 0
        for high, some in zip(levels, added, strict=True):
            total += projected[images][:, order[low:high]] @ some
            yield high, images, total
            low = high


def _share(agree: Bools) -> Accuracy:
    return wilson(int(agree.sum()), len(agree))


class Directions(NamedTuple):
    """The right singular vectors of a head. They are those of W, or of W less its mean over classes."""

    mean: Array
    """(feature,) what was taken from each class's weights: zeros, or their mean over classes"""
    sigma: Array
    """(direction,) singular values, falling"""
    v: Array
    """(feature, direction) unit vectors; their signs mean nothing"""

    def project(self, h: Floats) -> Array:
        """h V, (image, direction) of (image, feature)."""
        return np.concatenate([float64(h[images]) @ self.v for images in pieces(len(h), len(self.v))])


def decompose(weight: Array) -> tuple[Directions, Directions]:
    """Return the singular vectors and values of a head. They are those of W, and of W less its mean over classes.

    Softmax and the predicted class can't see that mean. One QR decomposition of [1 W] gives both: below its first row
    stands R of the centred W, and with the row R of W itself. It goes piece by piece, R of the pieces so far on top of
    the next one, which is exact and copies nothing of W's size.

    Args:
        weight: (class, feature), finite, at least two classes.

    Returns:
        Raw, then centred: min(classes, features) and min(classes − 1, features) directions.
    """
    n_classes, d = weight.shape
    r = np.empty((0, d + 1))
    for start in range(0, n_classes, BLOCK_CLASSES):
        piece = weight[start : start + BLOCK_CLASSES]
        r = np.asarray(np.linalg.qr(np.concatenate([r, np.c_[np.ones(len(piece)), piece]]), mode="r"))
    return _directions(r[:, 1:], np.zeros(d)), _directions(r[1:, 1:], weight.mean(axis=0))


def _directions(r: Array, mean: Array) -> Directions:
    _, sigma, vt = np.linalg.svd(r, full_matrices=False)
    return Directions(mean, sigma, np.ascontiguousarray(vt.T))


def pieces(n_images: int, n_columns: int) -> Iterator[slice]:
    """Yield the images piece by piece. A piece has at least one image, and at most `BLOCK_VALUES` values of a table.

    n_columns: values of the table for each image.
    """
    step = max(1, BLOCK_VALUES // n_columns)
    for start in range(0, n_images, step):
        yield slice(start, min(start + step, n_images))
