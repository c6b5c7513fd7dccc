"""Forms by how the same graph is written down: order, names, weights, functions, inner graphs, external data."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .encoder import FEATURES
from .form import EMBEDDING, IMAGE, OPSET, REFUSES, Form, changed, exported, plain, rename
from .precisions import static

ODD = 'a "b" /é\\ $(c) --d ☃'
DEEP = 3_000  # nodes in a row
LARGE_BYTES = 1024  # weights of this size and more go to external files
INSIDE = "the last layer lies in an inner graph, where the walk does not look"


def forms() -> Iterator[Form]:
    """Every form of this kind."""
    yield from _written_down()
    yield from _nested()
    yield from _external()


# ------------------------------------------------------------------------------------ how it is written down


def _written_down() -> Iterator[Form]:
    changes: dict[str, tuple[str, Callable[[onnx.ModelProto], None]]] = {
        "weights as Constant nodes": ("no initialiser is left", _constants),
        "weights as inputs too": ("IR version 3 style", _weights_as_inputs),
        "nodes shuffled": ("any order", _shuffled),
        "nodes in reverse": ("the last one first", _reversed),
        "no value_info": ("shapes of input and output alone", _no_value_info),
        "output without a shape": ("type alone", _no_output_shape),
        "a wrong value_info": ("a contradiction in the file's own shapes", _wrong_value_info),
        "a sparse initialiser": ("the projection, in coordinates", _sparse),
        "odd names of tensors": (f"as {ODD!r}", _odd_tensors),
        "odd name of the input": (f"as {ODD!r}", _odd_input),
        "nodes without names": ("", _nameless),
        "domain ai.onnx written out": ("in nodes and opset_import", _domain),
        "a branch that nothing reads": ("a Softmax beside the embedding", _dead_branch),
        "weights that nothing reads": ("one more initialiser", _unused_weight),
        f"{DEEP} nodes in a row": ("Identity after Identity behind the embedding", _deep),
        "metadata of others": ("metadata_props and doc_string", _metadata),
        "weights in typed fields": ("float_data, not raw_data", _typed_fields),
        "an optional input left out": ("a Clip with '' as its minimum, in the trunk", _optional_input),
    }
    for name, (done, change) in changes.items():
        yield Form(name, done, changed(change))
    yield Form(
        "nodes of one name", "", changed(_one_name), ("exit 3",), "ONNX Runtime wants names to differ", says=REFUSES
    )
    yield Form("odd name of the file", f"as {ODD!r}", _odd_file)
    yield Form("suffix in capitals", "MODEL.ONNX", _capitals)


def _constants(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("Constant", [], [w.name], value=w) for w in model.graph.initializer]
    rest = list(model.graph.node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend([*nodes, *rest])


def _weights_as_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.extend(
        helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in model.graph.initializer
    )


def _reorder(model: onnx.ModelProto, order: Callable[[list[onnx.NodeProto]], None]) -> None:
    nodes = list(model.graph.node)
    order(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _shuffled(model: onnx.ModelProto) -> None:
    _reorder(model, random.Random(0).shuffle)


def _reversed(model: onnx.ModelProto) -> None:
    _reorder(model, list.reverse)


def _no_value_info(model: onnx.ModelProto) -> None:
    del model.graph.value_info[:]


def _no_output_shape(model: onnx.ModelProto) -> None:
    _no_value_info(model)
    model.graph.output[0].type.tensor_type.ClearField("shape")


def _wrong_value_info(model: onnx.ModelProto) -> None:
    _no_value_info(model)
    tensor = model.graph.node[-1].input[0]
    model.graph.value_info.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", 999]))


def _sparse(model: onnx.ModelProto) -> None:
    (weight,) = (w for w in model.graph.initializer if w.name == model.graph.node[-1].input[1])
    values = numpy_helper.to_array(weight)
    flat = np.flatnonzero(values).astype(np.int64)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values.ravel()[flat], weight.name), numpy_helper.from_array(flat), weight.dims
    )
    model.graph.initializer.remove(weight)
    model.graph.sparse_initializer.append(sparse)


def _odd_tensors(model: onnx.ModelProto) -> None:
    made = [name for node in model.graph.node for name in node.output if name != EMBEDDING]
    names = [*made, *(weight.name for weight in model.graph.initializer)]
    rename(model, {name: f"{ODD} {index}" for index, name in enumerate(names)})


def _odd_input(model: onnx.ModelProto) -> None:
    rename(model, {IMAGE: ODD})


def _nameless(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""


def _one_name(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = "node"


def _domain(model: onnx.ModelProto) -> None:
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"


def _dead_branch(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Softmax", [EMBEDDING], ["probabilities"]))


def _unused_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((7, 5), np.float32), "unused"))


def _deep(model: onnx.ModelProto) -> None:
    rename(model, {EMBEDDING: "deep_0"})
    model.graph.output[0].name = EMBEDDING
    names = [f"deep_{index}" for index in range(DEEP)] + [EMBEDDING]
    model.graph.node.extend(helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names))


def _metadata(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"author": "somebody", "names": "{0: 'cat'}", "robustcheck": ""})
    model.doc_string = "an encoder"
    model.producer_name = ""


def _typed_fields(model: onnx.ModelProto) -> None:
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(weight).ravel()
            weight.ClearField("raw_data")
            weight.float_data.extend(values)


def _optional_input(model: onnx.ModelProto) -> None:
    """Clip the pixels from above, at more than any pixel has."""
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == IMAGE:
                node.input[index] = "clipped"
    model.graph.initializer.append(numpy_helper.from_array(np.array(100, np.float32), "maximum"))
    model.graph.node.insert(0, helper.make_node("Clip", [IMAGE, "", "maximum"], ["clipped"]))


def _odd_file(folder: Path) -> Path:
    path = folder / f"{ODD.replace('/', '')}.onnx"
    onnx.save(plain(), path)
    return path


def _capitals(folder: Path) -> Path:
    onnx.save(plain(), folder / "MODEL.ONNX")
    return folder / "MODEL.ONNX"


# -------------------------------------------------------------------------------- functions and inner graphs


def _nested() -> Iterator[Form]:
    yield Form("the projection in a function", "a model-local function", changed(lambda m: _in_functions(m, 1)))
    yield Form("a function in a function", "two levels", changed(lambda m: _in_functions(m, 2)))
    yield Form("20 functions in each other", "20 levels", changed(lambda m: _in_functions(m, 20)))
    yield Form("the whole encoder in a function", "one node in the graph", changed(_all_in_a_function))
    yield Form(
        "the projection in an If",
        "both branches do the same",
        changed(_in_if),
        ("PASS", "WARN"),
        INSIDE,
        frozenset({"end_not_calibrated"}),
    )
    yield Form("an If in the trunk", "behind it an attention block and the projection", changed(_if_in_trunk))
    yield Form(
        "the projection in a Loop", "one turn", changed(_in_loop), ("PASS", "WARN"), "the walk does not look into loops"
    )


def _in_functions(model: onnx.ModelProto, levels: int) -> None:
    """Put the last node into so many functions, each of which calls the next."""
    last = model.graph.node[-1]
    body = helper.make_node(last.op_type, ["x", "w"], ["y"])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("local", 1)]
    for level in range(levels):
        model.functions.append(helper.make_function("local", f"Project{level}", ["x", "w"], ["y"], [body], opsets))
        body = helper.make_node(f"Project{level}", ["x", "w"], ["y"], domain="local")
    last.op_type, last.domain = f"Project{levels - 1}", "local"
    model.opset_import.append(helper.make_opsetid("local", 1))


def _all_in_a_function(model: onnx.ModelProto) -> None:
    weights = [w.name for w in model.graph.initializer]
    function = helper.make_function(
        "local", "Encoder", [IMAGE, *weights], [EMBEDDING], list(model.graph.node), [helper.make_opsetid("", OPSET)]
    )
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Encoder", [IMAGE, *weights], [EMBEDDING], domain="local"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))


def _branch(node: onnx.NodeProto, name: str) -> onnx.GraphProto:
    """A graph of one node that gives its output under a name of its own."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[0] = f"{name}_{node.output[0]}"
    return helper.make_graph([copy], name, [], [helper.make_tensor_value_info(copy.output[0], TensorProto.FLOAT, None)])


def _in_if(model: onnx.ModelProto) -> None:
    _into_if(model, len(model.graph.node) - 1)


def _if_in_trunk(model: onnx.ModelProto) -> None:
    _into_if(model, next(i for i, node in enumerate(model.graph.node) if node.op_type == "LayerNormalization"))


def _into_if(model: onnx.ModelProto, at: int) -> None:
    node = model.graph.node[at]
    inner = helper.make_node(
        "If", ["yes"], list(node.output), then_branch=_branch(node, "yes"), else_branch=_branch(node, "no")
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node[at].CopyFrom(inner)


def _in_loop(model: onnx.ModelProto) -> None:
    last = model.graph.node[-1]
    body = _branch(last, "turn")
    state = helper.make_tensor_value_info("before", TensorProto.FLOAT, None)
    body.input.extend(
        [
            helper.make_tensor_value_info("index", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            state,
        ]
    )
    body.node.append(helper.make_node("Identity", ["go_on"], ["still"]))
    body.output.insert(0, helper.make_tensor_value_info("still", TensorProto.BOOL, []))
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1, np.int64), "turns"),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.zeros((1, FEATURES), np.float32), "start"),
        ]
    )
    last.CopyFrom(helper.make_node("Loop", ["turns", "yes", "start"], [EMBEDDING], body=body))


# ----------------------------------------------------------------------------------------- external data


def _external() -> Iterator[Form]:
    options: dict[str, dict[str, Any]] = {
        "one file": {"all_tensors_to_one_file": True, "location": "model.onnx.data"},
        "one file a tensor": {"all_tensors_to_one_file": False},
        "in a folder": {"all_tensors_to_one_file": True, "location": "weights/all.bin"},
        "odd name": {"all_tensors_to_one_file": True, "location": "a b é.bin"},
        "every tensor": {"all_tensors_to_one_file": True, "location": "model.data", "size_threshold": 0},
    }
    for name, values in options.items():
        yield Form(f"external data, {name}", ", ".join(values), _with_external(values))
    yield Form("external data of static int8", "one file", _with_external(options["one file"], static()))
    yield Form(
        "external data of 3 functions",
        "one file",
        _with_external(options["one file"], changed(lambda m: _in_functions(m, 3))),
    )
    yield Form(
        "external data of Constant nodes",
        "one file",
        _with_external(options["one file"] | {"convert_attribute": True}, changed(_constants)),
    )


def _with_external(values: dict[str, Any], first: Callable[[Path], None] | None = None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (first or exported())(folder)
        model = onnx.load(folder / "model.onnx")
        (folder / "weights").mkdir()
        onnx.save(
            model, folder / "model.onnx", save_as_external_data=True, **({"size_threshold": LARGE_BYTES} | values)
        )

    return make
