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
