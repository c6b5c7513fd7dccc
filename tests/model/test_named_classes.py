"""Classifiers that name the class (LabelEncoder, ZipMap), as Custom Vision writes them; a map beside its mean."""

from typing import Any

from onnx import ModelProto, TensorProto, helper

from robustcheck_onnx.checker.errors import UsageError
from support import raised
from support.written import written

ML = "ai.onnx.ml"
NAMES = ["ant", "bee", "cat"]
TYPES = {
    "p": helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 3]),
    "best": helper.make_tensor_type_proto(TensorProto.INT64, ["batch"]),
    "label": helper.make_tensor_type_proto(TensorProto.STRING, ["batch"]),
    "loss": helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    ),
}


def classifier(*outputs: str, before: str = "s = Gemm(features, w16x3, w3)") -> ModelProto:
    proto = written(f"""
        {before}; p = Softmax(s, axis=1); best = ArgMax(p, axis=1, keepdims=0)
        label = {ML}:LabelEncoder(best, classes_strings={NAMES}); loss = {ML}:ZipMap(p, classlabels_strings={NAMES})
    """)
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_value_info(name, TYPES[name]) for name in outputs)
    return proto


def test_the_tensor_before_the_scores_is_read(opened: Any) -> None:
    for outputs, scores in [
        (["best"], "best"),
        (["label"], None),
        (["loss"], None),
        (["label", "loss"], None),
        (["label", "p"], "p"),
    ]:
        model = opened(classifier(*outputs))
        found = model.representation
        assert (found.tensor, found.rule, found.assumed, model.class_output) == (
            "features",
            "head_input",
            False,
            scores,
        )


def test_no_hint_names_a_label(opened: Any) -> None:
    caught = raised(UsageError, "", opened, classifier("label", before="s = Tanh(features)"))
    assert "--tensor NAME" in caught.hint


def test_of_a_map_and_its_mean_the_mean_is_read(opened: Any) -> None:
    """So transformers' ResNetModel ends; further axes of length 1 change nothing."""
    outputs = [
        ("last_hidden_state", TensorProto.FLOAT, ("batch", 16, 6, 6)),
        ("pooler_output", TensorProto.FLOAT, ("batch", 16, 1, 1)),
    ]
    found = opened(
        written("pooler_output = Identity(gap); last_hidden_state = Identity(relu)", *outputs)
    ).representation
    assert (found.tensor, found.pool, str(found.ends_in)) == ("pooler_output", "none", "activation:Relu")
