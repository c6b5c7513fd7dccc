"""ONNX Runtime: devices, sessions, forward passes.

Comes in: an opened model and pixels; out go representations (image, feature). May import: model and what is below it.
"""

from __future__ import annotations

from .device import cpu_name, cpu_threads, list_gpus
from .doctor import Finding
from .dynamic import scales_over_batch
from .head import LinearHead, head_from_file, read_head, score_difference
from .providers import CPU, expects_accelerator, parse_device
from .runner import SAME_OUTPUT, Runner, RunOutput
