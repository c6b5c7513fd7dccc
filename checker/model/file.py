"""Read an ONNX file into a checked, sorted model.

Weights in external files are located and checked, but ONNX Runtime reads them.

ONNX requires that a node comes after those whose outputs it reads, and every walk relies on it. Some tools write
another order: the float16 conversion of onnxruntime.transformers appends its Casts at the end of the graph. Such nodes
are sorted.

The graph for ONNX Runtime is written when a session is made, so that an open model is in memory once.
"""

from __future__ import annotations

import copy
import mmap
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from robustcheck_onnx.checker.errors import CannotAssessError, RobustcheckError, UsageError
from robustcheck_onnx.checker.isolation import max_model_bytes
from robustcheck_onnx.checker.storage.places import local_path, nearest_path
from robustcheck_onnx.checker.text import quoted

from .layers import HOLDERS, bodies, node_inputs, subgraphs, weight_names
from .weights import (
    LFS_MARK,
    Bytes,
    ExternalFile,
    Held,
    Places,
    Weights,
    aged_status,
    all_tensors,
    by_place,
    check_inline,
    check_length,
    damaged,
    digests_of,
    drop_pages,
    external_tensors,
    locate_weights,
    location_of,
    parse_light,
    read_file,
    restore,
    stamp_of,
    stamps_writes,
    use_resolved_names,
)

MOST_VERSION = 2**31  # ONNX's schemas take no larger one
MOST_DIMENSIONS = 32  # NumPy's own limit was that for long; models have up to eight
TYPES = frozenset(TensorProto.DataType.values())


@contextmanager
def about(name: object) -> Iterator[None]:
    """Begin the messages of errors inside with a name. What reads a model raises the bare fact."""
    try:
        yield
    except RobustcheckError as fault:
        fault.message = f"{name}: {fault.message}"
        raise


def check_well_formed(proto: ModelProto) -> None:
    """Check a model with its inner graphs and functions. A negative size becomes an unknown one, in place.

    ONNX's shape inference ends the process at some negative sizes; exporters write −1 for "any number".

    Raises:
        CannotAssessError: a name that is not UTF-8, two inputs of one name, a type that ONNX does not know, a node
            with fewer inputs than its operator needs.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    graphs = [proto.graph, *(body for part in (proto.graph, *proto.functions) for body in bodies(part.node))]
    for node in (node for part in (*proto.functions, *graphs) for node in part.node):
        domain = "" if node.domain == "ai.onnx" else node.domain
        least = _least_inputs(node.op_type, domain, versions.get(domain, 0))
        if len(node.input) < least:
            raise damaged(f"node {node.op_type} has {len(node.input)} inputs; it needs at least {least}")
    names: list[object] = [*versions, *(entry.key for entry in proto.metadata_props)]
    names += [word for f in proto.functions for word in (f.name, f.domain, *f.input, *f.output, *f.attribute)]
    for graph in graphs:
        values = [*graph.input, *graph.output, *graph.value_info]
        names += [named.name for named in (*values, *graph.initializer)]
        names += [word for node in graph.node for word in (node.op_type, node.domain, *node.input, *node.output)]
        names += [attribute.name for node in graph.node for attribute in node.attribute]
        for weight in graph.initializer:
            if weight.data_type == TensorProto.UNDEFINED:
                raise damaged(f"weight '{weight.name!s:.80}' has no type; each needs one")
        for value in values:
            tensor = value.type.tensor_type
            if tensor.elem_type not in TYPES:
                raise damaged(f"type of '{value.name!s:.80}' is {tensor.elem_type}; ONNX has no such type")
            check_dimensions(f"'{value.name!s:.80}'", len(tensor.shape.dim))
            for size in tensor.shape.dim:
                if size.dim_value < 0:
                    size.ClearField("dim_value")
    for word in names:
        if not isinstance(word, str):  # protobuf gives bytes where a name is not UTF-8
            raise damaged(f"name in the graph is {word!r:.80}; names must be UTF-8 text")
    twice = [name for name, n in Counter(value.name for value in proto.graph.input).items() if n > 1]
    if twice:
        raise damaged(f"several inputs are named '{twice[0]:.80}'; each needs a name of its own")


def check_dimensions(what: str, n: int) -> None:
    """Refuse a tensor with too many dimensions. Their product is a number with as many digits as there is memory for.

    Raises:
        CannotAssessError.
    """
    if n > MOST_DIMENSIONS:
        raise damaged(f"{what} has {n:,} dimensions; at most {MOST_DIMENSIONS} are possible")


@cache
def _least_inputs(op: object, domain: object, version: int) -> int:
    """Return how many inputs an operator needs. 0 for one that ONNX does not know.

    version: of its domain; below 1, as where the model names none, the newest.
    """
    if not isinstance(op, str) or not isinstance(domain, str) or version >= MOST_VERSION:
        return 0
    try:
        return int(onnx.defs.get_schema(op, version if version >= 1 else MOST_VERSION - 1, domain).min_input)
    except onnx.defs.SchemaError:
        return 0


MAPPED_BYTES = 1 << 24  # 16 MiB; a smaller file is copied, and may change while it runs
PROTOBUF_LIMIT_BYTES = (1 << 31) - 1  # protobuf's own limit of one message
EXPORT = "export the model with its weights: robustcheck export --help"
OTHER_FORMATS = (  # (offset, mark, what it is, what to do): files that people hand over instead of ONNX
    (0, b"PK\x03\x04", "a zip archive (PyTorch checkpoints and .npz files are)", EXPORT),
    (0, b"\x80", "a Python pickle (old PyTorch checkpoints are)", EXPORT),
    (
        0,
        b"\x89HDF",
        "an HDF5 file (Keras checkpoints are)",
        "python -m tf2onnx.convert --keras {file} --output model.onnx",
    ),
    (0, b"ftrt", "a TensorRT engine", "name the ONNX file that the engine was built from"),
    (4, b"TFL3", "a TensorFlow Lite model", "python -m tf2onnx.convert --tflite {file} --output model.onnx"),
    (4, b"ORTM", "a model in ONNX Runtime's ORT format", "name the ONNX file that it was converted from"),
    (4, b"\0\0\0\0{", "a safetensors file", EXPORT),
    (0, b"\x89PNG", "an image", "robustcheck model.onnx --images {file}"),
    (0, b"\xff\xd8\xff", "an image", "robustcheck model.onnx --images {file}"),
)
UNPACK = {  # by the end of the name, the longest first
    (".tar.gz", ".tgz", ".tar"): "mkdir -p model && tar xf {file} -C model && robustcheck model",
    (".gz",): "gunzip --keep {file}",
    (".zip",): "mkdir -p model && unzip {file} -d model && robustcheck model",
}
REPOSITORY = re.compile(r"(?:hf:|(?:https?:/)?huggingface\.co/)?([\w-][\w.-]*/[\w-][\w.-]*)")


@dataclass(frozen=True)
class OnnxFile:
    """A parsed model file. `proto` holds neither weights of external files nor large ones."""

    path: Path
    proto: ModelProto
    size_bytes: int
    """of the model file alone"""
    model_digest: str
    """sha256:… of the model file alone, as `sha256sum` prints it"""
    beginning: str
    """digest of all bytes before the metadata; empty where the file does not end with all of them"""
    external: tuple[ExternalFile, ...]
    weights: Weights
    """the file's content, and where in it, or in other files, the values of weights lie that `proto` does not hold"""
    mapped: ExternalFile | None = None
    """the file, where its content is mapped: whether it changed must be looked at (`refuse_changed`)"""


@dataclass(frozen=True)
class Graph:
    """A model's original graph and what is added to it."""

    file: OnnxFile
    proto: ModelProto
    """without the large weights that `file.weights` holds; ends where the author's graph does"""
    rewritten: bool
    """whether `proto` says anything else than the file's content"""
    addition: GraphProto
    """nodes and outputs; empty where nothing is added"""

    def own(self) -> bytes:
        """Write the graph without the addition. These are the file's own bytes, unless something in them was rewritten.

        Raises:
            CannotAssessError: rewritten, it is over protobuf's 2 GiB.
        """
        if not self.rewritten:
            return self.file.weights.content[:]
        try:
            content: bytes = restore(self.proto, self.file.weights).SerializeToString()
        except EncodeError as error:
            raise _too_large(self.file) from error
        return content

    def whole(self) -> bytes:
        """Write the graph with the addition. The weights of a file that was not rewritten are not written again.

        Protobuf merges messages that stand one behind the other: it appends repeated fields (nodes, outputs).

        Raises:
            CannotAssessError: it is over protobuf's 2 GiB.
        """
        own = self.own()
        if not self.addition.ByteSize():
            return own
        merged: bytes = own + ModelProto(graph=self.addition).SerializeToString()
        if len(merged) > PROTOBUF_LIMIT_BYTES:
            raise _too_large(self.file)
        return merged

    def mapped(self, *, whole: bool) -> bytes | None:
        """Write the graph with weights named by their places. ONNX Runtime then maps them from the model's file.

        whole: with the addition. None where the file is not mapped itself, or other files hold weights, too.
        """
        if self.file.mapped is None or self.file.external or not self.file.weights.places:
            return None
        proto = self.light() if whole else self.proto
        written: bytes = by_place(proto, self.file.mapped.location, self.file.weights.places).SerializeToString()
        return written

    def light(self) -> ModelProto:
        """Copy the graph and the addition without large weights. The copy is for walks and changes."""
        light = copy.deepcopy(self.proto)
        light.MergeFrom(ModelProto(graph=self.addition))
        return light

    def changed(self, proto: ModelProto) -> Graph:
        """Replace the graph and its addition by another. It was made of `light`."""
        return replace(self, proto=proto, rewritten=True, addition=GraphProto())


def _too_large(file: OnnxFile) -> CannotAssessError:
    return CannotAssessError(
        f"{file.path}: model can't be written with one more output; protobuf ends at 2 GiB",
        "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
    )


def read_onnx(path: str | Path) -> OnnxFile:
    """Parse an ONNX file and check its weights. External weights must exist and are not loaded.

    Raises:
        UsageError: no such file, a folder, or a URL.
        CannotAssessError: unreadable, empty, text, a Git LFS pointer, another format, truncated, without
            nodes; weights with fewer or more values than their shape needs; external data missing, truncated,
            or outside the model's folder.
    """
    path = local_path(path, "model")
    with about(path):
        content, status = _read_bytes(path)
        proto, places = _parse(path, content)
        metadata = ModelProto(metadata_props=proto.metadata_props).SerializeToString()
        (digest, beginning), mapped, held, own = digests_of(content, metadata), None, None, path.resolve()
        drop_pages(content)
        if isinstance(content, mmap.mmap):
            mapped = ExternalFile(own.name, own, {own: stamp_of(status)}, status.st_size, digest)
        if not proto.graph.node:
            raise CannotAssessError("graph has 0 nodes; a model needs some", "export or download the model again")
        check_well_formed(proto)
        every = all_tensors(proto)
        tensors = external_tensors(every)
        for index, tensor in enumerate(every):
            check_dimensions(f"weight '{tensor.name!s:.80}'", len(tensor.dims))
            if tensor.data_location != TensorProto.EXTERNAL:
                check_inline(tensor, places if index < len(proto.graph.initializer) else {})
        folder, targets = locate_weights(path, sorted({location_of(path, tensor) for tensor in tensors}))
        _check_size(len(content) + sum(target.stat().st_size for target in targets.values()))
        for tensor in tensors:
            check_length(tensor, targets[location_of(path, tensor)])
        external: tuple[ExternalFile, ...] = ()
        if folder is not None:
            held = Held(folder)
            external = tuple(read_file(location, target, folder, held) for location, target in targets.items())
            use_resolved_names(folder, targets, tensors)
        elif mapped is not None and places:
            held = Held(own.parent)
        weights = Weights(held, content, places)
        return OnnxFile(path, proto, len(content), digest, beginning, external, weights, mapped)


def external_locations(path: Path) -> tuple[ModelProto, list[str]]:
    """List the weight files that a model names. They need not exist, and weights are not parsed.

    Raises as `read_onnx`; of the files of weights, only their names are looked at.
    """
    with about(path):
        proto, _ = _parse(path, _read_bytes(path)[0])
        return proto, sorted({location_of(path, tensor) for tensor in external_tensors(all_tensors(proto))})


def may_be_model(path: Path) -> bool:
    """Whether a file starts as an ONNX model does.

    It starts with the field of the IR version; a large list or archive does not.
    """
    with path.open("rb") as file:
        return file.read(1) == b"\x08"


def missing(path: Path) -> UsageError:
    """Return the error for a model that does not exist. Its hint is the nearest name or address."""
    near, repository = nearest_path(path), REPOSITORY.fullmatch(str(path))
    if near is None and repository and not path.parent.exists() and path.suffix.lower() != ".onnx":
        return UsageError("no such file", f"Did you mean hf://{repository[1]}?")
    return UsageError("no such file", f"Did you mean {near}?" if near else f"ls {quoted(path.parent)}")


def _check_size(size_bytes: int) -> None:
    """Refuse a model that is larger than allowed. It is not read before."""
    limit_bytes = max_model_bytes()
    if limit_bytes is not None and size_bytes > limit_bytes:
        raise CannotAssessError(
            f"model with its external data is {size_bytes:,} bytes; --max-model-size is {limit_bytes:,}",
            f"--max-model-size {size_bytes}",
        )


def _read_bytes(path: Path) -> tuple[Bytes, os.stat_result]:
    """Read or map a file, and return its first status."""
    try:
        status = path.stat()
        size_bytes = status.st_size
        if path.is_dir():
            there = [*sorted(path.glob("*.onnx")), *sorted(path.glob("onnx/*.onnx"))]
            raise UsageError(
                "model is a folder; one .onnx file is needed",
                f"robustcheck {quoted(there[0])}" if there else f"--images {quoted(path)}, if it holds photos",
            )
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait forever, /dev/zero never end
            raise UsageError("model is a device or pipe; a regular file is needed", f"ls -lL {quoted(path)}")
        _check_size(size_bytes)
        if size_bytes > PROTOBUF_LIMIT_BYTES:
            raise CannotAssessError(
                f"model file is {size_bytes} bytes; protobuf ends at {PROTOBUF_LIMIT_BYTES}",
                "save the weights as external data: onnx.save(model, path, save_as_external_data=True)",
            )
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content: Bytes = b""
            if status.st_size >= MAPPED_BYTES and stamps_writes(status := aged_status(file.fileno())):
                with suppress(OSError, ValueError):
                    os.fsync(file.fileno())
                    content = mmap.mmap(file.fileno(), status.st_size, access=mmap.ACCESS_READ)
            content = content or file.read()
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise CannotAssessError(
            f"model file is not readable ({error.strerror}); it must be a readable file",
            f"ls -l {quoted(path)}",
        ) from error
    if not content:
        raise damaged("model file is empty (0 bytes); an ONNX protobuf is needed")
    return content, status


def _parse(path: Path, content: Bytes) -> tuple[ModelProto, Places]:
    if content[: len(LFS_MARK)] == LFS_MARK:
        raise CannotAssessError(
            "model file is a Git LFS pointer; the model itself was not downloaded",
            f"git lfs pull --include {quoted(path.name)}",
        )
    for ends, hint in UNPACK.items():
        if path.name.lower().endswith(ends):
            raise CannotAssessError("file is packed; an ONNX file is needed", hint.format(file=quoted(path)))
    for offset, mark, what, hint in OTHER_FORMATS:
        if content[offset : offset + len(mark)] == mark:
            raise CannotAssessError(f"model file is {what}; an ONNX protobuf is needed", hint.format(file=quoted(path)))
    if _is_text(content[:1024]):
        raise CannotAssessError("model file is text; an ONNX protobuf is needed", f"head -c 200 {quoted(path)}")
    try:
        proto, places = parse_light(content)
    except DecodeError as error:
        what = f"model file is not a complete ONNX protobuf ({len(content)} bytes); truncated or damaged"
        raise damaged(what) from error
    if not proto.opset_import:
        raise damaged("opset_import is missing; the file is truncated or no ONNX model")
    return proto, places


def _is_text(start: bytes) -> bool:
    """Whether a file starts as text. An ONNX protobuf starts with a control byte (0x08: field of the IR version)."""
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in start):
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(start)  # only a character cut in two by our own limit
    return True


BEFORE = -1  # stands for what is there before the first node: inputs and weights


def sort_model(proto: ModelProto) -> bool:
    """Sort the nodes of a model, in place. Functions and the graphs inside nodes, too; returns whether anything moved.

    Raises:
        CannotAssessError: one name is written twice; nodes read each other in a circle.
    """
    moved = _sort_graph(proto.graph.node, _given(proto.graph))
    for function in proto.functions:
        given = dict.fromkeys(function.input, "an input")
        with about(f"function {function.name}"):
            moved |= _sort_graph(function.node, given)
    return moved


def sorted_nodes(nodes: Sequence[NodeProto], given: Mapping[str, str]) -> list[NodeProto] | None:
    """Return the nodes with producers before consumers. None if they have that order already.

    Nodes keep their order but for those that are read too early: these move before their first reader. Takes time
    linear in the number of inputs. A node reads what the graphs inside it read from outside.

    Args:
        nodes: of one graph.
        given: names that are there before the first node, and what each is, in words.

    Raises:
        CannotAssessError: a name is written twice; nodes read each other in a circle. The message names the tensor.
    """
    makers = dict.fromkeys(given, BEFORE)
    for index, node in enumerate(nodes):
        for name in node.output:
            if name in makers:
                raise _written_twice(name, f"{given[name]} and a node" if name in given else "two nodes")
            if name:
                makers[name] = index
    sources = [[makers[name] for name in node_inputs(node) if name in makers] for node in nodes]
    if all(source < index for index, read in enumerate(sources) for source in read):
        return None
    placed, entered = {BEFORE: None}, set[int]()  # placed in this order
    for start in range(len(nodes)):
        path = [start]
        while path:
            missing = [source for source in sources[path[-1]] if source not in placed]
            if not missing:
                placed.setdefault(path.pop())
                continue
            entered.add(path[-1])
            for source in missing:
                if source in entered:
                    raise _circle(nodes, [at for at in path if at in entered and at not in placed], source)
            path += reversed(missing)
    return [nodes[index] for index in placed if index != BEFORE]


def _sort_graph(nodes: MutableSequence[NodeProto], given: Mapping[str, str]) -> bool:
    """Sort the nodes of one graph, in place.

    Those of the graphs inside them come first. `nodes` is a protobuf field.
    """
    moved = False
    for graph in (graph for node in nodes if node.op_type in HOLDERS for graph in subgraphs(node)):
        moved |= _sort_graph(graph.node, _given(graph))  # protobuf nests messages 100 times at most
    order = sorted_nodes(list(nodes), given)
    if order is not None:
        del nodes[:]
        nodes.extend(order)
    return moved or order is not None


def _given(graph: GraphProto) -> dict[str, str]:
    """Return a graph's inputs and weights with their kind. An input may have a weight as its default."""
    given = dict.fromkeys((value.name for value in graph.input), "an input")
    for name in weight_names(graph):
        if given.get(name) == "a weight":
            raise _written_twice(name, "two weights")
        given[name] = "a weight"
    return given


def _written_twice(name: str, by: str) -> CannotAssessError:
    return CannotAssessError(
        f"tensor {name!r} is written twice, by {by}; each name must belong to one tensor",
        "export the model again",
    )


def _circle(nodes: Sequence[NodeProto], path: Sequence[int], source: int) -> CannotAssessError:
    circle = path[path.index(source) :]
    name = next(name for name in nodes[source].output if name)
    ops = ", ".join(nodes[index].op_type for index in circle[:4]) + ", …" * (len(circle) > 4)
    return CannotAssessError(
        f"tensor {name!r} is computed from itself, through {len(circle)} node{'s' * (len(circle) > 1)} "
        f"({ops}); the nodes of a graph must not form a circle",
        "export the model again",
    )
