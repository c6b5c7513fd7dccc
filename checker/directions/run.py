"""Analyse the directions of a model's linear head, and show them.

One pass over the images, then linear algebra. Information, not a verdict. Labels of a labelled set become classes of
the head, as in `shift`. Silent; progress goes to a callback.
"""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np

from robustcheck_onnx.checker import isolation
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Execution, ImageFacts, Interval, PreprocessingFacts, RunOptions
from robustcheck_onnx.checker.images.source import Images, open_images
from robustcheck_onnx.checker.isolation import NO_LIMITS, Limits, Progress
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import Job
from robustcheck_onnx.checker.report import notebook
from robustcheck_onnx.checker.report.document import (
    Cell,
    Chart,
    Curve,
    Document,
    Facts,
    Section,
    Shown,
    Table,
    facts_of_run,
    measured,
    name,
)
from robustcheck_onnx.checker.report.record import Clock, ModelRead, Time
from robustcheck_onnx.checker.runtime.session import head_from_file, read_head
from robustcheck_onnx.checker.shift import robustness, sets
from robustcheck_onnx.checker.shift.predicted import bounds_text
from robustcheck_onnx.checker.shift.robustness import SetResult, Shifted
from robustcheck_onnx.checker.shift.run import read_notes
from robustcheck_onnx.checker.statistics.definitions import CONFIDENCE, Accuracy, usable_rows
from robustcheck_onnx.checker.storage.places import as_typed, local_path
from robustcheck_onnx.checker.text import VERSION, count_text, interval_text, number_text, percent_text, quoted
from robustcheck_onnx.checker.verdict.gate import execution_notes, image_notes
from robustcheck_onnx.thresholds.profile import Frozen

from .analysis import Analysis, Labelled, Outliers, SameWeightsError, analyse, correct, spectrum_notes, summary_of

if TYPE_CHECKING:
    import pandas as pd


NORMALISER = "singular value / sum of all singular values × mean over images of |cos(direction, representation)|"
CLAIM = (
    "Information, not a verdict. Importance and pruning of directions are an analysis of Crabbé et al. (arXiv "
    "2310.13040). The abstract of its first version, of 2023, says that 80 % of the directions of robust CLIP models "
    "can be pruned without harm; that of the final version does not. No threshold is known that tells robust models "
    "from others, and the paper's own normaliser of the importance is not known to us. The numbers hold for this head "
    "and these images."
)
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
    run, given = measure.settle(images, options, max_images=MAX_IMAGES)
    path = local_path(model, "model")
    if head is None and (run.tensor is not None or run.pool is not None):
        raise UsageError(
            "--tensor or --pool is given without --head; the model's own head fixes the tensor",
            "--head FILE.npy, or leave --tensor and --pool out",
        )
    if isolate and isolation.is_possible(given, run.images, *(as_typed(each.place) for each in specs)):
        return isolation.apart(directions, str(model), limits)(
            model,
            head=head,
            labelled=labelled,
            shifted=shifted,
            classes=classes,
            baseline=baseline,
            progress=progress,
            **run.given,
        )
    limits.refuse_here()
    isolation.tell_stage(progress, "opening the model and the images")
    job = Job(path, run)
    inputs = measure.read_head_input(job, source=given) if head is None else measure.read_inputs(job, source=given)
    (opened,) = inputs.models
    own = None if head is not None else read_head(opened)
    isolation.tell_stage(progress, "loading the model")
    are_photos = inputs.source.kind != "tensors"
    runner = measure.open_runner(inputs, photos=are_photos)
    linear = own or head_from_file(Path(str(head)), measure.n_features(runner, inputs))
    sources = [
        inputs.source
        if i == 0 and as_typed(spec.place) == run.images
        else open_images(spec.place, seed=run.seed, limit=run.max_images)
        for i, spec in enumerate(specs)
    ]
    n_classes, names = len(linear.bias), sets.class_names(opened)
    scores = sets.Scores(n_classes, names if len(names) == n_classes else ())
    prepared = sets.with_labels(specs, sources, [sets.labels_of(source) for source in sources], maps, scores)
    collected = measure.collect(runner, inputs, progress=progress)
    difference = None if own is None else measure.difference_of_head(own, collected, opened)
    h = collected.representations[usable_rows(collected.representations).usable]
    if len(h) < MIN_IMAGES:
        raise CannotAssessError(
            f"{opened.path}: number of images with a representation that is not constant is {len(h)}; at least "
            f"{MIN_IMAGES} are needed",
            "--images FOLDER with photos",
        )
    for_labels = runner if are_photos or not prepared else measure.open_runner(inputs, photos=True)
    labelled_sets, results = list[Labelled](), list[tuple[SetResult, Sequence[str]]]()
    for each in prepared:
        of_set = collected
        if each.source is not inputs.source:
            of_set = measure.collect(for_labels, inputs, each.source, progress=progress, label=each.spec.name)
        usable = set(of_set.names)  # skipped images have no row
        right = [right for entry, right in zip(each.source.entries, each.right, strict=True) if entry.name in usable]
        predicted = Labelled(each.spec.name, of_set.representations, right, each.map.compete)
        result = each.result(of_set.read, len(set(right)), correct(linear, predicted))
        labelled_sets.append(predicted._replace(result=result))
        results.append((result, of_set.digests))
    isolation.tell_stage(progress, "decomposing the head")
    beside = tuple(robustness.put_beside(*results[0], *each, baseline) for each in results[1:])
    try:
        raw, centred, outliers = analyse(linear, h, labelled=labelled_sets, baseline=baseline, seed=run.seed)
    except SameWeightsError as fault:
        raise CannotAssessError(
            f"{opened.path}: weights of {linear.source} are the same for all classes; a prediction must depend on "
            "the image",
            f"robustcheck inspect {quoted(opened.path)}",
        ) from fault
    report = DirectionsReport(
        tool_version=VERSION,
        model=HeadModel(
            **measure.model_read(opened),
            head=linear.source,
            n_classes=len(linear.bias),
            n_features=linear.weight.shape[1],
            score_difference=difference,
        ),
        n_images=len(h),
        n_left_out=len(collected.representations) - len(h),
        raw=raw,
        centred=centred,
        outliers=outliers,
        confidence=CONFIDENCE,
        in_distribution=results[0][0] if results else None,
        shifted=beside,
        baseline=baseline,
        summary=summary_of(raw),
        preprocessing=inputs.preprocessing,
        images=collected.read.facts(inputs.source),
        execution=runner.execution,
        notes=(),
        time=Time.until_now(clock, collected.read.n_usable),
    )
    return report.model_copy(update={"notes": _notes(report, inputs, [result for result, _ in results])})


def parse_sets(
    labelled: str | Path | None, shifted: Sequence[str | Path], classes: Sequence[str]
) -> tuple[list[sets.Spec], dict[str, str]]:
    """Return the sets of a call, with their class maps. The in-distribution one comes first (`shift.sets.parse_call`).

    Raises UsageError as that, and for shifted sets or class maps without an in-distribution set.
    """
    if labelled is not None:
        named = sets.parse_call(str(labelled), [str(each) for each in shifted], classes, alone=True)
        return [named.inside, *named.shifted], named.maps
    for option, values in (("--shifted", shifted), ("--classes", classes)):
        if values:
            raise UsageError(
                f"{option} is given without --in; accuracy starts from labelled in-distribution images",
                f"--in photos/ {option} {quoted(values[0])}",
            )
    return [], {}


def _notes(report: DirectionsReport, inputs: measure.Inputs, labelled: Sequence[SetResult]) -> tuple[str, ...]:
    """Write what a reader must know next to the numbers."""
    notes = measure.question_notes(inputs) + image_notes(report.images)
    if report.n_images < FEW_IMAGES:
        notes.append(f"Only {report.n_images} images: intervals are wide, and the order of the directions can change.")
    if report.n_left_out:
        left_out = count_text(report.n_left_out, "image")
        notes.append(f"{left_out} left out: the representation is the same in all features.")
    notes += spectrum_notes(report.raw)
    notes += [f"Image set: {finding.seen}." for finding in report.images.sanity.findings]
    for result in labelled:
        if result.n_labels < result.n_compete:
            notes.append(f"{result.name}: {result.n_labels} of {result.n_compete} classes have images.")
        notes += reversed(read_notes(result))
    return (*notes, *execution_notes(report.execution))


class HeadModel(ModelRead):
    """The model and its head."""

    head: str
    """where the head's weights come from"""
    n_classes: int
    n_features: int
    score_difference: float | None
    """largest relative difference between W·h + b and the model's own class output, up to a softmax or a sigmoid; None:
    the head is not the model's own"""


class DirectionsReport(Shown, Frozen):
    """The directions of a linear head, and pruning them."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    kind: Literal["directions"] = "directions"
    tool_version: str
    model: HeadModel
    n_images: int
    """measured"""
    n_left_out: int
    """images whose representation is constant: it has no direction"""
    shown: Literal["raw"] = "raw"
    """which of the two analyses the short report shows: that of W as it is, as in the paper"""
    raw: Analysis
    centred: Analysis
    """of W less its mean over classes, which softmax and the predicted class can't see"""
    outliers: Outliers
    normaliser: str = NORMALISER
    confidence: float
    """of every interval; normal over images (by the delta method), shares Wilson's"""
    in_distribution: SetResult | None
    """accuracy of the whole head where labels were given"""
    shifted: tuple[Shifted, ...]
    baseline: str
    summary: str
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    notes: tuple[str, ...]
    claim: str = CLAIM
    time: Time | None
    """None where the caller asked for no time block"""

    def __repr_args__(self) -> list[tuple[str, object]]:
        """Show one line in repr, str and rich."""
        rank = self.raw.effective_rank.estimate
        return [
            ("model", self.model.file),
            ("classes", self.model.n_classes),
            ("features", self.model.n_features),
            ("effective_rank", None if rank is None else round(rank, 2)),
            ("images", self.n_images),
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame, one row per curve point.

        Raises:
            EnvironmentFaultError: pandas is not installed.
        """
        rows: list[notebook.Row] = [
            {
                "decomposition": name,
                "order": curve.order,
                "percent": point.percent,
                "kept": point.kept,
                "importance": point.importance,
                "same": point.same.value,
                "same_low": point.same.low,
                "same_high": point.same.high,
                "same_confident": point.same_confident.value,
                **{f"accuracy of {each}": accuracy.value for each, accuracy in point.accuracy.items()},
            }
            for name, analysis in (("raw", self.raw), ("centred", self.centred))
            for curve in analysis.curves
            for point in curve.points
        ]
        return notebook.frame(rows, "decomposition")


SPECTRUM_POINTS = 11  # of the curve of the importance


def document_of(report: DirectionsReport) -> Document:
    """Return the document of a head's directions."""
    model, images, raw = report.model, report.images, report.raw
    twenty = next(point for point in raw.curves[0].points if point.percent == 20)
    analyses = {"raw": raw, "class mean removed": report.centred}
    first = (count_text(report.n_images, "image"), name(images.source))
    not_compared, difference = "not compared: the head is not the model's own", model.score_difference
    facts = [
        ("Head", model.head),
        ("Acts on", model.tensor),
        ("Difference to the model's own scores", not_compared if difference is None else f"{difference:.2g}"),
        ("Images left out", report.n_left_out),
    ]
    run = [("Images", images.source), ("Digest", images.digest), ("Seed", images.seed)]
    importance = (
        *((label, _importance(each)) for label, each in analyses.items()),
        ("outlier features", outliers_text(report.outliers)),
    )
    return Document(
        question="directions",
        title="Directions of the head",
        subject="the directions of a classifier's head",
        model=model,
        facts=(
            *facts_of_run(report, *first),
            f"{model.n_classes} classes × {model.n_features} features",
            name(model.head, "dim"),
        ),
        summary=report.summary,
        sections=(
            Section(
                "Same prediction",
                "with the most important 2, 5, 10, 20 to 90 % of the directions",
                (_pruning(raw),),
                "short",
            ),
            Section(
                "Importance of directions", "singular value × mean |cos| to the images", (Facts(importance),), "short"
            ),
            Section(
                "Importance together",
                "share of all importance that the most important directions hold",
                (_spectrum(analyses),),
                "page",
            ),
            Section("Pruning", "W as it is", (_table(raw),)),
            Section("Pruning, class mean removed", "W less its mean over classes", (_table(report.centred),)),
            *_accuracies(report),
            Section("Leading directions", report.normaliser, (_leading(report),)),
            measured(report, facts, run, report.preprocessing.source),
        ),
        notes=report.notes,
        limits=report.claim,
        version=report.tool_version,
        tiles=(
            ("Directions", raw.n_directions, f"{model.n_classes} classes × {model.n_features} features"),
            ("Effective rank", number_text(raw.effective_rank.estimate), "of the importance"),
            ("Same prediction with 20 %", percent_text(twenty.same.value), "the most important ones"),
            ("Images measured", report.n_images, f"of {images.n_available}"),
        ),
        hint="Information, not a verdict. -v shows tables, notes and limits.",
    )


def outliers_text(outliers: Outliers) -> str:
    """Return what replacing features does, in sentences.

    The features are named, and what becomes of the predictions.
    """
    shown = ", ".join(str(feature.index) for feature in outliers.features)
    more = outliers.n_features - len(outliers.features)
    which = f"Features with |z| > 6 in at least half of the images: {shown}" + (f" and {more} more." if more else ".")
    if not outliers.persistent:
        which = f"No feature has |z| > 6 in at least half of the images; feature {shown} has most of the kurtosis."
    effects = "; ".join(
        f"set to {'the mean' if each.value == 'mean over images' else 'zero'}, "
        f"{percent_text(each.changed.value)} of the predictions change ({bounds_text(each.changed)} %) and "
        f"{_percent(each.margin_share)} of the margin between the first two classes goes"
        for each in outliers.replacements
    )
    return f"{which} {effects[:1].upper()}{effects[1:]}."


def _importance(analysis: Analysis) -> str:
    tops = ", ".join(f"{top.directions}: {percent_text(top.share.estimate)}" for top in analysis.top)
    rank, ratio = analysis.effective_rank, analysis.participation_ratio
    return (
        f"effective rank {number_text(rank.estimate)} ({interval_text(rank.low, rank.high)}), participation "
        f"ratio {number_text(ratio.estimate)} of {analysis.n_directions}; share of the first {tops}"
    )


def _pruning(analysis: Analysis) -> Chart:
    """Draw the share of the same predictions. It is over the directions kept; there is a curve per order."""
    curves = []
    for curve in analysis.curves:
        same = [point.same for point in curve.points[::-1]]
        values = tuple(each.value for each in same)
        bounds = tuple((each.low, each.high) for each in same) if curve.order == "importance" else ()
        curves.append(Curve(f"by {curve.order}", values, tuple(map(percent_text, values)), bounds))
    kept = [point.percent for point in analysis.curves[0].points[::-1]]
    return Chart(
        "Share of the images with the same predicted class, by share of the directions kept",
        tuple(f"{percent} %" for percent in kept),
        tuple(curves),
        percent_text(max(curves[0].values)),
        "Share of the images whose predicted class stays the same, by the share of the directions that are kept: the "
        "most important first (coloured, with 95 % Wilson intervals), by singular value (solid), in random order "
        "(dashed).",
        at=tuple(percent / 100 for percent in kept),
    )


def _spectrum(analyses: dict[str, Analysis]) -> Chart:
    """Draw the cumulated importance of the directions. The most important come first."""
    kept = np.linspace(0, 1, SPECTRUM_POINTS)
    curves = []
    for label, analysis in analyses.items():
        falling = np.sort(analysis.importances)[::-1]
        held = np.concatenate([[0.0], np.cumsum(falling) / np.sum(falling)])
        values = np.minimum(np.interp(kept * (len(held) - 1), np.arange(len(held)), held), 1.0).tolist()
        curves.append(Curve(label, tuple(values), tuple(map(percent_text, values))))
    return Chart(
        "Importance that the most important directions hold together",
        tuple(f"{100 * share:.0f} %" for share in kept),
        tuple(curves),
        "100 %",
        "By their share of all directions: of the weights as they are (coloured), and less their mean over classes.",
        at=tuple(kept.tolist()),
    )


def _table(analysis: Analysis) -> Table:
    by_importance, *others = analysis.curves
    rows: tuple[tuple[str | Cell, ...], ...] = tuple(
        (
            *(f"{point.percent} %", str(point.kept), percent_text(point.importance)),
            *(Cell(percent_text(point.same.value), "bold"), bounds_text(point.same)),
            percent_text(point.same_confident.value),
            *(percent_text(curve.points[at].same.value) for curve in others),
        )
        for at, point in enumerate(by_importance.points)
    )
    keeps = ", ".join(
        f"{percent_text(each.share)} by {each.directions} ({each.percent:.0f} %)" for each in analysis.fewest
    )
    return Table(
        (
            *(">kept", ">directions", ">importance", ">same", "=interval", ">confident"),
            *(f"?>{curve.order if curve.order == 'random' else f'by {curve.order}'}" for curve in others),
        ),
        rows,
        "same: predicted class as with all directions, Wilson intervals; confident: of the half of the images with "
        f"the largest margin between first and second score; kept from there on, in steps of 2 %: {keeps}",
    )


def _accuracies(report: DirectionsReport) -> list[Section]:
    """Show top-1 on each labelled set.

    It is with fewer directions, most important first, and with effective robustness.
    """
    if report.in_distribution is None:
        return []
    results = [report.in_distribution, *(each.result for each in report.shifted)]
    rows: list[tuple[str | Cell, ...]] = [("all", *(Cell(_accuracy(result.accuracy), "bold") for result in results))]
    for point in report.raw.curves[0].points:
        cells = [f"{point.percent} %"]
        for result in results:
            beyond = point.effective_robustness.get(result.name)
            cells.append(_accuracy(point.accuracy[result.name]) + (f", {beyond.points:+.1f}" if beyond else ""))
        rows.append(tuple(cells))
    reasons = [each.not_applicable for each in report.shifted if each.not_applicable]
    legends = ["after a comma: effective robustness, percentage points"] if len(reasons) < len(report.shifted) else []
    legends += [f"no effective robustness: {'; '.join(dict.fromkeys(reasons))}"] if reasons else []
    table = Table((">kept", *(f">{result.name}" for result in results)), tuple(rows), "; ".join(legends))
    return [Section("Accuracy", "top-1 by directions kept, most important first (Wilson)", (table,))]


def _leading(report: DirectionsReport) -> Table:
    named = [feature.index for feature in report.outliers.features[:3]]
    total = sum(report.raw.importances)
    rows: list[tuple[str | Cell, ...]] = []
    for each in report.raw.leading:
        of_all = each.importance
        share, low, high = ((value or 0.0) / total for value in (of_all.estimate, of_all.low, of_all.high))
        rows.append(
            (
                *(str(each.index + 1), number_text(each.singular_value), number_text(each.cosine)),
                *(percent_text(share), f"{100 * low:.1f} – {100 * high:.1f}"),
                f"{each.largest_feature}: {each.largest_component:.2f}",
                *(f"{value:.2f}" for value in each.on_features[: len(named)]),
            )
        )
    return Table(
        (*(">σ rank", ">σ", ">|cos|", ">importance", "=interval", ">largest"), *(f">on {index}" for index in named)),
        tuple(rows),
        "importance as a share of all; largest: the feature with the largest |component|; on: |component| on a feature "
        "named above (1 = the direction is that feature)",
    )


def _accuracy(accuracy: Accuracy) -> str:
    return f"{percent_text(accuracy.value)} ({bounds_text(accuracy)})"


def _percent(interval: Interval) -> str:
    return "no share" if interval.estimate is None else f"{100 * interval.estimate:z.1f} %"
