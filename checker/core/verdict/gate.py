"""Turn a verdict into an exit code.

Settings and waivers decide what a pipeline lets through, and the gate names the rule that decided. Pure.

A waiver accepts one reason of one model for a time, in somebody's name. It never changes the verdict: the report still
says WARN, and says who accepted it, why and until when.
"""

import re
from collections.abc import Sequence
from datetime import date
from fnmatch import fnmatchcase
from posixpath import normpath
from typing import Literal

from pydantic import Field

from ....thresholds.records import Frozen
from ...text import Texts
from .rule import Verdict

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
    """Decide the exit code: 0 for PASS, for WARN with every reason waived or accepted, and with fail_on "never".

    A reason of another kind next to the accepted one fails, though a waiver accepts it: the two are not added up.

    model: as it was typed; one that climbs (release/../other.onnx) must match a waiver's globs without that, too.
    leads_to: the file that links lead to, which must match them, too; "" without links.
    waived_in, fail_on_from, accept_from: where waivers, fail_on and accept were set, for the rule's sentence.
    loosening: told as it is; it decides nothing here.
    """
    reasons = {reason.id for reason in verdict.reasons}
    spellings = [model]
    if ".." in model.split("/"):
        spellings.append(normpath(model))
    if leads_to:
        spellings.append(leads_to)
    about = [waiver for waiver in waivers if waiver.reason in reasons and _is_about(waiver, spellings)]
    holding = tuple(waiver for waiver in about if waiver.expires >= today)
    expired = tuple(waiver for waiver in about if waiver.expires < today)
    not_waived = sorted(reasons - {waiver.reason for waiver in holding})
    names = ", ".join(sorted(reasons))
    exit_code: Literal[0, 1] = 0
    if verdict.passed:
        rule = "the verdict is PASS"
    elif reasons and not not_waived:
        where = f" in {waived_in}" if waived_in else ""
        rule = f"every reason for WARN is waived{where} ({names})"
    elif reasons and all(reason.kind == accept for reason in verdict.reasons):
        rule = f"{accept} is accepted ({accept_from}), and every reason is of that kind ({names})"
    elif fail_on == "never":
        rule = f"--fail-on is never ({fail_on_from}): WARN does not fail this run"
    else:
        exit_code = 1
        rule = f"the verdict is WARN ({', '.join(not_waived)})"
    return Gate(
        exit_code=exit_code,
        fail_on=fail_on,
        rule=rule,
        accept=accept,
        waived=holding,
        expired=expired,
        loosening=tuple(loosening),
    )


def _is_about(waiver: Waiver, spellings: Sequence[str]) -> bool:
    """Return whether a waiver's globs match every spelling of a model's path."""
    return all(any(is_match(name, glob) for glob in waiver.models) for name in spellings)


def is_match(path: str, glob: str) -> bool:
    """Return whether a glob matches a path, where `**` alone, for any number of folders, matches a slash.

    >>> [is_match("release/v1/m.onnx", glob) for glob in ("release/*/m.onnx", "release/**", "release/*", "*")]
    [True, True, False, False]
    """
    parts = path.split("/")
    reached = {0}  # how many parts the glob may have matched so far
    for part in glob.split("/"):
        if not reached:
            return False
        if part == "**":
            reached = set(range(min(reached), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], part)}
    return len(parts) in reached


def fits(gate: Gate, verdict: Verdict, *, words: bool) -> bool:
    """Return whether a gate's exit code, waivers and rule belong together, and to a verdict.

    Where waivers, fail_on and accept were set, which its rule says too, is the caller's to know.

    words: whether the rule must be in the words of this version.
    """
    today = date.min
    if gate.waived:
        today = min(waiver.expires for waiver in gate.waived)
    elif gate.expired:
        last = max(waiver.expires for waiver in gate.expired)
        today = date.fromordinal(min(last.toordinal() + 1, date.max.toordinal()))
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
    rule = re.escape(new.rule)
    rule = rule.replace(re.escape(f" in {_PLACE}"), "( in .+)?")
    rule = rule.replace(re.escape(_PLACE), ".+")
    return not words or re.fullmatch(rule, gate.rule) is not None
