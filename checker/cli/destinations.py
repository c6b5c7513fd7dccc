"""Name the places of documents, and refuse those that a run may not write.

Every module of verbs imports this one, so it imports nothing heavy at the top.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import EnvironmentFaultError, UsageError
from ..text import form_of, quoted
from .options import FORMATS, one_of

if TYPE_CHECKING:
    from ..outside.storage.places import Place


Recognises = Callable[[Path], bool | None]
"""returns whether a file may be replaced"""
TEMPLATE = "template"
_END = ".j2="


def split(text: str) -> tuple[str, str, str]:
    """Split FORM[=PATH] into form, equals sign and path. The form of a template holds the template's file, too.

    A path alone has the form of its suffix.

    >>> split("json=report.json"), split("gitlab")
    (('json', '=', 'report.json'), ('gitlab', '', ''))
    >>> split("out/report.html")
    ('html', '=', 'out/report.html')
    >>> split("template=slack.j2=out.json"), split("template=slack.j2")
    (('template=slack.j2', '=', 'out.json'), ('template=slack.j2', '', ''))
    """
    form, sign, path = text.partition("=")
    if not sign and form_of(text):
        return form_of(text), "=", text
    if form != TEMPLATE or not sign:
        return form, sign, path
    file, end, target = text.partition(_END)
    if not end:
        return text, "", ""
    return file + _END[:-1], "=", target


def template_of(form: str) -> str | None:
    """Return the template's file of a form. `split` gave the form; None for any other form."""
    name, _, file = form.partition("=")
    return file if name == TEMPLATE else None


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|.*://", re.DOTALL)
"""what `storage.parse_place` can take for a URL, and more; a drive of Windows has one letter"""


def is_inside(path: str, folder: str | Path) -> bool:
    """Return whether a file lies below a folder. Every link on the way is followed; False for a URL."""
    if _URL.match(path):
        return False
    try:
        real = os.path.realpath(path)
        root = os.path.realpath(folder)
        is_below = real != root and os.path.commonpath([real, root]) == root
        # a Path would change the name; a link that is left leads to itself
        return is_below and not os.path.islink(real)  # noqa: PTH114
    except (OSError, ValueError):  # a name that can't be one; another drive
        return False


def may_write(path: str, folder: str | Path) -> bool:
    """Return whether a settings file may name an output: a file below its folder, no pipe or folder."""
    is_other = os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113 # as is_inside
    return is_inside(path, folder) and not is_other


def follows_link(path: str) -> bool:
    """Return whether a path follows a link.

    The file is a link, or a path below the current folder leads out of it over one; False for a URL.
    """
    path = re.sub(r"^(?:file|local):/+", "/", path, flags=re.IGNORECASE)
    if _URL.match(path) or path.startswith("/dev/"):  # /dev/stdout is a link, and nobody's but the system's
        return False
    place = Path(path)
    goes_up = place.is_absolute() or os.pardir in place.parts
    leads_out = not (goes_up or is_inside(path, os.curdir))
    return leads_out or os.path.islink(path)  # noqa: PTH114


class Destination(NamedTuple):
    """One document that a run writes."""

    form: str
    """such as json"""
    path: Place | None
    """None: stdout"""
    model: str = ""
    """the one that it is about; empty for all of the run"""


Destinations = Sequence[Destination]


def fill_stdout(destinations: Destinations) -> bool:
    """Return whether a document goes to stdout; the terminal report is not one."""
    return any(d.path is None and d.form != "terminal" for d in destinations)


def destinations_of(
    outputs: Iterable[str], reads: Sequence[Place], formats: Sequence[str] = FORMATS
) -> list[Destination]:
    """Return the destination of each `-o FORMAT[=PATH]`.

    reads: what the run reads; a report must not replace one of these files.
    Raises UsageError (no such format, no path after the equals sign, one file or stdout named twice, a path that no
    report can be written to), EnvironmentFaultError (a folder that can't be written).
    """
    from ..outside.storage.places import Url, parse_place, redact

    destinations: list[Destination] = []
    targets: list[Place | str | None] = []
    for text in outputs:
        form, separator, path = split(text)
        one_of("--output", form.partition("=")[0], formats)
        if separator and not path:
            raise UsageError(f"--output is {text!r}; a path must follow the equals sign", f"-o {form}=report.{form}")
        place = None if path in {"", "-"} else parse_place(path)
        if isinstance(place, Url) and (path.endswith("/") or "//" in path.partition("://")[2]):
            raise UsageError(
                f"--output is {form}={redact(path)}; a report's URL must name a file, and have no empty part (//)",
                f"-o {form}=s3://bucket/report.{form}",
            )
        if place is not None:
            check_target(place, reads)
        real: Place | str | None = place
        if isinstance(place, Path) and (place.is_file() or not place.exists()):  # not a device or a pipe
            real = os.path.realpath(place)
        if real in targets:
            raise UsageError(
                f"--output names {redact(path) or 'stdout'} twice; only one document fits there", "-o json=report.json"
            )
        targets.append(real)
        destinations.append(Destination(form, place))
    return destinations


def check_target(
    place: Place,
    reads: Iterable[Place] = (),
    label: str = "report path",
    option: str = "-o json=",
    is_own: Recognises | None = None,
) -> None:
    """Check before the work starts, and without a connection, that a place can get a report.

    A report replaces an empty file or an earlier report, and no file that the run reads. Devices, pipes and links are
    fine.

    Args:
        place: where the report goes.
        reads: what the run reads.
        label: names the place in errors.
        option: writes it in hints.
        is_own: returns whether a file may be replaced; None: a document of this tool, or an empty file.

    Raises:
        UsageError: a folder, no such folder, links in a circle, a web server, a file that is read, another file.
        EnvironmentFaultError: a folder that can't be written, a package that is missing.
    """
    from ..outside.storage.documents import is_ours
    from ..outside.storage.places import Url, local_path
    from ..outside.storage.stores import open_url

    if isinstance(place, Url):
        if place.is_http:
            raise UsageError(
                f"{place}: report's URL is on a web server; a report can only be written to an object store or a file",
                "-o json=report.json, and upload it",
            )
        if place in reads:
            raise UsageError(
                f"{place}: report's URL is a file that this run reads; a report must not replace it",
                f"-o json={place}.json",
            )
        open_url(place)
        return
    path = local_path(place, label)
    folder = path.parent
    look = f"ls -ld {quoted(folder)}"
    try:
        if Path(os.path.realpath(path)).is_symlink():
            raise UsageError(f"{path}: {label} is a link that leads in a circle; it must be a file", look)
        if path.is_dir():
            raise UsageError(
                f"{path}: {label} is a folder; it must be a file", f"{option}{quoted(path / 'report.json')}"
            )
        if not folder.is_dir():
            raise UsageError(
                f"{path}: folder {folder} is missing; reports are written into existing folders",
                f"mkdir -p {quoted(folder)}",
            )
        if path.exists() and (conflict := _conflict(path, reads, is_own or is_ours)):
            other = path.with_suffix(".json")
            if not option.endswith("json="):
                other = path.with_name(f"new-{path.name}")
            elif path.suffix == ".json":
                other = path.with_name("report.json")
            again = f"{option}{quoted(other)}"
            raise UsageError(f"{path}: {label} is {conflict}", again)
    except OSError as fault:
        raise UsageError(f"{path}: {label} is not usable ({fault.strerror}); it must be a file", look) from fault
    if not path.exists() and not os.access(folder, os.W_OK):
        raise EnvironmentFaultError(f"{path}: folder {folder} is not writable; reports are written into it", look)


def _conflict(path: Path, reads: Iterable[Place], is_own: Recognises) -> str:
    """Return why a document must not replace what is at a path; "" where it may. The file is not parsed."""
    if any(isinstance(read, Path) and read.exists() and path.samefile(read) for read in reads):
        return "a file that this run reads; a report must not replace it"
    if path.is_file() and path.stat().st_size > 0 and not is_own(path):
        return "a file that is there already; only an empty file, or one that robustcheck wrote there, is replaced"
    return ""


def check_extra(option: str, path: Path, reads: Sequence[Place], destinations: Destinations, example: str) -> None:
    """Check the path of a further file, which a verb writes with its reports, before the work starts.

    example: a path for the hint. Raises as `check_target`, and UsageError where one of the reports goes there.
    """
    from ..outside.storage.documents import FILES, is_ours

    is_own = partial(is_ours, pattern=FILES[option])
    check_target(path, reads, f"path of {option}", f"{option} ", is_own)
    refuse_report(option, path, destinations, example)


def refuse_report(option: str, path: str | Path, destinations: Destinations, example: str) -> None:
    """Refuse a file for which one of the reports is meant. example: a path for the hint. Raises UsageError."""
    reports = [os.path.realpath(d.path) for d in destinations if isinstance(d.path, Path)]
    if os.path.realpath(path) in reports:
        raise UsageError(f"{option} is {path}, which a report uses too; it must be another file", f"{option} {example}")


def remove_earlier(destinations: Destinations) -> None:
    """Remove the documents of an earlier run, and their signatures, before anything is measured.

    So a run leaves none of them, even if it is killed. All signatures go first: none is ever next to another document.
    Raises EnvironmentFaultError where an earlier document or signature would stay.
    """
    from ..outside.storage import documents

    files = [(form, path) for form, path, _ in destinations if path is not None]
    for form, path in files:
        remove_signature(form, path)
    for _, path in files:
        documents.remove_earlier(path)


def remove_signature(form: str, report: Place) -> None:
    """Remove the signed verdict of a report that is replaced or missing; in a store there is none.

    Raises EnvironmentFaultError where it can't be removed.
    """
    if form != "json" or not isinstance(report, Path):
        return
    from ..outside.storage.documents import is_ours
    from ..report.attestation import bundle_of, remove_verdict

    if is_ours(report) or not report.exists():  # else nothing is replaced
        remove_verdict(bundle_of(report))


def bundle_at(signed: Destination) -> Path:
    """Return the file of a signed report's signature."""
    from ..report.attestation import bundle_of

    assert isinstance(signed.path, Path)
    return bundle_of(signed.path)
