"""URLs where a model, images or a report may be: told from paths, refused offline, shown without their secrets.

Light to import and silent: nothing in this module opens anything. `remote_file` does, with fsspec, and only for a URL.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from robustcheck_onnx.checker.errors import UsageError

OFFLINE: Final = "ROBUSTCHECK_OFFLINE"  # environment variable: any value but "" and 0 refuses URLs of other machines
HUB_OFFLINE: Final = "HF_HUB_OFFLINE"  # the same of huggingface_hub, for hf:// alone
HIDDEN: Final = "***"  # what stands for a secret
HTTP: Final = ("http", "https")
HERE: Final = ("file", "local", "memory")  # protocols that never leave this process's machine
# a drive letter is no protocol; pathlib makes one slash of two
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)
_CHAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
# punctuation behind a URL is the sentence's
_IN_TEXT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+[^\s'\"<>]*[^\s'\"<>:;,.)\]]")
_NO: Final = ("", "0", "false", "no", "off")
_ACCOUNTS: Final = ("abfs", "abfss", "az", "wasb", "wasbs")  # container@account: a place, no secret


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


def is_offline() -> bool:
    """Whether the environment forbids to open URLs of other machines."""
    return os.environ.get(OFFLINE, "") not in ("", "0")


def parse(given: str | Path) -> str | Url:
    """What was given as a place: a path of this machine as it was, `file:///…` as its path, or another URL.

    As in fsspec, percent signs in `file://`, `s3://` and the like stand for themselves; those of http are escapes.
    Raises UsageError: a URL while offline, a chain of URLs (`zip://…::s3://…`), `file://` with a host or no absolute
    path.
    """
    text = str(given)
    found = _URL.fullmatch(text)
    if found is None:
        if _CHAIN.match(text) and "://" in text:
            raise _chained(text)
        return text
    protocol, slashes, rest = found[1].lower(), found[2], found[3]
    if len(slashes) == 1 and os.path.lexists(text):
        return text
    if protocol in ("file", "local"):
        if len(slashes) == 2:
            raise UsageError(
                f"{text}: URL names a host or a relative path; file:// takes an absolute path", f"file:///{rest}"
            )
        return "/" + rest
    if "::" in text and protocol not in HTTP:  # [::1] is an address
        raise _chained(text)
    url = Url(text if len(slashes) > 1 else f"{protocol}://{rest}", protocol)
    if protocol in HERE:
        return url
    if is_offline():
        raise UsageError(
            f"{url}: URL is of another machine; offline ({OFFLINE} or --offline) only files of this one are read",
            "copy it here first, or leave out --offline",
        )
    if protocol == "hf" and os.environ.get(HUB_OFFLINE, "").lower() not in _NO:
        raise UsageError(
            f"{url}: URL is of the Hugging Face Hub; {HUB_OFFLINE} forbids to open it", f"unset {HUB_OFFLINE}"
        )
    return url


def _chained(text: str) -> UsageError:
    return UsageError(
        f"{redact_text(text)}: URL is a chain (::); a plain URL of one store is needed", "unpack it, and name the file"
    )


def refuse(given: str | Path, what: str) -> None:
    """Refuse a URL where only a file of this machine serves.

    what: the word for it in the message. Raises UsageError.
    """
    found = _URL.fullmatch(str(given))
    if found is None or (len(found[2]) == 1 and os.path.lexists(given)):
        return
    shown = redact(str(given) if len(found[2]) > 1 else f"{found[1]}://{found[3]}")
    raise UsageError(
        f"{shown}: {what} is a URL; here it must be a file of this machine", "copy it here, and name the copy"
    )


def redact(url: str) -> str:
    """A URL without user, password, and what follows `?` or `#` where that can hold a key.

    Names in object stores may hold `?` and `#`: there only `?key=value` is hidden.
    """
    found = _URL.fullmatch(url)
    if found is None:
        return url
    protocol, slashes, rest = found[1], found[2], found[3]
    is_web = protocol.lower() in HTTP
    mark = re.search(r"[?#]" if is_web else r"\?(?=[^/]*=)", rest)
    query = ""
    if mark:
        rest, query = rest[: mark.start()], rest[mark.start()] + HIDDEN
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    port = host.rpartition(":")[2] if ":" in host and not host.startswith("[") else ""
    if port and not port.isdigit() and protocol.lower() != "memory":
        return f"{protocol}:{slashes}{HIDDEN}"  # a password that holds a slash: no telling where it ends
    if at and user and protocol.lower() not in ("hf", *_ACCOUNTS):
        authority = f"{HIDDEN}@{host}"
    return f"{protocol}:{slashes}{authority}{slash}{path}{query}"


def redact_text(text: str) -> str:
    """A text, such as another library's message, with every URL in it redacted."""
    return _IN_TEXT.sub(lambda found: redact(found[0]), text)


def secrets(url: str) -> tuple[str, ...]:
    """The parts of a URL that must not be shown, longest first, as written and unescaped."""
    from urllib.parse import parse_qsl, unquote, urlsplit  # noqa: PLC0415 # only where there is a URL

    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    found = {url}
    if at and parts.scheme not in ("hf", *_ACCOUNTS):
        found |= {user, *user.split(":")}
    if "=" in parts.query:
        found |= {parts.query, *(value for _, value in parse_qsl(parts.query))}
        found |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    if parts.scheme in HTTP and parts.fragment:
        found.add(parts.fragment)
    found |= {unquote(word) for word in found}
    return tuple(sorted((word for word in found if len(word) > 3), key=len, reverse=True))
