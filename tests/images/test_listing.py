"""A million rows: the order that it always had, entries made when asked for, files of late rows looked for late. Images
behind URLs: the same evidence as from here, whatever form the set has.
"""

import copy
import hashlib
import itertools
import json
import os
import pickle
import tracemalloc
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.random import default_rng

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.images import entries
from robustcheck_onnx.checker.core.images import source as images
from robustcheck_onnx.checker.core.images.source import DecodedImage, Skipped, prefetch
from robustcheck_onnx.checker.core.measure.opening import open_job
from robustcheck_onnx.checker.core.measure.probe import probe
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.outside.image_sets import files, listing, manifests
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.outside.storage.stores import open_url
from robustcheck_onnx.checker.outside.workers import run_jobs as run
from robustcheck_onnx.thresholds import profile
from support import Patch, Place, normal, raised
from support.measuring import job as new_job
from support.stores import ODD, contents, fill, png, put, shard, url_of


def order_by_definition(names: Sequence[str], seed: int) -> list[int]:
    """Sorted bytewise by NFC name (then by name), then, stably, by sha256(seed, NFC name)."""
    nfc = [unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape") for name in names]
    digests = [hashlib.sha256(f"{seed}\0".encode() + one).digest() for one in nfc]
    return sorted(range(len(names)), key=lambda i: (digests[i], nfc[i], names[i].encode("utf-8", "surrogateescape")))


AWKWARD = ["é.png", "e\u0301.png", "é.png", "b", "b", "a\udc80.jpg", "ｚ.png", "z.png", "日本.jpg", "b", "ﬁ.png", ""]


def test_order_is_the_definition() -> None:
    names = AWKWARD + [f"n{i % 97:03d}/{i}.JPEG" for i in range(3000)] + AWKWARD[::-1]
    for seed in (0, -7, 2**40):
        for some in (names, [], ["one"]):
            assert images.seeded(some, seed).tolist() == order_by_definition(some, seed)


def test_digests_that_begin_alike_are_told_apart(monkeypatch: Patch) -> None:
    real = hashlib.sha256

    def weak(data: bytes) -> SimpleNamespace:
        """The first 8 bytes take three values only, the other 24 none but the hash's own."""
        digest = real(data).digest()
        return SimpleNamespace(digest=lambda: bytes(7) + bytes([digest[0] % 3]) + digest[8:])

    names = AWKWARD + [f"{i}.png" for i in range(200)]
    strong = order_by_definition(names, 5)
    monkeypatch.setattr(images.hashlib, "sha256", weak)  # type: ignore[attr-defined] # the module, here and there
    assert images.seeded(names, 5).tolist() == order_by_definition(names, 5) != strong


def test_entries_are_made_when_asked_for() -> None:
    made = []

    def make(place: int) -> entries.ListedImage:
        made.append(place)
        return entries.ListedImage(str(place), lambda: b"", row=place)

    order = default_rng(0).permutation(500)
    drawn = entries.Entries.listed([str(place) for place in range(500)], make).take(order)[10:490]
    assert ([*drawn.names()], made) == ([str(place) for place in order[10:490]], [])
    assert [entry.row for entry in drawn] == made == order[10:490].tolist()


def names_in(n: int, folder: str = ".") -> list[str]:
    """The names of pictures, written to the folder."""
    names = [f"{i:03d}.png" for i in range(n)]
    fill(names, folder)
    return names


def write(name: str, rows: Sequence[str]) -> str:
    """A list or manifest of the kind that its suffix says; returns its name."""
    lines = [json.dumps({"image": row}) for row in rows] if name.endswith(".jsonl") else rows
    Path(name).write_text("\n".join([*["path"] * name.endswith(".csv"), *lines]))
    return name


def digest_of(names: Sequence[str]) -> str:
    return hashlib.sha256("".join(f"{name}\0" for name in names).encode()).hexdigest()


def test_every_row_comes_once_with_its_file() -> None:
    names = names_in(40, "set")  # rows are relative to the folder of the list
    ordered = [names[i] for i in order_by_definition(names, 3)]
    for kind in ("txt", "csv", "jsonl"):
        manifest = write(f"set/m.{kind}", names)
        source = open_images(manifest, seed=3)
        assert [(entry.name, entry.origin) for entry in source.entries] == [(n, f"set/{n}") for n in ordered]
        for item in source.items():
            assert isinstance(item, DecodedImage)
            assert (item.image.getpixel((0, 0)), item.label) == ((int(item.name[:3]), 0, 0), None)
        assert source.names_digest == digest_of(ordered)
        first, names_of_29 = open_images(manifest, seed=3, limit=29), ordered[:29]
        assert ([*first.entries.names()], first.n_available) == (names_of_29, 40)
        assert first.names_digest == digest_of(names_of_29)


def test_a_late_row_without_a_file_is_told_when_read_never_skipped(monkeypatch: Patch) -> None:
    names = names_in(12)
    Path("dir").mkdir()
    for kind, row, column in (("csv", 14, "path"), ("jsonl", 13, "image")):
        manifest = write(f"m.{kind}", [*names, "gone.png", "dir"])
        early = raised(UsageError, f"row {row}: {column} is gone.png; there is", open_images, manifest)
        monkeypatch.setattr(files, "CHECKED_ROWS", 12)
        source = open_images(manifest)
        for index, entry in enumerate(source.entries):
            if entry.name in names:
                assert isinstance(source.load(index), DecodedImage)
                continue
            for read in (source.load, source.digest):
                late = raised(UsageError, "", read, index)
                place = f"{manifest}: row {row + (entry.name == 'dir')}: {column} is {entry.name}"
                assert late.message == f"{place}; there is no such file"
                assert late.hint == early.hint.replace("gone.png", entry.name)
        raised(UsageError, "there is no such file", list, prefetch(source, lambda item: item))
        monkeypatch.setattr(files, "CHECKED_ROWS", 99)


def test_rows_are_looked_for_up_to_the_limit_and_not_beyond(monkeypatch: Patch) -> None:
    names = names_in(12)
    is_file = mock.Mock(side_effect=os.path.isfile)
    monkeypatch.setattr(os.path, "isfile", is_file)
    monkeypatch.setattr(files, "CHECKED_ROWS", 5)
    source = open_images(write("m.csv", names))
    looked_for = [mock.call(Path(name)) for name in names[:8]]
    assert is_file.call_args_list == looked_for[:5]
    places = {name: place for place, name in enumerate(source.entries.names())}
    source.load(places[names[7]])
    assert is_file.call_args_list == [*looked_for[:5], looked_for[7]]
    Path(names[0]).unlink()  # was there when it was looked for: skipped, with its name, as ever
    assert source.load(places[names[0]]) == Skipped(names[0], "cannot be read: No such file or directory")
    # this needs no file system
    raised(UsageError, r"n\.csv: row 13 has more cells than", open_images, write("n.csv", [*names[1:12], "x,y"]))


ROWS = ('{"path": "a"}', "[1, 2]", "7", '"x"', '{"a": }', '{"a": 1} {', '{"a":1},{"b":2}', "nul", "NaN", '{"a"', "[1")


def outcome_of(read: Callable[[str], object], row: str) -> str:
    try:
        return repr(read(row))
    except json.JSONDecodeError as fault:
        return f"error: {fault}"


def test_rows_of_json_are_read_as_by_json_loads() -> None:
    for parts in itertools.product(("", " ", "\t ", "\u3000"), ROWS, ("", " ", "\t", "\u3000", "x", " x")):
        row = "".join(parts)
        assert outcome_of(manifests._json, f"{row}\n") == outcome_of(json.loads, row), row


@pytest.fixture
def late(lookup_pass: Place, monkeypatch: Patch) -> tuple[Path, Path]:
    """A model, and a list of its photos whose last row names no file and isn't looked for."""
    model, folder = lookup_pass
    monkeypatch.setattr(files, "CHECKED_ROWS", 80)
    return model, Path(write("all.txt", [*sorted(map(str, folder.iterdir())), "gone.png"])).absolute()


def test_a_check_that_reads_a_late_row_without_a_file_has_no_verdict(late: Place) -> None:
    model, manifest = late
    names = manifest.read_text().splitlines()
    seed = next(seed for seed in range(10_000) if images.seeded(names, seed)[20] == 80)
    said = r"all\.txt: row 81: path is gone\.png; there is no such file"
    raised(UsageError, said, check, model, images=manifest, seed=seed)
    assert check(model, images=manifest, seed=seed, max_images=20).evidence.images.n_read == 20
    (outcome,) = run([new_job(model, str(manifest))], profile.load(), workers=1)  # a process of its own checks all rows
    assert "there is no such file" in str(outcome.error)


def test_a_source_is_small_where_it_travels(late: Place) -> None:
    model, manifest = late
    source = open_images(manifest)
    again = pickle.loads(pickle.dumps(source))
    assert list(again.entries.names()) == list(source.entries.names())
    assert isinstance(again.load(0), DecodedImage)
    facts = copy.deepcopy(probe(open_job(new_job(model, str(manifest)), lambda _: source)))
    assert (facts.n_images, len(facts.source.entries)) == (81, 0)
    assert len(pickle.dumps(facts.source)) < 2000


@pytest.mark.long
def test_a_long_manifest_takes_little_memory(monkeypatch: Patch) -> None:
    """Peak of Python's own memory; an object a row took more than 1,000 bytes a row."""
    monkeypatch.setattr(files, "CHECKED_ROWS", 1)
    names = names_in(1) + [f"photos/n{i % 1000:04d}/ILSVRC_{i:08d}.JPEG" for i in range(50_000)]
    write("m.csv", names)
    tracemalloc.start()
    assert open_images("m.csv", limit=1000).names_digest
    assert tracemalloc.get_traced_memory()[1] / len(names) < 250
    tracemalloc.stop()


def test_what_a_pattern_stands_for() -> None:
    for text, names in (("a-{8..11}.tar", "a-8.tar a-9.tar a-10.tar a-11.tar"), ("{m}-{1..2}", "{m}-1 {m}-2")):
        assert listing.is_pattern(text)
        assert listing.expand_braces(text) == names.split()
    for text, said in (("{3..1}", "must run upwards"), ("{0..999999}", "more than 100,000")):
        raised(UsageError, said, listing.expand_braces, text)


def test_shards_here_and_in_a_store_are_the_same_images(memory: Any) -> None:
    for number in range(3):
        shard(f"train-{number:06}.tar", {f"{i}.png": bytes([number, i]) for i in range(3)})
    put(memory, Path(), "s")
    folder = contents(open_images("."))
    assert (len(folder), len(contents(open_images("train-{000000,000002}.tar")))) == (9, 6)
    missing = "is missing; all 4 names of a pattern must be there"
    for root, said in ((".", missing), ("memory://s", "file cannot be read")):
        assert contents(open_images(f"{root}/train-{{000000..000002}}.tar")) == folder
        raised(UsageError, rf"train-000003\.tar.* {said}", open_images, f"{root}/train-{{000000..000003}}.tar")


def test_a_file_whose_name_has_braces_is_that_file() -> None:
    Path("a{1,2}.jpg").touch()
    assert len(open_images("a{1,2}.jpg")) == 1


def test_a_folder_in_a_store_is_the_same_evidence(lookup_pass: Place, memory: Any, own_temporary_folder: Path) -> None:
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
        roots = (".", "memory://bucket", f"file://{Path.cwd()}")
        here, *others = (open_images(f"{root}/{form}", seed=3) for root in roots)
        for there in others:
            assert contents(here) == contents(there)
            assert (here.kind, here.n_available, here.names_digest) == (
                there.kind,
                there.n_available,
                there.names_digest,
            )
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
        assert (len(ours), contents(ours)) == (n_images, contents(theirs))
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
    reads = ((0, 0, 0, 10), (700_000, 0, 700_000, 400_000), (-5, 2, 999_995, 50), (10, 0, 10, 0), (3, 1, 13, 300_000))
    with open_url(url_of("memory://x")).open() as reader:
        for place, whence, start, length in reads:
            assert (reader.seek(place, whence), reader.read(length)) == (start, truth[start : start + length])


def test_a_row_of_a_list_names_no_url_with_strict(monkeypatch: Patch) -> None:
    Path("list.csv").write_text("path\nhttp://169.254.169.254/latest.jpg\n")
    monkeypatch.setenv("ROBUSTCHECK_LOCAL_ROWS", "1")
    said = r"row 2: path is http://169\.254\.169\.254/latest\.jpg; with --strict a list names"
    raised(UsageError, said, open_images, "list.csv")
