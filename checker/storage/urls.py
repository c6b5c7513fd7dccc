"""A place is a path of this machine or a URL, told apart once (`parse_place`). What is shown of a URL holds no secret.

Light to import: nothing here opens anything; `remote.open_url` does, with fsspec.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import type_name

OFFLINE: Final = "ROBUSTCHECK_OFFLINE"  # environment variable: any value but "" and 0 refuses URLs of other machines
HUB_OFFLINE: Final = "HF_HUB_OFFLINE"  # the same of huggingface_hub, for hf:// alone
LOCAL_ROWS: Final = "ROBUSTCHECK_LOCAL_ROWS"  # environment variable that --strict sets: a list names no URL
HIDDEN: Final = "***"  # what stands for a secret
HTTP: Final = ("http", "https")
REGISTRY: Final = ("models", "runs")  # MLflow's own addresses, models:/name/3: one slash
ON_THIS_MACHINE: Final = ("file", "local", "memory")  # protocols that --offline allows
# a protocol has two letters or more, a drive of Windows one; a pathlib.Path makes one slash of two
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)
_CHAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
# punctuation behind a URL is the sentence's
_IN_TEXT: Final = re.compile(
    r"(?<![A-Za-z0-9+.-])([0-9+.-]*+)([A-Za-z][A-Za-z0-9+.-]++:/+[^\s'\"<>]*[^\s'\"<>:;,.)\]])"
)
_NO: Final = ("", "0", "false", "no", "off")  # values of HF_HUB_OFFLINE that allow the Hub
_ADDRESSES: Final = ("hf", *REGISTRY, "abfs", "abfss", "az", "wasb", "wasbs")  # where what stands before @ is no secret


@dataclass(frozen=True)
class Url:
    """A URL of another store; as text it shows no secret, and neither does its repr."""

    raw: str = field(repr=False)
    protocol: str

    @property
    def is_http(self) -> bool:
        """Whether it is of a web server, which can't list its files."""
        return self.protocol in HTTP

    def __str__(self) -> str:
        return redact(self.raw)


def as_typed(place: Place) -> str:
    """A place as the user wrote it, with any key that it holds: for opening, never for showing."""
    return place.raw if isinstance(place, Url) else str(place)


def is_offline() -> bool:
    """Whether the environment forbids to open URLs of other machines."""
    return os.environ.get(OFFLINE, "") not in ("", "0")


def is_hub_offline() -> bool:
    """Whether the environment forbids the hub's client to connect; its cache may answer."""
    return os.environ.get(HUB_OFFLINE, "").lower() not in _NO


Place = Path | Url
"""where a model, an image set or a report is: a path of this machine, or a URL"""


def parse_place(text: str | Place, *, is_model: bool = False) -> Place:
    """Tell a path of this machine from a URL; `file:///…` is its path, and what was told apart already stays.

    is_model: an address of MLflow counts, too, and HF_HUB_OFFLINE does not forbid `hf://`: the client's cache answers.

    As in fsspec, percent signs in `file://`, `s3://` and the like stand for themselves; those of http are escapes.
    Raises UsageError: a URL while offline, a chain of URLs (`zip://…::s3://…`), `file://` with a host or no absolute
    path, a URL with one slash after its colon, as `Path("s3://bucket/x")` leaves it.
    """
    if isinstance(text, Url):
        return text
    path, text = Path(text), str(text)
    match = _URL.fullmatch(text)
    if match is None:
        if _CHAIN.match(text) and "://" in text:
            raise _chained(text)
        return path
    protocol, slashes, rest = match[1].lower(), match[2], match[3]
    if len(slashes) == 1 and os.path.lexists(text):
        return path
    if protocol in ("file", "local"):
        if len(slashes) == 2:
            raise UsageError(
                f"{text}: URL names a host or a relative path; file:// takes an absolute path", f"file:///{rest}"
            )
        return Path("/" + rest)
    if len(slashes) == 1 and not (is_model and protocol in REGISTRY):
        raise UsageError(
            f"{redact(text)}: URL has one slash after {match[1]}:, as pathlib.Path leaves it; it must have two",
            f"give it as text: {redact(f'{match[1]}://{rest}')}",
        )
    if "::" in text and protocol not in HTTP:  # [::1] is an address
        raise _chained(text)
    url = Url(text, protocol)
    if protocol in ON_THIS_MACHINE:
        return url
    if is_offline():
        raise UsageError(
            f"{url}: URL is of another machine; offline ({OFFLINE} or --offline) only files of this one are read",
            "copy it here first, or leave out --offline",
        )
    if protocol == "hf" and not is_model and is_hub_offline():
        raise UsageError(
            f"{url}: URL is of the Hugging Face Hub; {HUB_OFFLINE} forbids to open it", f"unset {HUB_OFFLINE}"
        )
    return url


def _chained(text: str) -> UsageError:
    return UsageError(
        f"{'::'.join(map(redact, text.split('::')))}: URL is a chain (::); a plain URL of one store is needed",
        "unpack it, and name the file",
    )


def local_path(text: str | Path, what: str) -> Path:
    """Take a path where a URL serves nothing; what: the word for it in the message.

    Raises UsageError for a URL, also for one that a pathlib.Path left with one slash; TypeError for what is no path.
    """
    if not isinstance(text, (str, os.PathLike)):
        raise TypeError(f"{what}: type is {type_name(text)}; here it must be the path of a file")
    match = _URL.fullmatch(str(text))
    if match is None or (len(match[2]) == 1 and os.path.lexists(text)):
        return Path(text)
    shown = redact(f"{match[1]}:{match[2] if len(match[2]) > 1 else '//'}{match[3]}")
    raise UsageError(
        f"{shown}: {what} is a URL; here it must be a file of this machine", "copy it here, and name the copy"
    )


def redact(url: str) -> str:
    """A URL without user, password, and what follows `?` or `#` where that can hold a key.

    Names in object stores may hold `?` and `#`: there only `?key=value` is hidden.
    """
    match = _URL.fullmatch(url)
    if match is None:
        return url
    protocol, slashes, rest = match[1], match[2], match[3]
    is_web = protocol.lower() in HTTP
    # of each part between slashes, the first `?` counts: to look from every one on would take quadratic time
    mark = re.search(r"[?#]" if is_web else r"(?<![^/])[^/?]*+(\?)[^/=]*+=", rest)
    query = ""
    if mark:
        end = mark.end() - 1 if is_web else mark.start(1)
        rest, query = rest[:end], rest[end] + HIDDEN
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    port = host.rpartition(":")[2] if ":" in host and not host.startswith("[") else ""
    if port and not port.isdigit() and protocol.lower() != "memory":
        return f"{protocol}:{slashes}{HIDDEN}"  # a password that holds a slash: no telling where it ends
    if at and user and protocol.lower() not in _ADDRESSES:
        authority = f"{HIDDEN}@{host}"
    return f"{protocol}:{slashes}{authority}{slash}{path}{query}"


def redact_text(text: str) -> str:
    """A text, such as another library's message, with every URL in it redacted."""
    return _IN_TEXT.sub(lambda match: match[1] + redact(match[2]), text)


def secrets(url: str) -> tuple[str, ...]:
    """The parts of a URL that must not be shown, longest first, as written and unescaped."""
    from urllib.parse import parse_qsl, unquote, urlsplit  # noqa: PLC0415 # only where there is a URL

    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    hidden = {url}
    if at and parts.scheme not in _ADDRESSES:
        hidden |= {user, *user.split(":")}
    if "=" in parts.query:
        hidden |= {parts.query, *(value for _, value in parse_qsl(parts.query))}
        hidden |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    if parts.scheme in HTTP and parts.fragment:
        hidden.add(parts.fragment)
    hidden |= {unquote(word) for word in hidden}
    return tuple(sorted((word for word in hidden if len(word) > 3), key=len, reverse=True))
