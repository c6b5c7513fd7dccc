"""The verbs about a report: `verify`, `sign`, and the group `mlflow`."""

import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

from ...errors import CannotAssessError, UsageError
from ...text import printable, quoted
from ..destinations import check_target
from ..help import Verbs
from ..options import IMAGES, OUTPUT, SPEED, VERDICT, Model, argument, option
from ..output import say_home
from ..progress import progress_line
from . import FORMS, Call, Question, output_of, takes

SHARED = ("quiet", "color", "timeout", "max_memory", "max_model_size", "offline", "debug")
ReportFile = Annotated[Path, argument("The report of a check or a comparison, from `-o json=PATH`.", "REPORT.json")]
ReportImages = Annotated[
    str | None, option("Where the images of the check are; not needed for the bundled photos.", "PATH", IMAGES)
]
Reference = Annotated[
    Path | None,
    option(
        "Of a comparison: the ONNX file of the reference, or the file of the baseline. A rerun needs it.",
        "FILE",
        IMAGES,
    ),
]
Rerun = Annotated[
    bool | None,
    option(
        "Measure again with the report's settings; every statistic must agree. Default: where the images can be "
        "read. Without a rerun and a signature nothing but the report supports a PASS, and the exit code is 1.",
        None,
        VERDICT,
        "--rerun/--no-rerun",
        show_default=False,
    ),
]
Elsewhere = Annotated[
    bool,
    option(
        "The report is from another machine or other versions: allow the small differences of a rerun.",
        None,
        VERDICT,
        "--elsewhere",
    ),
]
PublicKey = Annotated[Path | None, option("PEM file of the key that you trust; needs a signature.", "FILE", VERDICT)]
Signature = Annotated[
    Path | None,
    option(
        "The signature that `robustcheck sign` or `check --sign` wrote. Default: REPORT.sigstore.json.", "FILE", VERDICT
    ),
]
Thresholds = Annotated[
    Path | None,
    option(
        "The threshold profile that you accept. Default: the packaged one of the report's id, unless that "
        "is looser than the newest.",
        "PROFILE",
        VERDICT,
    ),
]
RerunDevice = Annotated[str | None, option("Device of the rerun. Default: the one of the report.", "DEVICE", SPEED)]
TrustConfig = Annotated[
    Path | None, option("Client trust config of another Sigstore instance than the public one.", "FILE", VERDICT)
]


@takes(
    "output",
    *SHARED,
    call=Question,
    output=output_of(FORMS),
    certificate_identity=option(
        "Who must have signed, in place of a key: the mail address or URI in the certificate, exactly as it is there; "
        "needs the URL of its identity provider, too (extra `keyless`).",
        "NAME",
        VERDICT,
    ),
    certificate_oidc_issuer=option("URL of the identity provider that must vouch for that name.", "URL", VERDICT),
    verify_signature=option(
        "Check the report's signature; needs --public-key (extra `sign`) or --certificate-identity.", None, VERDICT
    ),
    accept_waivers=option("Let the report's waivers count, where they hold today.", None, VERDICT),
)
def verify(
    call: Question,
    report: ReportFile,
    model: Model,
    images: ReportImages = None,
    reference: Reference = None,
    rerun: Rerun = None,
    thresholds: Thresholds = None,
    verify_signature: bool = False,
    public_key: PublicKey = None,
    certificate_identity: str | None = None,
    certificate_oidc_issuer: str | None = None,
    trust_config: TrustConfig = None,
    signature: Signature = None,
    accept_waivers: bool = False,
    elsewhere: Elsewhere = False,
    device: RerunDevice = None,
) -> int:
    """Check that the report of a check or a comparison is intact and belongs to model and images.

    For a release. What was not checked is listed as such.
    """
    from ...report.attestation import bundle_of
    from ...trust.verify.run import verify

    if report.suffix.lower() == ".onnx":
        raise UsageError(
            f"{report}: REPORT.json comes before MODEL.onnx", f"robustcheck verify {quoted(model)} {quoted(report)}"
        )
    call.begin(report)
    if verify_signature or public_key is not None or certificate_identity is not None:
        signature = signature or bundle_of(report)
    result = call.measured(
        partial(verify, report),
        model,
        images=images,
        reference=reference,
        thresholds=thresholds,
        rerun=rerun,
        elsewhere=elsewhere,
        device=device,
        signature=signature,
        public_key=public_key,
        certificate_identity=certificate_identity,
        certificate_oidc_issuer=certificate_oidc_issuer,
        trust_config=trust_config,
        accept_waivers=accept_waivers,
        today=datetime.now(UTC).date(),
    )
    return call.answer(result)


@takes(
    *SHARED,
    call=Question,
    key=option(
        "PEM file of a private key on the elliptic curve P-256, P-384 or P-521; the password of an encrypted "
        "one is read from ROBUSTCHECK_KEY_PASSWORD.",
        "FILE",
        VERDICT,
        show_default=False,
    ),
    keyless=option(
        "Sign as an identity in place of a key, by the token in SIGSTORE_ID_TOKEN or of this CI job. Opens "
        "connections to Sigstore, whose log keeps the identity public forever (extra `keyless`).",
        None,
        VERDICT,
    ),
    out=option("The file to write. Default: REPORT.sigstore.json.", "FILE", OUTPUT, "--out", "-o"),
)
def sign(
    call: Question,
    report: ReportFile,
    model: Model,
    key: Path | None = None,
    keyless: bool = False,
    trust_config: TrustConfig = None,
    out: Path | None = None,
    images: ReportImages = None,
    reference: Reference = None,
    thresholds: Thresholds = None,
    elsewhere: Elsewhere = False,
    device: RerunDevice = None,
) -> int:
    """Measure a report's numbers again, then sign its verdict.

    The signature is an in-toto statement: by --key, made offline (extra `sign`), or --keyless. A report that does not
    hold is not signed (exit 3), nor one whose images were not measured again (exit 1): name them with --images. Nor is
    one with waivers (exit 2). A WARN is signed as a WARN (exit 1). `robustcheck check --sign KEY` signs what it
    measures itself.
    """
    from ...core.model.watched import file_digest
    from ...outside.storage.documents import write_atomically
    from ...report.attestation import bundle_of, is_verdict
    from ...report.record import sealed
    from ...trust.verify import identity, signature
    from ...trust.verify.run import report_about, verify

    _refuse_signers(key, keyless, trust_config)
    bundle = out or bundle_of(report)
    check_target(bundle, (), "signature", "--out ", is_verdict)
    # before a rerun, which can take long
    if key is not None:
        signature.check_key(key)
    else:
        identity.check_token(trust_config)
    digest = file_digest(report) if report.is_file() else ""
    call.begin()
    result = call.measured(
        partial(verify, report),
        model,
        images=images,
        reference=reference,
        thresholds=thresholds,
        elsewhere=elsewhere,
        device=device,
        today=datetime.now(UTC).date(),
    )
    code = call.answer(result)
    agreed = [finding.check for finding in result.findings if finding.status == "agrees"]
    if code == 3 or "rerun" not in agreed:
        return max(code, 1)
    about = sealed(report_about(report, model))
    if about.binding is None or about.binding.result_digest != result.result_digest:  # not what was measured
        raise CannotAssessError(
            f"{report}: report changed while it was signed; nothing was written",
            "check the model again",
        )
    if about.gate is not None and about.gate.waived:
        raise UsageError(
            f"{report}: report has waivers, and a new measurement does not show who gave them; it is not signed",
            f"robustcheck check {quoted(model)} --images PHOTOS --waivers FILE -o json=report.json --sign KEY",
        )
    statement = signature.statement(about, digest, model)
    verdict = result.comparison or about.verdict.verdict
    lines = [f"wrote {bundle}: {verdict} attested for {model}"]
    if key is not None:
        content = signature.sign(statement, key)
    else:
        content, who, index = identity.sign_as_identity(statement, trust_config)
        lines.append(
            f"entry {index} of the transparency log, checked by: --certificate-identity {quoted(who.name)} "
            f"--certificate-oidc-issuer {quoted(who.issuer)}"
        )
    if file_digest(report) != digest:
        raise CannotAssessError(f"{report}: report changed while it was signed; nothing was written", "sign it again")
    write_atomically(bundle, content)
    say_home(call.settings.quiet)
    if call.settings.quiet < 2:
        for line in lines:
            sys.stdout.write(f"{printable(line)}\n")
    return code


def _refuse_signers(key: Path | None, keyless: bool, trust_config: Path | None) -> None:
    """Refuse a call that does not name one signer. Raises UsageError."""
    if (key is None) != keyless:
        raise UsageError(
            "--key and --keyless exclude each other, and one is needed; a signature is by a key or by an identity",
            "--key key.pem",
        )
    if trust_config is not None and not keyless:
        raise UsageError("--trust-config belongs to --keyless; a signature by a key needs none", "leave it out")


mlflow = Verbs(name="mlflow", help="Log reports to MLflow; gate its model registry (extra `mlflow`).")
Server = Annotated[str | None, option("The tracking server. Default: MLFLOW_TRACKING_URI.", "ADDRESS")]


@mlflow.verb("robustcheck mlflow log report.json --tracking-uri http://mlflow:5000")
@takes(
    "debug",
    run_id=option("Log to this run instead of a new one.", "ID"),
    experiment=option(
        "Experiment of a new run. Default: MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, else robustcheck.", "NAME"
    ),
    html=option("A report in HTML, kept with the others.", "FILE"),
)
def log(
    call: Call,
    report: ReportFile,
    run_id: str | None = None,
    experiment: str | None = None,
    html: Path | None = None,
    tracking_uri: Server = None,
) -> int:
    """Log the report of a check or a comparison: metrics, tags and files.

    The exit code is not a verdict: 0 means that it is logged, also a WARN.
    """
    from ...outside.isolation import apart
    from ...trust.integrations.mlflow_log import log_report
    from ...trust.verify.run import read_report

    logged = apart(read_report, str(report))(report)
    if html is not None and not html.is_file():
        raise UsageError(
            f"{html}: HTML report is missing; no such file", f"robustcheck model.onnx --images photos/ -o html={html}"
        )
    run = log_report(logged, run_id=run_id, experiment=experiment, tracking_uri=tracking_uri, html=html)
    sys.stdout.write(f"logged {logged.verdict.verdict} to run {run}\n")
    return 0


@mlflow.verb(
    "robustcheck mlflow gate encoder 3 report.json --alias champion",
    codes="Exit codes: 0 open: verified, and PASS, or the required verdicts of a comparison hold | 1 closed: they do "
    "not, nothing but the report supports them, bundled photos, or a synthetic model | 2 usage | 3 closed: the report "
    "is not about this file | 4 the server does not answer.",
)
@takes(
    "debug",
    name=argument("Name in the model registry.", "NAME"),
    version=argument("Its version.", "VERSION"),
    alias=option("Give this alias to the version if the gate is open.", "NAME"),
)
def gate(
    call: Call,
    name: str,
    version: str,
    report: ReportFile,
    alias: str | None = None,
    images: ReportImages = None,
    reference: Reference = None,
    rerun: Rerun = None,
    elsewhere: Elsewhere = False,
    public_key: PublicKey = None,
    signature: Signature = None,
    tracking_uri: Server = None,
) -> int:
    """Let a registered version through only for a verified PASS, or a verified comparison.

    A comparison opens the gate where the verdicts that it required hold.
    The alias is set with exit code 0 only. Otherwise this version loses it, and every alias of an earlier call.
    """
    from ...trust.integrations.mlflow_log import gate_model_version

    if public_key:
        signature = signature or report.with_suffix(".sigstore.json")
    with progress_line(0, f"{name} version {version}") as progress:
        result = gate_model_version(
            name,
            version,
            report,
            alias=alias,
            tracking_uri=tracking_uri,
            images=images,
            reference=reference,
            rerun=rerun,
            elsewhere=elsewhere,
            public_key=public_key,
            signature=signature,
            progress=progress,
        )
    answer = "closed" if result.exit_code else "open"
    sys.stdout.write(f"{name} version {version}: gate is {answer}; {result.rule}\n")
    for finding in result.findings:
        sys.stdout.write(f"  {finding.check}: {finding.status}; {printable(finding.seen)}\n")
    if alias:
        done = "is not on this version" if result.exit_code else "is set"
        sys.stdout.write(f"  alias {alias} {done}\n")
    return result.exit_code
