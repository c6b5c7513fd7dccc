"""Changes sound files at random, by a seed: protobufs field by field, everything else byte by byte."""

import copy
import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

INTEGERS = (0, 1, -1, 2, 7, 255, 999, 2**31 - 1, -(2**31), 2**62, -(2**63))
TEXTS = ("", "x", "../../etc/passwd", "a" * 5000, "a.h" * 300, "é\0\n", "image_embeds", "%s{0}", "::error::")
BYTES = (b"", b"\0", b"\xff\xfe", b"\xff" * 5000, b"{}", b"[" * 5000)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e38)
VALUES = {
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BYTES: BYTES,
    FieldDescriptor.TYPE_FLOAT: FLOATS,
    FieldDescriptor.TYPE_DOUBLE: FLOATS,
}
MAX_FIELDS = 20_000


def fields_of(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field of a message and of those inside it, set or not, at most `MAX_FIELDS`."""
    waiting, n = [message], 0
    while waiting and n < MAX_FIELDS:
        current = waiting.pop()
        for field in current.DESCRIPTOR.fields:
            n += 1
            yield current, field
            if field.type != FieldDescriptor.TYPE_MESSAGE:
                continue
            value = getattr(current, field.name)
            waiting += list(value) if field.is_repeated else [value] if current.HasField(field.name) else []


def change(message: Message, rng: random.Random, times: int) -> None:
    """Change `times` random fields of a message in place."""
    for _ in range(times):
        owner, field = rng.choice(list(fields_of(message)))
        (_change_many if field.is_repeated else _change_one)(owner, field, rng)


def _change_many(owner: Message, field: FieldDescriptor, rng: random.Random) -> None:
    """Add one; then keep, take one out, double one, shuffle, or empty."""
    values = getattr(owner, field.name)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        values.add()
    else:
        values.append(_value(field, rng))
    made = [copy.deepcopy(value) for value in values]
    at = rng.randrange(len(made))
    others: tuple[list[Any], ...] = (
        made,
        made[:at] + made[at + 1 :],
        [*made, made[at]],
        rng.sample(made, len(made)),
        [],
    )
    del values[:]
    values.extend(rng.choice(others))


def _change_one(owner: Message, field: FieldDescriptor, rng: random.Random) -> None:
    if rng.random() < 0.2:
        owner.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(owner, field.name).SetInParent()
    else:
        setattr(owner, field.name, _value(field, rng))


def _value(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    if field.type in VALUES:
        return rng.choice(VALUES[field.type])
    fits = 2**31 if field.type == FieldDescriptor.TYPE_INT32 else 2**63
    unsigned = field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_UINT32)
    return rng.choice([n for n in INTEGERS if (0 if unsigned else -fits) <= n < fits])


def change_bytes(content: bytes, rng: random.Random, times: int) -> bytes:
    """Change bytes: other values, cut ends, doubled, moved or removed stretches."""
    made = bytearray(content)
    for _ in range(times):
        if not made:
            break
        at, length = rng.randrange(len(made)), rng.choice((1, 2, 4, 8, 64))
        if rng.random() < 0.15:
            del made[at:]
            continue
        old, other = made[at : at + length], rng.randbytes(length)
        flipped = bytes([old[0] ^ 1 << rng.randrange(8)]) + old[1:]
        extreme = rng.choice((b"\0", b"\xff", b"\x7f")) * length
        made[at : at + length] = rng.choice((other, other, flipped, b"", old * 2, extreme))
    return bytes(made)
