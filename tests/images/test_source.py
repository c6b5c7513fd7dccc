"""Image sources: what counts as an image, in which order, and one clear error for everything else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.images import tables
from robustcheck_onnx.checker.images.source import Item, Picture, Skipped, Tensor, check_bad, open_images, prefetch
from support.profile import PATIENCE_S


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path, names: list[str]) -> Path:
    for level, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(level))
    return folder


def names_of(spec: Any, **options: Any) -> list[str]:
    return [entry.name for entry in open_images(spec, **options).entries]


def level(item: Item) -> int:
    assert isinstance(item, Picture), item
    value = item.image.getpixel((0, 0))
    assert isinstance(value, tuple)
    return int(value[0])


NAMES = ["b.png", "a.PNG", "sub/c.JPeG", "sub/deep/é.png", "z.webp"]


def test_folder_is_recursive_and_leaves_out_what_is_no_image(tmp_path: Path) -> None:
    fill(tmp_path, NAMES)
    fill(tmp_path, [".hidden.png", ".git/x.png", "@eaDir/t.png", "__MACOSX/._a.png", ".DS_Store", "notes.txt"])
    source = open_images(tmp_path)
    assert sorted(entry.name for entry in source.entries) == sorted(NAMES)
    assert (source.kind, source.n_found, len(source)) == ("folder", 5, 5)
    items = list(source.items())
    assert {item.name: level(item) for item in items} == {n: i for i, n in enumerate(NAMES)}
    for item, entry in zip(items, source.entries, strict=True):
        assert isinstance(item, Picture)
        assert item.digest == "sha256:" + hashlib.sha256(png(level(item))).hexdigest()
        assert entry.origin == str(tmp_path / item.name)


def test_order_depends_on_names_and_seed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i:03d}.png" for i in range(50)]
    fill(tmp_path / "one", names)
    fill(tmp_path / "two", names[::-1])
    first = names_of(tmp_path / "one", seed=3)
    assert names_of(tmp_path / "two", seed=3) == first
    assert names_of(str(tmp_path / "one") + "/*.png", seed=3) == first
    assert names_of(tmp_path / "one", seed=4) != first
    assert first != sorted(first)
    assert names_of(tmp_path / "one", seed=3, limit=7) == first[:7]
    assert open_images(tmp_path / "one", limit=7).n_found == 50

    truth = sorted(names, key=lambda name: hashlib.sha256(b"3\0" + name.encode()).digest())
    assert first == truth

    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: ((t, d, f[::-1]) for t, d, f in walk(*a, **k)))
    assert names_of(tmp_path / "one", seed=3) == first


def test_symlink_loops_end_and_show_each_file_once(tmp_path: Path) -> None:
    fill(tmp_path, ["a/x.png"])
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert names_of(tmp_path) == ["a/x.png"]
    assert names_of(f"{tmp_path}/**/*.png") == ["a/x.png"]


def test_a_file_that_a_glob_finds_twice_has_its_shortest_name(tmp_path: Path) -> None:
    for folder in ("a", "z"):
        (tmp_path / folder).mkdir()
    (tmp_path / "z" / "photo.png").write_bytes(b"x")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "z")
    (tmp_path / "y").symlink_to(tmp_path / "z")
    found = open_images(str(tmp_path / "**" / "*" / "*.png")).entries.names()
    assert list(found) == ["y/photo.png"]  # neither a/link/photo.png, which is longer, nor z/photo.png, which is later


def test_broken_link_and_pipe_are_named_skips(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {item.name: item for item in open_images(tmp_path).items()}
    assert reasons == {
        "gone.jpg": Skipped("gone.jpg", "cannot be read: No such file or directory"),
        "pipe.png": Skipped("pipe.png", "not a regular file"),
    }


def test_list_csv_and_jsonl(tmp_path: Path) -> None:
    fill(tmp_path, ["a.png", "odd name, with comma.data"])
    (tmp_path / "l.txt").write_text("a.png\r\n\nodd name, with comma.data\n")
    (tmp_path / "m.csv").write_text('label,file\ncat,a.png\n,"odd name, with comma.data"\n', "utf-8-sig")
    rows = [{"image": "a.png", "label": 3}, {"image": str(tmp_path / "odd name, with comma.data")}]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for file, labels in [("l.txt", [None, None]), ("m.csv", ["cat", ""]), ("m.jsonl", ["3", None])]:
        items = sorted(open_images(tmp_path / file).items(), key=level)
        assert [level(item) for item in items] == [0, 1]
        assert [item.label for item in items if isinstance(item, Picture)] == labels


def test_bad_manifest_rows_are_usage_errors_with_their_number(tmp_path: Path) -> None:
    fill(tmp_path, ["a.png"])
    rows: tuple[tuple[str, str | bytes, str], ...] = (
        ("l.txt", "a.png\nb.png\n", r"l\.txt: row 2: path is b\.png; there is no such file"),
        ("l.txt", "\n", r"l\.txt: number of images listed is 0; at least one is needed"),
        ("m.csv", "path\na.png\nb.png\n", r"m\.csv: row 3: path is b\.png; there is no such file"),
        ("m.csv", "path,label\n,x\n", r"m\.csv: row 2: path is ''; it must be the path of an image"),
        ("m.csv", "name\na.png\n", r"row 2 has the columns name; one of path, image, file must name the image"),
        ("m.csv", "path\na.png,x\n", "row 2 has more cells than columns"),
        ("m.csv", 'path\n"a.png\n', r"row \d is not CSV"),
        ("m.jsonl", '{"path": "a.png"}\n{"path": }\n', r"m\.jsonl: row 2 is not JSON"),
        ("m.jsonl", '["a.png"]', r"m\.jsonl: row 1 is \[\"a\.png\"\]; each row must be a JSON object"),
        ("m.jsonl", '{"path": 7}', r"m\.jsonl: row 1: path is 7; it must be the path of an image"),
        ("m.csv", b"path\n\xff.png\n", r"m\.csv: file is not readable UTF-8 text"),
    )
    for name, content, message in rows:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UsageError, match=message):
            open_images(tmp_path / name)


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def test_tar_shards_give_images_and_touch_nothing_else(tmp_path: Path) -> None:
    shard(
        tmp_path / "s-000.tar",
        {
            "./0.png": png(0),
            "0.cls": b"3",
            "0.pkl": b"cos\nsystem\n(S'false'\ntR.",
            "0.seg.png": png(99),
            "./._0.png": b"mac",
            "d/1.v2.png": png(1),
        },
    )
    shard(tmp_path / "s-001.TAR", {"2.PNG": png(2), "3.jpg": b""})
    for spec in (str(tmp_path), f"{tmp_path}/s-*"):
        source = open_images(spec)
        assert source.kind == "tar"
        found = {item.name: item for item in source.items()}
        assert sorted(found) == ["s-000.tar/0.png", "s-000.tar/d/1.v2.png", "s-001.TAR/2.PNG", "s-001.TAR/3.jpg"]
        assert [level(found[name]) for name in sorted(found)[:3]] == [0, 1, 2]
        assert found["s-001.TAR/3.jpg"] == Skipped("s-001.TAR/3.jpg", "empty file")
    one = open_images(tmp_path / "s-000.tar").load(0)
    assert isinstance(one, Picture)
    assert one.digest == "sha256:" + hashlib.sha256(png(level(one))).hexdigest()


def test_damaged_tars_are_never_read_in_part(tmp_path: Path) -> None:
    whole = shard(tmp_path / "s.tar", {f"{i}.png": png(i) for i in range(5)}).read_bytes()
    cut, broken, text = (tmp_path / name for name in ("cut.tar", "broken.tar", "text.tar"))
    cut.write_bytes(whole[:1300])
    broken.write_bytes(whole[:2048] + b"\x55" * 512 + whole[2560:])  # the third member's header
    text.write_bytes(b"no tar at all" * 100)
    for path, message in [
        (cut, "cut.tar: tar file is damaged"),
        (broken, "damaged after 2 members"),
        (text, "damaged"),
    ]:
        with pytest.raises(CannotAssessError, match=message):
            open_images(path)
    with pytest.raises(UsageError, match=r"number of images in 1 tar file\(s\) is 0"):
        open_images(shard(tmp_path / "empty.tar", {"a.txt": b"x"}))
    (tmp_path / "s.tar.gz").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"s\.tar\.gz: shard is compressed; shards must be plain \.tar"):
        open_images(tmp_path / "s.tar.gz")


@pytest.mark.parametrize("struct", [True, False])
def test_parquet(tmp_path: Path, struct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    from pyarrow import parquet

    monkeypatch.setattr(tables, "WINDOW", 4)  # several windows over few rows
    for file in range(2):
        levels = [file * 10 + i for i in range(10)]
        cells: list[Any] = [{"bytes": png(i), "path": f"{i}.png"} if struct else png(i) for i in levels]
        table = pyarrow.table({"label": levels, "image": cells})
        parquet.write_table(table, tmp_path / f"part-{file}.parquet", row_group_size=3)
    (tmp_path / "README.md").write_text("a data card")
    source = open_images(tmp_path, seed=1)
    assert (source.kind, len(source)) == ("parquet", 20)
    levels = [level(item) for item in prefetch(source, lambda item: item, workers=3, window=6)]
    assert sorted(levels) == list(range(20))
    assert [level(source.load(i)) for i in (19, 0, 7)] == [levels[i] for i in (19, 0, 7)]
    names = {entry.name: found for entry, found in zip(source.entries, levels, strict=True)}
    assert names["part-1.parquet#00000007"] == 17
    assert [level(item) for item in open_images(tmp_path, seed=1, limit=5).items()] == levels[:5]


def test_parquet_rows_without_bytes(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    from pyarrow import parquet

    fill(tmp_path / "d", ["inside.bin"])
    cells = [{"bytes": None, "path": p} for p in ("inside.bin", "gone.png", "../x.png", None)]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    parquet.write_table(pyarrow.table({"image": pyarrow.array(cells, kind)}), tmp_path / "d" / "t.parquet")
    items = sorted(open_images(tmp_path / "d" / "t.parquet").items(), key=lambda item: item.name)
    assert level(items[0]) == 0
    assert [item.reason for item in items if isinstance(item, Skipped)] == [
        "cannot be read: No such file or directory",
        "path ../x.png leaves the data set's folder",
        "no bytes in this row",
    ]


def test_arrow_data_set_of_hugging_face(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    table = pyarrow.table({"img": [{"bytes": png(i), "path": None} for i in range(5)], "n": list(range(5))})
    for name in ("data-00000-of-00001.arrow", "cache-1.arrow"):
        with pyarrow.ipc.new_stream(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    (tmp_path / "state.json").write_text("{}")
    source = open_images(tmp_path)
    assert (source.kind, sorted(level(item) for item in source.items())) == ("arrow", [0, 1, 2, 3, 4])


def test_data_sets_without_pyarrow_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentFaultError, match="package pyarrow is not installed") as caught:
        open_images(tmp_path / "t.parquet")
    assert caught.value.hint == "pip install '.[data]'  # in a clone"


def test_bad_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    from pyarrow import parquet

    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(CannotAssessError, match=r"bad\.parquet: Parquet file is damaged"):
        open_images(tmp_path / "bad.parquet")
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(UsageError, match=r"columns are text \(string\); one must be named image"):
        open_images(tmp_path / "text.parquet")


def test_npy_and_npz(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 3, 6, 5)).astype(np.float32)
    values[2, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", values)
    np.savez(tmp_path / "x.npz", a=values[:1].astype(np.float64), b=values[1:2].astype(np.float16))
    found = {item.name: item for item in open_images(tmp_path / "x.npy").items()}
    assert found["x.npy#00000002"] == Skipped("x.npy#00000002", "values that are not finite")
    last = found["x.npy#00000003"]
    assert isinstance(last, Tensor)
    assert last.values.dtype == np.float32
    np.testing.assert_array_equal(last.values, values[3])
    assert last.digest.startswith("sha256:")
    assert sorted(names_of(tmp_path / "x.npz")) == ["x.npz/a#00000000", "x.npz/b#00000000"]


def test_arrays_of_one_file_hold_images_of_one_shape(tmp_path: Path) -> None:
    """A model of free height and width took them until two met in a batch: an internal error (exit 70)."""
    np.savez(tmp_path / "x.npz", a=np.zeros((1, 3, 8, 8)), b=np.zeros((2, 3, 9, 8)))
    said = r"x\.npz: array b: images \(channel, height, width\) are \(3, 9, 8\), those of array a \(3, 8, 8\)"
    with pytest.raises(UsageError, match=said):
        open_images(tmp_path / "x.npz")


def test_bad_npy(tmp_path: Path) -> None:
    rows: tuple[tuple[Any, type[Exception], str], ...] = (
        (np.zeros((2, 6, 5, 3)), UsageError, r"array: shape is \(2, 6, 5, 3\); it must be \(batch, 1 or 3 channels"),
        (np.zeros((0, 3, 5, 5)), UsageError, r"shape is \(0, 3, 5, 5\)"),
        (np.zeros((1, 3, 5, 5), np.complex64), UsageError, "dtype is complex64; it must be float or unsigned"),
        (np.array([{"pickle": 1}]), CannotAssessError, "x.npy: file is not a plain array"),
    )
    for array, error, message in rows:
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
        with pytest.raises(error, match=message):
            open_images(tmp_path / "x.npy")


def test_truncated_npy_and_text(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 4)))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:300])
    (tmp_path / "t.npz").write_text("text")
    for name in ("x.npy", "t.npz"):
        with pytest.raises(CannotAssessError, match=rf"{name}: file is not a plain array"):
            open_images(tmp_path / name)


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, ["here.png"])
    monkeypatch.chdir(tmp_path)
    assert len(open_images(".")) == 1
    for spec in ("", " "):
        with pytest.raises(UsageError, match=rf"--images is {spec!r}; it must be a folder"):
            open_images(spec)


def test_missing_empty_mixed_and_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"nowhere: image set is not readable \(No such file or directory\)"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(CannotAssessError, match="number of images is 0 among 0 files"):
        open_images(tmp_path)
    with pytest.raises(CannotAssessError, match="number of images is 0 among 0 files"):
        open_images(f"{tmp_path}/*.png")
    fill(tmp_path, ["notes.md"])
    with pytest.raises(CannotAssessError, match="number of images is 0 among 1 files"):
        open_images(tmp_path / "notes.md")
    with pytest.raises(UsageError, match="limit: number of images is 0; it must be at least 1"):
        open_images(tmp_path, limit=0)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: image set is not a regular file or folder"):
        open_images(tmp_path / "pipe")
    fill(tmp_path, ["a.png", "s.tar"])
    with pytest.raises(UsageError, match=r"content is a mixture \(images, \.tar\); an image set must be of one kind"):
        open_images(tmp_path)

    def denied(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)  # tests may run as root, whom no permission stops
    with pytest.raises(UsageError, match=r"folder cannot be read \(Permission denied\); all folders"):
        open_images(tmp_path)


class Rights:
    """The system's answers about folders, played: root, whom no permission stops, may run the tests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unlisted: set[str] = set()
        """folders without r: their names can't be had"""
        self.closed: set[str] = set()
        """folders without r and x: nothing in them can be reached"""
        scandir, lstat = os.scandir, os.lstat

        def listed(path: Any = ".") -> Any:
            if not isinstance(path, int) and Path(path).name in self.unlisted | self.closed:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        def found(path: Any, **more: Any) -> Any:
            if not isinstance(path, int) and Path(os.path.dirname(path)).name in self.closed:  # noqa: PTH120 # "x/."
                raise PermissionError(13, "Permission denied", str(path))
            return lstat(path, **more)

        monkeypatch.setattr(os, "scandir", listed)
        monkeypatch.setattr(os, "lstat", found)


@pytest.mark.parametrize(
    "pattern", ["*/*.png", "c*/b.png", "*/b.png", "**", "**/*.png", "*/deep/*.png", "closed/*.png"]
)
def test_a_glob_passes_by_no_folder_that_it_has_to_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    fill(tmp_path, ["a.png", "open/b.png", "open/deep/c.png", "closed/b.png", "closed/deep/c.png"])
    assert len(open_images(f"{tmp_path}/{pattern}")) > 0
    Rights(monkeypatch).closed.add("closed")
    where = rf"{tmp_path}/closed: folder cannot be read \(Permission denied\); all folders of an image set"
    with pytest.raises(UsageError, match=where) as caught:
        open_images(f"{tmp_path}/{pattern}")
    assert caught.value.hint == f"ls -ld {tmp_path}/closed"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^(\./)?closed: folder cannot be read"):
        open_images(pattern)


def test_a_glob_needs_no_folder_that_it_does_not_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, ["a.png", "home/photos/b.png", "x/photos/c.png", "x/other/d.png", "x/@eaDir/e.png", "x/.h/f.png"])
    rights = Rights(monkeypatch)
    rights.unlisted.add("home")  # only its owner may list it, but everyone may pass through
    rights.closed |= {"other", "@eaDir", ".h"}
    assert names_of(f"{tmp_path}/*/photos/*.png") == ["home/photos/b.png", "x/photos/c.png"]
    assert names_of(f"{tmp_path}/*/photos/**/*.png") == ["home/photos/b.png", "x/photos/c.png"]
    assert names_of(f"{tmp_path}/*.png") == ["a.png"]
    rights.closed.remove("other")
    assert names_of(f"{tmp_path}/x/*/*.png") == ["other/d.png", "photos/c.png"]
    with pytest.raises(UsageError, match="/home: folder cannot be read"):
        open_images(f"{tmp_path}/*/*/*.png")


@pytest.mark.parametrize("limit", [float("nan"), -0.1, 1.1, float("inf")])
def test_a_share_that_is_none_lets_nothing_pass(limit: float) -> None:
    for sampled in (False, True):
        with pytest.raises(UsageError, match="must be 0 to 1"):
            check_bad(100, 99, limit, sampled=sampled)


def test_check_bad() -> None:
    bad = [Skipped("a.jpg", "empty file")]
    check_bad(100, 1, 0.01, bad)
    check_bad(1, 0, 0.0)
    with pytest.raises(CannotAssessError) as caught:
        check_bad(100, 2, 0.01, bad)
    assert caught.value.message == (
        "images: number of unusable images is 2 of 100 (a.jpg: empty file); at most 1.00% may be"
    )
    for read, limit in [(3, 1.0), (0, 1.0)]:
        with pytest.raises(CannotAssessError, match=f"number of usable images is 0 of {read}"):
            check_bad(read, read, limit)


def test_prefetch_keeps_order_and_bounds_what_waits(tmp_path: Path) -> None:
    source = open_images(fill(tmp_path, [f"{i}.png" for i in range(30)]))
    started: list[str] = []
    others = threading.Event()

    def slow_first(item: Item) -> str:
        started.append(item.name)
        if item.name == source.entries[0].name:
            assert others.wait(PATIENCE_S)
        elif len(started) >= 5:
            others.set()
        return item.name

    results = prefetch(source, slow_first, workers=4, window=5)
    assert next(results) == source.entries[0].name
    assert len(started) <= 6
    assert list(results) == [entry.name for entry in source.entries[1:]]


def test_prefetch_begins_nothing_behind_a_likely_stop(tmp_path: Path) -> None:
    source = open_images(fill(tmp_path, [f"{i}.png" for i in range(30)]))
    started: list[str] = []

    def start(item: Item) -> str:
        started.append(item.name)
        return item.name

    results = prefetch(source, start, workers=4, window=20, stops=(7, 9))
    read = [next(results) for _ in range(7)]
    assert sorted(started) == sorted(read) == sorted(entry.name for entry in source.entries[:7])
    next(results)
    assert len(started) <= 9
    assert len([*results]) == 22


def test_prefetch_surfaces_exceptions_and_stops_its_threads(tmp_path: Path) -> None:
    source = open_images(fill(tmp_path, [f"{i}.png" for i in range(30)]))
    before = threading.active_count()

    def fails(item: Item) -> str:
        if item.name == source.entries[3].name:
            raise ValueError("third")
        return item.name

    results = prefetch(source, fails, workers=2, window=4)
    assert [next(results) for _ in range(3)] == [entry.name for entry in source.entries[:3]]
    with pytest.raises(ValueError, match="third"):
        next(results)
    stopped = prefetch(source, lambda item: item.name, workers=2, window=4)
    next(stopped)
    stopped.close()
    assert threading.active_count() == before
