"""What `--device` names: ONNX Runtime's execution providers, their options, and why one can't be there."""

from __future__ import annotations

import ctypes
import difflib
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import onnxruntime as ort

from robustcheck_onnx.checker.errors import UsageError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
SUFFIX: Final = "ExecutionProvider"
PROVIDERS: Final[Mapping[str, tuple[str, str]]] = {
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
REMOTE: Final = frozenset(("AzureExecutionProvider",))  # sends what it is given to another machine
PLACE_OPTION: Final = {"openvino": "device_type"}  # what stands behind the colon; a GPU's number everywhere else
DEFAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    # the default, EXHAUSTIVE, picks convolution kernels by timing them: another pick, another sum
    CUDA: {"device_id": "0", "cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"},
    TENSORRT: {"device_id": "0"},
    "OpenVINOExecutionProvider": {"device_type": "CPU", "precision": "FP32"},
}
"""Options that make results repeatable, and as exact as the model says"""
_DEVICE: Final = re.compile(r"(?P<name>[A-Za-z0-9_]+)(?::(?P<place>[A-Za-z0-9_.]+))?(?P<options>(?:,\w+=[^,=]+)*)")


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
        """Whether it is an NVIDIA GPU, or may be one."""
        return self.provider in (CUDA, TENSORRT)

    @property
    def providers(self) -> list[str | tuple[str, dict[str, str]]]:
        """What a session is asked for, in this order."""
        if self.provider == CPU:
            return [CPU]
        wanted = [(self.provider, self.options)]
        if self.provider == TENSORRT:  # takes what it can, and leaves the rest
            wanted.append((CUDA, {**DEFAULTS[CUDA], "device_id": self.options["device_id"]}))
        return [*wanted, CPU]


def parse_device(text: str) -> Device:
    """Read NAME[:PLACE][,KEY=VALUE…]: auto, cpu, cuda, cuda:1, openvino:GPU, "cuda,use_tf32=1".

    Raises:
        UsageError: no such device; something behind a colon where none can stand; options of the CPU or of `auto`.
    """
    match = _DEVICE.fullmatch(text)
    name = match["name"].lower() if match else ""
    known = _known()
    if match is None or name not in known:
        word = text.lower().partition(",")[0].removesuffix(SUFFIX.lower())
        near = ["cuda" if word in ("gpu", "nvidia") else f"cuda:{word}" if word.isdecimal() else word.partition(":")[0]]
        if near[0].partition(":")[0] not in known:
            near = difflib.get_close_matches(word, known, 1, 0.75)
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
        raise UsageError(f"--device is {text!r}; behind the colon stands a device's number", f"--device {name}:0")
    options = {**DEFAULTS.get(provider, {}), **({key: place} if place else {}), **given}
    return Device(provider=provider, place=place, options=options)


def expects_accelerator(device: str) -> bool:
    """Whether a session on a device should get something else than the CPU; only the session proves it.

    Raises UsageError: no such device.
    """
    provider = parse_device(device).provider
    return provider != CPU and not why_missing(provider)


def why_missing(provider: str) -> str:
    """Say why a provider can't be there; "" where that does not show before a session is made."""
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
    """Every name of a device, with its provider."""
    of_package = {_name_of(provider): provider for provider in _available()}
    return {"auto": CUDA} | {name: provider for name, (provider, _) in PROVIDERS.items()} | of_package
