"""Comparisons with a baseline file in place of a reference model: the same numbers; changed, stale and damaged ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx.checker import text
from robustcheck_onnx.checker.compare import baseline, pairs
from robustcheck_onnx.checker.compare.judge import CompareReport
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report.record import to_json
from support import Capture, Fields, but, raised, reports, robustcheck
from support.comparisons import Workshop, alike, baseline_of, ids, judged_by, planted


def test_a_baseline_gives_the_numbers_of_its_model(workshop: Workshop, capsys: Capture) -> None:
    h = planted()
    a, b = workshop.model("candidate", h * (1 - 0.05 * (np.arange(384) == 7))), workshop.model("reference", h)
    file, out = workshop.folder / "baseline.json", workshop.folder / "report.json"
    for words in ((b, "--write-baseline", file, "-qq"), (a, "--baseline", file, "-o", f"json={out}")):
        assert robustcheck("compare", *words, "--images", workshop.photos, "--device", "cpu") == 0
    assert "baseline" in capsys.readouterr().out
    with_file, with_model = CompareReport.model_validate_json(out.read_bytes()), workshop.run(a, b)
    assert (with_file.verdict, with_file.statistics) == (with_model.verdict, with_model.statistics)
    assert (with_file.paired, with_file.baseline) == (True, str(file))

    def facts(report: CompareReport) -> Fields:
        features = {f"{f.index} {f.fate} {f.candidate_frequency}": f.correlation for f in report.features}
        return alike(report).model_dump() | features

    assert facts(with_file) == pytest.approx(facts(with_model), abs=1e-4)
    assert alike(with_file).cka == pytest.approx(alike(with_model).cka, abs=1e-6)


def test_of_many_images_the_first_cosines_are_kept() -> None:
    """The CKA from the file is that of the same images computed from features."""
    x, y = planted(200, 48, seed=2), planted(200, 48, seed=3)
    y[:, :30] = x[:, :30]
    first, other, same = (pairs.scaled(h)[: baseline.COSINE_IMAGES] for h in (x, y, np.tile(x[0], (200, 1))))
    of_first, of_same = (np.round(pairs.cosines(h), baseline.COSINE_DECIMALS) for h in (first, same))
    found = pairs.similarity_of(of_first, pairs.cosines(other))
    assert found.cka == pytest.approx(pairs.similarity(first, other).cka, abs=1e-6)
    assert pairs.similarity_of(of_same, pairs.cosines(other)).cka_debiased is None


def test_a_stale_baseline_is_a_reason() -> None:
    h = planted()
    known = baseline_of(h[:70])
    assert judged_by(known, h[:70]).passed
    without = h[:70] - (np.arange(384) == 7) * h[:70, 7].mean()
    assert ids(judged_by(known, without)) >= {"statistic_shrank", "outlier_feature_lost"}
    other_images = judged_by(known, h)
    assert ids(other_images) == {"stale_baseline", "undecided"}  # not paired, the intervals are wider
    assert not other_images.paired
    assert other_images.statistics[0].ratio.low is not None
    order = np.arange(70)[::-1]  # what is compared image by image would be compared between different images
    reversed_ = judged_by(known, h[order], order)
    assert ids(reversed_) == {"stale_baseline", "undecided"}
    assert "another order" in reversed_.verdict.reasons[0].seen
    assert (reversed_.paired, reversed_.similarity) == (True, None)  # the groups go by digest
    old = judged_by(but(known, evidence__statistics__statistic_version=1), h[:70])
    assert {"stale_baseline", "reference_without_indication"} <= ids(old)
    assert all(s.ratio.estimate is None for s in old.statistics)
    assert ids(judged_by(but(known, evidence__model__rule="head_input"), h[:70])) == {"not_comparable"}
    wide = judged_by(known, planted(70, d=400))
    assert ids(wide) == {"not_comparable", "unrelated"}  # other values, too: CKA needs no equal width
    assert wide.features == ()


def write(path: Path, document: Fields) -> None:
    digest = text.digest_of({key: value for key, value in document.items() if key != "digest"})
    path.write_text(json.dumps(document | {"digest": digest}), encoding="utf-8")


def test_a_damaged_or_changed_baseline_is_refused(tmp_path: Path) -> None:
    made, path = baseline_of(planted(24)), tmp_path / "baseline.json"
    written = baseline.to_json(made)
    earlier = json.loads(written)
    earlier["evidence"]["detectors"] = []  # once a field for plug-ins; the digest is over it, too
    write(path, earlier)
    assert baseline.known(baseline.read(path)) == made
    for changed, said in (
        ({"schema_version": 2}, "schema_version is 2"),
        ({"document": "compare"}, "is not a baseline"),
        ({"cosines": [1.5]}, "wrong cosines.0"),
    ):
        write(path, json.loads(written) | changed)
        raised(UsageError, said, baseline.read, path)
    for place, said in (
        ("group_sizes", "groups or statistics are missing"),
        ("images", "the images are not those of the evidence"),
        ("left_out.kurtosis.without", "not one value for each group"),
        ("frequencies", "differ in number"),
        ("values", "values are of another number of images"),
        ("values.3", "features and values differ in number"),
        ("cosines", "cosines are of another number of images"),
    ):
        part = document = json.loads(written)
        for key in place.split("."):
            part = part[int(key) if key.isdigit() else key]
        part.pop()
        write(path, document)
        raised(UsageError, said, baseline.read, path)
    path.write_text(json.dumps(json.loads(written) | {"frequencies": [0.5]}), encoding="utf-8")
    raised(UsageError, "changed after it was written", baseline.read, path)


def test_a_baseline_of_python_needs_no_file(workshop: Workshop) -> None:
    a, b = workshop.model("a", planted()), workshop.model("b", planted())
    made = workshop.baseline(b)
    file = workshop.folder / "baseline.json"
    file.write_text(baseline.to_json(made), encoding="utf-8")
    assert baseline.read(file) == made.with_vectors(None)  # which JSON does not hold
    report = workshop.run(a, None, baseline=made)
    assert report.passed
    assert report.baseline == f"<baseline of {b}>"
    assert CompareReport.model_validate_json(to_json(report)).next_baseline is None
    changed = but(made, frequencies=(0.1,))
    raised(UsageError, "^baseline: digest does not match the content", workshop.run, a, None, baseline=changed)


def test_every_way_in_which_a_baseline_was_measured_otherwise_is_told() -> None:
    now = reports.passing().evidence
    n, version = now.statistics.n_images, now.statistics.statistic_version
    other_pixels = but(now.preprocessing.preprocessing, resize_mode="squash", color_order="BGR")
    rows: list[tuple[Any, ...]] = [
        ({},),
        ({"statistics__n_images": n - 1}, "the baseline has another number of usable representations"),
        (
            {"statistics__statistic_version": version + 1},
            f"the baseline has statistic version {version + 1}, this robustcheck {version}",
        ),
        (
            {"images__digest": "sha256:0", "images__n_read": 70, "images__source": "old", "statistics__n_images": 70},
            "the baseline was measured on other images (70 of old)",
        ),
        (
            {"preprocessing__preprocessing": other_pixels},
            "the baseline was preprocessed otherwise (resize_mode, color_order)",
        ),
    ]
    for then, *told in rows:
        assert baseline.staleness(baseline.Baseline.model_construct(evidence=but(now, **then)), now) == (*told,)
