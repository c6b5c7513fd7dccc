"""Run all checks of a report for `verify`. They run in order, and the exit code follows.

The exit code is 0 only where every check that was made agrees, a rerun or a signature supports the numbers, and the
verdict is PASS.
"""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, TypedDict

from ....thresholds.records import Frozen, ReprArgs
from ...calls import public
from ...core.model.watched import file_digest
from ...core.progress import Progress, Tell, tell_stage
from ...core.verdict.gate import decide
from ...core.verdict.notes import ON_BUNDLED
from ...core.verdict.profile import load_profile
from ...core.verdict.rule import NoTruth
from ...errors import UsageError
from ...outside.isolation import NO_LIMITS, Limits, apart, is_possible
from ...outside.storage.places import local_path
from ...questions.compare.judge import CompareReport
from ...report.document import Cell, Column, Document, File, Section, Table, document_of
from ...report.reading import edits, only_one, read_bound, ruling
from ...report.shown import Shown
from ...report.words import STOPPED, cautions
from ...text import VERSION, Texts, around, name_text, quoted, short_digest
from . import checks
from .checks import KINDS, Finding, agreed, check_edits, model_digest, report_of, unchecked
from .identity import Identity, Signer, identity_of
from .second_run import AnyReport


class Verification(Shown, NoTruth, Frozen):
    """The verification of one report. It has an exit code."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    document: Literal["verification"] = "verification"
    tool_version: str
    report: str
    model: str
    verdict: Literal["PASS", "WARN"]
    """the report's own"""
    comparison: str = ""
    """of a comparison: the verdicts that it required; empty for a check"""
    reasons: Texts
    result_digest: str
    cautions: Texts = ()
    """what the report tells its reader before the verdict: what loosened the gate, photos that are not the reader's"""
    findings: tuple[Finding, ...]
    unfit: str = ""
    """why no alias moves though the PASS holds: bundled photos, a synthetic model"""
    rests_on: str
    """one sentence: what vouches for the numbers"""
    exit_code: Literal[0, 1, 3]
    rule: str
    """one sentence: what decided the exit code"""

    @property
    def result(self) -> str:
        """Return the result, such as VERIFIED or DOES NOT HOLD, with what supports the numbers."""
        if self.exit_code == 3:
            return "DOES NOT HOLD"
        if not agreed(self.findings, "rerun", "signature"):
            return "NOT VERIFIED: nothing was measured again, and no signature was checked"
        measured = agreed(self.findings, "rerun")
        how = "VERIFIED" if measured else "VERIFIED by its signature, not measured again"
        if self.comparison:
            return how if self.exit_code == 0 else f"{how}, but {STOPPED}"
        if self.verdict == "PASS":
            return how
        return f"{how}, WARN waived" if self.exit_code == 0 else f"{how}, but WARN"

    @property
    def says(self) -> str:
        """Return the report's verdict with the reasons."""
        reasons = f" ({', '.join(self.reasons)})" if self.reasons else ""
        verdict = f"that {self.comparison}" if self.comparison else self.verdict
        return f"{self.report} says {verdict}{reasons}"

    @property
    def passed(self) -> bool:
        """Return whether exit code is 0. Everything agrees then, and the report lets a release through."""
        return self.exit_code == 0

    def __repr_args__(self) -> ReprArgs:
        """Return the few fields of the record that repr, str and rich show in a line."""
        return [(name, getattr(self, name)) for name in ("result", "exit_code", "report", "model")]


AnyPath = str | Path | None


class VerifyOptions(TypedDict, total=False):
    """The keyword arguments of `verify` but `today`."""

    images: AnyPath
    reference: AnyPath
    thresholds: AnyPath
    rerun: bool | None
    device: str | None
    signature: AnyPath
    public_key: AnyPath
    certificate_identity: str | None
    certificate_oidc_issuer: str | None
    trust_config: AnyPath
    accept_waivers: bool
    elsewhere: bool
    isolate: bool
    limits: Limits
    progress: Tell | None


@public('rc.verify("report.json", "model.onnx", "photos/")')
def verify(
    report_file: str | Path,
    model: str | Path,
    images: str | Path | None = None,
    *,
    reference: str | Path | None = None,
    thresholds: str | Path | None = None,
    rerun: bool | None = None,
    device: str | None = None,
    signature: str | Path | None = None,
    public_key: str | Path | None = None,
    certificate_identity: str | None = None,
    certificate_oidc_issuer: str | None = None,
    trust_config: str | Path | None = None,
    accept_waivers: bool = False,
    elsewhere: bool = False,
    today: date | None = None,
    isolate: bool = True,
    limits: Limits = NO_LIMITS,
    progress: Callable[[Progress], None] | None = None,
) -> Verification:
    """Verify a report about a model.

    Args:
        report_file: the JSON of a check or a comparison; of a document of several models, the report about this one.
        model: the ONNX file that is to be released.
        images: where they are, the path or URL of a set; not needed for the bundled photos.
        reference: of a comparison, the reference's ONNX file, or the baseline's file; a rerun needs it.
        thresholds: the profile that is accepted; None = the packaged profile of the same id, unless it is looser than
            the default.
        rerun: measure again with the report's settings; None = where the images are at hand. Without a rerun only a
            signature that holds gives exit code 0.
        device: for the rerun; None = the one that the report's run was asked for.
        signature: the bundle that `sign` wrote; needs `public_key` or an identity.
        public_key: the key that you trust; needs `signature`.
        certificate_identity: who must have signed, in place of a key: the exact name in the certificate; needs
            `signature` and `certificate_oidc_issuer`.
        certificate_oidc_issuer: URL of the identity provider that must vouch for that name.
        trust_config: client trust config of the Sigstore instance; None = the public one, whose keys are brought up to
            date over the network, unless ROBUSTCHECK_OFFLINE forbids it.
        accept_waivers: let waivers count that are in the report and hold today; a signature must vouch for them.
        elsewhere: let a rerun agree with a report of another machine, version, or name of the image set: those are not
            compared, and numbers may differ by more (docs/verify.md). So it is with a signature that holds, or where
            `device` is not the report's. A report itself never loosens what a rerun compares.
        today: for waivers; None = the day of this machine's clock, UTC.
        isolate: read report, model and images in a child process, as in `check`.
        limits: what the child may take.
        progress: of the rerun.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: nothing can be verified. Disagreement is not an error
            but a finding.
    """
    arguments = locals()
    identity = identity_of(certificate_identity, certificate_oidc_issuer, _path(trust_config))
    signer = _signer(_path(signature), _path(public_key), identity)
    report_file = local_path(report_file, "report")
    model = local_path(model, "model")
    if isolate and is_possible(None, None if images is None else str(images)):
        sent = {name: value for name, value in arguments.items() if name not in ("isolate", "limits")}
        return apart(verify, str(model), limits)(**sent | {"report_file": report_file, "model": model})
    limits.refuse_here()
    tell_stage(progress, "reading the report and the model")
    content_digest = file_digest(report_file) if report_file.is_file() else ""
    reports = read_bound(report_file, KINDS)
    digest = model_digest(model)
    report, raw = report_of(reports, digest, model, report_file)
    assert report.binding is not None
    faults = edits(report, raw)
    accepted = load_profile(thresholds) if thresholds is not None else None
    other = None if reference is None else local_path(reference, "reference")
    if other is not None and not isinstance(report, CompareReport):
        raise UsageError(
            f"--reference is {other}; {report_file} is the report of a check, not of a comparison", "leave it out"
        )
    about_model = checks.check_model(
        report.evidence.model, model, digest
    )  # first: a model that can't be read ends the verification
    findings = [
        check_edits(
            "report", faults, f"content is what its digest says ({short_digest(report.binding.result_digest)}…)"
        ),
        checks.check_signature(report, model, content_digest, _path(signature), signer),
        about_model,
        *filter(None, [checks.check_origin(report), checks.check_reference(report, other)]),
        checks.check_profile(report, faults, accepted),
        check_edits("verdict", faults, f"its evidence, judged again, gives {ruling(report.verdict)}"),
    ]
    image_set = None if images is None else str(images)
    again = _is_repeated(report, report_file, image_set, rerun, other)
    tell_stage(progress, "comparing the images")
    findings.append(checks.check_images(report, image_set))
    if not again:
        findings.append(unchecked("rerun", "nothing was measured; --rerun measures again"))
    elif any(finding.status == "differs" for finding in findings):
        findings.append(unchecked("rerun", "not measured again, since something differs already"))
    else:
        is_other_device = device not in (None, report.binding.settings.device)
        elsewhere |= is_other_device or agreed(findings, "signature")
        findings.append(
            checks.check_rerun(report, model, image_set, device, progress, reference=other, elsewhere=elsewhere)
        )
    day = today or datetime.now(UTC).date()
    code, rule = _decide(report, findings, accept_waivers, day)
    return Verification(
        tool_version=VERSION,
        report=str(report_file),
        model=str(model),
        verdict=report.verdict.verdict,
        comparison=report.rule if isinstance(report, CompareReport) else "",
        reasons=_reasons(report),
        result_digest=report.binding.result_digest,
        cautions=tuple(cautions(report)),
        findings=tuple(findings),
        unfit=_unfit(report),
        rests_on=_rests_on(findings, signer),
        exit_code=code,
        rule=rule,
    )


def _signer(signature: Path | None, public_key: Path | None, identity: Identity | None) -> Signer | None:
    """Return the key or identity that must have signed.

    Raises UsageError: two are named, or a signature without its signer, or the other way.
    """
    if public_key is not None and identity is not None:
        raise UsageError(
            "--public-key and --certificate-identity exclude each other; a signature is by a key or by an identity",
            "leave out --public-key",
        )
    signer = public_key or identity
    if (signature is None) != (signer is None):
        raise UsageError(
            "--signature and --public-key (or --certificate-identity) belong together; a signature is checked by a key "
            "or an identity that you trust",
            "--signature report.sigstore.json --public-key key.pub",
        )
    return signer


def _path(path: AnyPath) -> Path | None:
    return None if path is None else Path(path)


def _reasons(report: AnyReport) -> Texts:
    """Return the reasons for the verdict, and those for an index verdict that is required."""
    ids = [reason.id for reason in report.verdict.reasons]
    if isinstance(report, CompareReport):
        if "indication" not in report.required:
            ids.clear()
        if "index" in report.required and report.index is not None:
            ids += (reason.id for reason in report.index.reasons)
    return tuple(ids)


def read_report(report_file: Path) -> AnyReport:
    """Read the report of a check or a comparison, which must be as it was written. Raises as `only_one`."""
    return only_one(report_file, KINDS)


def report_about(report_file: Path, model: Path, *, isolate: bool = True) -> AnyReport:
    """Read a file's report about a model. isolate: read both in a child process. Raises as `verify`."""
    if isolate:
        return apart(report_about, str(model))(report_file, model)
    return report_of(read_bound(report_file, KINDS), model_digest(model), model, report_file)[0]


def _is_repeated(
    report: AnyReport, report_file: Path, image_set: str | None, rerun: bool | None, reference: Path | None
) -> bool:
    """Return whether to measure again. Raises UsageError where that is asked for, and what it needs is not there."""
    images = report.evidence.images
    if images.given and (rerun or image_set is not None):
        raise UsageError(
            f"{report_file}: its images were {images.source}, handed over in Python; they can't be opened again, so "
            "nothing can be measured again",
            "--no-rerun, with --signature and --public-key; or check a folder or list, and verify that report",
        )
    at_hand = images.bundled or image_set is not None
    if rerun and not at_hand:
        raise UsageError(
            f"--rerun needs the images; the report is about {images.n_read} of {images.source}",
            f"--images {quoted(images.source)}",
        )
    if isinstance(report, CompareReport) and reference is None:
        if rerun:
            name = report.baseline or report.reference.evidence.model.file
            raise UsageError(
                f"--rerun needs the reference; {report_file} compares with {name}", f"--reference {quoted(name)}"
            )
        return False
    return at_hand if rerun is None else rerun


def _decide(
    report: AnyReport, findings: list[Finding], accept_waivers: bool, today: date
) -> tuple[Literal[0, 1, 3], str]:
    """Return the exit code and its rule. Code 0 needs a rerun or a signature."""
    differing = [finding.check for finding in findings if finding.status == "differs"]
    if differing:
        verb = "differs" if len(differing) == 1 else "differ"
        return 3, f"{', '.join(differing)} {verb}: the report does not hold"
    code: Literal[0, 1] = 0 if report.passed else 1
    said = f"the verdict is {ruling(report.verdict)}"
    if isinstance(report, CompareReport):
        code = report.exit_code
        said = report.rule
    rule = f"everything that was checked agrees, and {said}"
    if code == 1 and accept_waivers and report.gate is not None:
        decision = decide(report.verdict, report.evidence.model.file, waivers=report.gate.waived, today=today)
        # a rerun vouches for the numbers, not for who waived what
        if not agreed(findings, "signature"):
            rule += "; the waivers in the report count only with a signature" if report.gate.waived else ""
        elif decision.exit_code == 0:
            code = 0
            rule = f"everything that was checked agrees; {decision.rule} in the report, which --accept-waivers accepts"
    is_let_through = isinstance(report, CompareReport) and code == 0 and not report.passed
    if is_let_through and not agreed(findings, "signature"):  # a rerun vouches for numbers, not for who required what
        return 1, f"{rule}; that PASS is not required is said by the report alone: check a signature (--public-key)"
    if code == 0 and not agreed(findings, "rerun", "signature"):
        needed = "--images and --reference" if isinstance(report, CompareReport) else "--images"
        rerun_too = "" if report.evidence.images.given else f"measure again ({needed}), or "
        return 1, f"nothing but the report says that its numbers are right: {rerun_too}check a signature (--public-key)"
    return code, rule


def _unfit(report: AnyReport) -> str:
    """Return why no alias moves though the report holds. Empty where one may."""
    synthetic = around("of a synthetic model: ", report.evidence.model.synthetic)
    bundled = ON_BUNDLED if report.evidence.images.bundled else ""
    return "; ".join(filter(None, [bundled, synthetic]))


def _rests_on(findings: list[Finding], signer: Signer | None) -> str:
    status = {finding.check: finding.status for finding in findings}
    if "differs" in status.values():
        return "Nothing rests on these numbers: the report does not hold."
    parts = []
    if status["rerun"] == "agrees":
        parts.append("they were measured again")
    if status["signature"] == "agrees":
        parts.append(f"{signer.name if isinstance(signer, Identity) else 'the holder of the key'} signed them")
    if parts:
        return f"The numbers: {' and '.join(parts)}."
    return (
        "The numbers: only the report itself. They fit this model's digest, but nothing here shows that they were "
        "measured; --images or a signature would."
    )


_SIGNS = {
    "agrees": Cell("✓ agrees", "pass"),
    "differs": Cell("✗ differs", "fail"),
    "not checked": Cell("– not checked", "dim"),
}


@document_of.register(Verification)
def document_of_verification(report: Verification) -> Document:
    """Return a verification's document."""
    result = report.result
    code = report.exit_code
    rows = tuple((finding.check, _SIGNS[finding.status], finding.seen) for finding in report.findings)
    # where it does not hold, or nothing vouches for it, the rule and the last line say so
    proof = (report.rests_on,) if result.startswith("VERIFIED") else ()
    return Document(
        question="verify",
        title="Verification",
        subject="does a report hold for this model?",
        model=File(report.model),
        summary=report.says,
        sections=(
            Section(
                "Checks",
                "",
                (
                    Table(
                        (Column("check", no_wrap=True), Column("result", no_wrap=True), Column("what was seen")), rows
                    ),
                ),
                "short",
            ),
            Section("What follows", "", (*map(Cell, proof), Cell(report.rule)), "short"),
        ),
        version=report.tool_version,
        verdict={0: Cell(f"✓ {result}", "pass"), 1: Cell(f"▲ {result}", "warn"), 3: Cell(f"✗ {result}", "fail")}[code],
        exit_code=code,
        cautions=report.cautions,
        headline=f"{result}. {report.says}",
        remark=f"The numbers are in `{report.report}`.",
        line=f"{result} {name_text(report.report, ascii_only=False)}: {'; '.join((report.rule, *report.cautions))}",
    )
