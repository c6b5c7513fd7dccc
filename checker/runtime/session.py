"""Open and describe ONNX Runtime sessions on a device. Their errors are translated.

What `--device` names is read here: execution providers, their options, and why one is missing. The hardware (cores, and
GPUs by NVIDIA's driver) is read without torch and CUDA.
"""

import ctypes
import io
import os
import platform
import re
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.evidence import Execution
from robustcheck_onnx.checker.model.layers import LINEAR
from robustcheck_onnx.checker.model.open import ModelFile
from robustcheck_onnx.checker.text import quoted

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


@dataclass(frozen=True)
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


def parse_device(text: str) -> Device:
    """Read NAME[:PLACE][,KEY=VALUE…]: auto, cpu, cuda, cuda:1, openvino:GPU, "cuda,use_tf32=1".

    Raises:
        UsageError: no such device; something after a colon where nothing can follow; options of the CPU or of `auto`.
    """
    match = _DEVICE.fullmatch(text)
    name = match["name"].lower() if match else ""
    known = _known()
    if match is None or name not in known:
        word = text.lower().partition(",")[0].removesuffix(SUFFIX.lower())
        near = ["cuda" if word in ("gpu", "nvidia") else f"cuda:{word}" if word.isdecimal() else word.partition(":")[0]]
        if near[0].partition(":")[0] not in known:
            near = get_close_matches(word, known, 1, 0.75)
        installed = ", ".join(sorted({*map(_name_of, _available())} - {"cpu"})) or "it has none"
        raise UsageError(
            f"--device is {text!r}; it must be auto, cpu, cuda, cuda:N or tensorrt, or another execution provider that "
            f"the installed ONNX Runtime has ({installed})",
            f"--device {near[0] if near else 'auto'}",
        )
    provider, place = known[name], match["place"] or ""
    given = dict(part.split("=") for part in match["options"].split(",") if part)
    if provider == CPU or name == "auto":
        if place or given:
            raise UsageError(
                f"--device is {text!r}; {name} has no number and no options", f"--device {name}, or --device cuda"
            )
        return Device(provider=provider, is_auto=name == "auto", options=dict(DEFAULTS.get(provider, {})))
    key = PLACE_OPTION.get(name, "device_id")
    if place and key == "device_id" and not place.isdecimal():
        raise UsageError(f"--device is {text!r}; a device's number follows the colon", f"--device {name}:0")
    options = {**DEFAULTS.get(provider, {}), **({key: place} if place else {}), **given}
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
        package = next((package for each, package in PROVIDERS.values() if each == provider), "")
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
    named = {each: name for name, (each, _) in PROVIDERS.items()}
    return named.get(provider, provider.removesuffix(SUFFIX).lower())


def _known() -> dict[str, str]:
    """Return every name of a device, with its provider."""
    of_package = {_name_of(provider): provider for provider in _available()}
    return {"auto": CUDA} | {name: provider for name, (provider, _) in PROVIDERS.items()} | of_package


TIMEOUT_S = 10  # a driver that is being reset can hang nvidia-smi


@dataclass(frozen=True)
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


# ONNX Runtime 1.31 ends the process (microsoft/onnxruntime#28392) when this one meets a float16 ViT on the CPU.
CRASHING = {"fp16": ["NchwcTransformer"]}
HEAVY_OPS = LINEAR | {"Attention", "MultiHeadAttention"}
ORT_FATAL = 4  # ONNX Runtime's quietest log level; errors come as exceptions anyway
LEVELS: Mapping[str, Any] = {  # graph optimisation, from what users run to none
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
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
# Places in ONNX Runtime's own source, and the C++ functions and conditions that failed there. A node's name is in
# the message, too, and may look like a hundred such places: a pattern reads on once from each word, and no more.
SOURCE_NOISE = (
    re.compile(r"(?<!\S)(?=\S+?\.(?:cc|h|cu|cuh))\S++ (?:(?!\.(?:cc|h|cu)\b).)*? was (?:false|true)\. ?"),
    re.compile(
        r"(?<!\S)(?=\S+?\.(?:cc|h|cu|cuh))\S++ (?=[^()]*?::)[^()]*+\([^()]*+\)(?: const)?(?: \[with [^\]]*+\])? ?"
    ),
    re.compile(r"(?<!\S)(?=\S+?\.(?:cc|h|cu|cuh)\b)\S++ (?:[A-Z]\w+ (?=[A-Z]))?"),
)
READ_LETTERS = 4000  # of a message of ONNX Runtime; 400 of what is left are shown
OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|bad_alloc|bad allocation|BFCArena|CUDA failure 2\b", re.I)


def open_session(
    graph: bytes, model: ModelFile, device: str, level: str = "all", *, threads: int
) -> tuple[ort.InferenceSession, str]:
    """Open a session on `device`, proved to be there. Also returns why `auto` fell back to the CPU ("" if it did not).

    threads: cores it may use.

    Raises:
        UsageError: no such device.
        EnvironmentFaultError: the device asked for is not there, or memory ran out.
        CannotAssessError: ONNX Runtime can't load the model.
    """
    asked = parse_device(device)
    wanted, session_on = asked.provider, partial(_session, graph, model, level, threads)
    if wanted == CPU:
        return session_on([CPU]), ""
    reason = why_missing(wanted)
    if not reason:
        if wanted in (CUDA, TENSORRT):
            preload_cuda()
        try:
            session = session_on(asked.providers)
            if session.get_providers()[0] == wanted:
                return session, ""
            reason = f"ONNX Runtime could not start {wanted} and took {session.get_providers()[0]}"
        except CannotAssessError as error:
            # a provider that can't start sometimes raises instead of falling back: the CPU tells which it was
            reason = error.message
    if not asked.is_auto:
        raise EnvironmentFaultError(f"--device is {device}; {reason}", "robustcheck doctor, or --device cpu")
    return session_on([CPU]), reason


def describe(
    session: ort.InferenceSession, model: ModelFile, device: str, level: str, reason: str, threads: int
) -> Execution:
    """Describe a session by its own facts. `threads` are those of all parallel passes."""
    obtained = tuple(session.get_providers())
    nodes: dict[str, int] | None = None
    heavy: dict[str, int] = {}
    if hasattr(session, "get_provider_graph_assignment_info"):
        nodes = {}
        for part in session.get_provider_graph_assignment_info():
            members = part.get_nodes()
            nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(members)
            if part.ep_name == CPU and obtained[0] != CPU:
                for node in members:
                    if node.op_type in HEAVY_OPS:
                        heavy[node.op_type] = heavy.get(node.op_type, 0) + 1
    return Execution(
        requested=device,
        providers=obtained,
        nodes=nodes,
        heavy_on_cpu=heavy,
        runtime=ort.__version__,
        device=_device_name(obtained[0], parse_device(device)),
        threads=threads,
        precision=model.precision,
        optimization=level,
        fallback_reason=reason,
    )


def _device_name(obtained: str, asked: Device) -> str:
    if obtained in (CUDA, TENSORRT):
        return gpu_name(int(asked.options["device_id"]))
    kind = asked.options.get("device_type", "CPU")
    on_cpu = obtained == CPU or (obtained == asked.provider and kind == "CPU")
    return cpu_name() if on_cpu else f"{obtained} {asked.place}".strip()


def device_memory(session: ort.InferenceSession) -> tuple[str, int]:
    """Return where a session has its tensors.

    ONNX Runtime's binding names a kind of device and its number.
    """
    first = session.get_providers()[0]
    if first not in (CUDA, TENSORRT):  # it takes arrays from the processor's memory
        return "cpu", 0
    return "cuda", int(session.get_provider_options()[first].get("device_id", 0))


def translate(error: Exception, model: ModelFile) -> CannotAssessError | EnvironmentFaultError:
    """Turn ONNX Runtime's exception into our error. It names the file and the next step."""
    # a name in the model that is not text makes the message a UnicodeDecodeError, which holds its bytes
    message = error.object.decode(errors="backslashreplace") if isinstance(error, UnicodeDecodeError) else str(error)
    text = " ".join(re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message).split())
    path = quoted(model.path)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
        asked = re.search(r"failed to allocate.*?(\d+)", text[:READ_LETTERS], re.I)
        what = f"{asked.group(1)} bytes were asked for" if asked else "no size was given"
        return EnvironmentFaultError(
            f"{model.path}: memory ran out ({what}); the model must fit with one image at least",
            "free -h, or nvidia-smi for a GPU; --device cpu where the GPU is the smaller one",
        )
    text = text[:READ_LETTERS]
    for pattern in SOURCE_NOISE:
        text = pattern.sub("", text)
    text = text.replace("Name:'' ", "").replace("Status Message: ", "")
    if model.external_folder is not None:  # the name of an open folder says nothing to anybody
        text = text.replace(str(model.external_folder), str(model.external_folder.resolve()))
    hint = (
        "export it in float32, or run it on a GPU: --device cuda"
        if "bfloat16" in text
        else f"robustcheck inspect {path}"
    )
    return CannotAssessError(f"{model.path}: ONNX Runtime {ort.__version__} refuses the model: {text[:400]}", hint)


def _session(graph: bytes, model: ModelFile, level: str, threads: int, providers: list[Any]) -> ort.InferenceSession:
    ort.disable_telemetry_events()  # nothing of a check leaves the machine
    ort.set_default_logger_severity(ORT_FATAL)  # of allocators: a session's own level does not hold for them
    options = ort.SessionOptions()
    options.log_severity_level = ORT_FATAL
    options.graph_optimization_level = LEVELS[level]
    options.use_deterministic_compute = True
    options.intra_op_num_threads = threads  # ORT's own count ignores cgroups and fails to pin threads
    options.inter_op_num_threads = 1
    # idle threads would spin on the cores that decode the next photos: measured, a quarter of the processor time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if model.external_folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(model.external_folder)
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a provider that is not there: the providers are compared instead
            # its own fallback prints to stdout and moves a running session to the CPU without a word in the record
            return ort.InferenceSession(
                graph,
                options,
                providers=providers,
                disabled_optimizers=CRASHING.get(model.precision, []),
                enable_fallback=0,
            )
    except RUN_ERRORS as error:
        raise translate(error, model) from error
