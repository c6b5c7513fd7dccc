"""Representations in a file: written by check and scan, read again, equal to what the model gave."""

import os
import re
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import numpy_helper

from robustcheck_onnx import check, load_representations, measure, scan
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import CLIP, PreprocessingFacts
from robustcheck_onnx.checker.representations import MadeWith, Saver
from support import Fields, Place, lookup, normal, onnx_models, raised
from support.bad_input import Run
from support.measuring import never_decided


def test_a_check_saves_what_it_measured(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    path = tmp_path / "rows.npz"
    report = check(model, images=photos, save_representations=path)
    saved = load_representations(path)
    statistics, facts = report.evidence.statistics, report.evidence.model
    assert len(saved) == statistics.n_images == len(set(saved.digests))
    weights = onnx.load(model).graph.initializer
    embeddings = numpy_helper.to_array(next(each for each in weights if each.name == "embeddings"))
    rows = [int(name.removeprefix("photo_").removesuffix(".png")) for name in saved.names]
    assert_array_equal(saved.values, embeddings[rows])
    again = measure(saved)
    for name in ("kurtosis", "persistence_ratio", "top3_share", "outlier_frequency", "negative_energy"):
        assert getattr(again, name).estimate == pytest.approx(getattr(statistics, name).estimate, rel=1e-12)
    assert again.histogram_counts == statistics.histogram_counts
    made_with = saved.made_with
    assert (made_with.model_digest, made_with.preprocessing) == (facts.digest, report.evidence.preprocessing)
    assert re.match("<Representations: .*512 features", repr(saved))


def test_a_scan_saves_the_representation(tmp_path: Path) -> None:
    model = onnx_models.save(onnx_models.encoder(), tmp_path / "model.onnx")
    scan(model, max_images=9, save_representations=tmp_path / "scan.npz")
    check(model, max_images=9, save_representations=tmp_path / "check.npz")
    of_scan, of_check = (load_representations(tmp_path / f"{verb}.npz") for verb in ("scan", "check"))
    assert_allclose(of_scan.values, of_check.values, rtol=1e-5)
    assert (of_scan.names, of_scan.made_with) == (of_check.names, of_check.made_with)


def test_images_that_cannot_be_measured_are_left_out(lookup_pass: Place, tmp_path: Path) -> None:
    rows = normal(80, 32)
    rows[3], rows[7, 5] = 1.0, np.nan
    model = lookup.write_lookup_model(tmp_path / "model.onnx", rows)
    check(model, images=lookup_pass[1], thresholds=never_decided(), save_representations=tmp_path / "rows.npz")
    left = {f"photo_{i:05d}.png" for i in range(80)} - {"photo_00003.png", "photo_00007.png"}
    assert set(load_representations(tmp_path / "rows.npz").names) == left


READ = PreprocessingFacts(preprocessing=CLIP, source="contract", fields=())
MADE_WITH = MadeWith(
    model="m", model_digest="sha256:0", tensor="t", pool="none", preprocessing=READ, images="i", seed=0
)


def test_memory_is_flat_while_a_file_is_written(tmp_path: Path) -> None:
    rows = normal(256, 1024).astype(np.float32)  # 1 MiB
    path = tmp_path / "rows.npz"
    tracemalloc.start()
    try:
        with Saver(path) as saver:
            for _ in range(80):
                saver.add(rows, [SimpleNamespace(name="a", digest="b")] * 256)
            assert list(tmp_path.iterdir()) == []  # no file that a kill would leave
            saver.write(MADE_WITH)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20  # of 80 MiB
    finally:
        tracemalloc.stop()
    assert len(load_representations(path)) == 80 * 256


def test_a_run_that_fails_leaves_no_file_and_an_earlier_one_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_bytes(b"earlier")
    broken = lookup.write_lookup_model(tmp_path / "nan.onnx", np.full((9, 16), np.nan))
    raised(CannotAssessError, "no usable", check, broken, max_images=9, save_representations=tmp_path / "rows.npz")
    assert (tmp_path / "rows.npz").read_bytes() == b"earlier"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["nan.onnx", "rows.npz"]


def test_the_command_names_a_file_for_each_model_and_refuses_other_places(here: Path, ends: Run) -> None:
    before = {*here.iterdir()}
    for words, said in (
        ("warn.onnx {} rows.npz", "each needs its own file"),
        ("{} rows.safetensors", "np.load('rows.npz')['representations']"),
        ("{} missing/rows.npz", "folder missing is missing"),
        ("{} rows.npz -o json=rows.npz", "must be another file"),
    ):
        ends(2, f"pass.onnx --images photos {words.format('--save-representations')}", said)
    assert {*here.iterdir()} - before <= {here / "rows.npz"}  # an error document, as asked for
    done = ends(1, "pass.onnx warn.onnx --images photos --save-representations {model}.npz")
    assert "representations:warn.npz" in "".join(done.stdout.split())
    assert [load_representations(f"{each}.npz").made_with.model for each in ("pass", "warn")] == [
        "pass.onnx",
        "warn.onnx",
    ]
    (here / "circle.npz").symlink_to("circle.npz")
    raised(UsageError, "leads nowhere", Saver, here / "circle.npz")


def test_files_that_hold_no_representations(tmp_path: Path) -> None:
    place = tmp_path / "rows.npz"
    place.write_bytes(b"no archive")
    for path in (place, tmp_path / "none.npz"):
        raised(UsageError, "representations file", load_representations, path)
    rows, names, digests = np.ones((2, 3)), np.array(["a", "b"]), np.array(["c", "d"])
    sound: Fields = {"representations": rows, "names": names, "digests": digests}
    sound["made_with"] = np.array(MADE_WITH.model_dump_json())
    np.savez(place, allow_pickle=False, **sound)
    assert len(load_representations(place)) == 2
    for name, value, said in (
        ("representations", rows[0, :2], r"2 names and 2 digests for an array of shape \(2,\)"),
        ("digests", np.array(["c", "d", "e"]), "2 names and 3 digests"),
        ("names", np.array([1, 2]), "is not text"),
        ("names", np.array([{}, {}], dtype=object), "representations file"),  # pickled
        ("representations", np.array([[1.0], [np.nan]]), "not finite"),
        ("made_with", np.array("[" * 100_000), "not readable"),
    ):
        np.savez(place, **(sound | {name: value}))
        raised(UsageError, said, load_representations, place)
    # archives that claim more than they hold
    np.savez_compressed(place, **sound | {"representations": np.zeros((2, 1 << 20))})
    raised(UsageError, "compressed", load_representations, place)
    with zipfile.ZipFile(place, "w") as archive, archive.open("representations.npy", "w") as header:
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)})
    raised(UsageError, "not readable", load_representations, place)
    place.unlink()
    os.mkfifo(place)
    for read_or_write in (load_representations, Saver):
        raised(UsageError, "is a folder, device or pipe", read_or_write, place)
