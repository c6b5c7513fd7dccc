"""Files made to end, block or fill the process that reads them: models, and image sets; none fills a whole machine."""

import os
import struct
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from support.onnx_models import classifier

from . import PHOTOS
from .written import POOLED, written

GIANT = 1 << 40
FLOAT = TensorProto.FLOAT
LOGITS = ("logits", FLOAT, ("batch", 10))


def negative_sizes() -> onnx.ModelProto:
    """Sizes of −1, for which the shape inference of ONNX ends the process."""
    model = classifier()
    for size in model.graph.input[0].type.tensor_type.shape.dim:
        size.dim_value = -1
    return model


def doubling_functions(levels: int = 40) -> onnx.ModelProto:
    """Functions that each call the next one twice."""
    model = written(POOLED.replace("Relu", "own:f0") + "logits = Gemm(features, w16x10)", LOGITS, before="")
    for level in range(levels):
        call = "Relu" if level == levels - 1 else f"own.f{level + 1}"
        head = f'<domain: "own", opset_import: ["": 18, "own": 1]> f{level} (x) => (y)'
        model.functions.append(parser.parse_function(f"{head} {{ m = {call}(x) y = {call}(m) }}"))
    return model


def _with_constant(text: str) -> onnx.ModelProto:
    """A classifier that also adds the mean of the constant `giant`, which the nodes make."""
    ends = """
        mean = ReduceMean(giant, keepdims=0); float_mean = Cast(mean, to=FLOAT)
        scores = Gemm(features, w10x16, transB=1); logits = Add(scores, float_mean)
    """
    return written(text + ends, LOGITS)


def constant_of_shape(size: int = GIANT) -> onnx.ModelProto:
    """A tensor of many zeros from one number."""
    return _with_constant(f"giant = ConstantOfShape([{size}])")


def repeated(op: str) -> onnx.ModelProto:
    """One number, repeated by an Expand or a Tile."""
    return _with_constant(f"giant = {op}([[1.0]], [1048576, 1048576])")


def counted() -> onnx.ModelProto:
    """All numbers up to a large one."""
    return _with_constant(f"giant = Range(0, {GIANT}, 1)")


def many_large(n: int = 6) -> onnx.ModelProto:
    """Constants of 1 GiB each, which fit alone and not together."""
    parts = [f"part{i}" for i in range(n)]
    made = "\n".join(f"{part} = ConstantOfShape([{1 << 28}])" for part in parts)
    return _with_constant(f"{made}\ngiant = Sum({', '.join(parts)})")


def joined(levels: int = 30) -> onnx.ModelProto:
    """A tensor joined to itself, again and again."""
    names = ["[[1.0]]", *(f"t{level}" for level in range(1, levels + 1))]
    made = "\n".join(f"{new} = Concat({old}, {old}, axis=0)" for old, new in pairwise(names))
    return _with_constant(f"{made}\ngiant = Identity(t{levels})")


def outer_product() -> onnx.ModelProto:
    """Two vectors multiplied to a matrix."""
    return _with_constant(f"giant = MatMul(w{1 << 17}x1, w1x{1 << 17})")


def one_name_twice() -> onnx.ModelProto:
    """Two nodes that write one name, the second from what it wrote itself."""
    return written("relu = Relu(relu); logits = Gemm(features, w16x10)", LOGITS)


def nested_gates(blocks: int = 60) -> onnx.ModelProto:
    """Blocks that each multiply what they get by a gate made of it."""
    text = "".join(
        f"v{i} = Gemm(x{i}, w16x16); g{i} = Sigmoid(v{i}); m{i} = Mul(v{i}, g{i}); o{i} = Gemm(m{i}, w16x16)\n"
        f"x{i + 1} = Mul(x{i}, o{i})\n"
        for i in range(blocks)
    )
    return written(f"x0 = Identity(features)\n{text}logits = Gemm(x{blocks}, w16x10)", LOGITS)


BODY = """
body (int64 i, bool go, float[batch, 16] x) => (bool go_on, float[batch, 16] y) { go_on = Identity(go) y = Relu(x) }
"""


def endless_loop() -> onnx.ModelProto:
    """A Loop of 2^62 rounds."""
    model = written(f"turned = Loop({1 << 62}, True, features); logits = Gemm(turned, w16x10)", LOGITS)
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    loop.attribute.append(helper.make_attribute("body", parser.parse_graph(BODY)))
    return model


def name_of_source_files(name: str = "a.h" * 3000) -> onnx.ModelProto:
    """A node that ONNX Runtime refuses with its name, which looks like files of its source."""
    model = classifier()
    model.graph.node[-1].name = name
    model.graph.node[-1].attribute.append(helper.make_attribute("transA", 1))
    return model


def many_dimensions(n: int = 16_000, size: int = 1 << 62) -> onnx.ModelProto:
    """A weight of 16,000 dimensions, whose product has 300,000 digits."""
    model = classifier()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "wide"))
    model.graph.initializer[-1].dims[:] = [size] * n
    return model


def many_dimensions_inside(n: int = 1000) -> onnx.ModelProto:
    """A constant that is reshaped to 1,000 dimensions, and a value said to have 16,000."""
    model = _with_constant(f"giant = Reshape([[1.0]], {[1] * n})")
    model.graph.value_info.append(helper.make_tensor_value_info("scores", FLOAT, [1 << 62] * 16_000))
    return model


# ------------------------------------------------------------------------------------------------ image sets


def negative_member(folder: Path) -> Path:
    """A tar file whose second member has the size of minus one block: its end is its start."""
    content = PHOTOS[0].read_bytes()
    archive = b""
    for name, size in (("a.jpg", len(content)), ("b.jpg", -512)):
        member = tarfile.TarInfo(name)
        member.size = size
        archive += member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
    path = folder / "images.tar"
    path.write_bytes(archive + bytes(1024))
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
