"""Files in a store: how much of one is read."""

from __future__ import annotations

import io
from typing import Any

import pytest

from robustcheck_onnx.checker.storage.remote import PIECE_BYTES, RemoteFile, open_url
from support.stores import url_of

pytest.importorskip("fsspec", reason="the extra remote is not installed")


class OneFile:
    """A web server's file system that has one file, given in pieces of at most 3 bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, *_: Any, **__: Any) -> Any:
        stream = io.BytesIO(self.content)
        return type("Pieces", (), {"read": lambda _, n: stream.read(min(n, 3)), "close": lambda _: None,
                                   "__enter__": lambda self: self, "__exit__": lambda *_: None})()  # fmt: skip


@pytest.mark.parametrize("place", ["memory://file.bin", "https://example.org/file.bin"])
def test_of_a_file_that_is_too_long_one_byte_more_than_the_limit_is_read(place: str, memory: Any) -> None:
    for size, limit in ((0, 10), (10, 10), (11, 10), (50, 10), (1, 0)):
        content = bytes(range(size))
        memory.pipe_file("/file.bin", content)
        url = url_of(place)
        file = RemoteFile(url, OneFile(content), place, place) if url.is_http else open_url(url)
        assert file.read_bytes(limit) == content[: limit + 1]
        assert limit < PIECE_BYTES
