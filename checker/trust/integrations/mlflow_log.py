"""Log reports to MLflow and gate model versions.

A verified PASS, or a verified comparison whose required verdicts hold, opens the gate of a registered version (extra
`mlflow`).

A check never imports this. Only `log_report` and `gate_model_version` connect, to the tracking server that the caller
names; MLflow's telemetry is switched off meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ...calls import public
from ...core.evidence import ModelFacts
from ...core.progress import tell_stage
from ...errors import CannotAssessError
from ...outside.storage import mlflow_registry
from ...outside.storage.places import Url
from ...questions.compare.judge import CompareReport
from ...report.check import Report
from ...report.words import cautions
from ..verify.run import Verification, VerifyOptions, verify

if TYPE_CHECKING:
    from mlflow import MlflowClient


FOLDER = "robustcheck"  # of the artifacts; also the first part of every metric's and tag's name
TAG_CHARACTERS = 500  # length of a tag that every MLflow back end takes
EXPERIMENT = "robustcheck"  # where neither the call nor the environment names one


@public('rc.log_report(rc.check("model.onnx", "photos/"))')
def log_report(
    report: Report | CompareReport,
    *,
    run_id: str | None = None,
    experiment: str | None = None,
    tracking_uri: str | None = None,
    html: str | Path | None = None,
) -> str:
    """Log a report to a run. Numbers are metrics, verdict and digests tags, the report artifacts.

    The tag `robustcheck.verdict` is `none` until everything else is logged, so a run logged in part has no verdict.
    Where the address of the model means a LoggedModel, the metrics are on that model, too.

    Args:
        report: of a check or a comparison.
        run_id: the run to log to; None = a new one in `experiment`, which is made if it is not there.
        experiment: of a new run, by name; None = that of MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, else
            "robustcheck".
        tracking_uri: the server; None = MLFLOW_TRACKING_URI.
        html: a report that `-o html=PATH` wrote, to be kept with the others.

    Returns:
        The id of the run.

    Raises:
        UsageError: no server is named, no such run.
        EnvironmentFaultError: MLflow is not installed, the server does not answer or refuses.
    """
    with mlflow_registry.mlflow_client(tracking_uri) as client:
        if run_id:
            run = client.get_run(run_id).info.run_id
        else:
            facts = report.evidence.model
            run = client.create_run(_experiment_id(client, experiment), run_name=_run_name(facts)).info.run_id
        try:
            client.set_tag(run, f"{FOLDER}.verdict", "none")  # it stays so if logging fails half-way
            with tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:
                for text, name in ((report.to_json(), "report.json"), (report.to_markdown(), "report.md")):
                    (Path(folder) / name).write_text(text, encoding="utf-8")
                client.log_artifacts(run, folder, FOLDER)
            if html is not None:
                client.log_artifact(run, str(html), FOLDER)
            origin = report.evidence.model.origin
            model_id = mlflow_registry.logged_model_of(client, origin.address, origin.revision) if origin else None
            of_model = {"model_id": model_id} if model_id else {}
            for name, value in _metrics_of(report):
                client.log_metric(run, f"{FOLDER}.{name}", value, **of_model)
            for name, text in _tags_of(report).items():
                client.set_tag(run, f"{FOLDER}.{name}", text[:TAG_CHARACTERS])
        except BaseException:
            if run_id is None:
                with contextlib.suppress(Exception):  # the first error is the one to report
                    client.set_terminated(run, "FAILED")
            raise
        if run_id is None:
            client.set_terminated(run, "FINISHED")
        return str(run)


def _experiment_id(client: MlflowClient, experiment: str | None) -> str:
    """Return the experiment of a new run, which is made if it is not there."""
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    identity = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if identity and not name:
        return str(client.get_experiment(identity).experiment_id)
    existing = client.get_experiment_by_name(name or EXPERIMENT)
    return str(existing.experiment_id if existing else client.create_experiment(name or EXPERIMENT))


def _run_name(model: ModelFacts) -> str:
    """Return the name of a new run: the file's, or the whole address, whose last part may be a number."""
    return model.origin.address if model.origin else Path(model.file).name


@public('rc.gate_model_version("encoder", 3, "report.json")')
def gate_model_version(
    name: str,
    model_version: str | int,
    report_file: str | Path,
    *,
    alias: str | None = None,
    tracking_uri: str | None = None,
    **verify_options: Unpack[VerifyOptions],
) -> Verification:
    """Verify a registered model's report; gate its version. The alias is set only where the gate opens.

    It opens for the PASS of a check, and for a comparison whose required verdicts hold.

    The registered ONNX file is fetched and verified, so that a PASS of another file counts for nothing. The version
    gets the tags `robustcheck.gate` (`closed` from the start, `open` at the end), `.verdict`
    (`none` where the report does not hold or nothing vouches for its PASS), `.reasons`, `.rule`, `.cautions` and
    `.result_digest`.
    An answer that is not a verified PASS, or an error, takes
    from this version the alias that is named and those that an
    earlier call gave it (tags `robustcheck.alias.NAME`); other versions and other aliases stay as they are.

    Args:
        name: of the registered model.
        model_version: of the registered model.
        report_file: the JSON report of a check or a comparison.
        alias: set to this version if the gate is open, such as "champion".
        tracking_uri: the server; None = MLFLOW_TRACKING_URI.
        verify_options: as in `verify`: images, reference, rerun, public_key, signature, thresholds, device, …

    Returns:
        The verification; `exit_code` 0 = open; 1 = WARN, nothing vouches for the PASS, or it is on bundled photos or of
        a synthetic model; 3 = not about this file.

    Raises:
        UsageError: no server is named, no such version, no whole report.
        CannotAssessError: the version does not hold exactly one ONNX file.
        EnvironmentFaultError: MLflow is not installed, the server does not answer or refuses.
    """
    identity = str(model_version)
    with (
        mlflow_registry.mlflow_client(tracking_uri) as client,
        tempfile.TemporaryDirectory(prefix="robustcheck-") as folder,
    ):

        def tag(key: str, text: str) -> None:
            client.set_model_version_tag(name, identity, f"{FOLDER}.{key}", text[:TAG_CHARACTERS])

        tag("gate", "closed")  # it stays so, whatever fails from here on
        try:
            tell_stage(verify_options.get("progress"), "fetching the model from the registry")
            entry = mlflow_registry.resolve_mlflow(client, Url(f"models:/{name}/{identity}", "models"))
            model = _only_model(mlflow_registry.fetch_mlflow(client, entry, Path(folder)), entry.shown)
            result = verify(report_file, model, **verify_options)
            if result.exit_code == 0 and result.unfit:
                about = "comparison" if result.comparison else "PASS"
                closed = f"the {about} is {result.unfit}; the gate opens for a model on photos of its use"
                result = result.model_copy(update={"exit_code": 1, "rule": closed})
            is_warn = result.exit_code == 1 and result.verdict == "WARN"
            is_compared = result.comparison != "" and result.result.startswith("VERIFIED") and not result.unfit
            stands = result.exit_code == 0 or is_warn or is_compared
            tag("verdict", result.verdict if stands else "none")
            tag("comparison", result.comparison if is_compared else "none")
            tag("reasons", ", ".join(result.reasons))
            tag("rule", result.rule)
            tag("cautions", "; ".join(result.cautions))
            tag("result_digest", result.result_digest)
            if result.exit_code != 0:
                _take_aliases(client, name, identity, alias)
                return result
            if alias is not None:
                tag(f"alias.{alias}", "given")  # before it is: a later call must know of it
                client.set_registered_model_alias(name, alias, identity)
            tag("gate", "open")
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                _take_aliases(client, name, identity, alias)
            raise
        return result


def _metrics_of(report: Report | CompareReport) -> Iterator[tuple[str, float]]:
    """Yield the measured deciding statistics with their bounds and thresholds."""
    yield "n_images", report.evidence.statistics.n_images
    for statistic in report.profile.deciding:
        for bound, value in getattr(report.evidence.statistics, statistic):
            if value is not None:
                yield f"{statistic}.{bound}", value
        yield f"{statistic}.threshold", report.profile.thresholds[statistic].minimum
    if isinstance(report, CompareReport):
        yield from _metrics_of_comparison(report)


def _metrics_of_comparison(report: CompareReport) -> Iterator[tuple[str, float]]:
    """Yield how much of each statistic is left, and the numbers of the index verdict."""
    numbers = {f"ratio.{change.name}": change.ratio for change in report.statistics}
    for name, number in (report.index.numbers if report.index else {}).items():
        numbers[f"index.{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}"] = number
    for name, interval in numbers.items():
        for bound in ("estimate", "low", "high"):
            if (value := getattr(interval, bound)) is not None:
                yield f"{name}.{bound}", value
    yield "exit_code", report.exit_code


def _tags_of(report: Report | CompareReport) -> dict[str, str]:
    """Return digests, reasons, and last the verdict."""
    compared = {}
    if isinstance(report, CompareReport):
        compared["comparison"] = report.rule
        compared["reference_digest"] = report.reference.evidence.model.digest
    return compared | {
        "reasons": ", ".join(reason.id for reason in report.verdict.reasons),
        "cautions": "; ".join(cautions(report)),
        "synthetic": report.evidence.model.synthetic,
        "model_digest": report.evidence.model.digest,
        "images_digest": report.evidence.images.digest,
        "profile_id": report.verdict.profile_id,
        "profile_digest": report.verdict.profile_digest,
        "version": report.tool_version,
        "verdict": report.verdict.verdict,
    }


def _only_model(files: mlflow_registry.MlflowFiles, shown: str) -> Path:
    """Return the one ONNX file of a registered version. Raises CannotAssessError where there is not exactly one."""
    if len(files.models) != 1:
        names = ", ".join(path.rpartition("/")[2] for path in files.models[:5]) or "none"
        raise CannotAssessError(
            f"{shown}: registered ONNX files are {names}; it must hold exactly one",
            "register the model's own file, with its weights, and no other",
        )
    return files.folder / files.models[0]


def _take_aliases(client: MlflowClient, name: str, model_version: str, alias: str | None) -> None:
    """Remove the named alias, and those that the gate gave, from one version. Other versions keep theirs."""
    registered = client.get_model_version(name, model_version)
    for current in registered.aliases:
        tag = f"{FOLDER}.alias.{current}"
        if current == alias or tag in registered.tags:
            client.delete_registered_model_alias(name, current)
        if tag in registered.tags:
            client.delete_model_version_tag(name, model_version, tag)
