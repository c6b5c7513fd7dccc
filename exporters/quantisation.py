"""Make fp32 files smaller: fp16, int8-dynamic and int8-qdq."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from . import CallError, ExportError, MissingError, Tell, contract, first_line, forms, quiet
from .contract import Photos
from .delivery import Drawn, data_of
from .forms import FORMS, Form, Tried
from .photos import QuantisationPlan, Transform, reader, stacked
from .plain import QUANTISING
from .preprocessing import Array, Fields
from .proof import EXACT_SUMS, Original, measure, run_file

if TYPE_CHECKING:
    import onnx

_INFERRED_KEY = "onnx.infer"  # ONNX Runtime's mark in metadata_props


def quantised(
    draft: Path,
    plan: QuantisationPlan,
    transform: Transform,
    original: Original,
    *,
    name: str,
    tell: Tell,
) -> Drawn:
    """Replace an fp32 file by its int8 form: of int8-qdq, the smallest of the plan's that keeps what the original has.

    A plan's only form is taken unless it is not faithful. The file is alone with its weights in a folder.

    Args:
        draft, transform, name: see `quantise`.

    Raises:
        ExportError: as `quantise` and `measure`; no form holds (exit 3, `forms.NoFormError`).
    """
    import onnx

    if not plan.forms:
        return Drawn(quantise(draft, plan.precision, (), transform, name=name))
    measured = stacked(plan.measured, transform, name)
    truth, _ = _representations(draft, measured)
    tried = list[Tried]()
    for number, form in enumerate(plan.forms, 1):
        tell(f"trying {form.name}, form {number} of {len(plan.forms)}")
        made = _copied(draft, form.name)
        one = Tried(form)
        try:
            quantise(made, plan.precision, plan.calibration, transform, name=name, form=form)
            one = _measured(made, form, measured, truth)
            measure(made, original, plan.precision)
        except (CallError, MissingError):
            raise
        except ExportError as error:
            if len(plan.forms) == 1:
                raise
            one = one._replace(fault=error.message)
        tried.append(one)
    chosen = tried[0]
    if len(plan.forms) > 1:
        chosen = forms.smallest(tried) or _refuse_all(tried, draft, name)
    data_of(draft).unlink(missing_ok=True)
    for file in (draft.parent / chosen.form.name).iterdir():
        file.replace(draft.with_name(file.name))
    return Drawn(onnx.load(draft, load_external_data=False), tried, chosen)


def _copied(draft: Path, folder: str) -> Path:
    """Copy a file and its weights into a folder next to it."""
    copy = draft.parent / folder / draft.name
    copy.parent.mkdir()
    for file in (draft, data_of(draft)):
        if file.exists():
            shutil.copyfile(file, copy.with_name(file.name))
    return copy


def _measured(path: Path, form: Form, photos: Array, truth: Array) -> Tried:
    """Measure a form by both arithmetics against the original's representations (photo, feature)."""
    rows, seconds = _representations(path, photos)
    exact_rows, _ = _representations(path, photos, EXACT_SUMS)
    plain = forms.kept(truth, rows)
    exact = forms.kept(truth, exact_rows)
    if not math.isfinite(plain.cosine + exact.cosine):
        raise ExportError(f"{path.name}: a representation has no direction: it is zero, or not finite")
    return Tried(
        form,
        size_bytes=sum(file.stat().st_size for file in path.parent.iterdir()),
        images_per_s=len(photos) / seconds,
        plain=plain,
        exact=exact,
        n_features=len(forms.outlier_features(truth)),
    )


def _representations(path: Path, photos: Array, *switched_on: str) -> tuple[Array, float]:
    """Return a file's representations (photo, feature), run photo by photo, and the seconds that it took."""
    runs, seconds = run_file(
        path,
        [contract.EMBEDDING.name],
        [photo[None] for photo in photos],
        f"{path.name}: ONNX Runtime could not run it",
        "report the model name",
        switched_on=switched_on,
    )
    return np.concatenate([rows for (rows,) in runs]), seconds


def _refuse_all(tried: Sequence[Tried], draft: Path, name: str) -> NoReturn:
    """Raise the error of forms of which none holds, with a precision that may hold in its hint.

    ONNX Runtime's converter to fp16 fails on most Resize nodes, and transformers keep most in int8-dynamic.
    """
    import onnx

    operators = {node.op_type for node in onnx.load(draft, load_external_data=False).graph.node}
    other = "int8-dynamic" if operators & {"Softmax", "Resize"} else "fp16"
    error = forms.NoFormError(
        f"{name}: number of forms that hold is 0 of {len(tried)}; of the worst 5 % of the photos the cosine must be "
        f"{forms.MIN_COSINE:g}, recall@10 {forms.MIN_RECALL:g}, and outlier features must be kept",
        f"no file was written; try --precision {other}, or other --calibration-images",
    )
    error.forms = tried
    raise error


def quantise(
    draft: Path, precision: str, photos: Photos, transform: Transform, *, name: str, form: Form = FORMS[0]
) -> onnx.ModelProto:
    """Replace an fp32 file, alone with its weights in a folder, by its int8 form, and return the graph.

    int8-dynamic: int8 weights, one scale a tensor; activations are scaled in every run, over the whole batch. Depthwise
    convolutions and those on the image stay float: with one scale for all their channels they lose most (measured on
    EfficientNet-Lite0: cosine 0.78 with them, 0.976 without).
    int8-qdq: weights of 8 bits, one scale a channel; activations are scaled by the smallest and largest value over
    `photos`. No percentile is cut off: what lies far out is what this project looks for. The weights of most forms are
    uint8 with zero point 128, the same numbers as int8: ONNX Runtime's sums of uint8 by int8 saturate on some CPUs.
    The outputs keep their names and stay float32. Weights next to the file stay there.

    Args:
        draft: the fp32 file. photos: for int8-qdq. transform: how a photo becomes the input.
        name: of the model, for messages. form: of int8-qdq.

    Raises:
        ExportError: a photo is unreadable (exit 2); the quantiser refuses the graph, or finds no layer that it can
            quantise (exit 3).
        OSError: the disk.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    weights = data_of(draft)
    proto = onnx.load(draft, load_external_data=False)
    # the exporter's shapes say more than the quantiser can infer, and it takes the difference for a conflict
    del proto.graph.value_info[:]
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"node_{index}"
    draft.write_bytes(proto.SerializeToString())
    quantised = draft.parent / "int8" / draft.name
    quantised.parent.mkdir()
    options: Fields = {"weight_type": QuantType.QInt8, "use_external_data_format": weights.exists()}
    with quiet() as messages:
        try:
            if precision == "int8-dynamic":
                quantize_dynamic(draft, quantised, nodes_to_exclude=_delicate(proto.graph), **options)
            else:
                quantize_static(
                    draft,
                    quantised,
                    reader(photos, transform, proto.graph.input[0].name),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType[form.activations],
                    per_channel=True,
                    reduce_range=form.weight_bits == 7,
                    op_types_to_quantize=list(form.operators) or None,
                    nodes_to_exclude=_ends(proto.graph) if form.has_float_ends else None,
                    **options,
                )
        except (ExportError, MemoryError, OSError):
            raise
        except Exception as error:  # the quantiser raises whatever its parts raise; all of it means the same
            raise ExportError(
                f"{name}: ONNX Runtime could not quantise it to {precision} ({first_line(error)}){messages.quoted()}",
                "--precision fp16, or another opset: onnx.version_converter",
            ) from error
    result = onnx.load(quantised, load_external_data=False)
    if not any(node.op_type in QUANTISING for node in result.graph.node):
        raise ExportError(
            f"{name}: number of layers that ONNX Runtime can quantise is 0; {precision} would be the fp32 model",
            "--precision fp16",
        )
    contract.keep_metadata(result, _INFERRED_KEY.__ne__)
    if precision == "int8-qdq" and form.has_uint8_weights:
        unsigned_weights(result, quantised.parent)
    weights.unlink(missing_ok=True)
    for file in quantised.parent.iterdir():
        file.replace(draft.with_name(file.name))
    quantised.parent.rmdir()
    draft.write_bytes(result.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(draft))
    return result


def unsigned_weights(model: onnx.ModelProto, folder: Path) -> None:
    """Rewrite the int8 weights of a QDQ file as uint8 of the same values, with zero points that are larger by 128.

    Args:
        model: as ONNX Runtime's quantiser wrote it, without its external weights; changed in place.
        folder: where those are; changed in place, too.
    """
    import onnx

    signed = {each.name: each for each in model.graph.initializer if each.data_type == onnx.TensorProto.INT8}
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    for name in {name for node in nodes for name in node.input} & signed.keys():
        _add_128(signed[name], folder)


def _add_128(tensor: onnx.TensorProto, folder: Path) -> None:
    """Make an int8 tensor uint8: with 128 added, only the first bit of each byte is another one."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo

    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        values = onnx.numpy_helper.to_array(tensor).view(np.uint8) ^ 128
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return
    place = ExternalDataInfo(tensor)
    content = np.memmap(folder / place.location, np.uint8, "r+", place.offset or 0, place.length)
    content ^= 128
    content.flush()
    tensor.data_type = onnx.TensorProto.UINT8


def _ends(graph: onnx.GraphProto) -> list[str]:
    """Return the first and the last layer."""
    layers = [node.name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return layers[:1] + layers[-1:]


def _delicate(graph: onnx.GraphProto) -> list[str]:
    """Return the convolutions that one scale for all channels would ruin."""
    images = {value.name for value in graph.input}
    delicate = []
    for node in graph.node:
        has_groups = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        if node.op_type == "Conv" and (has_groups or node.input[0] in images):
            delicate.append(node.name)
    return delicate


def halve(draft: Path, *, name: str) -> onnx.ModelProto:
    """Replace an fp32 file, alone with its weights in a folder, by its fp16 form, and return the graph.

    Weights and arithmetic are float16; inputs, outputs and operators that ONNX Runtime's converter leaves alone stay
    float32. Weights next to the file stay there.

    Args:
        draft: the fp32 file. name: of the model, for messages.

    Raises:
        ExportError: the converter refuses the graph (exit 3).
        OSError: the disk.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    weights = data_of(draft)
    try:
        # the steps of OnnxModel.convert_float_to_float16 without its shape inference, which needs sympy
        converted = OnnxModel(convert_float_to_float16(onnx.load(draft), keep_io_types=True))
        converted.disable_shape_inference()
        converted.remove_cascaded_cast_nodes()
        converted.remove_useless_cast_nodes()
        converted.topological_sort()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the converter raises whatever its parts raise; all of it means the same
        raise ExportError(
            f"{name}: ONNX Runtime could not convert it to fp16 ({first_line(error)})",
            "--precision int8-qdq, or export the model again from its own library",
        ) from error
    big = weights.exists()
    weights.unlink(missing_ok=True)
    onnx.save(converted.model, draft, save_as_external_data=big, location=weights.name)
    onnx.checker.check_model(str(draft))
    return onnx.load(draft, load_external_data=False)
