"""Name the devices of this machine, and find why one is missing.

What `--device` names is read here: execution providers and their options. The hardware (cores, and GPUs by NVIDIA's
driver) is read without torch and CUDA.
"""

import ctypes
import io
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import field
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx.numpy_helper import from_array
from onnx.parser import parse_model
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ...errors import UsageError
from ...text import frozen
from ..evidence import Int8Sums

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
SUFFIX = "ExecutionProvider"
PROVIDERS: Mapping[str, tuple[str, str]] = {
    "cpu": (CPU, "onnxruntime"),
    "cuda": (CUDA, "onnxruntime-gpu"),
    "tensorrt": (TENSORRT, "onnxruntime-gpu"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime on macOS"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "migraphx": ("MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    "qnn": ("QNNExecutionProvider", "onnxruntime-qnn"),
    "webgpu": ("WebGpuExecutionProvider", "onnxruntime-webgpu"),
}
"""Devices by name: the provider, and the package that has it. Other providers of the installed ONNX Runtime go by their
own name, in small letters and without "ExecutionProvider"."""
SYNONYMS = {"gpu": "cuda", "nvidia": "cuda"}
REMOTE = frozenset(("AzureExecutionProvider",))  # sends what it is given to another machine
PLACE_OPTION = {"openvino": "device_type"}  # what follows the colon; a GPU's number everywhere else
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    # the default, EXHAUSTIVE, picks convolution kernels by timing them: another pick, another sum
    CUDA: {"device_id": "0", "cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"},
    TENSORRT: {"device_id": "0"},
    "OpenVINOExecutionProvider": {"device_type": "CPU", "precision": "FP32"},
}
"""Options that make results repeatable, and as exact as the model says"""
_DEVICE = re.compile(r"(?P<name>[A-Za-z0-9_]+)(?::(?P<place>[A-Za-z0-9_.]+))?(?P<options>(?:,\w+=[^,=]+)*)")


@frozen
class Device:
    """A device, as `--device` and `--provider-option` name it."""

    provider: str
    """that a session must have got; CUDA for `auto`, which may fall back"""
    place: str = ""
    """the GPU's number, or the kind of device"""
    is_auto: bool = False
    options: dict[str, str] = field(default_factory=dict)
    """of the provider"""

    @property
    def is_gpu(self) -> bool:
        """Return whether it is or may be an NVIDIA GPU."""
        return self.provider in (CUDA, TENSORRT)

    @property
    def providers(self) -> list[str | tuple[str, dict[str, str]]]:
        """Return the providers to ask for, in order."""
        if self.provider == CPU:
            return [CPU]
        wanted = [(self.provider, self.options)]
        if self.provider == TENSORRT:  # takes what it can, and leaves the rest
            wanted.append((CUDA, {**DEFAULTS[CUDA], "device_id": self.options["device_id"]}))
        return [*wanted, CPU]

    def shown(self, obtained: str) -> str:
        """Return the name of what a session runs on. `obtained` is its first provider."""
        if obtained in (CUDA, TENSORRT):
            return gpu_name(int(self.options["device_id"]))
        kind = self.options.get("device_type", "CPU")
        on_cpu = obtained == CPU or (obtained == self.provider and kind == "CPU")
        return cpu_name() if on_cpu else f"{obtained} {self.place}".strip()


def parse_device(text: str) -> Device:
    """Read NAME[:PLACE][,KEY=VALUE…]: auto, cpu, cuda, cuda:1, openvino:GPU, "cuda,use_tf32=1".

    Raises:
        UsageError: no such device; something after a colon where nothing can follow; options of the CPU or of `auto`.
    """
    match = _DEVICE.fullmatch(text)
    name = match["name"].lower() if match else ""
    providers = _providers_by_name()
    if match is None or name not in providers:
        installed = ", ".join(sorted({*map(_name_of, _available())} - {"cpu"})) or "it has none"
        raise UsageError(
            f"--device is {text!r}; it must be auto, cpu, cuda, cuda:N or tensorrt, or another execution provider that "
            f"the installed ONNX Runtime has ({installed})",
            f"--device {_nearest(text, providers)}",
        )
    provider = providers[name]
    place = match["place"] or ""
    user_options = dict(part.split("=") for part in match["options"].split(",") if part)
    if provider == CPU or name == "auto":
        if place or user_options:
            message = f"--device is {text!r}; {name} has no number and no options"
            raise UsageError(message, f"--device {name}, or --device cuda")
        return Device(provider=provider, is_auto=name == "auto", options=dict(DEFAULTS.get(provider, {})))
    key = PLACE_OPTION.get(name, "device_id")
    if place and key == "device_id" and not place.isdecimal():
        raise UsageError(f"--device is {text!r}; a device's number follows the colon", f"--device {name}:0")
    options = dict(DEFAULTS.get(provider, {}))
    if place:
        options[key] = place
    return Device(provider=provider, place=place, options=options | user_options)


def _nearest(text: str, names: Iterable[str]) -> str:
    """Return the device that somebody may have meant."""
    word = text.lower().partition(",")[0].removesuffix(SUFFIX.lower())
    if word.isdecimal():
        return f"cuda:{word}"
    near = get_close_matches(word.partition(":")[0], (*names, *SYNONYMS), 1, 0.75) or ["auto"]
    return SYNONYMS.get(near[0], near[0])


def expects_accelerator(device: str) -> bool:
    """Return whether a device should be an accelerator, which only the session proves.

    Raises UsageError: no such device.
    """
    provider = parse_device(device).provider
    return provider != CPU and not why_missing(provider)


def why_missing(provider: str) -> str:
    """Return why a provider can't be there: "" where that does not show before a session is made."""
    if provider not in ort.get_available_providers():
        install = "".join(f" (pip install {package})" for name, package in PROVIDERS.values() if name == provider)
        return f"the installed ONNX Runtime {ort.__version__} has no {provider}{install}"
    if provider not in (CUDA, TENSORRT):
        return ""
    library = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver is there ({library} can't be loaded)"
    return ""


def _available() -> list[str]:
    return [provider for provider in ort.get_available_providers() if provider not in REMOTE]


def _name_of(provider: str) -> str:
    for name, (full_name, _) in PROVIDERS.items():
        if full_name == provider:
            return name
    return provider.removesuffix(SUFFIX).lower()


def _providers_by_name() -> dict[str, str]:
    """Return every name of a device, with its provider."""
    names = {"auto": CUDA}
    for name, (provider, _) in PROVIDERS.items():
        names[name] = provider
    for provider in _available():
        names[_name_of(provider)] = provider
    return names


TIMEOUT_S = 10  # a driver that is being reset can hang nvidia-smi


@frozen
class Gpu:
    """A GPU."""

    index: int
    name: str
    memory_mib: int | None
    memory_free_mib: int | None
    driver: str


def preload_cuda() -> None:
    """Load CUDA and cuDNN from NVIDIA's Python packages, where ONNX Runtime can do that."""
    if hasattr(ort, "preload_dlls"):
        # it prints what it does not find; the session's providers are the proof, not its words
        with redirect_stdout(io.StringIO()):
            ort.preload_dlls(directory="")


def cpu_threads() -> int:
    """Count the cores that this process may use, a container's share of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's name, or its architecture where the system gives no name."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


def list_gpus() -> tuple[Gpu, ...]:
    """List the GPUs that nvidia-smi knows: none without a driver, or where it does not answer."""
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
    """Return the driver's name of a GPU, whose number counts the GPUs that this process may see."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    visible = [part.strip() for part in listed if part.strip()]
    if index < len(visible) and visible[index].isdigit():
        index = int(visible[index])
    return next((gpu.name for gpu in list_gpus() if gpu.index == index), "NVIDIA GPU")


def ask_nvidia_smi(*arguments: str) -> str:
    """Run nvidia-smi and return its output: "" where it is missing, fails or does not answer."""
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


def device_memory(session: ort.InferenceSession) -> tuple[str, int]:
    """Return where a session has its tensors, as ONNX Runtime's binding names a kind of device and its number."""
    first = session.get_providers()[0]
    if first not in (CUDA, TENSORRT):  # it takes arrays from the processor's memory
        return "cpu", 0
    options = session.get_provider_options()[first]
    return "cuda", int(options.get("device_id", 0))


ORT_FATAL = 4  # ONNX Runtime's quietest log level; errors come as exceptions anyway
_FAILURES = (
    "Fail InvalidArgument NoSuchFile NoModel EngineError RuntimeException InvalidProtobuf ModelLoaded "
    "NotImplemented InvalidGraph EPFail"
)
RUN_ERRORS: tuple[type[Exception], ...] = (  # what loading or running a model raises
    *(getattr(ort_state, name) for name in _FAILURES.split() if hasattr(ort_state, name)),
    MemoryError,
    RuntimeError,
    ValueError,
)


TERMS = 64  # of the sum that is tried
LARGEST_UINT8 = np.uint8(255)  # of activations
LARGEST_INT8 = np.int8(127)  # of weights that ONNX Runtime quantises
EXACT_SUMS = "session.x64quantprecision"  # with it a session takes int8 weights as uint8, whose sums do not saturate


@cache
def int8_sums() -> Int8Sums:
    """Measure the sum of 64 products 255 · 127 on the CPU, as a share of the exact sum.

    On x86 CPUs without VNNI, ONNX Runtime adds pairs of such products in 16 bits, which saturate at 32767.
    """
    return Int8Sums(plain=_share_of_exact_sum(), exact=_share_of_exact_sum(EXACT_SUMS))


def _share_of_exact_sum(*switched_on: str) -> float:
    """Compute the sum in a session with these entries of its config."""
    head = '<ir_version: 8, opset_import: ["" : 13]>'
    model = parse_model(f"{head} probe (uint8[1, {TERMS}] x) => (int32[1, 1] y) {{ y = MatMulInteger(x, w) }}")
    model.graph.initializer.append(from_array(np.full((TERMS, 1), LARGEST_INT8), "w"))
    options = ort.SessionOptions()
    options.log_severity_level = ORT_FATAL
    options.intra_op_num_threads = 1
    for entry in switched_on:
        options.add_session_config_entry(entry, "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    (total,) = session.run(None, {"x": np.full((1, TERMS), LARGEST_UINT8)})
    return float(total.item() / (TERMS * int(LARGEST_UINT8) * int(LARGEST_INT8)))
