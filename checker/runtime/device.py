"""Look at the hardware: cores, and what the NVIDIA driver says of GPUs, without torch and CUDA."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

TIMEOUT_S = 10  # a driver that is being reset can hang nvidia-smi


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    memory_mib: int | None
    memory_free_mib: int | None
    driver: str


def preload_cuda() -> None:
    """Load CUDA and cuDNN from NVIDIA's Python packages, where this ONNX Runtime can."""
    if hasattr(ort, "preload_dlls"):
        # it prints what it does not find; the session's providers are the proof, not its words
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls(directory="")


def cpu_threads() -> int:
    """Count the cores that this process may use (a container's share, not the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Name the processor, or its architecture where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


def list_gpus() -> tuple[Gpu, ...]:
    """List the GPUs that nvidia-smi knows; none where there is no driver, or it does not answer."""
    lines = ask_nvidia_smi(
        "--query-gpu=index,name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"
    )
    return parse_gpus(lines)


def parse_gpus(lines: str) -> tuple[Gpu, ...]:
    """Read the rows of `nvidia-smi --query-gpu=index,name,memory.total,memory.free,driver_version` as CSV, MiB."""
    gpus = []
    for line in lines.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 5 and cells[0].isdigit():
            total, free = (int(cell) if cell.isdigit() else None for cell in cells[2:4])
            gpus.append(Gpu(int(cells[0]), cells[1], total, free, cells[4]))
    return tuple(gpus)


def gpu_name(index: int) -> str:
    """Name the GPU of this number among those that this process may see, as the driver does."""
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    if visible and index < len(visible) and visible[index].isdigit():
        index = int(visible[index])
    return next((gpu.name for gpu in list_gpus() if gpu.index == index), "NVIDIA GPU")


def ask_nvidia_smi(*arguments: str) -> str:
    """Run nvidia-smi and give what it prints; "" where it is missing, fails or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 # fixed arguments, no shell
            [program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
