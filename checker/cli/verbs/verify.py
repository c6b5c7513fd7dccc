"""The verbs `verify` (does a report hold for this model?) and `sign` (attest its verdict with a local key)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcheck_onnx.checker.text import printable

from ..check_sign import say_home
from ..options import (
    Color,
    Debug,
    Elsewhere,
    MaxMemory,
    MaxModelSize,
    Model,
    Outputs,
    PublicKey,
    Quiet,
    ReportFile,
    ReportImages,
    Rerun,
    Signature,
    Timeout,
    limits_of,
)
from ..output import Destination, check_target, deliver, destinations_of, measuring
from ..panels import OUTPUT, SPEED, VERDICT

if TYPE_CHECKING:
    from robustcheck_onnx.checker.verify import Verification


Thresholds = Annotated[
    Path | None,
    typer.Option(
        help="The threshold profile that you accept. Default: the packaged one of the report's id.",
        metavar="PROFILE",
        rich_help_panel=VERDICT,
    ),
]
RerunDevice = Annotated[
    str | None,
    typer.Option(help="Device of the rerun. Default: the one of the report.", metavar="DEVICE", rich_help_panel=SPEED),
]
Detectors = Annotated[
    list[str] | None,
    typer.Option(
        "--detector",
        help="A plug-in that the rerun may load, as for the check. Name every plug-in of the report.",
        metavar="NAME[=TEXT]",
        rich_help_panel=VERDICT,
    ),
]


def verify(
    report: ReportFile,
    model: Model,
    images: ReportImages = None,
    rerun: Rerun = None,
    thresholds: Thresholds = None,
    verify_signature: Annotated[
        bool,
        typer.Option(
            "--verify-signature",
            help="Check the report's signature; needs --public-key (extra `sign`).",
            rich_help_panel=VERDICT,
        ),
    ] = False,
    public_key: PublicKey = None,
    signature: Signature = None,
    accept_waivers: Annotated[
        bool,
        typer.Option(
            "--accept-waivers",
            help="Let the report's waivers count, where they hold today.",
            rich_help_panel=VERDICT,
        ),
    ] = False,
    elsewhere: Elsewhere = False,
    device: RerunDevice = None,
    detector: Detectors = None,
    output: Outputs = None,
    quiet: Quiet = 0,
    color: Color = "auto",
    timeout: Timeout = None,
    max_memory: MaxMemory = None,
    max_model_size: MaxModelSize = None,
    debug: Debug = False,
) -> int:
    """Check that a report is whole, about this model and these images.

    For a release. What was not checked is listed as such.
    """
    from datetime import UTC, datetime

    from robustcheck_onnx.checker.verify import bundle_of, verify

    reads = [path for path in (report, model, thresholds, public_key, signature) if path is not None]
    destinations = destinations_of(output or [], reads)
    if verify_signature or public_key is not None:
        signature = signature or bundle_of(report)
    with measuring(destinations, model, quiet) as progress:
        result = verify(
            report,
            model,
            images=images,
            thresholds=thresholds,
            rerun=rerun,
            elsewhere=elsewhere,
            device=device,
            detectors=detector or [],
            signature=signature,
            public_key=public_key,
            accept_waivers=accept_waivers,
            today=datetime.now(UTC).date(),
            limits=limits_of(timeout, max_memory, max_model_size),
            progress=progress,
        )
    _show(result, destinations, color, quiet=quiet)
    return result.exit_code


def sign(
    report: ReportFile,
    model: Model,
    key: Annotated[
        Path,
        typer.Option(
            help="PEM file of a private key on the elliptic curve P-256, P-384 or P-521; the password of an encrypted "
            "one is read from ROBUSTCHECK_KEY_PASSWORD.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=VERDICT,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The file to write. Default: REPORT.sigstore.json.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    images: ReportImages = None,
    thresholds: Thresholds = None,
    elsewhere: Elsewhere = False,
    device: RerunDevice = None,
    detector: Detectors = None,
    quiet: Quiet = 0,
    color: Color = "auto",
    timeout: Timeout = None,
    max_memory: MaxMemory = None,
    max_model_size: MaxModelSize = None,
    debug: Debug = False,
) -> int:
    """Measure a report's numbers again, then sign its verdict.

    The signature is an in-toto statement, made offline (extra `sign`). A report that does not hold is not signed (exit
    3), nor one whose images were not measured again (exit 1): name them with --images. A WARN is signed as a WARN
    (exit 1). `robustcheck check --sign KEY` signs what it measures itself.
    """
    from datetime import UTC, datetime

    from robustcheck_onnx.checker.errors import CannotAssessError
    from robustcheck_onnx.checker.model import file_digest
    from robustcheck_onnx.checker.report import sealed
    from robustcheck_onnx.checker.storage import write_whole
    from robustcheck_onnx.checker.verify import bundle_of, check_key, report_about, signature, verify

    bundle = out or bundle_of(report)
    check_target(bundle, [path for path in (report, model, key, thresholds) if path is not None])
    check_key(key)  # before a rerun, which can take long
    digest = file_digest(report) if report.is_file() else ""
    with measuring([], model, quiet) as progress:
        result = verify(
            report,
            model,
            images=images,
            thresholds=thresholds,
            elsewhere=elsewhere,
            device=device,
            detectors=detector or [],
            today=datetime.now(UTC).date(),
            limits=limits_of(timeout, max_memory, max_model_size),
            progress=progress,
        )
    _show(result, [], color, quiet=quiet)
    measured = any(finding.check == "rerun" and finding.status == "agrees" for finding in result.findings)
    if result.exit_code == 3 or not measured:
        return max(result.exit_code, 1)
    about = sealed(report_about(report, model))
    if about.binding is None or about.binding.result_digest != result.result_digest:  # not what was measured
        raise CannotAssessError(f"{report}: report changed while it was signed; nothing was written", "sign it again")
    content = signature.sign(signature.statement(about, digest), key)
    if file_digest(report) != digest:
        raise CannotAssessError(f"{report}: report changed while it was signed; nothing was written", "sign it again")
    write_whole(bundle, content)
    say_home(quiet)
    if quiet < 2:
        typer.echo(printable(f"wrote {bundle}: {about.verdict.verdict} attested for {model}"))
    return result.exit_code


def _show(result: Verification, destinations: Sequence[Destination], color: str, *, quiet: int) -> None:
    from robustcheck_onnx.checker.text import as_json
    from robustcheck_onnx.checker.verify import terminal

    deliver(
        destinations,
        lambda _form: as_json(result.model_dump(mode="json")),
        partial(terminal.render, result),
        color,
        quiet=quiet,
        line=terminal.one_line(result),
    )
