"""`robustcheck verify`: whatever changes in a report or in what it is about is seen, and nothing else is."""

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import onnx
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.model.watched import file_digest
from robustcheck_onnx.checker.core.verdict import gate
from robustcheck_onnx.checker.core.verdict.rule import judge
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.report import forms
from robustcheck_onnx.checker.report.check import Report, read, read_one
from robustcheck_onnx.checker.report.record import Failed, sealed, to_json
from robustcheck_onnx.checker.trust.verify import signature
from robustcheck_onnx.checker.trust.verify.checks import check_images
from robustcheck_onnx.checker.trust.verify.run import verify as verify_report
from robustcheck_onnx.thresholds import profile
from support import Capture, Fields, Patch, but, flip, lookup, normal, raised, read_json, read_text, robustcheck
from support.keys import changed
from support.screens import shown as shown_of


def canonical_digest(document: Fields) -> str:
    """The definition in docs/verify.md, written out."""
    content = {k: v for k, v in document.items() if k != "time"}
    content["binding"] = {k: v for k, v in content["binding"].items() if k != "result_digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def put(place: Path, report: Report | str) -> None:
    text = report if isinstance(report, str) else to_json(report)
    (place / "report.json").write_text(text, encoding="utf-8")


def forge(place: Path, **changes: Any) -> None:
    """Change the report, at keys with `__` between them, and give it a right digest, as anyone can."""
    document = read_json(place / "report.json")
    for at, value in changes.items():
        document = changed(document, at.replace("__", " "), value)
    document["binding"]["result_digest"] = canonical_digest(document)
    put(place, json.dumps(document))


Verify = Callable[..., tuple[int, dict[str, str], Fields]]


@pytest.fixture
def verify(place: Path, capsys: Capture) -> Verify:
    """Exit code, status of each check, and the document; without images it rests on the report."""

    def typed(*more: object, images: str = "") -> tuple[int, dict[str, str], Fields]:
        again = ["--images", place / images] if images else [] if "--rerun" in more else ["--no-rerun"]
        code = robustcheck("verify", place / "report.json", place / "model.onnx", "-o", "json", *again, *more)
        document = json.loads(capsys.readouterr().out)
        return code, {f["check"]: f["status"] for f in document.get("findings", [])}, document

    return typed


def test_images_are_not_compared_where_a_skipped_one_is_not_named(passed: Report, place: Path) -> None:
    """Which images make up the digest is not known then."""
    forge(place, evidence__images__n_skipped=passed.evidence.images.n_skipped + 1)
    ((other, _),) = read(place / "report.json")
    found = check_images(other, str(place / "photos"))
    assert (found.status, found.seen) == ("not checked", "1 were skipped and not all are named; --rerun compares them")


def test_a_report_that_holds(verify: Verify, passed: Report) -> None:
    agrees = dict.fromkeys(("report", "model", "profile", "verdict"), "agrees")
    code, status, document = verify()
    assert code == document["exit_code"] == 1  # --no-rerun, and no signature
    assert status == agrees | dict.fromkeys(("signature", "images", "rerun"), "not checked")
    assert "only the report itself" in document["rests_on"]
    code, status, document = verify(images="photos")
    assert (code, status) == (0, agrees | {"signature": "not checked", "images": "agrees", "rerun": "agrees"})
    assert "measured again" in document["rests_on"]
    assert document["result_digest"] == canonical_digest(json.loads(to_json(passed)))


def test_one_report_is_read_only_as_a_check_wrote_it(place: Path, passed: Report) -> None:
    file = place / "report.json"
    assert read_one(file) == passed
    forge(place, verdict__verdict="WARN")
    raised(CannotAssessError, r"was edited \(verdict: its evidence gives PASS\);", read_one, file)
    forge(place, evidence__model__scaling=json.loads('{"channels":[-4],"factor":[1.0],"offset":[0.0],"ops":[]}'))
    raised(CannotAssessError, r"its evidence can't be judged \(IndexError\)", read_one, file)
    put(place, forms.render("json", [passed, passed]))
    raised(UsageError, r"document holds 2 reports; it must hold one\n", read_one, file)


def test_the_terminal_says_what_nobody_checked_or_vouched_for(place: Path, capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # a long path of the tests is not folded
    words = ["verify", place / "report.json", place / "model.onnx"]
    unmeasured = "▲ NOT VERIFIED: nothing was measured again, and no signature was checked · exit code 1"
    alone = ("nothing but the report says that its numbers are right", unmeasured, "report.json says PASS")
    for more in ["--no-rerun"], []:
        assert robustcheck(*words, *more) == 1
        shown = " ".join(capsys.readouterr().out.split())
        assert (shown.count("– not checked"), [text for text in alone if text not in shown]) == (3, [])
    assert robustcheck(*words, "--images", place / "photos") == 0
    assert "✓ VERIFIED · exit code 0" in capsys.readouterr().out
    found = verify_report(place / "report.json", place / "model.onnx", images=place / "photos")
    signed = but(found, result="VERIFIED", rests_on="The numbers: josé signed them.")
    assert "The numbers: jos\\xe9 signed them." in shown_of(signed, ascii_only=True)  # a name is exact
    flip(place / "model.onnx")
    assert robustcheck(*words) == 3
    assert "DOES NOT HOLD" in capsys.readouterr().out


# ---------------------------------------------------------------------------------- one byte, anywhere


def test_one_byte_of_the_model_and_of_its_external_weights(place: Path, verify: Verify) -> None:
    proto = onnx.load(place / "model.onnx")
    onnx.save(proto, place / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=1024)
    put(place, check(place / "model.onnx", images=place / "photos"))
    assert verify(images="photos")[0] == 0
    for file, byte in (("weights.bin", -1), ("model.onnx", 0), ("model.onnx", 1000), ("model.onnx", -1)):
        flip(place / file, byte)
        code, status, document = verify(images="photos")
        assert (code, status["model"], status["rerun"]) == (3, "differs", "not checked")
        assert document["rests_on"] == "Nothing rests on these numbers: the report does not hold."
        assert ("weights.bin" in str(document["findings"])) == (file == "weights.bin")
        flip(place / file, byte)
    forge(place, evidence__model__external_digests={})
    assert verify()[1]["model"] == "differs"


def test_one_byte_of_an_image(place: Path, verify: Verify, passed: Report) -> None:
    assert passed.evidence.gallery is not None
    shutil.copytree(place / "photos", place / "other")
    flip(place / "other" / passed.evidence.gallery.shown[0].name)
    code, status, _ = verify(images="other")
    assert (code, status["images"]) == (3, "differs")


def test_a_profile_that_nobody_accepted(place: Path, passed: Report, verify: Verify) -> None:
    """One of the caller's own; one edited in the report."""
    own = profile.seal(but(profile.load(), min_images=2, id="mine-1"))
    (place / "mine.json").write_text(profile.to_json(own), encoding="utf-8")
    put(place, sealed(but(passed, profile=own, verdict=judge(passed.evidence, own))))
    for accepted, found in ([], (3, "differs")), (["--thresholds", place / "mine.json"], (1, "agrees")):
        code, status, _ = verify(*accepted)
        assert (code, status["profile"]) == found
    assert verify("--thresholds", "default")[0] == 3
    forge(place, profile__thresholds__strength__minimum=4)
    assert verify()[1]["profile"] == "differs"


def test_what_only_the_report_says_is_shown_so(place: Path, capsys: Capture, verify: Verify, passed: Report) -> None:
    """The address a model is said to be from is not checked; what loosened the gate is said before the result."""
    decided = gate.decide(passed.verdict, "model.onnx", fail_on="never", today=datetime.now(UTC).date())
    loosening = (gate.Loosening(setting="fail_on", value="never", source="robustcheck.toml"),)
    put(place, but(passed, gate=but(decided, loosening=loosening)))
    forge(place, evidence__model__origin={"address": "hf://bank/encoder", "revision": "1f", "file": "model.onnx"})
    assert verify()[1]["origin"] == "not checked"
    robustcheck("verify", place / "report.json", place / "model.onnx", "--color", "never")
    out = capsys.readouterr().out
    assert out.index("! can loosen the gate: fail_on never (robustcheck.toml)") < out.index("origin")


# -------------------------------------------------------------------------------------------- forgeries


@pytest.fixture
def warning(place: Path, warned: tuple[Path, Report]) -> Report:
    """The report of a model that warns, which takes the place of the one that passes."""
    shutil.copy(warned[0], place / "model.onnx")
    put(place, warned[1])
    return warned[1]


def test_a_warn_is_never_0(place: Path, verify: Verify, warning: Report) -> None:
    code, status, document = verify(images="photos")
    assert (code, status["rerun"], document["verdict"]) == (1, "agrees", "WARN")
    forge(place, verdict__verdict="PASS", verdict__reasons=[])
    code, status, _ = verify()
    assert (code, status["report"], status["verdict"]) == (3, "agrees", "differs")


def test_evidence_of_a_better_model(place: Path, passed: Report, warning: Report, verify: Verify) -> None:
    """Numbers of a passing model under the digest of one that warns: only a second run can tell."""
    forged = sealed(but(passed, evidence__model=warning.evidence.model))
    put(place, forged)
    code, status, document = verify(images="photos")
    assert (code, [name for name, value in status.items() if value == "differs"]) == (3, ["rerun"])
    assert "verdict PASS against WARN" in json.dumps(document)


def let_through(report: Report, last_day: int, fail_on: gate.FailOn = "warn") -> str:
    """The report with waivers of its reasons that end in so many days, and held on the day of the check."""
    today = datetime.now(UTC).date()
    end = today + timedelta(days=last_day)
    waivers = [gate.Waiver(reason=r.id, because="known", owner="team", expires=end) for r in report.verdict.reasons]
    file = report.evidence.model.file
    answer = gate.decide(report.verdict, file, waivers=waivers, fail_on=fail_on, today=min(end, today))
    return to_json(sealed(but(report, gate=answer)))


def test_waivers_count_only_where_they_are_accepted(
    place: Path, warning: Report, verify: Verify, capsys: Capture
) -> None:
    """And a second run vouches for none of them, so `sign`, which makes one, does not sign them."""
    put(place, let_through(warning, 5))
    words = (
        "sign",
        place / "report.json",
        place / "model.onnx",
        "--key",
        place / "key.pem",
        "--images",
        place / "photos",
    )
    assert robustcheck(*words, "-qq") == 2
    assert not (place / "report.sigstore.json").exists()
    assert verify()[0] == 1
    assert verify("--accept-waivers")[0] == 1
    code, status, document = verify("--accept-waivers", images="photos")
    assert (code, status["rerun"]) == (1, "agrees")
    assert "the waivers in the report count only with a signature" in document["rule"]
    report = read_one(place / "report.json")
    signed = signature.statement(report, file_digest(place / "report.json"), place / "model.onnx")
    (place / "report.sigstore.json").write_text(signature.sign(signed, place / "key.pem"))
    by_key = ("--public-key", place / "key.pub")
    assert [verify(*by_key)[0], verify(*by_key, "--accept-waivers")[0]] == [1, 0]
    capsys.readouterr()
    robustcheck("verify", place / "report.json", place / "model.onnx", *by_key, "--accept-waivers")
    assert "✓ VERIFIED by its signature, not measured again, WARN waived · exit code 0" in capsys.readouterr().out
    for fail_on in ("warn", "never"):
        put(place, let_through(warning, -1, fail_on))
        assert verify("--accept-waivers")[0] == 1
    forge(place, gate__waived=[], gate__exit_code=1)
    code, status, _ = verify("--accept-waivers")
    assert (code, status["verdict"]) == (3, "differs")  # fail_on "never" gives 0: somebody has edited the gate


# ------------------------------------------------------------------------------------------ bad documents


def test_documents_that_cannot_be_verified(place: Path) -> None:
    whole = read_json(place / "report.json")
    settings = {name: value for name, value in whole["binding"]["settings"].items() if name != "seed"}
    for at, value, said in (
        ("schema_version", 3, "schema_version is 3"), ("tool_version", "99.0", "tool_version is 99.0"),
        ("tool_version", "unknown", "tool_version is unknown"), ("tool", "other", "not a report of robustcheck"),
        ("document", "compare", "not a report of a check"), ("more", 1, "wrong more"), ("binding", None, "no binding"),
        ("profile thresholds", {}, "its profile: thresholds are of nothing"),
        ("binding settings", settings, r"wrong binding\.settings \(Value error, seed is missing\);"),
    ):  # fmt: skip
        document = changed(whole, at, value)
        if value is not None:
            document["binding"]["result_digest"] = canonical_digest(document)
        put(place, json.dumps(document))
        raised(UsageError, said, read, place / "report.json")


def test_files_that_are_no_reports(place: Path, verify: Verify) -> None:
    text = read_text(place / "report.json")
    error = {"schema_version": 2, "tool": "robustcheck", "error": {"message": "no memory", "hint": "", "exit_code": 4}}
    for content, code, said in (
        (text[: len(text) // 2], 2, "not a whole JSON"),
        ("[1]", 2, "not a report"),
        (text.replace('"tool": "robustcheck",', '"tool": "robustcheck", "tool": "robustcheck",', 1), 2, "2 times"),
        (text.replace('"alpha": 0.05', '"alpha": NaN'), 2, "NaN"),
        (json.dumps(error), 3, "no memory"),
    ):
        put(place, content)
        got, _, document = verify()
        assert (got, said in document["error"]["message"]) == (code, True), (said, document)
    for name in ("report.json", "model.onnx"):
        (place / name).unlink()
        assert verify()[0] == 2
        put(place, text)


def test_a_rerun_needs_the_images(verify: Verify) -> None:
    code, _, document = verify("--rerun")
    assert (code, "needs the images" in document["error"]["message"]) == (2, True)
    assert verify("--no-rerun", images="photos")[1]["rerun"] == "not checked"
    assert verify(images="none")[0] == 2


def test_a_document_of_several_models(place: Path, passed: Report, warned: tuple[Path, Report], verify: Verify) -> None:
    failed = Failed(model="x.onnx", message="gone", hint="", exit_code=3)
    put(place, forms.render("json", [passed, failed, warned[1]]))
    assert verify(images="photos")[0] == 0
    shutil.copy(warned[0], place / "model.onnx")
    assert verify()[0] == 1
    flip(place / "model.onnx")
    code, _, document = verify()
    assert (code, "none of its 2 reports" in document["error"]["message"]) == (3, True)


# -------------------------------------------------------------------------------------------- bundled photos


def test_the_bundled_photos_are_those_of_the_package(place: Path, verify: Verify) -> None:
    report = check(lookup.write_lookup_model(place / "model.onnx", normal(80, 512)), preprocess="clip", max_images=60)
    put(place, report)
    code, status, document = verify()
    assert (code, status["images"], status["rerun"]) == (1, "agrees", "not checked")
    assert document["unfit"].startswith("on the bundled photos, not yours; of a synthetic model: repr")
    _, status, document = verify("--rerun")
    assert status["rerun"] == "agrees"
    assert document["findings"][-1]["seen"].endswith(
        "with max_images 60, the preprocessing of its evidence instead of the model's own"
    )
    forge(place, evidence__images__digest="sha256:" + "0" * 64)
    assert verify()[1]["images"] == "differs"
