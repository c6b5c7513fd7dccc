"""Forms by the numbers inside: float16, bfloat16, float64, int8 of every kind, weights of 8 and 4 bits."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from .encoder import photos, planted_encoder
from .form import IMAGE, OPSET, REFUSES, Form, changed, export, exported, plain

N_CALIBRATION = 16
NO_KERNEL = "ONNX Runtime's CPU provider has no kernel for it"
OVER_BATCH = "its activations are scaled over the batch: an image's numbers depend on its neighbours"


def forms() -> Iterator[Form]:
    """Every form of this kind."""
    yield from _float16()
    yield from _other_floats()
    yield from _static()
    yield from _dynamic()
    yield from _few_bits()


# ----------------------------------------------------------------------------------------------- floats


def _float16() -> Iterator[Form]:
    def common(**options: Any) -> Callable[[Path], None]:
        def change(model: onnx.ModelProto) -> onnx.ModelProto:
            from onnxconverter_common import float16

            half: onnx.ModelProto = float16.convert_float_to_float16(model, **options)
            return half

        return changed(change)

    def of_transformers(**options: Any) -> Callable[[Path], None]:
        def change(model: onnx.ModelProto) -> onnx.ModelProto:
            from onnxruntime.transformers import float16

            half: onnx.ModelProto = float16.convert_float_to_float16(model, **options)
            return half

        return changed(change)

    needs = ("onnxconverter_common",)
    tool = "onnxconverter_common.float16"
    yield Form("fp16, onnxconverter_common", tool, common(), needs=needs)
    yield Form(
        "fp16, onnxconverter_common, float in and out",
        f"{tool}, keep_io_types",
        common(keep_io_types=True),
        needs=needs,
    )
    yield Form(
        "fp16, onnxconverter_common, Softmax in fp32",
        f"{tool}, op_block_list",
        common(op_block_list=["Softmax"]),
        needs=needs,
    )
    yield Form(
        "fp16, onnxconverter_common, LayerNorm in fp32",
        f"{tool}, op_block_list",
        common(op_block_list=["LayerNormalization"]),
        ("exit 3",),
        "the converter forgets weights that torch shares by Identity: ONNX Runtime refuses mixed types",
        says=REFUSES,
        needs=needs,
    )
    tool = "onnxruntime.transformers.float16"
    yield Form("fp16, ONNX Runtime", tool, of_transformers())
    yield Form(
        "fp16, ONNX Runtime, float in and out",
        f"{tool}, keep_io_types; it leaves the nodes unsorted",
        of_transformers(keep_io_types=True),
    )
    yield Form(
        "fp16, ONNX Runtime, LayerNorm in fp32",
        f"{tool}, op_block_list",
        of_transformers(keep_io_types=True, op_block_list=["LayerNormalization", "Softmax"]),
    )
    yield Form("fp16, torch", "module.half()", _cast(torch.float16))
    yield Form("fp16 weights, fp32 graph", "each weight behind a Cast", changed(lambda m: _stored(m, np.float16)))


def _other_floats() -> Iterator[Form]:
    yield Form("bf16, torch", "module.bfloat16()", _cast(torch.bfloat16), ("exit 3",), NO_KERNEL, says=REFUSES)
    yield Form("bf16 weights, fp32 graph", "each weight behind a Cast", changed(_stored_bfloat16))
    yield Form("fp64, torch", "module.double()", _cast(torch.float64), ("PASS", "exit 3"), NO_KERNEL, says=REFUSES)
    yield Form("fp64 weights, fp32 graph", "each weight behind a Cast", changed(lambda m: _stored(m, np.float64)))
    yield Form("fp64 embedding", "the output behind a Cast", exported(None, lambda x: x.double()))
    yield Form("fp16 embedding", "the output behind a Cast", exported(None, lambda x: x.half()))


def _cast(dtype: torch.dtype) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        image = torch.zeros(2, 3, 64, 64, dtype=dtype)
        export(planted_encoder().to(dtype), folder / "model.onnx", image=image)

    return make


def _stored(model: onnx.ModelProto, dtype: type[np.generic]) -> None:
    """Store the weights in another type, each behind a Cast back to float32."""
    for weight in [w for w in model.graph.initializer if w.data_type == TensorProto.FLOAT]:
        name, values = weight.name, numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(values.astype(dtype), f"{name}_stored"))
        model.graph.node.insert(0, helper.make_node("Cast", [f"{name}_stored"], [name], to=TensorProto.FLOAT))


def _stored_bfloat16(model: onnx.ModelProto) -> None:
    import ml_dtypes

    _stored(model, ml_dtypes.bfloat16)


# ------------------------------------------------------------------------------------------------- int8


class Photos(CalibrationDataReader):
    """The first bundled photos, one at a time."""

    def __init__(self) -> None:
        self.rows = iter(photos()[:N_CALIBRATION])

    def get_next(self) -> dict[str, Any] | None:
        row = next(self.rows, None)
        return None if row is None else {IMAGE: row[None]}


def static(**options: Any) -> Callable[[Path], None]:
    """A maker that quantises the plain form on photos; `prepared`: after ONNX Runtime's own preparation."""
    opset, prepared = options.pop("opset", OPSET), options.pop("prepared", False)

    def make(folder: Path) -> None:
        source, target = folder / "source.onnx", folder / "model.onnx"
        onnx.save(plain(opset), source)
        with quiet():
            if prepared:
                quant_pre_process(source, source)
            quantize_static(source, target, Photos(), **options)
        source.unlink()

    return make


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the quantiser says off the terminal."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _static() -> Iterator[Form]:
    layouts = {"QDQ": QuantFormat.QDQ, "QOperator": QuantFormat.QOperator}
    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    for layout, quant_format in layouts.items():
        for per_channel in (False, True):
            for name, activations in types.items():
                options = {"quant_format": quant_format, "per_channel": per_channel, "activation_type": activations}
                what = f"{layout}, {'per channel' if per_channel else 'per tensor'}, {name} activations"
                yield Form(f"static {what}", "quantize_static, 16 photos", static(**options))
                yield Form(
                    f"static {what}, reduced range",
                    "quantize_static, reduce_range",
                    static(**options, reduce_range=True),
                )
        for method in ("Entropy", "Percentile"):
            yield Form(
                f"static {layout}, calibrated by {method}",
                f"CalibrationMethod.{method}",
                static(quant_format=quant_format, calibrate_method=CalibrationMethod[method]),
            )
        yield Form(
            f"static {layout}, prepared", "quant_pre_process first", static(quant_format=quant_format, prepared=True)
        )
        yield Form(
            f"static {layout}, uint8 weights",
            "weight_type QUInt8",
            static(quant_format=quant_format, weight_type=QuantType.QUInt8, activation_type=QuantType.QUInt8),
        )
        yield Form(
            f"static {layout}, MatMul alone",
            "op_types_to_quantize MatMul, Gemm",
            static(quant_format=quant_format, op_types_to_quantize=["MatMul", "Gemm"]),
        )
        yield Form(
            f"static {layout}, opset 13", "LayerNorm in plain operators", static(quant_format=quant_format, opset=13)
        )
    for name, options in {
        "symmetric activations": {"ActivationSymmetric": True},
        "a float bias": {"QuantizeBias": False},
        "pairs of its own": {"DedicatedQDQPair": True},
        "fixed batch axis kept": {"AddQDQPairToWeight": True},
        "operators of com.microsoft": {"UseQDQContribOps": True},
    }.items():
        yield Form(f"static QDQ, {name}", f"extra_options {', '.join(options)}", static(extra_options=options))
    for name, kind in {"uint16": QuantType.QUInt16, "int16": QuantType.QInt16}.items():
        yield Form(
            f"static QDQ, {name} activations",
            f"activation_type {kind.name}",
            static(activation_type=kind, weight_type=QuantType.QInt8, extra_options={"UseQDQContribOps": True}),
        )
        yield Form(
            f"static QDQ, {name} activations, opset 21",
            f"activation_type {kind.name}",
            static(activation_type=kind, weight_type=QuantType.QInt8, opset=20),
        )
    for name, kind in {"int4": QuantType.QInt4, "uint4": QuantType.QUInt4}.items():
        yield Form(f"static QDQ, {name} weights", f"weight_type {kind.name}", static(weight_type=kind))


def _dynamic() -> Iterator[Form]:
    for name, kind in {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}.items():
        for per_channel in (False, True):
            what = f"dynamic {name}{', per channel' if per_channel else ''}"
            make = made_dynamic(weight_type=kind, per_channel=per_channel)
            yield Form(f"{what}, batches of 1", "quantize_dynamic", make, arguments=("--batch-size", "1"))
            yield Form(
                f"{what}, batches of 32",
                "quantize_dynamic",
                make,
                ("PASS", "WARN"),
                OVER_BATCH,
                frozenset({"batch_dependent"}),
            )
    make = made_dynamic(op_types_to_quantize=["MatMul"])
    yield Form(
        "dynamic int8, MatMul alone, batches of 1",
        "quantize_dynamic, as optimum does",
        make,
        arguments=("--batch-size", "1"),
    )


def made_dynamic(**options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        onnx.save(plain(), folder / "source.onnx")
        with quiet():
            quantize_dynamic(folder / "source.onnx", folder / "model.onnx", **options)
        (folder / "source.onnx").unlink()

    return make


# ----------------------------------------------------------------------------------------- weights of few bits


def _few_bits() -> Iterator[Form]:
    for block in (16, 32, 64, 128):
        for symmetric in (True, False):
            yield Form(
                f"4-bit weights, blocks of {block}, {'symmetric' if symmetric else 'with zero points'}",
                "MatMulNBitsQuantizer, default",
                _nbits(block_size=block, is_symmetric=symmetric),
            )
    yield Form(
        "4-bit weights, QDQ",
        "MatMulNBitsQuantizer, quant_format QDQ",
        _nbits(block_size=32, quant_format=QuantFormat.QDQ, opset=21),
    )
    yield Form(
        "4-bit weights, accuracy level 4",
        "MatMulNBitsQuantizer, accuracy_level 4",
        _nbits(block_size=32, accuracy_level=4),
    )
    for name in ("RTN", "KQuant", "HQQ"):
        algorithm = f"{name}WeightOnlyQuantConfig"
        yield Form(f"4-bit weights, {name}", algorithm, _nbits(algorithm=algorithm, block_size=32))
    yield Form("8-bit weights, blocks of 32", "MatMulNBitsQuantizer, bits 8", _nbits(bits=8, block_size=32))
    yield Form("8-bit weights, blocks of 128", "MatMulNBitsQuantizer, bits 8", _nbits(bits=8, block_size=128))
    for number, name in enumerate(("FP4", "NF4")):
        yield Form(f"4-bit weights, bnb {name}", "MatMulBnb4Quantizer", _bnb4(number))


def _nbits(*, algorithm: str = "", **options: Any) -> Callable[[Path], None]:
    opset = options.pop("opset", OPSET)

    def make(folder: Path) -> None:
        from onnxruntime.quantization import matmul_nbits_quantizer as nbits

        model = plain(min(opset, 20))
        if opset > 20:
            model = onnx.version_converter.convert_version(model, opset)
        if algorithm:
            options["algo_config"] = getattr(nbits, algorithm)()
        with quiet():
            quantizer = nbits.MatMulNBitsQuantizer(model, **options)
            quantizer.process()
            quantizer.model.save_model_to_file(str(folder / "model.onnx"), False)

    return make


def _bnb4(kind: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

        with quiet():
            quantizer = MatMulBnb4Quantizer(plain(), kind, 64)
            quantizer.process()
            quantizer.model.save_model_to_file(str(folder / "model.onnx"), False)

    return make
