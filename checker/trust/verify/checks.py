"""Check a report, one function per check.

The checks are content, signature, model, profile, verdict, images, second run.

Each gives a finding: agrees, differs, or not checked.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from ....thresholds import profile as profiles
from ....thresholds.profile import Profile
from ....thresholds.records import Frozen
from ...core.evidence import ModelFacts
from ...core.images.source import digest_of_set
from ...core.model.file import read_onnx
from ...core.model.watched import file_digest
from ...core.options import Options
from ...core.progress import Tell
from ...errors import CannotAssessError, UsageError
from ...outside.image_sets.open import open_images
from ...questions.compare.judge import CompareReport
from ...report.check import Report
from ...text import Fields, around, count_text, quoted, short_digest
from .identity import Signer, signed_by_identity, words_of
from .second_run import AnyReport, disagreements, measure_again, tolerance_of
from .signature import SignatureError, differences, signed_payload, statement

KINDS: dict[str, type[AnyReport]] = {"": Report, "compare": CompareReport}
"""what is verified, by the field `document`"""


NAMED = 5  # differences that are named
ELSEWHERE = "; --elsewhere accepts that, if you know that the report was made on another machine or by other versions"
Status = Literal["agrees", "differs", "not checked"]


class Finding(Frozen):
    """The finding of one check."""

    check: Literal["report", "signature", "model", "origin", "reference", "profile", "verdict", "images", "rerun"]
    status: Status
    seen: str
    """what was compared, or why it was not"""


def agreed(findings: Collection[Finding], *checks: str) -> bool:
    """Return whether any of these checks agrees."""
    return any(finding.check in checks and finding.status == "agrees" for finding in findings)


def _agrees(check: Any, seen: str) -> Finding:
    return Finding(check=check, status="agrees", seen=seen)


def _differs(check: Any, seen: str) -> Finding:
    return Finding(check=check, status="differs", seen=seen)


def unchecked(check: Any, seen: str) -> Finding:
    """Return the finding of an omitted check. `seen` is the reason."""
    return Finding(check=check, status="not checked", seen=seen)


def model_digest(model: Path) -> str:
    """Return the digest of a model's file. Reports have the same. Raises UsageError, CannotAssessError."""
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
    reports: list[tuple[AnyReport, Fields]], digest: str, model: Path, report_file: Path
) -> tuple[AnyReport, Fields]:
    """Return the report about the model with this digest. A single report is returned whatever it is about.

    Raises UsageError: several are about it. CannotAssessError: none is.
    """
    if len(reports) == 1:
        return reports[0]
    about = [pair for pair in reports if pair[0].evidence.model.file_digest == digest]
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


def check_edits(part: Literal["report", "verdict"], faults: Mapping[str, str], agreement: str) -> Finding:
    """Check that nobody has edited a part of a report. faults: from `edits`."""
    if part in faults:
        return _differs(part, faults[part])
    return _agrees(part, agreement)


def check_signature(
    report: AnyReport, model: Path, digest: str, signature: Path | None, signer: Signer | None
) -> Finding:
    """Check a signature of a report. `digest` is the sha256:… of the report's file; both or none.

    The signature may name the model as the file is named here, or as the report names it: the digest decides.

    signer: the file of the public key that must have signed, or the identity.
    """
    if signature is None or signer is None:
        return unchecked("signature", "none was given; anyone can write a report with a right digest")
    try:
        if isinstance(signer, Path):
            payload = signed_payload(signature, signer)
        else:
            payload = signed_by_identity(signature, signer)
    except SignatureError as fault:
        return _differs("signature", str(fault))
    statements = [statement(report, digest, name) for name in (model, None)]
    if different := min((differences(payload, each) for each in statements), key=len):
        return _differs("signature", f"{signature} is about another report: {'; '.join(different)}")
    return _agrees("signature", f"every byte of the report is signed by {words_of(signer)}")


def check_model(recorded: ModelFacts, model: Path, digest: str) -> Finding:
    """Check that a report is about these model files. digest: from `model_digest`."""
    if digest != recorded.file_digest:
        about = f"{short_digest(recorded.file_digest)}… ({recorded.file})"
        return _differs("model", f"{model} has {short_digest(digest)}…, the report is about {about}")
    file = read_onnx(model)
    external = file.external_digests
    for name in sorted(external.keys() | recorded.external_digests.keys()):
        if external.get(name) != recorded.external_digests.get(name):
            return _differs("model", f"weights file {name} is another one than the report is about")
    if file.digest != recorded.digest:
        seen = f"{model} with its weights has {short_digest(file.digest)}…"
        return _differs("model", f"{seen}, not {short_digest(recorded.digest)}…")
    files = str(model)
    if external:
        files += f" and {count_text(len(external), 'file')} of weights"
    return _agrees("model", f"{files}: exactly the bytes that were measured ({short_digest(digest)}…)")


def check_reference(report: AnyReport, reference: Path | None) -> Finding | None:
    """Check that a comparison is with this reference, or this baseline. None for the report of a check."""
    if isinstance(report, Report):
        return None
    name = report.baseline or report.reference.evidence.model.file
    if reference is None:
        return unchecked("reference", f"--reference was not given; compared was with {name}")
    if not report.baseline:
        found = check_model(report.reference.evidence.model, reference, model_digest(reference))
        return found.model_copy(update={"check": "reference"})
    digest = model_digest(reference)
    if not report.baseline_digest:
        return unchecked("reference", f"{name} was handed over in Python, so its file is not known")
    if digest != report.baseline_digest:
        compared = f"{short_digest(report.baseline_digest)}… ({name})"
        return _differs("reference", f"{reference} has {short_digest(digest)}…, the report is with {compared}")
    return _agrees("reference", f"{reference}: exactly the baseline that was compared with ({short_digest(digest)}…)")


def check_origin(report: AnyReport) -> Finding | None:
    """Return the finding on a model's origin.

    No file can show where a model was fetched from; None where the report names nothing.
    """
    origin = report.evidence.model.origin
    if origin is None:
        return None
    return unchecked("origin", f"{origin.address} at {origin.revision} is what the report says; nothing here shows it")


def check_profile(report: AnyReport, faults: Mapping[str, str], accepted: Profile | None) -> Finding:
    """Check that an accepted profile judged the report. None = a packaged one."""
    profile = report.profile
    if "profile" in faults:
        return _differs("profile", faults["profile"])
    digest = short_digest(profile.digest)
    if accepted is not None:
        if accepted.digest != profile.digest:
            other = f"{accepted.id} ({short_digest(accepted.digest)}…)"
            return _differs("profile", f"judged by {profile.id} ({digest}…), not by {other}")
        return _agrees("profile", f"{profile.id}, the one that was named ({digest}…)")
    if (profile.id, profile.digest) not in [(packaged.id, packaged.digest) for packaged in profiles.packaged()]:
        return _differs("profile", f"{profile.id} is not a packaged profile; name the one you accept with --thresholds")
    return _agrees("profile", f"{profile.id} as it ships with this robustcheck ({digest}…)")


def check_images(report: AnyReport, image_set: str | None) -> Finding:
    """Check that the run read the first images of the seeded order, of which none is decoded here."""
    recorded = report.evidence.images
    if recorded.given:
        return unchecked("images", f"{recorded.source}, handed over in Python, can't be opened again")
    if image_set is None and not recorded.bundled:
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
    seen = f"{where}: exactly the {len(digests)} images that were measured"
    return _agrees("images", f"{seen} ({short_digest(recorded.digest)}…)")


def check_rerun(
    report: AnyReport,
    model: Path,
    image_set: str | None,
    device: str | None,
    progress: Tell | None,
    *,
    reference: Path | None = None,
    elsewhere: bool,
) -> Finding:
    """Measure again and check that the runs agree. `elsewhere` as for `disagreements`."""
    second = measure_again(report, model, image_set, reference=reference, device=device, progress=progress)
    tolerance = tolerance_of(second, elsewhere=elsewhere)
    if different := disagreements(report, second, tolerance, elsewhere=elsewhere):
        named = "; ".join(different[:NAMED])
        if len(different) > NAMED:
            named += f"; and {len(different) - NAMED} more"
        wider = tolerance_of(second, elsewhere=True)
        hint = "" if elsewhere or disagreements(report, second, wider, elsewhere=True) else ELSEWHERE
        return _differs("rerun", f"a second run differs: {named}{hint}")
    assert report.binding is not None
    keywords = report.binding.settings.options.keywords
    others = sorted(keywords.items() - Options().keywords.items())
    asked = [f"{name} {value!r:.80}" for name, value in others if name not in {"images", "device", "preprocess"}]
    if report.binding.settings.preprocess is not None:
        asked.append("the preprocessing of its evidence instead of the model's own")
    evidence = second.evidence
    measured = f"{evidence.statistics.n_images} images measured again on {evidence.execution.providers[0]}"
    given = around("; as the report asks, with ", ", ".join(asked))
    return _agrees("rerun", f"{measured}: same verdict, same reasons, every statistic within {tolerance:g}{given}")
