"""Turn a verdict into an exit code, and write its notes.

Settings and waivers decide what a pipeline lets through, and the gate names the rule that decided. Pure.

A waiver accepts one reason of one model for a time, in somebody's name. It never changes the verdict: the report still
says WARN, and says who accepted it, why and until when.

The profile that a caller names is loaded here, since notes tell how it differs from the default. Pure.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from posixpath import normpath
from typing import Literal

from pydantic import Field

from ....thresholds import profile as profiles
from ....thresholds.profile import Frozen, Profile
from ...errors import UsageError
from ...text import Texts, number_text, short_digest
from ..evidence import Evidence, Execution, ImageFacts, Skips
from .rule import Verdict, expected_levels, is_raw, limit_of

FailOn = Literal["warn", "never"]
Accept = Literal["not_applicable"]
_PLACE = "<PLACE>"  # is written in a rule where a settings file, variable or the command line would be named


class Waiver(Frozen):
    """An accepted reason."""

    reason: str = Field(min_length=1)
    """id of the reason for WARN"""
    because: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    expires: date
    """the last day on which it holds"""
    models: Texts = ("**",)
    """globs of the model's path as it was given, and as its links lead; any of them"""


class Loosening(Frozen):
    """A changed setting that can loosen the gate."""

    setting: str
    value: str
    """in a few words; waivers are counted"""
    source: str
    """who says so: a settings file, a variable, or the command line"""


class Gate(Frozen):
    """The exit code with the rule that decided it."""

    exit_code: Literal[0, 1]
    fail_on: FailOn
    rule: str
    """one sentence: what decided"""
    accept: Accept | None = None
    """the kind of WARN that is let through where every reason is of that kind"""
    waived: tuple[Waiver, ...] = ()
    """waivers that hold for reasons of this verdict"""
    expired: tuple[Waiver, ...] = ()
    """waivers for reasons of this verdict that ended before this day: they count for nothing"""
    loosening: tuple[Loosening, ...] = ()
    """what can let a model through where the defaults would not, but for photos that the command line names"""


def decide(
    verdict: Verdict,
    model: str,
    *,
    leads_to: str = "",
    waivers: Sequence[Waiver] = (),
    waived_in: str = "",
    fail_on: FailOn = "warn",
    fail_on_from: str = "command line",
    accept: Accept | None = None,
    accept_from: str = "command line",
    loosening: Sequence[Loosening] = (),
    today: date,
) -> Gate:
    """Decide the exit code. It is 0 for PASS, for WARN with every reason waived or accepted, and with fail_on "never".

    A reason of another kind next to the accepted one fails, though a waiver accepts it: the two are not added up.

    model: as it was typed; one that climbs (release/../other.onnx) must match a waiver's globs without that, too.
    leads_to: the file that links lead to, which must match them, too; "" without links.
    waived_in, fail_on_from, accept_from: where waivers, fail_on and accept were set, for the rule's sentence.
    loosening: told as it is; it decides nothing here.
    """
    reasons = {reason.id for reason in verdict.reasons}
    spellings = [model, *([normpath(model)] if ".." in model.split("/") else []), *([leads_to] if leads_to else [])]
    about = [
        w
        for w in waivers
        if w.reason in reasons and all(any(is_match(name, glob) for glob in w.models) for name in spellings)
    ]
    holding = tuple(w for w in about if w.expires >= today)
    expired = tuple(w for w in about if w.expires < today)
    not_waived = sorted(reasons - {w.reason for w in holding})
    where, names = f" in {waived_in}" if waived_in else "", ", ".join(sorted(reasons))
    answers: tuple[tuple[object, str], ...] = (
        (verdict.verdict == "PASS", "the verdict is PASS"),
        (reasons and not not_waived, f"every reason for WARN is waived{where} ({names})"),
        (
            reasons and accept is not None and all(reason.kind == accept for reason in verdict.reasons),
            f"{accept} is accepted ({accept_from}), and every reason is of that kind ({names})",
        ),
        (fail_on == "never", f"--fail-on is never ({fail_on_from}): WARN does not fail this run"),
    )
    opens = [rule for holds, rule in answers if holds]
    return Gate(
        exit_code=0 if opens else 1,
        fail_on=fail_on,
        rule=opens[0] if opens else f"the verdict is WARN ({', '.join(not_waived)})",
        accept=accept,
        waived=holding,
        expired=expired,
        loosening=tuple(loosening),
    )


def is_match(path: str, glob: str) -> bool:
    """Return whether a glob matches a path. `**` is any number of folders; no other wildcard matches a slash.

    >>> [is_match("release/v1/m.onnx", glob) for glob in ("release/*/m.onnx", "release/**", "release/*", "*")]
    [True, True, False, False]
    """
    parts = path.split("/")
    reached = {0}  # how many parts the glob may have matched so far
    for part in glob.split("/"):
        if part == "**":
            reached = set(range(min(reached), len(parts) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], part)}
    return len(parts) in reached


def fits(gate: Gate, verdict: Verdict, *, words: bool) -> bool:
    """Return whether a gate is consistent with a verdict. Its exit code, its waivers and its rule must belong together.

    Where waivers, fail_on and accept were set, which its rule says too, is the caller's to know.

    words: whether the rule must be in the words of this version.
    """
    days = [waiver.expires for waiver in gate.waived]
    today = min(days) if days else max((waiver.expires for waiver in gate.expired), default=date.min)
    if not days and gate.expired:
        today = date.fromordinal(min(today.toordinal() + 1, date.max.toordinal()))
    listed = [waiver.model_copy(update={"models": ("**",)}) for waiver in (*gate.waived, *gate.expired)]
    new = decide(
        verdict,
        "",
        waivers=listed,
        waived_in=_PLACE,
        fail_on=gate.fail_on,
        fail_on_from=_PLACE,
        accept=gate.accept,
        accept_from=_PLACE,
        today=today,
    )
    if (new.exit_code, len(new.waived), len(new.expired)) != (gate.exit_code, len(gate.waived), len(gate.expired)):
        return False
    rule = re.escape(new.rule).replace(re.escape(f" in {_PLACE}"), "( in .+)?").replace(re.escape(_PLACE), ".+")
    return not words or re.fullmatch(rule, gate.rule) is not None


HEAD_NOTE = "The classifier's last layer was not looked at: the verdict is about the features that it reads."
ON_BUNDLED = "on the bundled photos, not yours"
BUNDLED_NOTE = (
    f"Measured {ON_BUNDLED}: for a release gate, give photos of the kind that your model will see (--images)."
)
SHOWN = 6  # inputs and outputs that were left out and are named


def notes_of(evidence: Evidence, profile: Profile) -> Texts:
    """Write the notes that a verdict rests on.

    A note is about a choice or a circumstance that is not a reason for WARN.

    Args:
        evidence: what was measured.
        profile: what it was judged by.
    """
    return (
        *_profile_notes(profile),
        *model_notes(evidence.model.synthetic, left_out=evidence.model.left_out),
        *int8_notes(evidence.model.saturating_pairs, evidence.execution),
        *_run_notes(evidence),
        *image_notes(evidence.images),
        *execution_notes(evidence.execution),
    )


def model_notes(
    planted: str, *, random_weights: bool = False, preprocessing: str = "", left_out: Sequence[str] = ()
) -> list[str]:
    """Note what a reader must know of a model.

    Args:
        planted: what was planted in it by hand; empty for a real model.
        random_weights: whether nobody trained it. A check has a reason for that, and gives no note.
        preprocessing: where it comes from; a check has a reason for "assumed", too.
        left_out: of a file with several inputs, the inputs and outputs that were not opened.
    """
    notes = [f"Synthetic model: {planted}."] if planted else []
    if left_out:
        more = f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
        notes.append(
            "The file has several inputs; what needs the image alone was measured. Left out: "
            f"{', '.join(left_out[:SHOWN])}{more}."
        )
    if random_weights:
        notes.append("The model has random weights: it was never trained.")
    if preprocessing == "assumed":
        notes.append("The preprocessing was assumed: the file does not define it. Wrong pixels give wrong numbers.")
    return notes


def _run_notes(evidence: Evidence) -> Iterator[str]:
    """Note what is special about how the model was measured."""
    model, preprocessing, limit = evidence.model, evidence.preprocessing, limit_of(evidence)
    if model.rule == "head_input":  # what a classifier's last layer makes of the features was not measured
        yield HEAD_NOTE
    together, fixed = model.batch_difference, model.fixed_scale_difference
    if fixed is not None and together is not None and fixed <= limit < together:
        yield (
            "The verdict holds for batches of one image: this model's quantisers take their scale over the whole "
            f"batch. Each image ran alone (--batch-size 1); with others a representation changed by {together:.2g} "
            "(relative)."
        )
    if preprocessing.preprocessing.color_order == "grey":
        yield "The model takes one channel: photos were fed in grey, as their luminance."
    # some models are trained for that, and most are not
    if preprocessing.source != "tensors" and is_raw(expected_levels(model, preprocessing)):
        yield (
            "Pixels reach the model's first layer as 0 to 255: the preprocessing does not scale them, nor does the "
            "graph, as far as it can be read. That is right only for a model that was trained like that."
        )


def image_notes(images: ImageFacts) -> list[str]:
    """Note what is special about the images. They are the bundled ones or have no name, or some could not be used."""
    notes = [BUNDLED_NOTE] if images.bundled else []
    if images.given:
        notes.append(
            f"The images were handed over in Python ({images.source}) and measured in that process; this report names "
            "no files that could be measured again."
        )
    return notes + skipped_note(images.n_skipped, images.n_read, images.skipped)


def memory_note(name: str) -> list[str]:
    """Note that the model was not a file. `name` describes what it was."""
    return [f"The model was handed over in Python ({name}), not as a file; no sidecar of it was looked for."]


def skipped_note(n_skipped: int, n_read: int, skipped: Skips, name: str = "") -> list[str]:
    """Note how many images of a set were skipped.

    The first three are named with the reason; without any there is no note.
    """
    first = "; ".join(f"{image}: {reason}" for image, reason in skipped[:3])
    of_set = f" of {name}" if name else ""
    return [f"{n_skipped} of {n_read} images{of_set} were skipped ({first})."] if n_skipped else []


def fallback_note(execution: Execution) -> list[str]:
    """Note why `--device auto` used the CPU."""
    return [f"The CPU was used: {execution.fallback_reason}."] if execution.fallback_reason else []


def execution_notes(execution: Execution) -> list[str]:
    """Note what is special about the execution.

    `--device auto` used the CPU, a GPU run left nodes there, or the graph optimisation was lowered.
    """
    notes = fallback_note(execution)
    if execution.heavy_on_cpu:
        heavy = ", ".join(f"{n} {op}" for op, n in execution.heavy_on_cpu.items())
        notes.append(f"Although a GPU was used, heavy nodes ran on the CPU: {heavy}.")
    if execution.optimization != "all":
        notes.append(
            f"Graph optimisation was lowered to {execution.optimization}: at a higher level, reading the "
            "representation changed the model's own output."
        )
    if execution.precision == "fp16" and execution.providers[0] == "CPUExecutionProvider":
        notes.append(
            "On the CPU, ONNX Runtime computes the float16 layers of this file in float32. A GPU computes them in "
            "float16, which has other roundings and ends at 65504: check it there, too, if it will run there."
        )
    return notes + reference_notes(execution)


def reference_notes(execution: Execution) -> list[str]:
    """Note what reference arithmetic made of a few images, where it differs by more than rounding, or did not run."""
    run = execution.reference
    if run is None:
        return []
    if run.failed:
        return [f"No image could be run once more by {run.words}: {run.failed}"]
    if not run.exceeds_rounding:
        return []
    return [
        f"The vectors of {execution.machine} differ from those of {run.words} by more than rounding: over "
        f"{run.n_images} images the cosine of the two is {number_text(run.cosine)} (median), and that of two reference "
        f"runs {number_text(run.floor)}."
    ]


SATURATING_PAIRS = 0.005  # one scale per channel 0.015 to 0.021, per tensor below 0.0003, 7 bits and uint8 0


def int8_notes(saturating_pairs: float | None, execution: Execution | None = None) -> list[str]:
    """Note that int8 sums of a file saturate on some CPUs.

    Args:
        saturating_pairs: as in `ModelFacts`.
        execution: how it ran; None where it did not run.
    """
    if saturating_pairs is None or saturating_pairs < SATURATING_PAIRS:
        return []
    words = "" if execution is None else execution.sums_words
    here = f" On this CPU such sums {words}." if words else ""
    share = f"{100 * saturating_pairs:.1f} % of the pairs of weights can exceed 16 bits"
    return [
        "On x86 CPUs with AVX2 and without VNNI, ONNX Runtime's int8 sums saturate for this file "
        f"({share}), and its vectors differ from the exact ones.{here}"
    ]


def _profile_notes(profile: Profile) -> list[str]:
    """Note how a profile differs from the default one. The default itself gets no note."""
    default = profiles.load()
    if profile.digest == default.digest:
        return []
    notes = [
        f"The thresholds are not the default profile ({default.id}, {short_digest(default.digest)}) but {profile.id} "
        f"({short_digest(profile.digest)}), given with --thresholds: PASS means what that profile defines."
    ]
    if looser := profiles.looser_than(profile, default):
        notes.append(f"The profile is looser than the default in places: {'; '.join(looser)}.")
    if n_missing := len(profile.calibration.missing):
        notes.append(f"The profile's calibration is not complete: {n_missing} models of its suite were not measured.")
    return notes


def load_profile(thresholds: str | Path | Profile | None) -> Profile:
    """Return the profile that `thresholds` means. Raises UsageError for one that can't be used."""
    try:
        if isinstance(thresholds, Profile):  # `model_copy` looks at no value
            return profiles.checked(thresholds.model_dump(warnings=False), f"profile {thresholds.id}")
        return profiles.load(thresholds)
    except (profiles.ProfileError, RecursionError) as fault:
        deep = f"{thresholds}: threshold profile is nested too deeply; it must be a sealed profile"
        raise UsageError(
            deep if isinstance(fault, RecursionError) else str(fault), "leave out --thresholds for the default profile"
        ) from fault
