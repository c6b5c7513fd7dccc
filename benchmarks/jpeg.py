"""Would another JPEG decoder, or a scaled decode, be faster and give the same pixels? For results/performance.md.

`python benchmarks/jpeg.py` prints a table for the bundled photos (progressive, small) and one each for baseline JPEGs
of real photographs, as large as ImageNet's and as they are. simplejpeg, imagecodecs, kornia-rs and ajpegli are compared
where they are installed; they are not dependencies. Times are CPU times of one thread.
"""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, features

from robustcheck_onnx.checker.core.images.preprocess import apply_uint8, decode
from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.core.runtime.devices import cpu_name
from support import lookup

RUNS = 7
ROOT = Path(__file__).parent.parent
Decoder = Callable[[bytes], Image.Image]


def pillow(data: bytes) -> Image.Image:
    """What robustcheck does, with all of its checks."""
    return decode(data, "photo.jpg")[0]


def draft(edge: int) -> Decoder:
    """Pillow, scaled by 1/2, 1/4 or 1/8 while it decodes, to no less than `edge` px."""

    def scaled(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (edge, edge))
        image.load()
        return image

    return scaled


def decoders() -> dict[str, Decoder]:
    """All that can be tried here."""
    found: dict[str, Decoder] = {"Pillow (as checked)": pillow}

    def add(name: str, module: str, read: Callable[[Any, bytes], Any]) -> None:
        try:
            library = importlib.import_module(module)
        except ModuleNotFoundError:
            print(f"({module} is not installed)")
            return
        found[name] = lambda data: Image.fromarray(np.asarray(read(library, data)))
        print(f"({module} {version(module)})")

    add("simplejpeg", "simplejpeg", lambda m, data: m.decode_jpeg(data, "RGB"))
    add("simplejpeg, fast DCT, fast upsampling", "simplejpeg",
        lambda m, data: m.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True))  # fmt: skip
    add("imagecodecs", "imagecodecs", lambda m, data: m.jpeg8_decode(data, outcolorspace="RGB"))
    add("kornia-rs", "kornia_rs", lambda m, data: m.io.decode_image_jpeg(data))
    add("ajpegli", "ajpegli", lambda m, data: m.decode(data))
    found["Pillow draft ≥ 224 px"] = draft(224)
    found["Pillow draft ≥ 448 px"] = draft(448)
    return found


def resized(gap: float | None) -> Decoder:
    """As Pillow, brought to 224 px; with `gap`, in two steps (`reducing_gap`), the first a mean of whole blocks."""

    def read(data: bytes) -> Image.Image:
        image = pillow(data)
        scale = 224 / min(image.size)
        size = (int(image.width * scale), int(image.height * scale))
        return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=gap)

    return read


def photo_sets() -> dict[str, list[bytes]]:
    """JPEG files by what they are."""
    bundled = [path.read_bytes() for path in sorted((ROOT / "checker" / "photos").glob("*.jpg"))]
    sets: dict[str, list[bytes]] = {"bundled photos": bundled, "500 × 375 px": [], "as large as they are": []}
    for path in lookup.skimage_photos():
        photo = Image.open(path).convert("RGB")
        for name, image in (("500 × 375 px", ImageOps.fit(photo, (500, 375))), ("as large as they are", photo)):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=90)
            sets[name].append(buffer.getvalue())
    return sets


def cpu_ms(function: Callable[[bytes], object], files: list[bytes]) -> float:
    """Least CPU time of this thread over some runs, for one file, ms."""
    times = []
    for _ in range(RUNS):
        start = time.thread_time()
        for data in files:
            function(data)
        times.append(time.thread_time() - start)
    return min(times) / len(files) * 1e3


def decoded_and_preprocessed(read: Decoder, data: bytes) -> np.ndarray:
    """Decode a file and preprocess it for CLIP."""
    return apply_uint8(CLIP, read(data))


def main() -> None:
    """Print the tables."""
    turbo = features.version_feature("libjpeg_turbo")
    print(f"{cpu_name()} · Pillow {version('Pillow')} with libjpeg-turbo {turbo}")
    found = decoders()
    for kind, files in photo_sets().items():
        inputs = [apply_uint8(CLIP, pillow(data)).astype(int) for data in files]
        print(f"\n{kind}: {len(files)} files, mean {sum(map(len, files)) / len(files) / 1024:.0f} KiB")
        print("| decoder | decode, ms | decode and CLIP preprocessing, ms | largest difference at the input, of 255 "
              "| share of values that differ by more than 1 |\n|---|---|---|---|---|")  # fmt: skip
        for name, read in found.items():
            both = cpu_ms(partial(decoded_and_preprocessed, read), files)
            apart = [np.abs(apply_uint8(CLIP, read(data)) - one) for data, one in zip(files, inputs, strict=True)]
            share = float(np.mean([np.mean(one > 1) for one in apart]))
            print(f"| {name} | {cpu_ms(read, files):.2f} | {both:.2f} | {max(one.max() for one in apart)} "
                  f"| {100 * share:.2f} % |")  # fmt: skip
        whole = [np.asarray(resized(None)(data)).astype(int) for data in files]
        print(f"resize after decoding: {cpu_ms(resized(None), files):.2f} ms")
        for gap in (2.0, 3.0):
            apart = [np.abs(np.asarray(resized(gap)(data)) - one) for data, one in zip(files, whole, strict=True)]
            print(f"with reducing_gap {gap}: {cpu_ms(resized(gap), files):.2f} ms, largest difference "
                  f"{max(one.max() for one in apart)}")  # fmt: skip


if __name__ == "__main__":
    main()
