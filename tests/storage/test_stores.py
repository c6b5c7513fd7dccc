"""Files in a store: how much of one is read."""

import io
from types import SimpleNamespace
from typing import Any

import pytest

from robustcheck_onnx.checker.storage.stores import PIECE_BYTES, RemoteFile, open_url
from support.stores import url_of

pytest.importorskip("fsspec", reason="the extra remote is not installed")


class Pieces(io.BytesIO):
    """What a web server gives: pieces of at most 3 bytes."""

    def read(self, n: int | None = -1) -> bytes:
        return super().read(min(n or 3, 3))


def test_of_a_file_that_is_too_long_one_byte_more_than_the_limit_is_read(memory: Any) -> None:
    assert PIECE_BYTES > 10
    for size, limit in ((0, 10), (10, 10), (11, 10), (50, 10), (1, 0)):
        content = bytes(range(size))
        memory.pipe_file("/file.bin", content)
        store = SimpleNamespace(open=lambda *_, content=content, **__: Pieces(content))
        web = url_of("https://example.org/file.bin")
        for file in (RemoteFile(web, store, "", ""), open_url(url_of("memory://file.bin"))):
            assert file.read_bytes(limit) == content[: limit + 1]
