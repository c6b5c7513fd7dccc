"""Log reports to MLflow and gate model versions.

A verified PASS opens the gate of a registered version (extra `mlflow`).

A check never imports this. Only `log_report` and `gate_model_version` connect, to the tracking server that the caller
names; MLflow's telemetry is switched off meanwhile.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ..errors import CannotAssessError
from ..isolation import tell_stage
from ..report import forms
from ..report.record import Report
from ..storage import registries
from ..storage.places import Url
from ..verify.run import Verification, VerifyOptions, verify

if TYPE_CHECKING:
    from mlflow import MlflowClient


FOLDER = "robustcheck"  # of the artifacts; also the first part of every metric's and tag's name
TAG_CHARACTERS = 500  # length of a tag that every MLflow back end takes


def log_report(
    report: Report,
    *,
    run_id: str | None = None,
    experiment: str = "robustcheck",
    tracking_uri: str | None = None,
    html: str | Path | None = None,
) -> str:
    """Log a report to a run. Numbers are metrics, verdict and digests tags, the report artifacts.

    The tag `robustcheck.verdict` is `none` until everything else is logged, so a run logged in part has no verdict.

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
    with registries.mlflow_client(tracking_uri) as client:
        if run_id:
            run = client.get_run(run_id).info.run_id
        else:
            existing = client.get_experiment_by_name(experiment)
            of = existing.experiment_id if existing else client.create_experiment(experiment)
            run = client.create_run(of, run_name=Path(report.evidence.model.file).name).info.run_id
        try:
            client.set_tag(run, f"{FOLDER}.verdict", "none")  # it stays so if logging fails half-way
            with tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:
                for form, name in (("json", "report.json"), ("markdown", "report.md")):
                    (Path(folder) / name).write_text(forms.render(form, [report]), encoding="utf-8")
                client.log_artifacts(run, folder, FOLDER)
            if html is not None:
                client.log_artifact(run, str(html), FOLDER)
            for name, value in _metrics_of(report):
                client.log_metric(run, f"{FOLDER}.{name}", value)
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


def gate_model_version(
    name: str,
    model_version: str | int,
    report_file: str | Path,
    *,
    alias: str | None = None,
    tracking_uri: str | None = None,
    **verify_options: Unpack[VerifyOptions],
) -> Verification:
    """Verify a registered model's report; gate its version. The alias is set only for a PASS.

    The registered ONNX file is fetched and verified, so that a PASS of another file counts for nothing. The version
    gets the tags `robustcheck.gate` (`closed` from the start, `open` at the end), `.verdict`
    (`none` where the report does not hold or nothing vouches for its PASS), `.reasons`, `.rule` and `.result_digest`.
    An answer that is not a verified PASS, or an error, takes
    from this version the alias that is named and those that an
    earlier call gave it (tags `robustcheck.alias.NAME`); other versions and other aliases stay as they are.

    Args:
        name: of the registered model.
        model_version: of the registered model.
        report_file: the JSON report of a check.
        alias: set to this version if the gate is open, such as "champion".
        tracking_uri: the server; None = MLFLOW_TRACKING_URI.
        verify_options: as in `verify`: images, rerun, public_key, signature, thresholds, device, …

    Returns:
        The verification; `exit_code` 0 = open; 1 = WARN, nothing vouches for the PASS, or it is on bundled photos or of
        a synthetic model; 3 = not about this file.

    Raises:
        UsageError: no server is named, no such version, no whole report.
        CannotAssessError: the version does not hold exactly one ONNX file.
        EnvironmentFaultError: MLflow is not installed, the server does not answer or refuses.
    """
    identity = str(model_version)
    with registries.mlflow_client(tracking_uri) as client, tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:

        def tag(key: str, text: str) -> None:
            client.set_model_version_tag(name, identity, f"{FOLDER}.{key}", text[:TAG_CHARACTERS])

        tag("gate", "closed")  # it stays so, whatever fails from here on
        try:
            tell_stage(verify_options.get("progress"), "fetching the model from the registry")
            entry = registries.resolve_mlflow(client, Url(f"models:/{name}/{identity}", "models"))
            model = _only_model(registries.fetch_mlflow(client, entry, Path(folder)), entry.shown)
            result = verify(report_file, model, **verify_options)
            if result.exit_code == 0 and result.unfit:
                closed = f"the PASS is {result.unfit}; the gate opens for a model on photos of its use"
                result = result.model_copy(update={"exit_code": 1, "rule": closed})
            stands = result.exit_code == 0 or (result.exit_code == 1 and result.verdict == "WARN")
            tag("verdict", result.verdict if stands else "none")
            tag("reasons", ", ".join(result.reasons))
            tag("rule", result.rule)
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


def _metrics_of(report: Report) -> Iterator[tuple[str, float]]:
    """Yield the measured deciding statistics. They have bounds and thresholds."""
    yield "n_images", report.evidence.statistics.n_images
    for statistic in report.profile.deciding:
        for bound, value in getattr(report.evidence.statistics, statistic):
            if value is not None:
                yield f"{statistic}.{bound}", value
        yield f"{statistic}.threshold", report.profile.thresholds[statistic].minimum


def _tags_of(report: Report) -> dict[str, str]:
    """Return digests, reasons, and last the verdict."""
    return {
        "reasons": ", ".join(reason.id for reason in report.verdict.reasons),
        "synthetic": report.evidence.model.synthetic,
        "model_digest": report.evidence.model.digest,
        "images_digest": report.evidence.images.digest,
        "profile_id": report.verdict.profile_id,
        "profile_digest": report.verdict.profile_digest,
        "version": report.tool_version,
        "verdict": report.verdict.verdict,
    }


def _only_model(files: registries.MlflowFiles, shown: str) -> Path:
    """Return the one ONNX file of a registered version. Raises CannotAssessError where there is not exactly one."""
    if len(files.models) != 1:
        names = ", ".join(path.rpartition("/")[2] for path in files.models[:5]) or "none"
        raise CannotAssessError(
            f"{shown}: registered ONNX files are {names}; it must hold exactly one",
            "register the model's own file, with its weights, and no other",
        )
    return files.folder / files.models[0]


def _take_aliases(client: MlflowClient, name: str, model_version: str, alias: str | None) -> None:
    """Remove aliases from one version.

    They are the named one and those that the gate gave it; other versions keep theirs.
    """
    registered = client.get_model_version(name, model_version)
    for current in registered.aliases:
        tag = f"{FOLDER}.alias.{current}"
        if current == alias or tag in registered.tags:
            client.delete_registered_model_alias(name, current)
        if tag in registered.tags:
            client.delete_model_version_tag(name, model_version, tag)
