"""Models, images and reports behind URLs: the same evidence as from here, no secret shown, nothing opened offline.

The stores are real: fsspec's memory, this file system, and a web server on the loopback interface.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from robustcheck_onnx.checker import check, delivery, images, pipeline, remote
from robustcheck_onnx.checker.cli import main
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.remote_file import LIMIT, StoreError, download, open_url
from robustcheck_onnx.checker.remote_model import on_this_machine

fsspec: Any = pytest.importorskip("fsspec", reason="the extra remote is not installed")
needs_aiohttp = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None, reason="aiohttp is not installed: no https:// without it"
)
ODD = "ein Ort/100%/ü €"  # spaces, a percent sign that escapes nothing, letters beyond ASCII
SECRET = "hunter2hunter2"  # no real one


@pytest.fixture
def memory() -> Iterator[Any]:
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Downloads go to a folder that each test can look into."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    return folder


def url_of(text: str) -> remote.Url:
    found = remote.parse(text)
    assert isinstance(found, remote.Url)
    return found


def put(store: Any, folder: Path, at: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            store.pipe_file(f"/{at}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def contents(source: images.ImageSource) -> list[tuple[str, str | None]]:
    return [(entry.name, source.digest(place)) for place, entry in enumerate(source.entries)]


@pytest.fixture
def web(tmp_path: Path) -> Generator[tuple[str, Path, list[str]], None, None]:
    """A web server on the loopback interface: its URL, its folder, the paths asked for."""
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

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder, asked
        server.shutdown()


# ---------------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a b/ü%.onnx", "s3://bucket/a b/ü%.onnx"),
        ("s3://bucket/img?.jpg", "s3://bucket/img?.jpg"),
        ("https://u:hunter2@host:8/x.onnx", "https://***@host:8/x.onnx"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("https://host/x.onnx?X-Amz-Signature=hunter2&a=b", "https://host/x.onnx?***"),
        ("https://host/x.onnx#hunter2", "https://host/x.onnx#***"),
        ("https://u:hun/ter2@host/x", "https://***"),
        ("https://[::1]:80/x", "https://[::1]:80/x"),
        ("s3://key:hunter2@bucket/x", "s3://***@bucket/x"),
        ("s3://bucket/x?versionId=hunter2", "s3://bucket/x?***"),
        ("hf://org/model@main/x.onnx", "hf://org/model@main/x.onnx"),
        ("abfs://box@account.dfs.core.windows.net/x", "abfs://box@account.dfs.core.windows.net/x"),
        ("/a/path?with=marks", "/a/path?with=marks"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert remote.redact(url) == shown
    assert remote.redact_text(f"see '{url}': no").startswith("see '") or " " in url
    found = remote.parse(url)
    assert str(found) == shown
    assert "hunter2" not in repr(found)


def test_urls_in_the_words_of_other_libraries_are_redacted() -> None:
    text = "ClientResponseError: 403, url='https://u:hunter2@h/x?sig=hunter2' (https:/u:hunter2@h/x)"
    assert remote.redact_text(text) == "ClientResponseError: 403, url='https://***@h/x?***' (https:/***@h/x)"


def test_paths_are_no_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("model.onnx", "C:/models/x.onnx", "a:b", "./s3", "photos/*.jpg"):
        assert remote.parse(text) == text
    assert remote.parse("file:///a b/100%25.onnx") == "/a b/100%25.onnx"
    assert remote.parse(Path("file:///a/b")) == "/a/b"
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "x").touch()
    monkeypatch.chdir(tmp_path)
    assert remote.parse("s3:/x") == "s3:/x"
    assert isinstance(remote.parse(Path("s3://bucket/x")), remote.Url)
    for text in ("file://host/x", "zip://a.zip::s3://bucket/x", "simplecache::s3://bucket/x"):
        with pytest.raises(UsageError):
            remote.parse(text)


def test_offline_refuses_before_anything_is_opened(
    lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, photos = lookup_pass
    monkeypatch.setenv("ROBUSTCHECK_OFFLINE", "1")
    for url in ("https://h/x.onnx", "s3://bucket/x", "hf://org/m/x.onnx"):
        with pytest.raises(UsageError, match="offline"):
            check(url, images=photos)
        with pytest.raises(UsageError, match="offline"):
            check(model, images=url)
    assert isinstance(remote.parse("memory://x"), remote.Url)
    monkeypatch.setenv("ROBUSTCHECK_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert isinstance(remote.parse("s3://bucket/x"), remote.Url)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        remote.parse("hf://org/m/x.onnx")


def test_offline_refuses_urls_within_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text(f"https://u:{SECRET}@h/x.jpg\n")
    monkeypatch.setenv("ROBUSTCHECK_OFFLINE", "1")
    with pytest.raises(UsageError, match="offline") as caught:
        images.open_images(tmp_path / "list.txt")
    assert SECRET not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("protocol", ["s3", "gs", "nosuch"])
def test_a_missing_package_is_named(protocol: str) -> None:
    packages = {"s3": "s3fs", "gs": "gcsfs"}
    if importlib.util.find_spec(packages.get(protocol, "no_such_module")):
        pytest.skip(f"{packages[protocol]} is installed")
    with pytest.raises(EnvironmentFaultError) as caught:
        images.open_images(f"{protocol}://key:{SECRET}@bucket/photos")
    assert caught.value.hint.startswith(f"pip install {packages.get(protocol, 'the package')}")
    assert caught.value.exit_code == 4
    assert SECRET not in caught.value.message


def test_a_check_without_urls_imports_no_fsspec_and_opens_no_socket(lookup_pass: tuple[Path, Path]) -> None:
    model, photos = lookup_pass
    program = f"""
import sys
if len(sys.argv) > 1: import fsspec, socket; socket.socket()
opened = []
sys.addaudithook(lambda name, _: opened.append(name) if name.startswith("socket.") else None)
if len(sys.argv) > 1: socket.socket()
from robustcheck_onnx.checker.cli import main
code = main([{str(model)!r}, "--images", {str(photos)!r}, "-q", "--no-cache"])
loaded = [name for name in ("fsspec", "aiohttp", "torch", "huggingface_hub") if name in sys.modules]
sys.stdout.write(repr((code, loaded, opened)))
"""
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True, timeout=120)
    assert run([sys.executable, "-c", program]).stdout == "(0, [], [])"
    # the probe can fail
    assert "['fsspec'], ['socket" in run([sys.executable, "-c", program, "probe"]).stdout


# -------------------------------------------------------------------------------------------------- images


def test_a_folder_in_a_store_gives_the_evidence_of_the_same_folder_here(
    lookup_pass: tuple[Path, Path], memory: Any, own_temporary_folder: Path
) -> None:
    model, photos = lookup_pass
    put(memory, photos, f"{ODD}/photos")
    memory.pipe_file(f"/{ODD}/model.onnx", model.read_bytes())
    here = check(model, images=photos, preprocess="clip")
    there = check(f"memory://{ODD}/model.onnx", images=f"memory://{ODD}/photos", preprocess="clip")
    assert there.evidence.model.file == f"memory://{ODD}/model.onnx"
    assert there.evidence.images.source == f"memory://{ODD}/photos"
    same = there.evidence.model_copy(
        update={
            "model": there.evidence.model.model_copy(update={"file": str(model)}),
            "images": there.evidence.images.model_copy(update={"source": str(photos)}),
        }
    )
    assert same == here.evidence
    assert str(own_temporary_folder) not in there.model_dump_json()
    assert list(own_temporary_folder.iterdir()) == []


def test_what_is_listed_is_what_would_be_listed_here(
    lookup_pass: tuple[Path, Path], tmp_path: Path, memory: Any
) -> None:
    _, photos = lookup_pass
    names = ["a b.png", "ü.png", "100%.png", "sub/deep/x.png", "sub/y.PNG", ".hidden.png", "@eaDir/z.png", "notes.md"]
    for name, photo in zip(names, sorted(photos.glob("*")), strict=False):
        target = tmp_path / "set" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(photo.read_bytes())
    put(memory, tmp_path / "set", "bucket/set")
    for form in (
        "{}/set",
        "{}/set/",
        "{}/set/*.png",
        "{}/set/**/*.png",
        "{}/set/sub/*",
        "{}/s?t/sub/**",
        "{}/set/ü.png",
    ):
        here = images.open_images(form.format(tmp_path), seed=3)
        there = images.open_images(form.format("memory://bucket"), seed=3)
        assert contents(here) == contents(there)
        assert (here.kind, here.n_found, here.names_digest) == (there.kind, there.n_found, there.names_digest)
        file = images.open_images(form.format(f"file://{tmp_path}"), seed=3)
        assert contents(here) == contents(file)
    assert {name for name, _ in contents(images.open_images("memory://bucket/set"))} == set(names[:5])


def test_lists_and_manifests(lookup_pass: tuple[Path, Path], tmp_path: Path, memory: Any) -> None:
    _, photos = lookup_pass
    first, second, *_ = sorted(path.name for path in photos.iterdir())
    for name in (first, second):
        (tmp_path / name).write_bytes((photos / name).read_bytes())
    (tmp_path / "list.txt").write_text(f"{first}\n{second}\n")
    (tmp_path / "set.csv").write_text(f"path,label\n{second},cat\n{first},\n")
    (tmp_path / "set.jsonl").write_text(json.dumps({"file": first, "label": 3}) + "\n")
    for name in ("list.txt", "set.csv", "set.jsonl", first, second):
        memory.pipe_file(f"/lists/{name}", (tmp_path / name).read_bytes())
    for name in ("list.txt", "set.csv", "set.jsonl"):
        here, there = images.open_images(tmp_path / name), images.open_images(f"memory://lists/{name}")
        assert contents(here) == contents(there)
        assert [entry.label for entry in here.entries] == [entry.label for entry in there.entries]
    (tmp_path / "urls.txt").write_text(f"memory://lists/{first}\n{second}\n")
    mixed = images.open_images(tmp_path / "urls.txt")
    assert dict(contents(mixed)) == {
        f"memory://lists/{first}": images.open_images(tmp_path / first).digest(0),
        second: images.open_images(tmp_path / second).digest(0),
    }


@pytest.mark.parametrize("row", ["/etc/hostname.jpg", "../x.jpg", "a/../../x.jpg", "file:///etc/x.jpg"])
def test_a_list_in_a_store_names_no_files_of_this_machine(row: str, memory: Any) -> None:
    memory.pipe_file("/box/list.txt", f"a.jpg\n{row}\n".encode())
    with pytest.raises(UsageError, match="row 2"):
        images.open_images("memory://box/list.txt")


def test_a_row_that_names_nothing_ends_the_run(memory: Any) -> None:
    memory.pipe_file("/box/list.txt", b"gone.jpg\n")
    with pytest.raises(UsageError, match=r"memory://box/list.txt: row 1: path is gone.jpg"):
        images.open_images("memory://box/list.txt").load(0)


def test_shards_and_arrays(
    lookup_pass: tuple[Path, Path], tmp_path: Path, memory: Any, own_temporary_folder: Path
) -> None:
    _, photos = lookup_pass
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for path in sorted(photos.iterdir())[shard * 5 : shard * 5 + 5]:
                archive.add(path, path.name)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32))
    np.savez(tmp_path / "x.npz", a=np.ones((2, 3, 8, 8), np.float32))
    for name in ("0.tar", "1.tar", "x.npy", "x.npz"):
        memory.pipe_file(f"/s/{name}", (tmp_path / name).read_bytes())
    for spec, n_images in (("*.tar", 10), ("0.tar", 5), ("x.npy", 4), ("x.npz", 2)):
        here, there = images.open_images(f"{tmp_path}/{spec}"), images.open_images(f"memory://s/{spec}")
        assert len(here) == n_images
        assert contents(here) == contents(there)
    assert list(own_temporary_folder.iterdir()) == []
    memory.pipe_file("/bad/0.tar", (tmp_path / "0.tar").read_bytes()[:5000])
    with pytest.raises(CannotAssessError, match="damaged"):
        images.open_images("memory://bad/0.tar")


def test_tables(lookup_pass: tuple[Path, Path], tmp_path: Path, memory: Any) -> None:
    pyarrow: Any = pytest.importorskip("pyarrow", reason="the extra data is not installed")
    parquet: Any = pytest.importorskip("pyarrow.parquet")

    rows = [{"bytes": path.read_bytes(), "path": None} for path in sorted(lookup_pass[1].iterdir())[:6]]
    table = pyarrow.table({"image": rows})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    with pyarrow.OSFile(str(tmp_path / "t.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    for name in ("t.parquet", "t.arrow"):
        memory.pipe_file(f"/t/{name}", (tmp_path / name).read_bytes())
        here, there = images.open_images(tmp_path / name), images.open_images(f"memory://t/{name}")
        assert len(contents(here)) == 6
        assert contents(here) == contents(there)


def test_only_the_images_that_are_needed_are_read(
    lookup_pass: tuple[Path, Path], memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, photos = lookup_pass
    put(memory, photos, "p")
    read: list[str] = []
    whole = type(memory).cat_file

    def counted(self: Any, path: str, **more: Any) -> bytes:
        read.append(path)
        return bytes(whole(self, path, **more))

    monkeypatch.setattr(type(memory), "cat_file", counted)
    assert check(model, images="memory://p", max_images=7).evidence.images.n_read == 7
    assert len(set(read)) == 7


def test_an_image_that_cannot_be_read_is_skipped_and_many_end_the_run(
    lookup_pass: tuple[Path, Path], memory: Any
) -> None:
    model, photos = lookup_pass
    put(memory, photos, "p")
    source = images.open_images("memory://p")
    memory.rm(f"/p/{source.entries[0].name}")
    gone = source.load(0)
    assert isinstance(gone, images.Skipped)
    assert gone.reason == "cannot be read: no such file"
    for name in memory.ls("/p", detail=False)[:20]:
        memory.pipe_file(name, b"no image")
    with pytest.raises(CannotAssessError, match="unusable"):
        check(model, images="memory://p")


@pytest.mark.parametrize("spec", ["memory://nothing", "memory://nothing/*.jpg", "memory://nothing/x.txt"])
def test_nothing_there(spec: str, memory: Any) -> None:
    with pytest.raises(UsageError, match=r"memory://nothing"):
        images.open_images(spec)


# --------------------------------------------------------------------------------------------------- model


def test_weights_and_sidecars_come_with_the_model(
    onnx_models: ModuleType, tmp_path: Path, memory: Any, own_temporary_folder: Path
) -> None:
    folder = tmp_path / "m"
    (folder / "weights").mkdir(parents=True)
    proto = onnx_models.encoder()
    onnx.save(proto, folder / "m.onnx", save_as_external_data=True, location="weights/ü 100%.bin", size_threshold=0)
    (folder / "config.json").write_text('{"architectures": ["X"]}')
    clip = {"size": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": clip}))
    put(memory, folder, ODD)
    here = check(folder / "m.onnx", max_images=3).evidence
    there = check(f"memory://{ODD}/m.onnx", max_images=3).evidence
    assert there.preprocessing == here.preprocessing
    assert there.preprocessing.source == "sidecar"
    assert there.model.external_digests == here.model.external_digests
    assert set(there.model.external_digests) == {"weights/ü 100%.bin"}
    assert there.model.digest == here.model.digest
    assert there.statistics == here.statistics
    assert list(own_temporary_folder.iterdir()) == []

    memory.pipe_file(f"/{ODD}/other.ONNX", b"")  # whose sidecar is it now?
    with pytest.raises(UsageError, match="lies beside 2 models") as caught:
        check(f"memory://{ODD}/m.onnx", max_images=3)
    assert caught.value.message.startswith(f"memory://{ODD}/open_clip_config.json")
    assert str(own_temporary_folder) not in caught.value.message + caught.value.hint

    memory.rm(f"/{ODD}/weights/ü 100%.bin")
    with pytest.raises(CannotAssessError, match="is missing"):
        check(f"memory://{ODD}/m.onnx", max_images=3, preprocess="clip")


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "a/../../w.bin", "C:/w.bin"])
def test_weights_outside_the_folder_are_refused(
    location: str, onnx_models: ModuleType, tmp_path: Path, memory: Any, own_temporary_folder: Path
) -> None:
    path = onnx_models.save(onnx_models.encoder(), tmp_path / "m.onnx", external=True)
    proto = onnx.load(path, load_external_data=False)
    for weight in proto.graph.initializer:
        for entry in weight.external_data:
            entry.value = location if entry.key == "location" else entry.value
    memory.pipe_file("/box/in/m.onnx", proto.SerializeToString())
    memory.pipe_file("/box/w.bin", b"0" * 100_000)
    with pytest.raises(CannotAssessError, match="leaves the model's folder") as caught:
        check("memory://box/in/m.onnx")
    assert caught.value.message.startswith("memory://box/in/m.onnx: ")
    assert list(own_temporary_folder.iterdir()) == []


def test_models_that_cannot_be_had(
    memory: Any, onnx_models: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path
) -> None:
    memory.pipe_file("/box/m.onnx", b"\x08" * 1000)
    with pytest.raises(UsageError, match="missing"):
        check("memory://box/gone.onnx")
    with pytest.raises(UsageError, match="missing"):
        check("memory://box")
    with pytest.raises(CannotAssessError, match=r"^memory://box/m\.onnx: opset_import is missing"):
        check("memory://box/m.onnx")
    whole = onnx_models.save(onnx_models.encoder(), tmp_path / "m.onnx").read_bytes()
    memory.pipe_file("/box/m.onnx", whole)
    with pytest.raises(UsageError, match="with Ray"):
        check("memory://box/m.onnx", engine="ray")
    monkeypatch.setenv(LIMIT, str(len(whole) - 1))
    with pytest.raises(EnvironmentFaultError, match="download is more than"):
        check("memory://box/m.onnx")
    monkeypatch.setenv(LIMIT, "much")
    with pytest.raises(UsageError, match=LIMIT):
        check("memory://box/m.onnx")
    assert list(own_temporary_folder.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_the_environments_fault(memory: Any) -> None:
    memory.pipe_file("/box/m.onnx", b"x" * 10_000)
    with pytest.raises(EnvironmentFaultError, match="No space left"):
        download(open_url(url_of("memory://box/m.onnx")), Path("/dev/full"), 10**6)


def test_other_verbs_say_that_they_take_no_url(
    lookup_pass: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in (["inspect"], ["scan"], ["compare", str(lookup_pass[0])]):
        assert main([*verb, f"https://u:{SECRET}@h/m.onnx"]) == 2
        said = capsys.readouterr().err
        assert "https://***@h/m.onnx: model is a URL" in said
        assert SECRET not in said


def test_the_cache_never_answers_for_a_model_behind_a_url(
    lookup_pass: tuple[Path, Path], memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, photos = lookup_pass
    monkeypatch.setenv("ROBUSTCHECK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ROBUSTCHECK_NO_CACHE", "0")
    memory.pipe_file("/m.onnx", model.read_bytes())
    put(memory, photos, "p")

    def is_cached(model: str | Path, images: str | Path) -> bool:
        report = check(model, images=images, cache=True)
        assert report.time is not None
        return report.time.cached is not None

    assert [is_cached("memory://m.onnx", photos) for _ in range(2)] == [False, False]
    assert [is_cached(model, "memory://p") for _ in range(2)] == [False, True]
    first, second = (entry.name for entry in images.open_images("memory://p").entries[:2])
    memory.pipe_file(f"/p/{first}", (photos / second).read_bytes())  # the same names, another image
    assert not is_cached(model, "memory://p")


def test_sigterm_leaves_nothing(own_temporary_folder: Path) -> None:
    """The signal comes while the model is being downloaded: the copy is there, and then it is not."""
    program = """
import sys, time, fsspec
from fsspec.implementations.memory import MemoryFileSystem
store = fsspec.filesystem("memory")
store.pipe_file("/m.onnx", b"x" * 40_000_000)
whole = MemoryFileSystem.cat_file
def slow(self, path, **more):
    time.sleep(1)
    return whole(self, path, **more)
MemoryFileSystem.cat_file = slow
from robustcheck_onnx.checker.cli import main
sys.exit(main(["memory://m.onnx"]))
"""
    environment = os.environ | {"TMPDIR": str(own_temporary_folder)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while not list(own_temporary_folder.glob("robustcheck-*/m.onnx")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert list(own_temporary_folder.glob("robustcheck-*")) == []


# -------------------------------------------------------------------------------------------------- report


def test_reports_are_put_into_stores(
    lookup_pass: tuple[Path, Path], memory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos = lookup_pass
    args = [str(model), "--images", str(photos), "-q", "--no-time", "--no-cache"]
    outputs = [f"json=memory://{ODD}/r.json", f"json=file://{tmp_path}/f.json", f"json={tmp_path}/p.json"]
    assert main([*args, *(word for output in outputs for word in ("-o", output))]) == 0
    content = memory.cat_file(f"/{ODD}/r.json")
    assert json.loads(content)["verdict"]["verdict"] == "PASS"
    assert content == (tmp_path / "f.json").read_bytes() == (tmp_path / "p.json").read_bytes()
    # a run that fails leaves an error, not the PASS of the run before
    assert main([str(tmp_path / "gone.onnx"), "-o", f"json=memory://{ODD}/r.json"]) == 2
    assert json.loads(memory.cat_file(f"/{ODD}/r.json"))["error"]["exit_code"] == 2
    # but never in place of what is no report
    memory.pipe_file("/notes.json", b"{}")
    assert main([str(tmp_path / "gone.onnx"), "-o", "json=memory://notes.json"]) == 2
    assert memory.cat_file("/notes.json") == b"{}"
    capsys.readouterr()


def test_a_store_holds_no_earlier_pass_while_a_check_runs(
    lookup_pass: tuple[Path, Path], memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who is killed leaves what stands there; who is stopped by a signal does not wait for a store."""
    call = [str(lookup_pass[0]), "--images", str(lookup_pass[1]), "-q", "-o", "json=memory://r.json"]

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    memory.pipe_file("/r.json", delivery.error_json("stands for an earlier PASS", "", 3).encode())
    monkeypatch.setattr(pipeline, "check", stop)
    assert main([*call, "-o", "json=memory://new.json"]) == 130
    assert json.loads(memory.cat_file("/r.json"))["error"]["exit_code"] == 137
    assert not memory.exists("/new.json")
    memory.pipe_file("/r.json", b"{}")  # what is no report stays until there is a result
    assert main(call) == 130
    assert memory.cat_file("/r.json") == b"{}"
    capsys.readouterr()


def test_reports_that_cannot_be_put_there(
    lookup_pass: tuple[Path, Path], memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos = lookup_pass
    args = [str(model), "--images", str(photos), "-q", "--no-cache", "-o"]
    assert main([*args, f"json=https://u:{SECRET}@h/r.json"]) == 2
    assert main([*args, "json=memory://folder/"]) == 2
    assert main([*args, "json=memory://a//b.json"]) == 2
    assert main(["memory://m.onnx", "-o", "json=memory://m.onnx"]) == 2

    def refuse(self: object, path: str, value: bytes, **_: object) -> None:
        raise PermissionError(f"no write for s3:/{path}?sig={SECRET}")

    monkeypatch.setattr(type(memory), "pipe_file", refuse)
    assert main([*args, "json=memory://r.json"]) == 4  # the verdict was PASS
    assert not memory.exists("/r.json")
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert "no write for" in said.err


def test_a_run_with_urls_shows_no_key_anywhere(
    lookup_pass: tuple[Path, Path], memory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos = lookup_pass
    put(memory, photos, "p")
    memory.pipe_file("/m.onnx", model.read_bytes())
    forms = ("json", "junit", "sarif", "markdown", "html", "openmetrics", "modelcard", "csv", "gitlab", "terminal")
    wanted = [word for form in forms for word in ("-o", f"{form}={tmp_path}/report.{form}")]
    bad = f"https://u:{SECRET}@127.0.0.1:9/x?X-Amz-Signature={SECRET}"
    for args in (
        [bad, *wanted],
        [bad, "memory://m.onnx", *wanted[:2]],  # several models: one fails, one passes
        ["memory://m.onnx", "--images", bad, *wanted],
        ["memory://m.onnx", "--images", bad, "--show-settings"],
        ["memory://m.onnx", "--preprocess", bad],
        ["memory://m.onnx", "--thresholds", bad],
        [bad, "--offline", *wanted],
    ):
        code = main([*args, "--debug", "-v", "--no-cache"])
        assert code in (2, 3, 4) or "--show-settings" in args, args
        written = "".join(path.read_text() for path in tmp_path.glob("report.*"))
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err + written, args


def test_offline_on_the_command_line(
    lookup_pass: tuple[Path, Path], memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos = lookup_pass
    monkeypatch.delenv("ROBUSTCHECK_OFFLINE", raising=False)
    put(memory, photos, "p")
    assert main([str(model), "--images", "memory://p", "--offline", "-q", "--no-cache"]) == 0
    assert main([str(model), "--images", "s3://bucket/p", "--offline"]) == 2
    assert main([str(model), "-o", "json=s3://bucket/p", "--offline"]) == 2
    assert "offline" in capsys.readouterr().err
    assert "ROBUSTCHECK_OFFLINE" not in os.environ  # one run's option is not the next one's


# ---------------------------------------------------------------------------------------------- web server


@needs_aiohttp
def test_a_web_server(
    lookup_pass: tuple[Path, Path], web: tuple[str, Path, list[str]], own_temporary_folder: Path
) -> None:
    model, photos = lookup_pass
    url, folder, asked = web
    (folder / "ein Ort").mkdir()
    (folder / "ein Ort" / "ü 1%.onnx").write_bytes(model.read_bytes())
    names = sorted(path.name for path in photos.iterdir())
    for name in names:
        (folder / f"ü {name}").write_bytes((photos / name).read_bytes())
    (folder / "list.txt").write_text("".join(f"ü {name}\n" for name in names))
    report = check(f"{url}/ein Ort/ü%201%25.onnx", images=f"{url}/list.txt")
    assert report.evidence.model.digest == check(model, images=photos).evidence.model.digest
    there = images.open_images(f"{url}/list.txt")
    assert dict(contents(there)) == {f"ü {name}": digest for name, digest in contents(images.open_images(photos))}
    assert report.verdict.verdict == "PASS"
    assert list(own_temporary_folder.iterdir()) == []
    assert not any(path.endswith(".json") for path in asked)  # the model carries a contract
    one = images.open_images(f"{url}/{names[0]}?token={SECRET}")
    assert (one.spec, one.entries[0].name) == (f"{url}/{names[0]}?***", names[0])
    assert getattr(one.load(0), "reason", "") == "cannot be read: no such file"


@needs_aiohttp
def test_a_web_server_that_refuses_or_is_not_there(
    web: tuple[str, Path, list[str]], capsys: pytest.CaptureFixture[str], onnx_models: ModuleType
) -> None:
    url, folder, asked = web
    assert main([f"{url}/forbidden.onnx?sig={SECRET}", "--debug", "-o", "json"]) == 4
    host = url.replace("http://", f"http://user:{SECRET}@")
    assert main([f"{host}/forbidden.onnx", "--debug", "-o", "json"]) == 4
    assert main([f"http://user:{SECRET}@127.0.0.1:9/m.onnx", "--debug"]) == 4
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert "403" in said.err
    with pytest.raises(StoreError, match=r"short\.onnx"):  # half of what its length says
        check(f"{url}/short.onnx")
    short = images.open_images(f"{url}/short.jpg").load(0)
    assert isinstance(short, images.Skipped)
    assert "cannot be read" in short.reason
    for shard in ("forbidden.tar", "gone.tar"):
        with pytest.raises((UsageError, StoreError), match="403" if "forb" in shard else "no such file"):
            images.open_images(f"{url}/{shard}")
    with pytest.raises(UsageError, match="can't list"):
        images.open_images(f"{url}/photos/")
    # sidecars: only the one that bears the model's name, and nothing beside a signed URL
    onnx_models.save(onnx_models.encoder(), folder / "m.onnx")
    (folder / "config.json").write_text('{"pretrained_cfg": {}}')
    with on_this_machine(f"{url}/m.onnx") as here:
        assert [path.name for path in here.path.parent.iterdir()] == ["m.onnx"]
    assert "/m.robustcheck.json" in asked
    (folder / "m.robustcheck.json").write_text("{}")
    with on_this_machine(f"{url}/m.onnx") as here:
        assert sorted(path.name for path in here.path.parent.iterdir()) == ["m.onnx", "m.robustcheck.json"]
    with on_this_machine(f"{url}/m.onnx?sig=1") as here:
        assert [path.name for path in here.path.parent.iterdir()] == ["m.onnx"]
    onnx_models.save(onnx_models.encoder(), folder / "e.onnx", external=True)
    with pytest.raises(CannotAssessError, match="signed URL"):
        check(f"{url}/e.onnx?sig=1")
    with on_this_machine(f"{url}/e.onnx") as here:
        assert (here.path.parent / "e.onnx.data").read_bytes() == (folder / "e.onnx.data").read_bytes()


@needs_aiohttp
def test_a_server_that_ignores_ranges_gives_no_wrong_bytes(web: tuple[str, Path, list[str]]) -> None:
    url, folder, _ = web
    (folder / "x.bin").write_bytes(bytes(range(256)) * 4)
    file = open_url(url_of(f"{url}/x.bin"))
    with pytest.raises(StoreError, match="1024 bytes came where 10 at 5"):
        file.read_span(5, 10)
    with file.open() as reader:
        reader.seek(1000)
        with pytest.raises(StoreError):
            reader.read(10)
    assert file.read_bytes(2000) == bytes(range(256)) * 4
    assert len(file.read_bytes(100)) == 101


def test_readers_read_what_the_file_holds(memory: Any) -> None:
    truth = np.random.default_rng(5).bytes(1_000_000)
    memory.pipe_file("/x", truth)
    with open_url(url_of("memory://x")).open() as reader, io.BytesIO(truth) as other:
        for place, whence, length in [(0, 0, 10), (700_000, 0, 400_000), (-5, 2, 50), (10, 0, 0), (3, 1, 300_000)]:
            assert reader.seek(place, whence) == other.seek(place, whence)
            assert reader.read(length) == other.read(length)
