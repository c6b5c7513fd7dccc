"""Do statistics change where large JPEGs are decoded at a smaller scale? (results/performance.md, "JPEG decoding")

    python benchmarks/draft_decoding.py [MODEL.onnx...] [--dinov2 WHEEL] [--photos 300] [--checks RUNS]

Photos of 12 megapixels (4032 × 3024) are made of the bundled ones and five of scikit-image, enlarged by Lanczos's
filter, with noise of 2 to 12 grey levels, quality 90. Each is decoded whole and with a shorter edge of at least 5 (as a
check does), 2.9 and 1.4 times the edge that it is resized to, so at 1/2, 1/4 and 1/8. WHEEL: as of `dinov2_layers.py`.
With --checks instead: what checks of such photos and of as many bundled ones cost, in turns, and what each step costs.
Each statistic's change is in units of its standard error, by a delete-a-group jackknife over 20 groups of photos.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import dinov2_layers
import last_fifth
import numpy as np
import onnx
import speed
from PIL import Image

from robustcheck_onnx.checker.core.evidence import IMAGENET
from robustcheck_onnx.checker.core.images.preprocess import SPARE, WHOLE, apply, apply_uint8, decode, least_edge
from robustcheck_onnx.checker.core.images.sanity import describe, digest_of_pixels
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.core.statistics import state as sums
from robustcheck_onnx.checker.core.verdict.profile import load_profile
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


def checks(models: list[Path], n: int, runs: int) -> None:
    """Print what a check costs, large photos against bundled ones, and a photo's parts (ms of one thread)."""
    sets = {"12 megapixels": photos(n), "bundled": [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[:n]]}
    with TemporaryDirectory() as folder:
        for kind, contents in sets.items():
            Path(folder, kind).mkdir()
            for index, content in enumerate(contents):
                Path(folder, kind, f"{index:03}.jpg").write_bytes(content)
        for path in models:
            commands = [[str(speed.COMMAND), str(path), "-q", "--images", str(Path(folder, kind))] for kind in sets]
            large, bundled = last_fifth.compared(*commands, cores=len(os.sched_getaffinity(0)), runs=runs)
            print(path.stem, f"{n} photos, processor and clock: {large.processor_s:.2f}, {large.wall_s:.2f} s;",
                  f"bundled {bundled.processor_s:.2f}, {bundled.wall_s:.2f} s;",
                  f"ratio {large.processor_s / bundled.processor_s:.2f}", flush=True)  # fmt: skip
            contract = open_model(path).contract
            preprocessing = contract.preprocessing if contract else IMAGENET
            keep = least_edge(preprocessing)
            for kind, contents in sets.items():
                images = [decode(content, "x.jpg", keep)[0] for content in contents]
                parts = {
                    "decoding": [partial(decode, c, "x.jpg", keep) for c in contents],
                    "the same at 1/8": [partial(decode, c, "x.jpg", 1) for c in contents],
                    "resize": [partial(apply_uint8, preprocessing, i) for i in images],
                    "sketch": [partial(describe, i) for i in images],
                    "of it the digest": [partial(digest_of_pixels, i) for i in images],
                    "digest of the file": [partial(hashlib.sha256, c) for c in contents],
                }
                print(f"  {kind}:", ", ".join(f"{name} {_least_ms(calls):.1f}" for name, calls in parts.items()))


def _least_ms(calls: list[Callable[[], object]]) -> float:
    """Mean of each call's least processor time of three."""
    least = []
    for call in calls:
        times = []
        for _ in range(3):
            start = time.thread_time()
            call()
            times.append(time.thread_time() - start)
        least.append(min(times))
    return 1000 * sum(least) / len(least)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--dinov2", type=Path)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--checks", type=int, default=0, metavar="RUNS")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        if given.dinov2:
            model = dinov2_layers.unpacked(given.dinov2)
            dinov2_layers.fold_layer_scales(model)
            given.models.append(Path(folder) / "dinov2_s14.onnx")
            onnx.save(dinov2_layers.encoder(model, dinov2_layers.LAYERS["block 12, final norm"]), given.models[-1])
        if given.checks:
            checks(given.models, given.photos, given.checks)
        else:
            main(given.models, given.photos)
