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
        text = repr(sorted((name, hashlib.sha256(content).hexdigest()) for name, content in files.items()))
        self.commits[repo] = hashlib.sha1(f"{repo}{text}".encode(), usedforsecurity=False).hexdigest()
        return self.commits[repo]


def blob_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def entry(name: str, content: bytes, path: str = "path", oid: str = "oid", sha: str = "oid") -> Fields:
    """A file of a listing; `path`, `oid`, `sha`: what the answer calls them."""
    one = {"type": "file", path: name, "size": len(content), oid: blob_id(content)}
    if name.endswith(LARGE):
        one["lfs"] = {sha: hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return one


@contextlib.contextmanager
def running() -> Iterator[MockHub]:
    hub = MockHub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, code: int, body: bytes, **headers: str) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def json(self, content: object) -> None:
            self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

        def refuse(self, code: int, kind: str) -> None:
            self.answer(code, b"", X_Error_Code=kind)

        def found(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
            """The commit and files of a revision; None after an answer of its own."""
            if repo not in hub.repositories:
                self.refuse(404, "RepoNotFound")
                return None
            if repo in hub.gated:
                self.refuse(403, "GatedRepo")
                return None
            if revision in ("main", hub.commits[repo]):
                return hub.commits[repo], hub.repositories[repo]
            self.refuse(404, "RevisionNotFound")
            return None

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            hub.asked.append(f"{self.command} {path}")
            hub.tokens |= {self.headers.get("Authorization", "")} - {""}
            if hub.busy:
                hub.busy -= 1
                return self.answer(429, b"busy", Retry_After="0")
            if match := re.fullmatch(r"/cdn/((?:datasets/)?[^/]+/[^/]+)/(.+)", path):
                return self.large(match[1], match[2])
            if match := re.fullmatch(r"/api/(?:models/)?((?:datasets/)?[^/]+/[^/]+)(?:/(.*))?", path):
                return self.api(match[1], match[2] or "")
            if match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.resolve(match[1], match[2], match[3])
            return self.refuse(404, "NotFound")

        def api(self, repo: str, rest: str) -> None:
            kind, _, more = rest.partition("/")
            if (got := self.found(repo, more or "main")) is None:
                return None
            commit, files = got
            if kind != "tree":
                siblings = [entry(*file, "rfilename", "blobId", "sha256") for file in files.items()]
                return self.json({"id": repo, "sha": commit, "siblings": siblings})
            return self.json([entry(path, content) for path, content in files.items()])

        def resolve(self, repo: str, revision: str, path: str) -> None:
            if (got := self.found(repo, revision)) is None:
                return None
            commit, files = got
            if path not in files:
                return self.refuse(404, "EntryNotFound")
            content = files[path]
            common = {"X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
            if not path.endswith(LARGE):
                return self.span(content, ETag=f'"{blob_id(content)}"', **common)
            oid = hashlib.sha256(content).hexdigest()
            elsewhere = hub.url.replace("127.0.0.1", "localhost")  # another host's name, as the real hub has it
            return self.answer(
                302, b"", Location=f"{elsewhere}/cdn/{repo}/{path}", X_Linked_Etag=f'"{oid}"',
                X_Linked_Size=str(len(content)), ETag=f'"{oid}"', **common,
            )  # fmt: skip

        def large(self, repo: str, path: str) -> None:
            content = hub.repositories[repo][path]
            if path in hub.spoiled:
                content = content[:-1] + bytes([content[-1] ^ 1])
            if hub.cut and self.command == "GET":
                hub.cut -= 1
                half = content[: len(content) // 2]
                self.answer(200, half, Content_Length=str(len(content)))
                self.close_connection = True
                return None
            return self.span(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', Accept_Ranges="bytes")

        def span(self, content: bytes, **headers: str) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                return self.answer(200, content, **headers)
            first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            where = f"bytes {first}-{last}/{len(content)}"
            return self.answer(206, content[first : last + 1], Content_Range=where, **headers)

    with serving(Handler) as hub.url:
        yield hub
