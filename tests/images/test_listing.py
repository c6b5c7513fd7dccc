"""A million rows: the order that it always had, entries made when asked for, files of late rows looked for late."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import pickle
import tracemalloc
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.images import entries as entry_files
from robustcheck_onnx.checker.images import source as images
from robustcheck_onnx.checker.images.entries import Entries, Entry
from robustcheck_onnx.checker.images.manifest import _json
from robustcheck_onnx.checker.images.source import Picture, Skipped, open_images, prefetch
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.workers import run_jobs as run
from robustcheck_onnx.thresholds import profile
from support import lookup
from support.measuring import job as new_job


def order_by_definition(names: Sequence[str], seed: int) -> list[int]:
    """Sorted bytewise by NFC name (then by name), then, stably, by sha256(seed, NFC name)."""

    def nfc(place: int) -> bytes:
        return unicodedata.normalize("NFC", names[place]).encode("utf-8", "surrogateescape")

    places = sorted(range(len(names)), key=lambda place: (nfc(place), names[place].encode("utf-8", "surrogateescape")))
    return sorted(places, key=lambda place: hashlib.sha256(f"{seed}\0".encode() + nfc(place)).digest())


AWKWARD = ["é.png", "e\u0301.png", "é.png", "b", "b", "a\udc80.jpg", "ｚ.png", "z.png", "日本.jpg", "b", "ﬁ.png", ""]


def test_order_is_the_definition() -> None:
    names = AWKWARD + [f"n{i % 97:03d}/{i}.JPEG" for i in range(3000)] + AWKWARD[::-1]
    for seed in (0, 1, -7, 2**40):
        assert images.seeded(names, seed).tolist() == order_by_definition(names, seed)
        assert images.seeded([], seed).tolist() == []
        assert images.seeded(["one"], seed).tolist() == [0]


def test_digests_that_begin_alike_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashlib.sha256

    def weak(data: bytes) -> SimpleNamespace:
        """The first 8 bytes take three values only, the other 24 none but the hash's own."""
        digest = real(data).digest()
        return SimpleNamespace(digest=lambda: bytes(7) + bytes([digest[0] % 3]) + digest[8:])

    monkeypatch.setattr(images.hashlib, "sha256", weak)  # type: ignore[attr-defined] # the module, here and there
    names = AWKWARD + [f"{i}.png" for i in range(200)]
    expected = order_by_definition(names, 5)
    assert images.seeded(names, 5).tolist() == expected
    monkeypatch.undo()
    assert expected != order_by_definition(names, 5)


def test_entries_are_a_sequence_that_makes_each_when_asked() -> None:
    names = [f"{i}" for i in range(5000)]
    made: list[int] = []

    def make(place: int) -> Entry:
        made.append(place)
        return Entry(names[place], lambda: b"", row=place)

    order = np.random.default_rng(0).permutation(5000)
    entries = Entries.listed(names, make).take(order)
    assert (len(entries), made) == (5000, [])
    assert list(entries.names()) == [names[place] for place in order]
    assert list(entries[10:4990:7].names()) == [names[place] for place in order[10:4990:7]]
    assert made == []
    assert entries[3].row == order[3]
    assert entries[-1].row == order[-1]
    assert [entry.row for entry in entries[7:9]] == order[7:9].tolist()
    assert made == [order[3], order[-1], *order[7:9]]
    assert [entry.row for entry in entries] == order.tolist()  # iteration ends
    with pytest.raises(IndexError):
        entries[5000]
    assert (len(Entries()), list(Entries().names()), list(Entries())) == (0, [], [])
    with pytest.raises(IndexError):
        Entries()[0]


def photos(folder: Path, n: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:03d}.png" for i in range(n)]
    for level, name in enumerate(names):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(folder / name)
    return names


def write(path: Path, names: Sequence[str], labels: Sequence[object] | None = None) -> Path:
    """A list or manifest of the kind that its suffix says; a label of None is left out where that is possible."""
    if path.suffix == ".txt":
        path.write_text("".join(f"{name}\n" for name in names))
    elif path.suffix == ".csv":
        rows = [
            name if labels is None else f"{name},{label}" for name, label in zip(names, labels or names, strict=True)
        ]
        path.write_text("\n".join(["path" if labels is None else "path,label", *rows]))
    else:
        rows = [
            json.dumps({"image": name} | ({} if label is None else {"label": label}))
            for name, label in zip(names, labels or [None] * len(names), strict=True)
        ]
        path.write_text("\n".join(rows))
    return path


def test_every_row_comes_once_with_its_file(tmp_path: Path) -> None:
    names = photos(tmp_path, 40)
    for kind in ("txt", "csv", "jsonl"):
        source = open_images(write(tmp_path / f"m.{kind}", names), seed=3)
        assert [entry.name for entry in source.entries] == [names[i] for i in order_by_definition(names, 3)]
        for item in source.items():
            assert isinstance(item, Picture)
            assert (item.image.getpixel((0, 0)), item.label) == ((int(item.name[:3]), 0, 0), None)
        assert {entry.origin for entry in source.entries} == {str(tmp_path / name) for name in names}
        first = open_images(tmp_path / f"m.{kind}", seed=3, limit=7)
        assert list(first.entries.names()) == list(source.entries.names())[:7]
        assert (first.n_found, len(first)) == (40, 7)


def test_labels_stay_with_their_rows(tmp_path: Path) -> None:
    names = photos(tmp_path, 6)
    source = open_images(write(tmp_path / "m.csv", names, ["cat", "", "dog", "cat", "7", "x"]))
    labels = {entry.name: entry.label for entry in source.entries}
    assert labels == dict(zip(names, ["cat", "", "dog", "cat", "7", "x"], strict=True))
    some = [None, None, 3, None, "cat", None]
    source = open_images(write(tmp_path / "m.jsonl", names, some))
    assert {entry.name: entry.label for entry in source.entries} == dict(
        zip(names, [None, None, "3", None, "cat", None], strict=True)
    )
    (tmp_path / "short.csv").write_text(
        "label,path,label\na,000.png,b\n\nc,001.png\n"
    )  # the last of two columns counts
    source = open_images(tmp_path / "short.csv")
    assert {entry.name: entry.label for entry in source.entries} == {"000.png": "b", "001.png": None}


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_a_late_row_without_a_file_is_told_when_read_never_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    names = photos(tmp_path, 12)
    manifest = write(tmp_path / f"m.{kind}", [*names, "gone.png", "dir"])
    (tmp_path / "dir").mkdir()
    row = 13 + (kind == "csv")
    column = "image" if kind == "jsonl" else "path"
    with pytest.raises(UsageError) as early:
        open_images(manifest)
    monkeypatch.setattr(entry_files, "CHECKED_ROWS", 12)
    source = open_images(manifest)
    assert len(source) == 14
    faults = {}
    for index, entry in enumerate(source.entries):
        if entry.name in names:
            assert isinstance(source.load(index), Picture)
            continue
        for read in (source.load, source.digest):
            with pytest.raises(UsageError) as late:
                read(index)
        faults[entry.name] = late.value
    assert faults["gone.png"].message == f"{manifest}: row {row}: {column} is gone.png; there is no such file"
    assert (faults["gone.png"].message, faults["gone.png"].hint) == (early.value.message, early.value.hint)
    assert faults["dir"].message == f"{manifest}: row {row + 1}: {column} is dir; there is no such file"
    with pytest.raises(UsageError, match="there is no such file"):
        list(prefetch(source, lambda item: item))


def test_rows_are_looked_for_up_to_the_limit_and_not_beyond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = photos(tmp_path, 12)
    asked: list[str] = []
    is_file = os.path.isfile

    def count(path: str | Path) -> bool:
        asked.append(Path(path).name)
        return is_file(path)

    monkeypatch.setattr(os.path, "isfile", count)
    monkeypatch.setattr(entry_files, "CHECKED_ROWS", 5)
    source = open_images(write(tmp_path / "m.csv", names))
    assert asked == names[:5]
    places = [index for index, entry in enumerate(source.entries) if entry.name in names[5:]]
    source.load(places[0])
    assert asked == [*names[:5], source.entries[places[0]].name]
    (tmp_path / names[0]).unlink()  # was there when it was looked for: skipped, with its name, as ever
    index = next(index for index, entry in enumerate(source.entries) if entry.name == names[0])
    assert source.load(index) == Skipped(names[0], "cannot be read: No such file or directory")
    write(tmp_path / "n.csv", [*names[1:4], "no.png", *names[4:]])
    with pytest.raises(UsageError, match=r"n\.csv: row 5: path is no\.png; there is no such file"):
        open_images(tmp_path / "n.csv")
    write(tmp_path / "n.csv", [*names[1:6], "", *names[6:]])  # what needs no file system is checked to the end
    (tmp_path / "n.csv").write_text((tmp_path / "n.csv").read_text() + "\nx,y")
    with pytest.raises(UsageError, match=r"n\.csv: row 14 has more cells than columns"):
        open_images(tmp_path / "n.csv")
    with pytest.raises(UsageError, match=r"l\.txt: row 1: path is a+; there is no such file"):
        open_images(write(tmp_path / "l.txt", ["a" * 5000]))  # longer than any file's name


ROWS = ('{"path": "a"}', "[1, 2]", "7", '"x"', '{"a": }', '{"a": 1} {', '{"a":1},{"b":2}', "nul", "NaN", '{"a"', "[1")


def outcome_of(read: Callable[[str], object], row: str) -> str:
    try:
        return repr(read(row))
    except json.JSONDecodeError as fault:
        return f"error: {fault}"


def test_rows_of_json_are_read_as_by_json_loads() -> None:
    around = (("", " ", "\t ", "\u3000"), ("", " ", "\t", "\u3000", "x", " x"))
    for before, text, after in itertools.product(around[0], ROWS, around[1]):
        row = before + text + after
        assert outcome_of(_json, f"{row}\n") == outcome_of(json.loads, row), row


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model, and a list of its photos whose last row names no file and isn't looked for."""
    h = np.random.default_rng(0).normal(size=(60, 64))
    model = lookup.write_lookup_model(tmp_path / "model.onnx", h)
    lookup.write_lookup_images(tmp_path / "photos", 60)
    names = sorted(path.name for path in (tmp_path / "photos").iterdir())
    monkeypatch.setattr(entry_files, "CHECKED_ROWS", len(names))
    return model, write(tmp_path / "photos" / "all.txt", [*names, "gone.png"])


@pytest.mark.process
def test_a_check_that_reads_a_late_row_without_a_file_has_no_verdict(late: tuple[Path, Path]) -> None:
    model, manifest = late
    fault = r"all\.txt: row 61: path is gone\.png; there is no such file"
    names = manifest.read_text().splitlines()
    seed = next(seed for seed in range(10_000) if images.seeded(names, seed)[20] == 60)
    with pytest.raises(UsageError, match=fault):
        check(model, images=str(manifest), seed=seed)
    assert check(model, images=str(manifest), seed=seed, max_images=20).evidence.images.n_read == 20
    (outcome,) = run([new_job(model, str(manifest))], profile.load(), workers=1)  # a process of its own checks all rows
    assert isinstance(outcome.error, UsageError)
    assert "there is no such file" in outcome.error.message


def test_a_source_is_small_where_it_travels(late: tuple[Path, Path]) -> None:
    model, manifest = late
    source = open_images(manifest)
    again = pickle.loads(pickle.dumps(source))
    assert list(again.entries.names()) == list(source.entries.names())
    assert again.names_digest == source.names_digest
    assert isinstance(again.load(0), Picture)
    facts = measure.probe(measure.open_job(new_job(model, str(manifest)), source=source))
    assert facts.n_images == 61
    assert len(facts.source.entries) == 0
    assert len(pickle.dumps(facts.source)) < 2000
    copy.deepcopy(facts)


def test_names_digest_is_over_names_in_order(tmp_path: Path) -> None:
    names = photos(tmp_path, 30)
    source = open_images(tmp_path, seed=1)
    ordered = [names[i] for i in order_by_definition(names, 1)]
    assert source.names_digest == hashlib.sha256("".join(f"{name}\0" for name in ordered).encode()).hexdigest()
    assert source.names_digest != open_images(tmp_path, seed=2).names_digest
    shorter = replace(source, entries=source.entries[:29])
    assert shorter.names_digest == hashlib.sha256("".join(f"{name}\0" for name in ordered[:29]).encode()).hexdigest()


@pytest.mark.long
def test_a_long_manifest_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak of Python's own memory; an object a row took more than 1,000 bytes a row."""
    n = 50_000
    monkeypatch.setattr(entry_files, "CHECKED_ROWS", 1)
    photos(tmp_path, 1)
    names = ["000.png", *(f"photos/n{i % 1000:04d}/ILSVRC_{i:08d}.JPEG" for i in range(1, n))]
    write(tmp_path / "m.csv", names, [i % 1000 for i in range(n)])
    tracemalloc.start()
    source = open_images(tmp_path / "m.csv", limit=1000)
    assert source.names_digest
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (source.n_found, len(source)) == (n, 1000)
    assert peak / n < 250
