"""Addresses of repositories on Hugging Face's hub, read; nothing is opened."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from robustcheck_onnx.checker.errors import UsageError

from .hub_client import ENDPOINT
from .urls import Url, redact

HUB: Final = "https://huggingface.co"
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_MODELS: Final = ("datasets", "spaces", "buckets", "kernels")
_PAGES: Final = ("tree", "blob", "resolve", "raw")  # https://HUB/org/repo/PAGE/revision/path


@dataclass(frozen=True)
class Address:
    """A repository of models on the hub, a revision (None: main), and a file in it ("": the whole)."""

    repo: str
    revision: str | None
    path: str

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"hf://{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


def parse_hub(url: Url) -> Address | None:
    """The repository that `hf://org/repo[@revision][/path]`, or a page of the hub in a browser, is about.

    None: another kind of URL. A revision with a slash in it is written %2F, as in the client's own addresses.
    Raises UsageError: a data set or a space, which holds no model; no name of a repository.
    """
    if url.protocol == "hf":
        parts = [part for part in url.raw.partition("://")[2].split("/") if part]
        revision = None
        if len(parts) > 1 and "@" in parts[1]:
            parts[1], _, revision = parts[1].partition("@")
    elif url.is_http:
        asked, endpoint = urlsplit(url.raw), urlsplit(os.environ.get(ENDPOINT) or HUB)
        if (asked.hostname, asked.port) != (endpoint.hostname, endpoint.port):
            return None
        parts = [unquote(part) for part in asked.path.removeprefix(endpoint.path.rstrip("/")).split("/") if part]
        revision = None
        if len(parts) > 3 and parts[2] in _PAGES:
            revision, parts = parts[3], [*parts[:2], *parts[4:]]
        elif len(parts) != 2 and parts[:1] != ["datasets"]:
            return None
    else:
        return None
    shown = redact(url.raw)
    if parts and parts[0] in _NOT_MODELS:
        raise UsageError(
            f"{shown}: address is of the hub's {parts[0]}; a model must be in a repository of models",
            f"--images {shown}" if parts[0] == "datasets" else "hf://org/repo",
        )
    if len(parts) < 2 or not all(map(_PART.fullmatch, parts[:2])) or revision == "":
        raise UsageError(f"{shown}: address names no repository; it must be hf://org/repo[@revision][/file.onnx]")
    if any(part in (".", "..") for part in parts):
        raise UsageError(
            f"{shown}: path has a part {'..' if '..' in parts else '.'}; it must be plain", "hf://org/repo"
        )
    path = "/".join(parts[2:])
    return Address("/".join(parts[:2]), None if revision is None else unquote(revision), path)
