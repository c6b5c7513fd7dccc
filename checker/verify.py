"""Does a report still hold? Its own content, the model, the profile, the images, its verdict, and a second run.

Every check gives a finding: it agrees, it does not, or it was not made; "not checked" is never "agrees". Only a report
of which everything that was checked agrees, and whose verdict is PASS, ends with exit code 0.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from robustcheck_onnx.checker import attestation, gate, images, onnx_file, pipeline, signing
from robustcheck_onnx.checker.agreement import disagreements, ruling, tolerance_between, words
from robustcheck_onnx.checker.binding import result_digest_of
from robustcheck_onnx.checker.digests import digest_of_set
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.graph import digest_of
from robustcheck_onnx.checker.pipeline import Progress
from robustcheck_onnx.checker.report import Report
from robustcheck_onnx.checker.report_reader import read
from robustcheck_onnx.checker.rerun import measure_again
from robustcheck_onnx.checker.verdict import judge
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.frozen import Frozen
from robustcheck_onnx.thresholds.profile import Profile

Status = Literal["agrees", "differs", "not checked"]


class Finding(Frozen):
    """One check."""

    check: Literal["report", "signature", "model", "profile", "verdict", "images", "rerun"]
    status: Status
    seen: str
    """what was compared, or why it was not"""


class Verification(Frozen):
    """What was verified about one report, and what follows."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    document: Literal["verification"] = "verification"
    tool_version: str
    report: str
    model: str
    verdict: Literal["PASS", "WARN"]
    """the report's own"""
    reasons: tuple[str, ...]
    result_digest: str
    findings: tuple[Finding, ...]
    rests_on: str
    """one sentence: what vouches for the numbers"""
    exit_code: Literal[0, 1, 3]
    rule: str
    """one sentence: what decided the exit code"""


# -------------------------------------------------------------------------------------------------- checks


def verify(
    report_file: Path,
    model: Path,
    *,
    image_set: str | None = None,
    thresholds: Path | None = None,
    rerun: bool | None = None,
    device: str | None = None,
    signature: Path | None = None,
    public_key: Path | None = None,
    accept_waivers: bool = False,
    detectors: Collection[str] = (),
    today: date,
    progress: Callable[[Progress], None] | None = None,
) -> Verification:
    """Verify a report about a model.

    Args:
        report_file: a check's JSON; of a document of several models, the report about this one.
        model: the ONNX file that is to be released.
        image_set: where the images are, as `--images` of a check; not needed for the bundled photos.
        thresholds: the profile that is accepted; None = the packaged profile of the same id.
        rerun: measure again with the report's settings; None = where the images are at hand, and then a PASS needs
            that rerun or a signature as its witness; False = rest on the report alone.
        device: for the rerun; None = the one that the report's run was asked for.
        signature, public_key: bundle and key, both or none.
        accept_waivers: let waivers count that stand in the report and hold today; a signature must vouch for them, or
            `rerun` be False.
        detectors: those of the report that a rerun may load.
        today: for waivers.
        progress: of the rerun.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: nothing can be verified. What does not agree is no error
            but a finding.
    """
    if (signature is None) != (public_key is None):
        raise UsageError(
            "--signature and --public-key belong together; a signature is checked by a key that you trust",
            "--signature report.sigstore.json --public-key key.pub",
        )
    content_digest = onnx_file.file_digest(report_file) if report_file.is_file() else ""
    found = read(report_file)
    model_digest = _model_digest(model)
    report, raw = _about(found, model_digest, model, report_file)
    accepted = pipeline.load_profile(thresholds) if thresholds is not None else None
    same_model = _check_model(report, model, model_digest)
    findings = [
        _check_report(report, raw),
        _check_signature(report, content_digest, signature, public_key),
        same_model,
        _check_profile(report, accepted),
        _check_verdict(report),
    ]
    at_hand = report.evidence.images.bundled or image_set is not None
    again = at_hand if rerun is None else rerun
    if again and not at_hand:
        raise UsageError(
            f"--rerun needs the images; the report is about {report.evidence.images.n_read} of "
            f"{report.evidence.images.source}",
            f"--images {shlex.quote(report.evidence.images.source)}",
        )
    findings.append(_check_images(report, image_set, at_hand=at_hand))
    if not again:
        findings.append(_unchecked("rerun", "nothing was measured; --rerun measures again"))
    elif any(finding.status == "differs" for finding in findings):
        findings.append(_unchecked("rerun", "not worth it: something differs already"))
    else:
        findings.append(_check_rerun(report, model, image_set, device, detectors, progress))
    # a rerun vouches for the numbers, not for who waived what
    waivers_hold = accept_waivers and (rerun is False or _agreed(findings, "signature"))
    code, rule = _decide(report, findings, accept_waivers=waivers_hold, today=today)
    if code == 1 and accept_waivers and not waivers_hold and report.gate is not None and report.gate.waived:
        rule += "; only a signature vouches for the waivers in the report"
    if code == 0 and rerun is None and not _has_witness(findings):
        code = 1
        rule = "the report alone vouches for its numbers; --images or --public-key, or --no-rerun to rest on it"
    assert report.binding is not None
    return Verification(
        tool_version=version("robustcheck-onnx"),
        report=str(report_file),
        model=str(model),
        verdict=report.verdict.verdict,
        reasons=tuple(reason.id for reason in report.verdict.reasons),
        result_digest=report.binding.result_digest,
        findings=tuple(findings),
        rests_on=_rests_on(findings),
        exit_code=code,
        rule=rule,
    )


def _has_witness(findings: Collection[Finding]) -> bool:
    """Whether anything but the report itself vouches for its numbers."""
    return _agreed(findings, "rerun", "signature")


def _agreed(findings: Collection[Finding], *checks: str) -> bool:
    return any(finding.check in checks and finding.status == "agrees" for finding in findings)


def report_about(report_file: Path, model: Path) -> Report:
    """The report about a model that a file holds. Raises as `verify`."""
    return _about(read(report_file), _model_digest(model), model, report_file)[0]


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
        return onnx_file.file_digest(model)
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
            f"{report_file}: none of its {len(found)} reports is about {model} ({digest[:19]}…); one must be",
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
        return _differs("report", f"content has {digest[:19]}…, the report says {report.binding.result_digest[:19]}…")
    named = report.binding.versions.get("robustcheck")
    if named != report.tool_version:
        return _differs("report", f"tool_version is {report.tool_version}, its binding says {named}")
    return _agrees("report", f"content is what its digest says ({digest[:19]}…)")


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
            "model", f"{model} has {digest[:19]}…, the report is about {recorded.file_digest[:19]}… ({recorded.file})"
        )
    file = onnx_file.read_onnx(model)
    external = {part.location: part.digest for part in file.external}
    for name in sorted(external.keys() | recorded.external_digests.keys()):
        if external.get(name) != recorded.external_digests.get(name):
            return _differs("model", f"weights file {name} is another one than the report is about")
    if digest_of(file) != recorded.digest:
        return _differs("model", f"{model} with its weights has {digest_of(file)[:19]}…, not {recorded.digest[:19]}…")
    files = f" and {len(external)} file{'s' * (len(external) > 1)} of weights" if external else ""
    return _agrees("model", f"{model}{files}: the very bytes that were measured ({digest[:19]}…)")


def _check_profile(report: Report, accepted: Profile | None) -> Finding:
    profile = report.profile
    if profiles.digest_of(profile) != profile.digest or profile.digest != report.verdict.profile_digest:
        return _differs("profile", f"{profile.id} was changed after it was sealed")
    if accepted is not None:
        if accepted.digest != profile.digest:
            return _differs(
                "profile",
                f"judged by {profile.id} ({profile.digest[:19]}…), not by {accepted.id} ({accepted.digest[:19]}…)",
            )
        return _agrees("profile", f"{profile.id}, the one that was named ({profile.digest[:19]}…)")
    known = {packaged.id: packaged.digest for packaged in profiles.packaged()}
    if known.get(profile.id) != profile.digest:
        return _differs("profile", f"{profile.id} is no packaged profile; name the one you accept with --thresholds")
    return _agrees("profile", f"{profile.id} as it ships with this robustcheck ({profile.digest[:19]}…)")


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
    source = images.open_images(image_set, seed=recorded.seed, limit=limit)
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
    return _agrees("images", f"{where}: the very {len(digests)} images that were measured ({recorded.digest[:19]}…)")


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


# ------------------------------------------------------------------------------------------------ what follows


def _decide(
    report: Report, findings: list[Finding], *, accept_waivers: bool, today: date
) -> tuple[Literal[0, 1, 3], str]:
    differing = [finding.check for finding in findings if finding.status == "differs"]
    if differing:
        return 3, f"{', '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}: the report does not hold"
    if report.verdict.verdict == "PASS":
        return 0, "everything that was checked agrees, and the verdict is PASS"
    if accept_waivers and report.gate is not None:
        held = gate.decide(report.verdict, report.evidence.model.file, waivers=report.gate.waived, today=today)
        if held.exit_code == 0:
            return 0, f"everything that was checked agrees; {held.rule} in the report, which --accept-waivers accepts"
    return 1, f"everything that was checked agrees, and the verdict is {words(*ruling(report))}"


def _rests_on(findings: list[Finding]) -> str:
    status = {finding.check: finding.status for finding in findings}
    if "differs" in status.values():
        return "Nothing rests on these numbers: the report does not hold."
    parts = []
    if status["rerun"] == "agrees":
        parts.append("they were measured again")
    if status["signature"] == "agrees":
        parts.append("the holder of the key signed them")
    if parts:
        return f"The numbers: {' and '.join(parts)}."
    return (
        "The numbers: only the report itself. They fit this model's digest, but nothing here shows that they were "
        "measured; --images with --rerun or a signature would."
    )
