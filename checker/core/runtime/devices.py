"""Name the devices of this machine, and find why one is missing.

What `--device` names is read here: execution providers, their options, and why one is missing. The hardware (cores, and
GPUs by NVIDIA's driver) is read without torch and CUDA. The findings of `doctor` are facts about the environment, and a
command to type for each fault.
"""

import ctypes
import io
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import field
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import onnxruntime as ort
from onnx.numpy_helper import from_array
from onnx.parser import parse_model
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from ....thresholds.records import Frozen
from ...errors import UsageError
from ...text import Texts, frozen
from ..evidence import Int8Sums
from ..model.open import supported_versions

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
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
        word = text.lower().partition(",")[0].removesuffix(SUFFIX.lower())
        near = ["cuda" if word in ("gpu", "nvidia") else f"cuda:{word}" if word.isdecimal() else word.partition(":")[0]]
        if near[0].partition(":")[0] not in providers:
            near = get_close_matches(word, providers, 1, 0.75)
        installed = ", ".join(sorted({*map(_name_of, _available())} - {"cpu"})) or "it has none"
        raise UsageError(
            f"--device is {text!r}; it must be auto, cpu, cuda, cuda:N or tensorrt, or another execution provider that "
            f"the installed ONNX Runtime has ({installed})",
            f"--device {near[0] if near else 'auto'}",
        )
    provider, place = providers[name], match["place"] or ""
    user_options = dict(part.split("=") for part in match["options"].split(",") if part)
    if provider == CPU or name == "auto":
        if place or user_options:
            raise UsageError(
                f"--device is {text!r}; {name} has no number and no options", f"--device {name}, or --device cuda"
            )
        return Device(provider=provider, is_auto=name == "auto", options=dict(DEFAULTS.get(provider, {})))
    key = PLACE_OPTION.get(name, "device_id")
    if place and key == "device_id" and not place.isdecimal():
        raise UsageError(f"--device is {text!r}; a device's number follows the colon", f"--device {name}:0")
    options = {**DEFAULTS.get(provider, {}), **({key: place} if place else {}), **user_options}
    return Device(provider=provider, place=place, options=options)


def expects_accelerator(device: str) -> bool:
    """Return whether a device should be an accelerator.

    Only the session proves that it is. Only the session proves that it does.

    Raises UsageError: no such device.
    """
    provider = parse_device(device).provider
    return provider != CPU and not why_missing(provider)


def why_missing(provider: str) -> str:
    """Return why a provider can't be there. "" where that does not show before a session is made."""
    if provider not in ort.get_available_providers():
        package = next((package for name, package in PROVIDERS.values() if name == provider), "")
        install = f" (pip install {package})" if package else ""
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
    named = {full_name: name for name, (full_name, _) in PROVIDERS.items()}
    return named.get(provider, provider.removesuffix(SUFFIX).lower())


def _providers_by_name() -> dict[str, str]:
    """Return every name of a device, with its provider."""
    of_package = {_name_of(provider): provider for provider in _available()}
    return {"auto": CUDA} | {name: provider for name, (provider, _) in PROVIDERS.items()} | of_package


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
    """Load CUDA and cuDNN from NVIDIA's Python packages. Not every ONNX Runtime can do that."""
    if hasattr(ort, "preload_dlls"):
        # it prints what it does not find; the session's providers are the proof, not its words
        with redirect_stdout(io.StringIO()):
            ort.preload_dlls(directory="")


def cpu_threads() -> int:
    """Count the cores that this process may use. They are a container's share, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's name. It is the architecture where the system gives no name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


def list_gpus() -> tuple[Gpu, ...]:
    """List the GPUs that nvidia-smi knows. There are none without a driver, or where it does not answer."""
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
    """Return the driver's name of a GPU. Its number counts the GPUs that this process may see."""
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    if visible and index < len(visible) and visible[index].isdigit():
        index = int(visible[index])
    return next((gpu.name for gpu in list_gpus() if gpu.index == index), "NVIDIA GPU")


def ask_nvidia_smi(*arguments: str) -> str:
    """Run nvidia-smi and return its output. "" where it is missing, fails or does not answer."""
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
    """Return where a session has its tensors.

    ONNX Runtime's binding names a kind of device and its number.
    """
    first = session.get_providers()[0]
    if first not in (CUDA, TENSORRT):  # it takes arrays from the processor's memory
        return "cpu", 0
    return "cuda", int(session.get_provider_options()[first].get("device_id", 0))


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


OURS = ("robustcheck-onnx", "robustcheck-onnx-cpu")  # the same code, with a large and a small ONNX Runtime
PACKAGES = (*OURS, "numpy", "onnx", "Pillow", "pydantic", "rich", "typer")
CUDA_WHEELS = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu13")
CUDNN_WHEELS = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
WITH_CUDA = "onnxruntime-gpu[cuda,cudnn]"
GPU_INSTALL = f"pip install '{WITH_CUDA}'"


class MachineFinding(Frozen):
    """A judged fact about the environment."""

    check: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""
    """a command to type; empty when there is nothing to fix"""


@frozen
class Facts:
    """The facts of an environment, not judged. Versions are empty where a package is not installed."""

    python: str
    asked: str
    """the flavour of ONNX Runtime that robustcheck asks for here"""
    packages: dict[str, str]
    wheels: dict[str, str]
    """distributions that hold the import package onnxruntime: it has several flavours, of which one can be there"""
    runtime: str
    runtime_cuda: str
    """CUDA that ONNX Runtime was built for"""
    providers: Texts
    opset: int | None
    gpus: tuple[Gpu, ...]
    driver_cuda: str
    """newest CUDA that the driver runs"""
    cuda_wheels: dict[str, str]
    torch: str
    cuda_fault: str | None
    """why a tiny model did not run on CUDA, "" when it did, None when it was not tried"""
    cpu: str
    threads: int
    cores: int
    int8_sums: Int8Sums


def diagnose() -> tuple[MachineFinding, ...]:
    """Examine this environment: wheels, providers, driver, CUDA, packages, processor. torch is not imported."""
    return examine(gather())


def gather() -> Facts:
    """Look at this environment, without judging."""
    gpus = list_gpus()
    header = re.search(r"CUDA(?: UMD)? Version:\s*([\d.]+)", ask_nvidia_smi()) if gpus else None
    providers = tuple(ort.get_available_providers())
    packages = _versions(PACKAGES)
    is_large = OURS[0] in packages and platform.machine() in ("x86_64", "AMD64") and sys.platform in ("linux", "win32")
    return Facts(
        python=platform.python_version(),
        asked="onnxruntime-gpu" if is_large else "onnxruntime",
        packages=packages,
        wheels=_runtimes(),
        runtime=ort.__version__,
        runtime_cuda=getattr(ort, "cuda_version", "") or "",
        providers=providers,
        opset=supported_versions()[0],
        gpus=gpus,
        driver_cuda=header[1] if header else "",
        cuda_wheels=_versions((*CUDA_WHEELS, *CUDNN_WHEELS)),
        torch=_versions(("torch",)).get("torch", ""),
        cuda_fault=_try_cuda() if gpus and CUDA in providers else None,
        cpu=cpu_name(),
        threads=cpu_threads(),
        cores=os.cpu_count() or 1,
        int8_sums=int8_sums(),
    )


def examine(facts: Facts) -> tuple[MachineFinding, ...]:
    """Judge the facts of an environment (pure)."""
    providers = f"ONNX Runtime {facts.runtime} can try {', '.join(facts.providers)}"
    providers += f"; opsets up to {facts.opset}" if facts.opset else ""
    cores = f"{facts.cpu}, {facts.threads} of {facts.cores} cores for this process"
    return (
        MachineFinding(check="Python", status="ok", detail=facts.python),
        _packages(facts),
        _wheels(facts),
        MachineFinding(check="execution providers", status="ok", detail=providers),
        _gpu(facts),
        *_cuda(facts),
        MachineFinding(check="processor", status="ok", detail=cores),
        _int8(facts.int8_sums),
    )


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(map(" ".join, versions.items()))


def _packages(facts: Facts) -> MachineFinding:
    check, listed = "packages", _listed(facts.packages)
    if not facts.packages.keys() >= set(OURS):
        return MachineFinding(check=check, status="ok", detail=listed)
    detail = f"{listed}: {' and '.join(OURS)} overwrite each other's files; keep one"
    fix = f"pip uninstall -y {' '.join(OURS)}  # then install one of them again"
    return MachineFinding(check=check, status="fail", detail=detail, fix=fix)


def _wheels(facts: Facts) -> MachineFinding:
    check, listed = "ONNX Runtime wheels", _listed(facts.wheels)
    if len(facts.wheels) > 1:
        keep = _flavour_to_keep(facts)
        where = "an NVIDIA GPU is" if facts.gpus else "no NVIDIA GPU is"
        detail = f"{listed}: they overwrite each other's files; {where} here: keep {keep.partition('[')[0]}"
        return MachineFinding(check=check, status="fail", detail=detail, fix=_reinstall(facts, keep))
    if not facts.wheels:
        detail = f"ONNX Runtime {facts.runtime} is installed, but by no package that pip knows"
        fix = f"pip install {facts.asked}  # unless you built this one yourself"
        return MachineFinding(check=check, status="warn", detail=detail, fix=fix)
    return MachineFinding(check=check, status="ok", detail=listed)


def _gpu(facts: Facts) -> MachineFinding:
    check = "NVIDIA GPU"
    if not facts.gpus:
        return MachineFinding(check=check, status="ok", detail="none (nvidia-smi lists none); the CPU is used")
    listed = "; ".join(
        f"{gpu.index}: {gpu.name}, {gpu.memory_free_mib} of {gpu.memory_mib} MiB free" for gpu in facts.gpus
    )
    driver = f"driver {facts.gpus[0].driver}" + (f", CUDA up to {facts.driver_cuda}" if facts.driver_cuda else "")
    if CUDA not in facts.providers:
        detail = f"{listed}; {driver}; this ONNX Runtime has no {CUDA}"
        return MachineFinding(check=check, status="warn", detail=detail, fix=_reinstall(facts, WITH_CUDA))
    return MachineFinding(check=check, status="ok", detail=f"{listed}; {driver}")


def _int8(sums: Int8Sums) -> MachineFinding:
    detail = f"sums of uint8 activations and int8 weights {sums.words} on this CPU"
    if sums.saturates:
        detail += "; where they are exact, an int8 file can give other vectors"
    return MachineFinding(check="int8 sums", status="ok", detail=detail)


def _flavour_to_keep(facts: Facts) -> str:
    """Return the flavour of ONNX Runtime for the hardware.

    It is CUDA's with an NVIDIA GPU, else the one for other hardware, else the smallest.
    """
    if facts.gpus:
        return WITH_CUDA
    return next((name for name in facts.wheels if name not in ("onnxruntime", "onnxruntime-gpu")), "onnxruntime")


def _reinstall(facts: Facts, keep: str) -> str:
    """Write the command that installs one flavour alone.

    It also brings the distribution of ours that requires it: the other would bring its own back.
    """
    flavour = keep.partition("[")[0]
    ours, other = next((name for name in OURS if name in facts.packages), ""), OURS[flavour == "onnxruntime"]
    note = ""
    if ours and facts.asked != flavour:
        if flavour in ("onnxruntime", "onnxruntime-gpu") and ours != other:
            gone = " ".join((*facts.wheels, ours))
            return f"pip uninstall -y {gone}  # then install {other}, which asks for {flavour}"
        note = f"  # install {ours} with --no-deps from now on: it asks for {facts.asked}"
    gone = f"pip uninstall -y {' '.join(facts.wheels)} && " if facts.wheels else ""
    return f"{gone}pip install {shlex.quote(keep)}{note}"


def _cuda(facts: Facts) -> list[MachineFinding]:
    if not facts.gpus or CUDA not in facts.providers:
        return []
    built, driver = _major(facts.runtime_cuda), _major(facts.driver_cuda)
    wheels = _listed(facts.cuda_wheels) or "no NVIDIA Python packages"
    majors = {name: _major(number, name) for name, number in facts.cuda_wheels.items()}
    fitting = {"cudnn" in name for name, major in majors.items() if major == built}  # of each of the two libraries
    wrong = {name: number for name, number in facts.cuda_wheels.items() if ("cudnn" in name) not in fitting}
    detail, fix = f"ONNX Runtime was built for CUDA {facts.runtime_cuda or 'of unknown version'}; {wheels}", GPU_INSTALL
    if built and driver and driver < built:
        detail = f"{detail}; the driver runs CUDA up to {facts.driver_cuda}"
        older = f"pip install '{WITH_CUDA}<1.27'  # CUDA 12; or "
        fix = f"{older if driver == 12 else ''}update the NVIDIA driver"
        findings = [MachineFinding(check="CUDA", status="fail", detail=detail, fix=fix)]
    elif built and wrong:
        detail = f"{detail}; {_listed(wrong)} is for another CUDA"
        findings = [MachineFinding(check="CUDA", status="warn", detail=detail, fix=fix)]
    else:
        findings = [MachineFinding(check="CUDA", status="ok", detail=detail)]
    torch_cuda = re.search(r"\+cu(\d\d)", facts.torch)
    if torch_cuda and built and int(torch_cuda[1]) != built:
        detail = (
            f"torch {facts.torch} is for CUDA {torch_cuda[1]}, ONNX Runtime for {built}: they can't share a process"
        )
        apart = "keep torch (exports) and the check in two environments"
        findings.append(MachineFinding(check="torch", status="warn", detail=detail, fix=apart))
    if facts.cuda_fault == "":
        findings.append(
            MachineFinding(check="CUDA run", status="ok", detail="a tiny model ran on CUDAExecutionProvider")
        )
    elif facts.cuda_fault is not None:
        findings.append(MachineFinding(check="CUDA run", status="fail", detail=facts.cuda_fault, fix=fix))
    return findings


def _versions(names: Texts) -> dict[str, str]:
    versions = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _runtimes() -> dict[str, str]:
    own_file = PurePosixPath("onnxruntime/__init__.py")
    versions = {
        name.lower(): package.version
        for package in distributions()  # one that was removed in part has no name
        if (name := package.name or "").lower().startswith("onnxruntime") and own_file in (package.files or ())
    }
    return dict(sorted(versions.items()))


def _major(number: str, wheel: str = "") -> int | None:
    """Read the CUDA major of an NVIDIA wheel. The name contains it (…-cu13), else the version is read."""
    match = re.search(r"-cu(\d+)$", wheel) or re.match(r"(\d+)", number)
    return int(match[1]) if match else None


def _try_cuda() -> str:
    """Try one addition on CUDA. Returns why it did not run, "" when it did."""
    add = '<ir_version: 8, opset_import: ["" : 13]> probe (float[1] x) => (float[1] y) { y = Add(x, x) }'
    ort.set_default_logger_severity(ORT_FATAL)  # of libraries that are not there
    preload_cuda()
    try:
        session = ort.InferenceSession(parse_model(add).SerializeToString(), providers=parse_device("cuda").providers)
    except RUN_ERRORS as error:
        return f"CUDA did not start: {' '.join(str(error).split())[:300]}"
    obtained = session.get_providers()[0]
    return "" if obtained == CUDA else f"{CUDA} did not start, ONNX Runtime took {obtained}"
