"""What the NVIDIA driver says about the machine's GPUs, without torch and without CUDA."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

TIMEOUT_S = 10  # a driver that is being reset can hang nvidia-smi


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    memory_mib: int | None
    memory_free_mib: int | None
    driver: str


def list_gpus() -> tuple[Gpu, ...]:
    """The GPUs that nvidia-smi lists; empty where there is no driver, or it does not answer."""
    lines = ask_nvidia_smi(
        "--query-gpu=index,name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"
    )
    return parse_gpus(lines)


def parse_gpus(lines: str) -> tuple[Gpu, ...]:
    """Rows of `nvidia-smi --query-gpu=index,name,memory.total,memory.free,driver_version` as CSV, MiB."""
    gpus = []
    for line in lines.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 5 and cells[0].isdigit():
            total, free = (int(cell) if cell.isdigit() else None for cell in cells[2:4])
            gpus.append(Gpu(int(cells[0]), cells[1], total, free, cells[4]))
    return tuple(gpus)


def ask_nvidia_smi(*arguments: str) -> str:
    """What nvidia-smi prints, "" where it is missing, fails or does not answer."""
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
