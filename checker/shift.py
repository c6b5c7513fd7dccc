"""Accuracy under a distribution shift, where the user has labelled images, and what it says beside the verdict.

Everything is pure but for `measure_shift`, which runs the model. Silent; progress goes to a callback.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from robustcheck_onnx.checker import images, labels, pipeline, sidecar
from robustcheck_onnx.checker.contract import Contract
from robustcheck_onnx.checker.delivery import as_json
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Execution
from robustcheck_onnx.checker.graph import ModelFile, open_model
from robustcheck_onnx.checker.pipeline import Progress
from robustcheck_onnx.checker.preprocess import Preprocessing, apply, apply_uint8
from robustcheck_onnx.checker.report import Report, Time
from robustcheck_onnx.checker.runner import Runner
from robustcheck_onnx.thresholds.effective_robustness import PERCENTAGE_POINTS, effective_robustness, expected_accuracy
from robustcheck_onnx.thresholds.frozen import Frozen
from robustcheck_onnx.thresholds.published import IMAGENET, MEAN_SHIFTS, MIDDLE, SHIFT_WORDS, SHIFTS
from robustcheck_onnx.thresholds.yardstick import FITTED_ON, lines, origin, usual

CONFIDENCE = 0.95  # of every interval of this report
MAX_HALF_WIDTH_PP = 2.0  # of an accuracy: about the scatter of the models that the baselines are fitted on
CLASSES = {IMAGENET: 1000, "imagenetv2": 1000, "sketch": 1000, "imagenet_r": 200, "imagenet_a": 200, "objectnet": 113}
"""Label set that each named image set has, by its number of classes."""
LABEL_SET = {IMAGENET: IMAGENET, "imagenetv2": IMAGENET, "sketch": IMAGENET, "objectnet": "file"} | {
    name: name for name in ("imagenet_r", "imagenet_a")
}
IMAGES = {
    IMAGENET: 50_000,  # validation set (Russakovsky et al. 2015)
    "imagenetv2": 10_000,  # matched frequency (Recht et al. 2019)
    "sketch": 50_889,  # Wang et al. 2019
    "imagenet_r": 30_000,  # Hendrycks et al. 2021, "The Many Faces of Robustness"
    "imagenet_a": 7_500,  # Hendrycks et al. 2021, "Natural Adversarial Examples"
}
"""Images that each named set has, for a note where another number was found."""
ALIASES = {
    IMAGENET: ("imagenet", "imagenet1k", "in1k"),
    "imagenetv2": ("v2", "imagenetv2"),
    "sketch": ("sketch", "imagenetsketch"),
    "imagenet_r": ("r", "imagenetr"),
    "imagenet_a": ("a", "imageneta"),
    "objectnet": ("objectnet",),
}
WORDS = {IMAGENET: "ImageNet"} | SHIFT_WORDS
NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.\-]*)=(.+)", re.S)
NAMED_SKIPS = 20  # skipped images named in the report
DECODERS = 2  # threads that decode ahead of the model
AHEAD = 64  # decoded images that may wait

Outcome = Literal["agree", "disagree", "no contradiction", "undecided", "nothing to compare"]


class Spec(NamedTuple):
    """An image set as the user names it."""

    name: str
    path: str
    shift: str | None
    """which known set it was said to be: imagenet1k, one of published.SHIFTS, or None"""


class Accuracy(Frozen):
    """Top-1 accuracy with its Wilson score interval."""

    n: int
    n_correct: int
    value: float
    low: float
    high: float


class Difference(Frozen):
    """Accuracy on a shifted set minus accuracy on the in-distribution set (fractions)."""

    value: float
    low: float
    high: float


class SetResult(Frozen):
    """One labelled image set, measured."""

    name: str
    source: str
    shift: str | None
    """which known set it was said to be"""
    label_set: str
    labels: str
    """how labels were read, in words"""
    n_labels: int
    """classes that occur"""
    n_compete: int
    """classes among which the prediction is made"""
    n_available: int
    n_read: int
    n_skipped: int
    skipped: tuple[tuple[str, str], ...]
    digest: str
    accuracy: Accuracy


class Effective(Frozen):
    """Effective robustness on one named shift, percentage points."""

    points: float
    low: float
    high: float
    expected: float
    """accuracy that the baseline leads one to expect (fraction)"""
    extrapolated: bool
    baseline: str
    """what the line is fitted on, in words"""


class Shifted(Frozen):
    """A shifted set beside the in-distribution set."""

    result: SetResult
    difference: Difference
    in_both: int
    """images that are in both sets"""
    effective_robustness: Effective | None
    not_applicable: str
    """why there is no effective robustness; empty where there is"""


class Judged(Frozen):
    """The verdict that the accuracies are compared with."""

    verdict: Literal["PASS", "WARN"]
    reasons: tuple[str, ...]
    profile: str
    n_images: int
    tensor: str
    origin: str
    """where it comes from, in words"""


class Agreement(Frozen):
    """Whether the measured robustness agrees with the verdict."""

    outcome: Outcome
    sentence: str
    mean_pp: float | None
    """mean effective robustness over `shifts`, percentage points"""
    low_pp: float | None
    high_pp: float | None
    shifts: tuple[str, ...]
    usual_low_pp: float | None
    """5 and 95 % of that mean over the models of the baseline"""
    usual_high_pp: float | None


class ModelUsed(Frozen):
    """The model whose class scores were read."""

    file: str
    digest: str
    source: str
    class_output: str
    n_classes: int
    random_weights: bool | None
    synthetic: str


class ShiftReport(Frozen):
    """Everything that `robustcheck shift` measured."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    document: Literal["shift"] = "shift"
    tool_version: str
    model: ModelUsed
    confidence: float
    in_distribution: SetResult
    shifted: tuple[Shifted, ...]
    accuracies: dict[str, float]
    """of the sets that are whole and precise enough for effective robustness; keys of a suite entry, fractions"""
    baseline: str
    verdict: Judged
    agreement: Agreement
    preprocessing: Preprocessing
    preprocessing_source: str
    execution: Execution
    seed: int
    notes: tuple[str, ...]
    claim: str
    time: Time | None


CLAIM = (
    "Accuracies are of these images with these labels only. Effective robustness is accuracy beyond what the accuracy "
    "on ImageNet leads one to expect of models trained on ImageNet alone (Taori et al. 2020). Nothing here changes a "
    "verdict."
)


# --------------------------------------------------------------------------------------------- pure: numbers


def wilson(n_correct: int, n: int, confidence: float = CONFIDENCE) -> Accuracy:
    """Share of correct predictions with its Wilson score interval.

    (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n), z the two-sided normal quantile (Wilson 1927; recommended for
    small n and p near 0 or 1 by Brown, Cai, DasGupta 2001). Equal to scipy.stats.binomtest(n_correct, n)
    .proportion_ci(confidence, method="wilson"). Raises ValueError unless 0 ≤ n_correct ≤ n and n ≥ 1.

    >>> wilson(0, 10).low, round(wilson(0, 10).high, 4)
    (0.0, 0.2775)
    """
    if not 0 <= n_correct <= n or n < 1:
        raise ValueError(f"n_correct is {n_correct} of {n}; it must be between 0 and n, and n at least 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = n_correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # rounding must not leave the estimate outside its own interval
    low, high = min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p)
    return Accuracy(n=n, n_correct=n_correct, value=p, low=0.0 if n_correct == 0 else low, high=high)


def difference(of: Accuracy, minus: Accuracy) -> Difference:
    """Difference of two accuracies with Newcombe's hybrid score interval for independent sets.

    d − √((p₁−l₁)² + (u₂−p₂)²) to d + √((u₁−p₁)² + (p₂−l₂)²), l and u the Wilson bounds of each (Newcombe 1998,
    method 10). For versions of the same images it is too wide, never too narrow as long as they are not negatively
    related.
    """
    value = of.value - minus.value
    down = math.hypot(of.value - of.low, minus.high - minus.value)
    up = math.hypot(of.high - of.value, minus.value - minus.low)
    return Difference(value=value, low=max(value - down, -1.0), high=min(value + up, 1.0))


def is_correct(
    scores: npt.NDArray[Any], right: Sequence[tuple[int, ...]], compete: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Whether the largest of the competing class scores is one of an image's right classes.

    scores: (image, class), any real dtype, larger = more likely (logits or probabilities); infinities are fine.
    right: class indices that count as right, for each image, all among `compete`.
    A tie between a right and a wrong class is wrong: equal scores are no prediction. Returns (image,) bool.
    Raises ValueError for a NaN among the competing scores.

    >>> is_correct(np.array([[0.1, 0.9, 2.0]]), [(1,)], (0, 1)).tolist()
    [True]
    """
    chosen = np.asarray(scores, dtype=np.float64)[:, list(compete)]
    if np.isnan(chosen).any():
        raise ValueError("class scores hold NaN; a prediction needs numbers")
    place = {index: column for column, index in enumerate(compete)}
    mask = np.zeros(chosen.shape, dtype=np.bool_)
    for row, group in enumerate(right):
        mask[row, [place[index] for index in group]] = True
    best_right = np.where(mask, chosen, -np.inf).max(axis=1)
    best_wrong = np.where(mask, -np.inf, chosen).max(axis=1)
    return np.asarray(best_right > best_wrong)


def not_comparable(result: SetResult) -> str:
    """Why the accuracy of a set is not the published kind: other labels, not all classes, too few images. Else ""."""
    if result.shift is None:
        return f"{result.name} was not said to be one of {', '.join(WORDS.values())}"
    word, classes = WORDS[result.shift], CLASSES[result.shift]
    if result.label_set != LABEL_SET[result.shift]:
        return f"the labels of {result.name} are not {word}'s"
    if result.n_labels != classes:
        return f"{result.n_labels} of {word}'s {classes} classes occur in {result.name}"
    half = PERCENTAGE_POINTS * (result.accuracy.high - result.accuracy.low) / 2
    if half > MAX_HALF_WIDTH_PP:
        return (
            f"the {result.accuracy.n} images of {result.name} give its accuracy to within {half:.1f} points; "
            f"{MAX_HALF_WIDTH_PP:g} or less is needed"
        )
    if not 0 < result.accuracy.value < 1:
        return f"accuracy on {result.name} is {result.accuracy.value:g}"
    return ""


def effective(
    inside: SetResult, outside: SetResult, source: str, confidence: float = CONFIDENCE
) -> tuple[Effective | None, str]:
    """Effective robustness on a named shift, or why there is none.

    The interval takes both accuracies at their bounds, each at half the error rate: it holds for both together.
    """
    if outside.shift not in SHIFTS:
        return None, (
            f"not said to be one of {', '.join(SHIFT_WORDS.values())}, and only these have a published baseline; where "
            "it is that very set: --shifted v2=PATH"
        )
    if inside.shift != IMAGENET:
        return None, "the in-distribution set was not said to be ImageNet, which all baselines start from"
    for result in (inside, outside):
        if why := not_comparable(result):
            return None, why
    line = lines(source)[outside.shift]
    low, high = _er_bounds(inside, outside, source, 1 - (1 - confidence) / 2)
    point = effective_robustness(inside.accuracy.value, outside.accuracy.value, line)
    found = Effective(
        points=float(point.points),
        low=low,
        high=high,
        expected=float(expected_accuracy(inside.accuracy.value, line)),
        extrapolated=bool(point.extrapolated),
        baseline=FITTED_ON[origin(source, outside.shift)],
    )
    return found, ""


def _er_bounds(inside: SetResult, outside: SetResult, source: str, each: float) -> tuple[float, float]:
    """ER with both accuracies at the bounds of intervals of confidence `each`: it falls with the one, rises with the
    other."""
    assert outside.shift is not None
    line = lines(source)[outside.shift]
    x, y = (wilson(result.accuracy.n_correct, result.accuracy.n, each) for result in (inside, outside))
    low = effective_robustness(min(x.high, 1 - 1e-12), y.low, line).points
    high = effective_robustness(max(x.low, 1e-12), y.high, line).points
    return float(low), float(high)


def agree(judged: Judged, inside: SetResult, shifted: Sequence[Shifted], source: str) -> Agreement:
    """Whether mean effective robustness agrees with the verdict: one-sided, as the indication is.

    Compared with the 5–95 % of the models that the baselines are fitted on. PASS agrees with a mean that is surely
    above them, and disagrees with one that surely is not. WARN agrees with a mean that is not above; with one that is,
    it does not contradict: WARN says that the indication is absent or was not established, never "not robust".
    """

    def result(outcome: Outcome, sentence: str) -> Agreement:
        return Agreement(
            outcome=outcome,
            sentence=sentence,
            mean_pp=mean,
            low_pp=low,
            high_pp=high,
            shifts=tuple(each.result.shift or "" for each in known),
            usual_low_pp=middle.low if middle else None,
            usual_high_pp=middle.high if middle else None,
        )

    mean = low = high = middle = None
    known = [each for each in shifted if each.effective_robustness is not None]
    # the published means leave ObjectNet out: timm has none
    known = [each for each in known if each.result.shift in MEAN_SHIFTS] or known
    if not known:
        return result(
            "nothing to compare",
            "no effective robustness could be measured, and accuracies alone speak neither for nor against the verdict",
        )
    shifts = tuple(each.result.shift or "" for each in known)
    middle = usual(source, shifts)
    each = 1 - (1 - CONFIDENCE) / (len(known) + 1)
    bounds = [_er_bounds(inside, one.result, source, each) for one in known]
    mean = sum(one.effective_robustness.points for one in known if one.effective_robustness) / len(known)
    low, high = (sum(side) / len(known) for side in zip(*bounds, strict=True))
    over = " over " + ", ".join(SHIFT_WORDS[shift] for shift in shifts) if len(shifts) > 1 else ""
    what = (
        f"mean effective robustness{over} is {mean:+.1f} points ({low:+.1f} to {high:+.1f}); {MIDDLE[1] - MIDDLE[0]} % "
        f"of {FITTED_ON[origin(source, shifts[0])]} have {middle.low:+.1f} to {middle.high:+.1f}"
    )
    if any(one.effective_robustness.extrapolated for one in known if one.effective_robustness):
        return result("nothing to compare", f"{what}; the baseline is extrapolated at this ImageNet accuracy")
    if low <= middle.high < high:
        return result("undecided", f"{what}: the images do not settle whether it is above them")
    above = low > middle.high
    if judged.verdict == "PASS":
        if above:
            return result("agree", f"{what}: above them, as PASS indicates")
        return result("disagree", f"{what}: not above them, although PASS indicates robustness")
    if above:
        return result(
            "no contradiction",
            f"{what}: above them. WARN does not deny it: it says that the indication is absent or was not established",
        )
    return result("agree", f"{what}: not above them, and the verdict is WARN")


# --------------------------------------------------------------------------------------------- pure: the call


def parse_spec(text: str, option: str) -> Spec:
    """`[NAME=]PATH` → name, path, and which known set the name means; without a name, the path's last part.

    A path that exists is a path, whatever signs it has. Raises UsageError for an empty path.
    """
    named = None if Path(text).exists() else NAMED.fullmatch(text)
    name, path = (named[1], named[2]) if named else ("", text)
    if not path.strip():
        raise UsageError(f"{option} is {text!r}; it must be a labelled image set, [NAME=]PATH", f"{option} FOLDER")
    if not named:
        place = Path(path).expanduser().resolve()
        return Spec((place.name if place.is_dir() else place.stem) or path, path, None)
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return Spec(name, path, next((shift for shift, names in ALIASES.items() if key in names), None))


def parse_call(inside: str, shifted: Sequence[str], classes: Sequence[str]) -> tuple[Spec, list[Spec], dict[str, str]]:
    """The sets of a call, and the class map of each by name ("" = of those without an own one).

    Raises UsageError: no shifted set, one set twice, two sets of one name, two maps for one set, a map for none.
    """
    first = parse_spec(inside, "--in")
    others = [parse_spec(text, "--shifted") for text in shifted]
    if not others:
        raise UsageError("--shifted is missing; at least one shifted set is needed", "--in photos/ --shifted sketches/")
    places: dict[Path, Spec] = {}
    for spec in (first, *others):
        place = Path(spec.path).expanduser().resolve()
        if place in places:
            raise UsageError(
                f"{spec.path}: image set is given twice; every set must be another one",
                "--in photos/ --shifted sketches/",
            )
        places[place] = spec
    names = Counter(spec.name for spec in (first, *others))
    known = Counter(spec.shift for spec in (first, *others) if spec.shift)
    for what, counts in (("name", names), ("set", known)):
        if double := [each for each, count in counts.items() if count > 1]:
            raise UsageError(
                f"{what} of {counts[double[0]]} image sets is {double[0]!r}; it must be another one for each",
                "--shifted NAME=FOLDER",
            )
    maps: dict[str, str] = {}
    for text in classes:
        named = None if Path(text).exists() else NAMED.fullmatch(text)
        name, value = (named[1], named[2]) if named else ("", text)
        if name and name not in names:
            raise UsageError(
                f"--classes is {text!r}; {name} is no image set of this call ({', '.join(names)})",
                f"--classes {first.name}={shlex.quote(value)}",
            )
        if name in maps:
            raise UsageError(
                f"--classes names a map for {name or 'all sets'} twice; one is enough", f"--classes {value}"
            )
        maps[name] = value
    return first, others, maps


def read_report(path: Path, digest: str) -> Judged:
    """The verdict in a JSON report of an earlier check of the same model.

    Raises UsageError: not readable, no report of this version, a report of an error, another model's.
    """
    again = "robustcheck model.onnx --images photos/ -o json=report.json"
    try:
        text = path.read_text(encoding="utf-8")
        report = Report.model_validate_json(text)
    except OSError as fault:
        raise UsageError(
            f"{path}: report is not readable ({fault.strerror or fault}); it must be a file", again
        ) from fault
    except ValidationError as fault:
        raise UsageError(
            f"{path}: file is no JSON report of this robustcheck ({fault.errors(include_url=False)[0]['msg']}); "
            "it must be one",
            again,
        ) from fault
    except UnicodeDecodeError as fault:
        raise UsageError(f"{path}: report is not UTF-8 text; it must be JSON", again) from fault
    found = report.evidence.model.digest
    if found != digest:
        raise UsageError(
            f"{path}: model of the report has digest {found}; this model has {digest}, and they must be the same",
            again,
        )
    return _judged(report, f"report {path}")


def _judged(report: Report, where: str) -> Judged:
    return Judged(
        verdict=report.verdict.verdict,
        reasons=tuple(reason.id for reason in report.verdict.reasons),
        profile=f"{report.profile.id} {report.profile.digest}",
        n_images=report.evidence.statistics.n_images,
        tensor=report.evidence.model.tensor,
        origin=where,
    )


def to_json(report: ShiftReport) -> str:
    """The report as one JSON document: numbers finite or null, ending in a newline."""
    return as_json(report.model_dump(mode="json"))


def suite_entry(report: ShiftReport, folder: Path) -> str:
    """A model of a suite file in `folder` (docs/calibration.md) with the measured accuracies, as TOML.

    Raises CannotAssessError when there are no accuracies that effective robustness could follow from.
    """
    if len(report.accuracies) < 2 or IMAGENET not in report.accuracies:
        results = (report.in_distribution, *(each.result for each in report.shifted))
        why = "; ".join(filter(None, map(not_comparable, results)))
        raise CannotAssessError(
            f"suite entry has accuracies on {len(report.accuracies)} sets; ImageNet and at least one named shift are "
            f"needed, whole and precise ({why})",
            "--in imagenet=FOLDER --shifted v2=FOLDER",
        )
    model = os.path.relpath(report.model.file, folder).replace(os.sep, "/")
    values = ", ".join(f"{name} = {value:.6f}" for name, value in report.accuracies.items())
    return (
        f"# accuracies measured by robustcheck {report.tool_version}; model {report.model.digest}\n"
        # a JSON string is a TOML string
        f'[[models]]\nmodel = {json.dumps(model)}\ngroup = "other"\naccuracies = {{ {values} }}\n'
    )


# ------------------------------------------------------------------------------------------------- the run


@dataclass(frozen=True)
class _Image:
    digest: str
    pixels: npt.NDArray[np.generic]


class _Opened(NamedTuple):
    """A set whose labels are understood; nothing of it has run."""

    spec: Spec
    source: images.ImageSource
    labels: tuple[str, ...]
    map: labels.ClassMap


def measure_shift(
    model: str | Path,
    inside: str,
    shifted: Sequence[str],
    *,
    classes: Sequence[str] = (),
    baseline: str = "timm",
    report: Path | None = None,
    preprocess: str | None = None,
    device: str = "auto",
    seed: int = 0,
    max_images: int | None = None,
    max_bad: float = 0.01,
    batch_size: int = 32,
    progress: Callable[[Progress], None] | None = None,
) -> ShiftReport:
    """Measure a classifier's top-1 accuracy on labelled sets, and compare with the verdict of the check.

    Args:
        model: ONNX file with class scores.
        inside, shifted: labelled image sets, `[NAME=]PATH`; a folder of class folders, or a manifest with labels.
        classes: class maps, `[NAME=]MAP` (see labels.class_map).
        baseline: one of yardstick.SOURCES.
        report: JSON report of an earlier check of this model; None = the check runs on the images of `inside`.
        preprocess, device, seed, max_images, max_bad, batch_size, progress: as in pipeline.check; max_images is of
            each set.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: see each class; nothing is measured half.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    first, others, maps = parse_call(inside, shifted, classes)
    opened = open_model(model)
    judged = read_report(report, opened.digest) if report is not None else None
    output = _class_output(opened)
    contract = opened.contract
    found = sidecar.find_preprocessing(
        Path(model), preprocess, contract.preprocessing if contract else None, opened.image_input.size
    )
    sources = [images.open_images(spec.path, seed=seed, limit=max_images) for spec in (first, *others)]
    read = [labels.labels_of(source) for source in sources]
    runner = Runner(opened, device=device)
    scores = _scores(runner, found.preprocessing)
    folders = sorted(set(read[0]))
    sets = [
        _Opened(
            spec,
            source,
            known,
            labels.class_map(
                maps.get(spec.name, maps.get("")),
                known,
                scores,
                where=spec.path,
                shift=spec.shift,
                sorted_names=folders,
            ),
        )
        for spec, source, known in zip((first, *others), sources, read, strict=True)
    ]
    measured = [_measure(runner, each, found.preprocessing, max_bad, batch_size, progress) for each in sets]
    (inner, inner_digests), *rest = measured
    for result, _ in rest:
        if result.digest == inner.digest:
            raise UsageError(
                f"{result.source}: images are those of {inner.source}; a shifted set must have other images",
                "--in photos/ --shifted sketches/",
            )
    if judged is None:
        checked = pipeline.check(
            model,
            images=first.path,
            preprocess=preprocess,
            device=device,
            seed=seed,
            max_images=max_images,
            max_bad=max_bad,
            batch_size=batch_size,
            progress=progress,
        )
        judged = _judged(checked, "checked now on the images of --in")
    beside = tuple(_beside(inner, inner_digests, result, digests, baseline) for result, digests in rest)
    wall_s = time.perf_counter() - clock
    n_images = inner.accuracy.n + sum(each.result.accuracy.n for each in beside)
    return ShiftReport(
        tool_version=version("robustcheck-onnx"),
        model=ModelUsed(
            file=str(opened.path),
            digest=opened.digest,
            source=_source(contract),
            class_output=output,
            n_classes=scores.n_classes,
            random_weights=contract.source.random_weights if contract else None,
            synthetic=contract.source.synthetic if contract else "",
        ),
        confidence=CONFIDENCE,
        in_distribution=inner,
        shifted=beside,
        accuracies=_accuracies(inner, beside),
        baseline=baseline,
        verdict=judged,
        agreement=agree(judged, inner, beside, baseline),
        preprocessing=found.preprocessing,
        preprocessing_source=found.source,
        execution=runner.execution,
        seed=seed,
        notes=_notes(inner, beside, found.source, opened),
        claim=CLAIM,
        time=Time(
            started=started.isoformat(timespec="seconds"),
            wall_s=round(wall_s, 3),
            images_per_s=round(n_images / wall_s, 2) if wall_s > 0 else None,
        ),
    )


def _source(contract: Contract | None) -> str:
    if contract is None:
        return ""
    source = contract.source
    return f"{source.library} {source.name} ({'random weights' if source.random_weights else source.weights})"


def _class_output(opened: ModelFile) -> str:
    if opened.class_output is None:
        raise CannotAssessError(
            f"{opened.path}: class output is missing; accuracy needs a model with class scores",
            "robustcheck export … --zero-shot CLASSES.txt gives an image-text encoder a head, and --head NAME a torch "
            "model",
        )
    return opened.class_output


def _scores(runner: Runner, preprocessing: Preprocessing) -> labels.Scores:
    """How many classes the model scores, asked of the model itself with one black image."""
    opened = runner.model
    black = np.zeros((1, *preprocessing.size, 3), dtype=np.float32)
    output = runner.run(black).class_output
    assert output is not None
    columns, head = output.shape[1], opened.head.classes if opened.head else None
    if columns < 2 or head not in (None, columns):
        raise CannotAssessError(
            f"{opened.path}: class output {opened.class_output!r} has {columns} values an image"
            + (f", its last linear layer {head}" if head else "")
            + "; one score for each of at least two classes is needed",
            "export the model without ArgMax or TopK at its end",
        )
    names = opened.contract.zero_shot.classes if opened.contract and opened.contract.zero_shot else ()
    if names and len(names) != columns:
        raise CannotAssessError(
            f"{opened.path}: number of class names in the contract is {len(names)}; the model has {columns} classes",
            "export the model again with `robustcheck export`",
        )
    return labels.Scores(columns, names)


def _measure(
    runner: Runner,
    each: _Opened,
    preprocessing: Preprocessing,
    max_bad: float,
    batch_size: int,
    progress: Callable[[Progress], None] | None,
) -> tuple[SetResult, list[str]]:
    """Run one set through the model: its accuracy, and the digests of its images."""
    clock = time.perf_counter()
    takes_uint8 = runner.model.image_input.dtype == "uint8"

    def prepare(item: images.Item) -> _Image | images.Skipped:
        if not isinstance(item, images.Picture):
            assert isinstance(item, images.Skipped)  # labels_of refuses tensors
            return item
        try:
            pixels = (apply_uint8 if takes_uint8 else apply)(preprocessing, item.image)
        except CannotAssessError as fault:  # a strip that cannot be resized: this image's fault, not the run's
            return images.Skipped(item.name, fault.message)
        return _Image(item.digest, pixels)

    skipped: list[images.Skipped] = []
    digests: list[str] = []
    seen: set[tuple[int, ...]] = set()
    waiting: list[tuple[_Image, tuple[int, ...]]] = []
    n_correct = 0
    with contextlib.closing(images.prefetch(each.source, prepare, workers=DECODERS, window=AHEAD)) as decoded:
        for number, (item, label) in enumerate(zip(decoded, each.labels, strict=True), 1):
            if isinstance(item, images.Skipped):
                skipped.append(item)
            else:
                right = each.map.indices[label]
                waiting.append((item, right))
                digests.append(item.digest)
                seen.add(right)
            if waiting and (len(waiting) == batch_size or number == len(each.source)):
                n_correct += _count(runner, waiting, each.map.compete, each.spec.path)
                waiting = []
                if progress is not None:
                    rate = number / (time.perf_counter() - clock)
                    progress(Progress(number, len(each.source), rate, each.spec.name))
    sampled = each.source.n_found > len(each.source)
    images.check_bad(len(each.source), len(skipped), max_bad, skipped, each.spec.path, sampled=sampled)
    result = SetResult(
        name=each.spec.name,
        source=each.spec.path,
        shift=each.spec.shift,
        label_set=each.map.label_set,
        labels=each.map.how,
        n_labels=len(seen),
        n_compete=len(each.map.compete),
        n_available=each.source.n_found,
        n_read=len(each.source),
        n_skipped=len(skipped),
        skipped=tuple((bad.name, bad.reason) for bad in skipped[:NAMED_SKIPS]),
        digest=images.digest_of(digests),
        accuracy=wilson(n_correct, len(digests)),
    )
    return result, digests


def _count(runner: Runner, batch: Sequence[tuple[_Image, tuple[int, ...]]], compete: Sequence[int], where: str) -> int:
    """How many images of a batch are predicted right."""
    output = runner.run(np.stack([image.pixels for image, _ in batch])).class_output
    assert output is not None
    try:
        return int(is_correct(output, [right for _, right in batch], compete).sum())
    except ValueError as fault:
        raise CannotAssessError(
            f"{runner.model.path}: class scores on {where} are not all numbers; accuracy needs a prediction for every "
            "image",
            f"robustcheck inspect {shlex.quote(str(runner.model.path))}",
        ) from fault


def _beside(
    inner: SetResult, inner_digests: Sequence[str], result: SetResult, digests: Sequence[str], baseline: str
) -> Shifted:
    found, why = effective(inner, result, baseline)
    return Shifted(
        result=result,
        difference=difference(result.accuracy, inner.accuracy),
        in_both=(Counter(inner_digests) & Counter(digests)).total(),
        effective_robustness=found,
        not_applicable=why,
    )


def _accuracies(inner: SetResult, beside: Sequence[Shifted]) -> dict[str, float]:
    sets: Mapping[str, SetResult] = {
        result.shift: result
        for result in (inner, *(each.result for each in beside))
        if result.shift is not None and not not_comparable(result)
    }
    if inner.shift != IMAGENET:
        return {}
    return {name: sets[name].accuracy.value for name in (IMAGENET, *SHIFTS) if name in sets}


def _notes(inner: SetResult, beside: Sequence[Shifted], preprocessing: str, opened: ModelFile) -> tuple[str, ...]:
    notes = []
    if preprocessing == "assumed":
        notes.append("preprocessing is not known and was assumed (ImageNet values); accuracies may be too low")
    if opened.contract and opened.contract.source.random_weights:
        notes.append("the weights are random: accuracies are those of an untrained model")
    if opened.contract and opened.contract.source.synthetic:
        notes.append(f"the model is synthetic: {opened.contract.source.synthetic}")
    results = (inner, *(each.result for each in beside))
    if any(result.label_set in LABEL_SET.values() and result.label_set != "file" for result in results):
        notes.append("the model's 1000 classes are taken to be in ImageNet-1k's order")
    if len({result.n_compete for result in results}) > 1:
        notes.append("the sets are measured among different numbers of classes; their difference is also due to that")
    for each in beside:
        if each.in_both:
            notes.append(f"{each.in_both} images are in both {inner.name} and {each.result.name}")
    for result in results:
        whole = IMAGES.get(result.shift or "", result.n_available)
        if result.n_available != whole:
            notes.append(
                f"{result.name} has {result.n_available} images; {WORDS[result.shift or '']} as published has {whole}"
            )
        if result.n_skipped:
            notes.append(f"{result.n_skipped} images of {result.name} could not be used and are not counted")
        if result.n_read < result.n_available:
            notes.append(f"{result.name}: {result.n_read} of {result.n_available} images, drawn by seed")
    return tuple(notes)
