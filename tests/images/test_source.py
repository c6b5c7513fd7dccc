"""Image sources: what counts as an image, in which order, and one clear error for everything else."""

import hashlib
import io
import json
import os
import sys
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.images import containers
from robustcheck_onnx.checker.images.source import (
    ImageSource,
    Item,
    Picture,
    Skipped,
    Tensor,
    check_bad,
    open_images,
    prefetch,
)
from support import Patch, extra, normal, raised
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


def test_folder_is_recursive_and_leaves_out_what_is_no_image(tmp_path: Path) -> None:
    names = ["b.png", "a.PNG", "sub/c.JPeG", "sub/deep/é.png", "z.webp"]
    fill(tmp_path, [*names, ".hidden.png", ".git/x.png", "@eaDir/t.png", "__MACOSX/._a.png", ".DS_Store", "notes.txt"])
    source = open_images(tmp_path)
    assert (source.kind, source.n_found, len(source)) == ("folder", 5, 5)
    items = list(source.items())
    assert {item.name: level(item) for item in items} == {n: i for i, n in enumerate(names)}
    for item in items:
        assert getattr(item, "digest", "") == "sha256:" + hashlib.sha256(png(level(item))).hexdigest()


def test_order_depends_on_names_and_seed_only(tmp_path: Path, monkeypatch: Patch) -> None:
    names = [f"{i:03d}.png" for i in range(50)]
    fill(tmp_path / "one", names)
    fill(tmp_path / "two", names[::-1])
    truth = sorted(names, key=lambda name: hashlib.sha256(b"3\0" + name.encode()).digest())
    for folder in (tmp_path / "one", tmp_path / "two", f"{tmp_path}/one/*.png"):
        assert names_of(folder, seed=3) == truth
    assert names_of(tmp_path / "one", seed=4) != truth
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: ((t, d, f[::-1]) for t, d, f in walk(*a, **k)))
    assert names_of(tmp_path / "one", seed=3) == truth


def test_links_show_each_file_once_by_its_shortest_name(tmp_path: Path) -> None:
    fill(tmp_path, ["a/x.txt", "z/photo.png"])
    (tmp_path / "a" / "link").symlink_to(tmp_path / "z")
    (tmp_path / "y").symlink_to(tmp_path / "z")
    (tmp_path / "z" / "loop").symlink_to(tmp_path)
    # neither a/link/photo.png, which is longer, nor z/photo.png, which is later
    assert names_of(f"{tmp_path}/**/*/*.png") == ["y/photo.png"]
    assert names_of(tmp_path) == ["a/link/photo.png"]


def test_broken_link_and_pipe_are_named_skips(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {item.name: item for item in open_images(tmp_path).items()}
    assert reasons == {
        "gone.jpg": Skipped("gone.jpg", "cannot be read: No such file or directory"),
        "pipe.png": Skipped("pipe.png", "not a regular file"),
    }


def test_list_csv_and_jsonl(tmp_path: Path) -> None:
    odd = "odd name, with comma.data"
    fill(tmp_path, ["a.png", odd])
    rows = [{"image": "a.png", "label": 3}, {"image": str(tmp_path / odd)}]
    for file, content, labels in (
        ("l.txt", f"a.png\r\n\n{odd}\n", [None, None]),
        ("m.csv", f'\ufefflabel,file\ncat,a.png\n,"{odd}"\n', ["cat", ""]),
        ("n.csv", f'label,path,label\na,a.png,b\n\nc,"{odd}"\n', ["b", None]),  # the last of two columns counts
        ("m.jsonl", "\n".join(map(json.dumps, rows)), ["3", None]),
    ):
        (tmp_path / file).write_text(content, newline="")
        items = sorted(open_images(tmp_path / file).items(), key=level)
        assert [(level(item), getattr(item, "label", "")) for item in items] == list(enumerate(labels))


def test_bad_manifest_rows_are_usage_errors_with_their_number(tmp_path: Path) -> None:
    fill(tmp_path, ["a.png"])
    rows = (
        ("l.txt", "a.png\nb.png\n", r"l\.txt: row 2: path is b\.png; there is no such file"),
        ("l.txt", "\n", r"l\.txt: no images listed; at least one is needed"),
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
        raised(UsageError, message, open_images, tmp_path / name)


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
    code = {"0.cls": b"3", "0.pkl": b"cos\nsystem\n(S'false'\ntR.", "0.seg.png": png(99), "./._0.png": b"mac"}
    shard(tmp_path / "s-000.tar", {"./0.png": png(0), **code, "d/1.v2.png": png(1)})
    shard(tmp_path / "s-001.TAR", {"2.PNG": png(2), "3.jpg": b""})
    for spec in (tmp_path, f"{tmp_path}/s-*"):
        source = open_images(spec)
        found = sorted(source.items(), key=lambda item: item.name)
        assert found.pop() == Skipped("s-001.TAR/3.jpg", "empty file")
        assert [level(item) for item in found] == [0, 1, 2]
        assert [item.name for item in found] == ["s-000.tar/0.png", "s-000.tar/d/1.v2.png", "s-001.TAR/2.PNG"]
        assert source.kind == "tar"


def test_damaged_files_are_never_read_in_part(tmp_path: Path) -> None:
    tar = shard(tmp_path / "s.tar", {f"{i}.png": png(i) for i in range(5)}).read_bytes()
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 4)))
    for name, content, message in (
        ("cut.tar", tar[:1300], "tar file is damaged"),
        ("broken.tar", tar[:2048] + b"\x55" * 512 + tar[2560:], "damaged after 2 members"),  # the third one's header
        ("text.tar", b"no tar at all" * 100, "tar file is damaged"),
        ("x.npy", (tmp_path / "x.npy").read_bytes()[:300], "file is not a plain array"),
        ("t.npz", b"text", "file is not a plain array"),
        ("notes.md", b"x", "no images found among 1 files"),
    ):
        (tmp_path / name).write_bytes(content)
        raised(CannotAssessError, f"{name}: .*{message}", open_images, tmp_path / name)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., None]:
    """Writes a Parquet file of columns."""
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    return lambda name, **columns: parquet.write_table(pyarrow.table(columns), tmp_path / name, row_group_size=3)


def test_parquet(tmp_path: Path, save: Callable[..., None], monkeypatch: Patch) -> None:
    monkeypatch.setattr(containers, "WINDOW", 4)  # several windows over few rows
    for file, levels in enumerate((range(10), range(10, 20))):
        cells = [{"bytes": png(i), "path": f"{i}.png"} if file else png(i) for i in levels]
        save(f"part-{file}.parquet", label=levels, image=cells)
    (tmp_path / "README.md").write_text("a data card")
    source = open_images(tmp_path, seed=1)
    assert (source.kind, len(source)) == ("parquet", 20)
    found = [level(item) for item in prefetch(source, lambda item: item, workers=3, window=6)]
    names = [f"part-{i // 10}.parquet#{i % 10:08d}" for i in found]
    assert (names, sorted(found)) == (list(source.entries.names()), list(range(20)))
    assert [level(source.load(i)) for i in (19, 0, 7)] == [found[i] for i in (19, 0, 7)]


def test_parquet_rows_without_bytes(tmp_path: Path, save: Callable[..., None]) -> None:
    fill(tmp_path, ["inside.bin"])
    paths = ("inside.bin", "gone.png", "../x.png", None)
    save("t.parquet", image=[{"bytes": None, "path": path} for path in paths] + [{"bytes": b"", "path": None}])
    first, *others = sorted(open_images(tmp_path / "t.parquet").items(), key=lambda item: item.name)
    assert level(first) == 0
    assert [getattr(item, "reason", "") for item in others] == [
        "cannot be read: No such file or directory",
        "path ../x.png leaves the data set's folder",
        "no bytes in this row",
        "empty file",
    ]


def test_arrow_data_set_of_hugging_face(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    table = pyarrow.table({"img": [png(i) for i in range(5)], "n": range(5)})
    for name in ("data-00000-of-00001.arrow", "cache-1.arrow"):
        with pyarrow.ipc.new_stream(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    assert sorted(level(item) for item in open_images(tmp_path).items()) == [0, 1, 2, 3, 4]


def test_data_sets_without_pyarrow_name_the_extra(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    caught = raised(EnvironmentFaultError, "package pyarrow is not installed", open_images, tmp_path / "t.parquet")
    assert caught.hint == extra("data")


def test_bad_parquet(tmp_path: Path, save: Callable[..., None]) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    raised(CannotAssessError, r"bad\.parquet: Parquet file is damaged", open_images, tmp_path / "bad.parquet")
    save("text.parquet", text=["a"])
    raised(UsageError, r"columns are text \(string\); one must be named image", open_images, tmp_path / "text.parquet")


def test_npy_and_npz(tmp_path: Path) -> None:
    values = normal(4, 3, 6, 5).astype(np.float32)
    values[2, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", values)
    np.savez(tmp_path / "x.npz", a=values[:1].astype(np.float64), b=values[1:2].astype(np.float16))
    *_, bad, last = sorted(open_images(tmp_path / "x.npy").items(), key=lambda item: item.name)
    assert bad == Skipped("x.npy#00000002", "values that are not finite")
    assert isinstance(last, Tensor)
    assert (last.name, last.values.dtype.name, last.digest[:7]) == ("x.npy#00000003", "float32", "sha256:")
    np.testing.assert_array_equal(last.values, values[3])
    assert sorted(names_of(tmp_path / "x.npz")) == ["x.npz/a#00000000", "x.npz/b#00000000"]


def test_bad_arrays(tmp_path: Path) -> None:
    for array, said in (
        (np.zeros((2, 6, 5, 3)), r"array: shape is \(2, 6, 5, 3\); it must be \(batch, 1 or 3 channels"),
        (np.zeros((0, 3, 5, 5)), r"shape is \(0, 3, 5, 5\)"),
        (np.zeros((1, 3, 5, 5), np.complex64), "dtype is complex64; it must be float or unsigned"),
        (np.array([{"pickle": 1}]), "x.npy: file is not a plain array"),
    ):
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
        raised(CannotAssessError if "plain" in said else UsageError, said, open_images, tmp_path / "x.npy")
    # a model of free height and width would take them until two meet in a batch
    np.savez(tmp_path / "x.npz", a=np.zeros((1, 3, 8, 8)), b=np.zeros((2, 3, 9, 8)))
    said = r"x\.npz: array b: images \(channel, height, width\) are \(3, 9, 8\), those of array a \(3, 8, 8\)"
    raised(UsageError, said, open_images, tmp_path / "x.npz")


def test_missing_empty_mixed_and_unreadable(tmp_path: Path, monkeypatch: Patch) -> None:
    fill(tmp_path, ["mixed/a.png", "mixed/s.tar", "gz/s.tar.gz"])
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    shard(tmp_path / "none.tar", {"a.txt": b"x"})
    monkeypatch.chdir(tmp_path)
    for spec, message in {
        "nowhere": r"^nowhere: image set is not readable \(No such file or directory\)",
        "": "^images is ''; it must be a folder",  # not the current folder
        " ": "images is ' '; it must be a folder",
        "empty": "no images found among 0 files",
        "empty/*.png": "no images found among 0 files",
        "pipe": "pipe: image set is not a regular file or folder",
        "mixed": r"content is a mixture \(images, \.tar\); an image set must be of one kind",
        "none.tar": r"no images found in 1 tar file\(s\)",
        "gz/s.tar.gz": r"s\.tar\.gz: shard is compressed; shards must be plain \.tar",
    }.items():
        raised(CannotAssessError if "among" in message else UsageError, message, open_images, spec)
    raised(UsageError, "limit: number of images is 0; it must be at least 1", open_images, "mixed", limit=0)
    Rights(monkeypatch).closed.add("empty")
    raised(UsageError, r"folder cannot be read \(Permission denied\); all folders", open_images, "empty")


class Rights:
    """The system's answers about folders, played: root, whom no permission stops, may run the tests."""

    def __init__(self, monkeypatch: Patch) -> None:
        self.unlisted: set[str] = set()
        """folders without r: their names can't be had"""
        self.closed: set[str] = set()
        """folders without r and x: nothing in them can be reached"""

        def refuse(real: Callable[..., Any], refused: Callable[[Any], bool], path: Any = ".", **more: Any) -> Any:
            if not isinstance(path, int) and refused(path):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, **more)

        def is_unlisted(path: Any) -> bool:
            return Path(path).name in self.unlisted | self.closed

        def is_unreached(path: Any) -> bool:
            return Path(os.path.dirname(path)).name in self.closed  # noqa: PTH120 # "x/."

        monkeypatch.setattr(os, "scandir", partial(refuse, os.scandir, is_unlisted))
        monkeypatch.setattr(os, "lstat", partial(refuse, os.lstat, is_unreached))


@pytest.mark.parametrize("pattern", ["*/b.png", "**/*.png", "*/deep/*.png", "closed/*.png"])
def test_a_glob_passes_by_no_folder_that_it_has_to_enter(tmp_path: Path, monkeypatch: Patch, pattern: str) -> None:
    fill(tmp_path, ["a.png", "open/b.png", "open/deep/c.png", "closed/b.png", "closed/deep/c.png"])
    monkeypatch.chdir(tmp_path)
    assert len(open_images(pattern)) > 0
    Rights(monkeypatch).closed.add("closed")
    for start in ("", f"{tmp_path}/"):
        where = rf"^({start}|\./)?closed: folder cannot be read \(Permission denied\); all folders of an image set"
        caught = raised(UsageError, where, open_images, start + pattern)
    assert caught.hint == f"ls -ld {tmp_path}/closed"


def test_a_glob_needs_no_folder_that_it_does_not_enter(tmp_path: Path, monkeypatch: Patch) -> None:
    fill(tmp_path, ["a.png", "home/photos/b.png", "x/photos/c.png", "x/other/d.png", "x/@eaDir/e.png", "x/.h/f.png"])
    rights = Rights(monkeypatch)
    rights.unlisted.add("home")  # only its owner may list it, but everyone may pass through
    rights.closed |= {"other", "@eaDir", ".h"}
    for pattern in ("*/photos/*.png", "*/photos/**/*.png"):
        assert names_of(f"{tmp_path}/{pattern}") == ["home/photos/b.png", "x/photos/c.png"]
    assert names_of(f"{tmp_path}/*.png") == ["a.png"]
    rights.closed.remove("other")
    assert names_of(f"{tmp_path}/x/*/*.png") == ["other/d.png", "photos/c.png"]
    raised(UsageError, "/home: folder cannot be read", open_images, f"{tmp_path}/*/*/*.png")


def test_check_bad() -> None:
    for share in (float("nan"), -0.1, 1.1):
        raised(UsageError, "must be 0 to 1", check_bad, 100, 99, share)
    bad = [Skipped("a.jpg", "empty file")]
    check_bad(100, 1, 0.01, bad)
    check_bad(1, 0, 0.0)
    for read, n_bad, limit, message in (
        (100, 2, 0.01, r"unusable images is 2 of 100 \(a.jpg: empty file\); at most 1.00% may be\n"),
        (3, 3, 1.0, "no usable images among 3"),
        (0, 0, 1.0, "no usable images among 0"),
    ):
        raised(CannotAssessError, message, check_bad, read, n_bad, limit, bad)


@pytest.fixture
def thirty(tmp_path: Path) -> tuple[ImageSource, list[str]]:
    """A folder of 30 images, and their names in order."""
    source = open_images(fill(tmp_path, [f"{i}.png" for i in range(30)]))
    return source, list(source.entries.names())


def test_prefetch_keeps_order_and_bounds_what_waits(thirty: tuple[ImageSource, list[str]]) -> None:
    source, names = thirty
    started = []
    others = threading.Event()

    def slow_first(item: Item) -> str:
        started.append(item.name)
        if len(started) >= 5:
            others.set()  # by whichever thread comes last, the first image's, too
        if item.name == names[0]:
            assert others.wait(PATIENCE_S)
        return item.name

    results = prefetch(source, slow_first, workers=4, window=5)
    assert next(results) == names[0]
    assert len(started) <= 6
    assert list(results) == names[1:]


def test_prefetch_begins_nothing_behind_a_likely_stop(thirty: tuple[ImageSource, list[str]]) -> None:
    source, names = thirty
    started = []
    results = prefetch(source, lambda item: started.append(item.name), workers=4, window=20, stops=(7, 9))
    for _ in range(7):
        next(results)
    assert sorted(started) == sorted(names[:7])
    next(results)
    assert len(started) <= 9
    assert len([*results]) == 22


def test_prefetch_surfaces_exceptions_and_stops_its_threads(thirty: tuple[ImageSource, list[str]]) -> None:
    source, names = thirty
    before = threading.active_count()

    def fails(item: Item) -> str:
        if item.name == names[3]:
            raise ValueError("third")
        return item.name

    results = prefetch(source, fails, workers=2, window=4)
    assert [next(results) for _ in range(3)] == names[:3]
    raised(ValueError, "third", next, results)
    stopped = prefetch(source, fails, workers=2, window=4)
    next(stopped)
    stopped.close()
    assert threading.active_count() == before
