"""Models and images on a web server on the loopback interface, one that refuses or ignores ranges too."""

import functools
import http.server
import importlib.util
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.images import source
from robustcheck_onnx.checker.model.addresses import on_this_machine
from robustcheck_onnx.checker.storage.stores import StoreError, open_url
from support import Capture, Place, raised, robustcheck, serving
from support.onnx_models import encoder, save
from support.stores import SECRET, contents, url_of

pytest.importorskip("fsspec", reason="the extra remote is not installed")
pytestmark = [
    pytest.mark.usefixtures("own_temporary_folder"),
    pytest.mark.skipif(
        importlib.util.find_spec("aiohttp") is None, reason="aiohttp is not installed: no https:// without it"
    ),
]


class Web(NamedTuple):
    """A web server on the loopback interface."""

    url: str
    folder: Path
    asked: list[str]


@pytest.fixture
def web(tmp_path: Path) -> Generator[Web, None, None]:
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
    here = source.open_images(photos)
    (folder / "list.txt").write_text("".join(f"ü 1%/{name}\n" for name in here.entries.names()))
    assert check(f"{url}/ü%201%25/ü.onnx", images=f"{url}/list.txt").passed
    there = dict(contents(source.open_images(f"{url}/list.txt")))
    assert there == {f"ü 1%/{name}": digest for name, digest in contents(here)}
    assert list(own_temporary_folder.iterdir()) == []
    assert not any(path.endswith(".json") for path in asked)  # the model carries a contract
    assert source.open_images(f"{url}/a.png?token={SECRET}").spec == f"{url}/a.png?***"


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
            source.open_images(f"{url}/{images}")


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
