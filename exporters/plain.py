"""Give an ONNX file of another tool its contract. Needs no torch and no model library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import ExportError, contract, quoted
from .contract import ModelSource, Output
from .digests import file_digest
from .preprocessing import Fields, checked_preprocessing

if TYPE_CHECKING:
    import onnx

QUANTISING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
QUANTISED = QUANTISING | {"MatMulInteger", "ConvInteger", "QLinearConv"}
_DYNAMIC = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}


class Plain(NamedTuple):
    """What a check would read from an ONNX file without a contract.

    preprocessing: the contract's fields. stated_by: the option or the sidecar that states them.
    input_name: of the image. tensor: the representation, float32 (image, feature). n_features: None where the graph
    does not show it. rule, why: of the representation, as the contract has them. scores: the output of class scores,
    float32 (image, class); empty where there is none.
    """

    preprocessing: Fields
    stated_by: str
    input_name: str
    tensor: str
    n_features: int | None
    rule: str
    why: str
    scores: str


ReadPlain = Callable[[Path], Plain]


def described(proto: onnx.ModelProto, path: Path, plain: Plain) -> Fields:
    """Return the contract of a plain file, without parity, and give the graph the output `representation`.

    Raises:
        ExportError: another tensor has that name, or the file has another input (exit 3).
    """
    inputs = [value.name for value in proto.graph.input]
    weights = {weight.name for weight in proto.graph.initializer}
    others = [name for name in inputs if name != plain.input_name and name not in weights]
    if others or inputs[0] != plain.input_name:
        raise ExportError(
            f"{path}: inputs are {', '.join(inputs)}; a contract is for a file whose only input is the image",
            "export the image encoder alone",
        )
    _add_output(proto, path, plain)
    outputs = [Output(contract.EMBEDDING.name, plain.why, plain.rule)]
    if plain.scores:
        outputs.append(contract.LOGITS._replace(name=plain.scores))
    source = ModelSource("onnx", path.name, path.name, file_digest(path))
    preprocessing = checked_preprocessing(plain.preprocessing, str(path))
    content = contract.content(tuple(outputs), preprocessing, source, plain.stated_by)
    return content | {"precision": precision_of(proto)}


def _add_output(proto: onnx.ModelProto, path: Path, plain: Plain) -> None:
    """Give the representation's tensor the name that a contract needs."""
    from onnx import TensorProto, helper

    name = contract.EMBEDDING.name
    graph = proto.graph
    outputs = [output.name for output in graph.output]
    if plain.tensor != name:
        if name in outputs or any(name in node.output for node in graph.node):
            raise ExportError(
                f"{path}: a tensor that is not the representation has the name {name}; the representation is "
                f"{plain.tensor}",
                "give that tensor another name when you export the model",
            )
        graph.node.append(helper.make_node("Identity", [plain.tensor], [name], name=name))
    if name not in outputs:
        batch = graph.input[0].type.tensor_type.shape.dim[0]
        shape = [batch.dim_value or contract.BATCH_AXIS, plain.n_features]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def precision_of(proto: onnx.ModelProto) -> str:
    """Return the precision that a graph shows: one of contract.PRECISIONS, or contract.FP8."""
    from onnx import TensorProto

    operators = {node.op_type for node in proto.graph.node}
    kinds = {weight.data_type for weight in proto.graph.initializer}
    if operators & _DYNAMIC:
        return "int8-dynamic"
    if operators & QUANTISED:
        names = {TensorProto.DataType.Name(kind) for kind in kinds}
        has_fp8 = any(name.startswith("FLOAT8") for name in names)
        return contract.FP8 if has_fp8 and names.isdisjoint(("INT8", "UINT8")) else "int8-qdq"
    if kinds & {TensorProto.FLOAT16, TensorProto.BFLOAT16}:
        return "fp16"
    return "fp32"


def command_of(path: Path, out: Path, *words: str) -> str:
    """Return the command that writes the file again with other words."""
    return " ".join(["robustcheck export onnx", quoted(path), *map(quoted, words), "-o", quoted(out)])
