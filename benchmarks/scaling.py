"""What one machine does, and what a calibration on many GPUs would cost: writes benchmarks/results/scaling.md.

python benchmarks/scaling.py

Measures the cost of each stage and the engines against each other, on this machine; works out the plan from those
numbers, published ones and assumptions that are called so. Needs the extras `ray` and `demo` and scikit-image.
"""

# ruff: noqa: E501 # lines of the page as they come out
from __future__ import annotations

import copy
import io
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from robustcheck_onnx.checker.core.images import sanity
from robustcheck_onnx.checker.core.images.preprocess import apply, decode
from robustcheck_onnx.checker.core.measure.job import SHARD_IMAGES, Job
from robustcheck_onnx.checker.core.measure.sums import Measurement, merge, nothing_yet
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.core.runtime.devices import cpu_name, cpu_threads
from robustcheck_onnx.checker.core.statistics import state as sums
from robustcheck_onnx.checker.outside.workers import ENGINES, run_jobs
from robustcheck_onnx.thresholds import profile
from support import lookup

ROOT = Path(__file__).parent.parent
PHOTO_PX, QUALITY = (500, 375), 92  # the commonest size of ImageNet's photos; JPEG
N_IMAGES = 2 * SHARD_IMAGES
RUNS = 3
MODELS, SET_IMAGES = 200, 50_000
UTILISATION = 0.4
# GFLOP for one image (a multiplication and an addition count 2): open_clip docs/model_profile.csv, image_gflops
GFLOP = {"RN50": 12.22, "ViT-B-32": 8.82, "ViT-B-16": 35.13, "ViT-L-14": 162.03}
# open_clip entries of the paper suite; SigLIP 2 B/16 has SigLIP's architecture
SUITE_GFLOP = [
    *(3 * [12.22] + 2 * [19.54] + 4 * [8.82] + 4 * [35.13] + 4 * [162.03]),
    *(35.42, 112.13, 162.56, 220.35, 670.35, 35.42, 334.59, 534.06, 967.5),
]
# millions of parameters of the same, image_mparams there
SUITE_MPARAMS = [
    *(3 * [38.32] + 2 * [56.26] + 4 * [87.85] + 4 * [86.19] + 4 * [303.97]),
    *(92.88, 93.18, 315.96, 427.68, 428.23, 92.88, 632.08, 1012.65, 1844.91),
]
BUSY = """
**Other programs were running on this machine**: wall times, and with them the ratios, say little until the command is
run again on a quiet one; CPU times hold.
"""
TFLOPS = {"A100 SXM": 19.5, "H100 SXM": 67.0}  # float32 without tensor cores; NVIDIA's data sheets
GPUS = (8, 64)


@dataclass(frozen=True)
class Stages:
    """CPU time of one thread, ms an image, but for the last four."""

    decode: float
    preprocess: float
    describe: float
    update: dict[int, float]
    """by features"""
    kib: float
    """of a photo's file"""
    shard_mb: dict[int, float]
    shard_ms: dict[int, float]
    """driver: copy and merge one shard of one tensor"""
    two_threads: float
    """images a second that two threads decode, preprocess and describe, against one"""

    @property
    def cpu(self) -> float:
        return self.decode + self.preprocess + self.describe + self.update[1024]


def cpu_ms(action: Callable[[], object], n: int, runs: int = 5) -> float:
    """Least CPU time of this thread over some runs, for one of `n` things, ms."""
    times = []
    for _ in range(runs):
        start = time.thread_time()
        action()
        times.append(time.thread_time() - start)
    return min(times) / n * 1e3


def merged_with_copy(shard: Measurement) -> Measurement:
    return merge(shard, copy.deepcopy(shard))


def measure_stages() -> Stages:
    files = []
    for path in lookup.skimage_photos():
        buffer = io.BytesIO()
        ImageOps.fit(Image.open(path).convert("RGB"), PHOTO_PX).save(buffer, "JPEG", quality=QUALITY)
        files.append(buffer.getvalue())
    photos = [decode(content, "photo")[0] for content in files]
    n, rng = len(files), np.random.default_rng(0)
    update, shard_mb, shard_ms = {}, {}, {}
    for d in (512, 1024):
        h, keys, state = rng.normal(size=(32, d)), rng.integers(0, 2**32, 32), sums.State(d)
        update[d] = cpu_ms(partial(sums.update, state, h, keys), 32)
        shard = nothing_yet(1)
        shard.tensors[0].state = state
        sketch = sanity.describe(photos[0])
        for index in range(SHARD_IMAGES):
            shard.images.digests.append(f"sha256:{index:064x}")
            shard.images.sanity.add(type(sketch)(**(vars(sketch) | {"digest": index})))
        shard_mb[d] = len(pickle.dumps(shard, 5)) / 1e6
        shard_ms[d] = cpu_ms(partial(merged_with_copy, shard), 1)
    return Stages(
        decode=cpu_ms(lambda: [decode(content, "photo") for content in files], n),
        preprocess=cpu_ms(lambda: [apply(CLIP, photo) for photo in photos], n),
        describe=cpu_ms(lambda: [sanity.describe(photo) for photo in photos], n),
        update=update,
        kib=sum(map(len, files)) / n / 1024,
        shard_mb=shard_mb,
        shard_ms=shard_ms,
        two_threads=decode_s(files, 1) / decode_s(files, 2),
    )


def decode_s(files: list[bytes], threads: int) -> float:
    """Least wall time to prepare 200 photos with so many threads."""

    def prepare(index: int) -> None:
        photo, _ = decode(files[index % len(files)], "photo")
        apply(CLIP, photo)
        sanity.describe(photo)

    times = []
    for _ in range(5):
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(prepare, range(200)))
        times.append(time.perf_counter() - start)
    return min(times)


def wall_s(jobs: list[Job], *, kind: str, workers: int) -> float:
    """Least wall time of some runs, with the start of processes and cluster."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        for outcome in run_jobs(jobs, profile.load(), engine=kind, workers=workers):
            if outcome.error is not None:
                raise outcome.error
        times.append(time.perf_counter() - start)
    return min(times)


def measure_engines(folder: Path) -> dict[tuple[str, int, int], float]:
    """(engine, workers, models) → wall s; (engine, 0, 0) → its start."""
    from robustcheck_onnx.exporters import run

    photos = sorted((ROOT / "checker" / "photos").glob("*.jpg"))
    model = folder / "m.onnx"
    run.run("torch", "robustcheck_onnx.exporters.demo:efficientnet_lite0", model, photos=photos[:5])
    many = folder / "photos"
    many.mkdir()
    for index in range(N_IMAGES):
        (many / f"{index:05d}.jpg").symlink_to(photos[index % len(photos)])
    found = {}
    for kind in ENGINES:
        for workers, n_models in ((1, 1), (2, 1), (1, 2), (2, 2)):
            if kind == "local" and (workers, n_models) == (2, 1):
                continue  # one model is one process there
            found[kind, workers, n_models] = wall_s(
                [Job(model, Options(images=str(many)))] * n_models, kind=kind, workers=workers
            )
            print(kind, workers, n_models, round(found[kind, workers, n_models], 1), flush=True)
        found[kind, 0, 0] = wall_s([Job(model, Options(images=str(many), max_images=2))], kind=kind, workers=1)
    return found


def plan_rows(gflop: float, cpu: float) -> list[str]:
    images = MODELS * SET_IMAGES
    rows = []
    for name, tflops in TFLOPS.items():
        rate = tflops * 1e12 * UTILISATION / (gflop * 1e9)
        for n in GPUS:
            hours = images / (rate * n) / 3600
            cores = images * cpu / 1e3 / (hours * 3600)
            rows.append(f"| {name} × {n} | {rate:,.0f} | {hours:.2f} | {cores:,.0f} |")
    return rows


def write(stages: Stages, engines: dict[tuple[str, int, int], float], load: float) -> str:
    images, mean = MODELS * SET_IMAGES, sum(SUITE_GFLOP) / len(SUITE_GFLOP)
    shards = MODELS * -(-SET_IMAGES // SHARD_IMAGES)
    rows = []
    for (kind, workers, n_models), seconds in engines.items():
        if workers:
            base = engines["local", 1, n_models]
            rows.append(
                f"| {kind}, {workers} worker{'s' * (workers > 1)} | {n_models} | {seconds:.1f} | "
                f"{n_models * N_IMAGES / seconds:.0f} | {base / seconds:.2f} |"
            )
    cpu_h = images * stages.cpu / 1e3 / 3600
    driver_s = {d: shards * ms / 1e3 for d, ms in stages.shard_ms.items()}
    set_gb = SET_IMAGES * stages.kib * 1024 / 1e9
    busy = BUSY if load > cpu_threads() / 2 else ""
    mparams = sum(SUITE_MPARAMS) / len(SUITE_MPARAMS)
    h100_h = images * mean / (TFLOPS["H100 SXM"] * UTILISATION * 1000 * 3600)
    one = "\n".join(
        f"| {name} | {gflop:.4g} | "
        + " | ".join(f"{images * gflop / (t * 1e3 * UTILISATION) / 3600:.1f}" for t in TFLOPS.values())
        + " |"
        for name, gflop in [*GFLOP.items(), ("mean of the paper suite's open_clip encoders", mean)]
    )
    return f"""# Scaling

Written by `python benchmarks/scaling.py`, which measures the first two sections and works out the third.
{cpu_name()}, {cpu_threads()} cores, load average {load:.1f} when it began; ONNX Runtime {version("onnxruntime-gpu")}, Ray
{version("ray")}; {datetime.now(UTC):%Y-%m-%d}. Times are the least of {RUNS} runs (stages: of 5). **No GPU was measured.**
{busy}

## How the work is cut
A job is one model on one image set. Its images, in their seeded order, are cut into shards of {SHARD_IMAGES}; a shard's sums
(`checker/core/measure/job.py`) merge into what one run over all images gives, so every engine gives the same numbers (tested to
1e-12). All images are measured: there is no early stop.

| engine | spreads | a worker is | when one dies |
|---|---|---|---|
| `local` (default of `calibrate`) | models | a process; ONNX Runtime gets cores / workers threads | its model is begun again, 3 times at most |
| `ray` | models, and the shards of a model | an actor on a GPU, without GPUs on a share of the cores; it keeps its model open and takes its shards first | Ray starts it again and repeats its shard, 3 times at most |

```console
$ robustcheck calibrate --suite suite.toml --images photos/ --out mine.json --engine ray --workers 2
$ robustcheck calibrate --suite suite.toml --images /shared/photos --out mine.json --engine ray --ray-address head:6379
```

Without `--ray-address` Ray runs on this machine for as long as the command does, without dashboard and without usage
statistics. Its processes listen on all network interfaces; a key that is made for the run and written nowhere keeps others
out (your own settings, `RAY_AUTH_MODE` and so on, go first). A cluster needs the same robustcheck-onnx on every node (compared at the start), and models
and images under the same paths there. By default there is one worker a GPU,
without GPUs one for every four cores; each gets the most cores with which all fit.

## Measured here
EfficientNet-Lite0 (real weights) on {N_IMAGES} photos ({N_IMAGES // SHARD_IMAGES} shards; the bundled ones over and over), wall time with
the start of processes (local {engines["local", 0, 0]:.1f} s, Ray's cluster {engines["ray", 0, 0]:.1f} s, which a run pays once):

| engine | models | s | images/s | against local with 1 worker |
|---|---|---|---|---|
{chr(10).join(rows)}

One local worker's ONNX Runtime already uses both cores.

CPU time of one thread, photos of {PHOTO_PX[0]} × {PHOTO_PX[1]} px (scikit-image's, JPEG quality {QUALITY}, {stages.kib:.0f} KiB a file):

| stage | ms an image |
|---|---|
| decode JPEG | {stages.decode:.2f} |
| resize, crop, normalise (CLIP, 224 px) | {stages.preprocess:.2f} |
| describe for image sanity | {stages.describe:.2f} |
| add to the sums, 512 / 1024 features | {stages.update[512]:.3f} / {stages.update[1024]:.3f} |
| together (1024 features, one tensor) | **{stages.cpu:.1f}** |

Two threads of one process decode, preprocess and describe {stages.two_threads:.2f} times as many images a second as one.

Driver of the Ray engine, for one shard of one tensor: {stages.shard_mb[512]:.1f} MB and {stages.shard_ms[512]:.0f} ms of CPU to copy and merge with 512
features, {stages.shard_mb[1024]:.1f} MB and {stages.shard_ms[1024]:.0f} ms with 1024 (Ray's own unpacking and the network come on top). Its memory does
not grow with the number of images, but for a digest of 71 characters an image and at most 4,096 sketches.

## A plan: {MODELS} checkpoints × {SET_IMAGES:,} images
- **Passes**: {MODELS} × {SET_IMAGES:,} = {images:,} forward passes; {shards:,} shards. Both tensors of a model come from one pass.
- **Bytes**: {SET_IMAGES:,} photos × {stages.kib:.0f} KiB = {set_gb:.1f} GB, decoded to {SET_IMAGES * 3 * PHOTO_PX[0] * PHOTO_PX[1] / 1e9:.0f} GB of pixels for each model; over all models
  {MODELS * set_gb:,.0f} GB are read, from memory after the first time where {set_gb:.1f} GB stay cached on each node.
- **Models**: {mparams:.0f} million parameters in the mean of the paper suite's open_clip encoders, so {MODELS} × {mparams * 4 / 1e3:.2f} GB = {MODELS * mparams * 4 / 1e3:,.0f} GB
  of float32 exports on a disk that every node reaches.
- **CPU**: {images:,} × {stages.cpu:.1f} ms = {cpu_h:.0f} core-hours (cores like this machine's). Every model decodes its images anew.
- **GPU**: hours = passes × GFLOP / (TFLOP/s × utilisation × 1000 × 3600). Checks run in float32 with TF32 off, so the peak is
  the data sheet's float32 without tensor cores: A100 SXM {TFLOPS["A100 SXM"]}, H100 SXM {TFLOPS["H100 SXM"]:.0f} TFLOP/s. Utilisation {UTILISATION:.0%}: *an assumption, to be
  replaced by your measurement* (`robustcheck model.onnx --device cuda --images photos/ --max-images 2000` tells images/s).
  GFLOP an image: open_clip@3b37473b7178 `docs/model_profile.csv`. So {images:,} × {mean:.1f} / ({TFLOPS["H100 SXM"]:.0f} × {UTILISATION} × 1000 × 3600) =
  {h100_h:.1f} H100-hours for the mean of the suite, {h100_h / 8:.2f} h on 8, {h100_h / 64:.2f} h on 64.

| all {MODELS} are like | GFLOP an image | A100 GPU-hours | H100 GPU-hours |
|---|---|---|---|
{one}

With the mean of the suite ({mean:.0f} GFLOP), GPUs that never wait, and the CPU cores that keep them from waiting:

| GPUs | images/s a GPU | hours | cores in all |
|---|---|---|---|
{chr(10).join(plan_rows(mean, stages.cpu))}

With ViT-B/32 ({GFLOP["ViT-B-32"]} GFLOP) for every model, decoding is what limits:

| GPUs | images/s a GPU | hours | cores in all |
|---|---|---|---|
{chr(10).join(plan_rows(GFLOP["ViT-B-32"], stages.cpu))}

- **Fewer cores** than that: hours = {cpu_h:.0f} core-hours / cores. 8 GPUs with 128 cores: {cpu_h / 128:.2f} h at least; 64 GPUs with 1,024
  cores: {cpu_h / 1024:.2f} h.
- **Driver**: {shards:,} shards × {stages.shard_ms[1024]:.0f} ms = {driver_s[1024] / 3600:.2f} h of one core with 1024 features, one tensor; twice that with two tensors,
  and Ray's unpacking on top. It is the floor of the whole plan, however many GPUs there are.
- **Not in it**: downloading and exporting {MODELS} checkpoints; opening a model ({MODELS} × seconds, once an actor and model);
  the last models, on which some GPUs wait: with one model a GPU at a time and its shards shared at the end, about one
  model's time.

## Limits
A model is one actor's until no new one is left; then others help with its shards. A node that is lost for good leaves
its actor waiting until the cluster has such a device again. `--device cuda:N` is refused, since Ray gives out the GPUs.
The threads that decode for a GPU share one Python interpreter; with more than two they were not measured. Where a GPU
waits for images, the plan's hours are those of the CPU. Between two shards a worker waits for the driver. The same plans with stragglers,
failures and the driver, by a simulation that a run here was held against: [scaling, simulated](scaling-simulated.md).
"""


def main() -> None:
    load = os.getloadavg()[0]
    stages = measure_stages()
    print(stages, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        engines = measure_engines(Path(folder))
    (ROOT / "benchmarks" / "results" / "scaling.md").write_text(write(stages, engines, load), encoding="utf-8")


if __name__ == "__main__":
    main()
