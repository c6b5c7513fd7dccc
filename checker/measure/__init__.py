"""A model and an image set become evidence: the loop, its jobs, workers, Ray, the cache, detectors.

Comes in: a `Job`. May import: runtime, verdict (when to stop), and what is below them. Judges nothing.
"""

from __future__ import annotations

from .detectors import Loaded
from .job import Job, JobProgress, Measurement, Progress, conclude, nothing_yet, versions
from .prepared import Prepared, prepare, stack
from .run import Opened
from .workers import measure_all

__all__ = [
    "Job",
    "JobProgress",
    "Loaded",
    "Measurement",
    "Opened",
    "Prepared",
    "Progress",
    "conclude",
    "measure_all",
    "nothing_yet",
    "prepare",
    "stack",
    "versions",
]
