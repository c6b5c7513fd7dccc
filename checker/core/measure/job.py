"""Say what is measured: a job is one model on one image set, and an outcome is what came of it.

A shard is a contiguous piece of the seeded order of the images. Both engines cut a job into the same shards and merge
them in their order, so one machine or many give the same evidence. A check measures in one piece: its two-sidedness
goes by its first images, which a merged sum does not know (`statistics.state.merge`).
"""

from __future__ import annotations

import platform
from dataclasses import field
from importlib.metadata import version
from pathlib import Path

from ...errors import CannotAssessError, RobustcheckError
from ...text import VERSION, frozen
from ..evidence import Evidence
from ..options import Options
from ..statistics.intervals import LOOK_EVERY

SHARD_IMAGES = 32 * LOOK_EVERY
"""Images of a shard, 512: whole looks, so that a shard's batches are those of a single run; some seconds of work, so
that a lost worker costs little and an opened model, not its loading, is what takes time."""


@frozen
class Job:
    """A model and an image set to measure."""

    model: Path
    options: Options = field(default_factory=Options)
    named: tuple[str | None, ...] | None = None
    """tensors to measure in one run, None for the one found by rule; None alone = the one of the options"""
    other_models: tuple[Path, ...] | None = None
    """where the other models of a copy's folders would be; None = those that are on the disk"""

    @property
    def tensors(self) -> tuple[str | None, ...]:
        """Return the measured tensors, in this order."""
        return (self.options.tensor,) if self.named is None else self.named


TRIES = 2  # times a job or shard is begun whose worker process ends without a word


@frozen
class Outcome:
    """The outcome of one job."""

    job: Job
    evidence: tuple[Evidence, ...]
    """one a tensor; empty if the job failed"""
    error: RobustcheckError | None
    wall_s: float
    """from the job's start to its end"""


def died(job: Job) -> CannotAssessError:
    """Return the error of a job whose worker processes ended without a message."""
    return CannotAssessError(
        f"{job.model}: worker process ended {TRIES} times while it measured this model; a crash in native code or "
        "too little memory is a usual cause",
        f"robustcheck {job.model} --batch-size 1",
    )


def versions() -> dict[str, str]:
    """Return the versions of everything that computes here."""
    import onnxruntime  # noqa: PLC0415 # two distributions hold this package: only it knows its version

    installed = {name: version(name) for name in ("numpy", "onnx", "Pillow")}
    installed |= {"robustcheck": VERSION, "onnxruntime": onnxruntime.__version__, "python": platform.python_version()}
    return dict(sorted(installed.items()))
