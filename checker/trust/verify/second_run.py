"""Measure a model again with a report's settings, and find where the two reports differ.

Not compared is what no second run can know: `time`; `gate`, which says what the caller let through
(`report.reading.edits` looks whether it fits the verdict); where settings came from; under which name the model's file
lay, and from where it was fetched. The numbers that are measured may differ by a tolerance, which is given, never read
from the report.
"""

import functools
import json
import math
import operator
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from ....thresholds.profile import Profile
from ....thresholds.statistics import STATISTICS
from ...core.evidence import Evidence
from ...core.preprocessing import PRESETS
from ...core.progress import Tell
from ...core.verdict.notes import execution_notes, int8_notes, memory_note
from ...core.verdict.rule import limit_of
from ...questions import check as pipeline
from ...questions.compare import compare
from ...questions.compare.judge import CompareReport
from ...report.check import Report
from ...report.reading import ruling
from ...text import Fields, Texts

SAME_ENVIRONMENT = 1e-4
"""Relative tolerance of a measured number on the same machine with the same versions: the order of sums moves the sixth
digit."""
OTHER_ENVIRONMENT_FACTOR = 5
"""Elsewhere it is so many times that of a representation at the model's precision: the statistics are made of fourth
powers, so a relative difference e of a representation moves them by about 4 e."""
ROUNDED = 1.5e-3  # z of the gallery is rounded to 3 digits behind the point: the last one may differ
MEASURED = (
    "evidence.statistics.",
    "evidence.content.",
    "evidence.levels.",
    "evidence.gallery.",
    "evidence.images.sanity.",
    "evidence.model.batch_difference",
    "evidence.model.fixed_scale_difference",
    "evidence.model.output_difference",
    # of a comparison:
    "statistics[",
    "features[",
    "similarity.",
    "agreement.",
    "index.numbers.",
    "index.worst[",
    "index.machine.",
)
"""Where a number that is not whole may differ by the tolerance; elsewhere it must be the same."""
EXACT = "evidence.statistics.alpha"
OTHER_NOTES = "settings from "
"""How a note begins that names the file or variable which set something (`cli.settings`)."""
ENVIRONMENT = ("binding.versions", "binding.settings.images", "binding.settings.device", "tool_version")
"""What another machine, version or place changes though the report is true."""
ENVIRONMENT_OF_EVIDENCE = ("statistics.histogram_edges", "statistics.histogram_counts", "images.source")
"""What it changes in the evidence."""
SHOWN = 60  # characters of a value in a message
SIDES = ("candidate", "reference")  # of a comparison


AnyReport = Report | CompareReport


def tolerance_of(second: AnyReport, *, elsewhere: bool) -> float:
    """Return the relative difference that the second run's model allows, whatever the report claims."""
    return OTHER_ENVIRONMENT_FACTOR * limit_of(second.evidence) if elsewhere else SAME_ENVIRONMENT


def disagreements(
    first: AnyReport, second: AnyReport, tolerance: float = SAME_ENVIRONMENT, *, elsewhere: bool = False
) -> Texts:
    """List the differences between a report and a second run. Each is in words; empty if there are none.

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
    stated = ruling(first.verdict)
    given = ruling(second.verdict)
    if stated != given:
        differences.append(f"verdict {stated} against {given}")
    assert first.binding is not None
    theirs = _compared(first)
    ours = _compared(second)
    same_words = first.tool_version == second.tool_version
    for report, form in ((first, theirs), (second, ours)):
        if isinstance(report, CompareReport):
            _leave_out_of_comparison(report, form, elsewhere=elsewhere)
        elif elsewhere:
            _leave_out_environment(report, form, same_words=same_words)
    return (*differences, *_walk(theirs, ours, "", tolerance, second.profile))


def _compared(report: AnyReport) -> Fields:
    """Return a report's JSON form for comparison.

    What no second run can know is left out, and two honest runs have the same form.
    """
    form = report.model_dump(mode="json")
    settings = form["binding"]["settings"]
    # of the verdict its ruling counts here; `edits` judges the evidence again
    _leave_out(form, "time", "gate", "verdict", "binding.result_digest")
    own = memory_note(report.evidence.model.file)  # the second run has a file
    form["notes"] = [note for note in form["notes"] if not note.startswith(OTHER_NOTES) and note not in own]
    settings["images"] = _last_part(settings["images"])
    is_file = settings["preprocess"] is not None and settings["preprocess"] not in PRESETS  # it lies there, not here
    if is_file:
        settings["preprocess"] = ""
    for evidence in _evidence_in(form):
        _leave_out(evidence, "model.file", "model.origin")
        evidence["images"]["source"] = _last_part(evidence["images"]["source"])
        if is_file:
            _leave_out_places(evidence["preprocessing"])
            _leave_out(evidence, "preprocessing.origin")
    return form


def _evidence_in(form: Fields) -> list[Fields]:
    """Return the evidence in a report's JSON form: one, or those of a comparison's two sides."""
    if "evidence" in form:
        return [form["evidence"]]
    return [form[side]["evidence"] for side in SIDES]


def _leave_out(form: Fields, *paths: str) -> None:
    for path in paths:
        *above, last = path.split(".")
        del functools.reduce(operator.getitem, above, form)[last]


def _leave_out_places(preprocessing: Fields) -> None:
    """Leave out where each field of a preprocessing is stated."""
    preprocessing["fields"] = [field[:2] for field in preprocessing["fields"]]


def _last_part(source: str | None) -> str | None:
    return None if source is None else PurePath(os.path.normpath(source)).name


def _leave_out_of_comparison(report: CompareReport, form: Fields, *, elsewhere: bool) -> None:
    """Leave out of a comparison's form its sentences, which hold rounded numbers, and the names of files.

    elsewhere: also what the environment changes. Of the index verdict its answer and the reasons count then.
    """
    _leave_out(form, "notes", "baseline")
    _leave_out(form, *(f"{side}.verdict" for side in SIDES))
    if (index := form["index"]) is not None:
        _leave_out(index, "ran", "differs", "options.file", "options.text")
        index["reasons"] = sorted(reason["id"] for reason in index["reasons"])
    if not elsewhere:
        return
    _leave_out(form, "claim", *ENVIRONMENT)
    for side, evidence in zip((report.candidate, report.reference), _evidence_in(form), strict=True):
        _leave_out_of_machine(side.evidence, evidence)
    form["features"] = [[feature["index"], feature["fate"]] for feature in form["features"]]
    if index is not None:
        form["index"] = {name: index[name] for name in ("verdict", "reasons", "file_digest", "text_digest")}


def _leave_out_of_machine(evidence: Evidence, form: Fields) -> None:
    """Leave out of the form of evidence what another machine, version or place changes."""
    form["execution"] = form["execution"]["precision"]
    _leave_out(form, *ENVIRONMENT_OF_EVIDENCE)
    persistent = evidence.statistics.persistent
    form["statistics"]["features"] = sorted(feature.index for feature in persistent)
    shown = form["gallery"]["shown"] if form["gallery"] else []
    form["gallery"] = [image["name"] for image in shown]
    findings = form["images"]["sanity"]["findings"]
    form["images"]["sanity"] = sorted(finding["id"] for finding in findings)


def _leave_out_environment(report: Report, form: Fields, *, same_words: bool) -> None:
    """Leave out of a form what the environment changes.

    Another machine, version or place changes it though the report is true.
    """
    evidence = form["evidence"]
    _leave_out_of_machine(report.evidence, evidence)
    _leave_out(form, *ENVIRONMENT)
    execution = report.evidence.execution
    pairs = report.evidence.model.saturating_pairs
    machine = execution_notes(execution) + int8_notes(pairs, execution)
    form["notes"] = [note for note in form["notes"] if note not in machine]
    if not same_words:
        _leave_out(form, "notes", "claim", "reference", "published", "evidence.model.why")
        _leave_out_places(evidence["preprocessing"])


def _walk(theirs: Any, ours: Any, path: str, tolerance: float, profile: Profile) -> Iterator[str]:
    """Yield each difference of two JSON values with its path. Types count: true is not 1, and 1 is not 1.0."""
    same_type = type(theirs) is type(ours)
    if same_type and isinstance(theirs, Mapping):
        for name in sorted(theirs.keys() | ours.keys()):
            inner = f"{path}.{name}" if path else name
            if name in theirs and name in ours:
                yield from _walk(theirs[name], ours[name], inner, tolerance, profile)
            else:
                yield f"{inner} is only in the {'report' if name in theirs else 'second run'}"
    elif same_type and isinstance(theirs, list | tuple):
        if len(theirs) != len(ours):
            yield f"{path} has {len(theirs)} entries against {len(ours)}"
            return
        for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from _walk(one, other, f"{path}[{index}]", tolerance, profile)
    elif not (same_type and _is_same(theirs, ours, path, tolerance, profile)):
        yield f"{path} {_shown(theirs)} against {_shown(ours)}"


def _is_same(theirs: Any, ours: Any, path: str, tolerance: float, profile: Profile) -> bool:
    """Return whether two values of one type agree. A measured number may differ by the tolerance."""
    for side in SIDES:
        path = path.removeprefix(f"{side}.")
    if not (isinstance(theirs, float) and path.startswith(MEASURED) and path != EXACT):
        return bool(theirs == ours)
    absolute = ROUNDED if ".z[" in path else tolerance * _scale(path, profile)
    return math.isclose(theirs, ours, rel_tol=tolerance, abs_tol=absolute)


def _scale(path: str, profile: Profile) -> float:
    """Return the number below which its tolerance is absolute: its threshold, else 1."""
    statistic = path.removeprefix("evidence.statistics.").partition(".")[0]
    threshold = profile.thresholds.get(statistic) if statistic in STATISTICS else None
    return threshold.minimum if threshold else 1.0


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}…"


def measure_again(
    report: AnyReport,
    model: Path,
    images: str | None,
    *,
    reference: Path | None = None,
    device: str | None = None,
    progress: Tell | None = None,
) -> AnyReport:
    """Measure again with a report's settings. Its profile judges; all of it runs in this process.

    Args:
        report: a report with its settings (`binding`).
        model, images: what the settings are applied to.
        reference: of a comparison, the reference or the baseline.
        device: instead of the one in the settings; None = that one.
        progress: called after every batch.

    Raises:
        UsageError, CannotAssessError, EnvironmentFaultError: as `check`, or `compare`.
    """
    assert report.binding is not None
    settings = report.binding.settings
    with tempfile.TemporaryDirectory() as folder:
        preprocess = settings.preprocess
        if preprocess is not None and preprocess not in PRESETS:  # the name of a file that may not be on this machine
            file = Path(folder) / "preprocessing.json"
            file.write_text(report.evidence.preprocessing.preprocessing.model_dump_json(), encoding="utf-8")
            preprocess = str(file)
        changed = {"images": images, "preprocess": preprocess, "device": device or settings.device}
        options: Fields = settings.model_copy(update=changed).options.keywords
        options |= {"thresholds": report.profile, "isolate": False, "progress": progress}
        if isinstance(report, Report):
            return pipeline.check(model, **options)
        if report.index is not None:
            options["index"] = report.index.options
        options |= {"tolerance": report.tolerance, "require": report.required}
        if report.baseline:
            return compare(model, baseline=reference, **options)
        return compare(model, reference, **options)
