"""Parse paths and URLs, and walk local folders. URLs are shown without secrets.

Light to import. Nothing here opens a URL; `stores.open_url` does.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import field
from pathlib import Path

from ...errors import CallError, UsageError
from ...paths import SUFFIXES
from ...text import Texts, frozen, quoted, type_name

OFFLINE = "ROBUSTCHECK_OFFLINE"  # environment variable: any value but "" and 0 refuses URLs of other machines
HUB_OFFLINE = "HF_HUB_OFFLINE"  # the same of huggingface_hub, for hf:// alone
LOCAL_ROWS = "ROBUSTCHECK_LOCAL_ROWS"  # environment variable that --strict sets: a list names no URL
HIDDEN = "***"  # what stands for a secret
HTTP = ("http", "https")
REGISTRY = ("models", "runs")  # MLflow's own addresses, models:/name/3: one slash
ON_THIS_MACHINE = ("file", "local", "memory")  # protocols that --offline allows
# a protocol has two letters or more, a drive of Windows one; a pathlib.Path makes one slash of two
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
# punctuation behind a URL is the sentence's
_IN_TEXT = re.compile(r"(?<![A-Za-z0-9+.-])([0-9+.-]*+)([A-Za-z][A-Za-z0-9+.-]++:/+[^\s'\"<>]*[^\s'\"<>:;,.)\]])")
_ADDRESSES = ("hf", *REGISTRY, "abfs", "abfss", "az", "wasb", "wasbs")  # where what comes before @ is not a secret
SET_SUFFIXES = (*SUFFIXES, ".txt", ".csv", ".jsonl", ".ndjson", ".npy", ".npz", ".tar", ".parquet", ".arrow")
"""of a file that is an image set"""
ErrorOf = Callable[[OSError], Exception]
"""makes the error to raise of a folder that can't be read"""
_IGNORED_PARTS = ("@eaDir", "__MACOSX")  # thumbnails of NAS systems, macOS archives


@frozen
class Url:
    """A URL of a store, of which neither text nor repr shows a secret."""

    raw: str = field(repr=False)
    protocol: str

    @property
    def is_http(self) -> bool:
        """Return whether a web server, which can't list files, has the file."""
        return self.protocol in HTTP

    def __str__(self) -> str:
        return redact(self.raw)


def as_typed(place: Place) -> str:
    """Return a place as typed, with its keys: to be opened, never to be shown."""
    return place.raw if isinstance(place, Url) else str(place)


def is_offline() -> bool:
    """Return whether the environment forbids URLs of other machines."""
    return os.environ.get(OFFLINE, "") not in ("", "0")


def is_hub_offline() -> bool:
    """Return whether the environment allows the hub's client nothing but its cache."""
    return os.environ.get(HUB_OFFLINE, "").lower() not in ("", "0", "false", "no", "off")


Place = Path | Url
"""where a model, an image set or a report is: a path of this machine, or a URL"""


def parse_place(text: str | Place, *, is_model: bool = False) -> Place:
    """Return the path or URL of a text. `file:///…` is its path, and a Url stays.

    As in fsspec, percent signs in `file://`, `s3://` and the like are literal; those of http are escapes.

    Args:
        text: what the user typed.
        is_model: accept addresses of MLflow, and `hf://` with HF_HUB_OFFLINE: the client's cache answers.

    Raises:
        UsageError: a URL while offline, a chain of URLs (`zip://…::s3://…`), `file://` with a host or no absolute
            path, a URL with one slash after its colon, as `Path("s3://bucket/x")` leaves it.
    """
    if isinstance(text, Url):
        return text
    path = Path(text)
    text = str(text)
    match = _match_url(text)
    if match is None:
        if _CHAIN.match(text) and "://" in text:
            raise _chained(text)
        return path
    scheme, slashes, rest = match.groups()
    protocol = scheme.lower()
    if protocol in ("file", "local"):
        if len(slashes) == 2:
            raise UsageError(
                f"{text}: URL names a host or a relative path; file:// takes an absolute path", f"file:///{rest}"
            )
        return Path("/" + rest)
    if len(slashes) == 1 and not (is_model and protocol in REGISTRY):
        raise UsageError(
            f"{redact(text)}: URL has one slash after {scheme}:, as pathlib.Path leaves it; it must have two",
            f"give it as text: {redact(f'{scheme}://{rest}')}",
        )
    if "::" in text and protocol not in HTTP:  # [::1] is an address
        raise _chained(text)
    url = Url(text, protocol)
    if protocol not in ON_THIS_MACHINE and is_offline():
        raise UsageError(
            f"{url}: URL is on another machine; offline ({OFFLINE} or --offline) only local files are read",
            "copy it here first, or leave out --offline",
        )
    if protocol == "hf" and not is_model and is_hub_offline():
        raise UsageError(
            f"{url}: URL is on the Hugging Face Hub; {HUB_OFFLINE} forbids to open it", f"unset {HUB_OFFLINE}"
        )
    return url


def _match_url(text: str) -> re.Match[str] | None:
    """Return protocol, slashes and rest of a URL; None for a path, such as a file in a folder `s3:`."""
    match = _URL.fullmatch(text)
    return None if match is None or (match[2] == "/" and os.path.lexists(text)) else match


def _chained(text: str) -> UsageError:
    shown = "::".join(map(redact, text.split("::")))
    return UsageError(
        f"{shown}: URL is a chain (::); a plain URL of one store is needed", "unpack it, and name the file"
    )


def local_path(text: str | Path, subject: str) -> Path:
    """Return a path of this machine, which `subject` names in errors.

    Raises UsageError for a URL, also for one that a pathlib.Path left with one slash; CallError for another type.
    """
    if not isinstance(text, (str, os.PathLike)):
        raise CallError(f"{subject}: type is {type_name(text)}; here it must be the path of a file")
    match = _match_url(str(text))
    if match is None:
        return Path(text)
    scheme, slashes, rest = match.groups()
    if scheme.lower() not in REGISTRY:
        slashes = f"{slashes:/<2}"
    shown = redact(f"{scheme}:{slashes}{rest}")
    raise UsageError(
        f"{shown}: {subject} is a URL; here it must be a file on this machine", "copy it here, and name the copy"
    )


def redact(url: str) -> str:
    """Return a URL without user and password, and without what follows `?` or `#` where that can hold a key.

    Names in object stores may hold `?` and `#`: there only `?key=value` is hidden.
    """
    match = _URL.fullmatch(url)
    if match is None:
        return url
    scheme, slashes, rest = match.groups()
    protocol = scheme.lower()
    is_web = protocol in HTTP
    # of each part between slashes, the first `?` counts: to look from every one on would take quadratic time
    mark = re.search(r"[?#]" if is_web else r"(?<![^/])[^/?]*+(\?)[^/=]*+=", rest)
    query = ""
    if mark:
        end = mark.end() - 1 if is_web else mark.start(1)
        query = rest[end] + HIDDEN
        rest = rest[:end]
    authority, slash, path = rest.partition("/")
    user, _, host = authority.rpartition("@")
    _, colon, port = host.rpartition(":")
    is_port = port.isdigit() or port == "" or host.startswith("[")
    if colon and not is_port and protocol != "memory":
        return f"{scheme}:{slashes}{HIDDEN}"  # a password that holds a slash: no telling where it ends
    if user and protocol not in _ADDRESSES:
        authority = f"{HIDDEN}@{host}"
    return f"{scheme}:{slashes}{authority}{slash}{path}{query}"


def redact_text(text: str) -> str:
    """Redact every URL in a text, such as another library's message."""
    return _IN_TEXT.sub(lambda match: match[1] + redact(match[2]), text)


def without_secrets(text: str, hidden: Iterable[str]) -> str:
    """Return another library's message in one line of at most 300 characters, without URLs' keys and what is hidden."""
    secret_parts = [secret for secret in hidden if secret]
    for secret in secret_parts:
        text = text.replace(secret, HIDDEN)
    line = " ".join(text.split())
    for secret in secret_parts:
        in_one_line = " ".join(secret.split())  # the message may have wrapped it
        if in_one_line:
            line = line.replace(in_one_line, HIDDEN)
    return redact_text(line)[:300]


def secrets(url: str) -> Texts:
    """Return the secret parts of a URL, as written and unescaped, longest first."""
    from urllib.parse import parse_qsl, unquote, urlsplit  # noqa: PLC0415 # only where there is a URL

    parts = urlsplit(url)
    user, _, _ = parts.netloc.rpartition("@")
    hidden = {url}
    if parts.scheme not in _ADDRESSES:
        hidden |= {user, *user.split(":")}
    if "=" in parts.query:
        hidden |= {parts.query, *(value for _, value in parse_qsl(parts.query))}
        hidden |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    if parts.scheme in HTTP:
        hidden.add(parts.fragment)
    hidden |= set(map(unquote, hidden))
    return tuple(sorted((word for word in hidden if len(word) > 3), key=len, reverse=True))


def walk(
    folders: Iterable[str], error: ErrorOf | None, *, shortest_first: bool = False
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk folders as os.walk does, following links, but enter each folder once.

    Args:
        folders: where to start; "" is the current folder.
        error: makes the error to raise of a folder that can't be read; None passes such folders by.
        shortest_first: enter the folders of one depth before deeper ones.
    """
    entered: set[tuple[int, int]] = set()
    waiting = deque(folders)
    while waiting:  # os.walk calls itself for each level, and ends at a thousand
        top = waiting.popleft()
        try:
            status = os.stat(top or ".")  # noqa: PTH116 # a Path for each folder takes time
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(top or ".") as entries:
                is_folder = {entry.name: entry.is_dir() for entry in entries}
        except OSError as fault:
            if error is None:
                continue
            raise error(fault) from fault
        names = [name for name, yes in is_folder.items() if yes]
        files = [name for name, yes in is_folder.items() if not yes]
        yield top, names, files
        below = [os.path.join(top, name) for name in names]  # noqa: PTH118
        waiting.extend(below) if shortest_first else waiting.extendleft(reversed(below))


def expand(
    parts: Sequence[str],
    error: ErrorOf,
    read_below: Callable[[str], object],
    is_left_out: Callable[[str], bool] = lambda folder: False,
) -> list[str]:
    """Return what a glob matches, where `**` is folders at any depth, links to folders included.

    Each `**` enters a folder once, by its shortest path: two links to their own folder would be 2^40 paths to it. As
    in `glob`, no wildcard matches hidden names. A wildcard needs the right to list a folder and to enter it; a plain
    name after it needs only the right to enter, which is often all that other users' home folders give.

    Args:
        parts: of the pattern's path, of which at least one has a wildcard.
        error: makes the error to raise of a folder that can't be read and so may hide matches.
        read_below: called with each folder that `**` enters; it must raise where it can't read a folder below.
        is_left_out: returns whether a folder's files are ignored anyway.
    """
    if parts[-1] == "**":
        parts = [*parts, "*"]
    first = list(map(glob.has_magic, parts)).index(True)
    as_folder = "{}/".format
    matches = [os.path.join("", *parts[:first])]  # noqa: PTH118
    is_checked = True
    for part in parts[first:]:
        folders = [path for path in matches if os.path.isdir(path or ".")]  # noqa: PTH112
        checked = [folder for folder in folders if is_checked and not is_left_out(folder)]
        matches = []
        if part != "**":
            for folder in folders:
                matches += _named(folder, part, error if folder in checked else None)
            continue
        for folder in checked:
            read_below(folder or ".")
        is_checked = False
        for top, names, _ in walk(sorted(folders, key=as_folder), None, shortest_first=True):
            shown = [name for name in names if not name.startswith(".")]
            names[:] = sorted(shown, key=as_folder)
            matches.append(top)
    return matches


def _named(folder: str, part: str, error: ErrorOf | None) -> list[str]:
    """Return a folder's paths that one part of a glob matches."""
    try:
        if glob.has_magic(part):
            os.lstat(os.path.join(folder, "."))  # noqa: PTH118
            names = fnmatch.filter([entry.name for entry in os.scandir(folder or ".")], part)
        else:
            os.lstat(os.path.join(folder, part))  # noqa: PTH118
            names = [part]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as fault:
        if error is None:
            return []
        fault.filename = os.path.normpath(folder)
        raise error(fault) from fault
    shows_hidden = part.startswith(".")
    return [os.path.join(folder, name) for name in names if shows_hidden or not name.startswith(".")]  # noqa: PTH118


def is_set(name: str) -> bool:
    """Return whether a file is named as an image set: a photo, or a file of many."""
    return name.lower().endswith(SET_SUFFIXES)


def is_hidden(part: str) -> bool:
    """Return whether a path's part is hidden, as `.` and `..` are not."""
    return part.startswith(".") and part not in (".", "..")


def unreadable_folder(fault: OSError) -> UsageError:
    """Return the error for an unreadable folder of images."""
    return UsageError(
        f"{fault.filename}: folder cannot be read ({fault.strerror}); all folders of an image set must be readable",
        f"ls -ld {quoted(fault.filename)}",
    )


def folder_files(folder: str | Path) -> list[str]:
    """Return the names of all visible files below a folder, relative to it, with `/` as separator.

    A folder that links lead to twice is entered once, by the first name in sorted order.
    """
    files = []
    for top, folders, names in walk([str(folder)], unreadable_folder):
        folders[:] = sorted(visible(folders))
        below = Path(top).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        files += [prefix + name for name in visible(names)]
    return files


def is_ignored(name: str) -> bool:
    """Return whether a path has a part that is hidden, or that systems add."""
    return any(is_hidden(part) or part in _IGNORED_PARTS for part in name.split("/"))


def visible(names: Iterable[str]) -> list[str]:
    """Return the names that are not ignored."""
    return [name for name in names if not is_ignored(name)]
