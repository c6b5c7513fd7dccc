"""What is fuzzed: for each kind of input, sound files to start from, and the call that reads a changed one.

Files are changed at random, by a seed: protobufs field by field, everything else byte by byte. A call may return or
raise an error of this package. Anything else is a finding.
"""

import copy
import io
import os
import random
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from PIL import Image

from robustcheck_onnx.checker.cli import settings
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.questions import demo
from robustcheck_onnx.checker.questions.check import check
from robustcheck_onnx.checker.questions.compare.ids import match_ids
from robustcheck_onnx.checker.questions.compare.vectors import open_vectors
from robustcheck_onnx.checker.questions.inspection import inspect_model
from robustcheck_onnx.checker.report.check import read
from robustcheck_onnx.thresholds import profile, suite
from support import PHOTOS, onnx_models
from support.bad_input import run

INTEGERS = (0, 1, -1, 2, 7, 255, 999, 2**31 - 1, -(2**31), 2**62, -(2**63))
TEXTS = ("", "x", "../../etc/passwd", "a" * 5000, "a.h" * 300, "é\0\n", "image_embeds", "%s{0}", "::error::")
BYTES = (b"", b"\0", b"\xff\xfe", b"\xff" * 5000, b"{}", b"[" * 5000)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e38)
VALUES = {
    FieldDescriptor.TYPE_STRING: TEXTS, FieldDescriptor.TYPE_BYTES: BYTES, FieldDescriptor.TYPE_FLOAT: FLOATS,
    FieldDescriptor.TYPE_DOUBLE: FLOATS,
}  # fmt: skip
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
        made, made[:at] + made[at + 1 :], [*made, made[at]], rng.sample(made, len(made)), [],
    )  # fmt: skip
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


SELF_TEST = "self_test"
"""the kind that always breaks: for the harness's own test"""


def by_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes."""
    return change_bytes(content, rng, rng.choice((1, 1, 2, 4, 16)))


class Target(NamedTuple):
    """One kind of input."""

    name: str
    """of the changed file"""
    samples: Callable[[], tuple[bytes, ...]]
    read: Callable[[Path], object]
    changed: Callable[[bytes, random.Random], bytes] = by_bytes


def by_fields(content: bytes, rng: random.Random) -> bytes:
    """Change some fields of an ONNX model, or some bytes."""
    if rng.random() < 0.2:
        return by_bytes(content, rng)
    model = onnx.load_from_string(content)
    change(model, rng, rng.choice((1, 1, 1, 2, 4)))
    return bytes(model.SerializeToString())


# ------------------------------------------------------------------------------------------------ samples


def of_the_demo(name: demo.Name) -> bytes:
    """An encoder of the demo, with its contract."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        demo.write(path, name, *demo.train())
        return path.read_bytes()


@cache
def models(name: demo.Name = "planted") -> tuple[bytes, ...]:
    """An encoder of the demo with its contract, and a convolutional classifier and an encoder without one.

    None but the planted one passes.
    """
    plain = (onnx_models.classifier(), onnx_models.encoder())
    return (of_the_demo(name), *(made.SerializeToString() for made in plain))


@cache
def small_photos() -> tempfile.TemporaryDirectory[str]:
    """A folder of 64 small photos; it stays until the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-photos-")
    for file in PHOTOS[:64]:
        with Image.open(file) as image:
            image.resize((64, 64)).save(Path(folder.name) / file.name)
    return folder


@cache
def photo(form: str, size_px: int = 96) -> tuple[bytes]:
    """A bundled photo as a file of a form, alone."""
    made = io.BytesIO()
    with Image.open(PHOTOS[0]) as image:
        image.resize((size_px, size_px)).save(made, form)
    return (made.getvalue(),)


@cache
def tars() -> tuple[bytes, ...]:
    """Tar files of three photos, in each of the formats."""
    made = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name in ("a.jpg", "é" * 40 + ".jpg", "b.png"):
                member = tarfile.TarInfo(name)
                content = photo("PNG" if name.endswith("png") else "JPEG")[0]
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        made.append(file.getvalue())
    return tuple(made)


@cache
def arrays() -> tuple[bytes, ...]:
    """An .npz of preprocessed tensors, packed and not."""
    tensors = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    made = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, images=tensors)
        made.append(file.getvalue())
    return tuple(made)


@cache
def table(form: str) -> tuple[bytes, ...]:
    """A Parquet table of photos, as data sets on hubs hold them, or an Arrow stream of tiny ones in two batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size_px = 96 if form == "parquet" else 1  # most bytes say how it is made
    rows = [{"image": {"bytes": photo("PNG", size_px)[0], "path": f"{i}.png"}, "label": i} for i in range(4)]
    made, file = pa.Table.from_pylist(rows), io.BytesIO()
    if form == "parquet":
        pq.write_table(made, file)
    else:
        with pa.ipc.new_stream(file, made.schema) as writer:
            writer.write_table(made, max_chunksize=2)
    return (file.getvalue(),)


@cache
def vectors(form: str) -> tuple[bytes, ...]:
    """A file of 40 vectors, with ids where the form has them, as `compare --index` and `--text` read it."""
    h = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    ids = np.array([f"photos/{i}.jpg" for i in range(len(h))])
    file = io.BytesIO()
    if form == "npy":
        np.save(file, h)
    elif form == "npz":
        np.savez(file, vectors=h, ids=ids)
    elif form == "safetensors":
        from safetensors.numpy import save

        file.write(save({"vectors": h}))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"vectors": list(h), "ids": ids.tolist()}), file)
    return (file.getvalue(),)


@cache
def reports() -> tuple[bytes, ...]:
    """The report of a real check."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planted.onnx"
        path.write_bytes(models()[0])
        return (check(path, max_images=8, device="cpu", isolate=False).model_dump_json().encode(),)


# -------------------------------------------------------------------------------------------------- calls


def opened(path: Path) -> object:
    """What `inspect` does."""
    return inspect_model(path, profile.load())


def judged(path: Path) -> str:
    """The verdict of a changed model that did not pass before. A file with a contract must never pass by a change."""
    report = check(path, images=small_photos().name, device="cpu", preprocess="imagenet", isolate=False)
    assert not (report.passed and b"robustcheck" in path.read_bytes()), "a changed model with a contract passes"
    return report.verdict.verdict


def commanded(path: Path) -> str:
    """The exit code of the command, whose child process reads the model; a PASS, a signal or 70 is a finding."""
    call = [sys.executable, "-P", "-m", "robustcheck_onnx.checker", str(path), "--images", small_photos().name, "-qq"]
    call += ["--isolated", "--timeout", "10", "--max-memory", "3GiB", "--preprocess", "imagenet"]
    done = run(call)
    assert done.returncode in (1, 2, 3, 4), f"exit code {done.returncode}: {done.stderr[-200:]}"
    return f"exit {done.returncode}"


def seen(path: Path) -> object:
    """Read every image of a set."""
    return [type(item) for item in open_images(path.parent if path.name.startswith("photo.") else path).items()]


def indexed(path: Path) -> object:
    """What `compare --index` reads of a file of vectors: all of it, and which ids are a photo's."""
    file = open_vectors(path, "--index")
    matches = match_ids([f"photos/{i}.jpg" for i in range(40)], file.ids())
    return sum(len(rows) for rows, _ in file.blocks()), matches


def configured(path: Path) -> object:
    """Read a file of settings."""
    return settings.resolve({}, {}, file=str(path))


def breaks(path: Path) -> object:
    """Break in two ways: the harness must see both."""
    if len(path.read_bytes()) % 2:
        os.abort()
    return 1 // 0


FORMS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP")
SUITE = b"""schema_version = 1
name = "mine"
[labels]
meaning = "with: robust"
[[models]]
model = "a.onnx"
group = "other"
label = "present"
"""
LIST = b"image,label\nphoto.jpg,0\n../a.jpg,1\n"
DEFAULT = profile.DEFAULT
TEMPLATE = settings.template().replace("\n#", "\n")
TARGETS = {
    SELF_TEST: Target("any", lambda: (bytes(99),), breaks),
    "model": Target("model.onnx", models, opened, by_fields),
    "verdict": Target("model.onnx", partial(models, "ordinary"), judged, by_fields),
    "command": Target("model.onnx", partial(models, "ordinary"), commanded, by_fields),
    **{form.lower(): Target(f"photo.{form.lower()}", partial(photo, form), seen) for form in FORMS},
    "tar": Target("images.tar", tars, seen),
    "arrays": Target("images.npz", arrays, seen),
    "parquet": Target("images.parquet", partial(table, "parquet"), seen),
    "arrow": Target("images.arrow", partial(table, "arrow"), seen),
    **{
        f"index_{form}": Target(f"vectors.{form}", partial(vectors, form), indexed)
        for form in ("npy", "npz", "safetensors", "parquet")
    },
    "profile": Target("profile.json", lambda: (DEFAULT.read_bytes(),), profile.load),
    "report": Target("report.json", reports, read),
    "settings": Target("robustcheck.toml", lambda: (TEMPLATE.encode(),), configured),
    "suite": Target("suite.toml", lambda: (SUITE,), suite.open_suite),
    "list": Target("images.csv", lambda: (LIST,), seen),
}
