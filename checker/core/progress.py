"""How far a run is, and the log that follows it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..text import frozen

LOG = logging.getLogger("robustcheck")
LOG.addHandler(logging.NullHandler())


@frozen
class Progress:
    """The progress of a run. The callback gets it after every batch, and when a stage without one begins."""

    n_done: int
    n_total: int
    """images in all; 0 in a stage that counts none"""
    images_per_s: float
    interval: str
    """the statistic that is closest to its threshold, in words; empty before the first look"""
    stage: str = ""
    """what is done before the first batch is through, in words; empty from then on"""


Tell = Callable[[Progress], None]
"""takes a run's progress"""
TellLine = Callable[[str], None]
"""takes a line about what is going on, such as how far a fetch is"""


def tell_stage(progress: Tell | None, words: str, n_done: int = 0, n_total: int = 0) -> None:
    """Report a stage, with the images that are done where it counts them."""
    if progress is not None:
        progress(Progress(n_done, n_total, 0.0, "", words))
