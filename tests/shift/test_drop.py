"""The packaged detector: an earlier prediction can add a WARN, never take one away, and never of another model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx import check, verify
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Preprocessing
from robustcheck_onnx.checker.report import Report
from robustcheck_onnx.checker.report.record import to_json
from robustcheck_onnx.checker.shift.drop import PredictedDrop
from robustcheck_onnx.checker.statistics import wilson

Made = Callable[..., Path]


def _estimate(accuracy: float | None, low: float | None, why: str = "") -> dict[str, Any]:
    high = None if accuracy is None else accuracy + 0.05
    drop = None if accuracy is None else 100 * (0.8 - accuracy)
    return {
        "method": "doc", "accuracy": accuracy, "low": low, "high": high, "drop_points": drop, "not_established": why,
        "assumes": "what it assumes",
    }  # fmt: skip


def _document(digest: str, estimates: list[dict[str, Any]] | None) -> dict[str, Any]:
    """A report of `shift` with an in-distribution accuracy of 80 % and one target."""
    accuracy = wilson(80, 100).model_dump()
    counted = {"n_available": 100, "n_read": 100, "n_skipped": 0, "skipped": [], "digest": "ab"}
    predicted = estimates and {
        "scores": "logits", "scores_why": "", "mean_confidence": 0.8, "n_resamples": 1000,
        "min_images": 50, "claim": "",
        "targets": [
            counted | {
                "name": "blur", "source": "blur", "n_images": 100, "in_both": 0, "mean_confidence": 0.5,
                "estimates": estimates, "measured": None,
                "classes": {"n_classes": 9, "top_share": 0.2, "distance": 0.1, "expected_distance": 0.1, "p_value": 1},
            }
        ],
    }  # fmt: skip
    return {
        "tool_version": "0", "confidence": 0.95, "shifted": [], "accuracies": {}, "predicted": predicted,
        "baseline": "timm", "preprocessing_source": "contract", "seed": 0, "notes": [], "claim": "", "time": None,
        "model": {
            "file": "m.onnx", "digest": digest, "source": "", "class_output": "logits", "n_classes": 10,
            "random_weights": None, "synthetic": "",
        },
        "in_distribution": counted | {
            "name": "val", "source": "val", "shift": None, "label_set": "", "labels": "", "n_labels": 10,
            "n_compete": 10, "accuracy": accuracy,
        },
        "verdict": {
            "verdict": "PASS", "reasons": [], "profile": "p", "n_images": 50, "tensor": "t", "origin": "",
        },
        "agreement": {
            "outcome": "nothing to compare", "sentence": "", "mean_pp": None, "low_pp": None, "high_pp": None,
            "shifts": [], "usual_low_pp": None, "usual_high_pp": None,
        },
    }  # fmt: skip


def _preprocessing() -> Preprocessing:
    return Preprocessing(
        size=(4, 4), resize_mode="squash", resize_size=(4, 4), interpolation="bicubic", crop="none", mean=(0, 0, 0),
        std=(1, 1, 1),
    )  # fmt: skip


@pytest.fixture
def made(tmp_path: Path, passed: Report) -> Made:
    """`made(estimates)`: a report of the model that passes."""

    def write(
        *estimates: dict[str, Any], digest: str = passed.evidence.model.digest, of_target: dict[str, Any] | None = None
    ) -> Path:
        document = _document(digest, list(estimates) or None)
        for target in document["predicted"]["targets"] if of_target else ():
            target.update(of_target)
        document |= {
            "preprocessing": passed.evidence.preprocessing.preprocessing.model_dump(mode="json"),
            "execution": passed.evidence.execution.model_dump(mode="json"),
        }
        file = tmp_path / "shift, 1.json"  # a comma in its name does no harm
        file.write_text(json.dumps(document))
        return file

    return write


@pytest.mark.parametrize(("points", "verdict"), [(21, "PASS"), (19, "WARN")])
def test_the_lower_end_of_the_interval_decides(
    made: Made, lookup_pass: tuple[Path, Path], points: int, verdict: str
) -> None:
    """Predicted 70 %, at least 60 %; measured 80 %: 20 points by the cautious end, 10 by the prediction itself."""
    file = made(_estimate(0.7, 0.6), _estimate(0.75, 0.7))
    report = check(lookup_pass[0], images=lookup_pass[1], detectors=[f"predicted-drop={file},{points}"])
    assert report.verdict.verdict == verdict
    (found,) = report.evidence.detectors
    assert found.values["largest_cautious_drop_points"] == pytest.approx(20)
    assert found.values["predictions_that_warn"] == (verdict == "WARN")
    assert "blur: DoC predicts 70.0 % (60.0 – 75.0) on 100 images, up to 20.0 points below" in found.text
    assert f"in-distribution 80.0 %, {points} points below are allowed" in found.text
    if verdict == "WARN":
        (reason,) = report.verdict.reasons
        assert reason.id == "detector_warned"
        assert "predicted-drop 1: blur: DoC predicts 70.0 %" in reason.seen
    else:
        assert any("blur: DoC predicts 70.0 %" in note for note in report.notes)


def test_what_was_not_established_warns(made: Made, lookup_pass: tuple[Path, Path]) -> None:
    file = made(_estimate(0.8, 0.79), _estimate(None, None, "12 usable target images; at least 50 are needed"))
    report = check(lookup_pass[0], images=lookup_pass[1], detectors=[f"predicted-drop={file},50"])
    (reason,) = report.verdict.reasons
    assert "blur: DoC is not established (12 usable target images; at least 50 are needed)" in reason.seen


def test_a_report_of_another_model_is_no_verdict(
    made: Made, lookup_pass: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = made(_estimate(0.8, 0.79), digest="another")
    words = [str(lookup_pass[0]), "--images", str(lookup_pass[1]), "-qq", "--detector", f"predicted-drop={file},50"]
    assert cli.main(words) == 3
    assert "model of the report has digest another; this model has" in capsys.readouterr().err
    made()
    assert cli.main(words) == 3
    assert "report predicts nothing; it must be of a shift with --target" in capsys.readouterr().err


MEASURED = wilson(40, 100).model_dump()
TOLD = {"n_classes": 3, "top_share": 0.9, "distance": 0.5, "expected_distance": 0.1, "p_value": 0.001}


@pytest.mark.parametrize(
    ("of_target", "said"),
    [
        ({"in_both": 7}, "blur: 7 of 100 images are in-distribution images"),
        ({"measured": MEASURED}, "blur: 40.0 % was measured, up to 49.1 points below"),
        ({"classes": TOLD}, "blur: predicted classes have other frequencies than the in-distribution ones"),
        ({"estimates": []}, "blur: nothing was predicted"),
    ],
)
def test_what_the_report_itself_says_against_its_predictions_warns(
    made: Made, lookup_pass: tuple[Path, Path], of_target: dict[str, Any], said: str
) -> None:
    file = made(_estimate(0.8, 0.79), of_target=of_target)
    report = check(lookup_pass[0], images=lookup_pass[1], detectors=[f"predicted-drop={file},40"])
    (reason,) = report.verdict.reasons
    assert said in reason.seen


def test_the_text_says_which_file_it_was(made: Made, lookup_pass: tuple[Path, Path]) -> None:
    file = made(_estimate(0.8, 0.79))
    report = check(lookup_pass[0], images=lookup_pass[1], detectors=[f"predicted-drop={file},40"])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert report.evidence.detectors[0].text.endswith(f"; shift sha256:{digest[:12]}")


def test_points_that_nothing_could_exceed_are_no_verdict(made: Made, lookup_pass: tuple[Path, Path]) -> None:
    """80 % in distribution: no accuracy is more than 80 points below."""
    file = made(_estimate(0.8, 0.79))
    with pytest.raises(
        CannotAssessError, match=r"accuracy is 80\.0 %; with 80 points below allowed nothing could warn"
    ):
        check(lookup_pass[0], images=lookup_pass[1], detectors=[f"predicted-drop={file},80"])


def test_other_preprocessing_is_no_verdict(made: Made, passed: Report) -> None:
    detector = PredictedDrop(f"{made(_estimate(0.8, 0.79))},40")
    with pytest.raises(CannotAssessError, match="preprocessing of the report is another one"):
        detector.begin(passed.evidence.model.digest, _preprocessing())


@pytest.mark.parametrize("text", ["", "shift.json", ",5", "x.json,many", "x.json,-1", "x.json,nan", "x.json,101"])
def test_bad_texts(text: str) -> None:
    with pytest.raises(UsageError, match=r"it must be REPORT\.json,POINTS with points from 0 to 100"):
        PredictedDrop(text)


def test_bad_files(tmp_path: Path, passed: Report, made: Made) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(UsageError, match="report is not readable"):
        PredictedDrop(f"{file},5")
    for content, said in (("{", "JSON is missing"), (to_json(passed), "it must be a report of shift")):
        file.write_text(content)
        with pytest.raises(UsageError, match=said):
            PredictedDrop(f"{file},5")
    for estimate, said in (
        (_estimate(0.8, 0.9), r"estimates\.0 is missing or wrong"),
        (_estimate(0.8, 1.5), r"low is missing or wrong"),
        (_estimate(0.8, math.nan), r"JSON is missing or wrong|low is missing or wrong"),
        (_estimate(None, None), r"estimates\.0 is missing or wrong"),
    ):
        with pytest.raises(UsageError, match=said):
            PredictedDrop(f"{made(estimate)},5")
    edited = json.loads(made(_estimate(0.8, 0.79)).read_text())
    edited["in_distribution"]["accuracy"]["value"] = 0.5
    file.write_text(json.dumps(edited))
    with pytest.raises(UsageError, match=r"in_distribution\.accuracy is wrong; it must follow from n and n_correct"):
        PredictedDrop(f"{file},5")
    file.write_text("[" * 100_000)
    with pytest.raises(UsageError):
        PredictedDrop(f"{file},5")


def test_without_a_model_it_has_no_result(made: Made) -> None:
    detector = PredictedDrop(f"{made(_estimate(0.8, 0.79))},5")
    with pytest.raises(RuntimeError, match="begin was not called"):
        detector.result()
    with pytest.raises(CannotAssessError):
        detector.begin("another", _preprocessing())


def test_its_errors_are_its_own_through_the_command(
    lookup_pass: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(lookup_pass[0]), "--images", str(lookup_pass[1]), "-qq", "--detector"]
    assert cli.main([*words, "predicted-drop"]) == 2
    assert "error: --detector predicted-drop: text is ''" in capsys.readouterr().err
    assert cli.main([*words, "predicted-drop=gone.json,5"]) == 2
    assert "gone.json: report is not readable" in capsys.readouterr().err
    assert cli.main([*words, "predicted-drop=a,1", "--detector", "predicted-drop=b,1"]) == 2
    assert "--detector names predicted-drop twice" in capsys.readouterr().err


def test_a_second_run_takes_the_text_again(
    made: Made, lookup_pass: tuple[Path, Path], passed: Report, tmp_path: Path
) -> None:
    spec = f"predicted-drop={made(_estimate(0.7, 0.6))},30"
    report = check(lookup_pass[0], images=lookup_pass[1], detectors=[spec])
    kept = tmp_path / "report.json"
    kept.write_text(to_json(report))
    with pytest.raises(UsageError, match="report names detectors predicted-drop"):
        verify(kept, lookup_pass[0], images=lookup_pass[1], rerun=True)
    again = verify(kept, lookup_pass[0], images=lookup_pass[1], rerun=True, detectors=[spec])
    assert {each.check: each.status for each in again.findings}["rerun"] == "agrees"
    kept.write_text(to_json(passed))  # its check ran without
    with pytest.raises(UsageError, match="--detector names predicted-drop; the check of this report ran without it"):
        verify(kept, lookup_pass[0], images=lookup_pass[1], detectors=[spec])
    kept.write_text(to_json(report))
    other = f"{spec.removesuffix(',30')},10"  # now it warns
    again = verify(kept, lookup_pass[0], images=lookup_pass[1], rerun=True, detectors=[other])
    assert {each.check: each.status for each in again.findings}["rerun"] == "differs"
