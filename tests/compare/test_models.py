"""Comparisons of whole models: what was kept passes, what was not is said; precisions, opsets, real embeddings."""

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose
from scipy import stats

from robustcheck_onnx.checker.compare.pairs import ClassAgreement, unrelated
from support import EMBEDDINGS, Fields, lookup, needs_embeddings, normal
from support.comparisons import (
    Workshop,
    alike,
    baseline_of,
    eight_bits,
    ids,
    judged,
    judged_by,
    numbers,
    planted,
    rotation,
    same_mean,
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
    noise, known = h.std(axis=0) * draw.normal(size=h.shape), baseline_of(h)
    for other in (np.roll(h, 1, axis=0), h[::-1]):
        for chimera, expected in (
            ((h + other) / 2, {"undecided"}),
            (np.where(is_outlier, h, h.mean(axis=0) + noise), {"unrelated"}),
            (np.where(is_outlier, h, other), {"unrelated"}),
        ):
            for report in (judged(chimera, h), judged_by(known, chimera)):
                assert {f.fate for f in report.features} <= {"kept", "undecided"}
                assert report.candidate.verdict.passed
                assert ids(report) == expected
                found = alike(report)
                assert found.text in report.verdict.reasons[0].seen
                assert (numbers(found.cka_debiased, found.same_nearest) < (0.6, 0.2)).all()
    lengths = np.linalg.norm(h, axis=1, keepdims=True)
    six_bits = np.round(h / np.abs(h).max() * 31)
    for copied in (h, h / lengths, eight_bits(h), six_bits, h + noise / 4, same_mean(h, 0.97)):
        for report in (judged(copied, h), judged_by(known, copied)):
            assert report.passed, report.verdict.reasons
            found = alike(report)
            assert (numbers(found.cka_debiased, found.same_nearest) > (0.9, 0.5)).all()
    assert (alike(judged(h + noise / 2, h)).cka_debiased or 0) > 0.8


def test_a_loss_inside_the_tolerance_passes_and_outside_it_warns() -> None:
    h = planted()
    weaker = h * (1 - 0.03 * (np.arange(384) == 7))
    assert judged(weaker, h).passed
    strict = judged(weaker, h, tolerance=0.001)
    assert "statistic_shrank" in ids(strict)
    assert strict.candidate.verdict.passed


def test_a_reference_without_the_indication_is_said_to_be_that() -> None:
    h = normal(80, 384)
    assert ids(judged(h, h)) >= {"reference_without_indication", "too_weak"}
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
    then: Fields = {"contract": contract, "then": "logits = MatMul(representation, head)"}
    then["outputs"] = [("logits", onnx.TensorProto.FLOAT, ("batch", 10))]
    permuted, reference = (
        workshop.model(name, h[:, features], head=head[features], **then)
        for name, features in (("permuted", order), ("reference", np.arange(384)))
    )
    report = workshop.run(permuted, reference)
    assert (report.passed, [f.fate for f in report.features]) == (True, ["moved"])
    assert report.agreement is not None
    assert (report.agreement.n, report.agreement.n_same) == (80, 80)
    truth = stats.binomtest(80, 80).proportion_ci(0.95, method="wilson")
    assert_allclose((report.agreement.low, report.agreement.high), truth, atol=1e-12)
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
        assert report.agreement is not None
        assert (report.agreement.n_same, ids(report)) == (n_same, reasons)
        assert report.agreement.chance == pytest.approx(chance, abs=1e-12)
        assert not reasons or by_chance in report.verdict.reasons[0].seen


def test_each_model_has_its_own_preprocessing(workshop: Workshop) -> None:
    """The candidate takes BGR: where its own contract is obeyed, it reads the same index and gives the same rows."""
    h = planted()
    b = workshop.model("rgb", h)
    contract = lookup.lookup_contract()
    contract["preprocessing"]["color_order"] = "BGR"
    a = workshop.model("bgr", h, contract=contract, places=np.array([65536, 256, 1], np.float32))
    report = workshop.run(a, b)
    assert report.passed
    assert alike(report).cosine_change == pytest.approx(0, abs=1e-9)
    assert any("preprocess differently (color_order)" in note for note in report.notes)


@pytest.mark.long
@needs_embeddings
@pytest.mark.parametrize("name", ["ik_clip_l14_openai", "imas_imagenet_b32", "mahlet_openclip_l14_laion2b"])
def test_real_clip_embeddings(name: str) -> None:
    x = np.load(EMBEDDINGS / f"{name}.npz", allow_pickle=False)["x"][:80].astype(np.float64)
    d, draw = x.shape[1], default_rng(1)
    of_top = np.isin(np.arange(d), judged(x, x).reference.carrying)
    mixed = judged((x + np.roll(x, 40, axis=0)) / 2, x)  # neighbours can be of one class
    assert "undecided" in ids(mixed)
    assert 0.2 < (alike(mixed).cka_debiased or 0) < 0.7
    for kept in (eight_bits(x), x + 0.3 * x.std(axis=0) * draw.normal(size=x.shape)):
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
        agreement = ClassAgreement(
            n=n, n_same=n_same, value=n_same / n, low=low, high=high, confidence=0.95, chance=chance
        )
        told = [f"same class on {n_same} of {n} images" in text for text in unrelated(None, agreement)]
        assert told == [True] * is_unrelated
