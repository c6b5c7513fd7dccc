"""A hub on the loopback interface: what the unmodified client asks of Hugging Face's, for repositories of a dictionary.

Small files are git blobs; `.onnx`, `.data`, `.parquet` are large ones, behind a redirect to another path, with
byte ranges. What was asked for is kept, and faults can be planted.
"""

import contextlib
import hashlib
import http.server
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from support import Fields, serving

LARGE = (".onnx", ".data", ".parquet")
JSON = {"Content-Type": "application/json"}
ADDRESS = re.compile(
    r"/(?:(api|cdn)/)?(?:models/)?(?P<repo>(?:datasets/)?[^/]+/[^/]+)(?:/(tree|revision|resolve)/([^/]+))?(?:/(.+))?"
)
Reply = tuple[int, bytes, dict[str, str]]
"""HTTP status, body, headers"""


@dataclass
class MockHub:
    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """`org/name`, or `datasets/org/name`: files by path"""
    commits: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    busy: int = 0
    """answers of 429 that are still to come"""
    cut: int = 0
    """downloads of large files that are still to break off half-way"""
    spoiled: set[str] = field(default_factory=set)
    """paths whose bytes are others than the listing says"""

    def put(self, repo: str, files: dict[str, bytes]) -> str:
        """Make or replace a repository; gives its commit, which is another for other files."""
        self.repositories[repo] = files
        self.commits[repo] = hashlib.sha1(repr((repo, files)).encode(), usedforsecurity=False).hexdigest()
        return self.commits[repo]

    def reply(self, command: str, path: str, span: re.Match[str] | None) -> Reply:
        """The answer to a request; `span`: first and last byte that it asks for."""
        if self.busy:
            self.busy -= 1
            return 429, b"busy", {"Retry-After": "0"}
        match = ADDRESS.fullmatch(path)
        if match is None or match["repo"] not in self.repositories:
            return refused(404, "RepoNotFound")
        server, repo, kind, revision, name = match.groups()
        commit, files = self.commits[repo], self.repositories[repo]
        if server != "cdn" and repo in self.gated:
            return refused(403, "GatedRepo")
        if revision not in (None, "main", commit):
            return refused(404, "RevisionNotFound")
        if kind == "tree":
            return 200, json.dumps([entry(*file) for file in files.items()]).encode(), JSON
        if server == "api":
            siblings = [entry(*file, "rfilename", "blobId", "sha256") for file in files.items()]
            return 200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode(), JSON
        if name not in files:
            return refused(404, "EntryNotFound")
        content, is_large = files[name], name.endswith(LARGE)
        etag = f'"{hashlib.sha256(content).hexdigest() if is_large else blob_id(content)}"'
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": etag}
        if is_large and server != "cdn":
            elsewhere = self.url.replace("127.0.0.1", "localhost")  # another host's name, as the real hub has it
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
            return 302, b"", headers | {"Location": f"{elsewhere}/cdn/{repo}/{name}"}
        if name in self.spoiled:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if self.cut and is_large and command == "GET":
            self.cut -= 1
            return 200, content[: len(content) // 2], {"Content-Length": str(len(content)), "Connection": "close"}
        if span is None:
            return 200, content, headers
        first, last = int(span[1]), min(int(span[2] or len(content) - 1), len(content) - 1)
        return 206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}


def blob_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def entry(name: str, content: bytes, path: str = "path", oid: str = "oid", sha: str = "oid") -> Fields:
    """A file of a listing; `path`, `oid`, `sha`: what the answer calls them."""
    one = {"type": "file", path: name, "size": len(content), oid: blob_id(content)}
    if name.endswith(LARGE):
        one["lfs"] = {sha: hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return one


def refused(code: int, kind: str) -> Reply:
    return code, b"", {"X-Error-Code": kind}


@contextlib.contextmanager
def running() -> Iterator[MockHub]:
    hub = MockHub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            hub.asked.append(f"{self.command} {path}")
            hub.tokens |= {self.headers.get("Authorization", "")} - {""}
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            code, body, headers = hub.reply(self.command, path, span)
            self.send_response(code)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

    with serving(Handler) as hub.url:
        yield hub
