"""Images behind URLs: the same evidence as from here, whatever form the set has."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.images.source import Skipped, open_images
from robustcheck_onnx.checker.storage.remote import open_url
from support.stores import ODD, contents, put, url_of

pytest.importorskip("fsspec", reason="the extra remote is not installed")
pytestmark = pytest.mark.usefixtures("own_temporary_folder")


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
        here = open_images(form.format(tmp_path), seed=3)
        there = open_images(form.format("memory://bucket"), seed=3)
        assert contents(here) == contents(there)
        assert (here.kind, here.n_found, here.names_digest) == (there.kind, there.n_found, there.names_digest)
        file = open_images(form.format(f"file://{tmp_path}"), seed=3)
        assert contents(here) == contents(file)
    assert {name for name, _ in contents(open_images("memory://bucket/set"))} == set(names[:5])


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
        here, there = open_images(tmp_path / name), open_images(f"memory://lists/{name}")
        assert contents(here) == contents(there)
        assert [entry.label for entry in here.entries] == [entry.label for entry in there.entries]
    (tmp_path / "urls.txt").write_text(f"memory://lists/{first}\n{second}\n")
    mixed = open_images(tmp_path / "urls.txt")
    assert dict(contents(mixed)) == {
        f"memory://lists/{first}": open_images(tmp_path / first).digest(0),
        second: open_images(tmp_path / second).digest(0),
    }


@pytest.mark.parametrize("row", ["/etc/hostname.jpg", "../x.jpg", "a/../../x.jpg", "file:///etc/x.jpg"])
def test_a_list_in_a_store_names_no_files_of_this_machine(row: str, memory: Any) -> None:
    memory.pipe_file("/box/list.txt", f"a.jpg\n{row}\n".encode())
    with pytest.raises(UsageError, match="row 2"):
        open_images("memory://box/list.txt")


def test_a_row_that_names_nothing_ends_the_run(memory: Any) -> None:
    memory.pipe_file("/box/list.txt", b"gone.jpg\n")
    with pytest.raises(UsageError, match=r"memory://box/list.txt: row 1: path is gone.jpg"):
        open_images("memory://box/list.txt").load(0)


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
        here, there = open_images(f"{tmp_path}/{spec}"), open_images(f"memory://s/{spec}")
        assert len(here) == n_images
        assert contents(here) == contents(there)
    assert list(own_temporary_folder.iterdir()) == []
    memory.pipe_file("/bad/0.tar", (tmp_path / "0.tar").read_bytes()[:5000])
    with pytest.raises(CannotAssessError, match="damaged"):
        open_images("memory://bad/0.tar")


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
        here, there = open_images(tmp_path / name), open_images(f"memory://t/{name}")
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
    source = open_images("memory://p")
    memory.rm(f"/p/{source.entries[0].name}")
    gone = source.load(0)
    assert isinstance(gone, Skipped)
    assert gone.reason == "cannot be read: no such file"
    for name in memory.ls("/p", detail=False)[:20]:
        memory.pipe_file(name, b"no image")
    with pytest.raises(CannotAssessError, match="unusable"):
        check(model, images="memory://p")


@pytest.mark.parametrize("spec", ["memory://nothing", "memory://nothing/*.jpg", "memory://nothing/x.txt"])
def test_nothing_there(spec: str, memory: Any) -> None:
    expected = CannotAssessError if "*" in spec else UsageError
    with pytest.raises(expected, match=r"memory://nothing"):
        open_images(spec)


def test_readers_read_what_the_file_holds(memory: Any) -> None:
    truth = np.random.default_rng(5).bytes(1_000_000)
    memory.pipe_file("/x", truth)
    with open_url(url_of("memory://x")).open() as reader, io.BytesIO(truth) as other:
        for place, whence, length in [(0, 0, 10), (700_000, 0, 400_000), (-5, 2, 50), (10, 0, 0), (3, 1, 300_000)]:
            assert reader.seek(place, whence) == other.seek(place, whence)
            assert reader.read(length) == other.read(length)


def test_a_row_of_a_list_names_no_url_with_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.csv").write_text("path\nhttp://169.254.169.254/latest.jpg\n")
    monkeypatch.setenv("ROBUSTCHECK_LOCAL_ROWS", "1")
    with pytest.raises(
        UsageError, match=r"row 2: path is http://169\.254\.169\.254/latest\.jpg; with --strict a list names"
    ):
        open_images(tmp_path / "list.csv")


def test_a_row_of_a_list_names_no_protocol_that_loads_code(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("hdfs://host/a.jpg\n")
    source = open_images(tmp_path / "list.txt")
    with pytest.raises(UsageError, match="protocol hdfs is not read"):
        source.entries[0].read()
