"""From verdict to exit code."""

from datetime import date, timedelta
from itertools import product

from robustcheck_onnx.checker.verdict.gate import Accept, FailOn, Waiver, decide, fits
from robustcheck_onnx.checker.verdict.reasons import KINDS, NOT_MENDABLE, RULES
from robustcheck_onnx.checker.verdict.rule import Verdict, reason, verdict_for
from robustcheck_onnx.thresholds import profile
from support import Fields, but

DEFAULT = profile.load()
TODAY = date(2026, 11, 24)


def warn(*ids: str) -> Verdict:
    return verdict_for((reason(name, "x") for name in ids), DEFAULT)


def waiver(reason: str, expires: date = TODAY, models: tuple[str, ...] = ("*",)) -> Waiver:
    return Waiver(reason=reason, because="known", owner="vision team", expires=expires, models=models)


def test_only_a_pass_lets_through_by_itself() -> None:
    assert decide(warn(), "m.onnx", today=TODAY).exit_code == 0
    answer = decide(warn("rectified"), "m.onnx", today=TODAY)
    assert answer.exit_code == 1
    assert answer.rule == "the verdict is WARN (rectified)"
    never = decide(warn("rectified"), "m.onnx", fail_on="never", today=TODAY)
    assert never.exit_code == 0
    assert "--fail-on is never" in never.rule


def test_every_reason_must_be_waived_for_this_model() -> None:
    verdict, both = warn("rectified", "low_kurtosis"), (waiver("rectified"), waiver("low_kurtosis"))
    assert decide(verdict, "m.onnx", waivers=both[:1], today=TODAY).exit_code == 1
    answer = decide(verdict, "m.onnx", waivers=both, today=TODAY)
    assert (answer.exit_code, answer.waived) == (0, both)
    others = [waiver("rectified", models=("other/*.onnx",)), both[1]]
    answer = decide(warn("rectified"), "m.onnx", waivers=others, today=TODAY)
    assert answer.exit_code == 1
    assert answer.waived == answer.expired == ()


def test_an_expired_waiver_counts_for_nothing_and_is_told() -> None:
    old = waiver("rectified", expires=date(2026, 11, 23))
    answer = decide(warn("rectified"), "m.onnx", waivers=[old], today=TODAY)
    assert (answer.exit_code, answer.expired) == (1, (old,))
    assert decide(warn("rectified"), "m.onnx", waivers=[waiver("rectified")], today=TODAY).exit_code == 0  # last day


def test_a_warn_without_reasons_fails() -> None:
    odd = Verdict(verdict="WARN", kind=None, reasons=(), profile_id="p", profile_digest="d")
    assert decide(odd, "m.onnx", waivers=[waiver("rectified")], today=TODAY).exit_code == 1
    assert decide(odd, "m.onnx", accept="not_applicable", today=TODAY).exit_code == 1


def test_the_kind_of_a_verdict_is_the_first_that_a_reader_must_see_to() -> None:
    assert warn().kind is None
    assert warn("low_kurtosis", "rectified", "undecided").kind == "not_applicable"
    assert warn("assumed_preprocessing", "end_not_calibrated").kind == "not_applicable"
    assert warn("assumed_preprocessing", "end_not_calibrated", "tensor_not_calibrated").kind == "not_established"
    for first in NOT_MENDABLE:  # what few photos show may be otherwise with more; what the file shows may not
        few = warn(first, "assumed_preprocessing", "too_few_images")
        assert few.kind == ("not_established" if first in ("one_sided", "rectified") else "not_applicable")
        assert next(each.id for each in few.reasons if each.kind == "not_established") == "too_few_images"
    assert warn("low_kurtosis", "rectified").kind == "not_applicable"
    assert warn("statistic_shrank", "low_kurtosis").kind == "absent"
    assert warn("statistic_shrank").kind == "other_signal"
    assert {rule.kind for rule in RULES.values()} == set(KINDS)


def test_accept_lets_through_only_where_every_reason_is_of_that_kind() -> None:
    assert decide(warn(), "m.onnx", accept="not_applicable", today=TODAY).rule == "the verdict is PASS"
    answer = decide(warn("rectified", "end_not_calibrated"), "m.onnx", accept="not_applicable", today=TODAY)
    assert (answer.exit_code, answer.accept) == (0, "not_applicable")
    assert answer.rule == (
        "not_applicable is accepted (command line), and every reason is of that kind (end_not_calibrated, rectified)"
    )
    for others in RULES:  # a second reason of another kind fails, waived or not
        for waivers in ([], [waiver(others)]):
            given = decide(
                warn("end_not_calibrated", others), "m.onnx", accept="not_applicable", waivers=waivers, today=TODAY
            )
            assert given.exit_code == (RULES[others].kind != "not_applicable"), others


def test_every_answer_of_the_gate_fits_its_verdict() -> None:
    both = (waiver("rectified"), waiver("low_kurtosis", TODAY - timedelta(days=1)))
    verdicts = [warn(), warn("rectified"), warn("rectified", "low_kurtosis"), warn("end_not_calibrated")]
    fails: tuple[FailOn, ...] = ("warn", "never")
    accepts: tuple[Accept | None, ...] = (None, "not_applicable")
    codes = set()
    for verdict, w, place, f, a in product(verdicts, ((), both[:1], both), ("", "robustcheck.toml"), fails, accepts):
        gate = decide(verdict, "m.onnx", waivers=w, waived_in=place, fail_on=f, accept=a, today=TODAY)
        assert fits(gate, verdict, words=True), gate
        codes.add(gate.exit_code)
    assert codes == {0, 1}


def test_an_edited_gate_does_not_fit() -> None:
    verdict = warn("rectified")
    gate = decide(verdict, "m.onnx", today=TODAY)
    changes: list[Fields] = [
        {"exit_code": 0, "rule": "the verdict is PASS"},
        {"rule": "an expert has looked at it"},
        {"waived": (waiver("low_kurtosis"),)},
        {"waived": (waiver("rectified"),)},
        {"expired": (waiver("low_kurtosis"),)},
        {"fail_on": "never"},
    ]
    for change in changes:
        assert not fits(gate.model_copy(update=change), verdict, words=True)
    # the words of another version need not fit
    other = but(gate, rule="WARN (rectified)")
    assert fits(other, verdict, words=False)
    assert not fits(but(other, exit_code=0), verdict, words=False)
