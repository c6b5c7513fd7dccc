"""Places: what is shown of them, what is none, --offline, missing packages; how much of a file in a store is read."""

import importlib.util
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.images import source
from robustcheck_onnx.checker.storage import places
from robustcheck_onnx.checker.storage.stores import PIECE_BYTES, RemoteFile, open_url
from support import Capture, Patch, raised, robustcheck
from support.stores import SECRET, url_of

pytest.importorskip("fsspec", reason="the extra remote is not installed")
pytestmark = pytest.mark.usefixtures("own_temporary_folder")


def test_what_is_shown_of_a_url() -> None:
    for url, shown in {
        "s3://bucket/a b/ü%.onnx": "s3://bucket/a b/ü%.onnx",
        "s3://bucket/img?.jpg": "s3://bucket/img?.jpg",
        "https://u:hunter2@host:8/x.onnx": "https://***@host:8/x.onnx",
        "https://host/x.onnx?X-Amz-Signature=hunter2&a=b": "https://host/x.onnx?***",
        "https://host/x.onnx#hunter2": "https://host/x.onnx#***",
        "https://u:hun/ter2@host/x": "https://***",
        "https://[::1]:80/x": "https://[::1]:80/x",
        "s3://bucket/x?versionId=hunter2": "s3://bucket/x?***",
        "abfs://box@account.dfs.core.windows.net/x": "abfs://box@account.dfs.core.windows.net/x",
        "/a/path?with=marks": "/a/path?with=marks",
    }.items():
        assert places.redact(url) == shown
        assert places.redact_text(f"see '{url}': no") == f"see '{shown}': no"
        place = places.parse_place(url)
        assert str(place) == shown
        assert "hunter2" not in repr(place)
    # in the words of other libraries
    text = "ClientResponseError: 403, url='https://u:hunter2@h/x?sig=hunter2' (https:/u:hunter2@h/x)"
    assert places.redact_text(text) == "ClientResponseError: 403, url='https://***@h/x?***' (https:/***@h/x)"


def test_paths_are_no_urls(tmp_path: Path, monkeypatch: Patch) -> None:
    for text in ("model.onnx", "C:/models/x.onnx", "a:b", "./s3", "photos/*.jpg"):
        assert places.parse_place(text) == places.parse_place(Path(text)) == Path(text)
    assert places.parse_place("file:///a b/100%25.onnx") == Path("/a b/100%25.onnx")
    assert places.parse_place(Path("file:///a/b")) == Path("/a/b")
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "x").touch()
    monkeypatch.chdir(tmp_path)
    assert places.parse_place("s3:/x") == Path("s3:/x")
    url = places.parse_place("s3://bucket/x")
    assert isinstance(url, places.Url)
    assert places.parse_place(url) is url
    raised(UsageError, "URL names a host", places.parse_place, "file://host/x")
    for text in ("zip://a.zip::s3://bucket/x", "simplecache::s3://bucket/x"):
        raised(UsageError, "URL is a chain", places.parse_place, text)


def test_a_url_with_one_slash_and_one_where_only_a_path_serves_are_refused() -> None:
    for given in ("s3:/key:hunter2@bucket/x", Path("s3://key:hunter2@bucket/x")):
        caught = raised(UsageError, "has one slash after s3:", places.parse_place, given)
        assert caught.message == (
            "s3:/***@bucket/x: URL has one slash after s3:, as pathlib.Path leaves it; it must have two"
        )
        assert caught.hint == "give it as text: s3://***@bucket/x"
    for given in ("s3://bucket/x", Path("s3://bucket/x")):
        raised(
            UsageError,
            "^s3://bucket/x: model is a URL; here it must be a file on this",
            places.local_path,
            given,
            "model",
        )
    assert places.local_path("a/x.onnx", "model") == Path("a/x.onnx")


def test_offline_refuses_before_anything_is_opened(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.delenv("ROBUSTCHECK_OFFLINE", raising=False)
    assert robustcheck("https://h/x.onnx", "--offline", "-qq") == 2
    assert "offline" in capsys.readouterr().err
    assert isinstance(places.parse_place("https://h/x.onnx"), places.Url)  # one run's option is not the next one's
    monkeypatch.setenv("ROBUSTCHECK_OFFLINE", "1")
    (tmp_path / "list.txt").write_text(f"https://u:{SECRET}@h/x.jpg\n")
    for url in ("https://h/x.onnx", "s3://bucket/x", "hf://org/m/x.onnx"):
        raised(UsageError, "offline", places.parse_place, url)
    fault = raised(UsageError, "offline", source.open_images, tmp_path / "list.txt")
    assert SECRET not in fault.message + fault.hint
    monkeypatch.setenv("ROBUSTCHECK_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert isinstance(places.parse_place("s3://bucket/x"), places.Url)
    raised(UsageError, "HF_HUB_OFFLINE", places.parse_place, "hf://org/m/x.onnx")


def test_a_protocol_that_is_not_read_has_its_nearest_and_a_missing_package_is_named() -> None:
    """hdfs:// of fsspec lets pyarrow load `libhdfs.so` from the current folder: code of a checkout."""
    for protocol, hint in {"ss3": "s3://***@bucket/photos", "nosuch": "copy it here", "hdfs": "webhdfs://"}.items():
        fault = raised(
            UsageError,
            f"protocol {protocol} is not read",
            source.open_images,
            f"{protocol}://key:{SECRET}@bucket/photos",
        )
        assert fault.hint.startswith(hint)
        assert SECRET not in fault.message + fault.hint
    if not importlib.util.find_spec("gcsfs"):
        missing = raised(
            EnvironmentFaultError, "gcsfs is not importable", source.open_images, f"gs://key:{SECRET}@bucket/photos"
        )
        assert missing.hint.startswith("pip install gcsfs")
        assert SECRET not in missing.message


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
