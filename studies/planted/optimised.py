"""Forms by the tool that the exported graph went through: simplifiers, shape inference, optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from .form import IMAGE, Form, changed, encoder, export, exported, plain
from .precisions import quiet, static


def forms() -> Iterator[Form]:
    """Every form of this kind."""
    yield from _simplified()
    yield from _optimised()


# ------------------------------------------------------------------------------------------- simplifiers


def _simplified() -> Iterator[Form]:
    for start, make in {"legacy": plain, "legacy, opset 13": lambda: plain(13), "dynamo": _dynamo}.items():
        yield Form(f"onnxsim, {start}", "onnxsim.simplify", _saved(make, _onnxsim), needs=("onnxsim",))
        yield Form(f"onnxslim, {start}", "onnxslim.slim", _saved(make, _onnxslim), needs=("onnxslim",))
    yield Form(
        "onnxsim, batch fixed to 1", "overwrite_input_shapes", _saved(plain, _onnxsim_batch_1), needs=("onnxsim",)
    )
    yield Form(
        "onnxsim of static int8",
        "onnxsim.simplify behind quantize_static",
        _after(static(), _onnxsim),
        needs=("onnxsim",),
    )
    yield Form(
        "onnxslim of static int8",
        "onnxslim.slim behind quantize_static",
        _after(static(), _onnxslim),
        needs=("onnxslim",),
    )
    yield Form("onnxscript's optimiser", "onnxscript.optimizer.optimize", _saved(plain, _onnxscript))
    yield Form("shapes inferred", "onnx.shape_inference", _saved(plain, onnx.shape_inference.infer_shapes))
    yield Form("shapes inferred by symbols", "ONNX Runtime's SymbolicShapeInference", _saved(plain, _symbolic))
    yield Form("batch fixed afterwards", "onnxruntime.tools make_dim_param_fixed", changed(_fixed))


def _dynamo() -> onnx.ModelProto:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        return onnx.load(export(encoder(), Path(name) / "model.onnx", dynamo=True))


Change = Callable[[onnx.ModelProto], onnx.ModelProto]


def _saved(start: Callable[[], onnx.ModelProto], change: Change) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        onnx.save(change(start()), folder / "model.onnx")

    return make


def _after(first: Callable[[Path], None], change: Change) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        first(folder)
        onnx.save(change(onnx.load(folder / "model.onnx")), folder / "model.onnx")

    return make


def _onnxsim(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    import onnxsim

    with quiet():
        simplified: onnx.ModelProto = onnxsim.simplify(model, **options)[0]
    return simplified


def _onnxsim_batch_1(model: onnx.ModelProto) -> onnx.ModelProto:
    return _onnxsim(model, overwrite_input_shapes={IMAGE: [1, 3, 64, 64]})


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    with quiet():
        slim: onnx.ModelProto = onnxslim.slim(model)
    return slim


def _onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxscript.optimizer

    optimised: onnx.ModelProto = onnxscript.optimizer.optimize(model)
    return optimised


def _symbolic(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    with quiet():
        inferred: onnx.ModelProto = SymbolicShapeInference.infer_shapes(model, auto_merge=True)
    return inferred


def _fixed(model: onnx.ModelProto) -> None:
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_dim_param_fixed

    make_dim_param_fixed(model.graph, "batch", 4)
    fix_output_shapes(model)


# -------------------------------------------------------------------------------------------- optimisers

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all, with layouts": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def _optimised() -> Iterator[Form]:
    for name, level in LEVELS.items():
        yield Form(f"ONNX Runtime, {name}", "optimized_model_filepath", _by_runtime(level))
        yield Form(
            f"ONNX Runtime, {name}, of static QDQ",
            "optimized_model_filepath behind quantize_static",
            _by_runtime(level, static()),
        )
        yield Form(
            f"ONNX Runtime, {name}, of opset 13", "optimized_model_filepath", _by_runtime(level, exported(opset=13))
        )
    for kind in ("vit", "bert", "clip"):
        yield Form(
            f"ONNX Runtime's transformer optimiser, {kind}",
            "onnxruntime.transformers.optimizer",
            _by_transformers(kind),
        )
    yield Form(
        "ONNX Runtime's transformer optimiser, fp16",
        "and convert_float_to_float16, float in and out",
        _by_transformers("vit", half=True),
    )
    yield Form(
        "ONNX Runtime's transformer optimiser, opset 13",
        "onnxruntime.transformers.optimizer",
        _by_transformers("vit", opset=13),
    )


def _by_runtime(level: object, first: Callable[[Path], None] | None = None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        source = folder / "model.onnx"
        (first or exported())(folder)
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        options.log_severity_level = 4  # "fatal": it warns that the file fits this machine only
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        (folder / "optimised.onnx").replace(source)

    return make


def _by_transformers(kind: str, *, half: bool = False, opset: int = 18) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from onnxruntime.transformers.optimizer import optimize_model

        onnx.save(plain(opset), folder / "source.onnx")
        with quiet():
            optimised = optimize_model(str(folder / "source.onnx"), kind, num_heads=4, hidden_size=128, use_gpu=False)
            if half:
                optimised.convert_float_to_float16(keep_io_types=True)
            optimised.save_model_to_file(str(folder / "model.onnx"))
        (folder / "source.onnx").unlink()

    return make
