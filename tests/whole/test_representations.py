"""Representations in a file: written by check and scan, read again, equal to what the model gave."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from robustcheck_onnx import Representations, check, load_representations, measure, scan
from robustcheck_onnx.checker.cli import main
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.representations import MadeWith, Saver
from support import lookup, onnx_models


def index_of(path: Path) -> int:
    """The row that a look-up photo stands for."""
    red, green, _ = np.array(Image.open(path).convert("RGB"))[0, 0]
    return int(red) + 256 * int(green)


def test_a_check_saves_what_it_measured(lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = lookup_pass
    path = tmp_path / "rows.npz"
    report = check(model, images=photos, save_representations=path)
    saved = load_representations(path)
    statistics = report.evidence.statistics
    assert len(saved) == statistics.n_images == len(set(saved.digests))
    weights = onnx.load(model).graph.initializer
    embeddings = numpy_helper.to_array(next(each for each in weights if each.name == "embeddings"))
    for name, value in zip(saved.names, saved.values, strict=True):
        np.testing.assert_array_equal(value, embeddings[index_of(photos / name)])
    np.testing.assert_array_equal(np.load(path)["representations"], saved.values)
    again = measure(saved)
    for name in ("kurtosis", "persistence_ratio", "top3_share", "negative_energy"):
        assert getattr(again, name).estimate == pytest.approx(getattr(statistics, name).estimate, rel=1e-12)
    assert saved.made_with.model_digest == report.evidence.model.digest
    assert saved.made_with.tensor == report.evidence.model.tensor
    assert saved.made_with.preprocessing == report.evidence.preprocessing
    assert list(tmp_path.iterdir()) == [path]
    assert isinstance(saved, Representations)
    assert repr(saved).startswith("<Representations: ")
    assert "512 features" in repr(saved)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UsageError, match="not readable"):
        load_representations(path)


def test_a_scan_saves_the_representation(tmp_path: Path) -> None:
    nodes, weights = onnx_models.pooled(16)
    nodes.insert(2, ("Conv", ["relu", "more.weight"], ["more"], {"kernel_shape": [3, 3]}))
    nodes[3] = ("GlobalAveragePool", ["more"], ["gap"])
    weights["more.weight"] = onnx_models.weight(32, 16, 3, 3)
    model = onnx_models.save(onnx_models.build(nodes, ["features"], weights), tmp_path / "model.onnx")
    scan(model, max_images=9, save_representations=tmp_path / "scan.npz")
    check(model, max_images=9, save_representations=tmp_path / "check.npz")
    of_scan, of_check = (load_representations(tmp_path / f"{verb}.npz") for verb in ("scan", "check"))
    assert of_scan.names == of_check.names
    np.testing.assert_allclose(of_scan.values, of_check.values, rtol=1e-5)
    assert of_scan.made_with == of_check.made_with


def test_images_that_cannot_be_measured_are_left_out(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    rows[3], rows[7, 5] = 1.0, np.nan
    model = lookup.write_lookup_model(tmp_path / "model.onnx", rows)
    photos = lookup.write_lookup_images(tmp_path / "photos", 60)
    report = check(model, images=tmp_path / "photos", save_representations=tmp_path / "rows.npz")
    saved = load_representations(tmp_path / "rows.npz")
    assert set(saved.names) == {path.name for path in photos} - {photos[3].name, photos[7].name}
    assert len(saved) == report.evidence.statistics.n_images == 58


@pytest.fixture
def made_with(passed: Any) -> MadeWith:
    """Made up, but for the preprocessing."""
    preprocessing = passed.evidence.preprocessing
    return MadeWith(
        model="m", model_digest="sha256:0", tensor="t", pool="none", preprocessing=preprocessing, images="i", seed=0
    )


def test_memory_is_flat_while_a_file_is_written(tmp_path: Path, made_with: MadeWith) -> None:
    rows = np.random.default_rng(0).normal(size=(256, 1024)).astype(np.float32)  # 1 MiB
    path = tmp_path / "rows.npz"
    tracemalloc.start()
    try:
        with Saver(path) as saver:
            for _ in range(80):
                saver.add(rows, ["a"] * 256, ["b"] * 256)
            saver.write(made_with)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20  # of 80 MiB
    assert len(load_representations(path)) == 80 * 256


def test_a_run_that_fails_leaves_no_file_and_an_earlier_one_as_it_was(
    lookup_pass: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "rows.npz"
    path.write_bytes(b"earlier")
    broken = onnx_models.encoder()
    next(t for t in broken.graph.initializer if t.name == "proj").raw_data = b"\xff" * (24 * 16 * 4)
    model = onnx_models.save(broken, tmp_path / "nan.onnx")
    with pytest.raises(CannotAssessError):
        check(model, images=lookup_pass[1], save_representations=path)
    assert path.read_bytes() == b"earlier"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["nan.onnx", "rows.npz"]


def test_the_command_names_the_file_and_wants_one_for_each_model(
    lookup_pass: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos = lookup_pass
    (tmp_path / "a.onnx").symlink_to(model)
    (tmp_path / "b.onnx").symlink_to(model)
    models = [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    base = [*models, "--images", str(photos), "--save-representations"]
    assert main([*base, str(tmp_path / "rows.npz")]) == 2
    assert "each needs its own file" in capsys.readouterr().err
    assert main([*base, str(tmp_path / "{model}.npz")]) == 0
    assert f"representations:{tmp_path / 'b.npz'}" in "".join(capsys.readouterr().out.split())
    assert np.array_equal(load_representations(tmp_path / "a.npz"), load_representations(tmp_path / "b.npz"))


def test_places_that_no_representations_go_to(
    lookup_pass: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, photos = lookup_pass
    for options, said in (
        (["rows.parquet"], "it must be .npz"),
        (["rows.safetensors"], "np.load('rows.npz')['representations']"),
        (["missing/rows.npz"], "folder missing is missing"),
        (["rows.npz", "-o", "json=rows.npz"], "must be another file"),
    ):
        assert main([str(model), "--images", str(photos), "--save-representations", *options]) == 2
        assert said in capsys.readouterr().err
    assert not [each for each in tmp_path.iterdir() if each.name != "rows.npz"]  # an error document, as asked for
    (tmp_path / "circle.npz").symlink_to("circle.npz")
    with pytest.raises(UsageError, match="leads nowhere"):
        Saver(tmp_path / "circle.npz")
    with Saver(tmp_path / "new.npz") as saver:
        saver.add(np.ones((1, 4), np.float32), ["a"], ["b"])
        assert not list(tmp_path.glob("*new*"))  # no file that a kill would leave


def test_files_that_hold_no_representations(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_bytes(b"no archive")
    (tmp_path / "rows.txt").touch()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    pickled = np.array([{}], dtype=object)
    np.savez(tmp_path / "pickle.npz", representations=np.zeros((1, 2)), names=pickled)
    for name in ("none.npz", "text.npz", "rows.txt", "other.npz", "pickle.npz"):
        with pytest.raises(UsageError, match="file of representations"):
            load_representations(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.npz")
    for read_or_write in (load_representations, Saver):
        with pytest.raises(UsageError, match="is a folder, device or pipe"):
            read_or_write(tmp_path / "pipe.npz")


def test_archives_with_rows_that_are_none(tmp_path: Path, made_with: MadeWith) -> None:
    sound = {
        "representations": np.ones((2, 3)),
        "names": np.array(["a", "b"]),
        "digests": np.array(["c", "d"]),
        "made_with": np.array(made_with.model_dump_json()),
    }
    np.savez(tmp_path / "rows.npz", allow_pickle=False, **sound)
    assert len(load_representations(tmp_path / "rows.npz")) == 2
    for name, value, said in (
        ("representations", np.ones(2), r"2 names and 2 digests for an array of shape \(2,\)"),
        ("representations", np.ones((2, 3), np.int64), "not readable"),
        ("names", np.array(["a"]), "1 names and 2 digests"),
        ("digests", np.array(["c", "d", "e"]), "2 names and 3 digests"),
        ("names", np.array([1, 2]), "is no text"),
        ("representations", np.array([[1.0], [np.nan]]), "not finite"),
        ("made_with", np.array("[" * 100_000), "not readable"),
    ):
        np.savez(tmp_path / "rows.npz", allow_pickle=False, **(sound | {name: value}))
        with pytest.raises(UsageError, match=said):
            load_representations(tmp_path / "rows.npz")


def test_archives_that_claim_more_than_they_hold(tmp_path: Path, made_with: MadeWith) -> None:
    about = np.array(made_with.model_dump_json())
    names = np.array(["a"])
    np.savez_compressed(tmp_path / "bomb.npz", representations=np.zeros((1, 1 << 20)), names=names, made_with=about)
    with pytest.raises(UsageError, match="compressed"):
        load_representations(tmp_path / "bomb.npz")
    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as archive:
        archive.writestr("representations.npy", header.getvalue())
    with pytest.raises(UsageError, match="not readable"):
        load_representations(tmp_path / "claim.npz")
