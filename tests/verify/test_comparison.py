"""`robustcheck verify` and `sign` on a comparison: both verdicts travel, and nothing that was changed holds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx import IndexOptions, check, compare
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.questions.compare.judge import CompareReport
from robustcheck_onnx.checker.report.record import result_digest_of, to_json
from robustcheck_onnx.checker.trust.verify.run import Verification, verify
from support import Capture, Place, flip, lookup, normal, raised, read_json, robustcheck
from support.comparisons import planted, rotation
from support.keys import changed, write_keys


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, lookup_pass: Place) -> Path:
    """A folder with new.onnx, which is old.onnx rotated, photos, their comparison, and keys."""
    folder = tmp_path_factory.mktemp("compared")
    lookup.write_lookup_model(folder / "old.onnx", planted())
    lookup.write_lookup_model(folder / "new.onnx", planted() @ rotation(384))
    lookup.write_lookup_model(folder / "same.onnx", planted())
    (folder / "photos").symlink_to(lookup_pass[1])
    write_keys(folder)
    return folder


@pytest.fixture(scope="module")
def compared(made: Path) -> CompareReport:
    return compare(
        made / "same.onnx", made / "old.onnx", made / "photos", require=["index", "indication"], device="cpu"
    )


@pytest.fixture
def place(made: Path, compared: CompareReport) -> Iterator[Path]:
    (made / "c.json").write_text(compared.to_json())
    yield made
    (made / "c.sigstore.json").unlink(missing_ok=True)


def verified(place: Path, model: str = "same.onnx", **options: Any) -> tuple[Verification, dict[str, str]]:
    found = verify(place / "c.json", place / model, isolate=False, **options)
    return found, {finding.check: finding.status for finding in found.findings}


def again(place: Path, **options: Any) -> tuple[Verification, dict[str, str]]:
    return verified(place, images=place / "photos", **{"reference": place / "old.onnx"} | options)


def test_a_comparison_with_a_preprocessing_file_holds_without_that_file(place: Path, compared: CompareReport) -> None:
    stated = place / "p.json"
    stated.write_text(compared.reference.evidence.preprocessing.preprocessing.model_dump_json())
    files = place / "same.onnx", place / "old.onnx", place / "photos"
    (place / "c.json").write_text(compare(*files, preprocess=str(stated), device="cpu").to_json())
    stated.unlink()
    found, status = again(place)
    assert (found.exit_code, status["rerun"]) == (0, "agrees")


def test_a_comparison_holds_where_both_files_and_the_photos_give_it_again(place: Path) -> None:
    found, status = again(place)
    agree = ("report", "model", "reference", "profile", "verdict", "images", "rerun")
    assert status == dict.fromkeys(agree, "agrees") | {"signature": "not checked"}
    words = "the index verdict is compatible and the verdict is PASS"
    assert (found.exit_code, found.result, found.comparison) == (0, "VERIFIED", words)
    assert found.says == f"{place / 'c.json'} says that {words}"
    assert again(place, elsewhere=True)[0].exit_code == 0
    alone, status = verified(place, images=place / "photos")
    assert (alone.exit_code, status["reference"], status["rerun"]) == (1, "not checked", "not checked")
    assert "measure again (--images and --reference)" in alone.rule


@pytest.mark.parametrize("option", ["file", "text"])
def test_an_index_or_text_vectors_that_were_replaced_are_seen_on_other_machines_too(place: Path, option: str) -> None:
    index = place / "index.npy"
    rows = np.concatenate([planted(), normal(50, 384, seed=5)])
    np.save(index, rows)
    vectors = IndexOptions.model_validate({option: index})
    options: Any = {"index": vectors, "require": ["index", "indication"], "device": "cpu"}
    report = compare(place / "same.onnx", place / "old.onnx", place / "photos", **options)
    (place / "c.json").write_text(report.to_json())
    assert again(place)[1]["rerun"] == "agrees"
    np.save(index, np.concatenate([planted(), rows[:79:-1]]))  # the same vectors in another order
    for elsewhere in (False, True):
        found, status = again(place, elsewhere=elsewhere)
        assert (found.exit_code, status["rerun"]) == (3, "differs")


def test_only_a_signature_vouches_for_a_pass_that_is_not_required(place: Path) -> None:
    lookup.write_lookup_model(place / "weak.onnx", normal(80, 384, seed=3))
    report = compare(place / "weak.onnx", place / "weak.onnx", place / "photos", require=["index"], device="cpu")
    assert report.exit_code == 0
    (place / "c.json").write_text(report.to_json())
    found, status = again(place, model="weak.onnx", reference=place / "weak.onnx")
    assert (found.exit_code, status["rerun"]) == (1, "agrees")
    assert "that PASS is not required is said by the report alone: check a signature" in found.rule
    assert found.reasons == ()


def test_the_required_verdict_decides_the_exit_code(place: Path) -> None:
    photos = place / "photos"
    for require, code, result in (
        ("index", 1, "VERIFIED, but STOPPED"),
        ("indication", 1, "VERIFIED, but STOPPED"),
    ):
        report = compare(place / "new.onnx", place / "old.onnx", photos, require=[require], device="cpu")  # type: ignore[list-item]
        (place / "c.json").write_text(report.to_json())
        found, _ = verified(place, "new.onnx", images=photos, reference=place / "old.onnx")
        assert (found.exit_code, found.result) == (code, result)
        assert ("cosine" in str(found.reasons)) == (require == "index")


def test_an_untested_index_that_was_accepted_is_shown_by_verify_in_one_line_too(place: Path, capsys: Capture) -> None:
    np.save(place / "others.npy", normal(50, 384, seed=5))
    index = IndexOptions(file=place / "others.npy", accept_untested=True, metric="cosine")
    models = place / "same.onnx", place / "old.onnx"
    report = compare(*models, place / "photos", index=index, require=["index"], device="cpu")
    (place / "c.json").write_text(report.to_json())
    call = ["verify", place / "c.json", models[0], "--reference", models[1], "--images", place / "photos", "-q"]
    robustcheck(*call)
    assert "; the comparison allows an untested index" in " ".join(capsys.readouterr().out.split())


def test_a_report_on_vectors_alone_is_no_earlier_versions_but_cannot_be_verified(place: Path) -> None:
    np.save(place / "own.npy", planted())
    report = compare(place / "same.onnx", None, place / "photos", index=IndexOptions(file=place / "own.npy"))
    (place / "c.json").write_text(to_json(report))
    said = "c.json: document is vectors, not a report of a check or a comparison"
    raised(UsageError, said, verified, place)


def test_a_baseline_is_verified_by_its_file(place: Path) -> None:
    file = place / "baseline.npz"
    compare(place / "old.onnx", images=place / "photos", write_baseline=file, device="cpu")
    report = compare(place / "same.onnx", None, place / "photos", baseline=file, tolerance=0.5, device="cpu")
    (place / "c.json").write_text(report.to_json())
    found, status = again(place, reference=file)
    assert (found.exit_code, status["reference"], status["rerun"]) == (0, "agrees", "agrees")
    assert "the comparison allows tolerance 0.5" in found.cautions
    assert again(place)[1]["reference"] == "differs"


@pytest.mark.parametrize(
    ("at", "value", "check"),
    [
        ("verdict verdict", "WARN", "verdict"),
        ("index verdict", "re-embed", "verdict"),
        ("gate exit_code", 1, "verdict"),
        ("reference evidence statistics strength low", 1e9, "rerun"),
        ("n_images", 81, "rerun"),
        ("similarity cka", 0.5, "rerun"),
        ("candidate evidence model file_digest", f"sha256:{'0' * 64}", "model"),
        ("reference evidence model file_digest", f"sha256:{'0' * 64}", "reference"),
        ("profile id", "mine", "profile"),
        ("candidate evidence images digest", f"sha256:{'0' * 64}", "images"),
    ],
)
def test_a_changed_comparison_does_not_hold(place: Path, at: str, value: Any, check: str) -> None:
    document = changed(read_json(place / "c.json"), at, value)
    (place / "c.json").write_text(json.dumps(document))
    assert again(place)[1]["report"] == "differs"
    document["binding"]["result_digest"] = result_digest_of(document)  # as anyone can
    (place / "c.json").write_text(json.dumps(document))
    found, status = again(place)
    assert (found.exit_code, status[check]) == (3, "differs")


def test_a_signed_comparison_needs_neither_photos_nor_reference(place: Path, capsys: Capture) -> None:
    report, model = place / "c.json", place / "same.onnx"
    sign = ["sign", report, model, "--key", place / "key.pem"]
    assert robustcheck(*sign, "--images", place / "photos") == 1  # nothing was measured again
    assert not (place / "c.sigstore.json").exists()
    assert robustcheck(*sign, "--images", place / "photos", "--reference", place / "old.onnx") == 0
    said = "the index verdict is compatible and the verdict is PASS attested for"
    assert said in " ".join(capsys.readouterr().out.split())
    assert robustcheck("verify", report, model, "--public-key", place / "key.pub") == 0
    assert "VERIFIED by its signature, not measured again" in capsys.readouterr().out
    flip(report, -3)
    assert robustcheck("verify", report, model, "--public-key", place / "key.pub") in (2, 3)


def test_what_a_comparison_can_not_be_verified_with_is_an_error(place: Path, compared: CompareReport) -> None:
    raised(
        UsageError,
        "--rerun needs the reference; .* compares with .*old.onnx",
        verified,
        place,
        rerun=True,
        images=place / "photos",
    )
    old = json.loads(compared.to_json())
    del old["binding"]
    (place / "c.json").write_text(json.dumps(old))
    raised(UsageError, "report has no binding", verified, place)
    (place / "c.json").write_text(check(place / "old.onnx", place / "photos").to_json())
    said = "--reference is .*old.onnx; .*c.json is the report of a check"
    raised(UsageError, said, verified, place, "old.onnx", reference=place / "old.onnx")
