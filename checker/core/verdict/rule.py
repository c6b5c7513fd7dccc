"""Turn evidence and a profile into a verdict. It is WARN unless everything supports PASS. Pure.

Reasons that are known before anything is measured come from one function, for the judge and for `inspect`. Whether a
first layer's values look like photos is judged at the end: docs/dev/decisions/preprocessing-probe.md has the table that
its limits rest on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, NoReturn

from ....thresholds.ends import End
from ....thresholds.profile import Profile
from ....thresholds.records import Frozen
from ....thresholds.statistics import SHARPER, Statistic
from ...text import bound_text, number_text, percent_text
from ..evidence import (
    CONTENT_IMAGES,
    OUTLIER_SD,
    TOP_FEATURES,
    WRITTEN_ZERO_AT,
    Content,
    Evidence,
    GraphScaling,
    Interval,
    ModelFacts,
    PreprocessingFacts,
    Statistics,
)
from .reasons import (
    BELOW_REASONS,
    CLIP_STEP,
    COMPARED_WITHOUT_SCORES,
    DYNAMIC_COMPARED,
    DYNAMIC_STEP,
    IMAGENET_STEP,
    KINDS,
    MEASURE_SHIFT,
    NAMES,
    NOT_MENDABLE,
    RULES,
    WITHOUT_SCORES,
    Kind,
)

SHIFT = "robustcheck shift"  # in a step that needs class scores

Seen = tuple[str, str]
"""A reason's id, and what was seen."""
SeenReasons = Iterator[Seen]


def describe(end: End) -> str:
    """Write what a representation comes out of."""
    if end.op in WRITTEN_ZERO_AT and end.kind in ("activation", "linear_of"):
        left = f"the output of {end.op}, which has no negative values (as a quantised output of a ReLU)"
        return left if end.kind == "activation" else f"a linear map of {left}"
    return {
        "normalisation": "the output of a normalisation layer",
        "activation": f"the output of an activation ({end.op})",
        "linear_of": f"a linear map of the output of an activation ({end.op})",
        "linear_unread": "the output of a linear layer whose weight could not be read as one matrix",
        "change_of_basis": "a change of basis (its last layer's features are orthogonal, as those of a PCA are)",
        "pool": "the output of pooling",
        "linear": "the output of a linear layer",
        "second_linear": "the output of a linear layer that reads another one, as scores of an embedding are",
        "residual": "a residual stream, to which layer after layer adds",
    }.get(end.kind, f"the output of {end.op or end.kind}")


def foreseen(
    model: ModelFacts, preprocessing: PreprocessingFacts | None, n_features: int | None, profile: Profile
) -> SeenReasons:
    """Yield the reasons for WARN before any measurement. Each is (reason id, what was seen).

    `judge` gives each of them (but for `end_not_calibrated`, where enough images show it), and PASS only without any.

    Args:
        model: the tensor that is read and what it ends in; differences need not be measured.
        preprocessing: None where it is not known.
        n_features: of the representation; None where the graph leaves it open, which is not a reason.
        profile: what the thresholds hold for.
    """
    if model.random_weights:
        yield "untrained", "the file records that its weights are random"
    if model.file_changed:
        yield "file_changed", "its graph or its weights are not those that its contract was written for"
    if model.matched_to is not None and model.matched_to != "none":
        yield "trained_to_match", f"the file records that it was trained to match the vectors of {model.matched_to}"
    if preprocessing is None or preprocessing.source == "assumed":
        yield "assumed_preprocessing", "neither the file, a sidecar nor an option gives the preprocessing"
    elif preprocessing.against_contract:
        yield "preprocessing_against_contract", "--preprocess differs from the contract in the file"
    if preprocessing is not None and (fault := scaled_oddly(model, preprocessing)):
        yield fault
    if model.tensor_assumed:
        yield "assumed_tensor", f"`{model.tensor}` was read: {model.why}"
    if model.rule not in profile.tensor_rules or model.pool not in profile.pools:
        kind = model.rule if model.pool == "none" else f"{model.rule}, pooled by {model.pool}"
        yield (
            "tensor_not_calibrated",
            f"`{model.tensor}` is of the kind {kind}; profile {profile.id} holds for {', '.join(profile.tensor_rules)}",
        )
    if not _is_calibrated_end(model, profile):
        yield "end_not_calibrated", f"`{model.tensor}` is {describe(model.ends_in)}"
    if n_features is not None and not profile.min_features <= n_features <= profile.max_features:
        yield (
            "width_not_calibrated",
            f"the representation has {n_features} features; profile {profile.id} holds for "
            f"{profile.min_features} to {profile.max_features}",
        )


def _is_calibrated_end(model: ModelFacts, profile: Profile) -> bool:
    """Return whether the thresholds hold for what the representation ends in."""
    return model.ends_in in profile.ends and not model.ends_in.can_make_outliers


def step_for(name: str, model: ModelFacts, profile: Profile, precision: str = "") -> str | None:
    """Return the next step of a reason that depends on the model. None where the rule's own step is right.

    Args:
        name: the reason's id.
        model: what was read.
        profile: what the thresholds hold for.
        precision: of the measured model, where it was measured.
    """
    if name == "assumed_preprocessing":
        return CLIP_STEP if _is_calibrated_end(model, profile) else IMAGENET_STEP
    if name == "batch_dependent" and precision == "int8":
        return DYNAMIC_STEP
    if SHIFT in RULES[name].next_step and not _gives_scores(model):
        return WITHOUT_SCORES
    return None


def step_in_comparison(name: str, model: ModelFacts, precision: str) -> str | None:
    """Return the next step of a reason in a comparison, which never advises to compare. None for the rule's own."""
    if name == "batch_dependent" and precision == "int8":
        return DYNAMIC_COMPARED
    if SHIFT not in RULES[name].next_step:
        return None
    return MEASURE_SHIFT if _gives_scores(model) else COMPARED_WITHOUT_SCORES


def _gives_scores(model: ModelFacts) -> bool:
    """Return whether a model has a head, as `robustcheck shift` needs it."""
    return model.rule != "encoder_output"


def scaled_oddly(model: ModelFacts, preprocessing: PreprocessingFacts) -> Seen | None:
    """Judge the map from pixels to the first layer.

    What it makes of usual photos counts; tensors come without a map.
    """
    if preprocessing.source == "tensors":
        return None
    at_input = levels_at_input(model, preprocessing)
    for scaling in (model.scaling, *model.other_scalings):
        if is_usual(model, preprocessing, scaling):
            continue
        levels = levels_behind(scaling, *at_input)
        if scaling is not None and scaled_in_both(model, preprocessing, scaling):
            return (
                "normalised_twice",
                f"the graph itself computes {steps_text(scaling)} after the preprocessing, so its first layer "
                f"gets ordinary photos with {levels}",
            )
        return "unusual_pixels", f"the model's first layer gets ordinary photos with {levels}"
    return None


# Relative difference below which two runs give the same numbers, by precision: room for another order of sums and,
# quantised, for a step of rounding (dynamic int8 scales over the batch). A model in training mode is off by about 1.
SAME_NUMBERS = {"fp32": 1e-3, "fp64": 1e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2, "fp8": 5e-2, "fp4": 5e-2}
DISTINCT_SHARE = (
    0.5  # encoders: 1 but for copies of images, which are found before; a few representations, repeated: near 0
)
ALIKE_SPREAD = 0.2  # photo sets with the indication: 0.29 or more; one casting type, corrupted copies: 0.10
CONSTANT_SD = 0.02  # relative SD of a raw feature; outlier features of real encoders have 0.045 and more on photos

# Of 50 varied photos; real encoders with the indication | untaught (studies/results/students.md, which derives both)
MIN_EFFECTIVE_RANK = 17.0  # 18.5 or more | networks 14.4 or less
MIN_RELATIVE_VARIANCE = 0.16  # 0.21 or more | ridge regressions 0.11 or less
# Of 50 varied photos; published sets that clear the thresholds | SVDs of the others (studies/results/made-basis.md)
MIN_MEAN_OF_REST = 0.13  # 0.145 or more | 0.12 or less


class Reason(Frozen):
    """A reason for WARN. It has a stable id, a kind, what was seen, and a next step."""

    id: str
    kind: Kind
    seen: str
    next_step: str

    @property
    def title(self) -> str:
        """Return the reason's title. It is its id where this version does not know it."""
        return RULES[self.id].title if self.id in RULES else self.id


class NoTruth:
    """A record that is neither true nor false."""

    def __bool__(self) -> NoReturn:
        """Raise TypeError. `if report:` is wrong for "is there one?" and for "did it pass?" (docs/python-api.md)."""
        raise TypeError("a report or verdict is neither true nor false; use report.passed, or `report is not None`")


class Verdict(NoTruth, Frozen):
    """A verdict: PASS, or WARN with kind and reasons. The reasons are all that apply."""

    verdict: Literal["PASS", "WARN"]
    kind: Kind | None
    """the kind of the first reason; None for PASS"""
    reasons: tuple[Reason, ...]
    profile_id: str
    profile_digest: str

    @property
    def passed(self) -> bool:
        """Return whether the verdict is PASS."""
        return self.verdict == "PASS" and not self.reasons


def reason(name: str, seen: str, next_step: str | None = None) -> Reason:
    """Write a reason of this version by its id. next_step replaces the one of its rule."""
    rule = RULES[name]
    return Reason(id=name, kind=rule.kind, seen=seen, next_step=rule.next_step if next_step is None else next_step)


def verdict_for(reasons: Iterable[Reason], profile: Profile) -> Verdict:
    """Return PASS without reasons, else WARN. The reasons are sorted by kind, and the first kind is the verdict's.

    A reason that no run can repair brings its kind to the front, but not where a tensor was chosen: the reason is about
    that tensor. With too few images only what the file shows can't be repaired: more images may have both sides.
    `undecided` comes after what was decided: a comparison may have lost one thing while another is not clear.
    """
    entries = tuple(reasons)
    ids = {r.id for r in entries}
    measured = {"one_sided"} if "too_few_images" in ids else set()
    final = "tensor_not_calibrated" not in ids and bool(ids & {*NOT_MENDABLE} - measured)
    order = sorted(KINDS, key=lambda kind: not (final and kind == "not_applicable"))
    entries = tuple(sorted(entries, key=lambda r: (r.id == "undecided", order.index(r.kind), r.id != "too_few_images")))
    return Verdict(
        verdict="WARN" if entries else "PASS",
        kind=entries[0].kind if entries else None,
        reasons=entries,
        profile_id=profile.id,
        profile_digest=profile.digest,
    )


def outside(interval: Interval, minimum: float) -> bool:
    """Return whether the whole interval lies below the threshold. No more images would lift it above."""
    return interval.low is not None and interval.high is not None and interval.high < minimum


def inside(interval: Interval, minimum: float) -> bool:
    """Return whether the whole interval lies above the threshold. Only that counts for PASS."""
    return interval.low is not None and interval.high is not None and interval.low > minimum


def decided(statistics: Statistics, profile: Profile) -> bool:
    """Return whether more images can't change the statistics' answer. This rule stops the run.

    True once enough images were measured and either every interval lies above its threshold or one lies below.
    (The caller checks that enough of them are varied.)
    """
    if statistics.n_images < profile.min_images:
        return False
    pairs = [(getattr(statistics, name), profile.minimum_of(name)) for name in profile.deciding]
    return all(inside(*pair) for pair in pairs) or any(outside(*pair) for pair in pairs)


def judge(evidence: Evidence, profile: Profile) -> Verdict:
    """Judge the evidence against the profile.

    PASS needs every deciding interval above its threshold, enough varied photo-like images, and a comparable,
    trained, sound measurement. Everything else is WARN, with each reason that applies.

    Args:
        evidence: what was measured.
        profile: thresholds and what they hold for. It is taken as it is; `check` and `compare` look at its seal.

    Returns:
        The verdict; `reasons` is empty exactly if it is PASS.
    """
    applying = [
        *_runtime(evidence, profile),
        *_comparable(evidence, profile),
        *_pixels(evidence),
        *_sound(evidence),
        *_sufficient(evidence, profile),
        *_content(evidence, profile),
        *_strength(evidence.statistics, profile),
    ]
    precision = evidence.execution.precision
    reasons = (reason(name, seen, step_for(name, evidence.model, profile, precision)) for name, seen in applying)
    return verdict_for(reasons, profile)


def _runtime(e: Evidence, profile: Profile) -> SeenReasons:
    """Yield the reason where reference arithmetic could move the verdict.

    The statistics of all images are moved by what reference arithmetic moves them on the few that it ran on.
    """
    run, arithmetic = e.execution.reference, e.execution.arithmetic
    if run is None or not run.shifts or arithmetic == "machine":
        return
    moved = _moved(e, run.shifts)
    here, there = _measured_ids(e, profile), _measured_ids(moved, profile)
    if bool(here) == bool(there):
        return
    answers = [f"WARN ({', '.join(ids)})" if ids else "PASS" for ids in (here, there)]
    changes = [
        f"{NAMES[name]} {number_text(getattr(e.statistics, name).estimate)} → "
        f"{number_text(getattr(moved.statistics, name).estimate)}"
        for name in profile.deciding
        if name in run.shifts
    ]
    yield (
        "runtime_differs",
        f"the measured numbers give {answers[0]} as {e.execution.machine} computes them, and {answers[1]} as "
        f"{run.words} does ({run.n_images} images ran once more: {', '.join(changes)})",
    )


def _measured_ids(e: Evidence, profile: Profile) -> list[str]:
    """Return the reasons that measured numbers give."""
    return [name for name, _ in (*_content(e, profile), *_strength(e.statistics, profile))]


def _moved(e: Evidence, shifts: Mapping[str, float]) -> Evidence:
    """Return the evidence with moved statistics and content."""
    intervals: dict[str, Interval] = {
        name: _moved_interval(getattr(e.statistics, name), shifts[name]) for name in NAMES if name in shifts
    }
    content = e.content
    if content is not None:
        values = {name: getattr(content, name) + by for name, by in shifts.items() if name in Content.model_fields}
        content = content.model_copy(update=values)
    statistics = e.statistics.model_copy(update=intervals)
    return e.model_copy(update={"statistics": statistics, "content": content})


def _moved_interval(interval: Interval, by: float) -> Interval:
    """Return the interval with each of its numbers moved."""
    moved = [None if value is None else value + by for value in (interval.estimate, interval.low, interval.high)]
    return Interval(estimate=moved[0], low=moved[1], high=moved[2])


def _strength(s: Statistics, profile: Profile) -> SeenReasons:
    minimums = {name: profile.minimum_of(name) for name in profile.deciding}
    intervals: dict[Statistic, Interval] = {name: getattr(s, name) for name in profile.deciding}
    out = [name for name in profile.deciding if outside(intervals[name], minimums[name])]
    yield from ((BELOW_REASONS[name], _too_low(name, intervals[name], minimums[name])) for name in out)
    unknown = [n for n in profile.deciding if intervals[n].low is None]
    if unknown:
        yield "not_measurable", f"{', '.join(NAMES[n] for n in unknown)} could not be measured"
    straddling = [n for n in profile.deciding if not inside(intervals[n], minimums[n])]
    if straddling and not unknown and not out:
        numbers = ", ".join(
            f"{NAMES[n]} {bound_text(intervals[n].low, minimums[n])} to "
            f"{bound_text(intervals[n].high, minimums[n])} (threshold {minimums[n]:g})"
            for n in straddling
        )
        yield "undecided", f"after {s.n_images} images the interval does not clear the threshold: {numbers}"
    if not (straddling or s.persistent):  # whatever the profile asks for
        yield "not_persistent", f"no feature is beyond {OUTLIER_SD:g} SD on one side in half of the images"


def side_of(s: Statistics) -> str:
    """Write how much energy is on one side of zero or of each image's median, whichever is less even."""
    about_zero = s.negative_energy.estimate or 0.0
    about_median = s.negative_z_energy.estimate or 0.0
    if abs(about_zero - 0.5) >= abs(about_median - 0.5):
        return f"{percent_text(about_zero)} of the energy is negative"
    return f"{percent_text(about_median)} of the energy is below each image's median"


def _too_low(name: Statistic, interval: Interval, minimum: float) -> str:
    upper = bound_text(interval.high, minimum)
    return f"{NAMES[name]} {number_text(interval.estimate)} (upper bound {upper}, threshold {minimum:g})"


def _too_few(e: Evidence, profile: Profile) -> bool:
    """Tell whether fewer varied images were measured than the profile asks for."""
    return min(e.images.sanity.n_varied, e.statistics.n_images) < profile.min_images


def _sufficient(e: Evidence, profile: Profile) -> SeenReasons:
    sanity, s = e.images.sanity, e.statistics
    enough = min(sanity.n_varied, s.n_images)
    if _too_few(e, profile):
        left_out = e.images.n_available - e.images.n_read
        limit = f", and --max-images left out {left_out}" if left_out else ""
        yield "too_few_images", f"{enough} varied images were measured{limit}; at least {profile.min_images} are needed"
    yield from ((finding.id, finding.seen) for finding in sanity.findings)
    if s.spread is None or s.spread < ALIKE_SPREAD:
        yield (
            "representations_alike",
            "how much the representation varies between images could not be measured"
            if s.spread is None
            else f"{number_text(100 * s.spread)} % of the representation varies between images; at least "
            f"{100 * ALIKE_SPREAD:g} % must",
        )
    elif s.distinct_share < DISTINCT_SHARE:
        yield (
            "representations_alike",
            f"{number_text(100 * s.distinct_share)} % of the representations differ in kurtosis; at least "
            f"{100 * DISTINCT_SHARE:g} % must",
        )


def _content(e: Evidence, profile: Profile) -> SeenReasons:
    content = e.content
    if content is None or _too_few(e, profile):
        return  # said already: `unchecked`, `too_few_images`
    if content.n < CONTENT_IMAGES:
        yield "too_few_images", f"the content was measured on {content.n} varied images; it needs {CONTENT_IMAGES}"
    low = []
    if content.effective_rank < MIN_EFFECTIVE_RANK:
        low.append(
            f"the effective rank is {number_text(content.effective_rank)}; at least {MIN_EFFECTIVE_RANK:g} is needed "
            f"over {CONTENT_IMAGES} images"
        )
    if content.relative_variance < MIN_RELATIVE_VARIANCE:
        low.append(
            f"{number_text(100 * content.relative_variance)} % of the energy varies between images; at least "
            f"{100 * MIN_RELATIVE_VARIANCE:g} % must"
        )
    if low:
        seen = f"over {content.n} varied images {', and '.join(low)}"
        yield "little_content", f"the photos, or what the model makes of them, hardly differ: {seen}"
    if content.mean_of_rest < MIN_MEAN_OF_REST and e.statistics.persistent:
        yield (
            "mean_on_one_feature",
            "the mean of all images lies along the strongest features alone, as after an SVD that was folded into the "
            f"last layer: it holds {number_text(100 * content.mean_of_rest)} % of the energy outside of the three "
            f"strongest (over {content.n} varied images); at least {100 * MIN_MEAN_OF_REST:g} % is needed",
        )


def limit_of(e: Evidence) -> float:
    """Return the tolerance for the evidence's precision.

    Two runs with a smaller relative difference count as the same.
    """
    return SAME_NUMBERS.get(e.execution.precision, SAME_NUMBERS["fp32"])


def _sound(e: Evidence) -> SeenReasons:
    s, model = e.statistics, e.model
    total = s.n_images + s.n_nonfinite + s.n_constant
    if s.n_nonfinite:
        yield "nonfinite_representations", f"{s.n_nonfinite} of {total} representations hold NaN or infinity"
    if s.n_constant:
        yield "constant_representations", f"{s.n_constant} of {total} representations are constant"
    # the features that the evidence rests on, weak ones too: three weaker constants clear every threshold together
    leading = [f for rank, f in enumerate(s.features) if rank < TOP_FEATURES or f.persistent]
    dead = [f for f in leading if f.relative_sd is not None and f.relative_sd < CONSTANT_SD]
    if dead:
        yield (
            "constant_feature",
            f"feature{'s' * (len(dead) > 1)} {', '.join(str(f.index) for f in dead)}: an SD over images below "
            f"{100 * CONSTANT_SD:g} % of the mean",
        )
    limit = limit_of(e)
    alone = model.fixed_scale_difference  # measured where every image ran alone, so that no scale saw another image
    difference = model.batch_difference if alone is None else alone
    if difference is not None and difference > limit:
        note = "" if alone is None else ", though the scales of its quantisers were held fixed"
        yield "batch_dependent", f"a representation changed by {difference:.2g} (relative) with its batch{note}"
    if model.output_difference is not None and model.output_difference > limit:
        yield "output_changed", f"the model's own output changed by {model.output_difference:.2g} (relative)"
    missing = [
        name
        for name, value in (
            ("batch invariance", model.batch_difference),
            ("own output", model.output_difference),
            ("content of the representation", e.content),
        )
        if value is None
    ]
    if missing:
        yield "unchecked", f"not checked: {', '.join(missing)}"


def _pixels(e: Evidence) -> SeenReasons:
    """Judge the pixels that were measured at the input.

    Where the declared map is a reason already, nothing is added.
    """
    if e.levels is None or scaled_oddly(e.model, e.preprocessing):
        return
    seen = [
        levels_behind(scaling, e.levels.mean, e.levels.sd) for scaling in (e.model.scaling, *e.model.other_scalings)
    ]
    worst = next((levels for levels in seen if not is_possible(levels)), None)
    if worst is not None:
        yield "unusual_pixels", f"the model's first layer got these images with {worst}"


def _comparable(e: Evidence, profile: Profile) -> SeenReasons:
    model, s = e.model, e.statistics
    if s.statistic_version != profile.statistic_version:
        yield (
            "other_statistic_version",
            f"the evidence has statistic version {s.statistic_version}, profile {profile.id} is for "
            f"{profile.statistic_version}",
        )
    if s.alpha > profile.alpha or SHARPER.index(s.bounds) > SHARPER.index(profile.bounds):
        yield (
            "other_statistic_version",
            f"the evidence has bounds {s.bounds!r} with alpha {s.alpha:g}, profile {profile.id} is for "
            f"{profile.bounds!r} with {profile.alpha:g}",
        )
    one_sided = outside(s.two_sidedness, profile.minimum_of("two_sidedness"))
    # few images may only look one-sided: what the file shows stands then, too
    reported = one_sided and model.ends_in.kind in ("activation", "pool") and not _too_few(e, profile)
    for reason, seen in foreseen(model, e.preprocessing, s.n_features, profile):
        if reason != "end_not_calibrated" or not reported:
            yield reason, seen


# Mean and SD of the 141 bundled photos, RGB, 0–255, as CLIP's preset resizes and crops them
PHOTO_MEAN = (121.0, 123.2, 114.3)
PHOTO_SD = (69.0, 64.3, 70.5)
PHOTO_GREY = (121.5, 63.0)  # mean and SD of their luminance


class Levels(NamedTuple):
    """The mean and SD of each channel. A layer reads these values."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def __str__(self) -> str:
        """Write both, a channel each."""
        return f"mean {_values(self.mean)}, SD {_values(self.sd)}"


class Range(NamedTuple):
    """The means and SDs that a convention allows. Both ends belong to it."""

    mean: tuple[float, float]
    sd: tuple[float, float]

    def holds(self, mean: float, sd: float) -> bool:
        """Return whether a channel lies in it."""
        return self.mean[0] <= mean <= self.mean[1] and self.sd[0] <= sd <= self.sd[1]


# What usual photos may become: every family's channels lie inside, every doubled or forgotten step outside
UNIT = Range((-0.6, 1.5), (0.05, 3.0))
# By the preprocessing alone: the mean and SD of stained tissue (H-optimus-0) make -1.44 of a photo's blue
OUTSIDE = Range((-1.6, 1.5), (0.05, 3.0))
# Where both subtract a mean: a normalisation comes out, or 0 to 1; a mean subtracted twice is below -0.3 somewhere
TWO_MEANS = (Range((-0.3, 0.3), (0.4, 3.0)), Range((0.3, 0.7), (0.2, 0.35)))
BYTES = Range((-60.0, 160.0), (40.0, 110.0))
# What a set of images may become: dark, pale and flat ones too
ANY_UNIT = Range((-5.0, 5.0), (0.02, 3.0))
ANY_BYTES = Range((-130.0, 255.0), (8.0, 130.0))
CENTRED, LEAST_CENTRED_SD = 0.25, 0.4  # who subtracts a mean divides too: 0.5/0.5, the weakest division, leaves SD 0.50
RAW_MEAN = 60.0  # bytes from which no mean was subtracted have 114 to 123


def levels_at_input(model: ModelFacts, preprocessing: PreprocessingFacts) -> Levels:
    """Return the levels of usual photos at the input. They follow from the declared preprocessing."""
    declared = preprocessing.preprocessing
    mean: tuple[float, ...] = PHOTO_MEAN
    sd: tuple[float, ...] = PHOTO_SD
    if declared.color_order == "grey":
        mean, sd = PHOTO_GREY[:1], PHOTO_GREY[1:]
    elif declared.color_order == "BGR":
        mean, sd = mean[::-1], sd[::-1]
    return Levels(mean, sd) if model.input_type == "uint8" else Levels(*declared.scaled(mean, sd))


def expected_levels(model: ModelFacts, preprocessing: PreprocessingFacts) -> Levels:
    """Return the levels of usual photos at the first layer.

    They follow from the declared preprocessing and the graph's own map.
    """
    return levels_behind(model.scaling, *levels_at_input(model, preprocessing))


def levels_behind(scaling: GraphScaling | None, mean: Sequence[float], sd: Sequence[float]) -> Levels:
    """Map the input's levels through the graph's scaling.

    Where the record's channels are not the input's, the input itself is given.
    """
    if scaling is None or any(channel >= len(mean) for channel in scaling.channels):
        return Levels(tuple(mean), tuple(sd))
    maps = list(zip(scaling.channels, scaling.factor, scaling.offset, strict=True))
    return Levels(
        tuple(mean[channel] * factor + offset for channel, factor, offset in maps),
        tuple(sd[channel] * abs(factor) for channel, factor, _ in maps),
    )


def scaled_in_both(model: ModelFacts, preprocessing: PreprocessingFacts, scaling: GraphScaling | None) -> bool:
    """Return whether preprocessing and graph both scale pixels. The graph does it by `scaling`."""
    declared = preprocessing.preprocessing
    plain = declared.rescale == 1 and not any(declared.mean) and set(declared.std) == {1.0}
    return _scales(scaling) and model.input_type != "uint8" and not plain


def is_usual(model: ModelFacts, preprocessing: PreprocessingFacts, scaling: GraphScaling | None) -> bool:
    """Return whether a first layer may get usual photos. It reads what `scaling` gives, each channel in the same range.

    The preprocessing alone may be made for other images than photos. Where both scale, values about zero must be
    spread as a normalisation does; where both subtract a mean, the mean of photos must be about zero, or all be 0 to 1.
    """
    levels = levels_behind(scaling, *levels_at_input(model, preprocessing))
    if not scaled_in_both(model, preprocessing, scaling):
        return _in_one((UNIT if _scales(scaling) else OUTSIDE, BYTES), levels)
    if any(abs(mean) < CENTRED and sd < LEAST_CENTRED_SD for mean, sd in zip(levels.mean, levels.sd, strict=True)):
        return False
    two_means = scaling is not None and any(scaling.offset) and any(preprocessing.preprocessing.mean)
    return _in_one((*(TWO_MEANS if two_means else (UNIT,)), BYTES), levels)


def is_possible(levels: Levels) -> bool:
    """Return whether any images can have these levels. Dark, pale and flat ones count, too."""
    return _in_one((ANY_UNIT, ANY_BYTES), levels)


def is_raw(levels: Levels) -> bool:
    """Return whether the first layer gets raw pixels. They are usual photos as 0–255, and no mean was subtracted."""
    return _in_one((BYTES,), levels) and min(levels.mean) > RAW_MEAN


def steps_text(scaling: GraphScaling) -> str:
    """Write a graph's scaling as (x − mean) / std."""
    return f"(x − {_values(scaling.mean)}) / {_values(scaling.std)} ({', '.join(scaling.ops)})"


def _scales(scaling: GraphScaling | None) -> bool:
    return scaling is not None and (any(scaling.offset) or set(scaling.factor) != {1.0})


def _in_one(ranges: Sequence[Range], levels: Levels) -> bool:
    return any(all(r.holds(mean, sd) for mean, sd in zip(levels.mean, levels.sd, strict=True)) for r in ranges)


def _values(values: Sequence[float]) -> str:
    """Write one value, or one per channel. One is enough where all are written alike."""
    texts = [number_text(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " ".join(texts)
