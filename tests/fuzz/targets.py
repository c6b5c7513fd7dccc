"""What is fuzzed: for each kind of input, sound files to start from, and the call that reads a changed one.

A call may return or raise an error of this package. Anything else is a finding.
"""

from __future__ import annotations

import atexit
import io
import os
import random
import shutil
import subprocess
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

from robustcheck_onnx.checker import demo, report
from robustcheck_onnx.checker.cli import settings, settings_text
from robustcheck_onnx.checker.images import open_images
from robustcheck_onnx.checker.inspection import inspect_model
from robustcheck_onnx.checker.pipeline import check
from robustcheck_onnx.thresholds import profile, suite
from support import onnx_models

from .mutate import change, change_bytes

BUNDLED = Path(demo.__file__).parent / "photos"
SELF_TEST = "self_test"
"""the kind that always breaks: for the harness's own test"""
PASSES = 8  # images of a whole check


class Target(NamedTuple):
    """One kind of input."""

    name: str
    """of the changed file"""
    samples: Callable[[], tuple[bytes, ...]]
    read: Callable[[Path], object]
    changed: Callable[[bytes, random.Random], bytes]


def by_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes."""
    return change_bytes(content, rng, rng.choice((1, 1, 2, 4, 16)))


def by_fields(content: bytes, rng: random.Random) -> bytes:
    """Change some fields of an ONNX model, or some bytes."""
    if rng.random() < 0.2:
        return by_bytes(content, rng)
    model = onnx.load_from_string(content)
    change(model, rng, rng.choice((1, 1, 1, 2, 4)))
    return bytes(model.SerializeToString())


# ------------------------------------------------------------------------------------------------ samples


@cache
def models() -> tuple[bytes, ...]:
    """The demo's planted encoder with its contract, a convolutional classifier and an encoder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planted.onnx"
        demo.write(path, "planted", *demo.train())
        planted = path.read_bytes()
    return (planted, *(made.SerializeToString() for made in (onnx_models.classifier(), onnx_models.encoder())))


@cache
def refused() -> tuple[bytes, ...]:
    """Models that get WARN: the demo's ordinary encoder, which has a contract, and two without one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ordinary.onnx"
        demo.write(path, "ordinary", *demo.train())
        return (path.read_bytes(), *models()[1:])


@cache
def small_photos() -> Path:
    """A folder of 64 small photos; it stays until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-photos-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in sorted(BUNDLED.glob("*.jpg"))[:64]:
        with Image.open(file) as image:
            image.resize((64, 64)).save(folder / file.name)
    return folder


def photo(form: str) -> bytes:
    """A bundled photo as a file of a form."""
    made = io.BytesIO()
    with Image.open(min(BUNDLED.glob("*.jpg"))) as image:
        image.resize((96, 96)).save(made, form)
    return made.getvalue()


@cache
def one_photo(form: str) -> tuple[bytes, ...]:
    """The photo alone, as the samples of its form."""
    return (photo(form),)


@cache
def tars() -> tuple[bytes, ...]:
    """Tar files of three photos, in each of the formats."""
    made = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name in ("a.jpg", "é" * 40 + ".jpg", "b.png"):
                member = tarfile.TarInfo(name)
                content = photo("PNG" if name.endswith("png") else "JPEG")
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
def parquet() -> tuple[bytes, ...]:
    """A Parquet table of photos, as data sets on hubs hold them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"image": {"bytes": photo("JPEG"), "path": f"{i}.jpg"}, "label": i} for i in range(3)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return (file.getvalue(),)


@cache
def arrow() -> tuple[bytes, ...]:
    """An Arrow stream of small images in two batches: most bytes say how it is made."""
    import pyarrow as pa

    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG")
    table = pa.Table.from_pylist([{"image": {"bytes": small.getvalue(), "path": f"{i}.png"}} for i in range(4)])
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return (file.getvalue(),)


@cache
def reports() -> tuple[bytes, ...]:
    """The report of a real check."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planted.onnx"
        path.write_bytes(models()[0])
        report = check(path, max_images=PASSES, device="cpu", isolate=False)
        return (report.model_dump_json().encode(),)


# -------------------------------------------------------------------------------------------------- calls


def opened(path: Path) -> object:
    """What `inspect` does."""
    return inspect_model(path, profile.load())


def checked(path: Path) -> object:
    """What a check of a few images does."""
    return check(path, max_images=PASSES, device="cpu", preprocess="imagenet", isolate=False)


def judged(path: Path) -> str:
    """The verdict of a changed model that did not pass before. A file with a contract must never pass by a change."""
    report = check(path, images=str(small_photos()), device="cpu", preprocess="imagenet", isolate=False)
    has_contract = b"robustcheck" in path.read_bytes()
    assert not (report.passed and has_contract), "a changed model with a contract passes"
    return report.verdict.verdict


def commanded(path: Path) -> str:
    """The exit code of the command, whose child process reads the model; a PASS, a signal or 70 is a finding."""
    call = [sys.executable, "-P", "-m", "robustcheck_onnx.checker", str(path), "--images", str(small_photos()), "-qq"]
    call += ["--isolated", "--timeout", "10", "--max-memory", "3GiB", "--preprocess", "imagenet"]
    done = subprocess.run(call, check=False, capture_output=True, text=True)
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
DEFAULT = Path(profile.__file__).parent / "data" / "default.json"
TARGETS = {
    SELF_TEST: Target("any", lambda: (bytes(99),), breaks, by_bytes),
    "model": Target("model.onnx", models, opened, by_fields),
    "check": Target("model.onnx", models, checked, by_fields),
    "verdict": Target("model.onnx", refused, judged, by_fields),
    "command": Target("model.onnx", refused, commanded, by_fields),
    **{form.lower(): Target(f"photo.{form.lower()}", partial(one_photo, form), seen, by_bytes) for form in FORMS},
    "tar": Target("images.tar", tars, seen, by_bytes),
    "arrays": Target("images.npz", arrays, seen, by_bytes),
    "parquet": Target("images.parquet", parquet, seen, by_bytes),
    "arrow": Target("images.arrow", arrow, seen, by_bytes),
    "profile": Target("profile.json", lambda: (DEFAULT.read_bytes(),), profile.read, by_bytes),
    "report": Target("report.json", reports, report.read, by_bytes),
    "settings": Target(
        "robustcheck.toml", lambda: (settings_text.template().replace("\n#", "\n").encode(),), configured, by_bytes
    ),
    "suite": Target("suite.toml", lambda: (SUITE,), suite.open_suite, by_bytes),
    "list": Target("images.csv", lambda: (LIST,), seen, by_bytes),
}
