"""judge: PASS only if everything speaks for it; each reason by itself; monotone in the strength of an outlier."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from robustcheck_onnx.checker.evidence import Content, Evidence, ImageFinding, ImageSetFacts, Interval, Statistics
from robustcheck_onnx.checker.statistics.state import State, statistics, update
from robustcheck_onnx.checker.verdict.reasons import RULES
from robustcheck_onnx.checker.verdict.rule import Verdict, decided, foreseen, inside, judge
from robustcheck_onnx.thresholds.profile import ENERGIES, STATISTICS, End, load
from support import Fields, but, lookup, normal, reports

PROFILE, EARLIER = load(), load("default-2")


def stats(h: np.ndarray) -> Statistics:
    state = State(h.shape[1])
    update(state, h, np.arange(len(h)))
    return statistics(state, PROFILE.alpha)


def planted(
    strength: float = 20.0, n: int = 64, d: int = 512, seed: int = 0, signs: tuple[int, ...] = (1,)
) -> np.ndarray:
    return lookup.passing_rows(n, d, seed=seed, strengths=[strength * sign for sign in signs], at=0)


def sanity(**changes: Any) -> ImageSetFacts:
    return reports.sanity(64).model_copy(update=changes)


def evidence(
    h: np.ndarray | Statistics | None = None,
    *,
    model: Fields | None = None,
    sanity: ImageSetFacts | None = None,
    preprocessing: str = "contract",
    content: Content | None = reports.CONTENT,
) -> Evidence:
    measured = h if isinstance(h, Statistics) else stats(planted() if h is None else h)
    images = sanity or reports.sanity(64)
    return reports.evidence(measured, model=model, images=images, preprocessing_source=preprocessing, content=content)


def ids(verdict: Verdict) -> set[str]:
    return {reason.id for reason in verdict.reasons}


def test_a_persistent_outlier_feature_in_a_signed_representation_passes() -> None:
    verdict = judge(evidence(), PROFILE)
    assert (verdict.verdict, verdict.reasons) == ("PASS", ())
    assert (verdict.profile_id, verdict.profile_digest) == (PROFILE.id, PROFILE.digest)


AMISS: list[tuple[Fields, str]] = [
    ({"model": {"random_weights": True}}, "untrained"),
    ({"model": {"file_changed": True}}, "file_changed"),
    ({"model": {"matched_to": "CLIP ViT-B/32"}}, "trained_to_match"),
    ({"model": {"rule": "logits"}}, "tensor_not_calibrated"),
    ({"model": {"rule": "user"}}, "tensor_not_calibrated"),
    ({"model": {"ends_in": "normalisation"}}, "end_not_calibrated"),
    ({"model": {"pool": "token_mean"}}, "tensor_not_calibrated"),
    ({"model": {"tensor_assumed": True}}, "assumed_tensor"),
    ({"model": {"batch_difference": 0.1}}, "batch_dependent"),
    ({"model": {"batch_difference": 1e-5, "fixed_scale_difference": 0.1}}, "batch_dependent"),
    ({"model": {"batch_difference": None}}, "unchecked"),
    ({"model": {"output_difference": 0.1}}, "output_changed"),
    ({"model": {"output_difference": None}}, "unchecked"),
    ({"preprocessing": "assumed"}, "assumed_preprocessing"),
    ({"content": None}, "unchecked"),
    ({"sanity": sanity(n_varied=49)}, "too_few_images"),
    ({"h": planted(n=49)}, "too_few_images"),
    ({"h": planted(d=256)}, "width_not_calibrated"),
    ({"h": np.maximum(planted(), 0)}, "one_sided"),
    ({"h": planted(0.0)}, "not_persistent"),
    ({"h": planted(0.0)}, "too_weak"),
    ({"h": np.concatenate([planted(), np.full((1, 512), np.nan)])}, "nonfinite_representations"),
    ({"h": np.concatenate([planted(), np.full((1, 512), 7.0)])}, "constant_representations"),
    ({"h": np.tile(planted(n=1), (64, 1))}, "representations_alike"),
    *(
        ({"sanity": sanity(findings=(ImageFinding(id=name, seen="seen"),))}, name)
        for name in ("duplicate_images", "near_duplicate_images", "images_not_varied", "images_not_photo_like")
    ),
]  # fmt: skip

FORESEEN = {
    *("untrained", "file_changed", "trained_to_match", "tensor_not_calibrated", "assumed_tensor"),
    *("end_not_calibrated", "assumed_preprocessing", "width_not_calibrated"),
}


def test_one_thing_amiss_is_a_warning_with_its_reason() -> None:
    for changes, reason in AMISS:
        e = evidence(**changes)
        verdict = judge(e, PROFILE)
        assert verdict.verdict == "WARN"
        seen = {r.id: r.seen for r in verdict.reasons}
        assert seen[reason]
        assert next(r.next_step for r in verdict.reasons if r.id == reason) == RULES[reason].next_step
        before = dict(foreseen(e.model, e.preprocessing, e.statistics.n_features, PROFILE))
        assert before.items() <= seen.items()
        assert (reason in before) == (reason in FORESEEN), reason


def test_scales_over_the_batch_are_no_reason_where_every_image_ran_alone() -> None:
    assert judge(evidence(model={"batch_difference": 0.3, "fixed_scale_difference": 1e-5}), PROFILE).verdict == "PASS"


def test_a_rectified_end_is_told_by_its_statistics_instead() -> None:
    rectified = evidence(np.maximum(planted(), 0), model={"ends_in": "activation:Relu"})
    assert (
        [i for i, _ in foreseen(rectified.model, rectified.preprocessing, 512, PROFILE)]
        == ["end_not_calibrated"]
        == list(ids(judge(evidence(model={"ends_in": "activation:Relu"}), PROFILE)))
    )
    assert ids(judge(rectified, PROFILE)) >= {"one_sided"}
    assert "end_not_calibrated" not in ids(judge(rectified, PROFILE))


def test_what_is_not_known_before_measuring() -> None:
    e = evidence(planted(d=256))
    assert list(foreseen(e.model, e.preprocessing, None, PROFILE)) == []  # the width
    assert [reason for reason, _ in foreseen(e.model, None, 512, PROFILE)] == ["assumed_preprocessing"]


def test_a_feature_that_never_changes_is_a_constant_of_the_graph() -> None:
    h = planted()
    h[:, 0] = 20.0
    verdict = judge(evidence(h), PROFILE)
    assert ids(verdict) == {"constant_feature"}
    assert verdict.reasons[0].seen == "feature 0 has the same raw value in every image"
    h = default_rng(0).normal(-10, 1, size=(64, 512))
    h[:, 0] = 0.0  # such as padding: far from all others; everything else lies on one side
    assert ids(judge(evidence(h), PROFILE)) == {"constant_feature", "one_sided"}


def test_several_weak_constants_are_seen_too() -> None:
    h = normal(64, 384)
    h[:, :3] = 6.6, -6.6, 6.6  # about 5.8 SD each: every threshold is cleared
    measured = stats(h)
    assert inside(measured.strength, PROFILE.limits_of("strength"))
    verdict = judge(evidence(measured), PROFILE)
    assert ids(verdict) == {"constant_feature"}
    assert sorted(verdict.reasons[0].seen.split(" have ")[0].removeprefix("features ").split(", ")) == ["0", "1", "2"]


def test_an_end_that_makes_outlier_features_passes_by_no_profile() -> None:
    for ends_in in ("change_of_basis", "linear_of:Relu", "linear_unread"):
        loose = but(PROFILE, ends=(*PROFILE.ends, End.parse(ends_in)))
        assert ids(judge(evidence(model={"ends_in": ends_in}), loose)) == {"end_not_calibrated"}


def test_another_statistic_version_is_not_compared() -> None:
    other = but(PROFILE, statistic_version=PROFILE.statistic_version + 1)
    assert ids(judge(evidence(), other)) == {"other_statistic_version"}


def interval(low: float | None, estimate: float | None, high: float | None) -> Interval:
    return Interval(low=low, estimate=estimate, high=high)


def with_bounds(**bounds: Interval) -> Statistics:
    return stats(planted()).model_copy(update=bounds)


def test_the_lower_bound_decides_not_the_estimate() -> None:
    for name in PROFILE.deciding:
        minimum = PROFILE.thresholds[name].minimum
        for low, expected in ((minimum * 1.0001, set()), (minimum, {"undecided"}), (minimum * 0.9999, {"undecided"})):
            bounds = with_bounds(**{name: interval(low, minimum * 1.2, minimum * 1.4)})
            assert ids(judge(evidence(bounds), PROFILE)) == expected
        for unknown in (interval(None, None, None), interval(None, 50.0, None)):
            assert judge(evidence(with_bounds(**{name: unknown})), PROFILE).verdict == "WARN"


def test_too_much_energy_below_zero_is_one_sided_too() -> None:
    """As after a hard-swish on pooled features: 96 % of the energy is negative. By an earlier profile each energy has
    two limits; two-sidedness has one, and the smaller side in it."""
    for name in ENERGIES:
        maximum = 1 - EARLIER.thresholds[name].minimum
        for high, expected in ((maximum * 0.9999, set()), (maximum * 1.0001, {"undecided"})):
            assert ids(judge(evidence(with_bounds(**{name: interval(0.5, 0.55, high)})), EARLIER)) == expected
        beyond = with_bounds(**{name: interval(maximum * 1.0001, 0.96, 0.97)})
        verdict = judge(evidence(beyond), EARLIER)
        assert ids(verdict) == {"rectified"}
        assert verdict.reasons[0].seen.endswith(f"; at most {maximum:.3g} of the energy may lie below)")
        assert decided(beyond, EARLIER)
    assert ids(judge(evidence(-np.maximum(planted(), 0)), PROFILE)) == {"one_sided"}


def test_what_the_profile_does_not_ask_for_decides_nothing() -> None:
    loose = but(EARLIER, thresholds={name: t for name, t in EARLIER.thresholds.items() if name != "top3_share"})
    low = with_bounds(top3_share=interval(0.0, 0.01, 0.02))
    assert judge(evidence(low), loose).verdict == judge(evidence(low), PROFILE).verdict == "PASS"
    assert ids(judge(evidence(low), EARLIER)) == {"no_persistent_outlier_features"}


def test_no_earlier_profile_passes_without_a_persistent_outlier_feature() -> None:
    """One that asks for less than half of the images."""
    frequency = but(EARLIER.thresholds["outlier_frequency"], minimum=0.1)
    loose = but(EARLIER, thresholds=EARLIER.thresholds | {"outlier_frequency": frequency})
    none = with_bounds(outlier_frequency=interval(0.2, 0.3, 0.4))
    none = but(none, features=tuple(but(f, persistent=False) for f in none.features))
    assert none.persistent == ()
    verdict = judge(evidence(none), loose)
    assert ids(verdict) == {"no_persistent_outlier_features"}
    assert verdict.reasons[0].seen == "no feature is beyond 4 SD on one side in half of the images"


@given(
    st.dictionaries(
        st.sampled_from(STATISTICS),
        st.tuples(st.floats(0, 200), st.floats(0, 200), st.floats(0, 200)).map(sorted),
    ),
    st.integers(0, 100),
    st.sampled_from(["contract", "sidecar", "user", "assumed", "tensors"]),
)
def test_judge_is_total_and_passes_only_above_every_threshold(
    bounds: dict[str, list[float]], n_varied: int, source: str
) -> None:
    s = with_bounds(**{name: interval(*values) for name, values in bounds.items()})
    verdict = judge(evidence(s, sanity=sanity(n_varied=n_varied), preprocessing=source), PROFILE)
    intervals = {name: getattr(s, name) for name in PROFILE.deciding}
    passes = (
        all(i.low > PROFILE.thresholds[name].minimum for name, i in intervals.items())
        and n_varied >= PROFILE.min_images
        and source != "assumed"
    )
    assert verdict.verdict == ("PASS" if passes else "WARN")
    assert (verdict.reasons == ()) == (verdict.verdict == "PASS")


def test_the_run_stops_when_everything_is_above_or_one_thing_is_below() -> None:
    assert decided(stats(planted()), PROFILE)
    assert decided(stats(planted(0.0)), PROFILE)
    assert decided(stats(np.maximum(planted(), 0)), PROFILE)
    assert not decided(stats(planted(7.5, n=50)), PROFILE)
