"""Images behind URLs: the same evidence as from here, whatever form the set has."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.images.source import Skipped, open_images
from robustcheck_onnx.checker.storage.stores import open_url
from support import Patch, Place, normal, raised
from support.stores import ODD, contents, fill, png, put, shard, url_of

pytest.importorskip("fsspec", reason="the extra remote is not installed")
pytestmark = pytest.mark.usefixtures("own_temporary_folder")


def test_a_folder_in_a_store_gives_the_evidence_of_the_same_folder_here(
    lookup_pass: Place, memory: Any, own_temporary_folder: Path
) -> None:
    model, photos = lookup_pass
    put(memory, photos, f"{ODD}/photos")
    memory.pipe_file(f"/{ODD}/model.onnx", model.read_bytes())
    here = check(model, images=photos, preprocess="clip")
    there = check(f"memory://{ODD}/model.onnx", images=f"memory://{ODD}/photos", preprocess="clip")
    text = there.evidence.model_dump_json()
    for name, path in (("model.onnx", model), ("photos", photos)):
        assert f"memory://{ODD}/{name}" in text
        text = text.replace(f"memory://{ODD}/{name}", str(path))
    assert text == here.evidence.model_dump_json()
    assert str(own_temporary_folder) not in there.model_dump_json()
    assert list(own_temporary_folder.iterdir()) == []


def test_what_is_listed_is_what_would_be_listed_here(memory: Any) -> None:
    names = ["a b.png", "ü.png", "100%.png", "sub/deep/x.png", "sub/y.PNG"]
    fill([*names, ".hidden.png", "@eaDir/z.png", "notes.md"], "set")
    put(memory, Path("set"), "bucket/set")
    for form in ("set", "set/", "set/*.png", "set/**/*.png", "set/sub/*", "s?t/sub/**", "set/ü.png"):
        here, *others = (
            open_images(f"{root}/{form}", seed=3) for root in (".", "memory://bucket", f"file://{Path.cwd()}")
        )
        for there in others:
            assert contents(here) == contents(there)
            assert (here.kind, here.n_found, here.names_digest) == (there.kind, there.n_found, there.names_digest)
    assert {*open_images("memory://bucket/set").entries.names()} == {*names}


def test_lists_shards_arrays_and_tables(memory: Any, own_temporary_folder: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = [png(i) for i in range(10)]
    here = fill(["0.png", "1.png"], "s")
    (here / "list.txt").write_text("0.png\n1.png\n")
    (here / "set.csv").write_text("path,label\n1.png,cat\n0.png,\n")
    shard("s/0.tar", {f"{i}.png": content for i, content in enumerate(files)})
    np.save(here / "x.npy", normal(4, 3, 8, 8).astype(np.float32))
    table = pa.table({"image": [{"bytes": content, "path": None} for content in files]})
    pq.write_table(table, here / "t.parquet", row_group_size=2)
    with pa.ipc.new_stream(str(here / "t.arrow"), table.schema) as out:
        out.write_table(table)
    put(memory, here, "s")
    kinds = {"list.txt": 2, "set.csv": 2, "*.tar": 10, "x.npy": 4, "t.parquet": 10, "t.arrow": 10}
    for spec, n_images in kinds.items():
        ours, theirs = open_images(f"{here}/{spec}"), open_images(f"memory://s/{spec}")
        assert len(ours) == n_images
        assert contents(ours) == contents(theirs)
        assert [entry.label for entry in ours.entries] == [entry.label for entry in theirs.entries]
    assert list(own_temporary_folder.iterdir()) == []
    (here / "urls.txt").write_text("memory://s/0.png\n1.png\n")
    mixed = {name.removeprefix("memory://s/"): digest for name, digest in contents(open_images(here / "urls.txt"))}
    assert mixed == dict(contents(open_images(here / "list.txt")))
    memory.pipe_file("/bad/0.tar", (here / "0.tar").read_bytes()[:5000])
    raised(CannotAssessError, "damaged", open_images, "memory://bad/0.tar")


def test_a_row_that_names_nothing_or_a_file_of_this_machine_ends_the_run(memory: Any) -> None:
    memory.pipe_file("/box/a.jpg", b"x")
    for row, said in (
        ("/etc/hostname.jpg", "row 2"),
        ("../x.jpg", "row 2"),
        ("a/../../x.jpg", "row 2"),
        ("file:///etc/x.jpg", "row 2"),
        ("gone.jpg", "memory://box/list.txt: row 2: path is gone.jpg"),
        ("hdfs://host/a.jpg", "protocol hdfs is not read"),  # it loads code
    ):
        memory.pipe_file("/box/list.txt", f"a.jpg\n{row}\n".encode())
        with pytest.raises(UsageError, match=said):
            list(open_images("memory://box/list.txt").items())


def test_only_the_images_that_are_needed_are_read(lookup_pass: Place, memory: Any) -> None:
    model, photos = lookup_pass
    put(memory, photos, "p")
    store = type(memory)
    with mock.patch.object(store, "cat_file", autospec=True, side_effect=store.cat_file) as read:
        assert check(model, images="memory://p", max_images=7).evidence.images.n_read == 7
    assert len({call.args[1] for call in read.call_args_list}) == 7


def test_an_image_that_cannot_be_read_is_skipped(memory: Any) -> None:
    memory.pipe_file("/p/0.png", png(0))
    source = open_images("memory://p")
    memory.rm("/p/0.png")
    assert source.load(0) == Skipped("0.png", "cannot be read: no such file")


def test_nothing_there(memory: Any) -> None:
    for spec in ("memory://nothing", "memory://nothing/*.jpg", "memory://nothing/x.txt"):
        raised(CannotAssessError if "*" in spec else UsageError, "memory://nothing", open_images, spec)


def test_readers_read_what_the_file_holds(memory: Any) -> None:
    truth = np.random.default_rng(5).bytes(1_000_000)
    memory.pipe_file("/x", truth)
    with open_url(url_of("memory://x")).open() as reader:
        for place, whence, start, length in (
            (0, 0, 0, 10),
            (700_000, 0, 700_000, 400_000),
            (-5, 2, 999_995, 50),
            (10, 0, 10, 0),
            (3, 1, 13, 300_000),
        ):
            assert reader.seek(place, whence) == start
            assert reader.read(length) == truth[start : start + length]


def test_a_row_of_a_list_names_no_url_with_strict(monkeypatch: Patch) -> None:
    Path("list.csv").write_text("path\nhttp://169.254.169.254/latest.jpg\n")
    monkeypatch.setenv("ROBUSTCHECK_LOCAL_ROWS", "1")
    said = r"row 2: path is http://169\.254\.169\.254/latest\.jpg; with --strict a list names"
    raised(UsageError, said, open_images, "list.csv")
