"""Image sources: what counts as an image, in which order, one clear error for everything else; digests; thumbnails."""

import base64
import hashlib
import io
import json
import os
import pickle
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from robustcheck_onnx.checker.core.evidence import SeenImage
from robustcheck_onnx.checker.core.images import source as images
from robustcheck_onnx.checker.core.images.source import Digests, Item, Skipped, digest_of_set, prefetch
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.outside.image_sets import containers, thumbnails
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from support import PATIENCE_S, Patch, extra, normal, raised
from support.stores import fill, png, shard


def names_of(spec: Any, **options: Any) -> list[str]:
    return [entry.name for entry in open_images(spec, **options).entries]


def by_name(source: images.ImageSource) -> list[Item]:
    return sorted(source.items(), key=lambda item: item.name)


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def level(item: Item) -> int:
    assert isinstance(item, images.DecodedImage), item
    value = item.image.getpixel((0, 0))
    assert isinstance(value, tuple)
    return int(value[0])


def test_folder_is_recursive_and_leaves_out_what_is_no_image() -> None:
    names = ["b.png", "a.PNG", "sub/c.JPeG", "sub/deep/é.png", "z.webp"]
    fill([*names, ".hidden.png", ".git/x.png", "@eaDir/t.png", "__MACOSX/._a.png", ".DS_Store", "notes.txt"])
    source = open_images(".")
    assert (source.kind, source.n_available, len(source)) == ("folder", 5, 5)
    found = {item.name: (level(item), getattr(item, "digest", "")) for item in source.items()}
    assert found == {n: (i, digest_of(png(i))) for i, n in enumerate(names)}


def test_order_depends_on_names_and_seed_only(monkeypatch: Patch) -> None:
    names = [f"{i:03d}.png" for i in range(50)]
    fill(names)
    truth = sorted(names, key=lambda name: hashlib.sha256(b"3\0" + name.encode()).digest())
    walk = os.walk
    for _ in range(2):
        assert names_of(".", seed=3) == names_of("*.png", seed=3) == truth
        monkeypatch.setattr(os, "walk", lambda *a, **k: ((t, d, f[::-1]) for t, d, f in walk(*a, **k)))
    assert names_of(".", seed=4) != truth


def test_links_show_each_file_once_by_its_shortest_name() -> None:
    fill(["a/x.txt", "z/photo.png"])
    for link, target in (("a/link", "z"), ("y", "z"), ("z/loop", "")):
        Path(link).symlink_to(Path(target).absolute())
    # neither a/link/photo.png, which is longer, nor z/photo.png, which is later
    assert names_of("**/*/*.png") == ["y/photo.png"]
    assert names_of(".") == ["a/link/photo.png"]


def test_broken_link_and_pipe_are_named_skips() -> None:
    Path("gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo("pipe.png")
    gone, pipe = by_name(open_images("."))
    assert gone == Skipped("gone.jpg", "cannot be read: No such file or directory")
    assert pipe == Skipped("pipe.png", "not a regular file")


def test_list_csv_and_jsonl() -> None:
    odd = "odd name, with comma.data"
    fill(["a.png", odd])
    rows = [{"image": "a.png", "label": 3}, {"image": str(Path(odd).resolve())}]
    for file, content, labels in (
        ("l.txt", f"a.png\r\n\n{odd}\n", [None, None]),
        ("m.csv", f'\ufefflabel,file\ncat,a.png\n,"{odd}"\n', ["cat", ""]),
        ("n.csv", f'label,path,label\na,a.png,b\n\nc,"{odd}"\n', ["b", None]),  # the last of two columns counts
        ("m.jsonl", "\n".join(map(json.dumps, rows)), ["3", None]),
    ):
        Path(file).write_text(content, newline="")
        items = sorted(open_images(file).items(), key=level)
        assert [(level(item), getattr(item, "label", "")) for item in items] == list(enumerate(labels))


def test_bad_manifest_rows_are_usage_errors_with_their_number() -> None:
    fill(["a.png"])
    rows = (
        ("l.txt", "a.png\nb.png\n", r"l\.txt: row 2: path is b\.png; there is no such file"),
        ("l.txt", "\n", r"l\.txt: no images listed; at least one is needed"),
        ("l.txt", "a" * 5000, r"l\.txt: row 1: path is a+; there is no such file"),  # longer than any file's name
        ("m.csv", "path\na.png\nb.png\n", r"m\.csv: row 3: path is b\.png; there is no such file"),
        ("m.csv", "path,label\n,x\n", r"m\.csv: row 2: path is ''; it must be the path of an image"),
        ("m.csv", "name\na.png\n", r"row 2 has the columns name; one of path, image, file must name the image"),
        ("m.csv", "path\na.png,x\n", "row 2 has more cells than columns"),
        ("m.csv", 'path\n"a.png\n', r"row \d is not CSV"),
        ("m.jsonl", '{"path": "a.png"}\n{"path": }\n', r"m\.jsonl: row 2 is not JSON"),
        ("m.jsonl", '["a.png"]', r"m\.jsonl: row 1 is \[\"a\.png\"\]; each row must be a JSON object"),
        ("m.jsonl", '{"path": 7}', r"m\.jsonl: row 1: path is 7; it must be the path of an image"),
        ("m.jsonl", '{"path": "s3://b/\\ud800"}', r"path is 's3://b/\\ud800'; it must be the path of an image"),
        ("m.csv", b"path\n\xff.png\n", r"m\.csv: file is not readable UTF-8 text"),
    )
    for name, content, message in rows:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        raised(UsageError, message, open_images, name)


def test_tar_shards_give_images_and_touch_nothing_else() -> None:
    code = {"0.cls": b"3", "0.pkl": b"cos\nsystem\n(S'false'\ntR.", "0.seg.png": png(99), "./._0.png": b"mac"}
    shard("s-000.tar", {"./0.png": png(0), **code, "d/1.v2.png": png(1)})
    with tarfile.open(shard("s-001.TAR", {"2.PNG": png(2), "3.jpg": b""}), "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    for spec in (".", "s-*"):
        source = open_images(spec)
        *found, last = by_name(source)
        assert last == Skipped("s-001.TAR/3.jpg", "empty file")
        names = ["s-000.tar/0.png", "s-000.tar/d/1.v2.png", "s-001.TAR/2.PNG"]
        assert ([(level(item), item.name) for item in found], source.kind) == (list(enumerate(names)), "tar")


def test_damaged_files_are_never_read_in_part() -> None:
    tar = shard("s.tar", {f"{i}.png": png(i) for i in range(5)}).read_bytes()
    np.save("x.npy", np.zeros((2, 3, 4, 4)))
    for name, content, message in (
        ("cut.tar", tar[:1300], "tar file is damaged"),
        ("broken.tar", tar[:2048] + b"\x55" * 512 + tar[2560:], "damaged after 2 members"),  # the third one's header
        ("text.tar", b"no tar at all" * 100, "tar file is damaged"),
        ("x.npy", Path("x.npy").read_bytes()[:300], "file is not a plain array"),
        ("t.npz", b"text", "file is not a plain array"),
        ("notes.md", b"x", "no images found among 1 files"),
    ):
        Path(name).write_bytes(content)
        raised(CannotAssessError, f"{name}: .*{message}", open_images, name)


@pytest.fixture
def save() -> Any:
    """Writes a Parquet file of columns."""
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    return lambda name, **columns: parquet.write_table(pyarrow.table(columns), name, row_group_size=3)


def test_parquet(save: Any, monkeypatch: Patch) -> None:
    monkeypatch.setattr(containers, "WINDOW", 4)  # several windows over few rows
    save("part-0.parquet", label=range(10), image=[png(i) for i in range(10)])
    save("part-1.parquet", image=[{"bytes": png(i), "path": f"{i}.png"} for i in range(10, 20)])
    Path("README.md").write_text("a data card")
    source = open_images(".", seed=1)
    assert source.kind == "parquet"
    found = [level(item) for item in prefetch(source, lambda item: item, workers=3, window=6)]
    assert sorted(found) == list(range(20))
    assert list(source.entries.names()) == [f"part-{i // 10}.parquet#{i % 10:08d}" for i in found]
    assert [level(source.load(i)) for i in (19, 0, 7)] == [found[i] for i in (19, 0, 7)]


def test_parquet_rows_without_bytes(save: Any) -> None:
    fill(["inside.bin"], "set")
    paths = ("inside.bin", "gone.png", "../x.png", None)
    save("set/t.parquet", image=[{"bytes": None, "path": path} for path in paths] + [{"bytes": b"", "path": None}])
    first, *others = by_name(open_images("set/t.parquet"))
    assert level(first) == 0
    reasons = ["cannot be read: No such file or directory", "path ../x.png leaves the data set's folder"]
    reasons += ["no bytes in this row", "empty file"]
    assert [getattr(item, "reason", "") for item in others] == reasons


def test_arrow_data_set_of_hugging_face() -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    table = pyarrow.table({"img": [png(i) for i in range(5)], "n": range(5)})
    for name in ("data-00000-of-00001.arrow", "cache-1.arrow"):
        with pyarrow.ipc.new_stream(name, table.schema) as writer:
            writer.write_table(table)
    assert sorted(map(level, open_images(".").items())) == [0, 1, 2, 3, 4]


def test_bad_parquet_and_parquet_without_pyarrow(save: Any, monkeypatch: Patch) -> None:
    bad = "bad.parquet"
    Path(bad).write_bytes(b"PAR1 nothing")
    raised(CannotAssessError, r"bad\.parquet: Parquet file is damaged", open_images, bad)
    save("text.parquet", text=["a"])
    raised(UsageError, r"columns are text \(string\); one must be named image", open_images, "text.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    caught = raised(EnvironmentFaultError, "package pyarrow is not installed", open_images, bad)
    assert caught.hint == extra("data")


def test_npy_and_npz() -> None:
    values = normal(4, 3, 6, 5).astype(np.float32)
    values[2, 0, 0, 0] = np.nan
    np.save("x.npy", values)
    *_, bad, last = by_name(open_images("x.npy"))
    assert bad == Skipped("x.npy#00000002", "values that are not finite")
    assert isinstance(last, images.Tensor)
    assert (last.name, last.values.dtype.name, last.digest[:7]) == ("x.npy#00000003", "float32", "sha256:")
    np.testing.assert_array_equal(last.values, values[3])
    np.savez("x.npz", a=values[:1].astype(np.float64), b=values[1:2].astype(np.float16))
    assert sorted(names_of("x.npz")) == ["x.npz/a#00000000", "x.npz/b#00000000"]
    for array, said in (
        (np.zeros((2, 6, 5, 3)), r"array: shape is \(2, 6, 5, 3\); it must be \(batch, 1 or 3 channels"),
        (np.zeros((0, 3, 5, 5)), r"shape is \(0, 3, 5, 5\)"),
        (np.zeros((1, 3, 5, 5), np.complex64), "dtype is complex64; it must be float or unsigned"),
        (np.array([{"pickle": 1}]), "x.npy: file is not a plain array"),
    ):
        np.save("x.npy", array)
        raised(CannotAssessError if "plain" in said else UsageError, said, open_images, "x.npy")
    # a model of free height and width would take them until two meet in a batch
    np.savez("x.npz", a=np.zeros((1, 3, 8, 8)), b=np.zeros((2, 3, 9, 8)))
    said = r"x\.npz: array b: images \(channel, height, width\) are \(3, 9, 8\), those of array a \(3, 8, 8\)"
    raised(UsageError, said, open_images, "x.npz")


def test_missing_empty_mixed_and_unreadable(monkeypatch: Patch) -> None:
    fill(["mixed/a.png", "mixed/s.tar", "gz/s.tar.gz"])
    Path("empty").mkdir()
    os.mkfifo("pipe")
    shard("none.tar", {"a.txt": b"x"})
    for spec, message in {
        "nowhere": r"^nowhere: image set is not readable \(No such file or directory\)",
        "": "^images is ''; it must be a folder",  # not the current folder
        " ": "images is ' '; it must be a folder",
        **dict.fromkeys(("empty", "empty/*.png"), "no images found among 0 files"),
        "pipe": "pipe: image set is not a regular file or folder",
        "mixed": r"content is a mixture \(images, \.tar\); an image set must be of one kind",
        "none.tar": r"no images found in 1 tar file\(s\)",
        "gz/s.tar.gz": r"s\.tar\.gz: shard is compressed; shards must be plain \.tar",
    }.items():
        raised(CannotAssessError if "among" in message else UsageError, message, open_images, spec)
    raised(UsageError, "limit: number of images is 0; it must be at least 1", open_images, None, limit=0)
    refuse(monkeypatch, {"empty"})
    raised(UsageError, r"folder cannot be read \(Permission denied\); all folders", open_images, "empty")


def refuse(monkeypatch: Patch, closed: set[str], unlisted: str = "-") -> None:
    """The system's answers, played: root, whom no permission stops, may run the tests.

    Nothing in a closed folder (without r and x) can be reached, the names in an unlisted one (without r) can't be had.
    """

    def ask(real: Any, path: Any, folder: str) -> Any:
        if not isinstance(path, int) and (folder in closed or (folder == unlisted and real is scandir)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    scandir, lstat = os.scandir, os.lstat
    monkeypatch.setattr(os, "scandir", lambda path=".": ask(scandir, path, Path(str(path)).name))
    monkeypatch.setattr(os, "lstat", lambda path: ask(lstat, path, f"/{path}".split("/")[-2]))  # "x/.": through x


@pytest.mark.parametrize("pattern", ["*/b.png", "**/*.png", "*/deep/*.png", "closed/*.png"])
def test_a_glob_passes_by_no_folder_that_it_has_to_enter(monkeypatch: Patch, pattern: str) -> None:
    fill(["a.png", "open/b.png", "open/deep/c.png", "closed/b.png", "closed/deep/c.png"])
    assert len(open_images(pattern)) > 0
    refuse(monkeypatch, {"closed"})
    for start in ("", f"{Path.cwd()}/"):
        where = rf"^({start}|\./)?closed: folder cannot be read \(Permission denied\); all folders of an image set"
        caught = raised(UsageError, where, open_images, start + pattern)
    assert caught.hint == f"ls -ld {Path.cwd()}/closed"


def test_a_glob_needs_no_folder_that_it_does_not_enter(monkeypatch: Patch) -> None:
    fill(["a.png", "home/photos/b.png", "x/photos/c.png", "x/other/d.png", "x/@eaDir/e.png", "x/.h/f.png"])
    closed = {"other", "@eaDir", ".h"}
    refuse(monkeypatch, closed, "home")  # only its owner may list it, but everyone may pass through
    for pattern in ("*/photos/*.png", "*/photos/**/*.png"):
        assert names_of(pattern) == ["home/photos/b.png", "x/photos/c.png"]
    assert names_of("*.png") == ["a.png"]
    closed.remove("other")
    assert names_of("x/*/*.png") == ["other/d.png", "photos/c.png"]
    raised(UsageError, "home: folder cannot be read", open_images, "*/*/*.png")


def test_check_bad() -> None:
    bad = [Skipped("a.jpg", "empty file")]
    images.check_bad(100, 1, 0.01, bad)
    images.check_bad(1, 0, 0.0)
    for read, n_bad, limit, message in (
        *((100, 99, wrong, "must be 0 to 1") for wrong in (float("nan"), -0.1, 1.1)),
        (100, 2, 0.01, r"unusable images is 2 of 100 \(a.jpg: empty file\); at most 1.00% may be\n"),
        (3, 3, 1.0, "no usable images among 3"),
        (0, 0, 1.0, "no usable images among 0"),
    ):
        kind = UsageError if "must" in message else CannotAssessError
        raised(kind, message, images.check_bad, read, n_bad, limit, bad)


Thirty = tuple[images.ImageSource, list[str]]


@pytest.fixture
def thirty() -> Thirty:
    """A folder of 30 images, and their names in order."""
    source = open_images(fill([f"{i}.png" for i in range(30)]))
    return source, list(source.entries.names())


def test_prefetch_keeps_order_and_bounds_what_waits(thirty: Thirty) -> None:
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


def test_prefetch_begins_nothing_behind_a_likely_stop(thirty: Thirty) -> None:
    source, names = thirty
    started = []
    results = prefetch(source, lambda item: started.append(item.name), workers=4, window=20, stops=(7, 9))
    for _ in range(7):
        next(results)
    assert sorted(started) == sorted(names[:7])
    next(results)
    assert len(started) <= 9
    assert len([*results]) == 22


def test_prefetch_surfaces_exceptions_and_stops_its_threads(thirty: Thirty) -> None:
    source, names = thirty
    before = threading.active_count()

    def fails(item: Item) -> str:
        if item.name == names[3]:
            raise ValueError("third")
        return item.name

    for n in (3, 1):
        results = prefetch(source, fails, workers=2, window=4)
        assert [next(results) for _ in range(n)] == names[:n]
        if n == 3:
            raised(ValueError, "third", next, results)
        results.close()
    assert threading.active_count() == before


SOME = st.lists(st.binary(min_size=32, max_size=32).map(lambda content: f"sha256:{content.hex()}"), max_size=20)


def test_digest_of_a_set_ignores_order_and_counts_repeats() -> None:
    assert digest_of_set(["sha256:b", "sha256:a"]) == digest_of_set(["sha256:a", "sha256:b"])
    assert digest_of_set(["sha256:a"]) == digest_of(b"sha256:a\n")
    assert digest_of_set(["sha256:a", "sha256:a"]) != digest_of_set(["sha256:a"])
    assert digest_of_set([]) == digest_of_set(Digests()) == digest_of(b"")


@given(SOME, SOME)
def test_they_are_the_strings_in_less_memory(first: list[str], second: list[str]) -> None:
    joined = Digests(first) + Digests(second)
    assert (list(joined), list(joined.sorted())) == (first + second, sorted(first + second))
    assert digest_of_set(joined) == digest_of_set(first + second)
    assert list(pickle.loads(pickle.dumps(joined))) == first + second
    assert len(pickle.dumps(joined)) < 200 + 32 * len(joined)


def test_anything_else_is_refused() -> None:
    for wrong in ["", "sha256:", "sha256:" + "0" * 62, "md5:" + "0" * 64, "0" * 64]:
        raised(ValueError, "64 hexadecimal digits", Digests, [wrong])
        with pytest.raises(IndexError):
            Digests()[0]


RED, BLUE = (220, 20, 20), (20, 20, 220)


def two_coloured(name: str, orientation: int = 1) -> str:
    """A photo that is red left and blue right as stored; returns its digest."""
    image = Image.new("RGB", (300, 120), RED)
    image.paste(BLUE, (150, 0, 300, 120))
    exif = Image.Exif()
    exif.update({0x0112: orientation, 0x010E: "secret place"})
    image.save(name, exif=exif, comment=b"secret comment", quality=95)
    return digest_of(Path(name).read_bytes())


def made(folder: str, names: dict[str, str]) -> thumbnails.Thumbnails:
    """The thumbnails of the images with these digests and names."""
    wanted = [SeenImage(name=name, digest=known, kurtosis=1.0, z=()) for known, name in names.items()]
    return thumbnails.make_thumbnails(wanted, folder)


def opened(uri: str) -> Image.Image:
    """The picture, which holds pixels only."""
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    content = base64.b64decode(body)
    image = Image.open(io.BytesIO(content))
    image.load()
    assert (dict(image.getexif()), "comment" in image.info, b"secret" in content) == ({}, False, False)
    return image


def test_a_thumbnail_is_small_upright_and_holds_pixels_only() -> None:
    plain, turned = two_coloured("plain.jpg"), two_coloured("turned.jpg", orientation=6)  # 6: turn clockwise
    found = made(".", {plain: "plain.jpg", turned: "turned.jpg"})
    assert (found.missing, set(found.uris)) == ({}, {plain, turned})
    # left turned clockwise is up
    for known, size, red, blue in ((plain, (96, 38), (10, 19), (85, 19)), (turned, (38, 96), (19, 10), (19, 85))):
        image = opened(found.uris[known])
        assert image.size == size
        assert image.getpixel(red) == pytest.approx(RED, abs=12)
        assert image.getpixel(blue) == pytest.approx(BLUE, abs=12)


def test_what_changed_is_gone_or_broken_is_left_out_with_a_word() -> None:
    for folder, orientation in (("a", 1), ("b", 3)):  # of two files of one name the one that was measured is taken
        Path(folder).mkdir()
        good = two_coloured(f"{folder}/x.jpg", orientation)
    two_coloured("changed.jpg")
    Path("broken.jpg").write_bytes(b"\xff\xd8 no photo")
    broken = digest_of(b"\xff\xd8 no photo")
    names = {good: "b/x.jpg", "sha256:0": "changed.jpg", "sha256:1": "gone.jpg", broken: "broken.jpg"}
    found = made(".", names)
    assert opened(found.uris.pop(good)).getpixel((10, 19)) == pytest.approx(BLUE, abs=12)
    assert found.uris == {}
    assert "decode" in found.missing.pop(broken)
    assert found.missing.pop("sha256:0") == "the file is not the one that was measured"
    assert found.missing == {"sha256:1": "not found again"}
    assert "could not be opened again" in made("nowhere", names).missing[good]


def test_tensors_have_none() -> None:
    np.save("t.npy", np.zeros((1, 3, 4, 4), np.float32))
    known = str(open_images("t.npy").digest(0))
    found = made("t.npy", {known: "t.npy#00000000"})
    assert (found.uris, found.missing) == ({}, {known: "given as a preprocessed tensor"})
