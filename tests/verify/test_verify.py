"""`robustcheck verify`: whatever changes in a report or in what it is about is seen, and nothing else is."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.measure import measure_all
from robustcheck_onnx.checker.report import forms
from robustcheck_onnx.checker.report.reader import edits, read, read_one
from robustcheck_onnx.checker.report.record import Failed, Report, sealed, to_json
from robustcheck_onnx.checker.verdict import gate
from robustcheck_onnx.checker.verdict.rule import judge
from robustcheck_onnx.checker.verify.checks import check_images
from robustcheck_onnx.checker.verify.differences import _walk, disagreements
from robustcheck_onnx.thresholds import profile
from support import lookup
from support.measuring import job as new_job

Change = Callable[[dict[str, Any]], object]


def canonical_digest(document: dict[str, Any]) -> str:
    """The definition in docs/verify.md, written out."""
    content = {k: v for k, v in document.items() if k != "time"}
    content["binding"] = {k: v for k, v in content["binding"].items() if k != "result_digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def forge(place: Path, change: Change) -> None:
    """Change the report and give it a right digest, as anyone can."""
    document = json.loads((place / "report.json").read_text(encoding="utf-8"))
    change(document)
    document["binding"]["result_digest"] = canonical_digest(document)
    (place / "report.json").write_text(json.dumps(document), encoding="utf-8")


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def verify(place: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Exit code, status of each check, and the document; without images it rests on the report."""
    more = more if {"--images", "--rerun", "--no-rerun"} & set(more) else (*more, "--no-rerun")
    code = cli.main(["verify", str(place / "report.json"), str(place / "model.onnx"), "-o", "json", *more])
    document = json.loads(capsys.readouterr().out)
    return code, {f["check"]: f["status"] for f in document.get("findings", [])}, document


def test_images_are_not_compared_where_a_skipped_one_is_not_named(
    passed: Report, lookup_pass: tuple[Path, Path]
) -> None:
    """Which images make up the digest is not known then."""
    photos = str(lookup_pass[1])
    assert check_images(passed, photos, at_hand=True).status == "agrees"
    images = passed.evidence.images.model_copy(update={"n_skipped": len(passed.evidence.images.skipped) + 1})
    other = passed.model_copy(update={"evidence": passed.evidence.model_copy(update={"images": images})})
    found = check_images(other, photos, at_hand=True)
    assert (found.status, found.seen) == ("not checked", "1 were skipped and not all are named; --rerun compares them")


def test_a_value_of_another_type_is_another_value(passed: Report) -> None:
    """In JSON; Python says that True, 1 and 1.0 are equal."""
    values: list[Any] = [True, 1, 1.0, "1", None, [1], {"a": 1}]
    for one, other in itertools.permutations(values, 2):
        assert len(list(_walk({"x": one}, {"x": other}, "", 0.1, passed.profile))) == 1, (one, other)
    for value in values:
        assert list(_walk({"x": value}, {"x": copy.deepcopy(value)}, "", 0.0, passed.profile)) == []


def test_a_report_that_holds(place: Path, capsys: pytest.CaptureFixture[str], passed: Report) -> None:
    code, status, document = verify(place, capsys)
    assert code == document["exit_code"] == 0
    assert {name for name, value in status.items() if value == "not checked"} == {"signature", "images", "rerun"}
    assert {name for name, value in status.items() if value == "agrees"} == {"report", "model", "profile", "verdict"}
    assert "only the report itself" in document["rests_on"]
    code, status, document = verify(place, capsys, "--images", str(place / "photos"))
    assert code == 0
    assert status["images"] == status["rerun"] == "agrees"
    assert "measured again" in document["rests_on"]
    assert passed.binding is not None
    assert document["result_digest"] == canonical_digest(json.loads(to_json(passed)))


def test_one_report_is_read_only_as_a_check_wrote_it(place: Path, passed: Report) -> None:
    assert read_one(place / "report.json") == passed

    def flipped(document: dict[str, Any]) -> None:
        document["verdict"]["verdict"] = "WARN"

    forge(place, flipped)
    (pair,) = read(place / "report.json")
    assert edits(*pair) == {"verdict": "its evidence gives PASS"}
    with pytest.raises(CannotAssessError, match=r"is not as a check wrote it \(verdict: its evidence gives PASS\);"):
        read_one(place / "report.json")
    (place / "report.json").write_text(forms.render("json", [passed, passed]), encoding="utf-8")
    with pytest.raises(UsageError, match=r"document holds 2 reports; it must hold one$"):
        read_one(place / "report.json")


def test_the_terminal_says_what_was_not_checked_and_that_a_report_alone_vouches_for_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # a long path of the tests is not folded
    words = ["verify", str(place / "report.json"), str(place / "model.onnx")]
    assert cli.main([*words, "--no-rerun"]) == 0
    shown = capsys.readouterr().out
    assert "VERIFIED" in shown
    assert shown.count("– not checked") == 3
    assert cli.main(words) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing but the report says that its numbers are right" in said
    assert "NOT VERIFIED" in said  # "VERIFIED, but WARN" would be wrong twice
    assert "report.json says PASS" in said
    flip(place / "model.onnx")
    assert cli.main(words) == 3
    assert "DOES NOT HOLD" in capsys.readouterr().out


def as_earlier_versions_wrote(document: dict[str, Any], finding: str = "ok") -> None:
    """Put what earlier versions wrote into a report: a plug-in's finding, which was a note or a reason for WARN."""
    said = {"name": "theirs", "version": "1", "values": {"x": 1.0}, "finding": finding, "text": "seen"}
    document["evidence"]["detectors"] = [said]
    document["binding"]["settings"] |= {"engine": "local", "workers": None}
    document["time"]["cached"] = "2026-01-01T00:00:00+00:00"
    if finding == "ok":
        document["notes"].append("Detector theirs 1, a plug-in, adds no reason for WARN: seen")
    else:
        reason = {"id": "detector_warned", "kind": "other_signal", "seen": "theirs 1: seen", "next_step": "Read it."}
        document["verdict"] |= {"verdict": "WARN", "kind": "other_signal", "reasons": [reason]}


def test_a_report_of_an_earlier_version_holds_without_what_is_gone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(place, as_earlier_versions_wrote)
    for words in (["--images", str(place / "photos")], ["--no-rerun"]):
        code, status, document = verify(place, capsys, *words)
        assert (code, set(status.values()) & {"differs"}) == (0, set()), document


def test_what_a_plug_in_warned_of_is_never_a_pass(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as it was written, nor with the verdict that the rest of the evidence gives."""
    passed = json.loads((place / "report.json").read_text(encoding="utf-8"))["verdict"]
    forge(place, lambda d: as_earlier_versions_wrote(d, "warn"))
    for verdict in ("WARN", "PASS"):
        for words in (["--images", str(place / "photos")], ["--no-rerun"]):
            code, status, document = verify(place, capsys, *words)
            assert (code, document["verdict"], status["verdict"]) == (3, verdict, "differs")
            assert any("a plug-in of an earlier version warned" in each["seen"] for each in document["findings"])
        with pytest.raises(CannotAssessError, match="a plug-in of an earlier version warned"):
            read_one(place / "report.json")
        forge(place, lambda d: d.update(verdict=passed))


def test_a_report_of_an_earlier_version_that_was_measured_on_ray_is_run_again(
    place: Path, capsys: pytest.CaptureFixture[str], passed: Report
) -> None:
    assert passed.binding is not None
    assert passed.evidence.stopped == "decided"
    job = new_job(place / "model.onnx", str(place / "photos"))
    (evidence,) = measure_all(job, passed.profile)  # every image, in shards: as a worker of Ray measures
    ran = evidence.execution.model_copy(update={"engine": "ray", "workers": 2})
    evidence = evidence.model_copy(update={"execution": ran})
    report = passed.model_copy(update={"evidence": evidence, "verdict": judge(evidence, passed.profile)})
    (place / "report.json").write_text(to_json(report), encoding="utf-8")
    forge(place, lambda d: d["binding"]["settings"].update(engine="ray", workers=2))
    code, status, document = verify(place, capsys, "--images", str(place / "photos"))
    assert (code, status["rerun"]) == (0, "agrees"), document
    assert evidence.statistics.n_images == 80
    assert any(finding["seen"].startswith("80 images measured again") for finding in document["findings"])
    forge(place, lambda d: d["evidence"]["statistics"].update(zero_share=0.5))
    code, status, document = verify(place, capsys, "--images", str(place / "photos"))
    assert (code, status["rerun"]) == (3, "differs"), document


# ---------------------------------------------------------------------------------- one byte, anywhere


def test_one_byte_of_the_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for byte in (0, 1000, -1):
        flip(place / "model.onnx", byte)
        code, status, document = verify(place, capsys, "--images", str(place / "photos"))
        assert (code, status["model"], status["rerun"]) == (3, "differs", "not checked")
        assert document["rests_on"] == "Nothing rests on these numbers: the report does not hold."
        flip(place / "model.onnx", byte)


def test_one_byte_of_the_external_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = onnx.load(place / "model.onnx")
    onnx.save(proto, place / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=1024)
    report = check(place / "model.onnx", images=place / "photos")
    (place / "report.json").write_text(to_json(report), encoding="utf-8")
    assert verify(place, capsys)[0] == 0
    forge(place, lambda d: d["evidence"]["model"].update(external_digests={}))
    assert verify(place, capsys)[1]["model"] == "differs"
    (place / "report.json").write_text(to_json(report), encoding="utf-8")
    flip(place / "weights.bin")
    code, status, document = verify(place, capsys)
    assert (code, status["model"]) == (3, "differs")
    assert any("weights.bin" in finding["seen"] for finding in document["findings"])


def test_one_byte_of_an_image(place: Path, capsys: pytest.CaptureFixture[str], passed: Report) -> None:
    assert passed.evidence.gallery is not None
    shutil.copytree(place / "photos", place / "other")
    flip(place / "other" / passed.evidence.gallery.shown[0].name)
    code, status, _ = verify(place, capsys, "--images", str(place / "other"))
    assert (code, status["images"]) == (3, "differs")


def test_a_profile_that_nobody_accepted(place: Path, passed: Report, capsys: pytest.CaptureFixture[str]) -> None:
    """One edited in the report; one of the caller's own; one of ours that is looser than the default."""
    forge(place, lambda d: d["profile"]["thresholds"]["kurtosis"].update(minimum=7.999))
    code, status, _ = verify(place, capsys)
    assert (code, status["profile"], status["report"]) == (3, "differs", "agrees")
    own = profile.seal(profile.load().model_copy(update={"min_images": 2, "id": "mine-1"}))
    (place / "mine.json").write_text(profile.to_json(own), encoding="utf-8")
    for other, name, said in (
        (own, str(place / "mine.json"), ""),
        (profile.load("default-1"), "default-1", "default-1 is looser than the default ("),
    ):
        report = passed.model_copy(update={"profile": other, "verdict": judge(passed.evidence, other)})
        (place / "report.json").write_text(to_json(sealed(report)), encoding="utf-8")
        code, status, document = verify(place, capsys)
        assert (code, status["profile"]) == (3, "differs")
        assert said in str(document["findings"])
        code, status, _ = verify(place, capsys, "--thresholds", name)
        assert (code, status["profile"]) == (0, "agrees")
    assert verify(place, capsys, "--thresholds", "default")[0] == 3


def test_what_the_report_alone_says_is_shown_as_that(
    place: Path, capsys: pytest.CaptureFixture[str], passed: Report
) -> None:
    """The address a model is said to be from is not checked; what loosened the gate is said before the result."""

    def from_elsewhere(document: dict[str, Any]) -> None:
        origin = {"address": "hf://bank/encoder", "revision": "1f", "file": "model.onnx"}
        document["evidence"]["model"]["origin"] = origin

    decided = gate.decide(passed.verdict, "model.onnx", fail_on="never", today=datetime.now(UTC).date())
    loosening = (gate.Loosening(setting="fail_on", value="never", source="robustcheck.toml"),)
    report = passed.model_copy(update={"gate": decided.model_copy(update={"loosening": loosening})})
    (place / "report.json").write_text(to_json(sealed(report)), encoding="utf-8")
    forge(place, from_elsewhere)
    _, status, document = verify(place, capsys)
    assert status["origin"] == "not checked"
    assert document["cautions"] == ["can loosen the gate: fail_on never (robustcheck.toml)"]
    cli.main(["verify", str(place / "report.json"), str(place / "model.onnx"), "--color", "never"])
    out = capsys.readouterr().out
    assert out.index("! can loosen the gate: fail_on never") < out.index("origin")


# -------------------------------------------------------------------------------------------- forgeries


@pytest.fixture
def warning(place: Path, warned: tuple[Path, Report]) -> Report:
    """The report of a model that warns, which takes the place of the one that passes."""
    shutil.copy(warned[0], place / "model.onnx")
    (place / "report.json").write_text(to_json(warned[1]), encoding="utf-8")
    return warned[1]


@pytest.mark.usefixtures("warning")
def test_a_warn_is_never_0(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, status, document = verify(place, capsys, "--images", str(place / "photos"))
    assert (code, status["rerun"], document["verdict"]) == (1, "agrees", "WARN")
    forge(place, lambda d: d["verdict"].update(verdict="PASS", reasons=[]))
    code, status, _ = verify(place, capsys)
    assert (code, status["report"], status["verdict"]) == (3, "agrees", "differs")


def test_evidence_of_a_better_model(
    place: Path, passed: Report, warning: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers of a passing model under the digest of one that warns: only a second run can tell."""
    stolen = passed.evidence.model_copy(update={"model": warning.evidence.model})
    forged = sealed(passed.model_copy(update={"evidence": stolen}))
    (place / "report.json").write_text(to_json(forged), encoding="utf-8")
    code, status, document = verify(place, capsys, "--images", str(place / "photos"))
    assert (code, status["report"], status["verdict"], status["rerun"]) == (3, "agrees", "agrees", "differs")
    assert "verdict PASS against WARN" in json.dumps(document)


def let_through(report: Report, last_day: int, fail_on: gate.FailOn = "warn") -> str:
    """The report with waivers of its reasons that end in so many days, and held on the day of the check."""
    today = datetime.now(UTC).date()
    end = today + timedelta(days=last_day)
    waivers = [gate.Waiver(reason=r.id, because="known", owner="team", expires=end) for r in report.verdict.reasons]
    file = report.evidence.model.file
    answer = gate.decide(report.verdict, file, waivers=waivers, fail_on=fail_on, today=min(end, today))
    return to_json(sealed(report.model_copy(update={"gate": answer})))


def test_a_rerun_vouches_for_no_waiver(place: Path, warning: Report, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "report.json").write_text(let_through(warning, 9), encoding="utf-8")
    photos = ("--images", warning.evidence.images.source)
    code, status, document = verify(place, capsys, *photos, "--accept-waivers")
    assert (code, status["rerun"]) == (1, "agrees")
    assert "the waivers in the report count only with a signature" in document["rule"]


def test_waivers_count_only_where_they_are_accepted(
    place: Path, warning: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "report.json").write_text(let_through(warning, 5), encoding="utf-8")
    assert verify(place, capsys)[0] == 1
    assert verify(place, capsys, "--accept-waivers")[0] == 0
    for fail_on in ("warn", "never"):
        (place / "report.json").write_text(let_through(warning, -1, fail_on), encoding="utf-8")
        assert verify(place, capsys, "--accept-waivers")[0] == 1
    forge(place, lambda d: d["gate"].update(waived=[], exit_code=1))
    code, status, _ = verify(place, capsys, "--accept-waivers")
    assert (code, status["verdict"]) == (3, "differs")  # fail_on "never" gives 0: somebody has edited the gate


# ------------------------------------------------------------------------------------------ bad documents


def test_documents_that_cannot_be_verified(place: Path) -> None:
    whole = (place / "report.json").read_text(encoding="utf-8")
    changes: tuple[tuple[Change, str], ...] = (
        (lambda d: d.update(schema_version=3), "schema_version is 3"),
        (lambda d: d.update(tool_version="99.0"), "tool_version is 99.0"),
        (lambda d: d.update(tool_version="unknown"), "tool_version is unknown"),
        (lambda d: d.update(tool="other"), "no report of robustcheck"),
        (lambda d: d.update(document="compare"), "no report of a check"),
        (lambda d: d.update(more=1), "wrong more"),
        (lambda d: d["profile"]["thresholds"].pop("kurtosis"), "lacks kurtosis"),
        (lambda d: d["binding"]["settings"].pop("seed"), r"wrong binding\.settings \(Value error, seed is missing\);"),
    )
    for change, said in changes:
        (place / "report.json").write_text(whole, encoding="utf-8")
        forge(place, change)
        with pytest.raises(UsageError, match=said):
            read(place / "report.json")


def test_files_that_are_no_reports(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (place / "report.json").read_text(encoding="utf-8")
    unbound = {key: value for key, value in json.loads(text).items() if key != "binding"}
    error = {"schema_version": 2, "tool": "robustcheck", "error": {"message": "no memory", "hint": "", "exit_code": 4}}
    for content, code, said in (
        (text[: len(text) // 2], 2, "no whole JSON"),
        ("[1]", 2, "no report"),
        (text.replace('"tool": "robustcheck",', '"tool": "robustcheck", "tool": "robustcheck",', 1), 2, "twice"),
        (text.replace('"alpha": 0.05', '"alpha": NaN'), 2, "NaN"),
        (json.dumps(unbound), 2, "no binding"),
        (json.dumps(error), 3, "no memory"),
    ):
        assert content != text
        (place / "report.json").write_text(content, encoding="utf-8")
        got, _, document = verify(place, capsys)
        assert (got, said in document["error"]["message"]) == (code, True), (said, document)
    for name in ("report.json", "model.onnx"):
        (place / "report.json").write_text(text, encoding="utf-8")
        (place / name).unlink()
        assert verify(place, capsys)[0] == 2


def test_a_rerun_needs_the_images(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, document = verify(place, capsys, "--rerun")
    assert code == 2
    assert "needs the images" in document["error"]["message"]
    assert verify(place, capsys, "--images", str(place / "photos"), "--no-rerun")[1]["rerun"] == "not checked"
    assert verify(place, capsys, "--images", str(place / "none"))[0] == 2


def test_a_document_of_several_models(
    place: Path, passed: Report, warned: tuple[Path, Report], capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Failed(model="x.onnx", message="gone", hint="", exit_code=3)
    (place / "report.json").write_text(forms.render("json", [passed, failed, warned[1]]), encoding="utf-8")
    assert len(read(place / "report.json")) == 2
    assert verify(place, capsys)[0] == 0
    shutil.copy(warned[0], place / "model.onnx")
    assert verify(place, capsys)[0] == 1
    flip(place / "model.onnx")
    code, _, document = verify(place, capsys)
    assert (code, "none of its 2 reports" in document["error"]["message"]) == (3, True)


# --------------------------------------------------------------------------------- bundled photos, tolerance


def test_the_bundled_photos_are_those_of_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lookup.write_lookup_model(tmp_path / "model.onnx", np.random.default_rng(0).normal(size=(80, 512)))
    report = check(model, preprocess="clip", max_images=60)
    (tmp_path / "report.json").write_text(to_json(report), encoding="utf-8")
    code, status, document = verify(tmp_path, capsys)
    assert (code, status["images"], status["rerun"]) == (1, "agrees", "not checked")
    assert document["unfit"].startswith("on the bundled photos, not yours; of a synthetic model: repr")
    assert verify(tmp_path, capsys, "--rerun")[1]["rerun"] == "agrees"
    forge(tmp_path, lambda d: d["evidence"]["images"].update(digest="sha256:" + "0" * 64))
    assert verify(tmp_path, capsys)[1]["images"] == "differs"


def test_what_a_second_run_may_differ_by(passed: Report) -> None:
    def with_kurtosis(factor: float) -> Report:
        s = passed.evidence.statistics
        assert s.kurtosis.estimate is not None
        moved = s.kurtosis.model_copy(update={"estimate": s.kurtosis.estimate * factor})
        evidence = passed.evidence.model_copy(update={"statistics": s.model_copy(update={"kurtosis": moved})})
        return passed.model_copy(update={"evidence": evidence})

    assert disagreements(passed, passed, 1e-4) == ()
    assert disagreements(passed, with_kurtosis(1 + 0.9e-4), 1e-4) == ()
    (said,) = disagreements(passed, with_kurtosis(1 + 1.2e-4), 1e-4)
    assert said.startswith("evidence.statistics.kurtosis.estimate 8")
    assert disagreements(passed, with_kurtosis(1 + 1.2e-4), 5e-3) == ()
