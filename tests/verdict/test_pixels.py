"""What the first layer gets: every family of encoders is usual, every doubled or forgotten step is not."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustcheck_onnx.checker.evidence import CLIP, IMAGENET, Evidence, GraphScaling, InputLevels, Preprocessing
from robustcheck_onnx.checker.images.preprocess import apply_uint8
from robustcheck_onnx.checker.verdict.gate import notes_of
from robustcheck_onnx.checker.verdict.rule import (
    PHOTO_GREY,
    PHOTO_MEAN,
    PHOTO_SD,
    expected_levels,
    foreseen,
    judge,
    levels_behind,
)
from robustcheck_onnx.thresholds.profile import load
from support import PHOTOS, but, reports

PROFILE = load()
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
    return GraphScaling(
        channels=(0, 1, 2), factor=tuple(map(float, factor)), offset=tuple(map(float, offset)), ops=("Mul", "Add")
    )


def as_graph(given: Preprocessing, *, rescale: float = 1.0) -> GraphScaling:
    """The normalisation of a preprocessing as nodes of the graph."""
    std = np.array(given.std)
    return in_graph(rescale / std, -np.array(given.mean) / std)


def evidence(
    given: Preprocessing, scaling: GraphScaling | None = None, *, source: str = "contract", **model: Any
) -> Evidence:
    measured = but(reports.passing().evidence.statistics, statistic_version=PROFILE.statistic_version)
    facts = {"scaling": scaling, "input_type": "float32"} | model
    return reports.evidence(measured, model=facts, preprocessing=given, preprocessing_source=source)


def ids(e: Evidence) -> list[str]:
    found = [reason.id for reason in judge(e, PROFILE).reasons]
    assert found == [reason for reason, _ in foreseen(e.model, e.preprocessing, None, PROFILE)]
    return found


def test_usual_photos_are_the_bundled_ones() -> None:
    from PIL import Image

    grey = but(CLIP, color_order="grey")
    photos = [Image.open(path).convert("RGB") for path in PHOTOS]
    for each, mean, sd in ((CLIP, PHOTO_MEAN, PHOTO_SD), (grey, PHOTO_GREY[:1], PHOTO_GREY[1:])):
        levels = np.stack([apply_uint8(each, photo) for photo in photos]).reshape(-1, len(mean))
        assert levels.mean(axis=0) == pytest.approx(mean, abs=0.05)
        assert levels.std(axis=0) == pytest.approx(sd, abs=0.05)


def test_every_family_alone_is_usual() -> None:
    for name, family in FAMILIES.items():
        e = evidence(family)
        assert ids(e) == []
        assert notes_of(e, PROFILE) == notes_of(evidence(CLIP), PROFILE) or name == "grey"


def test_a_normalisation_in_the_graph_alone_is_usual() -> None:
    for family in (*NORMALISING, SATELLITES):
        assert ids(evidence(FAMILIES["0 to 1"], as_graph(family))) == []
        assert ids(evidence(RAW, as_graph(family, rescale=1 / 255))) == []
        # an input of bytes gets them whatever rescale, mean and std say
        assert ids(evidence(IMAGENET, as_graph(family, rescale=1 / 255), input_type="uint8")) == []


def test_a_normalisation_or_its_mean_behind_another_is_a_reason() -> None:
    for outside, inside in itertools.product(NORMALISING, repeat=2):
        mean = np.array(inside.mean)
        for scaling in (
            as_graph(inside),
            as_graph(inside, rescale=1 / 255),
            in_graph([1.0] * 3, -mean),
            in_graph([1.0] * 3, -255 * mean),
        ):
            assert ids(evidence(outside, scaling)) == ["normalised_twice"]


def test_a_second_rescale_is_a_reason() -> None:
    for name in ("CLIP", "ImageNet", "Inception", "0 to 1", "TensorFlow Lite"):
        assert ids(evidence(FAMILIES[name], in_graph([1 / 255] * 3, [0] * 3))) == ["normalised_twice"]


def test_the_text_says_what_both_make_of_photos() -> None:
    (reason,) = judge(evidence(IMAGENET, as_graph(IMAGENET)), PROFILE).reasons
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
        assert ids(evidence(family.model_copy(update=change))) == ["unusual_pixels"]


def test_raw_bytes_are_a_note_and_the_graphs_own_scaling_takes_it_away() -> None:
    raw, scaled_inside = evidence(RAW), evidence(RAW, as_graph(IMAGENET, rescale=1 / 255))
    assert (ids(raw), ids(scaled_inside)) == ([], [])
    (note,) = set(notes_of(raw, PROFILE)) - set(notes_of(scaled_inside, PROFILE))
    assert note.startswith("Pixels reach the model's first layer as 0 to 255")


def test_a_published_normalisation_for_other_images_is_usual_and_twice_it_is_not() -> None:
    for published in (TISSUE, SATELLITES):
        assert ids(evidence(published)) == []
        assert ids(evidence(published, as_graph(published))) == ["normalised_twice"]
        assert ids(evidence(but(published, rescale=1.0))) == ["unusual_pixels"]


def test_the_worst_of_branches_that_differ_is_judged() -> None:
    plain, sound = in_graph([1.0] * 3, [0.0] * 3), in_graph([1.0] * 3, [0.1] * 3)
    doubled = as_graph(IMAGENET)
    for first, *others in ((doubled, plain), (sound, plain, doubled)):
        e = evidence(IMAGENET, first, other_scalings=tuple(others))
        assert ids(e) == ["normalised_twice"]
        assert "(x − 0.485 0.456 0.406) / 0.229" in judge(e, PROFILE).reasons[0].seen
    assert ids(evidence(IMAGENET, sound, other_scalings=(plain,))) == []
    # the branch that does nothing is the preprocessing's alone
    forgotten = but(IMAGENET, mean=(0.0,) * 3)
    mended = in_graph([1.0] * 3, -np.array(IMAGENET.mean) / np.array(IMAGENET.std))
    assert ids(evidence(forgotten, mended)) == []
    assert ids(evidence(forgotten, mended, other_scalings=(plain,))) == ["unusual_pixels"]


@given(st.sampled_from(NORMALISING), st.floats(-1, 1), st.floats(0.05, 4))
def test_however_a_sound_map_is_split_it_stays_sound(family: Preprocessing, mean: float, std: float) -> None:
    """The preprocessing does any first part, the graph the rest: what the first layer gets is the family's own."""
    outside = but(family, mean=(mean,) * 3, std=(std,) * 3)
    own = np.array(family.std)
    inside = in_graph(std / own, (mean - np.array(family.mean)) / own)
    levels = expected_levels(evidence(outside, inside).model, evidence(outside).preprocessing)
    alone = expected_levels(evidence(family).model, evidence(family).preprocessing)
    assert levels.mean == pytest.approx(alone.mean, abs=1e-6)
    assert levels.sd == pytest.approx(alone.sd, rel=1e-6)
    assert ids(evidence(outside, inside)) == []


def test_channels_that_the_graph_turns_round_are_followed() -> None:
    turned = GraphScaling(channels=(2, 0, 1), factor=(2.0, -1.0, 1.0), offset=(1.0, 0.0, 3.0), ops=("Gather",))
    assert levels_behind(turned, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)) == ((7.0, -1.0, 5.0), (12.0, 4.0, 5.0))
    assert levels_behind(turned, (1.0,), (4.0,)) == ((1.0,), (4.0,))  # not of this input


def test_what_was_measured_of_tensors_is_judged() -> None:
    def reasons(levels: InputLevels | None, scaling: GraphScaling | None = None, source: str = "tensors") -> list[str]:
        return [r.id for r in judge(but(evidence(IMAGENET, scaling, source=source), levels=levels), PROFILE).reasons]

    levels = [
        ((0.48,) * 3, (0.26,) * 3, False),
        ((-1.9,) * 3, (0.3,) * 3, False),  # ImageNet's normalisation of dark photos
        ((10.0,) * 3, (12.0,) * 3, False),  # dark photos as bytes
        ((0.0019,) * 3, (0.001,) * 3, True),  # / 255 twice
        ((-2.1, -1.6, -1.2), (5.0, 4.9, 5.4), True),  # ImageNet's normalisation twice
        ((0.48, 0.48, 112.0), (0.26, 0.26, 70.0), True),  # no two channels of one image are of different kinds
    ]
    for mean, sd, is_reason in levels:
        assert reasons(InputLevels(mean=mean, sd=sd)) == ["unusual_pixels"] * is_reason
    assert reasons(None, as_graph(IMAGENET)) == []  # says nothing of what the user did
    # the graph's own scaling counts
    normalised = InputLevels(mean=(0.0,) * 3, sd=(1.1,) * 3)
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
        assert ids(evidence(but(CLIP, mean=mean, std=std))) == [], (mean, std)
