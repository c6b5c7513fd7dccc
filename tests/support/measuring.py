"""What several tests of measuring share: a profile that never decides, a run in parts, outcomes by name."""

from __future__ import annotations

from dataclasses import replace

from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import Measurement, Outcome, nothing_yet
from robustcheck_onnx.thresholds import profile


def never_decided() -> profile.Profile:
    """The default profile, but for the number of images that it asks for: all are measured."""
    return profile.seal(profile.load().model_copy(update={"id": "all", "min_images": 10**6}))


def parts(opened: measure.Opened, *spans: tuple[int, int]) -> list[Measurement]:
    """A measurement of one tensor for each span of the images."""
    found = []
    for start, end in spans:
        part = nothing_yet(1)
        piece = replace(opened.source, entries=opened.source.entries[start:end])
        for _ in measure.batches(opened, part, measure.decode(opened, piece)):
            pass
        found.append(part)
    return found


def by_name(outcomes: list[Outcome]) -> dict[str, Outcome]:
    """Each outcome by its model's name, which no two share."""
    found = {outcome.job.model.stem: outcome for outcome in outcomes}
    assert len(found) == len(outcomes)
    return found
