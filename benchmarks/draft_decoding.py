"""Do statistics change where large JPEGs are decoded at a smaller scale? (results/performance.md, "JPEG decoding")

    python benchmarks/draft_decoding.py [MODEL.onnx...] [--dinov2 WHEEL] [--photos 300]

Photos of 12 megapixels (4032 × 3024) are made of the bundled ones and five of scikit-image, enlarged by Lanczos's
filter, with noise of 2 to 12 grey levels, quality 90. Each is decoded whole and with a shorter edge of at least 5 (as a
check does), 2.9 and 1.4 times the edge that it is resized to, so at 1/2, 1/4 and 1/8. WHEEL: as of `dinov2_layers.py`.
Each statistic's change is in units of its standard error, by a delete-a-group jackknife over 20 groups of photos.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import dinov2_layers
import numpy as np
import onnx
from PIL import Image

from robustcheck_onnx.checker.evidence import IMAGENET
from robustcheck_onnx.checker.images.preprocess import SPARE, WHOLE, apply, decode
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.runner import Runner
from robustcheck_onnx.checker.statistics import state as sums
from robustcheck_onnx.checker.verdict.notes import load_profile
from support import lookup

PHOTOS = Path(__file__).parent.parent / "checker" / "photos"
SIZE = (4032, 3024)
SPARES = (None, SPARE, 2.9, 1.4)  # times the resized edge; None: whole
DECIDING = load_profile(None).deciding
LIMIT = 0.05  # standard errors: the criterion
GROUPS = 20


def photos(n: int) -> list[bytes]:
    """Make JPEGs of 12 megapixels."""
    rng = np.random.default_rng(0)
    paths = [*sorted(PHOTOS.glob("*.jpg")), *lookup.skimage_photos()] * 3
    made = []
    for index in rng.permutation(len(paths))[:n]:
        large = Image.open(paths[index]).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        noise = rng.normal(0, rng.uniform(2, 12), (*SIZE[::-1], 3)).astype(np.float32)
        Image.fromarray(np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)).save(
            file := io.BytesIO(), "JPEG", quality=90
        )
        made.append(file.getvalue())
    return made


def measured(h: np.ndarray) -> np.ndarray:
    """The deciding statistics of (image, feature)."""
    state = sums.State(h.shape[1])
    sums.update(state, h, np.arange(len(h)))
    found = sums.statistics(state, 0.05)
    return np.array([getattr(found, name).estimate for name in DECIDING], dtype=float)


def standard_errors(h: np.ndarray) -> np.ndarray:
    """Of the statistics, by leaving out a twentieth of the photos at a time."""
    group = np.arange(len(h)) % GROUPS
    without = np.array([measured(h[group != left]) for left in range(GROUPS)])
    return np.sqrt((GROUPS - 1) * without.var(axis=0))


def main(models: list[Path], n: int) -> None:
    """Print a row for each model and scale."""
    made = photos(n)
    print("model | spare | decoding, ms a photo | largest difference of 255 | values off by more than 1 | ", end="")
    print(" | ".join(DECIDING), "| largest | within 1/20")
    for path in models:
        opened = open_model(path)
        preprocessing = opened.contract.preprocessing if opened.contract else IMAGENET
        runner, h, whole = Runner(opened, "cpu"), {}, np.empty(0)
        for spare in SPARES:
            keep = WHOLE if spare is None else round(spare * max(preprocessing.resize_size))
            start = time.thread_time()
            images = [apply(preprocessing, decode(content, "x.jpg", keep)[0]) for content in made]
            took_ms = 1000 * (time.thread_time() - start) / n
            h[spare] = np.concatenate([runner.run(image[None]).representation for image in images])
            pixels = np.stack(images) * np.asarray(preprocessing.std, np.float32) / np.float32(preprocessing.rescale)
            whole = pixels if spare is None else whole
            off = np.abs(pixels - whole)
            found, reference, errors = measured(h[spare]), measured(h[None]), standard_errors(h[None])
            change = np.abs(found - reference)
            units = np.divide(change, errors, out=np.zeros_like(change), where=change > 0)
            cells = [path.stem, spare or "whole", f"{took_ms:.1f}", f"{off.max():.0f}", f"{(off > 1.5).mean():.2%}"]
            cells += [f"{unit:.4f}" for unit in (*units, units.max())]
            print(*cells, "yes" if units.max() <= LIMIT else "no", sep=" | ", flush=True)
            for name, *values in zip(DECIDING, reference, found, errors, strict=True):
                print(f"  {name}", *(f"{value:.6g}" for value in values))  # whole, scaled, standard error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--dinov2", type=Path)
    parser.add_argument("--photos", type=int, default=300)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        if given.dinov2:
            model = dinov2_layers.unpacked(given.dinov2)
            dinov2_layers.fold_layer_scales(model)
            given.models.append(Path(folder) / "dinov2_s14.onnx")
            onnx.save(dinov2_layers.encoder(model, dinov2_layers.LAYERS["block 12, final norm"]), given.models[-1])
        main(given.models, given.photos)
