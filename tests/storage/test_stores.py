"""Paths and URLs: what is shown of them, what is refused, --offline, missing packages; a web server on the loopback
interface, one that refuses or ignores ranges too; reports are written whole or not at all.
"""

import functools
import http.server
import importlib.util
import io
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker import text
from robustcheck_onnx.checker.cli import destinations
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.outside.addresses import on_this_machine
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.outside.storage import documents, places
from robustcheck_onnx.checker.outside.storage.places import without_secrets
from robustcheck_onnx.checker.outside.storage.stores import PIECE_BYTES, RemoteFile, StoreError, open_url
from support import Capture, Patch, Place, raised, robustcheck, serving
from support.onnx_models import encoder, save
from support.stores import SECRET, contents, url_of

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
        assert (places.redact(url), places.redact_text(f"see '{url}': no")) == (shown, f"see '{shown}': no")
        place = places.parse_place(url)
        assert str(place) == shown
        assert "hunter2" not in repr(place)
    # in the words of other libraries
    words = "ClientResponseError: 403, url='https://u:hunter2@h/x?sig=hunter2' (https:/u:hunter2@h/x)"
    assert places.redact_text(words) == "ClientResponseError: 403, url='https://***@h/x?***' (https:/***@h/x)"


def test_paths_are_no_urls(tmp_path: Path, monkeypatch: Patch) -> None:
    for name in ("model.onnx", "C:/models/x.onnx", "a:b", "./s3", "photos/*.jpg"):
        assert places.parse_place(name) == places.parse_place(Path(name)) == Path(name)
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
    for chain in ("zip://a.zip::s3://bucket/x", "simplecache::s3://bucket/x"):
        raised(UsageError, "URL is a chain", places.parse_place, chain)


def test_a_url_with_one_slash_and_one_where_only_a_path_serves_are_refused() -> None:
    for given in ("s3:/key:hunter2@bucket/x", Path("s3://key:hunter2@bucket/x")):
        caught = raised(UsageError, "has one slash after s3:", places.parse_place, given)
        said = "URL has one slash after s3:, as pathlib.Path leaves it; it must have two"
        assert caught.message == f"s3:/***@bucket/x: {said}"
        assert caught.hint == "give it as text: s3://***@bucket/x"
    said = "^s3://bucket/x: model is a URL; here it must be a file on this"
    for given in ("s3://bucket/x", Path("s3://bucket/x")):
        raised(UsageError, said, places.local_path, given, "model")
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
    fault = raised(UsageError, "offline", open_images, tmp_path / "list.txt")
    assert SECRET not in fault.message + fault.hint
    monkeypatch.setenv("ROBUSTCHECK_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert isinstance(places.parse_place("s3://bucket/x"), places.Url)
    raised(UsageError, "HF_HUB_OFFLINE", places.parse_place, "hf://org/m/x.onnx")


def test_a_protocol_that_is_not_read_has_its_nearest_and_a_missing_package_is_named() -> None:
    """hdfs:// of fsspec lets pyarrow load `libhdfs.so` from the current folder: code of a checkout."""
    for protocol, hint in {"ss3": "s3://***@bucket/photos", "nosuch": "copy it here", "hdfs": "webhdfs://"}.items():
        named = f"{protocol}://key:{SECRET}@bucket/photos"
        fault = raised(UsageError, f"protocol {protocol} is not read", open_images, named)
        assert fault.hint.startswith(hint)
        assert SECRET not in fault.message + fault.hint
    pytest.importorskip("fsspec", reason="the extra remote is not installed")
    if not importlib.util.find_spec("gcsfs"):
        named = f"gs://key:{SECRET}@bucket/photos"
        missing = raised(EnvironmentFaultError, "gcsfs is not importable", open_images, named)
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


class Web(NamedTuple):
    """A web server on the loopback interface."""

    url: str
    folder: Path
    asked: list[str]


@pytest.fixture
def web(tmp_path: Path) -> Generator[Web, None, None]:
    pytest.importorskip("fsspec", reason="the extra remote is not installed")
    pytest.importorskip("aiohttp", reason="aiohttp is not installed: no https:// without it")
    folder, asked = tmp_path / "web", list[str]()
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if "forbidden" in self.path:
                self.send_error(403, "no " + self.path)
            elif "short" in self.path:
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"\x08" * 500)
            else:
                super().do_GET()

    with serving(functools.partial(Handler, directory=str(folder))) as url:
        yield Web(url, folder, asked)


def test_a_web_server(lookup_pass: Place, web: Web, own_temporary_folder: Path) -> None:
    model, photos = lookup_pass
    url, folder, asked = web
    shutil.copytree(photos, folder / "ü 1%")
    shutil.copy(model, folder / "ü 1%" / "ü.onnx")
    here = open_images(photos)
    (folder / "list.txt").write_text("".join(f"ü 1%/{name}\n" for name in here.entries.names()))
    assert check(f"{url}/ü%201%25/ü.onnx", images=f"{url}/list.txt").passed
    there = dict(contents(open_images(f"{url}/list.txt")))
    assert there == {f"ü 1%/{name}": digest for name, digest in contents(here)}
    assert list(own_temporary_folder.iterdir()) == []
    assert not any(path.endswith(".json") for path in asked)  # the model carries a contract
    assert open_images(f"{url}/a.png?token={SECRET}").spec == f"{url}/a.png?***"


def test_a_web_server_that_refuses_or_is_not_there(web: Web, capsys: Capture) -> None:
    url = web.url
    host = url.replace("http://", f"http://user:{SECRET}@")
    gone = f"http://user:{SECRET}@127.0.0.1:9/m.onnx"
    for model in (f"{url}/forbidden.onnx?sig={SECRET}", f"{host}/forbidden.onnx", gone):
        assert robustcheck(model, "--debug", "-o", "json") == 4
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert "403" in said.err
    with pytest.raises(StoreError, match=r"short\.onnx"):  # half of what its length says
        check(f"{url}/short.onnx")
    for images, rule in {"forbidden.tar": "403", "gone.tar": "no such file", "photos/": "can't list"}.items():
        with pytest.raises((UsageError, StoreError), match=rule):
            open_images(f"{url}/{images}")


def test_what_lies_beside_a_model(web: Web) -> None:
    """Only the sidecar that bears the model's name, and its weights; nothing beside a signed URL."""
    url, folder, _ = web
    data = save(encoder(), folder / "m.onnx", external=True).with_name("m.onnx.data")
    for name in ("config.json", "m.robustcheck.json"):
        (folder / name).write_text('{"pretrained_cfg": {}}')
    with on_this_machine(url_of(f"{url}/m.onnx")) as here:
        names = sorted(path.name for path in here.path.parent.iterdir())
        assert names == ["m.onnx", "m.onnx.data", "m.robustcheck.json"]
        assert here.path.with_name("m.onnx.data").read_bytes() == data.read_bytes()
    raised(CannotAssessError, "signed URL", check, f"{url}/m.onnx?sig=1")
    save(encoder(), folder / "m.onnx")
    with on_this_machine(url_of(f"{url}/m.onnx?sig=1")) as here:
        assert [path.name for path in here.path.parent.iterdir()] == ["m.onnx"]


def test_a_server_that_ignores_ranges_gives_no_wrong_bytes(web: Web) -> None:
    content = bytes(range(256)) * 4
    (web.folder / "x.bin").write_bytes(content)
    file = open_url(url_of(f"{web.url}/x.bin"))
    raised(StoreError, "1024 bytes came where 10 at 5", file.read_span, 5, 10)
    with file.open() as reader:
        reader.seek(1000)
        with pytest.raises(StoreError):
            reader.read(10)
    assert (file.read_bytes(2000), len(file.read_bytes(100))) == (content, 101)


def test_a_report_is_written_through_no_link_and_no_name_that_is_taken(tmp_path: Path, monkeypatch: Patch) -> None:
    """In a shared folder anyone can guess a process number; whatever stands under a name is another process's."""
    victim, target = tmp_path / "victim", tmp_path / "r.json"
    victim.write_text("mine")
    (tmp_path / f".r.json.{os.getpid()}.tmp").symlink_to(victim)
    monkeypatch.setattr(documents, "token_hex", lambda _: "00000000")
    taken = tmp_path / ".r.json.00000000.tmp"
    taken.symlink_to(victim)
    target.write_text('{"tool": "robustcheck"}')
    with monkeypatch.context() as mounted:  # into a container: the file can't be removed
        mounted.setattr(Path, "unlink", Mock(side_effect=OSError))
        raised(EnvironmentFaultError, "report is not written", documents.replace_with_error, target, "{}")
    assert not target.read_text()
    taken.unlink()
    documents.write_atomically(target, "{}")
    assert (victim.read_text(), target.read_text(), target.is_symlink()) == ("mine", "{}", False)
    assert not taken.exists()


def test_a_report_replaces_an_empty_file_a_document_of_ours_and_no_other_file(tmp_path: Path) -> None:
    """A slip of the hand: `-o json=m.robustcheck.json` reads like a report of m.onnx."""
    save(encoder(), tmp_path / "m.onnx", external=True)
    (tmp_path / "list.txt").write_text("a.jpg\n")
    for name in ("m.robustcheck.json", "photo.PNG", "other.onnx", "notes"):
        target = tmp_path / name
        destinations.check_target(target)  # nothing is there
        target.write_text('{"size": [8, 8]}')
        fault = raised(
            UsageError, "is a file that is there already; only an empty file", destinations.check_target, target
        )
        assert fault.hint != f"-o json={target}"
        for ours in ("", text.error_json("m", "h", 3)):
            target.write_text(ours)
            destinations.check_target(target)
            raised(UsageError, "is a file that this run reads", destinations.check_target, target, [target])
    for name in ("m.onnx", "m.onnx.data", "list.txt"):
        for place in (tmp_path / name, places.parse_place(f"file://{tmp_path}/{name}")):
            raised(UsageError, "is a file that is there already", destinations.check_target, place)


def test_a_secret_that_a_message_wraps_is_hidden() -> None:
    hidden = ("s ek ret", "")
    for message in ("boom s ek ret", "boom s\nek ret", "boom s  ek\n ret"):
        assert without_secrets(message, hidden) == "boom ***"
