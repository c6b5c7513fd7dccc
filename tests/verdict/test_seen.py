"""What a reason says was seen: its words and its numbers, one by one; each circumstance has one note."""

import re
from typing import Any

from robustcheck_onnx.checker.evidence import Evidence, Statistics
from robustcheck_onnx.checker.verdict.gate import execution_notes, image_notes, model_notes, notes_of, skipped_note
from robustcheck_onnx.checker.verdict.reasons import RENAMED, below_reasons
from robustcheck_onnx.checker.verdict.rule import (
    ALIKE_SPREAD,
    MIN_EFFECTIVE_RANK,
    MIN_RELATIVE_VARIANCE,
    decided,
    judge,
)
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.profile import Profile
from support import Fields, but, reports
from support.reports import interval

PASSING = Statistics(**reports.PASS_STATISTICS)
STRADDLES = "after 162 images the interval does not clear the threshold: "
PROFILE = reports.profile()
EARLIER = reports.profile(reports.EARLIER_MINIMUM)


def seen(given: Evidence, profile: Profile = PROFILE) -> dict[str, str]:
    return {reason.id: reason.seen for reason in judge(given, profile).reasons}


def evidence(**statistics: Any) -> Evidence:
    return reports.evidence(Statistics(**(reports.PASS_STATISTICS | statistics)))


def test_the_end_of_the_encoder() -> None:
    no_negatives = "which has no negative values (as a quantised output of a ReLU)"
    for ends_in, words in {
        "normalisation": "the output of a normalisation layer",
        "activation:Tanh": "the output of an activation (Tanh)",
        "linear_of:Relu": "a linear map of the output of an activation (Relu)",
        "linear_unread": "the output of a linear layer whose weight could not be read as one matrix",
        "change_of_basis": "a change of basis (its last layer's features are orthogonal, as those of a PCA are)",
        "other:MatMul": "the output of MatMul",
        "activation:QuantizeLinear": f"the output of QuantizeLinear, {no_negatives}",
        "linear_of:QLinearConv": f"a linear map of the output of QLinearConv, {no_negatives}",
    }.items():
        given = reports.evidence(PASSING, model={"ends_in": ends_in})
        assert seen(given) == {"end_not_calibrated": f"`representation` is {words}"}


def test_each_statistic_and_what_each_profile_says_of_it() -> None:
    """Context is shown and not judged: for the three, K and what the earlier six were, and the other way round."""
    zero, unknown = interval(0.0, 0.0, 0.0), interval(None, None, None)
    cases: list[tuple[Fields, Profile, dict[str, str]]] = [
        ({}, PROFILE, {}),
        ({name: zero for name in reports.EARLIER_MINIMUM if name != "outlier_frequency"}, PROFILE, {}),
        ({"strength": zero, "two_sidedness": zero}, EARLIER, {}),
        (
            {
                "strength": interval(3.25, 2.0, 4.498),
                "outlier_frequency": interval(0.55, 0.45, 0.65),
                "two_sidedness": interval(0.01, 0.0, 0.02),
            },
            PROFILE,
            {
                "one_sided": "two-sidedness 0.0100 (upper bound 0.0200, threshold 0.35)",
                "too_weak": "strength 3.25 (upper bound 4.498, threshold 4.5)",
                "not_persistent": "persistence 0.550 (upper bound 0.650, threshold 0.75)",
            },
        ),
        (
            {
                "negative_energy": interval(0.01, 0.0, 0.02),
                "kurtosis": interval(5.25, 4.0, 6.5),
                "persistence_ratio": interval(1.104, 1.049, 1.159),
                "top3_share": interval(0.1398, 0.1012, 0.1784),
            },
            EARLIER,
            {
                "rectified": "negative energy 0.0100 (upper bound 0.0200, threshold 0.35)",
                "low_kurtosis": "activation kurtosis 5.25 (upper bound 6.50, threshold 8)",
                "no_persistent_outlier_features": "persistence ratio 1.10 (upper bound 1.16, threshold 1.75), "
                "top-3 share 0.140 (upper bound 0.178, threshold 0.5)",
            },
        ),
        (
            {"strength": unknown, "two_sidedness": unknown},
            PROFILE,
            {"not_measurable": "strength, two-sidedness could not be measured"},
        ),
        (
            {"strength": interval(6.0, 4.0, 8.0), "two_sidedness": interval(0.4, 0.31, 0.45)},
            PROFILE,
            {
                "undecided": f"{STRADDLES}strength 4.00 to 8.00 (threshold 4.5), "
                "two-sidedness 0.310 to 0.450 (threshold 0.35)"
            },
        ),
        (
            {"strength": interval(5.25, 4.0, None)},
            PROFILE,
            {"undecided": f"{STRADDLES}strength 4.00 to not measured (threshold 4.5)"},
        ),
        ({"spread": ALIKE_SPREAD}, PROFILE, {}),
        (
            {"spread": None},
            PROFILE,
            {"representations_alike": "how much the representation varies between images could not be measured"},
        ),
        (
            {"distinct_share": 0.4},
            PROFILE,
            {"representations_alike": "40.0 % of the representations differ in kurtosis; at least 50 % must"},
        ),
    ]
    for changes, profile, reasons in cases:
        assert seen(evidence(**changes), profile) == reasons
    assert list(seen(evidence(spread=ALIKE_SPREAD / 2))) == ["representations_alike"]
    without = PASSING.model_fields_set - {"strength", "two_sidedness"}
    assert list(seen(reports.evidence(Statistics(**PASSING.model_dump(include=without))))) == ["not_measurable"]


def test_content_at_the_very_limits() -> None:
    rank = f"the effective rank is 3.90; at least {MIN_EFFECTIVE_RANK:g} is needed over 50 images"
    variance = f"0.310 % of the energy varies between images; at least {100 * MIN_RELATIVE_VARIANCE:g} % must"
    little: Fields = {"effective_rank": 3.9, "relative_variance": 0.0031}
    cases: list[tuple[Fields, dict[str, str]]] = [
        ({"effective_rank": MIN_EFFECTIVE_RANK, "relative_variance": MIN_RELATIVE_VARIANCE}, {}),
        ({"effective_rank": 3.9}, {"little_content": f"over 50 varied images {rank}"}),
        ({"relative_variance": 0.0031}, {"little_content": f"over 50 varied images {variance}"}),
        (
            {"n": 49} | little,
            {
                "too_few_images": "the content was measured on 49 varied images; it needs 50",
                "little_content": f"over 49 varied images {rank}, and {variance}",
            },
        ),
    ]
    for changes, reasons in cases:
        assert seen(reports.evidence(PASSING, content=but(reports.CONTENT, **changes))) == reasons
    few = reports.evidence(PASSING, content=but(reports.CONTENT, n=20, effective_rank=3.9), images=reports.sanity(20))
    assert list(seen(few)) == ["too_few_images"]  # of so few nothing is said about content


def test_as_many_images_as_the_profile_asks_for_are_enough_to_stop() -> None:
    assert decided(but(PASSING, n_images=PROFILE.min_images), PROFILE)
    assert not decided(but(PASSING, n_images=PROFILE.min_images - 1), PROFILE)


def test_each_statistic_alone_is_seen_below_its_threshold() -> None:
    for profile, reasons in ((PROFILE, {"too_weak", "not_persistent", "one_sided"}), (EARLIER, set(RENAMED))):
        assert set(below_reasons(profile).values()) == reasons
        for name, reason in below_reasons(profile).items():
            low = 0.5 * profile.thresholds[name].minimum
            assert list(seen(evidence(**{name: interval(low, 0.9 * low, 1.1 * low)}), profile)) == [reason]


DEFAULT = profiles.load()
EVIDENCE = reports.evidence(Statistics(**reports.PASS_STATISTICS))


def test_a_plain_run_under_the_default_profile_has_no_note() -> None:
    assert notes_of(EVIDENCE, DEFAULT) == ()


def test_that_a_classifiers_last_layer_was_not_looked_at_is_said() -> None:
    (note,) = notes_of(but(EVIDENCE, model__rule="head_input"), DEFAULT)
    assert note.startswith("The classifier's last layer was not looked at")


def test_notes_come_of_the_profile_the_model_the_images_and_the_execution_in_this_order() -> None:
    evidence = but(
        EVIDENCE, model__synthetic="feature 92 was shifted", images__bundled=True, execution__optimization="basic"
    )
    synthetic, bundled, lowered = notes_of(evidence, DEFAULT)
    assert synthetic == "Synthetic model: feature 92 was shifted."
    assert bundled.startswith("Measured on the bundled photos, not yours: for a release gate, give photos")
    assert lowered.startswith("Graph optimisation was lowered to basic:")


def test_a_verdict_for_batches_of_one_image_says_so() -> None:
    for together, fixed, noted in ((0.3, 1e-5, 1), (0.3, 0.2, 0), (0.3, None, 0), (1e-5, 1e-5, 0)):
        evidence = but(EVIDENCE, model__batch_difference=together, model__fixed_scale_difference=fixed)
        notes = "".join(notes_of(evidence, DEFAULT))
        said = "The verdict holds for batches of one image: .* changed by 0.3 [(]relative[)]"
        assert len(re.findall(said, notes)) == noted == bool(notes)


def test_another_profile_is_named_with_what_it_loosens_and_lacks() -> None:
    minimum = DEFAULT.thresholds["strength"].minimum
    loose = but(
        DEFAULT,
        id="mine",
        digest="sha256:" + "ab" * 32,
        edited="strength 1",
        thresholds=DEFAULT.thresholds | {"strength": but(DEFAULT.thresholds["strength"], minimum=minimum / 2)},
        calibration__missing={"RN50": "no file", "B32": "no file"},
    )
    named, edited, looser, incomplete = notes_of(EVIDENCE, loose)
    assert named.startswith(f"The thresholds are not the default profile ({DEFAULT.id}, ")
    assert "but mine (" in named
    assert edited == "The profile was changed by hand: strength 1."
    assert "strength" in looser
    assert incomplete == "The profile's calibration is not complete: 2 models of its suite were not measured."


def test_what_a_reader_must_know_of_a_model() -> None:
    assert model_notes("") == model_notes("", preprocessing="sidecar") == []
    assert model_notes("", random_weights=True) == ["The model has random weights: it was never trained."]
    assert model_notes("", left_out=[f"input {i}" for i in range(7)]) == [
        "The file has several inputs; what needs the image alone was measured. Left out: input 0, input 1, "
        "input 2, input 3, input 4, input 5 and 1 more."
    ]
    assert model_notes("", preprocessing="assumed") == [
        "The preprocessing was assumed: the file does not define it. Wrong pixels give wrong numbers."
    ]


def test_skipped_images_are_counted_and_the_first_three_named() -> None:
    skipped = tuple((f"{i}.png", "truncated") for i in range(4))
    assert skipped_note(0, 9, ()) == []
    assert skipped_note(4, 9, skipped, "sketch") == [
        "4 of 9 images of sketch were skipped (0.png: truncated; 1.png: truncated; 2.png: truncated)."
    ]
    images = but(EVIDENCE.images, n_read=9, n_skipped=1, skipped=skipped[:1])
    assert image_notes(images) == ["1 of 9 images were skipped (0.png: truncated)."]


def test_the_execution_says_why_it_was_not_as_asked() -> None:
    assert execution_notes(EVIDENCE.execution) == []
    fallen = but(EVIDENCE.execution, fallback_reason="no GPU was found", heavy_on_cpu={"Conv": 2, "Gemm": 1})
    assert execution_notes(fallen) == [
        "The CPU was used: no GPU was found.",
        "Although a GPU was used, heavy nodes ran on the CPU: 2 Conv, 1 Gemm.",
    ]
