"""Write annotations and a summary for GitHub Actions. Workflow commands annotate files; pure text."""

from __future__ import annotations

from collections.abc import Sequence

from robustcheck_onnx.checker.text import printable

from . import markdown
from .forms import FormOptions
from .outcome import cautions, finding_text, findings, names_of, path_of
from .record import Failed, Outcome

MAX_ANNOTATIONS = 10  # of each kind: GitHub shows no more for a step
SUMMARY_BYTES = 1024 * 1024  # GitHub drops a longer summary whole
_CUT = "\n\n*The rest is cut: GitHub takes 1 MiB for a step. `-o markdown=FILE` writes the whole report.*\n"


def commands(outcomes: Sequence[Outcome], options: FormOptions) -> list[str]:
    """Write one command per reason and per error.

    It is a warning, a notice where the reason is waived, and an error for a model without a verdict.

    Notices also say what can loosen the gate, and that the photos were the bundled ones.

    At most MAX_ANNOTATIONS of a kind; the last one says then how many more there are. Without line breaks.
    """
    kinds: dict[str, list[tuple[str, str, str]]] = {"error": [], "warning": [], "notice": []}
    names = [f"{name}: " for name in names_of(outcomes)] if len(outcomes) > 1 else [""]
    for name, outcome in zip(names, outcomes, strict=False):
        path = printable(path_of(outcome, options))
        if isinstance(outcome, Failed):
            hint = f"; hint: {outcome.hint}" if outcome.hint else ""
            kinds["error"].append((path, "robustcheck: could not assess", printable(outcome.message + hint)))
            continue
        for caution in cautions(outcome):
            kinds["notice"].append((path, "robustcheck", f"{name}{caution}"))
        for f in findings(outcome):
            title = f"robustcheck {outcome.verdict.verdict} · {f.reason.kind}: {f.title}"
            words = f"{name}{finding_text(f)}. Next step: {f.reason.next_step}"
            kinds["notice" if f.waiver else "warning"].append((path, title, words))
    lines = []
    for kind, of_kind in kinds.items():
        fits = of_kind if len(of_kind) <= MAX_ANNOTATIONS else of_kind[: MAX_ANNOTATIONS - 1]
        lines += [_command(kind, *parts) for parts in fits]
        if rest := len(of_kind) - len(fits):
            lines.append(f"::{kind} title=robustcheck::and {rest} more; the report names all")
    return lines


def _command(kind: str, path: str, title: str, words: str) -> str:
    return f"::{kind} file={_property(path)},line=1,title={_property(title)}::{_data(words)}"


def _data(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _data(words).replace(":", "%3A").replace(",", "%2C")


def summary(outcomes: Sequence[Outcome], options: FormOptions, room: int = SUMMARY_BYTES) -> str:
    """Write the Markdown report in limited size.

    It has fewer than `room` bytes of UTF-8: all lines, or a part that ends with a note.

    Empty where not even that sentence fits.
    """
    whole = markdown.render(outcomes, options)
    if len(whole.encode()) < room:
        return whole
    left = room - len(_CUT.encode()) - 1
    if left < 0:
        return ""
    head = whole.encode()[:left].decode("utf-8", "ignore")
    return head[: head.rfind("\n") + 1].rstrip("\n") + _CUT
