"""ONNX Runtime: devices, sessions, forward passes.

Comes in: an opened model and pixels; out go representations (image, feature). May import: model and what is below it.
"""

from __future__ import annotations

from .doctor import Finding
from .head import LinearHead, head_from_file, read_head, score_difference
from .runner import SAME_OUTPUT, Runner, RunOutput, scales_over_batch
from .session import CPU, cpu_name, cpu_threads, expects_accelerator, list_gpus, parse_device
