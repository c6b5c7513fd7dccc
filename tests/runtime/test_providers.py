"""What --device names: providers, their options, and what is refused."""

import sys

import onnxruntime as ort

from robustcheck_onnx.checker.cli.options import device_of
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.runtime import session
from robustcheck_onnx.checker.runtime.session import CPU, CUDA, TENSORRT, parse_device
from support import Patch, raised

OPENVINO = "OpenVINOExecutionProvider"
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
    for remote in ("azure", "nonsense"):  # one sends the images to another machine
        raised(UsageError, r"provider that the installed ONNX Runtime has \(xnnpack\)", parse_device, remote)


def test_what_is_no_device() -> None:
    for text, said, hint in (
        ("cudaa", "must be auto, cpu, cuda, cuda:N or tensorrt", "--device cuda"),
        ("openvno", "must be auto", "--device openvino"),
        ("cuda:x", "a device's number follows the colon", "--device cuda:0"),
        ("cuda:", "must be auto", "--device cuda"),
        ("cpu:1", "cpu has no number and no options", "--device cpu, or --device cuda"),
        ("auto,use_tf32=1", "auto has no number and no options", "--device auto, or --device cuda"),
        ("", "must be auto", "--device auto"),
    ):
        caught = raised(UsageError, f"device is '{text}'; .*{said}", parse_device, text)
        assert caught.hint == hint


def test_options_stand_behind_the_device() -> None:
    assert device_of("cuda:1", ("use_tf32=1", "gpu_mem_limit=2")) == "cuda:1,use_tf32=1,gpu_mem_limit=2"
    assert parse_device(device_of("openvino", ["num_of_threads=2"])).options["num_of_threads"] == "2"
    for wrong in ("use_tf32", "=1", "a b=1", "a=1,b=2", "a==1", "a="):
        raised(UsageError, "must be KEY=VALUE", device_of, "cuda", [wrong])


def test_a_driver_is_asked_of_nvidia_alone(monkeypatch: Patch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [OPENVINO, CPU])
    assert session.why_missing(OPENVINO) == ""
    assert "onnxruntime-gpu" in session.why_missing(CUDA)
    assert sys.platform != "linux" or not session.expects_accelerator("auto")
