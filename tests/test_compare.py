"""`robustcheck compare`: paired numbers against independent truths, features and verdicts, the whole command."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from rich.console import Console
from scipy import optimize, stats

from robustcheck_onnx.checker import (
    binding,
    cli,
    compare_changes,
    compare_fates,
    compare_similarity,
    compare_sums,
    kurtosis,
    report_compare,
    state,
)
from robustcheck_onnx.checker.compare import CompareReport
from robustcheck_onnx.checker.compare_run import compare as run_both
from robustcheck_onnx.checker.compare_sums import Pair, Side
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ROBUSTCHECK_SHARED", ROOT.parent / "shared")) / "data" / "embeddings"
ALPHA = 0.05
Array = npt.NDArray[np.float64]


def planted(
    n: int = 80, d: int = 384, seed: int = 0, strength: float = 14.0, features: tuple[int, ...] = (7,)
) -> Array:
    """Signed representations with persistent outlier features of `strength` SD that vary between images."""
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, d)) + rng.normal(0, 0.5, d)
    h[:, features] += strength * rng.uniform(0.8, 1.2, (n, len(features)))
    return h


def paired(candidate: Array, reference: Array, keys: npt.NDArray[np.int64] | None = None) -> Pair:
    pair = Pair(Side(state.State(candidate.shape[1])), Side(state.State(reference.shape[1])))
    keys = np.arange(len(candidate)) if keys is None else keys
    for rows in np.array_split(np.arange(len(candidate)), 3):
        compare_sums.update(pair, candidate[rows], reference[rows], keys[rows])
    return pair


def numbers(*values: float | None) -> Array:
    """None is NaN, which is close to nothing."""
    return np.array(values, dtype=np.float64)


def rotation(d: int, seed: int = 1) -> Array:
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0], dtype=np.float64)


def run_compare(candidate: Path, reference: Path | None, **options: Any) -> CompareReport:
    return run_both(candidate, reference, **options)[0]


def alike(report: CompareReport) -> compare_similarity.Similarity:
    assert report.similarity is not None
    return report.similarity


def sides(pair: Pair) -> tuple[compare_changes.LeftOut, compare_changes.LeftOut]:
    return compare_changes.left_out(pair.candidate), compare_changes.left_out(pair.reference)


def changed(pair: Pair, tolerance: float = 0.2) -> dict[str, compare_changes.StatisticChange]:
    return {c.name: c for c in compare_changes.changes(*sides(pair), ALPHA, tolerance)}


def fates(candidate: Array, reference: Array) -> dict[int, compare_fates.FeatureFate]:
    pair = paired(candidate, reference)
    found = compare_fates.fates(pair, state.statistics(pair.reference.state, ALPHA), 0.2)
    return {fate.index: fate for fate in found}


# ------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(("d", "other"), [(12, 12), (12, 30), (90, 70)])
def test_cka_is_kornblith_s_in_the_form_over_features(d: int, other: int) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, d)) + 3
    y = np.tanh(x[:, : min(d, other)] @ rng.normal(size=(min(d, other), other))) + rng.normal(size=(50, other))
    a, b = x - x.mean(0), y - y.mean(0)
    truth = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    found = compare_similarity.similarity(x, y)
    np.testing.assert_allclose(numbers(found.cka), truth, rtol=1e-12)
    assert found.n_images == 50


def test_cka_does_not_see_rotation_scale_or_offset_and_is_1_for_the_same() -> None:
    x = planted(60)
    for other in (x, 3 * x @ rotation(x.shape[1]) + 2.0, x[:, np.random.default_rng(0).permutation(x.shape[1])]):
        found = compare_similarity.similarity(x, other)
        np.testing.assert_allclose(numbers(found.cka, found.cka_debiased), 1.0, atol=1e-9)
    assert compare_similarity.similarity(np.ones((8, 4)), x[:8]).cka is None


def test_unrelated_representations_are_alike_only_to_the_biased_form() -> None:
    rng = np.random.default_rng(3)
    found = [compare_similarity.similarity(rng.normal(size=(60, 512)), rng.normal(size=(60, 512))) for _ in range(20)]
    assert min(f.cka or 0 for f in found) > 0.8
    # unbiased: the mean over repetitions is 0
    values = [f.cka_debiased or 0 for f in found]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values)) + 1e-3
    assert max(map(abs, values)) < 4 * np.sqrt(2) / 60  # SD about √2/n: k and m have n²/2 free entries of equal size


def test_hsic_is_the_mean_over_ordered_quadruples() -> None:
    """Song et al. 2012: the U-statistic K12 (L12 + L34 − 2 L13), by brute force."""
    import itertools

    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    k, m = x @ x.T, y @ y.T
    terms = [k[a, b] * (m[a, b] + m[c, d] - 2 * m[a, c]) for a, b, c, d in itertools.permutations(range(7), 4)]
    np.testing.assert_allclose(compare_similarity._hsic(k, m) / (7 * 4), np.mean(terms), rtol=1e-10)


def test_statistics_are_those_of_the_check() -> None:
    a, b = planted(seed=5), planted(seed=6, strength=9)
    pair = paired(a, b)
    ours, theirs = (state.statistics(side.state, ALPHA) for side in (pair.candidate, pair.reference))
    for name, change in changed(pair).items():
        x, y = getattr(ours, name).estimate, getattr(theirs, name).estimate
        np.testing.assert_allclose(numbers(change.candidate, change.reference), [x, y], rtol=1e-12)
        np.testing.assert_allclose(
            numbers(change.difference.estimate, change.ratio.estimate), [x - y, x / y], rtol=1e-9
        )
    truth = stats.kurtosis(a, axis=1, fisher=False).mean() / stats.kurtosis(b, axis=1, fisher=False).mean()
    np.testing.assert_allclose(numbers(changed(pair)["kurtosis"].ratio.estimate), truth, rtol=1e-12)


def test_the_paired_spread_is_the_bootstrap_s() -> None:
    """Resampling images, both models alike, gives the spread of the log ratio that the jackknife claims."""
    rng = np.random.default_rng(7)
    b = planted(120, 64, seed=8, strength=7)
    a = b * (1 - 0.3 * (np.arange(64) == 7)) + 0.5 * rng.normal(size=b.shape)
    pair = paired(a, b, keys=np.arange(120))
    change = changed(pair)["kurtosis"]
    assert change.ratio.low is not None
    half = np.log(change.ratio.estimate or 0) - np.log(change.ratio.low)
    from robustcheck_onnx.checker import sequential

    claimed = half / sequential.radius(120, 1.0, ALPHA / 6)  # the SD of the influence function
    x, y = (kurtosis.activation_kurtosis(h) for h in (a, b))
    draws = rng.integers(0, 120, (4000, 120))
    spread = np.log(x[draws].mean(1) / y[draws].mean(1)).std() * np.sqrt(120)
    np.testing.assert_allclose(claimed, spread, rtol=0.1)
    # not paired it would be much wider
    apart = compare_changes.changes(*sides(pair), ALPHA, 0.2, paired=False)[0]
    assert apart.ratio.low is not None
    assert np.log(apart.ratio.estimate or 0) - np.log(apart.ratio.low) > 1.3 * half


def test_paired_intervals_cover_the_true_ratio() -> None:
    """300 draws of 64 images from two models whose ratios are known from 40,000 images; at most α may miss."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        b = rng.normal(size=(n, 48))
        b[:, 3] += 6 * rng.lognormal(0, 0.3, n)
        a = b + 0.4 * rng.normal(size=b.shape)
        a[:, 3] *= 0.9
        return a, b

    rng = np.random.default_rng(9)
    large = changed(paired(*draw(rng, 40_000)))
    truth = {name: large[name].ratio.estimate for name in compare_changes.KEEPS}
    missed = 0
    for _ in range(300):
        found = changed(paired(*draw(rng, 64)))
        bounds = [(found[name].ratio.low, value, found[name].ratio.high) for name, value in truth.items()]
        missed += not all(
            low is not None and high is not None and low <= value <= high for low, value, high in bounds if value
        )
    assert missed <= stats.binom.ppf(0.99, 300, ALPHA)


def test_always_in_both_is_no_certainty() -> None:
    frequency = changed(paired(planted(), planted()))["outlier_frequency"]
    assert (frequency.candidate, frequency.reference, frequency.ratio.estimate) == (1, 1, 1)
    assert frequency.ratio.low is not None
    assert 0.85 < frequency.ratio.low < 0.97
    assert changed(paired(planted(), planted()), tolerance=0.01)["outlier_frequency"].keeps == "undecided"


def test_other_images_are_not_paired() -> None:
    a, b = sides(paired(planted(), planted()))[0], sides(paired(planted(60), planted(60)))[0]
    with pytest.raises(ValueError, match="not paired"):
        compare_changes.changes(a, b, ALPHA, 0.2)
    assert compare_changes.changes(a, b, ALPHA, 0.2, paired=False)[0].ratio.low is not None


def test_pairs_that_one_model_cannot_measure_count_at_it_and_nowhere_else() -> None:
    a, b = planted(20), planted(20, seed=1)
    a[3], b[5], b[6] = np.nan, 1.0, np.inf
    pair = paired(a, b)
    assert (pair.candidate.state.n, pair.reference.state.n) == (17, 17)
    assert (pair.candidate.state.n_nonfinite, pair.candidate.state.n_constant) == (1, 0)
    assert (pair.reference.state.n_nonfinite, pair.reference.state.n_constant) == (1, 1)
    left = [i for i in range(20) if i not in (3, 5, 6)]
    np.testing.assert_allclose(pair.candidate.kept_rows, compare_sums.scaled(a[left]), rtol=1e-6)
    clean = paired(a[left], b[left], np.array(left))
    np.testing.assert_allclose(pair.reference.state.powers, clean.reference.state.powers)


def test_a_tie_or_a_nan_agrees_with_nothing() -> None:
    pair = paired(planted(4), planted(4))
    a = np.array([[1.0, 2, 0], [2, 2, 0], [np.nan, 9, 1], [5, 1, 1]])
    compare_sums.add_predictions(pair, a, a)
    compare_sums.add_predictions(pair, a[:1], a[3:])
    assert (pair.n_agreeing, pair.n_predicted) == (2, 5)


# ------------------------------------------------------------------------------------------------ features


def test_features_are_found_where_a_permutation_put_them() -> None:
    h = planted(features=(7, 30, 200))
    order = np.random.default_rng(0).permutation(h.shape[1])
    for sign in (1.0, -1.0):
        found = fates(sign * h[:, order], h)
        assert {i: (f.fate, f.to) for i, f in found.items()} == {
            i: ("moved", int(np.flatnonzero(order == i)[0])) for i in (7, 30, 200)
        }
        assert all(f.correlation is not None and sign * f.correlation > 0.999 for f in found.values())


def test_kept_lost_and_new_features() -> None:
    h = planted(features=(7, 30))
    candidate = h.copy()
    candidate[:, 30] -= candidate[:, 30].mean()
    candidate[:, 99] += 15
    found = fates(candidate, h)
    assert {i: (f.fate, f.to) for i, f in found.items()} == {7: ("kept", 7), 30: ("lost", None)}
    pair = paired(candidate, h)
    new = compare_fates.new_features(state.statistics(pair.candidate.state, ALPHA), tuple(found.values()))
    assert new == (99,)


def test_a_lost_feature_is_not_found_in_its_twin() -> None:
    """Outlier features of CLIP ViT-L/14 correlate at −1: the one that stayed does not stand for the one that went."""
    h = planted(features=(7,))
    h[:, 30] = -h[:, 7]
    candidate = h.copy()
    candidate[:, 7] -= candidate[:, 7].mean()
    assert {i: f.fate for i, f in fates(candidate, h).items()} == {7: "lost", 30: "kept"}


def test_a_rotation_is_told_from_a_loss() -> None:
    h = planted(120)
    turned = h @ rotation(h.shape[1])
    assert fates(turned, h)[7].fate == "rotated"
    rounded = np.round(turned / turned.max() * 127)
    assert fates(rounded, h)[7].fate == "rotated"
    lost = h.copy()
    lost[:, 7] -= lost[:, 7].mean()
    assert fates(lost @ rotation(h.shape[1]), h)[7].fate == "lost"
    kurtosis_after = stats.kurtosis(turned, axis=1, fisher=False).mean()
    assert abs(kurtosis_after - 3) < 0.2


def test_the_direction_is_the_constrained_minimum() -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(400, 6))
    y = x @ np.array([2.0, -1.0, 0.5, 0, 0, 0]) + 0.1 * rng.normal(size=400)
    fit, held = slice(0, None, 2), slice(1, None, 2)
    best = optimize.minimize(
        lambda q: float(((y[fit] - x[fit] @ q) ** 2).sum()),
        np.full(6, 0.1),
        constraints={"type": "ineq", "fun": lambda q: 1 - q @ q},
        tol=1e-12,
    )
    truth = 1 - ((y[held] - x[held] @ best.x) ** 2).sum() / (y[held] ** 2).sum()
    np.testing.assert_allclose(numbers(compare_fates.direction_share(x, y)), truth, atol=1e-5)
    np.testing.assert_allclose(numbers(compare_fates.direction_share(x, x[:, 2])), 1.0, atol=1e-6)
    assert compare_fates.direction_share(x[:10], y[:10]) is None


# ---------------------------------------------------------------------------------------------- end to end


@dataclass
class Workshop:
    """Writes look-up models, and compares them on one set of photos."""

    folder: Path
    photos: Path
    write: Callable[..., Path]

    def model(self, name: str, h: npt.ArrayLike, **options: Any) -> Path:
        return self.write(self.folder / f"{name}.onnx", h, **options)

    def compare(self, candidate: npt.ArrayLike, reference: npt.ArrayLike, **options: Any) -> CompareReport:
        a, b = self.model("candidate", candidate), self.model("reference", reference)
        return run_compare(a, b, images=self.photos, device="cpu", **options)


@pytest.fixture(scope="session")
def photos_80(tmp_path_factory: pytest.TempPathFactory, lookup: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("compare_photos")
    lookup.write_lookup_images(folder, 80, photos=sorted((ROOT / "checker" / "photos").glob("*.jpg")))
    return folder


@pytest.fixture
def workshop(tmp_path: Path, photos_80: Path, lookup: ModuleType) -> Workshop:
    return Workshop(tmp_path, photos_80, lookup.write_lookup_model)


def ids(report: CompareReport) -> set[str]:
    return {reason.id for reason in report.verdict.reasons}


def eight_bits(h: Array) -> Array:
    step = np.abs(h).max() / 127
    return np.asarray(np.round(h / step) * step)


def test_the_same_and_its_8_bit_copy_pass(workshop: Workshop) -> None:
    h = planted()
    same = workshop.compare(h, h)
    assert (same.verdict.verdict, same.n_images) == ("PASS", 80)
    np.testing.assert_allclose(numbers(alike(same).cka, alike(same).cosine_change), [1.0, 0.0], atol=1e-9)
    assert any("same file" in note for note in same.notes)
    rounded = workshop.compare(eight_bits(h), h)
    assert rounded.verdict.verdict == "PASS"
    assert [f.fate for f in rounded.features] == ["kept"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda h: h - (np.arange(384) == 7) * h[:, 7].mean(), {"statistic_shrank", "outlier_feature_lost"}),
        (lambda h: h * (1 - 0.4 * (np.arange(384) == 7)), {"statistic_shrank"}),
        (lambda h: h @ rotation(384), {"statistic_shrank", "representation_rotated", "low_kurtosis"}),
        (lambda h: np.maximum(h, 0), {"rectified"}),
        (lambda h: np.roll(h, 5, axis=1), {"representation_permuted"}),
        (lambda h: planted(d=400), {"not_comparable"}),
    ],
    ids=["removed", "scaled down", "rotated", "rectified", "permuted", "another width"],
)
def test_what_was_not_kept_is_said(workshop: Workshop, change: Callable[[Array], Array], expected: set[str]) -> None:
    report = workshop.compare(change(planted()), planted())
    assert report.verdict.verdict == "WARN"
    assert expected <= ids(report)
    assert report.candidate.verdict.verdict == "PASS" or {r.id for r in report.candidate.verdict.reasons} <= ids(report)


def test_a_loss_inside_the_tolerance_passes_and_outside_it_warns(workshop: Workshop) -> None:
    h = planted()
    weaker = h * (1 - 0.03 * (np.arange(384) == 7))
    assert workshop.compare(weaker, h).verdict.verdict == "PASS"
    strict = workshop.compare(weaker, h, tolerance=0.001)
    assert "statistic_shrank" in ids(strict)
    assert strict.candidate.verdict.verdict == "PASS"


def test_a_reference_without_the_indication_is_said_to_be_that(workshop: Workshop) -> None:
    h = np.random.default_rng(0).normal(size=(80, 384))
    assert ids(workshop.compare(h, h)) >= {"reference_without_indication", "low_kurtosis"}
    better = workshop.compare(planted(), h)
    assert ids(better) == {"reference_without_indication"}
    assert better.candidate.verdict.verdict == "PASS"
    assert better.new_features == (7,)


def test_a_candidate_that_warns_alone_never_passes(workshop: Workshop) -> None:
    h = planted()
    few = run_compare(
        workshop.model("a", h), workshop.model("b", h), images=workshop.photos, device="cpu", max_images=20
    )
    assert {"too_few_images", "reference_without_indication"} <= ids(few)
    bad = h.copy()
    bad[3] = np.nan
    broken = workshop.compare(bad, h)
    assert ids(broken) == {"nonfinite_representations"}
    assert broken.n_images == 79
    untrained = run_compare(
        workshop.model("c", h, source={"random_weights": True}), workshop.model("d", h),
        images=workshop.photos, device="cpu",
    )  # fmt: skip
    assert ids(untrained) == {"untrained"}


def test_classifiers_permuted_inside_are_the_same_network_and_agree(workshop: Workshop) -> None:
    """A permutation that the head in the same file takes along changes nothing that anyone reads."""
    h, order = planted(), np.random.default_rng(1).permutation(384)
    rng = np.random.default_rng(2)
    head = (rng.normal(size=(384, 10)) * (np.arange(384) != 7)[:, None]).astype(np.float32)

    def classifier(name: str, rows: Array, weights: npt.NDArray[np.float32]) -> Path:
        path = workshop.model(name, rows, rule="head_input")
        model = onnx.load(path)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(weights), "head"))
        model.graph.node.append(onnx.helper.make_node("MatMul", ["representation", "head"], ["logits"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10]))
        contract = json.loads(model.metadata_props[0].value)
        contract["tensors"]["logits"] = {"meaning": "class scores", "rule": "logits"}
        onnx.helper.set_model_props(model, {model.metadata_props[0].key: json.dumps(contract)})
        onnx.save(model, path)
        return path

    a = classifier("permuted", h[:, order], head[order])
    b = classifier("reference", h, head)
    report = run_compare(a, b, images=workshop.photos, device="cpu")
    assert (report.verdict.verdict, [f.fate for f in report.features]) == ("PASS", ["moved"])
    assert report.agreement is not None
    assert (report.agreement.n, report.agreement.n_same) == (80, 80)
    truth = stats.binomtest(80, 80).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(numbers(report.agreement.low, report.agreement.high), truth, atol=1e-12)
    other = run_compare(classifier("other", h, head[:, ::-1]), b, images=workshop.photos, device="cpu")
    truth_rows = (h[:80].astype(np.float32) @ head).argmax(1)
    assert other.agreement is not None
    assert other.agreement.n_same == int((truth_rows == 9 - truth_rows).sum()) == 0
    assert other.verdict.verdict == "PASS"  # agreement is context
    kinds = run_compare(workshop.model("encoder", h), b, images=workshop.photos, device="cpu")
    assert "not_comparable" in ids(kinds)


def test_each_model_has_its_own_preprocessing(workshop: Workshop, lookup: ModuleType) -> None:
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
    report = run_compare(a, b, images=workshop.photos, device="cpu")
    assert report.verdict.verdict == "PASS"
    assert alike(report).cosine_change == pytest.approx(0, abs=1e-9)
    assert any("preprocess differently (color_order)" in note for note in report.notes)


def test_half_precision_passes(workshop: Workshop) -> None:
    h = planted()
    a, b = workshop.model("half", h, dtype=np.float16), workshop.model("single", h)
    report = run_compare(a, b, images=workshop.photos, device="cpu")
    assert report.verdict.verdict == "PASS"
    assert report.candidate.evidence.execution.precision == "fp16"


def network(path: Path, onnx_models: ModuleType, lookup: ModuleType, *, opset: int = 18, seed: int = 0) -> Path:
    """Local contrasts of the photo, normalised, in a Gaussian mix; a bias makes feature 7 stand out."""
    rng = np.random.default_rng(seed)
    kernels = rng.normal(size=(8, 3, 8, 8))
    bias = np.zeros(384, np.float32)
    bias[7] = 14
    weights = {
        "kernels": (kernels - kernels.mean(axis=(1, 2, 3), keepdims=True)).astype(np.float32),
        "scale": np.ones(512, np.float32),
        "mix": (rng.normal(size=(512, 384)) / 512**0.5).astype(np.float32),
        "bias": bias,
    }
    model: onnx.ModelProto = onnx_models.build(
        [
            ("Conv", ["image", "kernels"], ["map"], {"strides": [8, 8]}),
            ("Flatten", ["map"], ["contrasts"]),
            ("LayerNormalization", ["contrasts", "scale"], ["normed"]),
            ("MatMul", ["normed", "mix"], ["mixed"]),
            ("Add", ["mixed", "bias"], ["representation"]),
        ],
        [("representation", onnx.TensorProto.FLOAT, ("batch", 384))],
        weights,
        inputs=[("image", onnx.TensorProto.FLOAT, ("batch", 3, 64, 64))],
        opset=opset,
    )
    onnx.helper.set_model_props(model, {"robustcheck.contract": json.dumps(lookup.lookup_contract())})
    return Path(onnx_models.save(model, path))


def test_opsets_and_their_converter(workshop: Workshop, onnx_models: ModuleType, lookup: ModuleType) -> None:
    """The same network written for opset 17, for 20, and brought from 17 to 20: equal to rounding."""
    old = network(workshop.folder / "old.onnx", onnx_models, lookup, opset=17)
    new = network(workshop.folder / "new.onnx", onnx_models, lookup, opset=20)
    converted = onnx.version_converter.convert_version(onnx.load(old), 20)
    onnx.helper.set_model_props(converted, {p.key: p.value for p in onnx.load(old).metadata_props})
    onnx_models.save(converted, workshop.folder / "converted.onnx")
    for candidate, reference in ((new, old), (workshop.folder / "converted.onnx", old)):
        report = run_compare(candidate, reference, images=workshop.photos, device="cpu")
        assert report.verdict.verdict == "PASS", report.verdict.reasons
        opsets = [side.evidence.model.opset["ai.onnx"] for side in (report.candidate, report.reference)]
        assert opsets == [20, 17]
        np.testing.assert_allclose(numbers(alike(report).cosine_change), 0, atol=1e-6)
        assert [(f.index, f.fate) for f in report.features] == [(7, "kept")]


@pytest.mark.parametrize("precision", ["int8-qdq", "int8-dynamic"])
def test_int8_of_a_network(workshop: Workshop, precision: str, onnx_models: ModuleType, lookup: ModuleType) -> None:
    """Both int8 forms keep verdict and feature."""
    from robustcheck_onnx.exporters.run import run

    photos = sorted(workshop.photos.iterdir())[:40]
    reference = network(workshop.folder / "fp32.onnx", onnx_models, lookup)
    candidate = workshop.folder / "int8.onnx"
    calibration = photos if precision == "int8-qdq" else []
    run("onnx", str(reference), candidate, precision=precision, photos=photos[:5], calibration=calibration)
    report = run_compare(candidate, reference, images=workshop.photos, device="cpu")
    assert report.candidate.evidence.execution.precision == "int8"
    assert [(f.index, f.fate) for f in report.features] == [(7, "kept")]
    assert 1e-6 < (alike(report).cosine_change or 0) < 0.02
    # ranges of a whole batch are those of dynamic quantisation: here it moves the result by less than the limit
    assert report.verdict.verdict == "PASS", report.verdict.reasons


def test_bfloat16_weights_pass(workshop: Workshop, lookup: ModuleType) -> None:
    """ONNX Runtime's CPU provider has no bfloat16 layers, but it reads bfloat16 weights and casts them."""
    h = planted()
    a, b = workshop.model("bf16", h), workshop.model("single", h)
    model = onnx.load(a)
    matrix = next(w for w in model.graph.initializer if w.name == "embeddings")
    values = onnx.numpy_helper.to_array(matrix).copy()
    words = (values.view(np.uint32) >> 16).astype(np.uint16)  # cut off, not rounded: a larger change
    matrix.CopyFrom(
        onnx.helper.make_tensor("halved", onnx.TensorProto.BFLOAT16, values.shape, words.tobytes(), raw=True)
    )
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["halved"], ["embeddings"], to=onnx.TensorProto.FLOAT))
    onnx.save(model, a)
    report = run_compare(a, b, images=workshop.photos, device="cpu")
    assert report.verdict.verdict == "PASS", report.verdict.reasons
    assert report.candidate.evidence.execution.precision == "bf16"
    assert 0 < (alike(report).cosine_change or 0) < 0.01


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/embeddings is not there: real embeddings stay outside")
@pytest.mark.parametrize("name", ["ik_clip_l14_openai", "imas_imagenet_b32", "mahlet_openclip_l14_laion2b"])
def test_real_clip_embeddings(workshop: Workshop, name: str) -> None:
    x = np.load(SHARED / f"{name}.npz", allow_pickle=False)["x"][:80].astype(np.float64)
    d = x.shape[1]
    base = workshop.compare(eight_bits(x), x)
    assert base.verdict.verdict == "PASS", base.verdict.reasons
    top = list(base.reference.carrying)
    removed = x.copy()
    removed[:, top] -= removed[:, top].mean(axis=0)
    assert {"statistic_shrank", "outlier_feature_lost"} <= ids(workshop.compare(removed, x))
    halved = x.copy()
    halved[:, top] /= 2
    assert "statistic_shrank" in ids(workshop.compare(halved, x))
    turned = workshop.compare(x @ rotation(d), x)
    assert {"representation_rotated", "statistic_shrank"} <= ids(turned)
    assert "outlier_feature_lost" not in ids(turned)
    permuted = workshop.compare(x[:, np.random.default_rng(0).permutation(d)], x)
    assert ids(permuted) == {"representation_permuted"}


@pytest.mark.export
def test_real_weights_without_the_indication(efficientnet_lite0: Path) -> None:
    report = run_compare(efficientnet_lite0, efficientnet_lite0, device="cpu", max_images=50)
    assert "reference_without_indication" in ids(report)
    assert report.agreement is not None
    assert report.agreement.value == 1
    assert alike(report).cka == pytest.approx(1)


# --------------------------------------------------------------------------------------------- the command


def test_the_command_says_it_by_exit_code_and_in_every_format(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    h = planted()
    a, b = workshop.model("candidate", eight_bits(h)), workshop.model("reference", h)
    out = workshop.folder / "report.json"
    call = ["compare", str(a), str(b), "--images", str(workshop.photos), "--device", "cpu", "--no-time"]
    assert cli.main([*call, "-o", f"json={out}"]) == 0
    shown = capsys.readouterr().out
    assert "✓ PASS" in shown
    first = out.read_text(encoding="utf-8")
    report = CompareReport.model_validate_json(first)
    assert (report.document, report.verdict.verdict, report.time) == ("compare", "PASS", None)
    assert cli.main([*call, "-o", "json"]) == 0
    assert capsys.readouterr().out == first
    workshop.model("candidate", h @ rotation(384))
    assert cli.main([*call, "-q"]) == 1
    assert capsys.readouterr().out == ""


# ----------------------------------------------------------------------------------------------- baselines


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    document["digest"] = binding.digest_of({key: value for key, value in document.items() if key != "digest"})
    changed_path = path.with_name("edited.json")
    changed_path.write_text(json.dumps(document), encoding="utf-8")
    return changed_path


def test_a_baseline_gives_the_numbers_of_its_model(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    h = planted()
    weaker = h * (1 - 0.05 * (np.arange(384) == 7))
    a, b = workshop.model("candidate", weaker), workshop.model("reference", h)
    file = workshop.folder / "baseline.json"
    images = ["--images", str(workshop.photos), "--device", "cpu", "-q"]
    assert cli.main(["compare", str(b), "--write-baseline", str(file), *images]) == 0
    with_model = run_compare(a, b, images=workshop.photos, device="cpu")
    with_file = run_compare(a, None, baseline=file, images=workshop.photos, device="cpu")
    assert (with_file.verdict, with_file.statistics) == (with_model.verdict, with_model.statistics)
    assert with_file.verdict.verdict == "PASS"
    assert (with_file.paired, with_file.similarity, with_file.baseline) == (True, None, str(file))
    assert [(f.fate, f.candidate_frequency) for f in with_file.features] == [
        (f.fate, f.candidate_frequency) for f in with_model.features
    ]
    removed = workshop.model("candidate", h - (np.arange(384) == 7) * h[:, 7].mean())
    assert cli.main(["compare", str(removed), "--baseline", str(file), *images]) == 1
    lost = run_compare(removed, None, baseline=file, images=workshop.photos, device="cpu")
    assert {"statistic_shrank", "outlier_feature_lost"} <= ids(lost)
    assert cli.main(["compare", str(b), "--baseline", str(file), "--images", str(workshop.photos)]) == 0
    assert "baseline" in capsys.readouterr().out


def test_a_changed_baseline_is_refused(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    b = workshop.model("reference", planted(24))
    file = workshop.folder / "baseline.json"
    images = ["--images", str(workshop.photos), "--max-images", "8", "--device", "cpu", "-q"]
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
        ["compare", str(b), "--write-baseline", str(file), "--images", str(workshop.photos), "--max-images", "70", "-q"]
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
    pixels = against(edited(file, lambda d: d["evidence"]["preprocessing"]["preprocessing"].update(rescale=0.5)))
    assert ids(pixels) == {"stale_baseline"}
    assert "rescale" in pixels.verdict.reasons[0].seen
    rule = against(edited(file, lambda d: d["evidence"]["model"].update(rule="head_input")))
    assert ids(rule) == {"not_comparable"}
    wide = against(file, model=workshop.model("wide", planted(d=400)))
    assert ids(wide) == {"not_comparable"}
    assert wide.features == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(schema_version=2), "schema_version is 2"),
        (lambda d: d.update(document="compare"), "is no baseline"),
        (lambda d: d["group_sizes"].pop(), "groups or statistics are missing"),
        (lambda d: d["images"].pop(), "the images are not those of the evidence"),
        (lambda d: d["left_out"].pop("kurtosis"), "groups or statistics are missing"),
        (lambda d: d["left_out"]["kurtosis"]["without"].pop(), "not one value for each group"),
        (lambda d: d["frequencies"].append(1.0), "differ in number"),
        (lambda d: d.update(more=1), "wrong more"),
    ],
)
def test_a_damaged_baseline_is_refused(
    workshop: Workshop, change: Callable[[dict[str, Any]], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    b = workshop.model("reference", planted(24))
    file = workshop.folder / "baseline.json"
    images = ["--images", str(workshop.photos), "--max-images", "8", "--device", "cpu", "-q"]
    assert cli.main(["compare", str(b), "--write-baseline", str(file), *images]) == 1  # too few images to pass
    assert cli.main(["compare", str(b), "--baseline", str(edited(file, change)), *images]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_too_wide_and_ascii_is_ascii(workshop: Workshop, width: int, ascii_only: bool) -> None:
    h = planted(features=(7, 40))
    report = workshop.compare(h @ rotation(384), h)
    buffer = io.StringIO()
    Console(file=buffer, width=width, no_color=True).print(report_compare.render(report, ascii_only=ascii_only))
    text = buffer.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert text.isascii() == ascii_only
    assert re.search(r"^ +7 +\+\d+\.\d .*(rotated away)$", text, re.MULTILINE)  # nothing is cut
    flat = " ".join(text.split())
    for reason in report.verdict.reasons:
        assert reason.id in flat


def test_bad_input(workshop: Workshop, capsys: pytest.CaptureFixture[str], onnx_models: ModuleType) -> None:
    h = planted()
    a, b = workshop.model("candidate", h), workshop.model("reference", h)
    images, twice = ["--images", str(workshop.photos), "--device", "cpu"], workshop.folder / "twice.json"
    for words, code, said in (
        ([str(a)], 2, "REFERENCE.onnx is missing"),
        ([str(a), str(workshop.folder / "none.onnx"), *images], 2, "none.onnx"),
        ([str(a), str(b), *images, "--tolerance", "1"], 2, "--tolerance is 1; it must be at least 0 and less than 1"),
        ([str(a), str(b), *images, "--tolerance", "-0.1"], 2, "--tolerance is -0.1"),
        ([str(a), str(b), "--images", str(workshop.folder / "nowhere")], 2, "image set is not readable"),
        ([str(a), str(b), *images, "-o", f"json={b}"], 2, "must not replace it"),
        ([str(a), str(b), *images, "-o", "xml"], 2, "--output is 'xml'"),
        ([str(a), str(b), *images, "--baseline", "b.json"], 2, "only one of them"),
        ([str(a), *images, "--baseline", str(workshop.folder / "b.json")], 2, "baseline is not readable"),
        ([str(a), *images, "--baseline", str(b)], 2, "baseline is not JSON"),
        ([str(a), *images, "--write-baseline", str(a)], 2, "must not replace it"),
        ([str(a), *images, "--write-baseline", str(twice), "-o", f"json={twice}"], 2, "where a report goes too"),
    ):
        assert cli.main(["compare", *words]) == code, words
        streams = capsys.readouterr()
        assert said in streams.err
        assert streams.out == ""
    broken = workshop.model("broken", np.full((80, 384), np.nan))
    target = workshop.folder / "report.json"
    assert cli.main(["compare", str(broken), str(b), *images, "-o", f"json={target}"]) == 3
    assert "broken.onnx: number of finite, not constant representations is 0 of 80" in capsys.readouterr().err
    assert json.loads(target.read_text(encoding="utf-8"))["error"]["exit_code"] == 3
    with pytest.raises(CannotAssessError, match=r"broken\.onnx"):
        run_compare(b, broken, images=workshop.photos, device="cpu")
    (workshop.folder / "empty").mkdir()
    with pytest.raises(UsageError, match="number of images found is 0"):
        run_compare(a, b, images=workshop.folder / "empty")
