"""Files with several inputs: what needs the image alone is opened, and the rest is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import onnx_models
from support.onnx_models import graph

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
PIXELS = np.random.default_rng(5).random((3, 8, 8, 3)).astype(np.float32)
IMAGE = ("pixel_values", FLOAT, ("batch", 3, 8, 8))
IDS, MASK = ("input_ids", INT64, ("texts", 7)), ("attention_mask", INT64, ("texts", 7))


def image_tower() -> tuple[list[Any], dict[str, Any]]:
    nodes, weights = onnx_models.pooled(24)
    nodes[0] = ("Conv", ["pixel_values", "conv.weight"], ["conv"], {"kernel_shape": [3, 3]})
    weights["proj"] = onnx_models.weight(24, 16)
    return [*nodes, ("MatMul", ["features", "proj"], ["image_embeds"])], weights


def clip() -> onnx.ModelProto:
    """A whole CLIP as optimum lays it out."""
    nodes, weights = image_tower()
    weights |= {"table": onnx_models.weight(50, 16), "one": np.asarray([1])}
    nodes += [
        ("Gather", ["table", "input_ids"], ["words"]),
        ("Cast", ["attention_mask"], ["mask"], {"to": FLOAT}),
        *graph("""
            mask3 = Unsqueeze(mask, last); masked = Mul(words, mask3)
            text_embeds = ReduceMean(masked, one, keepdims=0); turned = Transpose(image_embeds)
            logits_per_text = MatMul(text_embeds, turned); logits_per_image = Transpose(logits_per_text)
        """),
    ]
    weights["last"] = np.asarray([2])
    outputs = [(name, FLOAT, (first, 16)) for name, first in (("text_embeds", "texts"), ("image_embeds", "batch"))]
    logits = [(name, FLOAT, None) for name in ("logits_per_image", "logits_per_text")]
    return onnx_models.build(nodes, [*logits, *outputs], weights, inputs=[IDS, IMAGE, MASK])


LEFT_OUT = (
    "input input_ids",
    "input attention_mask",
    "output logits_per_image",
    "output logits_per_text",
    "output text_embeds",
)


def test_of_a_whole_clip_the_image_encoder_is_opened(opened: Any) -> None:
    found = opened(clip())
    assert (found.image_input.name, [output.name for output in found.outputs]) == ("pixel_values", ["image_embeds"])
    assert (found.representation.tensor, found.representation.rule) == ("image_embeds", "encoder_output")
    assert found.left_out == LEFT_OUT
    graph = onnx.ModelProto.FromString(found.graph.own()).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul"]
    assert [value.name for value in graph.input] == ["pixel_values"]
    assert {tensor.name for tensor in graph.initializer} == {"conv.weight", "proj"}
    nodes, weights = image_tower()
    alone = opened(onnx_models.build(nodes, ["image_embeds"], weights, inputs=[IMAGE]))
    assert alone.left_out == ()
    np.testing.assert_array_equal(
        Runner(found, "cpu").run(PIXELS).representation, Runner(alone, "cpu").run(PIXELS).representation
    )


def test_value_infos_and_weights_of_the_rest_go_and_external_data_stays(tmp_path: Path) -> None:
    model = clip()
    for name in ("features", "words"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, FLOAT, None))
    path = onnx_models.save(model, tmp_path / "m.onnx", external=True)
    found = open_model(path)
    graph = onnx.ModelProto.FromString(found.graph.own()).graph
    assert [value.name for value in graph.value_info] == ["features"]
    assert found.size_bytes == path.stat().st_size + (tmp_path / "m.onnx.data").stat().st_size
    assert Runner(found, "cpu").run(PIXELS).representation.shape == (3, 16)


def test_the_report_says_what_was_left_out(tmp_path: Path) -> None:
    report = check(onnx_models.save(clip(), tmp_path / "m.onnx"), preprocess="imagenet", max_images=60)
    assert report.evidence.model.left_out == LEFT_OUT
    assert (
        "The file has several inputs; what needs the image alone was measured. Left out: input input_ids, input "
        "attention_mask, output logits_per_image, output logits_per_text, output text_embeds."
    ) in report.notes


def test_an_input_that_nothing_reads_is_left_out(opened: Any) -> None:
    nodes, weights = image_tower()
    found = opened(onnx_models.build(nodes, ["image_embeds"], weights, inputs=[IMAGE, ("seed", FLOAT, None)]))
    assert found.left_out == ("input seed",)
    assert Runner(found, "cpu").run(PIXELS).representation.shape == (3, 16)


def test_an_input_with_a_default_is_no_input(opened: Any) -> None:
    nodes, weights = image_tower()
    nodes.append(("Mul", ["image_embeds", "temperature"], ["scaled"]))
    inputs = [IMAGE, ("temperature", FLOAT, (1,))]
    model = onnx_models.build(nodes, ["scaled"], weights | {"temperature": np.ones(1, np.float32)}, inputs=inputs)
    assert opened(model).left_out == ()


@pytest.mark.parametrize(
    ("extra", "nodes", "outputs", "message"),
    [
        (
            [("t", FLOAT, (1,))],
            graph("scaled = Mul(image_embeds, t)"),
            ["scaled"],
            "t float (1); scaled needs pixel_values, t; an output must need the image input alone",
        ),
        (
            [("training_mode", BOOL, ())],
            graph("dropped = Dropout(image_embeds, , training_mode)"),
            ["dropped"],
            "training_mode bool (); dropped needs pixel_values, training_mode; an output must need the image",
        ),
        (
            [IDS],
            graph("size = Shape(input_ids); wide = Expand(image_embeds, size)"),
            ["wide"],  # be it only the shape
            "input_ids int64 (?, 7); wide needs input_ids, pixel_values; an output must need the image input alone",
        ),
        (
            [("depth", FLOAT, ("batch", 3, 8, 8))],
            graph("flat = Flatten(depth)"),
            ["image_embeds", "flat"],
            "depth float (?, 3, 8, 8); image_embeds needs pixel_values alone; flat needs depth alone; it must be",
        ),
    ],
)
def test_what_cannot_be_fed_says_which_output_needs_what(
    opened: Any, extra: Any, nodes: Any, outputs: list[str], message: str
) -> None:
    tower, weights = image_tower()
    model = onnx_models.build([*tower, *nodes], outputs, weights, inputs=[IMAGE, *extra])
    with pytest.raises(CannotAssessError) as caught:
        opened(model)
    assert f"inputs are pixel_values float (?, 3, 8, 8), {message}" in caught.value.message
    assert caught.value.hint == "export the vision encoder alone: robustcheck export --help"


def test_many_outputs_are_not_all_listed(opened: Any) -> None:
    tower, weights = image_tower()
    nodes = [("Mul", ["image_embeds", "t"], [f"y{i}"]) for i in range(6)]
    model = onnx_models.build([*tower, *nodes], [f"y{i}" for i in range(6)], weights, inputs=[IMAGE, ("t", FLOAT, ())])
    with pytest.raises(CannotAssessError, match=r"y3 needs pixel_values, t; … \(6 outputs\); an output must"):
        opened(model)


@pytest.mark.parametrize(
    ("inputs", "nodes", "what"),
    [
        ([("x", INT64, (None, 77))], graph("y = Gather(table, x)"), "x int64 (?, 77): a text encoder; an image"),
        (
            [("x", INT64, (None, 77))],
            [("Cast", ["x"], ["c"], {"to": INT64}), ("Gather", ["table", "c"], ["y"])],
            "x int64 (?, 77): a text encoder; an image",
        ),
        ([IDS], [("Cast", ["input_ids"], ["y"], {"to": FLOAT})], "input_ids int64 (?, 7): a text encoder; an image"),
        ([("x", INT64, (None, 77))], [("Cast", ["x"], ["y"], {"to": FLOAT})], "x int64 (?, 77); an image input"),
        ([("x", INT64, (1, 10, 1))], [("Cast", ["x"], ["y"], {"to": FLOAT})], "x int64 (1, 10, 1); an image input"),
        (
            [("x", FLOAT, (1, 10, 1)), ("length", INT64, ())],
            graph("y = DFT(x, length)"),
            "inputs are x float (1, 10, 1), length int64 (); an image input (batch, 3, height, width) is needed",
        ),
    ],
)
def test_only_a_text_encoder_is_called_one(opened: Any, inputs: Any, nodes: Any, what: str) -> None:
    model = onnx_models.build(nodes, ["y"], {"table": onnx_models.weight(50, 16)}, inputs=inputs)
    with pytest.raises(CannotAssessError) as caught:
        opened(model)
    assert what in caught.value.message
