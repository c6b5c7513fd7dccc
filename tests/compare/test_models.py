"""Comparisons of whole models: what was kept passes, what was not is said; precisions, opsets, real embeddings."""

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose
from scipy import stats

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


def test_the_same_file_passes(workshop: Workshop) -> None:
    same = workshop.compare(planted(), planted())
    assert (same.verdict.verdict, same.n_images) == ("PASS", 80)
    assert_allclose(numbers(alike(same).cka, alike(same).cosine_change), [1.0, 0.0], atol=1e-9)
    assert any("same file" in note for note in same.notes)


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
        assert report.verdict.verdict == "WARN"
        assert expected <= ids(report)
        alone = report.candidate.verdict
        assert alone.verdict == "PASS" or {r.id for r in alone.reasons} <= ids(report)


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
                assert report.candidate.verdict.verdict == "PASS"
                assert ids(report) == expected
                assert alike(report).text in report.verdict.reasons[0].seen
                assert (alike(report).cka_debiased or 1) < 0.6
                assert (alike(report).same_nearest or 0) < 0.2
    lengths = np.linalg.norm(h, axis=1, keepdims=True)
    six_bits = np.round(h / np.abs(h).max() * 31)
    for copied in (h, h / lengths, eight_bits(h), six_bits, h + noise / 4, same_mean(h, 0.97)):
        for report in (judged(copied, h), judged_by(known, copied)):
            assert report.passed, report.verdict.reasons
            assert (alike(report).cka_debiased or 0) > 0.9
            assert (alike(report).same_nearest or 0) > 0.5
    assert (alike(judged(h + noise / 2, h)).cka_debiased or 0) > 0.8


def test_a_loss_inside_the_tolerance_passes_and_outside_it_warns() -> None:
    h = planted()
    weaker = h * (1 - 0.03 * (np.arange(384) == 7))
    assert judged(weaker, h).verdict.verdict == "PASS"
    strict = judged(weaker, h, tolerance=0.001)
    assert "statistic_shrank" in ids(strict)
    assert strict.candidate.verdict.verdict == "PASS"


def test_a_reference_without_the_indication_is_said_to_be_that() -> None:
    h = normal(80, 384)
    assert ids(judged(h, h)) >= {"reference_without_indication", "too_weak"}
    better = judged(planted(), h)
    assert ids(better) == {"reference_without_indication"}
    assert better.candidate.verdict.verdict == "PASS"
    assert better.new_features == (7,)


def test_a_candidate_that_warns_alone_never_passes() -> None:
    h = planted()
    assert {"too_few_images", "reference_without_indication"} <= ids(judged(h[:20], h[:20]))
    bad = h.copy()
    bad[3] = np.nan
    broken = judged(bad, h)
    assert ids(broken) == {"nonfinite_representations"}
    assert broken.n_images == 79
    assert ids(judged(h, h, random_weights=True)) >= {"untrained"}


def test_classifiers_permuted_inside_are_the_same_network_and_agree(workshop: Workshop) -> None:
    """A permutation that the head in the same file takes along changes nothing that anyone reads."""
    h, order = planted(), default_rng(1).permutation(384)
    head = (normal(384, 10, seed=2) * (np.arange(384) != 7)[:, None]).astype(np.float32)
    contract = lookup.lookup_contract(rule="head_input")
    contract["tensors"]["logits"] = {"meaning": "class scores", "rule": "logits"}
    paths = []
    then: Fields = {"then": "logits = MatMul(representation, head)"}
    then["outputs"] = [("logits", onnx.TensorProto.FLOAT, ("batch", 10))]
    for name, features in (("permuted", order), ("reference", np.arange(384))):
        paths.append(workshop.model(name, h[:, features], contract=contract, head=head[features], **then))
    report = workshop.run(paths[0], paths[1])
    assert (report.verdict.verdict, [f.fate for f in report.features]) == ("PASS", ["moved"])
    assert report.agreement is not None
    assert (report.agreement.n, report.agreement.n_same) == (80, 80)
    truth = stats.binomtest(80, 80).proportion_ci(0.95, method="wilson")
    assert_allclose(numbers(report.agreement.low, report.agreement.high), truth, atol=1e-12)
    against = workshop.run(paths[0], None, baseline=workshop.baseline(paths[0]))
    assert any("holds no predicted classes" in note for note in against.notes)


def test_classes_in_another_order_agree_by_chance() -> None:
    h, logits = planted(), normal(80, 10, seed=2)
    other = judged(h, h, logits=(logits[:, ::-1], logits), rule="head_input")
    truth_rows = logits.argmax(1)
    assert other.agreement is not None
    assert other.agreement.n_same == int((truth_rows == 9 - truth_rows).sum()) == 0
    assert ids(other) == {"unrelated"}  # the features are kept
    p, q = (np.bincount(rows, minlength=10) / 80 for rows in (truth_rows, 9 - truth_rows))
    assert_allclose(numbers(other.agreement.chance), p @ q, atol=1e-12)
    assert f"by chance it would be {100 * (p @ q):.1f} %" in other.verdict.reasons[0].seen
    # where both predict one class for everything, agreement says nothing, and is not a reason
    one = logits + 1e4 * np.eye(10)[0]
    alike_by_chance = judged(h, h, logits=(one, one), rule="head_input")
    assert alike_by_chance.agreement is not None
    assert (alike_by_chance.agreement.chance, alike_by_chance.verdict.verdict) == (1, "PASS")


def test_each_model_has_its_own_preprocessing(workshop: Workshop) -> None:
    """The candidate takes BGR: where its own contract is obeyed, it reads the same index and gives the same rows."""
    h = planted()
    b = workshop.model("rgb", h)
    contract = lookup.lookup_contract()
    contract["preprocessing"]["color_order"] = "BGR"
    a = workshop.model("bgr", h, contract=contract)
    model = onnx.load(a)
    places = next(w for w in model.graph.initializer if w.name == "places")
    places.CopyFrom(onnx.numpy_helper.from_array(np.array([65536, 256, 1], np.float32), "places"))
    onnx.save(model, a)
    report = workshop.run(a, b)
    assert report.verdict.verdict == "PASS"
    assert alike(report).cosine_change == pytest.approx(0, abs=1e-9)
    assert any("preprocess differently (color_order)" in note for note in report.notes)


@pytest.mark.long
@needs_embeddings
@pytest.mark.parametrize("name", ["ik_clip_l14_openai", "imas_imagenet_b32", "mahlet_openclip_l14_laion2b"])
def test_real_clip_embeddings(name: str) -> None:
    x = np.load(EMBEDDINGS / f"{name}.npz", allow_pickle=False)["x"][:80].astype(np.float64)
    d, draw = x.shape[1], default_rng(1)
    top = list(judged(x, x).reference.carrying)
    of_top = np.isin(np.arange(d), top)
    mixed = judged((x + np.roll(x, 40, axis=0)) / 2, x)  # neighbours can be of one class
    assert "undecided" in ids(mixed)
    assert 0.2 < (alike(mixed).cka_debiased or 0) < 0.7
    for kept in (eight_bits(x), x + 0.3 * x.std(axis=0) * draw.normal(size=x.shape)):
        report = judged(kept, x)
        assert report.verdict.verdict == "PASS", report.verdict.reasons
        assert min(f.correlation or 0 for f in report.features) > 0.9
    for lost, expected in (
        (x - of_top * x.mean(axis=0), {"statistic_shrank", "outlier_feature_lost"}),
        (x / (1 + of_top), {"statistic_shrank"}),
        (x[draw.permutation(len(x))], {"unrelated", "outlier_feature_lost"}),
    ):
        assert expected <= ids(judged(lost, x))
    turned = ids(judged(x @ rotation(d), x))
    assert {"representation_rotated", "statistic_shrank"} <= turned
    assert "outlier_feature_lost" not in turned
    assert ids(judged(x[:, draw.permutation(d)], x)) == {"representation_permuted"}
