"""The verbs of MLflow (extra `mlflow`): log a report to a run, gate a version of the model registry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import printable

from ..help import Verbs
from ..options import Elsewhere, PublicKey, ReportFile, ReportImages, Rerun, Signature, argument, option
from ..progress import progress_line
from ..question import Call, takes

mlflow = Verbs(name="mlflow", help="Log reports to MLflow; gate its model registry (extra `mlflow`).")
Server = Annotated[str | None, option("The tracking server. Default: MLFLOW_TRACKING_URI.", "ADDRESS")]


@mlflow.verb(examples=("robustcheck mlflow log report.json --tracking-uri http://mlflow:5000",))
@takes("debug")
def log(
    call: Call,
    report: ReportFile,
    run_id: Annotated[str | None, option("Log to this run instead of a new one.", "ID")] = None,
    experiment: Annotated[str, option("Experiment of a new run.", "NAME")] = "robustcheck",
    html: Annotated[Path | None, option("A report in HTML, kept with the others.", "FILE")] = None,
    tracking_uri: Server = None,
) -> int:
    """Log a report: metrics, tags and files.

    The exit code is no verdict: 0 means that it is logged, also a WARN.
    """
    from robustcheck_onnx.checker.integrations.mlflow_log import log_report
    from robustcheck_onnx.checker.report import read_one

    logged = read_one(report)
    if html is not None and not html.is_file():
        raise UsageError(
            f"{html}: HTML report is missing; no such file", f"robustcheck model.onnx --images photos/ -o html={html}"
        )
    run = log_report(logged, run_id=run_id, experiment=experiment, tracking_uri=tracking_uri, html=html)
    sys.stdout.write(f"logged {logged.verdict.verdict} to run {run}\n")
    return 0


@mlflow.verb(
    examples=("robustcheck mlflow gate encoder 3 report.json --alias champion",),
    codes="Exit codes: 0 open: verified, PASS · 1 closed: WARN, nothing but the report supports the "
    "PASS, bundled photos, or a synthetic model · 2 usage · 3 closed: the report is not about this file · 4 the server "
    "does not answer.",
)
@takes("debug")
def gate(
    call: Call,
    name: Annotated[str, argument("Name in the model registry.", "NAME")],
    version: Annotated[str, argument("Its version.", "VERSION")],
    report: ReportFile,
    alias: Annotated[str | None, option("Give this alias to the version if the gate is open.", "NAME")] = None,
    images: ReportImages = None,
    rerun: Rerun = None,
    elsewhere: Elsewhere = False,
    public_key: PublicKey = None,
    signature: Signature = None,
    tracking_uri: Server = None,
) -> int:
    """Let a registered version through only if its report holds and says PASS.

    The alias is set with exit code 0 only. Otherwise this version loses it, and every alias of an earlier call.
    """
    from robustcheck_onnx.checker.integrations.mlflow_log import gate_model_version

    with progress_line(0, f"{name} version {version}") as progress:
        result = gate_model_version(
            name,
            version,
            report,
            alias=alias,
            tracking_uri=tracking_uri,
            images=images,
            rerun=rerun,
            elsewhere=elsewhere,
            public_key=public_key,
            signature=(signature or report.with_suffix(".sigstore.json")) if public_key else signature,
            progress=progress,
        )
    sys.stdout.write(f"{name} version {version}: gate is {'closed' if result.exit_code else 'open'}; {result.rule}\n")
    sys.stdout.write("".join(f"  {f.check}: {f.status}; {printable(f.seen)}\n" for f in result.findings))
    if alias:
        done = "is set" if result.exit_code == 0 else "is not on this version"
        sys.stdout.write(f"  alias {alias} {done}\n")
    return result.exit_code
