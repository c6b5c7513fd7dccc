"""What differs between a report and a second run of it: every field is compared, and what is not is listed here.

Not compared is what no second run can know: `time`; `gate`, which says what the caller let through (`report.edits`
looks whether it fits the verdict); where settings came from; under which name the model's file lay, and from where it
was fetched. The numbers that are measured may differ by a tolerance, which is given, never read from the report. Pure.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final

from robustcheck_onnx.checker.evidence import NOT_MEASURED
from robustcheck_onnx.checker.model import PRESETS
from robustcheck_onnx.checker.report import Report, ruling
from robustcheck_onnx.checker.verdict import execution_notes, limit_of, memory_note
from robustcheck_onnx.thresholds.profile import STATISTICS, Profile

SAME_ENVIRONMENT: Final = 1e-4
"""Relative tolerance of a measured number on the same machine with the same versions: the order of sums moves the sixth
digit."""
OTHER_ENVIRONMENT_FACTOR: Final = 5
"""Elsewhere it is so many times that of a representation at the model's precision: the statistics are made of fourth
powers, so a relative difference e of a representation moves them by about 4 e."""
ROUNDED: Final = 1.5e-3  # z of the gallery is rounded to 3 digits behind the point: the last one may differ
MEASURED: Final = (
    "evidence.statistics.",
    "evidence.content.",
    "evidence.levels.",
    "evidence.gallery.",
    "evidence.images.sanity.",
    "evidence.model.batch_difference",
    "evidence.model.fixed_scale_difference",
    "evidence.model.output_difference",
)
"""Where a number that is not whole may differ by the tolerance; elsewhere it must be the same."""
EXACT: Final = "evidence.statistics.alpha"
OTHER_NOTES: Final = ("settings from ", "Detector ")
"""How a note begins that says which file or variable set what (`cli.settings`), or what a plug-in of an earlier version
said."""
SHOWN: Final = 60  # characters of a value in a message


def tolerance_of(second: Report, *, elsewhere: bool) -> float:
    """The relative difference that measured numbers may have; of the second run's model, not of the report's word."""
    return OTHER_ENVIRONMENT_FACTOR * limit_of(second.evidence) if elsewhere else SAME_ENVIRONMENT


def disagreements(
    first: Report, second: Report, tolerance: float = SAME_ENVIRONMENT, *, elsewhere: bool = False
) -> tuple[str, ...]:
    """The differences between a report and a second run of it, in words; empty if there are none.

    A measured number may differ by tolerance · max(both, its threshold), or tolerance · max(both, 1) without one; all
    else must be the same.

    Args:
        first, second: the report, and what measuring with its settings gave here.
        tolerance: from `tolerance_of`.
        elsewhere: whether the report may come from another machine or version, or name the images otherwise. Then
            execution, versions and names are not compared, nor what small differences of numbers move (bins, ranks),
            nor, between two versions, their words.
    """
    differences = []
    if ruling(first.verdict) != ruling(second.verdict):
        differences.append(f"verdict {ruling(first.verdict)} against {ruling(second.verdict)}")
    assert first.binding is not None
    on_ray = first.binding.settings.engine == "ray"
    theirs, ours = (_compared(report, on_ray=on_ray) for report in (first, second))
    if first.profile.is_earlier and first.evidence.statistics.strength == NOT_MEASURED:  # of an earlier version
        for form in (theirs, ours):
            del form["evidence"]["statistics"]["strength"], form["evidence"]["statistics"]["two_sidedness"]
    if elsewhere:
        same_words = first.tool_version == second.tool_version
        for report, form in ((first, theirs), (second, ours)):
            _leave_out_environment(report, form, same_words=same_words)
    return (*differences, *_walk(theirs, ours, "", tolerance, second.profile))


def _compared(report: Report, *, on_ray: bool) -> dict[str, Any]:
    """The JSON form of a report without what no second run can know, in a form that two honest runs share.

    on_ray: whether the first run was of an earlier version, spread over the workers of a cluster.
    """
    form = report.model_dump(mode="json")
    evidence, settings = form["evidence"], form["binding"]["settings"]
    for name in ("time", "gate", "verdict"):  # of the verdict its ruling counts here; `edits` judges the evidence anew
        del form[name]
    del form["binding"]["result_digest"], evidence["model"]["file"], evidence["model"]["origin"]
    own = memory_note(report.evidence.model.file)  # the second run has a file
    form["notes"] = [note for note in form["notes"] if not note.startswith(OTHER_NOTES) and note not in own]
    evidence["images"]["source"] = _last_part(evidence["images"]["source"])
    settings["images"] = _last_part(settings["images"])
    if settings["preprocess"] is not None and settings["preprocess"] not in PRESETS:  # a file that lies there, not here
        settings["preprocess"] = ""
        evidence["preprocessing"]["fields"] = [field[:2] for field in evidence["preprocessing"]["fields"]]
    if on_ray:
        for fact in ("engine", "workers", "threads"):
            evidence["execution"][fact] = None
    return form


def _last_part(source: str | None) -> str | None:
    return None if source is None else PurePath(os.path.normpath(source)).name


def _leave_out_environment(report: Report, form: dict[str, Any], *, same_words: bool) -> None:
    """Leave out of a form what another machine, version or place changes though the report is true."""
    evidence = form["evidence"]
    statistics, images = evidence["statistics"], evidence["images"]
    evidence["execution"] = evidence["execution"]["precision"]
    for name in ("histogram_edges", "histogram_counts"):
        del statistics[name]
    statistics["features"] = sorted(feature.index for feature in report.evidence.statistics.persistent)
    evidence["gallery"] = [image["name"] for image in (evidence["gallery"] or {"shown": []})["shown"]]
    images["sanity"] = sorted(finding["id"] for finding in images["sanity"]["findings"])
    del images["source"], form["binding"]["versions"], form["tool_version"]
    for name in ("images", "device"):
        del form["binding"]["settings"][name]
    machine = execution_notes(report.evidence.execution)
    form["notes"] = [note for note in form["notes"] if note not in machine]
    if not same_words:
        for name in ("notes", "claim", "reference", "published"):
            del form[name]
        del evidence["model"]["why"]
        evidence["preprocessing"]["fields"] = [field[:2] for field in evidence["preprocessing"]["fields"]]


def _walk(theirs: Any, ours: Any, path: str, tolerance: float, profile: Profile) -> Iterator[str]:
    """Each difference of two JSON values, by its path; types count, too: true is not 1, and 1 is not 1.0."""
    if type(theirs) is not type(ours):
        yield _said(path, theirs, ours)
    elif isinstance(theirs, Mapping):
        for name in sorted(theirs.keys() | ours.keys()):
            inner = f"{path}.{name}" if path else name
            if name not in theirs or name not in ours:
                yield f"{inner} is only in the {'report' if name in theirs else 'second run'}"
            else:
                yield from _walk(theirs[name], ours[name], inner, tolerance, profile)
    elif isinstance(theirs, list | tuple):
        if len(theirs) != len(ours):
            yield f"{path} has {len(theirs)} entries against {len(ours)}"
            return
        for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from _walk(one, other, f"{path}[{index}]", tolerance, profile)
    elif isinstance(theirs, float) and path.startswith(MEASURED) and path != EXACT:
        absolute = ROUNDED if ".z[" in path else tolerance * _scale(path, profile)
        if not math.isclose(theirs, ours, rel_tol=tolerance, abs_tol=absolute):
            yield _said(path, theirs, ours)
    elif theirs != ours:
        yield _said(path, theirs, ours)


def _scale(path: str, profile: Profile) -> float:
    """The size below which the tolerance of a number is absolute: its threshold, else 1."""
    statistic = path.removeprefix("evidence.statistics.").partition(".")[0]
    threshold = profile.thresholds.get(statistic) if statistic in STATISTICS else None
    return threshold.minimum if threshold else 1.0


def _said(path: str, theirs: Any, ours: Any) -> str:
    return f"{path} {_shown(theirs)} against {_shown(ours)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
