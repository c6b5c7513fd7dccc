"""Find faults of this machine: facts about the environment, and a command to type for each fault."""

import os
import platform
import re
import shlex
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import PurePosixPath
from typing import Literal

import onnxruntime as ort
from onnx.parser import parse_model

from ....thresholds.records import Frozen
from ...text import Texts, frozen
from ..evidence import Int8Sums
from ..model.refusals import supported_versions
from .devices import (
    CUDA,
    ORT_FATAL,
    RUN_ERRORS,
    Gpu,
    ask_nvidia_smi,
    cpu_name,
    cpu_threads,
    int8_sums,
    list_gpus,
    parse_device,
    preload_cuda,
)

OURS = ("robustcheck-onnx", "robustcheck-onnx-cpu")  # the same code, with a large and a small ONNX Runtime
PACKAGES = (*OURS, "numpy", "onnx", "Pillow", "pydantic", "rich", "typer")
CUDA_WHEELS = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu13")
CUDNN_WHEELS = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
WITH_CUDA = "onnxruntime-gpu[cuda,cudnn]"
GPU_INSTALL = f"pip install '{WITH_CUDA}'"


Status = Literal["ok", "warn", "fail"]


class MachineFinding(Frozen):
    """A judged fact about the environment."""

    check: str
    status: Status
    detail: str
    fix: str = ""
    """a command to type; empty when there is nothing to fix"""


@frozen
class MachineFacts:
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


def gather() -> MachineFacts:
    """Look at this environment, without judging."""
    gpus = list_gpus()
    header = None
    if gpus:
        header = re.search(r"CUDA(?: UMD)? Version:\s*([\d.]+)", ask_nvidia_smi())
    providers = tuple(ort.get_available_providers())
    packages = _versions(PACKAGES)
    has_gpu_wheels = platform.machine() in ("x86_64", "AMD64") and sys.platform in ("linux", "win32")
    return MachineFacts(
        python=platform.python_version(),
        asked="onnxruntime-gpu" if OURS[0] in packages and has_gpu_wheels else "onnxruntime",
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


def examine(facts: MachineFacts) -> tuple[MachineFinding, ...]:
    """Judge the facts of an environment (pure)."""
    providers = f"ONNX Runtime {facts.runtime} can try {', '.join(facts.providers)}"
    if facts.opset:
        providers += f"; opsets up to {facts.opset}"
    cores = f"{facts.cpu}, {facts.threads} of {facts.cores} cores for this process"
    return (
        _ok("Python", facts.python),
        _packages(facts),
        _wheels(facts),
        _ok("execution providers", providers),
        _gpu(facts),
        *_cuda(facts),
        _ok("processor", cores),
        _int8(facts.int8_sums),
    )


def _ok(check: str, detail: str) -> MachineFinding:
    return MachineFinding(check=check, status="ok", detail=detail)


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(map(" ".join, versions.items()))


def _packages(facts: MachineFacts) -> MachineFinding:
    listed = _listed(facts.packages)
    if not facts.packages.keys() >= set(OURS):
        return _ok("packages", listed)
    detail = f"{listed}: {' and '.join(OURS)} overwrite each other's files; keep one"
    fix = f"pip uninstall -y {' '.join(OURS)}  # then install one of them again"
    return MachineFinding(check="packages", status="fail", detail=detail, fix=fix)


def _wheels(facts: MachineFacts) -> MachineFinding:
    check = "ONNX Runtime wheels"
    listed = _listed(facts.wheels)
    if len(facts.wheels) > 1:
        keep = _flavour_to_keep(facts)
        gpu = "an NVIDIA GPU" if facts.gpus else "no NVIDIA GPU"
        detail = f"{listed}: they overwrite each other's files; {gpu} is here: keep {keep.partition('[')[0]}"
        return MachineFinding(check=check, status="fail", detail=detail, fix=_reinstall(facts, keep))
    if not facts.wheels:
        detail = f"ONNX Runtime {facts.runtime} is installed, but by no package that pip knows"
        fix = f"pip install {facts.asked}  # unless you built this one yourself"
        return MachineFinding(check=check, status="warn", detail=detail, fix=fix)
    return _ok(check, listed)


def _gpu(facts: MachineFacts) -> MachineFinding:
    check = "NVIDIA GPU"
    if not facts.gpus:
        return _ok(check, "none (nvidia-smi lists none); the CPU is used")
    gpus = [f"{gpu.index}: {gpu.name}, {gpu.memory_free_mib} of {gpu.memory_mib} MiB free" for gpu in facts.gpus]
    detail = f"{'; '.join(gpus)}; driver {facts.gpus[0].driver}"
    if facts.driver_cuda:
        detail += f", CUDA up to {facts.driver_cuda}"
    if CUDA in facts.providers:
        return _ok(check, detail)
    detail += f"; this ONNX Runtime has no {CUDA}"
    return MachineFinding(check=check, status="warn", detail=detail, fix=_reinstall(facts, WITH_CUDA))


def _int8(sums: Int8Sums) -> MachineFinding:
    detail = f"sums of uint8 activations and int8 weights {sums.words} on this CPU"
    if sums.saturates:
        detail += "; where they are exact, an int8 file can give other vectors"
    return _ok("int8 sums", detail)


def _flavour_to_keep(facts: MachineFacts) -> str:
    """Return the flavour of ONNX Runtime for an NVIDIA GPU, else the one for other hardware, else the smallest."""
    if facts.gpus:
        return WITH_CUDA
    return next((name for name in facts.wheels if name not in ("onnxruntime", "onnxruntime-gpu")), "onnxruntime")


def _reinstall(facts: MachineFacts, keep: str) -> str:
    """Write the command that installs one flavour alone, with our distribution that asks for it.

    The other one of ours would bring its own flavour back.
    """
    flavour = keep.partition("[")[0]
    installed = [name for name in OURS if name in facts.packages]
    note = ""
    if installed and facts.asked != flavour:
        ours = installed[0]
        fitting = OURS[flavour == "onnxruntime"]
        if flavour in ("onnxruntime", "onnxruntime-gpu") and ours != fitting:
            gone = " ".join((*facts.wheels, ours))
            return f"pip uninstall -y {gone}  # then install {fitting}, which asks for {flavour}"
        note = f"  # install {ours} with --no-deps from now on: it asks for {facts.asked}"
    install = f"pip install {shlex.quote(keep)}{note}"
    return f"pip uninstall -y {' '.join(facts.wheels)} && {install}" if facts.wheels else install


def _cuda(facts: MachineFacts) -> list[MachineFinding]:
    if not facts.gpus or CUDA not in facts.providers:
        return []
    built = _major(facts.runtime_cuda)
    driver = _major(facts.driver_cuda)
    wheels = facts.cuda_wheels
    fitting = {"cudnn" in name for name in wheels if _major(wheels[name], name) == built}  # of each of two libraries
    wrong = {name: wheels[name] for name in wheels if ("cudnn" in name) not in fitting}
    detail = f"ONNX Runtime was built for CUDA {facts.runtime_cuda or 'of unknown version'}; "
    detail += _listed(wheels) or "no NVIDIA Python packages"
    fix = GPU_INSTALL
    status: Status = "ok"
    if built and driver and driver < built:
        status = "fail"
        detail += f"; the driver runs CUDA up to {facts.driver_cuda}"
        fix = "update the NVIDIA driver"
        if driver == 12:
            fix = f"pip install '{WITH_CUDA}<1.27'  # CUDA 12; or {fix}"
    elif built and wrong:
        status = "warn"
        detail += f"; {_listed(wrong)} is for another CUDA"
    findings = [MachineFinding(check="CUDA", status=status, detail=detail, fix="" if status == "ok" else fix)]
    torch_cuda = re.search(r"\+cu(\d\d)", facts.torch)
    if torch_cuda and built and int(torch_cuda[1]) != built:
        versions = f"torch {facts.torch} is for CUDA {torch_cuda[1]}, ONNX Runtime for {built}"
        apart = "keep torch (exports) and the check in two environments"
        detail = f"{versions}: they can't share a process"
        findings.append(MachineFinding(check="torch", status="warn", detail=detail, fix=apart))
    if facts.cuda_fault == "":
        ran = "a tiny model ran on CUDAExecutionProvider"
        findings.append(_ok("CUDA run", ran))
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
    versions = {}
    for package in distributions():
        name = (package.name or "").lower()  # one that was removed in part has no name
        if name.startswith("onnxruntime") and own_file in (package.files or ()):
            versions[name] = package.version
    return dict(sorted(versions.items()))


def _major(number: str, wheel: str = "") -> int | None:
    """Read the CUDA major of an NVIDIA wheel from its name (…-cu13), else from its version."""
    match = re.search(r"-cu(\d+)$", wheel) or re.match(r"(\d+)", number)
    return int(match[1]) if match else None


def _try_cuda() -> str:
    """Try one addition on CUDA, and return why it did not run: "" when it did."""
    add = '<ir_version: 8, opset_import: ["" : 13]> probe (float[1] x) => (float[1] y) { y = Add(x, x) }'
    ort.set_default_logger_severity(ORT_FATAL)  # of libraries that are not there
    preload_cuda()
    try:
        model = parse_model(add).SerializeToString()
        session = ort.InferenceSession(model, providers=parse_device("cuda").providers)
    except RUN_ERRORS as error:
        return f"CUDA did not start: {' '.join(str(error).split())[:300]}"
    obtained = session.get_providers()[0]
    return "" if obtained == CUDA else f"{CUDA} did not start, ONNX Runtime took {obtained}"
