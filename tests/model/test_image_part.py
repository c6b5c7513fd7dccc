"""Files with several inputs: what needs the image alone is opened, and the rest is named."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from support import raised
from support.onnx_models import PIXELS, Value, save
from support.written import POOLED, written

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
IMAGE = ("pixel_values", FLOAT, ("batch", 3, 8, 8))
IDS, MASK = ("input_ids", INT64, ("texts", 7)), ("attention_mask", INT64, ("texts", 7))
TOWER = POOLED.replace("image", "pixel_values") + "image_embeds = MatMul(features, w16x16)\n"
CLIP = """
    words = Gather(w50x16, input_ids); mask = Cast(attention_mask, to=FLOAT); mask3 = Unsqueeze(mask, [2])
    masked = Mul(words, mask3); text_embeds = ReduceMean(masked, [1], keepdims=0); turned = Transpose(image_embeds)
    logits_per_text = MatMul(text_embeds, turned); logits_per_image = Transpose(logits_per_text)
"""


def clip() -> ModelProto:
    """A whole CLIP as optimum lays it out."""
    outputs = [(name, FLOAT, (first, 16)) for name, first in (("text_embeds", "texts"), ("image_embeds", "batch"))]
    return written(CLIP, "logits_per_image", "logits_per_text", *outputs, before=TOWER, inputs=[IDS, IMAGE, MASK])


LEFT_OUT = (
    "input input_ids",
    "input attention_mask",
    "output logits_per_image",
    "output logits_per_text",
    "output text_embeds",
)


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
    assert found.size_bytes == path.stat().st_size + Path("m.onnx.data").stat().st_size
    alone = open_model(save(written("", before=TOWER, inputs=[IMAGE]), "alone.onnx"))
    assert alone.left_out == ()
    ours, theirs = (Runner(each, "cpu").run(PIXELS).representation for each in (found, alone))
    np.testing.assert_array_equal(ours, theirs)


def test_inputs_that_are_none(opened: Any) -> None:
    """Nothing reads it, or it has a default."""
    inputs = [IMAGE, ("seed", FLOAT, None), ("scale", FLOAT, (1,))]
    model = opened(written("scaled = Mul(image_embeds, scale)", before=TOWER, inputs=inputs[:2], scale=[1.0]))
    assert model.left_out == ("input seed",)
    proto = written("scaled = Mul(image_embeds, scale)", before=TOWER, inputs=inputs[::2])
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "scale"))
    assert opened(proto).left_out == ()


NEEDED = "an output must need the image input alone"


def test_what_cannot_be_fed_says_which_output_needs_what(opened: Any) -> None:
    for extra, text, outputs, message in [
        (("t", FLOAT, (1,)), "y = Mul(image_embeds, t)", ["y"], f"t float (1); y needs pixel_values, t; {NEEDED}"),
        (
            ("on", BOOL, ()),
            "y = Dropout(image_embeds, , on)",
            ["y"],
            f"on bool (); y needs on, pixel_values; {NEEDED}",
        ),
        (  # be it only the shape
            IDS,
            "size = Shape(input_ids); y = Expand(image_embeds, size)",
            ["y"],
            f"input_ids int64 (?, 7); y needs input_ids, pixel_values; {NEEDED}",
        ),
        (
            ("depth", FLOAT, ("batch", 3, 8, 8)),
            "y = Flatten(depth)",
            ["image_embeds", "y"],
            "depth float (?, 3, 8, 8); image_embeds needs pixel_values alone; y needs depth alone; it must be",
        ),
        (
            ("t", FLOAT, ()),
            "; ".join(f"y{i} = Mul(image_embeds, t)" for i in range(6)),
            [f"y{i}" for i in range(6)],
            f"y3 needs pixel_values, t; … (6 outputs); {NEEDED}",
        ),
    ]:
        caught = raised(CannotAssessError, "", opened, written(text, *outputs, before=TOWER, inputs=[IMAGE, extra]))
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
        (
            [sound, ("length", INT64, ())],
            "y = DFT(x, length)",
            "inputs are x float (1, 10, 1), length int64 (); an image input (batch, 3, height, width) is needed",
        ),
    ]
    for inputs, text, what in rows:
        caught = raised(CannotAssessError, "", opened, written(text, before="", inputs=inputs))
        assert what in caught.message
