"""What is wrong with a model is told with its name and a next step; what needs the image alone is opened."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node, make_tensor, make_tensor_value_info, tensor_dtype_to_np_dtype

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.model import weights
from robustcheck_onnx.checker.core.model.contract import CONTRACT_KEY, parse_contract
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.model.refusals import supported_versions
from robustcheck_onnx.checker.core.model.weights import PACKED_BITS, check_inline
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.errors import CannotAssessError
from support import Patch, lookup, raised
from support.onnx_models import PIXELS, POOLED, Value, build, classifier, graph, save, written

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
OPSET, IR_VERSION = supported_versions()
UP_TO = f"ONNX Runtime {ort.__version__} supports up to"
HAS_NO = f"ONNX Runtime {ort.__version__} has no such operator"


def refused(model: ModelProto | bytes, message: str) -> None:
    path = Path("m.onnx")
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    caught = raised(CannotAssessError, "", open_model, path)
    assert caught.message.startswith(f"{path}: ")
    assert message in caught.message
    assert caught.hint


WEIGHTS = {  # what is merged into a weight of 640 bytes, shape [10, 16], as protobuf's text
    f'raw_data: "{"x" * 632}"': "has 632 bytes; its shape [10, 16] and type float need 640",
    "data_type: 77": "is number 77; ONNX has no such type",
    "data_type: 0": "has no type; each needs one",
    f"dims: {1 << 40}": "has 640 bytes; its shape [10, 16, 1099511627776] and type float need 703687441776640",
    "dims: -1": "has 640 bytes; its shape [10, 16, -1] and type float need -640",
    "dims: 0": "has 640 bytes; its shape [10, 16, 0] and type float need 0",
    "segment { begin: 0 }": "is in segments; it must be whole",
    # the digest of one and the values of the other could be taken, whether the raw ones were parsed or not
    "float_data: 1 " * 160: "has values in raw_data and in float_data; they must be",
}


@pytest.mark.parametrize("large_bytes", [100, 1 << 16])
def test_weights_that_are_not_whole(monkeypatch: Patch, large_bytes: int) -> None:
    monkeypatch.setattr(weights, "LARGE_BYTES", large_bytes)
    for change, message in WEIGHTS.items():
        model = classifier(bias=False)
        text_format.Merge(change, model.graph.initializer[1])
        refused(model, f"weight 'fc.weight' {message}")
    # a constant does not get the values of a large weight of its name
    constant = TensorProto(name="fc.weight", data_type=FLOAT, dims=[10, 16])
    model = classifier(bias=False)
    model.graph.node.append(make_node("Constant", [], ["other"], value=constant))
    refused(model, "weight 'fc.weight' has 0 values; its shape [10, 16] and type float need 160")


def test_every_type_is_counted_as_onnx_writes_it() -> None:
    for kind in sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING}):
        values = np.ones((3, 3), tensor_dtype_to_np_dtype(kind))
        raw = make_tensor("w", kind, [3, 3], numpy_helper.from_array(values).raw_data, raw=True)
        assert len(raw.raw_data) == math.ceil(9 * PACKED_BITS.get(kind, 8 * values.itemsize) / 8)
        assert_counted(raw)
        assert_counted(make_tensor("w", kind, [3, 3], values))
    assert_counted(make_tensor("w", TensorProto.STRING, [3], [b"a", b"b", b"c"]))  # type: ignore[list-item]


def assert_counted(tensor: TensorProto) -> None:
    check_inline(tensor, {})
    tensor.dims[0] = 30
    raised(CannotAssessError, r"weight 'w' has \d+ (bytes|values); its shape \[30", check_inline, tensor, {})


OTHER = 'value_info { name: "x" type { tensor_type { elem_type: 999 } } }'
CHANGES = {  # what is merged into a model
    'graph { input { name: "image" } }': "several inputs are named 'image'",
    f"graph {{ {OTHER} }}": "type of 'x' is 999",
    'graph { node { op_type: "Conv" input: "image" } }': "node Conv has 1 inputs; it needs at least 2",
    "opset_import { version: 99 }": f"opset is 99; {UP_TO} {OPSET}",
    "ir_version: 99": f"IR version is 99; {UP_TO} {IR_VERSION}",
    'graph { node { op_type: "Reluu" input: "image" } }': f"ai.onnx:Reluu; {HAS_NO} (closest: Relu)",
    'graph { initializer { name: "conv.weight" data_type: 1 dims: 0 } }': (
        "'conv.weight' is written twice, by two weights"
    ),
    'graph { node { op_type: "Nope" input: "image" } }': f"ai.onnx:Nope; {HAS_NO}",
}


def test_models_that_are_not_well_formed() -> None:
    for change, message in CHANGES.items():
        model = classifier()
        text_format.Merge(change, model)
        refused(model, message)
    model = classifier()
    content: bytes = model.SerializeToString()
    said = "name in the graph is b'log\\xffts'; names must be UTF-8 text"
    refused(content.replace(b"logits", b"log\xffts"), said)
    model.graph.node[0].input.pop()
    model.opset_import[0].domain = "my"  # nothing says which version of Conv is meant
    refused(model, "node Conv has 1 inputs; it needs at least 2")
    model.ClearField("opset_import")
    refused(model, "opset_import is missing")


def test_inputs_that_cannot_be_fed() -> None:
    rows: list[tuple[Value, str]] = [
        (("x", FLOAT, (200_000, 3, 32, 32)), "holds more than 268,435,456 values in one batch"),
        (("x", FLOAT, (3, 8, 8)), "input is x float (3, 8, 8); an image input (batch, 3,"),
        (("x", FLOAT, None), "input is x float unknown; an image input"),
        (("x", FLOAT, (None, 4, 28, 28)), "x float (?, 4, 28, 28) has 4 channels; photos have 3, or 1 in grey"),
        (("x", TensorProto.INT8, (None, 3, 8, 8)), "is of type int8; float32, float16, bfloat16, float64 and uint8"),
    ]
    for value, message in rows:
        refused(written(f"y = Flatten({value[0]})", before="", inputs=[value]), message)


def test_graphs_that_have_no_representation() -> None:
    flat = ("output", FLOAT, ("batch", 16, 12, 12))
    up = written("output = Resize(relu, , [1.0, 1.0, 2.0, 2.0])", flat)
    boxes = written("""rows = Unsqueeze(features, [1]); corners = Slice(rows, [0], [4], [2])
        output = NonMaxSuppression(corners, rows)""", ("output", INT64, None))  # fmt: skip
    for model, message in (
        (written("embedding = Identity(w1x4)"), "outputs embedding do not depend on the image"),
        (written("y = com.acme:Foo(image)"), "node 'y' uses operator com.acme:Foo"),
        (written("boxes = Identity(features)"), "output 'boxes' is an object detector's"),
        (boxes, "graph has NonMaxSuppression"),
        (up, "output 'output' has 4 axes after Resize"),
    ):
        refused(model, message)
    # the user may still look at a tensor of the backbone
    assert open_model(save(up), tensor="features").representation.rule == "user"


HEAD = '<ir_version: 9, opset_import: ["" : 18, "my" : 1]>'
CALL = HEAD + "odd (float[n,3,8,8] image) => (float[n,m] flat) { y = my.f (image) flat = Flatten(y) }"
FUNCTION = '<domain: "my", opset_import: ["" : 18, "my" : 1]> '
DOUBLES = [f"{FUNCTION} f{i} (a) => (c) {{ b = my.f{i - 1}(a) c = my.f{i - 1}(b) }}" for i in range(1, 60)]


def test_functions_that_can_not_be_opened_up() -> None:
    for functions, fault in [
        ([f"{FUNCTION} f (a) => (b) {{ b = my.f(a) }}"], "can't be expanded"),
        ([f"{FUNCTION} f (a) => (b) {{ b = Relu(a) }}"] * 2, "can't be expanded"),
        ([f"{FUNCTION} f0 (a) => (b) {{ b = Relu(a) }}", *DOUBLES, f"{FUNCTION} f (a) => (b) {{ b = my.f59(a) }}"],
         "100,000 nodes"),
    ]:  # fmt: skip
        refused(onnx.parser.parse_model("\n".join([CALL, *functions])), fault)


def test_what_looks_wrong_and_is_not(opened: Any) -> None:
    model = classifier()
    for dimension, size in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (-1, -(2**63)), strict=True):
        dimension.dim_value = size  # a negative size is an unknown one
    for weight in model.graph.initializer:  # as files of IR version 3 have it
        model.graph.input.append(make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    model.graph.node.append(make_node("Relu", ["image"], []))
    model.graph.node.append(make_node("Constant", [], [], value_float=1.0))
    image = opened(model).image_input
    assert (image.name, image.size) == ("image", None)


def test_a_packed_layer_without_scales_is_refused_by_the_runtime(opened: Any) -> None:
    """Its weight can't be read, which says nothing of the reader."""
    layer = "y = com.microsoft:MatMulNBits(features, packed, K=16, N=4, bits=8, block_size=16)"
    model = opened(written(layer, packed=np.zeros((4, 1, 16), np.uint8)))
    raised(CannotAssessError, "refuses the model: .* has input size 2 not in range", Runner, model, "cpu")


def test_the_limits_of_the_runtime_are_allowed() -> None:
    assert OPSET is not None
    assert IR_VERSION is not None
    model = build(graph("y = Identity(image)"), ["y"], opset=OPSET, ir_version=IR_VERSION)
    ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def parse_text(text: str, key: str = CONTRACT_KEY) -> Any:
    return parse_contract(ModelProto(metadata_props=[StringStringEntryProto(key=key, value=text)]), "m.onnx")


def parse(contract: object) -> Any:
    return parse_text(json.dumps(contract))


VALID = lookup.lookup_contract()


def test_contracts_that_are_refused() -> None:
    for field, value, message in (
        ("schema_version", 2, "contract has schema version 2; this robustcheck reads up to 1"),
        ("schema_version", 0, "contract does not match schema 1 (schema_version: Input should be 1)"),
        ("schema_version", True, "contract does not match schema 1 (schema_version: true is not a version)"),
        ("schema_version", 1.0, "contract does not match schema 1 (schema_version: 1.0 is not a version)"),
        ("precision", "int4", "precision: Input should be 'fp32', 'fp16', 'int8-dynamic', 'int8-qdq' or 'fp8-qdq'"),
        ("taken_over_from", {"file": "a.onnx", "digest": "sha256:0"}, "taken_over_from.digest: String should match"),
        ("taken_over_from", "a.onnx", "taken_over_from: Input should be"),
        ("colour", "red", "colour: Extra inputs are not permitted"),
        ("tensors", {}, 'there is no entry "representation"'),
        ("source", VALID["source"] | {"random_weights": "no"}, "source.random_weights"),
    ):
        caught = raised(CannotAssessError, "", parse, VALID | {field: value})
        assert caught.message.startswith("m.onnx: ")
        assert message in caught.message
        assert caught.hint


def test_what_is_no_contract() -> None:
    assert parse_text("someone", "author") is None
    for text, message in {"{": "is not JSON", "[]": "is a JSON list", "{}": "schema_version: Field required"}.items():
        raised(CannotAssessError, f"contract .*{message}", parse_text, text)


def test_two_contracts() -> None:
    entry = StringStringEntryProto(key=CONTRACT_KEY, value=json.dumps(VALID))
    raised(CannotAssessError, "number of contracts is 2", parse_contract, ModelProto(metadata_props=[entry] * 2), "m")


FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
VALUES = ("pixel_values", FLOAT, ("batch", 3, 8, 8))
IDS, MASK = ("input_ids", INT64, ("texts", 7)), ("attention_mask", INT64, ("texts", 7))
TOWER = POOLED.replace("image", "pixel_values") + "image_embeds = MatMul(features, w16x16)\n"
CLIP = """words = Gather(w50x16, input_ids); mask = Cast(attention_mask, to=FLOAT); mask3 = Unsqueeze(mask, [2])
    masked = Mul(words, mask3); text_embeds = ReduceMean(masked, [1], keepdims=0); turned = Transpose(image_embeds)
    logits_per_text = MatMul(text_embeds, turned); logits_per_image = Transpose(logits_per_text)"""


def clip() -> ModelProto:
    """A whole CLIP as optimum lays it out."""
    outputs = [(name, FLOAT, (first, 16)) for name, first in (("text_embeds", "texts"), ("image_embeds", "batch"))]
    return written(CLIP, "logits_per_image", "logits_per_text", *outputs, before=TOWER, inputs=[IDS, VALUES, MASK])


LEFT_OUT = ("input input_ids", "input attention_mask", "output logits_per_image", "output logits_per_text",
            "output text_embeds")  # fmt: skip


def test_of_a_whole_clip_the_image_encoder_is_opened() -> None:
    model = clip()
    for name in ("features", "words"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, FLOAT, None))
    path = save(model, external=True)
    found = open_model(path)
    assert (found.image_input.name, [output.name for output in found.outputs]) == ("pixel_values", ["image_embeds"])
    assert (found.representation.tensor, found.representation.rule) == ("image_embeds", "encoder_output")
    reported = check(path, preprocess="imagenet", max_images=3).evidence.model.left_out
    assert found.left_out == reported == LEFT_OUT
    graph = ModelProto.FromString(found.graph.own()).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul"]
    of_image = ["pixel_values", "w16x16", "w16x3x3x3", "features"]
    assert [each.name for each in (*graph.input, *graph.initializer, *graph.value_info)] == of_image
    assert found.file.size_bytes == path.stat().st_size + Path("m.onnx.data").stat().st_size
    alone = open_model(save(written("", before=TOWER, inputs=[VALUES]), "alone.onnx"))
    assert alone.left_out == ()
    ours, theirs = (Runner(each, "cpu").run(PIXELS).representation for each in (found, alone))
    np.testing.assert_array_equal(ours, theirs)


def test_inputs_that_are_none(opened: Any) -> None:
    """Nothing reads it, or it has a default."""
    inputs = [VALUES, ("seed", FLOAT, None), ("scale", FLOAT, (1,))]
    model = opened(written("scaled = Mul(image_embeds, scale)", before=TOWER, inputs=inputs[:2], scale=[1.0]))
    assert model.left_out == ("input seed",)
    proto = written("scaled = Mul(image_embeds, scale)", before=TOWER, inputs=inputs[::2])
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "scale"))
    assert opened(proto).left_out == ()


NEEDED = "an output must need the image input alone"


def test_what_cannot_be_fed_says_which_output_needs_what(opened: Any) -> None:
    for extra, text, outputs, message in [
        (("on", BOOL, ()), "y = Dropout(image_embeds, , on)", ["y"], f"on bool (); y needs on, pixel_values; {NEEDED}"),
        # be it only the shape
        (IDS, "size = Shape(input_ids); y = Expand(image_embeds, size)", ["y"],
         f"input_ids int64 (?, 7); y needs input_ids, pixel_values; {NEEDED}"),
        (("depth", FLOAT, ("batch", 3, 8, 8)), "y = Flatten(depth)", ["image_embeds", "y"],
         "depth float (?, 3, 8, 8); image_embeds needs pixel_values alone; y needs depth alone; it must be"),
        (("t", FLOAT, ()), "; ".join(f"y{i} = Mul(image_embeds, t)" for i in range(6)), [f"y{i}" for i in range(6)],
         f"y3 needs pixel_values, t; … (6 outputs); {NEEDED}"),
    ]:  # fmt: skip
        caught = raised(CannotAssessError, "", opened, written(text, *outputs, before=TOWER, inputs=[VALUES, extra]))
        assert caught.message.partition(": ")[2].startswith("inputs are pixel_values float (?, 3, 8, 8), ")
        assert message in caught.message
        assert caught.hint == "export the vision encoder alone: robustcheck export --help"


def test_only_a_text_encoder_is_called_one(opened: Any) -> None:
    ids, sound = ("x", INT64, (None, 77)), ("x", FLOAT, (1, 10, 1))
    rows: list[tuple[list[Value], str, str]] = [
        ([ids], "y = Gather(w50x16, x)", "x int64 (?, 77): a text encoder; an image"),
        ([ids], "c = Cast(x, to=INT64); y = Gather(w50x16, c)", "x int64 (?, 77): a text encoder; an image"),
        ([IDS], "y = Cast(input_ids, to=FLOAT)", "input_ids int64 (?, 7): a text encoder; an image"),
        ([ids], "y = Cast(x, to=FLOAT)", "x int64 (?, 77); an image input"),
        ([sound, ("length", INT64, ())], "y = DFT(x, length)",
         "inputs are x float (1, 10, 1), length int64 (); an image input (batch, 3, height, width) is needed"),
    ]  # fmt: skip
    for inputs, text, what in rows:
        caught = raised(CannotAssessError, "", opened, written(text, before="", inputs=inputs))
        assert what in caught.message
