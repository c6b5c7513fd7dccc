"""Reports in MLflow (extra `mlflow`): log one to a run, and let a registered version through only with a verified PASS.

The check itself never imports this. A connection is opened only by these two functions, to the tracking server that
the caller names; MLflow's own telemetry is switched off.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.report import Report, forms
from robustcheck_onnx.checker.verify import Verification, verify
from robustcheck_onnx.thresholds.profile import STATISTICS

if TYPE_CHECKING:
    from mlflow import MlflowClient


FOLDER = "robustcheck"  # of the artifacts, and the first word of every metric and tag
TAG_CHARACTERS = 500  # what every MLflow back end takes in a tag
# What MLflow does unless the user's environment says otherwise: by itself it tries for minutes,
# tells its makers, and prints.
QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def log_report(
    report: Report,
    *,
    run_id: str | None = None,
    experiment: str = "robustcheck",
    tracking_uri: str | None = None,
    html: Path | None = None,
) -> str:
    """Log a report: numbers as metrics, verdict and digests as tags, the report itself as artifacts.

    The tag `robustcheck.verdict` is `none` until all the rest is there: a run that was logged in part says nothing.

    Args:
        report: of a check.
        run_id: the run to log to; None = a new one in `experiment`, which is made if it is not there.
        tracking_uri: the server; None = MLFLOW_TRACKING_URI.
        html: a report that `-o html=PATH` wrote, to be kept with the others.

    Returns:
        The id of the run.

    Raises:
        UsageError: no server is named, no such run.
        EnvironmentFaultError: MLflow is not installed, the server does not answer or refuses.
    """
    with _client(tracking_uri) as client:
        run = client.get_run(run_id).info.run_id if run_id else _new_run(client, experiment, report)
        try:
            client.set_tag(run, f"{FOLDER}.verdict", "none")  # so it stays if logging fails half-way
            with tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:
                for form, name in (("json", "report.json"), ("markdown", "report.md")):
                    (Path(folder) / name).write_text(forms.render(form, [report]), encoding="utf-8")
                client.log_artifacts(run, folder, FOLDER)
            if html is not None:
                client.log_artifact(run, str(html), FOLDER)
            for name, value in metrics_of(report).items():
                client.log_metric(run, name, value)
            for name, text in tags_of(report).items():
                client.set_tag(run, name, text)
        except BaseException:
            if run_id is None:
                with contextlib.suppress(Exception):  # the first fault is the one to tell
                    client.set_terminated(run, "FAILED")
            raise
        if run_id is None:
            client.set_terminated(run, "FINISHED")
        return str(run)


def gate_model_version(
    name: str,
    model_version: str | int,
    report_file: Path,
    *,
    alias: str | None = None,
    tracking_uri: str | None = None,
    **verify_options: Any,
) -> Verification:
    """Verify a report about a registered model version; only where it holds and says PASS is the alias set.

    The registered ONNX file is fetched and its digest compared (`verify`): a PASS of another file counts for nothing.
    The version gets the tags `robustcheck.gate` (`closed` from the start, `open` at the very end), `.verdict`
    (`none` where the report does not hold or nothing vouches for its PASS), `.reasons`, `.rule` and `.result_digest`.
    An answer that is no verified PASS, or an error, takes from this version the alias that is named and those that an
    earlier call gave it (tags `robustcheck.alias.NAME`); other versions and other aliases stay as they are.

    Args:
        name, model_version: of the model registry.
        report_file: what `-o json=PATH` of a check wrote.
        alias: set to this version if the gate is open, such as "champion".
        tracking_uri: the server; None = MLFLOW_TRACKING_URI.
        verify_options: as `verify.verify`: image_set, rerun, public_key, signature, thresholds, device, …

    Returns:
        The verification; `exit_code` 0 = open; 1 = WARN, or nothing vouches for the PASS; 3 = not about this file.

    Raises:
        UsageError: no server is named, no such version, no whole report.
        CannotAssessError: the version does not hold exactly one ONNX file.
        EnvironmentFaultError: MLflow is not installed, the server does not answer or refuses.
    """
    identity = str(model_version)
    with _client(tracking_uri) as client, tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:

        def tag(what: str, text: str) -> None:
            client.set_model_version_tag(name, identity, f"{FOLDER}.{what}", text[:TAG_CHARACTERS])

        tag("gate", "closed")  # so it stays, whatever fails from here on
        try:
            model = _fetch(client, name, identity, Path(folder))
            result = verify(report_file, model, today=datetime.now(UTC).date(), **verify_options)
            stands = result.exit_code == 0 or (result.exit_code == 1 and result.verdict == "WARN")
            tag("verdict", result.verdict if stands else "none")
            tag("reasons", ", ".join(result.reasons))
            tag("rule", result.rule)
            tag("result_digest", result.result_digest)
            if result.exit_code != 0:
                _take_aliases(client, name, identity, alias)
            else:
                if alias is not None:
                    tag(f"alias.{alias}", "given")  # before it is: a later call must know
                    client.set_registered_model_alias(name, alias, identity)
                tag("gate", "open")
        except BaseException:
            with contextlib.suppress(Exception):  # the first fault is the one to tell
                _take_aliases(client, name, identity, alias)
            raise
        return result


def metrics_of(report: Report) -> dict[str, float]:
    """The six statistics with their bounds, and the number of images; what was not measured is left out."""
    found: dict[str, float] = {f"{FOLDER}.n_images": report.evidence.statistics.n_images}
    for statistic in STATISTICS:
        interval = getattr(report.evidence.statistics, statistic)
        for bound in ("estimate", "low", "high"):
            if getattr(interval, bound) is not None:
                found[f"{FOLDER}.{statistic}.{bound}"] = getattr(interval, bound)
        found[f"{FOLDER}.{statistic}.threshold"] = report.profile.thresholds[statistic].minimum
    return found


def tags_of(report: Report) -> dict[str, str]:
    """Digests, reasons, and last the verdict."""
    tags = {
        "reasons": ", ".join(reason.id for reason in report.verdict.reasons),
        "synthetic": report.evidence.model.synthetic,
        "model_digest": report.evidence.model.digest,
        "images_digest": report.evidence.images.digest,
        "profile_id": report.verdict.profile_id,
        "profile_digest": report.verdict.profile_digest,
        "version": report.tool_version,
        "verdict": report.verdict.verdict,
    }
    return {f"{FOLDER}.{name}": text[:TAG_CHARACTERS] for name, text in tags.items()}


def _new_run(client: MlflowClient, experiment: str, report: Report) -> str:
    found = client.get_experiment_by_name(experiment)
    identity = found.experiment_id if found else client.create_experiment(experiment)
    run = client.create_run(identity, run_name=Path(report.evidence.model.file).name)
    return str(run.info.run_id)


def _fetch(client: MlflowClient, name: str, model_version: str, folder: Path) -> Path:
    """The ONNX file of a registered version, with what lies beside it."""
    from mlflow.artifacts import download_artifacts  # noqa: PLC0415 # an extra

    source = client.get_model_version_download_uri(name, model_version)
    place = Path(download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=client.tracking_uri))
    found = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix.lower() == ".onnx")
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise CannotAssessError(
            f"{name} version {model_version}: registered ONNX files are {names}; it must hold exactly one",
            f"mlflow artifacts download --artifact-uri models:/{name}/{model_version}",
        )
    return found[0]


def _take_aliases(client: MlflowClient, name: str, model_version: str, alias: str | None) -> None:
    """Take from a version, and from no other, the named alias and those that the gate gave it."""
    found = client.get_model_version(name, model_version)
    for held in found.aliases:
        given = f"{FOLDER}.alias.{held}"
        if held == alias or given in found.tags:
            client.delete_registered_model_alias(name, held)
        if given in found.tags:
            client.delete_model_version_tag(name, model_version, given)


@contextlib.contextmanager
def _client(tracking_uri: str | None) -> Iterator[MlflowClient]:
    """A client whose faults are told as ours, quickly."""
    server = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not server:
        raise UsageError(
            "tracking server is not named; MLflow would start a database in this folder",
            "--tracking-uri http://HOST:5000, or MLFLOW_TRACKING_URI",
        )
    missing = {key: value for key, value in QUICK.items() if key not in os.environ}
    os.environ.update(missing)
    try:
        try:
            from mlflow import MlflowClient  # noqa: PLC0415 # an extra
            from mlflow.exceptions import MlflowException  # noqa: PLC0415
        except ImportError as fault:
            raise EnvironmentFaultError(
                "mlflow: package is not installed; the extra `mlflow` brings it",
                "pip install 'robustcheck-onnx[mlflow]'",
            ) from fault
        try:
            yield MlflowClient(tracking_uri=server, registry_uri=server)
        except RobustcheckError:
            raise
        except MlflowException as fault:
            said = " ".join(str(fault).split())[:300]
            if fault.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise UsageError(f"{server}: MLflow says {said}", "look up run, model and version there") from fault
            raise EnvironmentFaultError(
                f"{server}: MLflow's server does not do what was asked ({said})", f"curl -sS {server}/health"
            ) from fault
        except OSError as fault:  # of requests, or of a disk
            raise EnvironmentFaultError(
                f"{server}: MLflow's server or the disk fails ({fault})", f"curl -sS {server}/health; df -h"
            ) from fault
    finally:
        for key in missing:
            os.environ.pop(key, None)
