"""Turn models and image sets into evidence. The room has the loop, its jobs, workers, and Ray.

Comes in: a `Job`. May import: runtime, verdict (when to stop), and what is below them. Judges nothing.
"""

from __future__ import annotations

from robustcheck_onnx.checker.isolation import Progress, Tell, tell_stage

from . import content
from .collect import Collected, collect, difference_of_head, read_head_input
from .gallery import Rows
from .job import (
    ImagesRead,
    Job,
    Measurement,
    conclude,
    named_skips,
    versions,
)
from .prepared import Prepared, stack
from .run import (
    Inputs,
    Opened,
    batches,
    decode,
    decode_with,
    key_of,
    likely_stops,
    measure_images,
    model_facts,
    model_read,
    open_job,
    open_sessions,
    prepare_item,
    probe,
    read_inputs,
    settle,
    take_probe,
    until_decided,
    usable,
)
from .workers import measure_all, run_jobs
