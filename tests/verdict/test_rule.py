"""judge: PASS only if everything speaks for it; each reason by itself; what the first layer gets."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from robustcheck_onnx.checker.core import evidence as records
from robustcheck_onnx.checker.core.evidence import Evidence, GraphScaling, Statistics, scaled_alike
from robustcheck_onnx.checker.core.images.preprocess import apply_uint8
from robustcheck_onnx.checker.core.preprocessing import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.core.statistics.state import State, statistics, update
from robustcheck_onnx.checker.core.verdict import pixels, rule
from robustcheck_onnx.checker.core.verdict.foreseen import foreseen, step_for, take_over_step
from robustcheck_onnx.checker.core.verdict.kinds import CLIP_STEP, TAKE_OVER_ELSEWHERE, WITHOUT_SCORES
from robustcheck_onnx.checker.core.verdict.notes import notes_of
from robustcheck_onnx.checker.core.verdict.reasons import RULES
from robustcheck_onnx.checker.core.verdict.rule import Verdict, decided, judge
from robustcheck_onnx.thresholds.ends import End
from robustcheck_onnx.thresholds.profile import load
from robustcheck_onnx.thresholds.statistics import STATISTICS
from support import PHOTOS, Fields, but, lookup, normal, reports
from support.reports import interval

PROFILE = load()


def stats(h: np.ndarray) -> Statistics:
    state = State(h.shape[1])
    update(state, h, np.arange(len(h)))
    return statistics(state, PROFILE.alpha)


def planted(strength: float = 20.0, n: int = 64, d: int = 512) -> np.ndarray:
    return lookup.passing_rows(n, d, seed=0, strengths=[strength], at=0)


def sanity(**changes: Any) -> records.ImageSetFacts:
    return reports.sanity(64).model_copy(update=changes)


def evidence(
    h: np.ndarray | Statistics | None = None,
    *,
    model: Fields | None = None,
    sanity: records.ImageSetFacts | None = None,
    preprocessing: str = "contract",
    content: records.Content | None = reports.CONTENT,
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


def test_images_that_an_option_left_out_are_counted() -> None:
    seen = [reason.seen for reason in judge(evidence(planted(n=49)), PROFILE).reasons]
    assert seen[0] == "49 varied images were measured, and --max-images left out 251; at least 50 are needed"


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
        ({"sanity": sanity(findings=(records.ImageFinding(id=name, seen="seen"),))}, name)
        for name in ("duplicate_images", "near_duplicate_images", "images_not_varied", "images_not_photo_like")
    ),
]

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
        step = CLIP_STEP if reason == "assumed_preprocessing" else RULES[reason].next_step
        if "robustcheck shift" in step and e.model.rule == "encoder_output":
            step = WITHOUT_SCORES
        assert next(r.next_step for r in verdict.reasons if r.id == reason) == step
        before = dict(foreseen(e.model, e.preprocessing, e.statistics.n_features, PROFILE))
        assert before.items() <= seen.items()
        assert (reason in before) == (reason in FORESEEN), reason


def test_what_can_pass_is_offered_clip_first_and_what_can_not_imagenet() -> None:
    for end, first, other in (("linear", "clip", "imagenet"), ("activation:Relu", "imagenet", "clip")):
        e = evidence(preprocessing="assumed", model={"ends_in": end})
        step = next(r.next_step for r in judge(e, PROFILE).reasons if r.id == "assumed_preprocessing")
        assert f"`robustcheck MODEL --images PHOTOS --preprocess {first}`" in step
        assert f"`--preprocess {other}` for " in step


def test_a_model_without_a_head_is_not_sent_to_shift_and_nobody_to_init() -> None:
    for read_as in ("encoder_output", "head_input"):
        reasons = judge(evidence(np.maximum(planted(), 0), model={"rule": read_as}), PROFILE).reasons
        steps = " ".join(r.next_step for r in reasons)
        assert ("robustcheck shift" in steps) == (read_as == "head_input")
        assert "--waivers FILE" in steps
        assert "robustcheck init" not in steps


def test_of_int8_that_depends_on_its_batch_the_step_is_a_batch_of_one() -> None:
    for precision, said in {"int8": "`robustcheck MODEL --images PHOTOS --batch-size 1`", "fp32": "eval mode"}.items():
        e = but(evidence(model={"batch_difference": 0.3}), execution__precision=precision)
        (reason,) = judge(e, PROFILE).reasons
        assert said in reason.next_step


def test_numbers_are_the_same_within_the_rounding_of_their_precision() -> None:
    for precision, limit in {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}.items():
        for difference in (0.9 * limit, 1.1 * limit):
            e = but(evidence(model={"batch_difference": difference}), execution__precision=precision)
            assert ids(judge(e, PROFILE)) == ({"batch_dependent"} if difference > limit else set())


def test_scales_over_the_batch_are_no_reason_where_every_image_ran_alone() -> None:
    assert judge(evidence(model={"batch_difference": 0.3, "fixed_scale_difference": 1e-5}), PROFILE).verdict == "PASS"


def test_a_rectified_end_is_told_by_its_statistics_instead() -> None:
    rectified, signed = (evidence(h, model={"ends_in": "activation:Relu"}) for h in (np.maximum(planted(), 0), None))
    before = [i for i, _ in foreseen(rectified.model, rectified.preprocessing, 512, PROFILE)]
    assert before == ["end_not_calibrated"] == list(ids(judge(signed, PROFILE)))
    found = ids(judge(rectified, PROFILE))
    assert ("one_sided" in found, "end_not_calibrated" in found) == (True, False)


def test_what_is_not_known_before_measuring() -> None:
    e = evidence(planted(d=256))
    assert list(foreseen(e.model, e.preprocessing, None, PROFILE)) == []  # the width
    assert [reason for reason, _ in foreseen(e.model, None, 512, PROFILE)] == ["assumed_preprocessing"]


def test_a_feature_that_never_changes_is_a_constant_of_the_graph() -> None:
    h = planted()
    h[:, 0] = 20.0
    verdict = judge(evidence(h), PROFILE)
    assert ids(verdict) == {"constant_feature"}
    assert verdict.reasons[0].seen == "feature 0: an SD over images below 2 % of the mean"
    h = default_rng(0).normal(-10, 1, size=(64, 512))
    h[:, 0] = 0.0  # such as padding: far from all others; everything else lies on one side
    assert ids(judge(evidence(h), PROFILE)) == {"constant_feature", "one_sided"}


def test_several_weak_constants_are_seen_too() -> None:
    h = normal(64, 384)
    h[:, :3] = 6.6, -6.6, 6.6  # about 5.8 SD each: every threshold is cleared
    measured = stats(h)
    assert rule.inside(measured.strength, PROFILE.minimum_of("strength"))
    verdict = judge(evidence(measured), PROFILE)
    assert ids(verdict) == {"constant_feature"}
    assert sorted(verdict.reasons[0].seen.split(": ")[0].removeprefix("features ").split(", ")) == ["0", "1", "2"]
    h = planted()
    h[:, 1:5] = 18, -18, 17, 9  # the last is persistent, and not one of the three strongest
    h[:, 1:4] += normal(64, 3)
    assert "feature 4: an SD over images below 2 % of the mean" in [r.seen for r in judge(evidence(h), PROFILE).reasons]


def test_an_end_that_makes_outlier_features_passes_by_no_profile() -> None:
    for ends_in in ("change_of_basis", "linear_of:Relu", "linear_unread"):
        loose = but(PROFILE, ends=(*PROFILE.ends, End.parse(ends_in)))
        assert ids(judge(evidence(model={"ends_in": ends_in}), loose)) == {"end_not_calibrated"}


def test_another_statistic_version_is_not_compared() -> None:
    other = but(PROFILE, statistic_version=PROFILE.statistic_version + 1)
    assert ids(judge(evidence(), other)) == {"other_statistic_version"}


def test_evidence_with_sharper_bounds_than_the_profile_asks_for_is_not_compared() -> None:
    """Evidence and profile can come from two runs, as in `rc.judge` and in a baseline."""
    other = but(PROFILE, bounds="each")
    for bounds, alpha, sharper in (
        ("each", 0.05, set()),
        ("looks", 0.05, {"other_statistic_version"}),
        ("each", 0.06, {"other_statistic_version"}),
    ):
        assert ids(judge(evidence(but(stats(planted()), bounds=bounds, alpha=alpha)), other)) == sharper


def with_bounds(**bounds: records.Interval) -> Statistics:
    return stats(planted()).model_copy(update=bounds)


def test_the_lower_bound_decides_not_the_estimate() -> None:
    for name in PROFILE.deciding:
        minimum = PROFILE.thresholds[name].minimum
        for low, expected in ((minimum * 1.0001, set()), (minimum, {"undecided"}), (minimum * 0.9999, {"undecided"})):
            bounds = with_bounds(**{name: interval(minimum * 1.2, low, minimum * 1.4)})
            assert ids(judge(evidence(bounds), PROFILE)) == expected
        for unknown in (interval(None, None, None), interval(50.0, None, None)):
            assert judge(evidence(with_bounds(**{name: unknown})), PROFILE).verdict == "WARN"


def test_too_much_energy_below_zero_is_one_sided_too() -> None:
    assert ids(judge(evidence(-np.maximum(planted(), 0)), PROFILE)) == {"one_sided"}


def test_no_profile_passes_without_a_persistent_outlier_feature() -> None:
    """One that asks for less than half of the images."""
    none = with_bounds(outlier_frequency=interval(0.3, 0.2, 0.4))
    none = but(none, features=tuple(but(f, persistent=False) for f in none.features))
    assert none.persistent == ()
    frequency = but(PROFILE.thresholds["outlier_frequency"], minimum=0.1)
    verdict = judge(evidence(none), but(PROFILE, thresholds=PROFILE.thresholds | {"outlier_frequency": frequency}))
    assert ids(verdict) == {"not_persistent"}
    assert verdict.reasons[0].seen == "no feature is beyond 4 SD on one side in half of the images"


BOUNDS = st.tuples(*[st.floats(0, 200)] * 3).map(sorted)
SOURCES = st.sampled_from(["contract", "sidecar", "user", "assumed", "tensors"])


@given(st.dictionaries(st.sampled_from(STATISTICS), BOUNDS), st.integers(0, 100), SOURCES)
def test_judge_is_total_and_passes_only_above_every_threshold(
    bounds: dict[str, list[float]], n_varied: int, source: str
) -> None:
    s = with_bounds(**{name: interval(estimate, low, high) for name, (low, estimate, high) in bounds.items()})
    verdict = judge(evidence(s, sanity=sanity(n_varied=n_varied), preprocessing=source), PROFILE)
    passes = all(getattr(s, name).low > PROFILE.thresholds[name].minimum for name in PROFILE.deciding)
    passes = passes and n_varied >= PROFILE.min_images and source != "assumed"
    assert verdict.verdict == ("PASS" if passes else "WARN")
    assert (verdict.reasons == ()) == (verdict.verdict == "PASS")


def test_the_run_stops_when_everything_is_above_or_one_thing_is_below() -> None:
    rows = (planted(), planted(0.0), np.maximum(planted(), 0), planted(7.5, n=50))
    assert [decided(stats(h), PROFILE) for h in rows] == [True, True, True, False]


HALF = but(CLIP, mean=(0.5,) * 3, std=(0.5,) * 3)
FAMILIES = {
    "CLIP": CLIP,
    "ImageNet": IMAGENET,
    "Inception": HALF,
    "0 to 1": but(CLIP, mean=(0.0,) * 3, std=(1.0,) * 3),
    "TensorFlow Lite": but(CLIP, rescale=1.0, mean=(127.0,) * 3, std=(128.0,) * 3),
    # Keras, imagenet_utils.preprocess_input, mode caffe: BGR, no division
    "Caffe": but(CLIP, rescale=1.0, mean=(123.68, 116.779, 103.939), std=(1.0,) * 3, color_order="BGR"),
    "grey": but(HALF, color_order="grey"),
}
RAW = but(CLIP, rescale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
NORMALISING = [FAMILIES[name] for name in ("CLIP", "ImageNet", "Inception")]

# huggingface.co/bioptimus/H-optimus-0, model card
TISSUE = but(CLIP, mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517))
# timm, vit_7b_patch16_dinov3.sat493m
SATELLITES = but(CLIP, mean=(0.43, 0.411, 0.296), std=(0.213, 0.156, 0.143))


def in_graph(factor: Any, offset: Any) -> GraphScaling:
    factors, offsets = (tuple(map(float, each)) for each in (factor, offset))
    return GraphScaling(channels=(0, 1, 2), factor=factors, offset=offsets, ops=("Mul", "Add"))


def as_graph(given: Preprocessing, *, rescale: float = 1.0) -> GraphScaling:
    """The normalisation of a preprocessing as nodes of the graph."""
    std = np.array(given.std)
    return in_graph(rescale / std, -np.array(given.mean) / std)


def of_pixels(
    given: Preprocessing, scaling: GraphScaling | None = None, *, source: str = "contract", **model: Any
) -> Evidence:
    measured = but(reports.passing().evidence.statistics, statistic_version=PROFILE.statistic_version)
    facts = {"scaling": scaling, "input_type": "float32"} | model
    return reports.evidence(measured, model=facts, preprocessing=given, preprocessing_source=source)


def reasons_of(e: Evidence) -> list[str]:
    found = [reason.id for reason in judge(e, PROFILE).reasons]
    assert found == [reason for reason, _ in foreseen(e.model, e.preprocessing, None, PROFILE)]
    return found


def test_usual_photos_are_the_bundled_ones() -> None:
    from PIL import Image

    grey = but(CLIP, color_order="grey")
    photos = [Image.open(path).convert("RGB") for path in PHOTOS]
    grey_levels = (grey, pixels.PHOTO_GREY[:1], pixels.PHOTO_GREY[1:])
    for each, mean, sd in ((CLIP, pixels.PHOTO_MEAN, pixels.PHOTO_SD), grey_levels):
        levels = np.stack([apply_uint8(each, photo) for photo in photos]).reshape(-1, len(mean))
        assert levels.mean(axis=0) == pytest.approx(mean, abs=0.05)
        assert levels.std(axis=0) == pytest.approx(sd, abs=0.05)


def test_every_family_alone_is_usual() -> None:
    for name, family in FAMILIES.items():
        e = of_pixels(family)
        assert reasons_of(e) == []
        assert notes_of(e, PROFILE) == notes_of(of_pixels(CLIP), PROFILE) or name == "grey"


def test_a_normalisation_in_the_graph_alone_is_usual() -> None:
    for family in (*NORMALISING, SATELLITES):
        assert reasons_of(of_pixels(FAMILIES["0 to 1"], as_graph(family))) == []
        assert reasons_of(of_pixels(RAW, as_graph(family, rescale=1 / 255))) == []
        # an input of bytes gets them whatever rescale, mean and std say
        assert reasons_of(of_pixels(IMAGENET, as_graph(family, rescale=1 / 255), input_type="uint8")) == []
    assert reasons_of(of_pixels(RAW, as_graph(TISSUE, rescale=1 / 255))) == ["unusual_pixels"]  # a mean of -1.44


def test_a_normalisation_or_its_mean_behind_another_is_a_reason() -> None:
    for outside, inside in itertools.product(NORMALISING, repeat=2):
        means = (in_graph([1.0] * 3, -scale * np.array(inside.mean)) for scale in (1, 255))
        for scaling in (as_graph(inside), as_graph(inside, rescale=1 / 255), *means):
            assert reasons_of(of_pixels(outside, scaling)) == ["normalised_twice"]


def test_a_second_rescale_is_a_reason() -> None:
    for name in ("CLIP", "ImageNet", "Inception", "0 to 1", "TensorFlow Lite"):
        assert reasons_of(of_pixels(FAMILIES[name], in_graph([1 / 255] * 3, [0] * 3))) == ["normalised_twice"]


def test_the_text_says_what_both_make_of_photos() -> None:
    (reason,) = judge(of_pixels(IMAGENET, as_graph(IMAGENET)), PROFILE).reasons
    assert reason.seen == (
        "the graph itself computes (x − 0.485 0.456 0.406) / 0.229 0.224 0.225 (Mul, Add) after the preprocessing, so "
        "its first layer gets ordinary photos with mean -2.32 -1.49 -0.970, SD 5.16 5.03 5.46"
    )


def test_a_factor_of_255_or_a_forgotten_mean_is_a_reason() -> None:
    for family, change in (
        (IMAGENET, {"rescale": 1.0}),
        (HALF, {"rescale": 1.0}),
        (CLIP, {"rescale": 1 / 255**2}),
        (IMAGENET, {"mean": (0.0,) * 3}),
        (IMAGENET, {"mean": tuple(255 * m for m in IMAGENET.mean)}),
    ):
        assert reasons_of(of_pixels(family.model_copy(update=change))) == ["unusual_pixels"]


def test_raw_bytes_are_a_note_and_the_graphs_own_scaling_takes_it_away() -> None:
    raw, scaled_inside = of_pixels(RAW), of_pixels(RAW, as_graph(IMAGENET, rescale=1 / 255))
    assert (reasons_of(raw), reasons_of(scaled_inside)) == ([], [])
    (note,) = set(notes_of(raw, PROFILE)) - set(notes_of(scaled_inside, PROFILE))
    assert note.startswith("Pixels reach the model's first layer as 0 to 255")


def test_a_published_normalisation_for_other_images_is_usual_and_twice_it_is_not() -> None:
    for published in (TISSUE, SATELLITES):
        assert reasons_of(of_pixels(published)) == []
        assert reasons_of(of_pixels(published, as_graph(published))) == ["normalised_twice"]
        assert reasons_of(of_pixels(but(published, rescale=1.0))) == ["unusual_pixels"]


def test_the_worst_of_branches_that_differ_is_judged() -> None:
    plain, sound = in_graph([1.0] * 3, [0.0] * 3), in_graph([1.0] * 3, [0.1] * 3)
    doubled = as_graph(IMAGENET)
    for first, *others in ((doubled, plain), (sound, plain, doubled)):
        e = of_pixels(IMAGENET, first, other_scalings=tuple(others))
        assert reasons_of(e) == ["normalised_twice"]
        assert "(x − 0.485 0.456 0.406) / 0.229" in judge(e, PROFILE).reasons[0].seen
    assert reasons_of(of_pixels(IMAGENET, sound, other_scalings=(plain,))) == []
    # the branch that does nothing is the preprocessing's alone
    forgotten = but(IMAGENET, mean=(0.0,) * 3)
    mended = in_graph([1.0] * 3, -np.array(IMAGENET.mean) / np.array(IMAGENET.std))
    assert reasons_of(of_pixels(forgotten, mended)) == []
    assert reasons_of(of_pixels(forgotten, mended, other_scalings=(plain,))) == ["unusual_pixels"]


@given(st.sampled_from(NORMALISING), st.floats(-1, 1), st.floats(0.05, 4))
def test_however_a_sound_map_is_split_it_stays_sound(family: Preprocessing, mean: float, std: float) -> None:
    """The preprocessing does any first part, the graph the rest: what the first layer gets is the family's own."""
    outside = but(family, mean=(mean,) * 3, std=(std,) * 3)
    own = np.array(family.std)
    inside = in_graph(std / own, (mean - np.array(family.mean)) / own)
    levels = pixels.expected_levels(of_pixels(outside, inside).model, of_pixels(outside).preprocessing)
    alone = pixels.expected_levels(of_pixels(family).model, of_pixels(family).preprocessing)
    assert levels.mean == pytest.approx(alone.mean, abs=1e-6)
    assert levels.sd == pytest.approx(alone.sd, rel=1e-6)
    assert reasons_of(of_pixels(outside, inside)) == []


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_channel_that_is_not_finite_is_never_possible(channel: int) -> None:
    mean = [0.0, 0.0, 0.0]
    assert pixels.is_possible(pixels.Levels(tuple(mean), (1.0, 1.0, 1.0)))
    mean[channel] = float("nan")
    assert not pixels.is_possible(pixels.Levels(tuple(mean), (1.0, 1.0, 1.0)))


def test_channels_that_the_graph_turns_round_are_followed() -> None:
    turned = GraphScaling(channels=(2, 0, 1), factor=(2.0, -1.0, 1.0), offset=(1.0, 0.0, 3.0), ops=("Gather",))
    assert pixels.levels_behind(turned, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)) == ((7.0, -1.0, 5.0), (12.0, 4.0, 5.0))
    assert pixels.levels_behind(turned, (1.0,), (4.0,)) == ((1.0,), (4.0,))  # not of this input


def test_what_was_measured_of_tensors_is_judged() -> None:
    def reasons(
        levels: records.InputLevels | None, scaling: GraphScaling | None = None, source: str = "tensors"
    ) -> list[str]:
        return [r.id for r in judge(but(of_pixels(IMAGENET, scaling, source=source), levels=levels), PROFILE).reasons]

    levels = [
        ((0.48,) * 3, (0.26,) * 3, False),
        ((-1.9,) * 3, (0.3,) * 3, False),  # ImageNet's normalisation of dark photos
        ((10.0,) * 3, (12.0,) * 3, False),  # dark photos as bytes
        ((0.0019,) * 3, (0.001,) * 3, True),  # / 255 twice
        ((-2.1, -1.6, -1.2), (5.0, 4.9, 5.4), True),  # ImageNet's normalisation twice
        ((0.48, 0.48, 112.0), (0.26, 0.26, 70.0), True),  # no two channels of one image are of different kinds
    ]
    for mean, sd, is_reason in levels:
        assert reasons(records.InputLevels(mean=mean, sd=sd)) == ["unusual_pixels"] * is_reason
    assert reasons(None, as_graph(IMAGENET)) == []  # says nothing of what the user did
    # the graph's own scaling counts
    normalised = records.InputLevels(mean=(0.0,) * 3, sd=(1.1,) * 3)
    assert reasons(normalised, as_graph(IMAGENET)) == ["unusual_pixels"]
    # a fault that was foreseen is said once
    assert reasons(normalised, as_graph(IMAGENET), "contract") == ["normalised_twice"]


@pytest.mark.long
def test_every_published_preprocessing_of_timm_and_open_clip_is_usual() -> None:
    timm = pytest.importorskip("timm", reason="needs the export extra")
    open_clip = pytest.importorskip("open_clip", reason="needs the export extra")
    published = {(tuple(c.mean), tuple(c.std)) for n in timm.list_pretrained() if (c := timm.get_pretrained_cfg(n))}
    configs = (open_clip.get_pretrained_cfg(*pair) for pair in open_clip.list_pretrained())
    published |= {(tuple(c["mean"]), tuple(c["std"])) for c in configs if c.get("mean")}
    assert len(published) >= 6
    for mean, std in published:
        assert reasons_of(of_pixels(but(CLIP, mean=mean, std=std))) == [], (mean, std)


def scaled(*factors: float, channels: tuple[int, ...] = (0, 1, 2)) -> GraphScaling:
    return GraphScaling(channels=channels, factor=factors, offset=(-1.0, -2.0, 0.0), ops=("Sub", "Div"))


def test_scalings_are_alike_within_the_rounding_of_int8() -> None:
    one = scaled(2.0, 4.0, 4.0)
    for ours, theirs, answer in (
        ((), (), True),
        ((one,), (scaled(2.01, 3.98, 4.0),), True),
        ((one,), (scaled(2.0, 4.0, 4.1),), False),
        ((one,), (scaled(2.0, 4.0, 4.0, channels=(2, 1, 0)),), False),
        ((one,), (scaled(-2.0, 4.0, 4.0),), False),
        ((one,), (), False),
        ((), (one,), False),
        ((one, scaled(1.0, 1.0, 1.0)), (scaled(1.0, 1.0, 1.0), one), True),
        ((one, one), (one, scaled(1.0, 1.0, 1.0)), False),
        ((one, scaled(1.0, 1.0, 1.0)), (one, one), False),
    ):
        assert scaled_alike(ours, theirs) is answer


def test_the_contract_of_the_reference_is_offered_where_it_may_hold() -> None:
    """For the file that the contract was written for, unchanged, on this machine, and read in the same way."""
    both = {"contract_digest": "sha256:" + "1" * 64, "input_type": "float32"}
    new = evidence(model={"file": "my models/new.onnx", "file_changed": True, **both}).model
    old = evidence(model={"file": "old.onnx", "file_changed": False, **both}).model
    line = "robustcheck export onnx 'my models/new.onnx' --original old.onnx -o 'my models/new.contract.onnx'"
    offered = f"Take over the contract of old.onnx, or export the model again: `{line}`."
    other = (
        "Export the model again: the graph does not read its input as that of old.onnx does, so that file's contract "
        "does not hold for it."
    )
    one = scaled(2.0, 4.0, 4.0)
    for ours, theirs, step in (
        ({}, {}, offered),
        ({"scaling": one}, {"scaling": one}, offered),
        ({"scaling": one}, {}, other),
        ({}, {"scaling": one}, other),
        ({"scaling": one, "other_scalings": (scaled(1.0, 1.0, 1.0),)}, {"scaling": one}, other),
        ({"input_type": "float16"}, {}, other),
        ({}, {"contract_digest": "sha256:" + "2" * 64}, None),
        ({}, {"file_changed": True}, None),
        ({}, {"file_changed": None, "contract_digest": ""}, None),
        ({}, {"file": "s3://models/old.onnx"}, None),
        ({"file": "s3://models/new.onnx"}, {}, TAKE_OVER_ELSEWHERE),
    ):
        assert take_over_step(new.model_copy(update=ours), old.model_copy(update=theirs)) == step
    assert take_over_step(new, None) is None  # a baseline, whose file may be gone
    assert step_for("file_changed", new, PROFILE) is None
    assert (
        step_for("file_changed", new.model_copy(update={"file": "https://a.b/c.onnx"}), PROFILE) == TAKE_OVER_ELSEWHERE
    )
