"""Write GitHub's annotations, and its summary in limited size. Pure."""

from ..text import around, printable
from . import markdown
from .model_names import FormOptions, _named, path_of
from .record import Failed, Outcomes
from .words import STOPPED, cautions, finding_text, findings, is_stopped

MAX_ANNOTATIONS = 10  # of each kind: GitHub shows no more for a step
_ESCAPES = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_ESCAPES_OF_PROPERTIES = _ESCAPES | str.maketrans({":": "%3A", ",": "%2C"})
SUMMARY_BYTES = 1024 * 1024  # GitHub drops a longer summary whole
_CUT = "\n\n*The rest is cut: GitHub takes 1 MiB for a step. `-o markdown=FILE` writes the whole report.*\n"


def commands(outcomes: Outcomes, options: FormOptions) -> list[str]:
    """Write one command per reason and per error.

    A reason that stops the run is an error, one that a waiver accepts a notice, any other a warning. A model without a
    verdict is an error.

    Notices also say what can loosen the gate, and that the photos were the bundled ones.

    At most MAX_ANNOTATIONS of a kind; the last one says then how many more there are. Without line breaks.
    """
    kinds: dict[str, list[tuple[str, str, str]]] = {"error": [], "warning": [], "notice": []}
    for name, outcome in _named(outcomes):
        path = printable(path_of(outcome, options))
        if isinstance(outcome, Failed):
            hint = around("; hint: ", outcome.hint)
            error = printable(outcome.message + hint)
            # before the reasons, of which GitHub shows some
            kinds["error"].insert(0, (path, "robustcheck: could not assess", error))
            continue
        for caution in cautions(outcome):
            kinds["notice"].append((path, "robustcheck", f"{name}{caution}"))
        for f in findings(outcome):
            kind = "warning"
            stopped = ""
            if is_stopped(outcome):
                kind = "error"
                stopped = f"{STOPPED} · "
            if f.waiver:
                kind = "notice"
            verdict = f"{stopped}{outcome.verdict.verdict}"
            title = f"robustcheck {verdict} · {f.reason.kind}: {f.reason.title}"
            words = f"{name}{finding_text(f)}. Next step: {f.reason.next_step}"
            kinds[kind].append((path, title, words))
    lines = []
    for kind, of_kind in kinds.items():
        n_shown = MAX_ANNOTATIONS
        if len(of_kind) > n_shown:
            n_shown -= 1
        lines += [_command(kind, *parts) for parts in of_kind[:n_shown]]
        if rest := len(of_kind[n_shown:]):
            lines.append(f"::{kind} title=robustcheck::and {rest} more; the report names all")
    return lines


def _command(kind: str, path: str, title: str, words: str) -> str:
    place = f"file={path.translate(_ESCAPES_OF_PROPERTIES)},line=1"
    return f"::{kind} {place},title={title.translate(_ESCAPES_OF_PROPERTIES)}::{words.translate(_ESCAPES)}"


def summary(outcomes: Outcomes, options: FormOptions, room: int = SUMMARY_BYTES) -> str:
    """Write the Markdown report in fewer than `room` bytes of UTF-8: all lines, or a part that ends with a note.

    Empty where not even that sentence fits.
    """
    return cut(markdown.write_markdown(outcomes, options), room)


def cut(full: str, room: int) -> str:
    """Cut a Markdown report as `summary`."""
    if len(full.encode()) < room:
        return full
    left = room - len(_CUT.encode()) - 1
    if left < 0:
        return ""
    head = full.encode()[:left].decode("utf-8", "ignore")
    return head[: head.rfind("\n") + 1].rstrip("\n") + _CUT
