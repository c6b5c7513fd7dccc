"""Turn evidence and a profile into a verdict, which is WARN unless everything supports PASS. Pure."""

from collections.abc import Iterable, Mapping
from typing import Literal, NoReturn

from ....thresholds.profile import Profile
from ....thresholds.records import Frozen
from ....thresholds.statistics import SHARPER
from ...calls import public
from ...text import bound_text, number_text, percent_text
from ..evidence import CONTENT_IMAGES, NONFINITE, OUTLIER_SD, TOP_FEATURES, Content, Evidence, Interval, Statistics
from .foreseen import SeenReasons, foreseen, scaled_oddly, step_for
from .kinds import BELOW_REASONS, KINDS, NAMES, Kind
from .pixels import is_possible, levels_behind
from .reasons import NOT_MENDABLE, RULES

# Relative difference below which two runs give the same numbers, by precision: room for another order of sums and,
# quantised, for a step of rounding (dynamic int8 scales over the batch). A model in training mode is off by about 1.
SAME_NUMBERS = {"fp32": 1e-3, "fp64": 1e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2, "fp8": 5e-2, "fp4": 5e-2}
# encoders: 1 but for copies of images, which are found before; a few representations, repeated: near 0
DISTINCT_SHARE = 0.5
ALIKE_SPREAD = 0.2  # photo sets with the indication: 0.29 or more; one casting type, corrupted copies: 0.10
CONSTANT_SD = 0.02  # relative SD of a raw feature; outlier features of real encoders have 0.045 and more on photos

# Of 50 varied photos; real encoders with the indication | untaught (studies/results/students.md, which derives both)
MIN_EFFECTIVE_RANK = 17.0  # 18.5 or more | networks 14.4 or less
MIN_RELATIVE_VARIANCE = 0.16  # 0.21 or more | ridge regressions 0.11 or less
# Of 50 varied photos; published sets that clear the thresholds | SVDs of the others (studies/results/made-basis.md)
MIN_MEAN_OF_REST = 0.13  # 0.145 or more | 0.12 or less


class Reason(Frozen):
    """A reason for WARN, with a stable id, a kind, what was seen, and a next step."""

    id: str
    kind: Kind
    seen: str
    next_step: str

    @property
    def title(self) -> str:
        """Return the reason's title, or its id where this version does not know it."""
        return RULES[self.id].title if self.id in RULES else self.id


class NoTruth:
    """A record that is neither true nor false."""

    def __bool__(self) -> NoReturn:
        """Raise TypeError. `if report:` is wrong for "is there one?" and for "did it pass?" (docs/python-api.md)."""
        raise TypeError("a report or verdict is neither true nor false; use report.passed, or `report is not None`")


class Verdict(NoTruth, Frozen):
    """A verdict: PASS, or WARN with its kind and all reasons that apply."""

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
    if next_step is None:
        next_step = rule.next_step
    return Reason(id=name, kind=rule.kind, seen=seen, next_step=next_step)


def verdict_for(reasons: Iterable[Reason], profile: Profile) -> Verdict:
    """Return PASS without reasons, else WARN with the reasons in their order, of which the first gives the kind."""
    ordered = _in_order(list(reasons))
    if not ordered:
        return Verdict(verdict="PASS", kind=None, reasons=(), profile_id=profile.id, profile_digest=profile.digest)
    return Verdict(
        verdict="WARN",
        kind=ordered[0].kind,
        reasons=tuple(ordered),
        profile_id=profile.id,
        profile_digest=profile.digest,
    )


def _in_order(reasons: list[Reason]) -> list[Reason]:
    """Sort reasons by kind, in the order of `KINDS`, but for the kind of a reason that no run can repair, which leads.

    `too_few_images` is the first of its kind. `undecided` comes after what was decided: a comparison may have lost one
    thing while another is not clear.
    """
    kinds = list(KINDS)
    if _is_beyond_repair({reason.id for reason in reasons}):
        kinds.remove("not_applicable")
        kinds.insert(0, "not_applicable")

    def place(reason: Reason) -> tuple[bool, int, bool]:
        return reason.id == "undecided", kinds.index(reason.kind), reason.id != "too_few_images"

    return sorted(reasons, key=place)


def _is_beyond_repair(ids: set[str]) -> bool:
    """Return whether one of the reasons stays in every other run of the same file."""
    if "tensor_not_calibrated" in ids:  # a tensor was chosen: the reasons are about that tensor
        return False
    lasting = ids & {*NOT_MENDABLE}
    if "too_few_images" in ids:  # more images may have both sides
        lasting.discard("one_sided")
    return bool(lasting)


def outside(interval: Interval, minimum: float) -> bool:
    """Return whether the whole interval lies below the threshold, so that no more images would lift it above."""
    return interval.low is not None and interval.high is not None and interval.high < minimum


def inside(interval: Interval, minimum: float) -> bool:
    """Return whether the whole interval lies above the threshold, as PASS needs it."""
    return interval.low is not None and interval.high is not None and interval.low > minimum


def decided(statistics: Statistics, profile: Profile) -> bool:
    """Return whether more images can't change the statistics' answer, so that the run stops.

    True once enough images were measured and either every interval lies above its threshold or one lies below.
    (The caller checks that enough of them are varied.)
    """
    if statistics.n_images < profile.min_images:
        return False
    pairs = [(getattr(statistics, name), profile.minimum_of(name)) for name in profile.deciding]
    return all(inside(*pair) for pair in pairs) or any(outside(*pair) for pair in pairs)


@public("rc.judge(report.evidence, report.profile)")
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
    run = e.execution.reference
    if run is None or e.execution.arithmetic == "machine":
        return
    if run.failed and (e.execution.saturates or run.n_images):
        on_more = f" on more than {run.n_images} images" if run.n_images else ""
        seen = f"{run.words} can't be compared with {e.execution.machine}{on_more}, because it failed: {run.failed}"
        yield "runtime_differs", seen
        return
    if run.shifts.get(NONFINITE, 0) > 0:
        seen = f"{run.words} gives more representations that are not finite than {e.execution.machine} does"
        yield "runtime_differs", seen
        return
    if not run.shifts:
        return
    moved = _moved(e, run.shifts)
    here = _measured_answer(e, profile)
    there = _measured_answer(moved, profile)
    if (here == "PASS") == (there == "PASS"):
        return
    changes = []
    for name in profile.deciding:
        if name in run.shifts:
            before = number_text(getattr(e.statistics, name).estimate)
            after = number_text(getattr(moved.statistics, name).estimate)
            changes.append(f"{NAMES[name]} {before} → {after}")
    yield (
        "runtime_differs",
        f"the measured numbers give {here} as {e.execution.machine} computes them, and {there} as {run.words} does "
        f"({run.n_images} images ran once more: {', '.join(changes)})",
    )


def _measured_answer(e: Evidence, profile: Profile) -> str:
    """Write the answer that measured numbers alone give."""
    ids = [name for name, _ in (*_content(e, profile), *_strength(e.statistics, profile))]
    return f"WARN ({', '.join(ids)})" if ids else "PASS"


def _moved(e: Evidence, shifts: Mapping[str, float]) -> Evidence:
    """Return the evidence with moved statistics and content."""
    intervals: dict[str, Interval] = {}
    for name in NAMES:
        if name in shifts:
            numbers: dict[str, float | None] = getattr(e.statistics, name).model_dump()
            moved = {field: None if number is None else number + shifts[name] for field, number in numbers.items()}
            intervals[name] = Interval.model_validate(moved)
    statistics = e.statistics.model_copy(update=intervals)
    content = e.content
    if content is not None:
        values = {name: getattr(content, name) + by for name, by in shifts.items() if name in Content.model_fields}
        content = content.model_copy(update=values)
    return e.model_copy(update={"statistics": statistics, "content": content})


def _strength(s: Statistics, profile: Profile) -> SeenReasons:
    """Judge each deciding statistic by its interval, which PASS needs above the threshold.

    An interval below it is a reason of its own; where none is, and all are known, the evidence is undecided.
    """
    is_below = False
    unknown = []
    not_above = []
    for name in profile.deciding:
        interval: Interval = getattr(s, name)
        minimum = profile.minimum_of(name)
        if inside(interval, minimum):
            continue
        low = bound_text(interval.low, minimum)
        high = bound_text(interval.high, minimum)
        not_above.append(f"{NAMES[name]} {low} to {high} (threshold {minimum:g})")
        if interval.low is None:
            unknown.append(NAMES[name])
        if outside(interval, minimum):
            is_below = True
            estimate = number_text(interval.estimate)
            yield BELOW_REASONS[name], f"{NAMES[name]} {estimate} (upper bound {high}, threshold {minimum:g})"
    if unknown:
        yield "not_measurable", f"{', '.join(unknown)} could not be measured"
    elif not_above and not is_below:
        numbers = ", ".join(not_above)
        yield "undecided", f"after {s.n_images} images the interval does not clear the threshold: {numbers}"
    if not not_above and not s.persistent:  # whatever the profile asks for
        yield "not_persistent", f"no feature is beyond {OUTLIER_SD:g} SD on one side in half of the images"


def side_of(s: Statistics) -> str:
    """Write how much energy is on one side of zero or of each image's median, whichever is less even."""
    about_zero = s.negative_energy.estimate or 0.0
    about_median = s.negative_z_energy.estimate or 0.0
    if abs(about_zero - 0.5) >= abs(about_median - 0.5):
        return f"{percent_text(about_zero)} of the energy is negative"
    return f"{percent_text(about_median)} of the energy is below each image's median"


def _n_varied(e: Evidence) -> int:
    """Count the varied images that were measured."""
    return min(e.images.sanity.n_varied, e.statistics.n_images)


def _sufficient(e: Evidence, profile: Profile) -> SeenReasons:
    s = e.statistics
    n = _n_varied(e)
    if n < profile.min_images:
        left_out = e.images.n_available - e.images.n_read
        limit = f", and --max-images left out {left_out}" if left_out else ""
        yield "too_few_images", f"{n} varied images were measured{limit}; at least {profile.min_images} are needed"
    for finding in e.images.sanity.findings:
        yield finding.id, finding.seen
    if s.spread is None:
        yield "representations_alike", "how much the representation varies between images could not be measured"
    elif s.spread < ALIKE_SPREAD:
        yield (
            "representations_alike",
            f"{number_text(100 * s.spread)} % of the representation varies between images; at least "
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
    if content is None or _n_varied(e) < profile.min_images:
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
    """Return the relative difference below which two runs of the evidence's precision count as the same."""
    return SAME_NUMBERS.get(e.execution.precision, SAME_NUMBERS["fp32"])


def _sound(e: Evidence) -> SeenReasons:
    s = e.statistics
    model = e.model
    total = s.n_images + s.n_nonfinite + s.n_constant
    if s.n_nonfinite:
        yield "nonfinite_representations", f"{s.n_nonfinite} of {total} representations hold NaN or infinity"
    if s.n_constant:
        yield "constant_representations", f"{s.n_constant} of {total} representations are constant"
    # the features that the evidence rests on, weak ones too: three weaker constants clear every threshold together
    leading = [*s.features[:TOP_FEATURES], *(f for f in s.features[TOP_FEATURES:] if f.persistent)]
    dead = [str(f.index) for f in leading if f.relative_sd is not None and f.relative_sd < CONSTANT_SD]
    if dead:
        features = "feature" if len(dead) == 1 else "features"
        sd = f"an SD over images below {100 * CONSTANT_SD:g} % of the mean"
        yield "constant_feature", f"{features} {', '.join(dead)}: {sd}"
    limit = limit_of(e)
    difference = model.batch_difference
    note = ""
    if model.fixed_scale_difference is not None:  # every image ran alone, so that no scale saw another image
        difference = model.fixed_scale_difference
        note = ", though the scales of its quantisers were held fixed"
    if difference is not None and difference > limit:
        yield "batch_dependent", f"a representation changed by {difference:.2g} (relative) with its batch{note}"
    if model.output_difference is not None and model.output_difference > limit:
        yield "output_changed", f"the model's own output changed by {model.output_difference:.2g} (relative)"
    checks = {
        "batch invariance": model.batch_difference,
        "own output": model.output_difference,
        "content of the representation": e.content,
    }
    missing = [name for name, value in checks.items() if value is None]
    if missing:
        yield "unchecked", f"not checked: {', '.join(missing)}"


def _pixels(e: Evidence) -> SeenReasons:
    """Judge the pixels that were measured at the input, unless the declared map is a reason already."""
    if e.levels is None or scaled_oddly(e.model, e.preprocessing):
        return
    for scaling in (e.model.scaling, *e.model.other_scalings):
        levels = levels_behind(scaling, e.levels.mean, e.levels.sd)
        if not is_possible(levels):
            yield "unusual_pixels", f"the model's first layer got these images with {levels}"
            return


def _comparable(e: Evidence, profile: Profile) -> SeenReasons:
    """Judge whether the profile's thresholds hold for the statistics' definition and bounds, and for the model."""
    s = e.statistics
    if s.statistic_version != profile.statistic_version:
        yield (
            "other_statistic_version",
            f"the evidence has statistic version {s.statistic_version}, profile {profile.id} is for "
            f"{profile.statistic_version}",
        )
    has_sharper_bounds = SHARPER.index(s.bounds) > SHARPER.index(profile.bounds)
    if s.alpha > profile.alpha or has_sharper_bounds:
        yield (
            "other_statistic_version",
            f"the evidence has bounds {s.bounds!r} with alpha {s.alpha:g}, profile {profile.id} is for "
            f"{profile.bounds!r} with {profile.alpha:g}",
        )
    is_end_measured = _is_end_measured(e, profile)
    for name, seen in foreseen(e.model, e.preprocessing, s.n_features, profile):
        if name == "end_not_calibrated" and is_end_measured:
            continue  # `one_sided` says it
        yield name, seen


def _is_end_measured(e: Evidence, profile: Profile) -> bool:
    """Return whether enough images have one-sided features, as an activation or pooling at the model's end makes them.

    With few images they may only look so, and what the file shows is a reason, too.
    """
    is_one_sided = outside(e.statistics.two_sidedness, profile.minimum_of("two_sidedness"))
    has_enough = _n_varied(e) >= profile.min_images
    return is_one_sided and has_enough and e.model.ends_in.kind in ("activation", "pool")
