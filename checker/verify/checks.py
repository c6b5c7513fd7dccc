"""The checks of `verify`, one function each: content, signature, model, profile, verdict, images, second run.

Each gives a finding: agrees, differs, or not checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.images.source import digest_of_set, open_images
from robustcheck_onnx.checker.measure import Tell
from robustcheck_onnx.checker.model import digest_of, file_digest, read_onnx
from robustcheck_onnx.checker.report import Report, ruling
from robustcheck_onnx.checker.text import quoted, short_digest
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.frozen import Frozen
from robustcheck_onnx.thresholds.profile import Profile

from . import keyless
from .bundle import SignatureError
from .differences import disagreements, tolerance_of
from .keyless import Identity
from .second_run import measure_again
from .signature import differences, key_id, signed_payload, statement

NAMED = 5  # differences that are named
ELSEWHERE = "; --elsewhere accepts that, if you know that the report was made on another machine or by other versions"
Status = Literal["agrees", "differs", "not checked"]


class Finding(Frozen):
    """One check."""

    check: Literal["report", "signature", "model", "origin", "profile", "verdict", "images", "rerun"]
    status: Status
    seen: str
    """what was compared, or why it was not"""


def has_witness(findings: Collection[Finding]) -> bool:
    """Whether anything but the report itself vouches for its numbers."""
    return agreed(findings, "rerun", "signature")


def agreed(findings: Collection[Finding], *checks: str) -> bool:
    """Whether any of these checks agrees."""
    return any(finding.check in checks and finding.status == "agrees" for finding in findings)


def _agrees(check: Any, seen: str) -> Finding:
    return Finding(check=check, status="agrees", seen=seen)


def _differs(check: Any, seen: str) -> Finding:
    return Finding(check=check, status="differs", seen=seen)


def unchecked(check: Any, seen: str) -> Finding:
    """The finding of a check that was not made; `seen` says why."""
    return Finding(check=check, status="not checked", seen=seen)


def model_digest(model: Path) -> str:
    """The digest of a model's file, as reports hold it. Raises UsageError, CannotAssessError."""
    if not model.is_file():
        raise UsageError(f"{model}: model file is missing or no file; it must be one", "ls -l MODEL.onnx")
    try:
        return file_digest(model)
    except OSError as fault:
        raise CannotAssessError(
            f"{model}: model file is not readable ({fault.strerror}); it must be a readable file",
            f"ls -l {quoted(model)}",
        ) from fault


def report_of(
    reports: list[tuple[Report, dict[str, Any]]], digest: str, model: Path, report_file: Path
) -> tuple[Report, dict[str, Any]]:
    """The report about the model with this digest; a single report whatever it is about.

    Raises UsageError: several are about it. CannotAssessError: none is.
    """
    if len(reports) == 1:
        return reports[0]
    about = [each for each in reports if each[0].evidence.model.file_digest == digest]
    if not about:
        raise CannotAssessError(
            f"{report_file}: none of its {len(reports)} reports is about {model} "
            f"({short_digest(digest)}…); one must be",
            f"robustcheck {quoted(model)} -o json=report.json",
        )
    if len(about) > 1:
        raise UsageError(
            f"{report_file}: {len(about)} of its reports are about {model}; it must be one", "write single reports"
        )
    return about[0]


def _unless_edited(part: Literal["report", "profile", "verdict"], faults: Mapping[str, str], agreement: str) -> Finding:
    return _differs(part, faults[part]) if part in faults else _agrees(part, agreement)


def check_report(report: Report, faults: Mapping[str, str]) -> Finding:
    """Check the digest of a report's content. faults: from `edits`."""
    assert report.binding is not None
    digest = short_digest(report.binding.result_digest)
    return _unless_edited("report", faults, f"content is what its digest says ({digest}…)")


def check_signature(
    report: Report, model: Path, digest: str, signature: Path | None, signer: Path | Identity | None
) -> Finding:
    """Check a signature of a report, of whose file `digest` is the sha256:…; both or none.

    It may name the model as the file is named here, or as the report names it: the digest decides.

    signer: the file of the public key that must have signed, or the identity.
    """
    if signature is None or signer is None:
        return unchecked("signature", "none was given; anyone can write a report with a right digest")
    try:
        if isinstance(signer, Path):
            payload = signed_payload(signature, signer)
        else:
            payload = keyless.signed_payload(signature, signer)
    except SignatureError as fault:
        return _differs("signature", str(fault))
    if different := min((differences(payload, statement(report, digest, name)) for name in (model, None)), key=len):
        return _differs("signature", f"{signature} is about another report: {'; '.join(different)}")
    who = f"key {key_id(signer)[:16]}…" if isinstance(signer, Path) else keyless.words_of(signer)
    return _agrees("signature", f"every byte of the report is signed by {who}")


def check_model(report: Report, model: Path, digest: str) -> Finding:
    """Check that a report is about these very files of a model. digest: from `model_digest`."""
    recorded = report.evidence.model
    if digest != recorded.file_digest:
        return _differs(
            "model",
            f"{model} has {short_digest(digest)}…, the report is about {short_digest(recorded.file_digest)}… "
            f"({recorded.file})",
        )
    file = read_onnx(model)
    external = {part.location: part.digest for part in file.external}
    for name in sorted(external.keys() | recorded.external_digests.keys()):
        if external.get(name) != recorded.external_digests.get(name):
            return _differs("model", f"weights file {name} is another one than the report is about")
    if digest_of(file) != recorded.digest:
        return _differs(
            "model",
            f"{model} with its weights has {short_digest(digest_of(file))}…, not {short_digest(recorded.digest)}…",
        )
    files = f" and {len(external)} file{'s' * (len(external) > 1)} of weights" if external else ""
    return _agrees("model", f"{model}{files}: the very bytes that were measured ({short_digest(digest)}…)")


def check_origin(report: Report) -> Finding | None:
    """The finding on where a model was fetched from, which no file can show; None where the report names nothing."""
    origin = report.evidence.model.origin
    if origin is None:
        return None
    return unchecked("origin", f"{origin.address} at {origin.revision} is what the report says; nothing here shows it")


def check_profile(report: Report, faults: Mapping[str, str], accepted: Profile | None) -> Finding:
    """Check that a report was judged by an accepted profile; None = a packaged one no looser than the default."""
    profile = report.profile
    if "profile" in faults:
        return _differs("profile", faults["profile"])
    if accepted is not None:
        if accepted.digest != profile.digest:
            return _differs(
                "profile",
                f"judged by {profile.id} ({short_digest(profile.digest)}…), not by {accepted.id} "
                f"({short_digest(accepted.digest)}…)",
            )
        return _agrees("profile", f"{profile.id}, the one that was named ({short_digest(profile.digest)}…)")
    known = {packaged.id: packaged.digest for packaged in profiles.packaged()}
    if known.get(profile.id) != profile.digest:
        return _differs("profile", f"{profile.id} is no packaged profile; name the one you accept with --thresholds")
    if looser := profiles.looser_than(profile, profiles.load()):
        return _differs(
            "profile",
            f"{profile.id} is looser than the default ({'; '.join(looser)}); --thresholds {profile.id} accepts it",
        )
    return _agrees("profile", f"{profile.id} as it ships with this robustcheck ({short_digest(profile.digest)}…)")


def check_verdict(report: Report, faults: Mapping[str, str]) -> Finding:
    """Check that a report's evidence gives its verdict."""
    return _unless_edited("verdict", faults, f"its evidence, judged anew, gives {ruling(report.verdict)}")


def check_images(report: Report, image_set: str | None, *, at_hand: bool) -> Finding:
    """Check that the images that the run read, the first ones of its seeded order, are the same. None is decoded."""
    recorded = report.evidence.images
    if recorded.given:
        return unchecked("images", f"{recorded.source}, handed over in Python, can't be opened again")
    if not at_hand:
        return unchecked("images", f"--images was not given; measured were {recorded.n_read} of {recorded.source}")
    assert report.binding is not None
    limit = report.binding.settings.max_images
    if limit is not None and limit < 1:
        return _differs("images", f"its max_images is {limit}")
    source = open_images(image_set, seed=recorded.seed, limit=limit)
    where = image_set or "the bundled photos"
    if recorded.n_skipped > len(recorded.skipped):
        return unchecked("images", f"{recorded.n_skipped} were skipped and not all are named; --rerun compares them")
    if len(source) < recorded.n_read:
        return _differs("images", f"{where}: {len(source)} images are there, {recorded.n_read} were read")
    skipped = {name for name, _ in recorded.skipped}
    names = source.entries[: recorded.n_read].names()
    digests = [source.digest(index) for index, name in enumerate(names) if name not in skipped]
    if None in digests or digest_of_set(d for d in digests if d is not None) != recorded.digest:
        return _differs("images", f"{where}: not the {recorded.n_read} images that were measured")
    return _agrees(
        "images", f"{where}: the very {len(digests)} images that were measured ({short_digest(recorded.digest)}…)"
    )


def check_rerun(
    report: Report,
    model: Path,
    image_set: str | None,
    device: str | None,
    progress: Tell | None,
    *,
    elsewhere: bool,
) -> Finding:
    """Measure again and check that the second run agrees; `elsewhere` as for `disagreements`."""
    second = measure_again(report, model, image_set, device=device, progress=progress)
    tolerance = tolerance_of(second, elsewhere=elsewhere)
    if different := disagreements(report, second, tolerance, elsewhere=elsewhere):
        more = f"; and {len(different) - NAMED} more" if len(different) > NAMED else ""
        wider = tolerance_of(second, elsewhere=True)
        hint = "" if elsewhere or disagreements(report, second, wider, elsewhere=True) else ELSEWHERE
        return _differs("rerun", f"a second run differs: {'; '.join(different[:NAMED])}{more}{hint}")
    execution = second.evidence.execution
    return _agrees(
        "rerun",
        f"{second.evidence.statistics.n_images} images measured again on {execution.providers[0]}: same verdict, same "
        f"reasons, every statistic within {tolerance:g}",
    )
