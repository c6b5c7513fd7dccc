"""Look at devices: execution providers, cores, and what the NVIDIA driver says of GPUs, without torch and CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import io
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from robustcheck_onnx.checker.errors import UsageError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
DEVICES = ("auto", "cpu", "cuda", "cuda:0", "tensorrt")
TIMEOUT_S = 10  # a driver that is being reset can hang nvidia-smi


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    memory_mib: int | None
    memory_free_mib: int | None
    driver: str


def device_providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """List ONNX Runtime's providers for a device, with options that make results repeatable.

    Raises:
        UsageError: no such device.
    """
    name, _, index = device.partition(":")
    if device in ("cpu", "tensorrt", "auto", "cuda") or (name == "cuda" and index.isdigit()):
        options = {"device_id": index or "0"}
        # the default, EXHAUSTIVE, picks convolution kernels by timing them: another pick, another sum
        cuda = (CUDA, options | {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"})
        gpu = [(TENSORRT, options), cuda] if name == "tensorrt" else [cuda]
        return [CPU] if device == "cpu" else [*gpu, CPU]
    close = difflib.get_close_matches(device, DEVICES, n=1)
    raise UsageError(
        f"--device is {device!r}; it must be auto, cpu, cuda, cuda:N or tensorrt",
        f"--device {close[0] if close else 'auto'}",
    )


def provider_of(device: str) -> str:
    """Name the provider that a device means. Raises UsageError: no such device."""
    first = device_providers(device)[0]
    return first if isinstance(first, str) else first[0]


def expects_gpu(device: str) -> bool:
    """Whether a session on `device` should get a GPU; only the session proves it. Raises UsageError: no such device."""
    return provider_of(device) != CPU and not why_missing(provider_of(device))


def why_missing(provider: str) -> str:
    """Say why a GPU provider can't be there; "" where that does not show before a session is made."""
    if provider not in ort.get_available_providers():
        return f"the installed ONNX Runtime {ort.__version__} has no {provider} (pip install onnxruntime-gpu)"
    library = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver is there ({library} can't be loaded)"
    return ""


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


def gpu_name(device: str) -> str:
    """Name the GPU that a device means, as the driver does."""
    index = int(device.partition(":")[2] or 0)
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
