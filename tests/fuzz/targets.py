"""What is fuzzed: for each kind of input, sound files to start from, and the call that reads a changed one.

A call may return or raise an error of this package. Anything else is a finding.
"""

import io
import os
import random
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from PIL import Image

from robustcheck_onnx.checker import demo
from robustcheck_onnx.checker.cli import settings
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.inspection import inspect_model
from robustcheck_onnx.checker.pipeline import check
from robustcheck_onnx.checker.report import record
from robustcheck_onnx.thresholds import profile, suite
from support import PHOTOS, onnx_models
from support.bad_input import run

from .mutate import change, change_bytes

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
    "profile": Target("profile.json", lambda: (DEFAULT.read_bytes(),), profile.load),
    "report": Target("report.json", reports, record.read),
    "settings": Target("robustcheck.toml", lambda: (TEMPLATE.encode(),), configured),
    "suite": Target("suite.toml", lambda: (SUITE,), suite.open_suite),
    "list": Target("images.csv", lambda: (LIST,), seen),
}
