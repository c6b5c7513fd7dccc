"""The notes beside a verdict: each circumstance has one sentence, and nothing is noted where nothing is to be said."""

import re

from robustcheck_onnx.checker.evidence import Statistics
from robustcheck_onnx.checker.verdict.notes import execution_notes, image_notes, model_notes, notes_of, skipped_note
from robustcheck_onnx.thresholds import profile as profiles
from support import but, reports

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
