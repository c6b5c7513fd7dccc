"""Files made to end, block or fill the process that reads them: models, and image sets; none fills a whole machine."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import PHOTOS, onnx_models

GIANT = 1 << 40
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def negative_sizes() -> onnx.ModelProto:
    """Sizes of −1, for which the shape inference of ONNX ends the process."""
    model = onnx_models.classifier()
    for size in model.graph.input[0].type.tensor_type.shape.dim:
        size.dim_value = -1
    return model


def doubling_functions(levels: int = 40) -> onnx.ModelProto:
    """Functions that each call the next one twice."""
    model = onnx_models.classifier()
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    for level in range(levels):
        call = ("Relu", "") if level == levels - 1 else (f"f{level + 1}", "own")
        nodes = [
            helper.make_node(call[0], ["x"], ["m"], domain=call[1]),
            helper.make_node(call[0], ["m"], ["y"], domain=call[1]),
        ]
        model.functions.append(helper.make_function("own", f"f{level}", ["x"], ["y"], nodes, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "f0", "own"
    return model


def _with_constant(nodes: list[onnx_models.Node], weights: dict[str, onnx_models.Array]) -> onnx.ModelProto:
    """A classifier that also adds the mean of the constant `giant`, which the nodes make."""
    made, more = onnx_models.pooled()
    ends: list[onnx_models.Node] = [
        ("ReduceMean", ["giant"], ["mean"], {"keepdims": 0}),
        ("Cast", ["mean"], ["float_mean"], {"to": FLOAT}),
        ("Gemm", ["features", "fc.weight"], ["scores"], {"transB": 1}),
        ("Add", ["scores", "float_mean"], ["logits"]),
    ]
    weights = more | weights | {"fc.weight": onnx_models.weight(10, 16)}
    return onnx_models.build([*made, *nodes, *ends], [("logits", FLOAT, ("batch", 10))], weights)


def _ints(*values: int) -> onnx_models.Array:
    return np.array(values, dtype=np.int64)


ONE = np.ones((1, 1), np.float32)


def constant_of_shape(size: int = GIANT) -> onnx.ModelProto:
    """A tensor of many zeros from one number."""
    return _with_constant([("ConstantOfShape", ["size"], ["giant"])], {"size": _ints(size)})


def repeated(op: str) -> onnx.ModelProto:
    """One number, repeated by an Expand or a Tile."""
    shape = _ints(1 << 20, 1 << 20)
    return _with_constant([(op, ["one", "shape"], ["giant"])], {"one": ONE, "shape": shape})


def counted() -> onnx.ModelProto:
    """All numbers up to a large one."""
    bounds = {name: np.array(value, np.int64) for name, value in (("from", 0), ("to", GIANT), ("step", 1))}
    return _with_constant([("Range", ["from", "to", "step"], ["giant"])], bounds)


def many_large(n: int = 6) -> onnx.ModelProto:
    """Constants of 1 GiB each, which fit alone and not together."""
    nodes: list[onnx_models.Node] = [("ConstantOfShape", ["size"], [f"part{i}"]) for i in range(n)]
    nodes.append(("Sum", [f"part{i}" for i in range(n)], ["giant"]))
    return _with_constant(nodes, {"size": _ints(1 << 28)})


def joined(levels: int = 30) -> onnx.ModelProto:
    """A tensor joined to itself, again and again."""
    nodes: list[onnx_models.Node] = [
        ("Concat", [f"t{level}", f"t{level}"], [f"t{level + 1}"], {"axis": 0}) for level in range(levels)
    ]
    nodes.append(("Identity", [f"t{levels}"], ["giant"]))
    return _with_constant(nodes, {"t0": ONE})


def outer_product() -> onnx.ModelProto:
    """Two vectors multiplied to a matrix."""
    side = np.ones((1 << 17, 1), np.float32)
    return _with_constant([("MatMul", ["a", "b"], ["giant"])], {"a": side, "b": side.reshape(1, -1)})


def one_name_twice() -> onnx.ModelProto:
    """Two nodes that write one name, the second from what it wrote itself."""
    model = onnx_models.classifier()
    model.graph.node.insert(2, helper.make_node("Relu", ["relu"], ["relu"]))
    return model


def nested_gates(blocks: int = 60) -> onnx.ModelProto:
    """Blocks that each multiply what they get by a gate made of it."""
    nodes, weights = onnx_models.pooled()
    nodes[3] = ("Flatten", ["gap"], ["x0"])
    for i in range(blocks):
        nodes += [
            ("Gemm", [f"x{i}", "w"], [f"v{i}"]),
            ("Sigmoid", [f"v{i}"], [f"g{i}"]),
            ("Mul", [f"v{i}", f"g{i}"], [f"m{i}"]),
            ("Gemm", [f"m{i}", "w"], [f"o{i}"]),
            ("Mul", [f"x{i}", f"o{i}"], [f"x{i + 1}"]),
        ]
    weights |= {"w": onnx_models.weight(16, 16), "fc": onnx_models.weight(16, 10)}
    nodes.append(("Gemm", [f"x{blocks}", "fc"], ["logits"]))
    return onnx_models.build(nodes, [("logits", FLOAT, ("batch", 10))], weights)


def endless_loop() -> onnx.ModelProto:
    """A Loop of 2^62 rounds."""
    nodes, weights = onnx_models.pooled()
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Relu", ["x"], ["y"])],
        "body",
        [value("i", INT64, []), value("go", TensorProto.BOOL, []), value("x", FLOAT, ["batch", 16])],
        [value("go_on", TensorProto.BOOL, []), value("y", FLOAT, ["batch", 16])],
    )
    nodes += [
        ("Loop", ["rounds", "yes", "features"], ["turned"], {"body": body}),
        ("Gemm", ["turned", "fc"], ["logits"]),
    ]
    weights |= {"rounds": np.array(1 << 62), "yes": np.array(True), "fc": onnx_models.weight(16, 10)}
    return onnx_models.build(nodes, [("logits", FLOAT, ("batch", 10))], weights)


def name_of_source_files(name: str = "a.h" * 3000) -> onnx.ModelProto:
    """A node that ONNX Runtime refuses with its name, which looks like files of its source."""
    model = onnx_models.classifier()
    model.graph.node[-1].name = name
    model.graph.node[-1].attribute.append(helper.make_attribute("transA", 1))
    return model


def many_dimensions(n: int = 16_000, size: int = 1 << 62) -> onnx.ModelProto:
    """A weight of 16,000 dimensions, whose product has 300,000 digits."""
    model = onnx_models.classifier()
    weight = numpy_helper.from_array(np.zeros(1, np.float32), "wide")
    del weight.dims[:]
    weight.dims.extend([size] * n)
    model.graph.initializer.append(weight)
    return model


def many_dimensions_inside(n: int = 1000) -> onnx.ModelProto:
    """A constant that is reshaped to 1,000 dimensions, and a value said to have 16,000."""
    model = _with_constant([("Reshape", ["one", "shape"], ["giant"])], {"one": ONE, "shape": _ints(*([1] * n))})
    model.graph.value_info.append(helper.make_tensor_value_info("scores", FLOAT, [1 << 62] * 16_000))
    return model


# ------------------------------------------------------------------------------------------------ image sets


def negative_member(folder: Path) -> Path:
    """A tar file whose second member has the size of minus one block: its end is its start."""
    path = folder / "images.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a.jpg", "b.jpg"):
            member = tarfile.TarInfo(name)
            content = PHOTOS[0].read_bytes()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    second = 512 + -(-len(content) // 512) * 512
    content_ = bytearray(path.read_bytes())
    header = content_[second : second + 512]
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # −512 in base 256
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    content_[second : second + 512] = header
    path.write_bytes(content_)
    return path


def _photos(folder: Path, n: int = 8) -> None:
    for photo in PHOTOS[:n]:
        (folder / photo.name).write_bytes(photo.read_bytes())


def pipe_in_folder(folder: Path) -> Path:
    """A pipe among photos."""
    _photos(folder)
    os.mkfifo(folder / "a.jpg")
    return folder


def pipe_in_late_row(folder: Path) -> Path:
    """A list whose rows all name one photo, but for a late one."""
    _photos(folder, 1)
    os.mkfifo(folder / "pipe.jpg")
    path = folder / "list.txt"
    path.write_text(f"{PHOTOS[0].name}\n" * 10_001 + "pipe.jpg\n")
    return path


def device_in_table(folder: Path) -> Path:
    """A Parquet table with the path of a link to a device."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    rows = [{"image": {"bytes": None, "path": name}} for name in ("zero.jpg", "pipe.jpg")]
    pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")
    return folder / "images.parquet"


def pipe_as(suffix: str) -> Callable[[Path], Path]:
    """A folder with a pipe named as a file that holds many images."""

    def made(folder: Path) -> Path:
        os.mkfifo(folder / f"a{suffix}")
        return folder

    return made


def one_line(suffix: str, size: int = 1 << 26) -> Callable[[Path], Path]:
    """A file of one line of zeros, which takes no space on the disk."""

    def made(folder: Path) -> Path:
        path = folder / f"list{suffix}"
        with path.open("wb") as file:
            file.truncate(size)
        return path

    return made


def row_of_many_lines(folder: Path) -> Path:
    """A CSV file that is one row of short lines."""
    path = folder / "list.csv"
    path.write_text('"a\n",' * 300_000)
    return path


def wrong_offsets(folder: Path) -> Path:
    """An Arrow file whose second photo ends far behind the file: pyarrow ends the process where it is read."""
    import pyarrow as pa

    content = PHOTOS[0].read_bytes()
    table = pa.Table.from_pylist([{"image": {"bytes": content, "path": f"{i}.jpg"}} for i in range(2)])
    path = folder / "images.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    right, wrong = (struct.pack("<3i", 0, len(content), end) for end in (2 * len(content), 2**31 - 1))
    whole = path.read_bytes()
    assert whole.count(right) == 1
    path.write_bytes(whole.replace(right, wrong))
    return path
