"""Image sets, stores behind URLs and a model hub, for the tests."""

import contextlib
import csv
import hashlib
import http.server
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

from robustcheck_onnx.checker.core.images.source import ImageSource
from robustcheck_onnx.checker.outside.storage.places import Url, parse_place
from support import Fields, serving

ODD = "ein Ort/100%/ü €"  # spaces, a percent sign that escapes nothing, letters beyond ASCII
SECRET = "hunter2hunter2"  # no real one


def url_of(text: str) -> Url:
    place = parse_place(text)
    assert isinstance(place, Url)
    return place


def put(store: Any, folder: Path, at: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            store.pipe_file(f"/{at}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def contents(source: ImageSource) -> list[tuple[str, str | None]]:
    return [(entry.name, source.digest(place)) for place, entry in enumerate(source.entries)]


def png(level: int) -> bytes:
    """A red picture of one level."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(names: Sequence[str], folder: str = ".") -> Path:
    """Write pictures of rising levels, and return the folder."""
    for level, name in enumerate(names):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(level))
    return Path(folder)


def shard(path: str, members: dict[str, bytes]) -> Path:
    """Write a tar file, and return its path."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return Path(path)


LARGE = (".onnx", ".data", ".parquet")
JSON = {"Content-Type": "application/json"}
ADDRESS = re.compile(
    r"/(?:(api|cdn)/)?(?:models/)?(?P<repo>(?:datasets/)?[^/]+/[^/]+)(?:/(tree|revision|resolve)/([^/]+))?(?:/(.+))?"
)
Reply = tuple[int, bytes, dict[str, str]]
"""HTTP status, body, headers"""


@dataclass
class MockHub:
    """What the unmodified client asks of Hugging Face's hub, for repositories of a dictionary.

    Small files are git blobs; `.onnx`, `.data`, `.parquet` are large ones, behind a redirect to another path, with
    byte ranges. What was asked for is kept, and faults can be planted.
    """

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
            return refusal(404, "RepoNotFound")
        server, repo, kind, revision, name = match.groups()
        commit, files = self.commits[repo], self.repositories[repo]
        if server != "cdn" and repo in self.gated:
            return refusal(403, "GatedRepo")
        if revision not in (None, "main", commit):
            return refusal(404, "RevisionNotFound")
        if kind == "tree":
            return 200, json.dumps([entry(*file) for file in files.items()]).encode(), JSON
        if server == "api":
            siblings = [entry(*file, "rfilename", "blobId", "sha256") for file in files.items()]
            return 200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode(), JSON
        if name not in files:
            return refusal(404, "EntryNotFound")
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


def refusal(code: int, kind: str) -> Reply:
    return code, b"", {"X-Error-Code": kind}


@contextlib.contextmanager
def hub_running() -> Iterator[MockHub]:
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


def hub_repo(cache: Path, repo: str) -> Path:
    """Lay a repository out as the hub client does: refs/main names the snapshot folder."""
    root = cache / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    return snapshot


LABELS = {1: "sky", 2: "door", 3: "knob", 300: "street", 301: "woven", 302: "woven"}
"""numbers beyond 255 need the green channel; two have one name"""
CATEGORIES = ("object", "part", "scene", "texture")
EDGE_PX = 10  # of a mask: 100 pixels


def write_mask(path: Path, squares: dict[int, int]) -> None:
    """Write a mask with so many pixels of each number; the rest is 0."""
    numbers = np.zeros(EDGE_PX * EDGE_PX, np.int64)
    numbers[: sum(squares.values())] = np.repeat(list(squares), list(squares.values()))
    pixels = np.stack([numbers % 256, numbers // 256, numbers * 0], axis=-1).reshape(EDGE_PX, EDGE_PX, 3)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_broden(folder: Path, n: int = 12) -> dict[str, set[str]]:
    """Write the folder; return the concepts of each image by its name, any pixel counts."""
    (folder / "images/set").mkdir(parents=True)
    rng = np.random.default_rng(5)
    truth = {}
    with (folder / "index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", "ih", "iw", "sh", "sw", *CATEGORIES])
        for i in range(n):
            name = f"set/photo_{i}.png"
            Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(folder / "images" / name)
            cells = dict.fromkeys(CATEGORIES, "")
            found = set()
            if i % 2:  # 30 % of the mask is sky, 1 % a door
                cells["object"] = f"set/photo_{i}_object.png"
                write_mask(folder / "images" / cells["object"], {1: 30, 2: 1})
                found |= {"sky", "door"}
            if i % 3 == 0:  # two masks of parts
                cells["part"] = f"set/photo_{i}_part1.png;set/photo_{i}_part2.png"
                write_mask(folder / f"images/set/photo_{i}_part1.png", {3: 5})
                write_mask(folder / f"images/set/photo_{i}_part2.png", {300: 50})
                found |= {"knob", "street"}
            if i % 4 == 0:  # labels of the whole image
                cells["scene"], cells["texture"] = "300", "301;302"
                found |= {"street", "woven (301)", "woven (302)"}
            rows.writerow([name, "train", 16, 16, EDGE_PX, EDGE_PX, *cells.values()])
            truth[name] = found
    categories = "".join(f"{name},1,302,6,9\n" for name in CATEGORIES)
    (folder / "category.csv").write_text(f"name,first,last,count,frequency\n{categories}")
    labels = "".join(f"{number},{name},object(9),9,0.5,\n" for number, name in LABELS.items())
    (folder / "label.csv").write_text(f"number,name,category,frequency,coverage,syns\n{labels}")
    for category in CATEGORIES:
        (folder / f"c_{category}.csv").write_text("code,number,name,frequency,coverage\n1,1,sky,9,0.5\n")
    return truth
