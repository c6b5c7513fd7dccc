"""Comparisons of whole models, with a reference or its baseline: what was kept passes, what was not is said."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose
from scipy import stats

from robustcheck_onnx.checker import text
from robustcheck_onnx.checker.core.evidence import Int8Sums
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.questions.compare import baseline, run
from robustcheck_onnx.checker.questions.compare.judge import CompareReport
from robustcheck_onnx.checker.questions.compare.pairs import ClassAgreement, unrelated
from robustcheck_onnx.checker.questions.compare.similarity import cosines, scaled, similarity, similarity_of
from robustcheck_onnx.checker.report.record import to_json
from robustcheck_onnx.thresholds.profile import load
from support import EMBEDDINGS, Capture, Fields, but, lookup, needs_embeddings, normal, raised, reports, robustcheck
from support.comparisons import (
    Workshop,
    alike,
    ids,
    judged,
    judged_by,
    measured,
    paired,
    planted,
    rotation,
    rounded,
    same_mean,
    stored,
)


def test_what_was_not_kept_is_said() -> None:
    h, is_planted = planted(), np.arange(384) == 7
    for candidate, expected in (
        (h - is_planted * h[:, 7].mean(), {"statistic_shrank", "outlier_feature_lost"}),
        (h * (1 - 0.4 * is_planted), {"statistic_shrank"}),
        (h @ rotation(384), {"statistic_shrank", "representation_rotated", "too_weak"}),
        (np.maximum(h, 0), {"one_sided"}),
        (np.roll(h, 5, axis=1), {"representation_permuted"}),
        (planted(d=400), {"not_comparable"}),
        (same_mean(h), {"unrelated", "outlier_feature_lost"}),  # a mean vector is not an encoder
    ):
        report = judged(candidate, h)
        assert not report.passed
        assert expected | {r.id for r in report.candidate.verdict.reasons} <= ids(report)


def test_a_chimera_never_passes_and_a_copy_does() -> None:
    """Of a chimera only the outlier features, or half of each vector, are the image's own."""
    draw, is_outlier = default_rng(5), np.isin(np.arange(384), (7, 50))
    h = 0.5 * planted(100, features=(7, 50), seed=5)
    h += ~is_outlier * (draw.normal(size=(100, 16)) @ draw.normal(0, 0.15, (16, 384)))
    noise, known = h.std(axis=0) * draw.normal(size=h.shape), stored(h)
    for other in (np.roll(h, 1, axis=0), h[::-1]):
        for chimera, expected in (
            ((h + other) / 2, {"representation_changed"}),
            (np.where(is_outlier, h, h.mean(axis=0) + noise), {"unrelated"}),
            (np.where(is_outlier, h, other), {"unrelated"}),
        ):
            for report in (judged(chimera, h), judged_by(known, chimera)):
                assert {f.fate for f in report.features} <= {"kept", "undecided"}
                # a feature of mixed vectors may or may not follow the reference's
                assert (report.candidate.verdict.passed, ids(report) - {"undecided"}) == (True, expected)
                found = alike(report)
                assert found.text in report.verdict.reasons[0].seen
                assert (np.array([found.cka_debiased, found.same_nearest], float) < (0.6, 0.2)).all()
    units, six_bits = h / np.linalg.norm(h, axis=1, keepdims=True), np.round(h / np.abs(h).max() * 31)
    for copied in (h, units, rounded(h), six_bits, h + noise / 4, same_mean(h, 0.97)):
        for report in (judged(copied, h), judged_by(known, copied)):
            assert report.passed, report.verdict.reasons
            found = alike(report)
            assert (np.array([found.cka_debiased, found.same_nearest], float) > (0.9, 0.5)).all()
    assert (alike(judged(h + noise / 2, h)).cka_debiased or 0) > 0.8


def test_a_collapse_never_passes() -> None:
    """90 % of the variation within twelve kinds of images is removed. The outlier features are as strong as before."""
    own, kinds = planted(120), default_rng(6).normal(0, 0.8, (12, 384))[np.arange(120) % 12]
    candidate = own.mean(axis=0) + np.sqrt(0.1) * (own - own.mean(axis=0)) + kinds
    for report in (judged(candidate, own + kinds), judged_by(stored(own + kinds), candidate)):
        assert (report.candidate.verdict.passed, ids(report)) == (True, {"representation_changed"})
        assert "relative to all others; at least 0.7, 50 % and 0.9 are needed" in report.reasons[0].seen


@needs_embeddings
def test_real_features_that_shrank_are_not_called_rotated() -> None:
    """In 10 of 12 draws the weakest of three was, though each vector has a cosine of 0.9997 to what it was."""
    x = np.load(EMBEDDINGS / "clipv_caltech_rn50.npz", allow_pickle=False)["x"].astype(np.float64)
    (reason,) = judged(np.where(np.isin(np.arange(1024), (526, 48, 222)), 0.95 * x, x), x).reasons
    assert (reason.id, "222: weaker, beyond 4 SD in" in reason.seen) == ("outlier_feature_lost", True)


def test_a_loss_inside_the_tolerance_passes_and_outside_it_warns() -> None:
    h = planted()
    weaker = h * (1 - 0.03 * (np.arange(384) == 7))
    assert judged(weaker, h).passed
    strict = judged(weaker, h, tolerance=0.001)
    assert "statistic_shrank" in ids(strict)
    assert strict.candidate.verdict.passed


def test_a_reference_without_the_indication_is_said_to_be_that() -> None:
    h = normal(80, 384)
    report = judged(h, h)
    assert ids(report) >= {"reference_without_indication", "too_weak"}
    assert "ompare it with its original" not in " ".join(r.next_step for r in report.verdict.reasons)
    better = judged(planted(), h)
    assert ids(better) == {"reference_without_indication"}
    assert (better.candidate.verdict.passed, better.new_features) == (True, (7,))


def test_a_candidate_that_warns_alone_never_passes() -> None:
    h, bad = planted(), planted()
    bad[3] = np.nan
    broken = judged(bad, h)
    assert (ids(broken), broken.n_images) == ({"nonfinite_representations"}, 79)
    assert ids(judged(h[:20], h[:20])) >= {"too_few_images", "reference_without_indication"}
    assert ids(judged(h, h, random_weights=True)) >= {"untrained"}


def test_classifiers_permuted_inside_are_the_same_network_and_agree(workshop: Workshop) -> None:
    """A permutation that the head in the same file takes along changes nothing that anyone reads."""
    h, order = planted(), default_rng(1).permutation(384)
    head = (normal(384, 10, seed=2) * (np.arange(384) != 7)[:, None]).astype(np.float32)
    contract = lookup.lookup_contract(rule="head_input")
    contract["tensors"]["logits"] = {"meaning": "class scores", "rule": "logits"}
    outputs = [("logits", onnx.TensorProto.FLOAT, ("batch", 10))]
    then: Fields = {"contract": contract, "then": "logits = MatMul(representation, head)", "outputs": outputs}
    permuted, reference = (
        workshop.model(name, h[:, features], head=head[features], **then)
        for name, features in (("permuted", order), ("reference", np.arange(384)))
    )
    report = workshop.run(permuted, reference)
    assert (report.passed, [f.fate for f in report.features]) == (True, ["moved"])
    agreement = vars(report.agreement)
    truth = stats.binomtest(80, 80).proportion_ci(0.95, method="wilson")
    assert_allclose([agreement[each] for each in ("n", "n_same", "low", "high")], (80, 80, *truth), atol=1e-12)
    against = workshop.run(permuted, None, baseline=workshop.baseline(permuted))
    assert any("holds no predicted classes" in note for note in against.notes)


def test_classes_in_another_order_agree_by_chance() -> None:
    h, logits = planted(), normal(80, 10, seed=2)
    p = np.bincount(logits.argmax(1), minlength=10) / 80
    by_chance = f"by chance it would be {100 * (p @ p[::-1]):.1f} %"
    one = logits + 1e4 * np.eye(10)[0]  # both predict one class for everything: agreement says nothing
    for ours, theirs, n_same, chance, reasons in (
        (logits[:, ::-1], logits, 0, p @ p[::-1], {"unrelated"}),  # the features are kept
        (one, one, 80, 1, set()),
    ):
        report = judged(h, h, logits=(ours, theirs), rule="head_input")
        found = vars(report.agreement)
        assert (found["n_same"], ids(report), found["chance"]) == (n_same, reasons, pytest.approx(chance, abs=1e-12))
        assert not reasons or by_chance in report.verdict.reasons[0].seen


def test_each_model_has_its_own_preprocessing(workshop: Workshop) -> None:
    """The candidate takes BGR: where its own contract is obeyed, it reads the same index and gives the same rows."""
    h, contract = planted(), lookup.lookup_contract()
    contract["preprocessing"]["color_order"] = "BGR"
    a = workshop.model("bgr", h, contract=contract, places=np.array([65536, 256, 1], np.float32))
    report = workshop.run(a, workshop.model("rgb", h))
    assert [report.passed, alike(report).cosine_change] == [True, pytest.approx(0, abs=1e-9)]
    assert any("preprocess differently (color_order)" in note for note in report.notes)


@pytest.mark.long
@needs_embeddings
@pytest.mark.parametrize("name", ["ik_clip_l14_openai", "imas_imagenet_b32", "mahlet_openclip_l14_laion2b"])
def test_real_clip_embeddings(name: str) -> None:
    x = np.load(EMBEDDINGS / f"{name}.npz", allow_pickle=False)["x"][:80].astype(np.float64)
    d, draw = x.shape[1], default_rng(1)
    of_top = np.isin(np.arange(d), judged(x, x).reference.carrying)
    mixed = judged((x + np.roll(x, 40, axis=0)) / 2, x)  # neighbours can be of one class
    assert "representation_changed" in ids(mixed)
    assert 0.2 < (alike(mixed).cka_debiased or 0) < 0.7
    for kept in (rounded(x), x + 0.3 * x.std(axis=0) * draw.normal(size=x.shape)):
        report = judged(kept, x)
        assert report.passed, report.verdict.reasons
        assert min(f.correlation or 0 for f in report.features) > 0.9
    for candidate, expected in (
        (x - of_top * x.mean(axis=0), {"statistic_shrank", "outlier_feature_lost"}),
        (x / (1 + of_top), {"statistic_shrank"}),
        (x[draw.permutation(len(x))], {"unrelated", "outlier_feature_lost"}),
        (x @ rotation(d), {"representation_rotated", "statistic_shrank"}),
        (x[:, draw.permutation(d)], {"representation_permuted"}),
    ):
        found = ids(judged(candidate, x))
        assert expected <= found
        assert "outlier_feature_lost" in expected or "outlier_feature_lost" not in found
    assert found == expected


def test_agreement_is_chance_where_its_lower_bound_is() -> None:
    for n, n_same, chance, is_unrelated in (
        (100, 20, 0.15, True),  # 20 %, but 13.3 % is possible
        (100, 20, 0.13, False),
        (10, 10, 0.7, False),
        (10, 5, 0.7, True),
        (10, 5, 0.73, False),  # ten of ten would have 72.2 % as lower bound: they would not be told from chance
    ):
        low, high = stats.binomtest(n_same, n).proportion_ci(0.95, "wilson")
        rest = {"value": n_same / n, "low": low, "high": high, "confidence": 0.95, "chance": chance}
        texts = unrelated(None, ClassAgreement(n=n, n_same=n_same, **rest))
        assert [f"same class on {n_same} of {n} images" in text for text in texts] == [True] * is_unrelated


def test_a_baseline_gives_the_numbers_of_its_model(workshop: Workshop, capsys: Capture) -> None:
    h = planted()
    a, b, weaker = (workshop.model(f"{loss}", h * (1 - loss * (np.arange(384) == 7))) for loss in (0.05, 0, 0.35))
    file, out = workshop.folder / "baseline.json", workshop.folder / "report.json"
    again = (weaker, "--baseline", file, "--write-baseline", file)  # twice: it must not be compared with itself
    for words in ((b, "--write-baseline", file, "-qq"), (a, "--baseline", file, "-o", f"json={out}"), again, again):
        assert robustcheck("compare", *words, "--images", workshop.photos, "--device", "cpu") == (words is again)
        assert ("baseline" in capsys.readouterr().out) == ("-qq" not in words)
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
    first, other, same = (scaled(h)[: baseline.COSINE_IMAGES] for h in (x, y, np.tile(x[0], (200, 1))))
    of_first, of_same = (np.round(cosines(h), baseline.COSINE_DECIMALS) for h in (first, same))
    found = similarity_of(of_first, cosines(other))
    assert found.cka == pytest.approx(similarity(first, other).cka, abs=1e-6)
    assert similarity_of(of_same, cosines(other)).cka_debiased is None


def test_a_stale_baseline_is_a_reason() -> None:
    h = planted()
    known = stored(h[:70])
    assert judged_by(known, h[:70]).passed
    without = h[:70] - (np.arange(384) == 7) * h[:70, 7].mean()
    assert ids(judged_by(known, without)) >= {"statistic_shrank", "outlier_feature_lost"}
    other_images = judged_by(known, h)
    assert not other_images.paired
    assert other_images.statistics[0].ratio.low is not None
    order = np.arange(70)[::-1]  # what is compared image by image would be compared between different images
    reversed_ = judged_by(known, h[order], order)
    assert ids(reversed_) == ids(other_images) == {"stale_baseline", "undecided"}  # not paired, intervals are wider
    assert "another order" in reversed_.verdict.reasons[0].seen
    assert (reversed_.paired, reversed_.similarity) == (True, None)  # the groups go by digest
    old = judged_by(but(known, evidence__statistics__statistic_version=1), h[:70])
    assert {"stale_baseline", "reference_without_indication"} <= ids(old)
    assert all(s.ratio.estimate is None for s in old.statistics)
    assert ids(judged_by(but(known, evidence__model__rule="head_input"), h[:70])) == {"not_comparable"}
    wide = judged_by(known, planted(70, d=400))
    assert ids(wide) == {"not_comparable", "unrelated"}  # other values, too: CKA needs no equal width
    assert wide.features == ()


def test_two_int8_files_on_cpus_of_which_one_saturates_are_noted() -> None:
    profile, side = load(), paired(planted(), planted()).candidate
    exact, less = Int8Sums(plain=1, exact=1), Int8Sums(plain=0.5059, exact=1)
    said = "are exact on the CPU of the candidate and saturate at 50.6 % of the exact sum on that of the reference"
    for theirs, expected in ((less, [f"int8 sums {said}"]), (exact, []), (None, [])):
        one, other = (but(measured(side, profile), evidence__execution__int8_sums=sums) for sums in (exact, theirs))
        notes = run._notes(one, other, profile, is_baseline=True)
        assert [note.partition(":")[0] for note in notes if "int8" in note] == expected


def write(path: Path, document: Fields) -> None:
    digest = text.digest_of({key: value for key, value in document.items() if key != "digest"})
    path.write_text(json.dumps(document | {"digest": digest}), encoding="utf-8")


def test_a_damaged_or_changed_baseline_is_refused(tmp_path: Path) -> None:
    made, path = stored(planted(24)), tmp_path / "baseline.json"
    written = baseline.to_json(made)
    write(path, json.loads(written))
    assert baseline.load(baseline.read(path)) == made
    for changed, said in (
        ({"schema_version": 2}, "schema_version is 2"),
        ({"document": "compare"}, "is not a baseline"),
        ({"cosines": [1.5]}, "wrong cosines.0"),
        ("group_sizes", "groups or statistics are missing"),
        ("images", "the images are not those of the evidence"),
        ("left_out.kurtosis.without", "not one value for each group"),
        ("frequencies", "differ in number"),
        ("values", "values are of another number of images"),
        ("values.3", "features and values differ in number"),
        ("cosines", "cosines are of another number of images"),
    ):
        part = document = json.loads(written)
        if isinstance(changed, dict):
            document |= changed
        else:  # the last of a list is gone
            for key in changed.split("."):
                part = part[int(key) if key.isdigit() else key]
            part.pop()
        write(path, document)
        raised(UsageError, said, baseline.read, path)
    path.write_text(json.dumps(json.loads(written) | {"frequencies": [0.5]}), encoding="utf-8")
    raised(UsageError, "changed after it was written", baseline.read, path)


def test_a_baseline_of_python_needs_no_file(workshop: Workshop) -> None:
    a, b, file = workshop.model("a", planted()), workshop.model("b", planted()), workshop.folder / "baseline.json"
    made = workshop.baseline(b)
    file.write_text(baseline.to_json(made), encoding="utf-8")
    assert baseline.read(file) == made.with_vectors(None)  # which JSON does not hold
    report = workshop.run(a, None, baseline=made)
    assert (report.passed, report.baseline) == (True, f"<baseline of {b}>")
    assert CompareReport.model_validate_json(to_json(report)).next_baseline is None
    options: Fields = {"baseline": but(made, frequencies=(0.1,))}
    raised(UsageError, "^baseline: digest does not match the content", workshop.run, a, None, **options)


def test_every_way_in_which_a_baseline_was_measured_otherwise_is_told() -> None:
    now = reports.passing().evidence
    few = but(now, statistics__n_images=70)
    version = f"the baseline has statistic version 99, this robustcheck {now.statistics.statistic_version}"
    otherwise = but(now.preprocessing, preprocessing__resize_mode="squash", preprocessing__color_order="BGR")
    for then, *told in (
        (now,),
        (few, "the baseline has another number of usable representations"),
        (but(now, statistics__statistic_version=99), version),
        (
            but(few, images__digest="sha256:0", images__n_read=70, images__source="old"),
            "the baseline was measured on other images (70 of old)",
        ),
        (but(now, preprocessing=otherwise), "the baseline was preprocessed otherwise (resize_mode, color_order)"),
    ):
        assert baseline.staleness(baseline.Baseline.model_construct(evidence=then), now) == (*told,)
