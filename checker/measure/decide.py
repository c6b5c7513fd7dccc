"""Measure until the evidence decides: the loop of a check, which looks at its numbers while they grow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from robustcheck_onnx.checker.evidence import Statistics
from robustcheck_onnx.checker.images.source import Skipped
from robustcheck_onnx.checker.isolation import LOG
from robustcheck_onnx.checker.progress import Tell
from robustcheck_onnx.checker.statistics import is_look
from robustcheck_onnx.checker.statistics import state as sums
from robustcheck_onnx.checker.verdict import NAMES, decided
from robustcheck_onnx.thresholds.profile import Profile

from . import content
from .job import Measurement, nothing_yet
from .prepared import Prepared
from .run import Opened, Watch, add_batch, batches


def until_decided(
    opened: Opened,
    profile: Profile,
    decoded: Iterable[Prepared | Skipped],
    progress: Tell | None,
    watch: Watch | None,
) -> tuple[Measurement, bool]:
    """Measure until the evidence decides (True) or the images end (False)."""
    total = nothing_yet(1)
    enough_varied = False
    closest = [""]  # of the last look, for the progress
    of_images = batches(
        decoded,
        total.images,
        opened.job.options.batch_size,
        n_images=len(opened.source),
        first_look=profile.min_images,
        progress=progress,
        label=lambda: closest[-1],
    )
    for batch in of_images:
        add_batch(opened, total, batch, watch)
        state, n_usable = total.states[0], total.images.n_usable
        if not is_look(n_usable, profile.min_images) or state is None or state.n < 2:
            continue
        measured = sums.statistics(state, profile.alpha, profile.bounds)
        closest.append(_closest(measured, profile))
        LOG.debug("%s: look at %d images: %s", opened.job.model, n_usable, closest[-1] or "no bound yet")
        if decided(measured, profile):
            # asked last, and only until it holds: counting varied images compares all pairs
            enough_varied = enough_varied or (
                total.images.sanity.facts().n_varied >= profile.min_images and content.is_complete(total.contents[0])
            )
            if enough_varied:
                return total, True
    return total, False


def likely_stops(profile: Profile) -> tuple[int, int]:
    """The first two looks: a clear case is decided at one of them, and nothing is decoded beyond it in vain."""
    second = next(n for n in itertools.count(profile.min_images + 1) if is_look(n, profile.min_images))
    return profile.min_images, second


def _closest(statistics: Statistics, profile: Profile) -> str:
    """The statistic whose interval is closest to its threshold, for the progress line."""
    gaps = []
    for name in profile.deciding:
        interval, limits = getattr(statistics, name), profile.limits_of(name)
        if interval.low is not None and interval.high is not None:
            inside = min(interval.low - limits.minimum, limits.maximum - interval.high)
            outside = max(limits.minimum - interval.high, interval.low - limits.maximum)
            gap = max(inside, outside) / (interval.high - interval.low + 1e-12)
            gaps.append(
                (gap, f"{NAMES[name]} {interval.low:.3g}–{interval.high:.3g} against {str(limits).removeprefix('> ')}")
            )
    return min(gaps)[1] if gaps else ""
