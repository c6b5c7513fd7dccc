"""The checks of `verify`, one function each: content, signature, model, profile, verdict, images, second run.

Every check gives a finding: it agrees, it does not, or it was not made; "not checked" is never "agrees"."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.images import digest_of_set, open_images
from robustcheck_onnx.checker.measure import Progress
from robustcheck_onnx.checker.model import digest_of, file_digest, read_onnx
from robustcheck_onnx.checker.report import Report, result_digest_of
from robustcheck_onnx.checker.text import short_digest
from robustcheck_onnx.checker.verdict import judge
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.frozen import Frozen
from robustcheck_onnx.thresholds.profile import Profile

from . import signature as attestation
from . import signature as signing
from .second_run import disagreements, measure_again, ruling, tolerance_between, words

Status = Literal["agrees", "differs", "not checked"]


class Finding(Frozen):
    """One check."""

    check: Literal["report", "signature", "model", "profile", "verdict", "images", "rerun"]
    status: Status
    seen: str
    """what was compared, or why it was not"""


def _has_witness(findings: Collection[Finding]) -> bool:
    """Whether anything but the report itself vouches for its numbers."""
    return _agreed(findings, "rerun", "signature")


def _agreed(findings: Collection[Finding], *checks: str) -> bool:
    return any(finding.check in checks and finding.status == "agrees" for finding in findings)


def own_faults(report: Report, raw: dict[str, Any]) -> tuple[str, ...]:
    """What shows by itself that a report is not as a check wrote it, in words; empty if nothing does.

    Its digest, its profile's seal, and the verdict that its evidence gives: no model, no image, no profile of ours.

    Args:
        report, raw: from `report_reader.read`.
    """
    found = (_check_report(report, raw), _check_profile(report, report.profile), _check_verdict(report))
    return tuple(f"{finding.check}: {finding.seen}" for finding in found if finding.status == "differs")


def _agrees(check: Any, seen: str) -> Finding:
    return Finding(check=check, status="agrees", seen=seen)


def _differs(check: Any, seen: str) -> Finding:
    return Finding(check=check, status="differs", seen=seen)


def _unchecked(check: Any, seen: str) -> Finding:
    return Finding(check=check, status="not checked", seen=seen)


def _model_digest(model: Path) -> str:
    if not model.is_file():
        raise UsageError(f"{model}: model file is missing or no file; it must be one", "ls -l MODEL.onnx")
    try:
        return file_digest(model)
    except OSError as fault:
        raise CannotAssessError(
            f"{model}: model file is not readable ({fault.strerror}); it must be a readable file",
            f"ls -l {shlex.quote(str(model))}",
        ) from fault


def _about(
    found: list[tuple[Report, dict[str, Any]]], digest: str, model: Path, report_file: Path
) -> tuple[Report, dict[str, Any]]:
    """The report about this model; of a single report that one, whatever it is about."""
    if len(found) == 1:
        return found[0]
    about = [each for each in found if each[0].evidence.model.file_digest == digest]
    if not about:
        raise CannotAssessError(
            f"{report_file}: none of its {len(found)} reports is about {model} ({short_digest(digest)}…); one must be",
            f"robustcheck {shlex.quote(str(model))} -o json=report.json",
        )
    if len(about) > 1:
        raise UsageError(
            f"{report_file}: {len(about)} of its reports are about {model}; it must be one", "write single reports"
        )
    return about[0]


def _check_report(report: Report, raw: dict[str, Any]) -> Finding:
    assert report.binding is not None
    digest = result_digest_of(raw)
    if digest != report.binding.result_digest:
        return _differs(
            "report",
            f"content has {short_digest(digest)}…, the report says {short_digest(report.binding.result_digest)}…",
        )
    named = report.binding.versions.get("robustcheck")
    if named != report.tool_version:
        return _differs("report", f"tool_version is {report.tool_version}, its binding says {named}")
    return _agrees("report", f"content is what its digest says ({short_digest(digest)}…)")


def _check_signature(report: Report, digest: str, signature: Path | None, public_key: Path | None) -> Finding:
    if signature is None or public_key is None:
        return _unchecked("signature", "none was given; anyone can write a report with a right digest")
    try:
        payload = signing.signed_payload(signature, public_key)
    except signing.SignatureError as fault:
        return _differs("signature", str(fault))
    if said := attestation.differences(payload, attestation.statement(report, digest)):
        return _differs("signature", f"{signature} is about another report: {'; '.join(said)}")
    return _agrees("signature", f"every byte of the report is signed by key {signing.key_id(public_key)[:16]}…")


def _check_model(report: Report, model: Path, digest: str) -> Finding:
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


def _check_profile(report: Report, accepted: Profile | None) -> Finding:
    profile = report.profile
    if profiles.digest_of(profile) != profile.digest or profile.digest != report.verdict.profile_digest:
        return _differs("profile", f"{profile.id} was changed after it was sealed")
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
    return _agrees("profile", f"{profile.id} as it ships with this robustcheck ({short_digest(profile.digest)}…)")


def _check_verdict(report: Report) -> Finding:
    """Judge the evidence anew; an older robustcheck may have had other words for the same reasons."""
    try:
        verdict = judge(report.evidence, report.profile)
    except (KeyError, TypeError, ValueError, ArithmeticError) as fault:
        return _differs("verdict", f"its evidence can't be judged ({type(fault).__name__})")
    same_tool = report.tool_version == version("robustcheck-onnx")
    ids = [reason.id for reason in verdict.reasons]
    if (same_tool and verdict != report.verdict) or (verdict.verdict, ids) != ruling(report):
        return _differs("verdict", f"its evidence gives {words(verdict.verdict, ids)}")
    return _agrees("verdict", f"its evidence, judged anew, gives {words(verdict.verdict, ids)}")


def _check_images(report: Report, image_set: str | None, *, at_hand: bool) -> Finding:
    """Compare the images that the run read: the first ones of its seeded order. Reads files, decodes none."""
    recorded = report.evidence.images
    if not at_hand:
        return _unchecked("images", f"--images was not given; measured were {recorded.n_read} of {recorded.source}")
    assert report.binding is not None
    limit = report.binding.settings.max_images
    if limit is not None and limit < 1:
        return _differs("images", f"its max_images is {limit}")
    source = open_images(image_set, seed=recorded.seed, limit=limit)
    where = image_set or "the bundled photos"
    if recorded.n_skipped > len(recorded.skipped):
        return _unchecked("images", f"{recorded.n_skipped} were skipped and not all are named; --rerun compares them")
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


# --------------------------------------------------------------------------------------------------- rerun


def _check_rerun(
    report: Report,
    model: Path,
    image_set: str | None,
    device: str | None,
    detectors: Collection[str],
    progress: Callable[[Progress], None] | None,
) -> Finding:
    named = [detector.name for detector in report.evidence.detectors]
    if unasked := sorted(set(named) - set(detectors)):  # a document must not choose which code runs here
        raise UsageError(
            f"report names detectors {', '.join(unasked)}; a rerun runs other packages' code only if it is asked for",
            " ".join(f"--detector {shlex.quote(name)}" for name in unasked),
        )
    second = measure_again(report, model, image_set, device=device, detectors=named, progress=progress)
    tolerance = tolerance_between(report.evidence, second.evidence)
    if said := disagreements(report, second, tolerance):
        return _differs("rerun", f"a second run differs: {'; '.join(said[:5])}")
    ran = second.evidence.execution
    return _agrees(
        "rerun",
        f"{second.evidence.statistics.n_images} images measured again on {ran.providers[0]}: same verdict, same "
        f"reasons, every statistic within {tolerance:g}",
    )
