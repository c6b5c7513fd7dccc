"""Do statistics change where JPEGs are decoded at a smaller scale? (Pillow's `draft`; results/performance.md)

    python benchmarks/draft_decoding.py MODEL.onnx... [--resize 64] [--size 56]

The models have convolutions and a mean at their end, so that they run at a smaller input: the bundled photos (256 px)
and the two large JPEGs of scikit-image are then at least 4 times as large as the resized image, as photos of phones
are at 224 px. Enlarged photos would say nothing: they have no detail to lose.
Each statistic's change is in units of its standard error, by a delete-a-group jackknife over 20 groups of photos.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from PIL import Image

from robustcheck_onnx.checker.images.preprocess import apply, at_size
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from robustcheck_onnx.checker.statistics import state as sums
from robustcheck_onnx.thresholds.profile import STATISTICS
from support import lookup

PHOTOS = Path(__file__).parent.parent / "checker" / "photos"
RATIO = 4  # of a photo's shorter edge to the resized one
LIMIT = 0.05  # standard errors: the criterion
GROUPS = 20


def at(path: Path, size: int, folder: Path) -> Path:
    """Write a convolutional model for another input size."""
    model = onnx.load(path)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = size
    del model.graph.value_info[:]
    onnx.save(model, folder / path.name)
    return folder / path.name


def decoded(content: bytes, edge: int, reserve: float | None) -> Image.Image:
    """A photo in RGB, whole (None) or as small as leaves `reserve` times the edge that it is resized to."""
    image = Image.open(io.BytesIO(content))
    if reserve is not None:
        image.draft("RGB", (round(edge * reserve), round(edge * reserve)))
    return image.convert("RGB")


def measured(h: np.ndarray) -> np.ndarray:
    """The deciding statistics of (image, feature)."""
    state = sums.State(h.shape[1])
    sums.update(state, h, np.arange(len(h)))
    found = sums.statistics(state, 0.05)
    return np.array([getattr(found, name).estimate for name in STATISTICS], dtype=float)


def standard_errors(h: np.ndarray) -> np.ndarray:
    """Of the statistics, by leaving out a twentieth of the photos at a time."""
    group = np.arange(len(h)) % GROUPS
    without = np.array([measured(h[group != left]) for left in range(GROUPS)])
    return np.sqrt((GROUPS - 1) * without.var(axis=0))


def main(models: list[Path], resize: int, size: int) -> None:
    """Print a row for each model and way of decoding."""
    paths = [*sorted(PHOTOS.glob("*.jpg")), *(p for p in lookup.skimage_photos() if p.suffix == ".jpg")]
    photos = [path.read_bytes() for path in paths if min(Image.open(path).size) >= RATIO * resize]
    print(f"{len(photos)} photos of at least {RATIO * resize} px, resized to {resize} px, input {size} px")
    print("model | reserve | decoding, ms a photo | " + " | ".join(STATISTICS) + " | largest | within 1/20")
    with TemporaryDirectory() as folder:
        for path in models:
            opened = open_model(at(path, size, Path(folder)))
            contract = open_model(path).contract
            assert contract is not None
            preprocessing = at_size(contract.preprocessing, (size, size)).model_copy(
                update={"resize_size": (resize, resize)}
            )
            runner, h = Runner(opened, "cpu"), {}
            for reserve in (None, 1.0, 2.0, 3.0):
                start = time.thread_time()
                images = [decoded(content, resize, reserve) for content in photos]
                took_ms = 1000 * (time.thread_time() - start) / len(photos)
                h[reserve] = runner.run(np.stack([apply(preprocessing, image) for image in images])).representation
                change = np.abs(measured(h[reserve]) - measured(h[None]))
                units = np.divide(change, standard_errors(h[None]), out=np.zeros_like(change), where=change > 0)
                cells = " | ".join(f"{unit:.3f}" for unit in units)
                name = "whole" if reserve is None else f"{reserve:g}"
                fits = "yes" if units.max() <= LIMIT else "no"
                print(f"{path.stem} | {name} | {took_ms:.2f} | {cells} | {units.max():.3f} | {fits}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--resize", type=int, default=64)
    parser.add_argument("--size", type=int, default=56)
    given = parser.parse_args()
    main(given.models, given.resize, given.size)
