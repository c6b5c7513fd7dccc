"""What --device names, and what the doctor says of the machine, with the command that mends each fault."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort
import pytest

from robustcheck_onnx.checker.cli.options import device_of
from robustcheck_onnx.checker.core.evidence import Int8Sums
from robustcheck_onnx.checker.core.runtime import devices, doctor
from robustcheck_onnx.checker.core.runtime.devices import CPU, CUDA, TENSORRT, parse_device
from robustcheck_onnx.checker.errors import UsageError
from support import INSTALLED, ROOT, Capture, Fields, Patch, raised, read_json

OPENVINO = "OpenVINOExecutionProvider"
CPUINFO = Path("/proc/cpuinfo")
EXACT = {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}


def test_providers_and_options() -> None:
    cuda, openvino = {"device_id": "0"} | EXACT, {"device_type": "CPU", "precision": "FP32"}
    tensorrt = {"device_id": "1", "trt_fp16_enable": "1"}
    for text, wanted in {
        "cpu": [],
        "auto": [(CUDA, cuda)],
        "CUDA:1": [(CUDA, cuda | {"device_id": "1"})],
        "cuda,use_tf32=1": [(CUDA, cuda | {"use_tf32": "1"})],
        "tensorrt:1,trt_fp16_enable=1": [(TENSORRT, tensorrt), (CUDA, cuda | {"device_id": "1"})],
        "openvino": [(OPENVINO, openvino)],
        "openvino:GPU.1": [(OPENVINO, openvino | {"device_type": "GPU.1"})],
        "directml:1": [("DmlExecutionProvider", {"device_id": "1"})],
        "coreml,MLComputeUnits=CPUOnly": [("CoreMLExecutionProvider", {"MLComputeUnits": "CPUOnly"})],
    }.items():
        assert parse_device(text).providers == [*wanted, CPU]


def test_further_providers_of_the_installed_package_go_by_their_own_name(monkeypatch: Patch) -> None:
    there = ["XnnpackExecutionProvider", "AzureExecutionProvider", CPU]
    monkeypatch.setattr(ort, "get_available_providers", lambda: there)
    assert parse_device("xnnpack,intra_op_num_threads=2").provider == there[0]
    # the other sends the images to another machine
    raised(UsageError, r"provider that the installed ONNX Runtime has \(xnnpack\)", parse_device, "azure")


def test_options_stand_behind_the_device() -> None:
    assert device_of("cuda:1", ("use_tf32=1", "gpu_mem_limit=2")) == "cuda:1,use_tf32=1,gpu_mem_limit=2"
    assert parse_device(device_of("openvino", ["num_of_threads=2"])).options["num_of_threads"] == "2"
    for wrong in ("use_tf32", "=1", "a b=1", "a=1,b=2", "a==1", "a="):
        raised(UsageError, "must be KEY=VALUE", device_of, "cuda", [wrong])


def test_a_driver_is_asked_of_nvidia_alone(monkeypatch: Patch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [OPENVINO, CPU])
    assert devices.why_missing(OPENVINO) == ""
    assert "onnxruntime-gpu" in devices.why_missing(CUDA)
    assert sys.platform != "linux" or not devices.expects_accelerator("auto")


H100 = devices.Gpu(0, "NVIDIA H100", 81559, 80000, "580.1")
HEALTHY = doctor.MachineFacts(
    python="3.11.7", asked="onnxruntime-gpu", packages={"numpy": "2.4.6"}, wheels={"onnxruntime-gpu": "1.31.1"},
    runtime="1.31.1", runtime_cuda="13.0",
    providers=("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    opset=26, gpus=(H100,), driver_cuda="13.0", torch="2.13.0+cu130", cuda_fault="", cpu="a processor", threads=2,
    cores=8, int8_sums=Int8Sums(plain=1, exact=1),
    cuda_wheels={"nvidia-cuda-runtime": "13.0.1", "nvidia-cudnn-cu13": "9.9.0"},
)  # fmt: skip
BOTH = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
TWO_WHEELS = {"onnxruntime": "1.32.0", "onnxruntime-openvino": "1.24.1"}


def finding(facts: doctor.MachineFacts, check: str) -> doctor.MachineFinding:
    return {found.check: found for found in doctor.examine(facts)}[check]


def test_healthy_gpu() -> None:
    assert {(found.status, found.fix) for found in doctor.examine(HEALTHY)} == {("ok", "")}
    assert finding(HEALTHY, "NVIDIA GPU").detail == (
        "0: NVIDIA H100, 80000 of 81559 MiB free; driver 580.1, CUDA up to 13.0"
    )
    assert finding(HEALTHY, "processor").detail == "a processor, 2 of 8 cores for this process"


def test_no_gpu_is_no_fault() -> None:
    *_, gpu, processor, _ = doctor.examine(replace(HEALTHY, gpus=()))
    assert (gpu.status, gpu.detail) == ("ok", "none (nvidia-smi lists none); the CPU is used")
    assert processor.check == "processor"  # nothing of CUDA between them


def test_a_pair_of_int8_products_is_exact_or_saturates_in_16_bits() -> None:
    sums, pair = devices.int8_sums(), 255 * 127 + 255 * 127
    assert sums.exact == 1
    assert sums.plain == pytest.approx(32767 / pair if sums.saturates else 1)


@pytest.mark.skipif(not CPUINFO.is_file(), reason="needs Linux")
def test_int8_sums_of_an_x86_cpu_are_exact_with_vnni_and_without_avx2() -> None:
    (flags,) = {line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")} or {""}
    assert devices.int8_sums().saturates == (" avx2" in flags and "vnni" not in flags)


def test_int8_sums_that_saturate_are_shown_and_not_a_fault() -> None:
    assert finding(HEALTHY, "int8 sums").detail == "sums of uint8 activations and int8 weights are exact on this CPU"
    found = finding(replace(HEALTHY, int8_sums=Int8Sums(plain=0.5059, exact=1)), "int8 sums")
    assert (found.status, found.fix) == ("ok", "")
    assert "saturate at 50.6 % of the exact sum on this CPU; where they are exact, an int8 file can" in found.detail


def test_faults() -> None:
    wheels, gpu, gone = "ONNX Runtime wheels", "'onnxruntime-gpu[cuda,cudnn]'", "pip uninstall -y"
    packages = dict.fromkeys(doctor.OURS, "1.2.3")
    cpu = {"providers": ("CPUExecutionProvider",), "cuda_fault": None}
    old = "pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'  # CUDA 12"
    fault = "CUDAExecutionProvider did not start, ONNX Runtime took CPUExecutionProvider"
    changes: tuple[tuple[Fields, str, str, str, str], ...] = (
        ({"wheels": BOTH}, wheels, "fail", "overwrite each other's files; an NVIDIA GPU is here: keep onnxruntime-gpu",
         f"{gone} onnxruntime onnxruntime-gpu && pip install {gpu}"),
        ({"wheels": BOTH, "gpus": (), "packages": {"robustcheck-onnx": "1.2.3"}}, wheels, "fail",
         "no NVIDIA GPU is here: keep onnxruntime",
         f"{gone} onnxruntime onnxruntime-gpu robustcheck-onnx  # then install robustcheck-onnx-cpu, which asks for"),
        ({"wheels": BOTH, "asked": "onnxruntime", "packages": {"robustcheck-onnx-cpu": "1.2.3"}}, wheels, "fail",
         "keep onnxruntime-gpu", f"{gone} onnxruntime onnxruntime-gpu robustcheck-onnx-cpu  # then install"),
        ({"wheels": TWO_WHEELS, "gpus": (), "packages": {"robustcheck-onnx": "1.2.3"}}, wheels, "fail", "keep",
         f"{gone} onnxruntime onnxruntime-openvino && pip install onnxruntime-openvino  # install robustch"),
        ({"packages": packages}, "packages", "fail",
         "robustcheck-onnx and robustcheck-onnx-cpu overwrite each other's files; keep one",
         f"{gone} robustcheck-onnx robustcheck-onnx-cpu  # then install one of them again"),
        ({"wheels": {}}, wheels, "warn", "by no package that pip knows", "pip install onnxruntime-gpu  # unless"),
        (cpu | {"wheels": {}}, "NVIDIA GPU", "warn", "has no CUDAExecutionProvider", f"pip install {gpu}"),
        ({"asked": "onnxruntime", "packages": {"robustcheck-onnx": "1.2.3"}} | cpu, "NVIDIA GPU", "warn", "has no",
         f"{gone} onnxruntime-gpu && pip install {gpu}  # install robustcheck-onnx with --no-deps"),
        ({"driver_cuda": "11.8"}, "CUDA", "fail", "the driver runs CUDA up to 11.8", "update the NVIDIA driver"),
        ({"driver_cuda": "12.4"}, "CUDA", "fail", "CUDA up to 12.4", old),
        ({"driver_cuda": "12.4", "cuda_fault": fault}, "CUDA run", "fail", "took", old),
        ({"cuda_wheels": {"nvidia-cudnn-cu12": "9.1.0"}}, "CUDA", "warn",
         "nvidia-cudnn-cu12 9.1.0 is for another CUDA", f"pip install {gpu}"),
        ({"cuda_wheels": HEALTHY.cuda_wheels | {"nvidia-cudnn-cu12": "9.1.0"}}, "CUDA", "ok", "cudnn-cu12 9.1.0", ""),
        ({"torch": "2.8.0+cu128"}, "torch", "warn", "torch 2.8.0+cu128 is for CUDA 12, ONNX Runtime for 13", "keep"),
        ({"cuda_fault": fault}, "CUDA run", "fail", "took CPUExecutionProvider", f"pip install {gpu}"),
    )  # fmt: skip
    for change, check, status, detail, fix in changes:
        found = finding(replace(HEALTHY, **change), check)
        assert found.status == status
        assert detail in found.detail
        assert found.fix[: len(fix) or None] == fix


def test_this_environment(capfd: Capture) -> None:
    facts = doctor.gather()
    assert (facts.runtime, len(facts.wheels), facts.providers[-1]) == (ort.__version__, 1, "CPUExecutionProvider")
    assert {"numpy", "onnx", INSTALLED} <= set(facts.packages)
    checks = {found.check for found in doctor.diagnose()}
    assert checks >= {"Python", "ONNX Runtime wheels", "processor", "int8 sums"}
    assert capfd.readouterr() == ("", "")


def test_nvidia_smi_rows() -> None:
    rows = "0, NVIDIA H100 80GB HBM3, 81559, 80995, 580.95.05\n1, Tesla, [N/A], [N/A], 580.95.05\ngarbage\n"
    h100 = devices.Gpu(0, "NVIDIA H100 80GB HBM3", 81559, 80995, "580.95.05")
    assert devices.parse_gpus(rows) == (h100, devices.Gpu(1, "Tesla", None, None, "580.95.05"))


@pytest.mark.long
def test_it_runs_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    """A device that is not there, or the CPU itself: every row has a result."""
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(
        script, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["what"]: row for row in read_json(tmp_path / "gpu-check.json")["rows"]}
    assert rows["CPU: tensors in memory"]["ours"] > 0
