"""The form of the Hugging Face hub's evaluation results, a file for `.eval_results/` of one model (extra `hub`).

The format knows results on data sets of the hub alone, each with the id of a task that the data set's owner names. So
there is an entry only where the images are of such a data set; the task is one of ours, and registered nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from robustcheck_onnx.checker.errors import EnvironmentFaultError, install_hint
from robustcheck_onnx.checker.text import HOME, printable

from .forms import FormOptions
from .outcome import cautions, findings
from .record import Failed, Outcome, Report
from .words import statistics_of

MARK: Final = "# robustcheck: evaluation results"
_DATASET: Final = re.compile(r"hf://datasets/(?P<id>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/|\Z)")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
NOT_OF_THE_HUB: Final = (
    "the images are not of a data set of the hub (hf://datasets/OWNER/NAME); its evaluation results can name no others"
)


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write the entries of exactly one model (`forms.render` refuses more), as YAML.

    The verdict is one entry (1 = PASS, 0 = WARN), each statistic another. An error, or images that are not of the hub,
    give the empty list below a comment that says so.

    Raises EnvironmentFaultError: the extra `hub` is missing.
    """
    del options
    (outcome,) = outcomes
    if isinstance(outcome, Failed):
        said = [f"no verdict (exit code {outcome.exit_code}): {outcome.message}", f"hint: {outcome.hint}"]
        return _empty(said[: 1 + bool(outcome.hint)])
    found = _DATASET.match(outcome.evidence.images.source)
    if found is None:
        return _empty([f"verdict {outcome.verdict.verdict}; {NOT_OF_THE_HUB}"])
    return f"{MARK}\n{_yaml(_entries(outcome, printable(found['id']), found['revision'] or ''))}"


def check_extra() -> None:
    """Refuse before a measurement that the form can't be made. Raises EnvironmentFaultError."""
    try:
        import huggingface_hub  # noqa: F401, PLC0415
        import yaml  # noqa: F401, PLC0415
    except ImportError as fault:
        raise EnvironmentFaultError(
            f"{fault.name or 'huggingface_hub'}: package is missing; -o evalresults needs the extra `hub`",
            install_hint("hub"),
        ) from fault


def _entries(report: Report, dataset: str, revision: str) -> list[dict[str, Any]]:
    check_extra()
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml  # noqa: PLC0415 # the extra

    reasons = ", ".join(each.reason.id for each in findings(report))
    rest = (
        f"by robustcheck {report.tool_version}, profile {report.verdict.profile_id}, on "
        f"{report.evidence.statistics.n_images} images ({report.evidence.images.digest}) with model "
        f"{report.evidence.model.digest}"
    )
    verdict = f"verdict {report.verdict.verdict}" + (f" ({reasons})" if reasons else "")
    said = "; ".join([verdict, *cautions(report), "an indication, neither accuracy nor robustness", rest])
    values: list[tuple[str, float, str]] = [("verdict", float(report.verdict.verdict == "PASS"), said)]
    for each in statistics_of(report):
        if each.interval.estimate is not None:
            bounds = f"from {each.interval.low} to {each.interval.high}, threshold {each.minimum}"
            values.append((each.id, each.interval.estimate, f"{bounds}; a statistic of the indication, {rest}"))
    entries = [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=f"robustcheck_{name}",
            value=value,
            dataset_revision=revision if _COMMIT.fullmatch(revision) else None,
            date=report.time.started if report.time else None,
            source_url=HOME or None,
            source_name="robustcheck" if HOME else None,
            notes=printable(notes),
        )
        for name, value, notes in values
    ]
    return eval_result_entries_to_yaml(entries)


def _yaml(entries: list[dict[str, Any]]) -> str:
    import yaml  # noqa: PLC0415 # the extra

    return str(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=10**6))


def _empty(said: Sequence[str]) -> str:
    return "\n".join([MARK, *(f"# {printable(line)}" for line in said), "[]", ""])
