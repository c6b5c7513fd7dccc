"""Changes of a model by the schema, by a seed: any field of any message of ModelProto, and the files beside it.

Messages and fields are found through protobuf's descriptors. A field is written anew as bytes, so that it may hold what
the Python setters refuse: texts that are not UTF-8, enum values that are not known, one value twice.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]  # protobuf ships no types
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]  # as above

from robustcheck_onnx.checker.core.model.contract import CONTRACT_KEY
from robustcheck_onnx.checker.questions.demo import SIZE_PX

KINDS: dict[str, Descriptor] = {}
PARENTS: dict[str, list[FieldDescriptor]] = {}
INTEGERS = (0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63), 255, 256, 65536)
FLOATS = (0.0, -0.0, -1.0, float("nan"), float("inf"), float("-inf"), 3.4e38, 1e-45)
TEXTS = (b"", b"\xff\xfe\x80", b"a\0b", b"x" * (1 << 20), b"../../x", b"\xc2\x9b31m\xe2\x80\xae", b"\n::error::x", b"%")
OPS = sorted({schema.name.encode() for schema in onnx.defs.get_all_schemas()})
EDGES: tuple[Any, ...] = (
    *INTEGERS,
    *FLOATS,
    None,
    True,
    "",
    "x" * 5000,
    "\x9b\u202e\ud800",
    [],
    {},
    [[]] * 9,
    [0, 0],
    [1e999] * 3,
)
SIDECARS = {
    "preprocessor_config.json": {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"height": SIZE_PX, "width": SIZE_PX},
        "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 2,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True,
    },
    "config.json": {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 512, "image_size": SIZE_PX},
}  # fmt: skip


@dataclass
class Case:
    """A model and the files beside it; what was changed, in words."""

    model: onnx.ModelProto
    files: dict[str, bytes]
    done: list[str] = field(default_factory=list)


def learn(kind: Descriptor) -> None:
    """Find every message below one, and the fields that lead to each."""
    KINDS[kind.full_name] = kind
    for each in kind.fields:
        if each.message_type is not None:
            PARENTS.setdefault(each.message_type.full_name, []).append(each)
            if each.message_type.full_name not in KINDS:
                learn(each.message_type)


def messages(root: Message) -> Iterator[Any]:
    waiting = [root]
    while waiting:
        yield (now := waiting.pop())
        for each, value in now.ListFields():
            if each.message_type is not None:
                waiting += list(value) if each.is_repeated else [value]


def wire(each: FieldDescriptor, value: Any) -> bytes:
    """A field as protobuf writes it, so that it may hold what the Python setters refuse."""
    if isinstance(value, float):
        is_short = each.type == each.TYPE_FLOAT
        with np.errstate(over="ignore"):
            packed = np.float32(value).tobytes() if is_short else struct.pack("<d", value)
        return varint(each.number << 3 | (5 if is_short else 1)) + packed
    if isinstance(value, int):
        return varint(each.number << 3) + varint(value)
    content = value.SerializeToString() if isinstance(value, Message) else value
    content = content.encode() if isinstance(content, str) else content
    return varint(each.number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    value, out = value % 2**64, bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def owner(root: Message, kind: str, rng: random.Random) -> Any:
    """A message of this kind in the model; one is made where there is none."""
    if present := [each for each in messages(root) if each.DESCRIPTOR.full_name == kind]:
        return rng.choice(present)
    way = rng.choice(PARENTS[kind])
    inner = getattr(owner(root, way.containing_type.full_name, rng), way.name)
    if way.is_repeated:
        return inner.add()
    inner.SetInParent()
    return inner


def edge(each: FieldDescriptor, old: Any, root: Message, rng: random.Random) -> Any:
    """A value at the edge of the field's type, or one of the same type from another place."""
    if each.cpp_type in (each.CPPTYPE_FLOAT, each.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if each.type == each.TYPE_MESSAGE:
        return b""
    if each.type not in (each.TYPE_STRING, each.TYPE_BYTES):
        return rng.choice((*INTEGERS, *range(2, 32)))
    if each.type == each.TYPE_BYTES and isinstance(old, bytes) and len(old) > 3 and rng.random() < 0.7:
        n, at = len(old), rng.randrange(len(old))
        nans = np.full(n // 4 + 1, np.nan, np.float32).tobytes()[:n]
        flipped = old[:at] + bytes([old[at] ^ 1 << rng.randrange(8)]) + old[at + 1 :]
        return rng.choice(
            (b"\0" * n, b"\xff" * n, nans, old[:-1], old + b"\0", old[::-1], old[at:] + old[:at], flipped)
        )
    said = [v for m in messages(root) for f, v in m.ListFields() if f.type == f.TYPE_STRING and not f.is_repeated]
    return rng.choice((rng.choice(TEXTS), rng.choice(said or [b""]), rng.choice(OPS)))


def change(case: Case, others: list[Case], rng: random.Random) -> None:
    """Change one field of one message."""
    root = case.model
    every = list(messages(root))
    own = owner(root, rng.choice(sorted(KINDS)), rng) if rng.random() < 0.5 else rng.choice(every)
    each = rng.choice(own.DESCRIPTOR.fields)
    value = getattr(own, each.name)
    values = list(value) if each.is_repeated else [value] if own.HasField(each.name) else []
    chunks = [wire(each, one) for one in values]
    how = rng.choice(("edge", "edge", "edge", "move", "move", "drop", "empty", "double", "many", "shuffle"))
    at = rng.randrange(len(chunks) + 1)
    if how == "edge":
        old = values[at] if at < len(values) else None
        chunks[at : at + rng.randrange(2)] = [wire(each, edge(each, old, root, rng))]
    elif how == "move":
        donors = [m for m in messages(rng.choice([case, *others]).model) if m is not own]
        if each.message_type is not None:
            found = [m for m in donors if m.DESCRIPTOR.full_name == each.message_type.full_name]
        else:
            same = [m for m in donors if m.DESCRIPTOR == own.DESCRIPTOR]
            found = [v for m in same for f, v in m.ListFields() if f == each and not f.is_repeated]
        chunks[at : at + rng.randrange(2)] = [wire(each, rng.choice(found))] if found else []
    elif how == "drop":
        del chunks[at : at + 1]
    elif how == "shuffle":
        rng.shuffle(chunks)
    else:
        chunks *= {"empty": 0, "double": 2, "many": 300 if len(b"".join(chunks)) < 1 << 14 else 3}[how]
    own.ClearField(each.name)
    own.MergeFromString(b"".join(chunks))
    case.done.append(f"{how} {own.DESCRIPTOR.name}.{each.name}")


def twist(value: Any, rng: random.Random) -> Any:
    """Change one place of a JSON value."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(EDGES)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    if rng.random() < 0.15:
        del value[key]
    else:
        value[key] = twist(value[key], rng)
    return value


def change_files(case: Case, others: list[Case], rng: random.Random) -> None:
    """Change what lies beside the model, or the contract in it."""
    other = rng.choice(others)
    how = rng.choice(("file", "file", "contract", "contract of another", "sidecar", "sidecar"))
    entries = [each for each in case.model.metadata_props if each.key == CONTRACT_KEY]
    if how == "file" and case.files:
        name = rng.choice(sorted(case.files))
        old = case.files.pop(name)
        half = len(old) // 2
        same = (old[half:] + old[:half], b"\xff" * len(old), b"\0" * len(old))
        new = (None, b"", old[:-1], old[:half], old + old, *same, b"version https://git-lfs.github.com/spec/v1\n")
        if (content := rng.choice((*new, *other.files.values()))) is not None:
            case.files[name] = content
    elif how == "sidecar":
        name = rng.choice(sorted(SIDECARS))
        case.files[name] = json.dumps(twist(json.loads(json.dumps(SIDECARS[name])), rng)).encode()
    elif how == "contract" and entries:
        entries[0].value = json.dumps(twist(json.loads(entries[0].value), rng))
    elif how == "contract of another":
        del case.model.metadata_props[:]
        case.model.metadata_props.extend(other.model.metadata_props)
    case.done.append(how)


def made(seed: int, seeds: dict[str, Case]) -> tuple[str, Case]:
    """The case of a seed: changed 1 to 8 times."""
    rng = random.Random(seed)
    name = rng.choice(sorted(seeds))
    case = Case(type(seeds[name].model).FromString(seeds[name].model.SerializeToString()), dict(seeds[name].files))
    others = [each for key, each in seeds.items() if key != name]
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3, 8))):
        try:
            (change_files if rng.random() < 0.15 else change)(case, others, rng)
        except (DecodeError, ValueError) as fault:  # nested too deeply; the contract is not JSON any more
            case.done.append(f"not possible: {type(fault).__name__}")
    return name, case


learn(onnx.ModelProto.DESCRIPTOR)
