"""From verdict to exit code; what a reason says was seen; each circumstance has one note."""

import re
from datetime import date, timedelta
from glob import glob as glob_files
from itertools import product
from pathlib import Path
from typing import Any

from robustcheck_onnx.checker.core.evidence import Evidence, Int8Sums, Statistics
from robustcheck_onnx.checker.core.verdict import gate, notes, rule
from robustcheck_onnx.checker.core.verdict.gate import Waiver, decide, fits
from robustcheck_onnx.checker.core.verdict.kinds import BELOW_REASONS, KINDS
from robustcheck_onnx.checker.core.verdict.notes import int8_notes, notes_of
from robustcheck_onnx.checker.core.verdict.reasons import NOT_MENDABLE, RULES
from robustcheck_onnx.checker.core.verdict.rule import Verdict, decided, judge, reason, verdict_for
from robustcheck_onnx.thresholds.profile import Profile, load
from robustcheck_onnx.thresholds.statistics import STATISTICS
from support import Fields, Patch, but, reports
from support.reports import interval

DEFAULT = load()
TODAY = date(2026, 11, 24)


def warn(*ids: str) -> Verdict:
    return verdict_for((reason(name, "x") for name in ids), DEFAULT)


def waiver(reason: str, expires: date = TODAY, models: tuple[str, ...] = ("**",)) -> Waiver:
    return Waiver(reason=reason, because="known", owner="vision team", expires=expires, models=models)


def test_only_a_pass_lets_through_by_itself() -> None:
    assert decide(warn(), "m.onnx", today=TODAY).exit_code == 0
    answer = decide(warn("one_sided"), "m.onnx", today=TODAY)
    assert (answer.exit_code, answer.rule) == (1, "the verdict is WARN (one_sided)")
    never = decide(warn("one_sided"), "m.onnx", fail_on="never", today=TODAY)
    assert (never.exit_code, "--fail-on is never" in never.rule) == (0, True)


def test_every_reason_must_be_waived_for_this_model() -> None:
    verdict, both = warn("one_sided", "too_weak"), (waiver("one_sided"), waiver("too_weak"))
    assert decide(verdict, "m.onnx", waivers=both[:1], today=TODAY).exit_code == 1
    answer = decide(verdict, "m.onnx", waivers=both, today=TODAY)
    assert (answer.exit_code, answer.waived) == (0, both)
    others = [waiver("one_sided", models=("other/*.onnx",)), both[1]]
    for climbs in ("other/../m.onnx", "link/../other/m.onnx", "./other/../../other/m.onnx"):
        answer = decide(warn("one_sided"), climbs, waivers=others, today=TODAY)
        assert (answer.exit_code, answer.waived, answer.expired) == (1, (), ())


def test_a_waivers_glob_matches_what_python_finds(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"m.onnx", "release/m.onnx", "release/m2.onnx", "release/v1/m.onnx", "release/v1/a/m.onnx", "other/m.onnx"}
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    globs = "* *.onnx */m.onnx release/* release/** release/**/m.onnx **/v1/*.onnx ** **/** r*/m?.onnx release/[!v]*"
    found = {
        glob: {path for path in glob_files(glob, recursive=True) if Path(path).is_file()}  # noqa: PTH207
        for glob in globs.split()
    }
    assert {glob: {path for path in files if gate.is_match(path, glob)} for glob in found} == found
    assert all(found.values())


def test_where_a_link_leads_must_be_waived_too() -> None:
    other = "other/m.onnx"
    for globs, code in ((("release/*",), 1), (("other/*",), 1), (("release/*", "other/*"), 0), (("**",), 0)):
        waivers = [waiver("one_sided", models=globs)]
        answer = decide(warn("one_sided"), "release/m.onnx", leads_to=other, waivers=waivers, today=TODAY)
        assert answer.exit_code == code


def test_an_expired_waiver_counts_for_nothing_and_is_told() -> None:
    old = waiver("one_sided", expires=date(2026, 11, 23))
    answer = decide(warn("one_sided"), "m.onnx", waivers=[old], today=TODAY)
    assert (answer.exit_code, answer.expired) == (1, (old,))
    assert decide(warn("one_sided"), "m.onnx", waivers=[waiver("one_sided")], today=TODAY).exit_code == 0  # last day


def test_a_warn_without_reasons_fails() -> None:
    odd = Verdict(verdict="WARN", kind=None, reasons=(), profile_id="p", profile_digest="d")
    assert decide(odd, "m.onnx", waivers=[waiver("one_sided")], today=TODAY).exit_code == 1
    assert decide(odd, "m.onnx", accept="not_applicable", today=TODAY).exit_code == 1


def test_a_pass_with_reasons_fails_as_these_reasons_do() -> None:
    odd = warn("one_sided").model_copy(update={"verdict": "PASS"})
    assert decide(odd, "m.onnx", today=TODAY).exit_code == 1
    assert decide(odd, "m.onnx", waivers=[waiver("one_sided")], today=TODAY).exit_code == 0


def test_the_kind_of_a_verdict_is_the_first_that_a_reader_must_see_to() -> None:
    assert warn().kind is None
    assert warn("too_weak", "one_sided", "undecided").kind == "not_applicable"
    assert warn("assumed_preprocessing", "end_not_calibrated").kind == "not_applicable"
    assert warn("assumed_preprocessing", "end_not_calibrated", "tensor_not_calibrated").kind == "not_established"
    for first in NOT_MENDABLE:  # what few photos show may be otherwise with more; what the file shows may not
        few = warn(first, "assumed_preprocessing", "too_few_images")
        assert few.kind == ("not_established" if first == "one_sided" else "not_applicable")
        assert next(each.id for each in few.reasons if each.kind == "not_established") == "too_few_images"
    assert warn("too_weak", "one_sided").kind == "not_applicable"
    assert warn("statistic_shrank", "too_weak").kind == "absent"
    assert warn("statistic_shrank").kind == "other_signal"
    assert {rule.kind for rule in RULES.values()} == set(KINDS)


def test_accept_lets_through_only_where_every_reason_is_of_that_kind() -> None:
    assert decide(warn(), "m.onnx", accept="not_applicable", today=TODAY).rule == "the verdict is PASS"
    answer = decide(warn("one_sided", "end_not_calibrated"), "m.onnx", accept="not_applicable", today=TODAY)
    assert (answer.exit_code, answer.accept) == (0, "not_applicable")
    assert answer.rule == (
        "not_applicable is accepted (command line), and every reason is of that kind (end_not_calibrated, one_sided)"
    )
    for others in RULES:  # a second reason of another kind fails, waived or not
        for waivers in ([], [waiver(others)]):
            both = warn("end_not_calibrated", others)
            given = decide(both, "m.onnx", accept="not_applicable", waivers=waivers, today=TODAY)
            assert given.exit_code == (RULES[others].kind != "not_applicable"), others


def test_every_answer_of_the_gate_fits_its_verdict() -> None:
    both = (but(waiver("one_sided"), models=("m.*",)), waiver("too_weak", TODAY - timedelta(days=1)))
    verdicts = [warn(), warn("one_sided"), warn("one_sided", "too_weak"), warn("end_not_calibrated")]
    fails: tuple[gate.FailOn, ...] = ("warn", "never")
    accepts: tuple[gate.Accept | None, ...] = (None, "not_applicable")
    codes = set()
    for verdict, w, place, f, a in product(verdicts, ((), both[:1], both), ("", "robustcheck.toml"), fails, accepts):
        answer = decide(verdict, "m.onnx", waivers=w, waived_in=place, fail_on=f, accept=a, today=TODAY)
        assert fits(answer, verdict, words=True), answer
        codes.add(answer.exit_code)
    assert codes == {0, 1}


def test_an_edited_gate_does_not_fit() -> None:
    verdict = warn("one_sided")
    answer = decide(verdict, "m.onnx", today=TODAY)
    changes: list[Fields] = [
        {"exit_code": 0, "rule": "the verdict is PASS"},
        {"rule": "an expert has looked at it"},
        {"waived": (waiver("too_weak"),)},
        {"waived": (waiver("one_sided"),)},
        {"expired": (waiver("too_weak"),)},
        {"fail_on": "never"},
    ]
    for change in changes:
        assert not fits(answer.model_copy(update=change), verdict, words=True)
    # the words of another version need not fit
    other = but(answer, rule="WARN (one_sided)")
    assert fits(other, verdict, words=False)
    assert not fits(but(other, exit_code=0), verdict, words=False)


PASSING = Statistics(**reports.PASS_STATISTICS)
STRADDLES = "after 162 images the interval does not clear the threshold: "
PROFILE = reports.profile()


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
        "linear_unread": "the output of a linear layer whose weight could not be found, or read as one matrix",
        "change_of_basis": "a change of basis (a linear layer behind it has orthogonal features, as a PCA has)",
        "other:MatMul": "the output of MatMul",
        "activation:QuantizeLinear": f"the output of QuantizeLinear, {no_negatives}",
        "linear_of:QLinearConv": f"a linear map of the output of QLinearConv, {no_negatives}",
    }.items():
        given = reports.evidence(PASSING, model={"ends_in": ends_in})
        assert seen(given) == {"end_not_calibrated": f"`representation` is {words}"}


def says(profile: Profile, statistics: Fields, **reasons: str) -> None:
    """Hold that these statistics give exactly these reasons, with what was seen."""
    assert seen(evidence(**statistics), profile) == reasons


def test_each_statistic_and_what_is_said_of_it() -> None:
    """Context is shown and not judged."""
    zero, unknown = interval(0.0, 0.0, 0.0), interval(None, None, None)
    says(PROFILE, {})
    says(PROFILE, {name: zero for name in STATISTICS if name not in PROFILE.deciding})
    says(
        PROFILE,
        {"strength": interval(3.25, 2.0, 4.498), "outlier_frequency": interval(0.55, 0.45, 0.65)}
        | {"two_sidedness": interval(0.01, 0.0, 0.02)},
        one_sided="two-sidedness 0.0100 (upper bound 0.0200, threshold 0.35)",
        too_weak="strength 3.25 (upper bound 4.498, threshold 4.5)",
        not_persistent="persistence 0.550 (upper bound 0.650, threshold 0.75)",
    )
    said = "strength, two-sidedness could not be measured"
    says(PROFILE, {"strength": unknown, "two_sidedness": unknown}, not_measurable=said)
    both = {"strength": interval(6.0, 4.0, 8.0), "two_sidedness": interval(0.4, 0.31, 0.45)}
    said = f"{STRADDLES}strength 4.00 to 8.00 (threshold 4.5), two-sidedness 0.310 to 0.450 (threshold 0.35)"
    says(PROFILE, both, undecided=said)
    said = f"{STRADDLES}strength 4.00 to not measured (threshold 4.5)"
    says(PROFILE, {"strength": interval(5.25, 4.0, None)}, undecided=said)
    says(PROFILE, {"spread": rule.ALIKE_SPREAD})
    said = "how much the representation varies between images could not be measured"
    says(PROFILE, {"spread": None}, representations_alike=said)
    said = "40.0 % of the representations differ in kurtosis; at least 50 % must"
    says(PROFILE, {"distinct_share": 0.4}, representations_alike=said)
    assert list(seen(evidence(spread=rule.ALIKE_SPREAD / 2))) == ["representations_alike"]


def test_content_at_the_very_limits() -> None:
    rank = f"the effective rank is 3.90; at least {rule.MIN_EFFECTIVE_RANK:g} is needed over 50 images"
    variance = f"0.310 % of the energy varies between images; at least {100 * rule.MIN_RELATIVE_VARIANCE:g} % must"
    mean = (
        "the mean of all images lies along the strongest features alone, as after an SVD that was folded into the last "
        "layer: it holds 13.0 % of the energy outside of the three strongest (over 50 varied images); at least 13 % is "
        "needed"
    )
    little: Fields = {"effective_rank": 3.9, "relative_variance": 0.0031}
    said = "the photos, or what the model makes of them, hardly differ: over"
    few = {"too_few_images": "the content was measured on 49 varied images; it needs 50"}
    cases: list[tuple[Fields, dict[str, str]]] = [
        ({"effective_rank": rule.MIN_EFFECTIVE_RANK, "relative_variance": rule.MIN_RELATIVE_VARIANCE}, {}),
        ({"effective_rank": 3.9}, {"little_content": f"{said} 50 varied images {rank}"}),
        ({"relative_variance": 0.0031}, {"little_content": f"{said} 50 varied images {variance}"}),
        ({"mean_of_rest": 0.1299}, {"mean_on_one_feature": mean}),
        ({"mean_of_rest": 0.13}, {}),
        ({"n": 49} | little, few | {"little_content": f"{said} 49 varied images {rank}, and {variance}"}),
    ]
    for changes, reasons in cases:
        assert seen(reports.evidence(PASSING, content=but(reports.CONTENT, **changes))) == reasons
    absent = but(PASSING, features=[but(feature, persistent=False) for feature in PASSING.features])
    no_mean = but(reports.CONTENT, mean_of_rest=0.0)
    assert list(seen(reports.evidence(absent, content=no_mean))) == ["not_persistent"]  # there is nothing to explain
    given = reports.evidence(PASSING, content=but(reports.CONTENT, n=20, effective_rank=3.9), images=reports.sanity(20))
    assert list(seen(given)) == ["too_few_images"]  # of so few nothing is said about content


def test_as_many_images_as_the_profile_asks_for_are_enough_to_stop() -> None:
    numbers = (PROFILE.min_images, PROFILE.min_images - 1)
    assert [decided(but(PASSING, n_images=n), PROFILE) for n in numbers] == [True, False]


def test_each_statistic_alone_is_seen_below_its_threshold() -> None:
    assert BELOW_REASONS.keys() == set(PROFILE.deciding)
    for name, below in BELOW_REASONS.items():
        low = 0.5 * PROFILE.thresholds[name].minimum
        assert list(seen(evidence(**{name: interval(low, 0.9 * low, 1.1 * low)}))) == [below]


EVIDENCE = reports.evidence(PASSING)


def test_a_plain_run_under_the_default_profile_has_no_note() -> None:
    assert notes_of(EVIDENCE, DEFAULT) == ()


def test_that_a_classifiers_last_layer_was_not_looked_at_is_said() -> None:
    (note,) = notes_of(but(EVIDENCE, model__rule="head_input"), DEFAULT)
    assert note.startswith("The classifier's last layer was not looked at")


def test_notes_come_of_the_profile_the_model_the_images_and_the_execution_in_this_order() -> None:
    changes: Fields = {"images__bundled": True, "execution__optimization": "basic"}
    given = but(EVIDENCE, model__synthetic="feature 92 was shifted", **changes)
    synthetic, bundled, lowered = notes_of(given, DEFAULT)
    assert synthetic == "Synthetic model: feature 92 was shifted."
    assert bundled.startswith("Measured on the bundled photos, not yours: for a release gate, give photos")
    assert lowered.startswith("Graph optimisation was lowered to basic:")


def test_a_file_whose_int8_sums_saturate_is_noted_from_half_a_percent_with_what_this_cpu_does() -> None:
    sums = Int8Sums(plain=0.5059, exact=1)
    said = "ONNX Runtime's int8 sums saturate for this file (0.5 % of the pairs of weights can exceed 16 bits)"
    for share, noted in ((None, 0), (0.0, 0), (0.0049, 0), (0.005, 1)):
        evidence = but(EVIDENCE, model__saturating_pairs=share, execution__int8_sums=sums)
        notes = notes_of(evidence, DEFAULT)
        assert (len(notes), said in "".join(notes)) == (noted, noted == 1)
    assert notes[0].endswith(" On this CPU such sums saturate at 50.6 % of the exact sum.")
    (unmeasured,) = int8_notes(0.005)
    assert unmeasured.endswith("its vectors differ from the exact ones.")


def test_a_verdict_for_batches_of_one_image_says_so() -> None:
    for together, fixed, noted in ((0.3, 1e-5, 1), (0.3, 0.2, 0), (0.3, None, 0), (1e-5, 1e-5, 0)):
        evidence = but(EVIDENCE, model__batch_difference=together, model__fixed_scale_difference=fixed)
        notes = "".join(notes_of(evidence, DEFAULT))
        said = "The verdict holds for batches of one image: .* changed by 0.3 [(]relative[)]"
        assert len(re.findall(said, notes)) == noted == bool(notes)


def test_another_profile_is_named_with_what_it_loosens_and_lacks() -> None:
    minimum = DEFAULT.thresholds["strength"].minimum
    thresholds = DEFAULT.thresholds | {"strength": but(DEFAULT.thresholds["strength"], minimum=minimum / 2)}
    missing = {"RN50": "no file", "B32": "no file"}
    loose = but(DEFAULT, id="mine", digest="sha256:" + "ab" * 32, thresholds=thresholds)
    loose = but(loose, calibration__missing=missing)
    named, looser, incomplete = notes_of(EVIDENCE, loose)
    assert re.match(rf"The thresholds are not the default profile \({DEFAULT.id}, .*but mine \(", named)
    assert "strength" in looser
    assert incomplete == "The profile's calibration is not complete: 2 models of its suite were not measured."


def test_what_a_reader_must_know_of_a_model() -> None:
    assert notes.model_notes("") == notes.model_notes("", preprocessing="sidecar") == []
    assert notes.model_notes("", random_weights=True) == ["The model has random weights: it was never trained."]
    assert notes.model_notes("", left_out=[f"input {i}" for i in range(7)]) == [
        "The file has several inputs; what needs the image alone was measured. Left out: input 0, input 1, "
        "input 2, input 3, input 4, input 5 and 1 more."
    ]
    assert notes.model_notes("", preprocessing="assumed") == [
        "The preprocessing was assumed: the file does not define it. Wrong pixels give wrong numbers."
    ]


def test_skipped_images_are_counted_and_the_first_three_named() -> None:
    skipped = tuple((f"{i}.png", "truncated") for i in range(4))
    assert notes.skipped_note(0, 9, ()) == []
    assert notes.skipped_note(4, 9, skipped, "sketch") == [
        "4 of 9 images of sketch were skipped (0.png: truncated; 1.png: truncated; 2.png: truncated)."
    ]
    images = but(EVIDENCE.images, n_read=9, n_skipped=1, skipped=skipped[:1])
    assert notes.image_notes(images) == ["1 of 9 images were skipped (0.png: truncated)."]


def test_the_execution_says_why_it_was_not_as_asked() -> None:
    assert notes.execution_notes(EVIDENCE.execution) == []
    fallen = but(EVIDENCE.execution, fallback_reason="no GPU was found", heavy_on_cpu={"Conv": 2, "Gemm": 1})
    assert notes.execution_notes(fallen) == [
        "The CPU was used: no GPU was found.",
        "Although a GPU was used, heavy nodes ran on the CPU: 2 Conv, 1 Gemm.",
    ]
