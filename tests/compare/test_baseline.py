"""Comparisons with a baseline file in place of a reference model: the same numbers; changed, stale and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx.checker import text
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.compare import baseline, pairs
from robustcheck_onnx.checker.compare.judge import CompareReport, to_json
from robustcheck_onnx.checker.errors import UsageError
from support.comparisons import Workshop, alike, ids, numbers, planted, run_compare

OUTLIERS = (7, 50, 90)


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    document["digest"] = text.digest_of({key: value for key, value in document.items() if key != "digest"})
    changed_path = path.with_name("edited.json")
    changed_path.write_text(json.dumps(document), encoding="utf-8")
    return changed_path


def test_a_baseline_gives_the_numbers_of_its_model(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    h = planted()
    weaker = h * (1 - 0.05 * (np.arange(384) == 7))
    a, b = workshop.model("candidate", weaker), workshop.model("reference", h)
    file = workshop.folder / "baseline.json"
    images = ["--images", str(workshop.photos), "--device", "cpu", "-qq"]
    assert cli.main(["compare", str(b), "--write-baseline", str(file), *images]) == 0
    with_model = run_compare(a, b, images=workshop.photos, device="cpu")
    with_file = run_compare(a, None, baseline=file, images=workshop.photos, device="cpu")
    assert (with_file.verdict, with_file.statistics) == (with_model.verdict, with_model.statistics)
    assert with_file.verdict.verdict == "PASS"
    assert (with_file.paired, with_file.baseline) == (True, str(file))
    truth, found = alike(with_model), alike(with_file)
    assert found.n_images == truth.n_images == 80
    np.testing.assert_allclose(
        numbers(found.cka, found.cka_debiased, found.cosine_change),
        numbers(truth.cka, truth.cka_debiased, truth.cosine_change),
        atol=1e-6,
    )
    assert [(f.fate, f.candidate_frequency) for f in with_file.features] == [
        (f.fate, f.candidate_frequency) for f in with_model.features
    ]
    np.testing.assert_allclose(
        numbers(*(f.correlation for f in with_file.features)),
        numbers(*(f.correlation for f in with_model.features)),
        atol=1e-4,
    )
    removed = workshop.model("candidate", h - (np.arange(384) == 7) * h[:, 7].mean())
    assert cli.main(["compare", str(removed), "--baseline", str(file), *images]) == 1
    lost = run_compare(removed, None, baseline=file, images=workshop.photos, device="cpu")
    assert {"statistic_shrank", "outlier_feature_lost"} <= ids(lost)
    assert cli.main(["compare", str(b), "--baseline", str(file), "--images", str(workshop.photos)]) == 0
    assert "baseline" in capsys.readouterr().out


def test_a_candidate_with_the_outlier_features_alone_is_unrelated_by_both_routes(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three features are the reference's and everything else comes from other images: the whole tells, no feature."""
    h = planted(features=OUTLIERS)
    candidate = planted(seed=1, features=OUTLIERS)
    candidate[:, OUTLIERS] = h[:, OUTLIERS]
    a, b = workshop.model("candidate", candidate), workshop.model("reference", h)
    file = workshop.folder / "baseline.json"
    images = ["--images", str(workshop.photos), "--device", "cpu", "-qq"]
    assert cli.main(["compare", str(b), "--write-baseline", str(file), *images]) == 0
    for options in ({"reference": b}, {"reference": None, "baseline": file}):
        report = run_compare(a, **options, images=workshop.photos, device="cpu")
        assert report.candidate.verdict.verdict == "PASS"
        assert {f.index: f.fate for f in report.features} == dict.fromkeys(OUTLIERS, "kept")
        assert ids(report) == {"unrelated"}
        assert abs(alike(report).cka_debiased or 1) < 0.1
    assert cli.main(["compare", str(a), "--baseline", str(file), *images[:-1], "-v"]) == 1
    out = capsys.readouterr().out
    assert "linear CKA" in out
    assert "unrelated" in out


def test_of_many_images_the_first_cosines_are_kept() -> None:
    """The CKA from the file is that of the same images computed from features (Kornblith et al. 2019)."""
    x, y = planted(200, 48, seed=2), planted(200, 48, seed=3)
    y[:, :30] = x[:, :30]
    first = pairs.scaled(x)[: baseline.COSINE_IMAGES]
    rounded = np.round(pairs.cosines(first), baseline.COSINE_DECIMALS)
    other = pairs.scaled(y)[: baseline.COSINE_IMAGES]
    a, b = first - first.mean(0), other - other.mean(0)
    truth = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    np.testing.assert_allclose(numbers(pairs.similarity_of(rounded, pairs.cosines(other)).cka), truth, atol=1e-6)
    same = np.round(pairs.cosines(pairs.scaled(np.tile(x[0], (80, 1)))), baseline.COSINE_DECIMALS)
    assert pairs.similarity_of(same, pairs.cosines(other)).cka_debiased is None


def test_another_order_of_the_images_is_stale(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """What is compared image by image would be compared between different images."""
    b = workshop.model("reference", planted())
    file = workshop.folder / "baseline.json"
    images = ["--images", str(workshop.photos), "--device", "cpu", "-qq"]
    assert cli.main(["compare", str(b), "--write-baseline", str(file), *images]) == 0
    capsys.readouterr()
    report = run_compare(b, None, baseline=file, images=workshop.photos, device="cpu", seed=1)
    assert ids(report) == {"stale_baseline", "undecided"}
    assert "another order" in report.verdict.reasons[0].seen
    assert report.paired  # the groups go by digest
    assert report.similarity is None


def test_a_changed_baseline_is_refused(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    b = workshop.model("reference", planted(24))
    file = workshop.folder / "baseline.json"
    images = ["--images", str(workshop.photos), "--max-images", "8", "--device", "cpu", "-qq"]
    cli.main(["compare", str(b), "--write-baseline", str(file), *images])
    document = json.loads(file.read_text(encoding="utf-8"))
    document["frequencies"][0] /= 2
    file.write_text(json.dumps(document), encoding="utf-8")
    assert cli.main(["compare", str(b), "--baseline", str(file), *images]) == 2
    assert "changed after it was written" in capsys.readouterr().err


def test_a_stale_baseline_is_a_reason(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    b = workshop.model("reference", planted())
    file = workshop.folder / "baseline.json"
    assert cli.main(
        ["compare", str(b), "--write-baseline", str(file), "--images", str(workshop.photos), "--max-images=70", "-qq"]
    ) == 0  # fmt: skip

    def against(baseline: Path, n: int = 70, model: Path = b) -> CompareReport:
        return run_compare(model, None, baseline=baseline, images=workshop.photos, max_images=n, device="cpu")

    assert against(file).verdict.verdict == "PASS"
    other_images = against(file, 80)
    assert ids(other_images) == {"stale_baseline", "undecided"}  # not paired, the intervals are wider
    assert not other_images.paired
    assert other_images.statistics[0].ratio.low is not None
    old = against(edited(file, lambda d: d["evidence"]["statistics"].update(statistic_version=1)))
    assert {"stale_baseline", "reference_without_indication"} <= ids(old)
    assert all(s.ratio.estimate is None for s in old.statistics)
    assert capsys.readouterr().err == ""
    pixels = against(edited(file, lambda d: d["evidence"]["preprocessing"]["preprocessing"].update(rescale=1 / 256)))
    assert ids(pixels) == {"stale_baseline"}
    assert "rescale" in pixels.verdict.reasons[0].seen
    rule = against(edited(file, lambda d: d["evidence"]["model"].update(rule="head_input")))
    assert ids(rule) == {"not_comparable"}
    wide = against(file, model=workshop.model("wide", planted(d=400)))
    assert ids(wide) == {"not_comparable", "unrelated"}  # other values, too: CKA needs no equal width
    assert wide.features == ()


DAMAGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d.update(schema_version=2), "schema_version is 2"),
    (lambda d: d.update(schema_version=True), "schema_version is True"),
    (lambda d: d.update(document="compare"), "is no baseline"),
    (lambda d: d["group_sizes"].pop(), "groups or statistics are missing"),
    (lambda d: d["images"].pop(), "the images are not those of the evidence"),
    (lambda d: d["left_out"].pop("kurtosis"), "groups or statistics are missing"),
    (lambda d: d["left_out"]["kurtosis"]["without"].pop(), "not one value for each group"),
    (lambda d: d["frequencies"].append(1.0), "differ in number"),
    (lambda d: d["values"].pop(), "values are of another number of images"),
    (lambda d: d["values"][3].append(1.0), "features and values differ in number"),
    (lambda d: d["cosines"].pop(), "cosines are of another number of images"),
    (lambda d: d["cosines"].__setitem__(0, 1.5), "wrong cosines.0"),
    (lambda d: d.pop("cosines"), "wrong cosines (Field required)"),
    (lambda d: d.update(more=1), "wrong more"),
]


def test_a_damaged_baseline_is_refused(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    b = workshop.model("reference", planted(24))
    file = workshop.folder / "baseline.json"
    images = ["--images", str(workshop.photos), "--max-images", "8", "--device", "cpu", "-qq"]
    assert cli.main(["compare", str(b), "--write-baseline", str(file), *images]) == 1  # too few images to pass
    for change, said in DAMAGES:
        assert cli.main(["compare", str(b), "--baseline", str(edited(file, change)), *images]) == 2, said
        assert said in capsys.readouterr().err


def test_a_baseline_of_an_earlier_version_is_read(workshop: Workshop) -> None:
    """Its evidence had a field for plug-ins, and its digest is over that, too."""
    model = workshop.model("reference", planted(24))
    made = run_compare(model, None, images=workshop.photos, max_images=8, device="cpu").next_baseline
    assert made is not None
    document = json.loads(baseline.to_json(made))
    document["evidence"]["detectors"] = []
    document["digest"] = text.digest_of({key: value for key, value in document.items() if key != "digest"})
    file = workshop.folder / "earlier.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    assert baseline.known(baseline.read(file)) == made


def test_a_baseline_of_python_needs_no_file(workshop: Workshop) -> None:
    h = planted()
    a, b = workshop.model("a", h), workshop.model("b", h)
    first = run_compare(b, None, images=workshop.photos, device="cpu")
    made = first.next_baseline
    assert made is not None
    file = workshop.folder / "baseline.json"
    file.write_text(baseline.to_json(made), encoding="utf-8")
    of_file = run_compare(a, None, baseline=file, images=workshop.photos, device="cpu")
    of_object = run_compare(a, None, baseline=made, images=workshop.photos, device="cpu")
    assert of_object.passed
    assert of_object.baseline == f"<baseline of {b}>"
    assert of_object.statistics == of_file.statistics
    assert of_object.features == of_file.features
    assert CompareReport.model_validate_json(to_json(of_object)).next_baseline is None
    with pytest.raises(UsageError, match=r"^baseline: digest does not match the content"):
        run_compare(a, None, baseline=made.model_copy(update={"frequencies": (0.1,)}), images=workshop.photos)
