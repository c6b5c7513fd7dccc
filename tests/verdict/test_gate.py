"""From verdict to exit code."""

from datetime import date

import pytest

from robustcheck_onnx.checker.verdict.gate import Waiver, decide
from robustcheck_onnx.checker.verdict.rule import Reason, Verdict

TODAY = date(2026, 11, 24)


def warn(*ids: str) -> Verdict:
    reasons = tuple(Reason(id=i, seen="x", next_step="y") for i in ids)
    return Verdict(verdict="WARN" if ids else "PASS", reasons=reasons, profile_id="p", profile_digest="d")


def waiver(reason: str, expires: date = TODAY, models: tuple[str, ...] = ("*",)) -> Waiver:
    return Waiver(reason=reason, because="known", owner="vision team", expires=expires, models=models)


def test_only_a_pass_lets_through_by_itself() -> None:
    assert decide(warn(), "m.onnx", today=TODAY).exit_code == 0
    answer = decide(warn("rectified"), "m.onnx", today=TODAY)
    assert answer.exit_code == 1
    assert answer.rule == "the verdict is WARN (rectified)"


def test_every_reason_must_be_waived() -> None:
    verdict = warn("rectified", "low_kurtosis")
    assert decide(verdict, "m.onnx", waivers=[waiver("rectified")], today=TODAY).exit_code == 1
    both = [waiver("rectified"), waiver("low_kurtosis")]
    answer = decide(verdict, "m.onnx", waivers=both, today=TODAY)
    assert answer.exit_code == 0
    assert answer.waived == tuple(both)


def test_an_expired_waiver_counts_for_nothing_and_is_told() -> None:
    old = waiver("rectified", expires=date(2026, 11, 23))
    answer = decide(warn("rectified"), "m.onnx", waivers=[old], today=TODAY)
    assert answer.exit_code == 1
    assert answer.expired == (old,)
    assert decide(warn("rectified"), "m.onnx", waivers=[waiver("rectified")], today=TODAY).exit_code == 0  # last day


def test_a_waiver_of_another_model_or_reason_counts_for_nothing() -> None:
    others = [waiver("rectified", models=("other/*.onnx",)), waiver("low_kurtosis")]
    answer = decide(warn("rectified"), "m.onnx", waivers=others, today=TODAY)
    assert answer.exit_code == 1
    assert answer.waived == answer.expired == ()


def test_a_warn_without_reasons_fails() -> None:
    odd = Verdict(verdict="WARN", reasons=(), profile_id="p", profile_digest="d")
    assert decide(odd, "m.onnx", waivers=[waiver("rectified")], today=TODAY).exit_code == 1


def test_fail_on_never_is_said() -> None:
    answer = decide(warn("rectified"), "m.onnx", fail_on="never", today=TODAY)
    assert answer.exit_code == 0
    assert "--fail-on is never" in answer.rule


@pytest.mark.parametrize("field", ["reason", "because", "owner", "expires"])
def test_a_waiver_needs_all_its_fields(field: str) -> None:
    values = {"reason": "rectified", "because": "known", "owner": "vision team", "expires": TODAY}
    del values[field]
    with pytest.raises(ValueError, match=field):
        Waiver.model_validate(values)
