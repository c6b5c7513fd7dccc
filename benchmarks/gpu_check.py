"""make gpu-check: is a GPU used, right and fast? All of it in one run, without a network, in at most eight minutes.

python benchmarks/gpu_check.py [--device cuda] [--quick] [--minutes 8] [--out FOLDER]

Models are made on the spot with random weights (`made_models`). Writes gpu-check.json and gpu-check.log. Without a GPU
it runs to its end all the same: the CPU's figures are there, and the rows of the device say "no device". Works from a
source tree on PYTHONPATH as well as from an install; rows that need PyTorch or pytest say so where they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import made_models as made
import numpy as np
import onnxruntime as ort
import scan as scan_rows
from speed import write_photos

from robustcheck_onnx.checker.core.images.preprocess import apply, decode
from robustcheck_onnx.checker.core.measure.job import Job
from robustcheck_onnx.checker.core.measure.loop import measure_images
from robustcheck_onnx.checker.core.measure.opening import OpenedJob, open_job
from robustcheck_onnx.checker.core.measure.prepare import prepare_item, stack
from robustcheck_onnx.checker.core.measure.probe import probe, usable
from robustcheck_onnx.checker.core.measure.sums import conclude
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.core.runtime import doctor
from robustcheck_onnx.checker.core.runtime.devices import (
    cpu_name,
    cpu_threads,
    device_memory,
    parse_device,
    why_missing,
)
from robustcheck_onnx.checker.core.runtime.session import open_session
from robustcheck_onnx.checker.core.verdict.profile import load_profile
from robustcheck_onnx.checker.core.verdict.rule import judge
from robustcheck_onnx.checker.outside.image_sets.open import of_job
from robustcheck_onnx.checker.outside.storage.places import OFFLINE
from robustcheck_onnx.thresholds.statistics import STATISTICS

ROOT = Path(__file__).parent.parent
NO_DEVICE = "no device"
BATCHES = (8, 32, 128, 256)  # of the bare session; its best is the baseline
SAME = 1e-4  # relative difference of a statistic between CPU and device in fp32
COMMAND = [sys.executable, "-m", "robustcheck_onnx.checker"]
TORCH = """
import sys, time, pathlib
sys.path.insert(0, {benchmarks!r})
import torch, numpy, made_models
from PIL import Image
from torch.utils.data import DataLoader, Dataset
PX = made_models.{shape}.image_px
class Photos(Dataset):
    def __init__(self): self.paths = sorted(pathlib.Path({photos!r}).iterdir()) * {times}
    def __len__(self): return len(self.paths)
    def __getitem__(self, i):
        image = Image.open(self.paths[i]).convert("RGB").resize((PX, PX), Image.Resampling.BICUBIC)
        return (torch.from_numpy(numpy.asarray(image).copy()).permute(2, 0, 1).float() / 255 - 0.45) / 0.27
if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, start, n = made_models.torch_vit(made_models.{shape}), time.perf_counter(), 0
    with torch.inference_mode():
        for batch in DataLoader(Photos(), batch_size=64, num_workers={workers}, pin_memory={cuda}):
            rows = model(batch.to({device!r})); n += len(rows)
        rows.cpu()
    print(n / (time.perf_counter() - start))
"""


@dataclass
class Run:
    """One run of this script: its settings, and the rows so far."""

    device: str
    reason: str
    """why the device is not there; empty where it is"""
    folder: Path
    quick: bool
    end: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str, **row: Any) -> None:
        """Keep a row and print it."""
        self.rows.append({"what": what, **row})
        print(f"{what}: " + ", ".join(f"{name} {_shown(value)}" for name, value in row.items()), flush=True)

    def on_device(self, what: str, row: Callable[[], dict[str, Any]]) -> None:
        """Keep a row of the device: its numbers, its error, or why there are none."""
        if self.reason:
            self.add(what, result=NO_DEVICE, why=self.reason)
        elif time.monotonic() > self.end:
            self.add(what, result="left out: the time is over")
        else:
            try:
                self.add(what, **row())
            except Exception as fault:  # noqa: BLE001 # the other rows are worth having
                self.add(what, result="failed", why=f"{type(fault).__name__}: {fault}")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def models(run: Run) -> dict[str, Path]:
    """The encoders of this run, by name."""
    if run.quick:
        return {
            "tiny ViT": made.vit(run.folder / "tiny.onnx", made.TINY),
            "tiny ResNet": made.resnet(run.folder / "resnet.onnx", made.TINY_BLOCKS, width=8, image_px=32, features=16),
        }
    return {
        "ViT-B/32": made.vit(run.folder / "b32.onnx", made.B32),
        "RN50": made.resnet(run.folder / "rn50.onnx", made.RN50_BLOCKS),
        "ViT-L/14": made.vit(run.folder / "l14.onnx", made.L14),
    }


def opened(path: Path, photos: Path, device: str, n: int, **options: Any) -> OpenedJob:
    """A job with its sessions, on a device."""
    return open_job(
        Job(path, Options(images=str(photos), max_images=n, preprocess="clip", device=device, **options)), of_job
    )


def agreement(run: Run, path: Path, photos: Path) -> dict[str, Any]:
    """Placement on the device; statistics and verdict there against the CPU's; the same bytes twice; TF32's effect."""
    n = 64

    def measured(device: str, **options: Any) -> Any:
        job = opened(path, photos, device, n, **options)
        facts = probe(job)
        (evidence,) = conclude(job.job, facts, measure_images(job), load_profile(None), decided=False)
        return evidence

    def apart(one: Any, other: Any) -> float:
        """The largest relative difference of a deciding statistic."""
        pairs = [(getattr(e.statistics, name).estimate for e in (one, other)) for name in STATISTICS]
        return float(max(abs(a - b) / max(abs(a), abs(b), 1e-9) for a, b in pairs if a is not None and b is not None))

    cpu, here, again = measured("cpu"), measured(run.device), measured(run.device)
    difference = apart(cpu, here)
    row = {
        "nodes": here.execution.nodes,
        "heavy layers on the CPU": here.execution.heavy_on_cpu,
        "device": here.execution.device,
        "largest relative difference of a statistic": difference,
        "same verdict": judge(cpu, load_profile(None)).verdict == judge(here, load_profile(None)).verdict,
        "batch difference": here.model.batch_difference,
        "same bytes twice": here.model_dump_json() == again.model_dump_json(),
        "met": difference <= SAME,
    }
    if run.device.startswith("cuda"):
        row["difference with TF32"] = apart(cpu, measured(run.device, provider_options=("use_tf32=1",)))
    return row


def half_agreement(run: Run, photos: Path) -> dict[str, Any]:
    """The representation of a transformer in float16 on the device against its float32 file on the CPU."""
    shape = made.TINY if run.quick else made.B32
    files = [made.vit(run.folder / f"half-{half}.onnx", shape, half=half) for half in (False, True)]
    jobs = [opened(path, photos, device, 32) for path, device in zip(files, ("cpu", run.device), strict=True)]
    pixels = stacked(jobs[0])
    full, half = (job.runners[0].represent(pixels)[0].astype(np.float64) for job in jobs)
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    return {
        "smallest cosine": float(cosine.min()),
        "largest difference / rms": float(np.abs(full - half).max() / full.std()),
    }


def stacked(job: OpenedJob) -> Any:
    """The pixels of a job's photos, as its runner takes them."""
    decoded = [prepare_item(item, job) for item in job.source.items()]
    return stack(usable(decoded))


def bare_rate(run: Run, job: OpenedJob, pixels: Any, device: str) -> tuple[float, int]:
    """Images a second of ONNX Runtime alone, with IO binding, its input on the device, at its best batch."""
    model = job.models[0]
    session, _ = open_session(model.graph.with_addition(), model, device, threads=cpu_threads())
    floats = np.random.default_rng(0).normal(size=(max(BATCHES), *_chw(model))).astype(model.image_input.dtype)
    best, kind = (0.0, 0), device_memory(session)
    for size in BATCHES[:2] if run.quick else BATCHES:
        batch = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(floats[:size]), *kind)
        binding = session.io_binding()
        binding.bind_ortvalue_input(model.image_input.name, batch)
        binding.bind_output(model.fetch, *kind)
        rounds = max(2, min(20, 4 * len(pixels) // size))
        session.run_with_iobinding(binding)
        begun = time.perf_counter()
        for _ in range(rounds):
            session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        best = max(best, (rounds * size / (time.perf_counter() - begun), size))
    return best


def _chw(model: Any) -> tuple[int, int, int]:
    height, width = model.image_input.size or (224, 224)
    return 3, height, width


def tensors_in_memory(run: Run, path: Path, photos: Path, device: str) -> dict[str, Any]:
    """Images a second of our runner and sums over uint8 pixels in memory, against the bare session."""
    job = opened(path, photos, device, 64 if run.quick else 256, batch_size=32 if device == "cpu" else 256)
    pixels = stacked(job)
    bare, size = bare_rate(run, job, pixels, device)
    rates = []
    for _ in range(2 if run.quick else 5):
        begun = time.perf_counter()
        for _ in range(1 if device == "cpu" else 8):
            job.runners[0].represent(pixels)
        rates.append((1 if device == "cpu" else 8) * len(pixels) / (time.perf_counter() - begun))
    ours = statistics.median(rates)
    return {"ours": ours, "bare ONNX Runtime": bare, "at batch": size, "ratio": ours / bare, "goal": "≥ 0.95"}


def from_files(run: Run, path: Path, photos: Path, device: str, times: int) -> dict[str, Any]:
    """Images a second from JPEG files, against the smaller of the bare session and Pillow on all cores."""
    listed = run.folder / "many.txt"
    names = [str(photo) for photo in sorted(photos.iterdir())] * times
    listed.write_text("\n".join(names), encoding="utf-8")
    job = opened(path, listed, device, len(names), batch_size=32 if device == "cpu" else 256)
    bare, _ = bare_rate(run, job, names[:64], device)
    begun = time.perf_counter()
    with ThreadPoolExecutor(cpu_threads()) as pool:
        done = sum(pool.map(lambda name: _ready(name, job), names[:: max(1, times)]))
    pillow = done / (time.perf_counter() - begun)
    begun = time.perf_counter()
    measure_images(replace(job, described=frozenset()))
    ours, least = len(names) / (time.perf_counter() - begun), min(bare, pillow)
    return {"ours": ours, "bare": bare, "Pillow": pillow, "ratio": ours / least, "goal": "≥ 0.90", "photos": len(names)}


def _ready(name: str, job: OpenedJob) -> int:
    image, _ = decode(Path(name).read_bytes(), name)
    apply(job.preprocessing.preprocessing, image)
    return 1


def torch_rate(run: Run, photos: Path, shape: str, device: str, times: int) -> dict[str, Any]:
    """Images a second of a PyTorch loop in fp32 with a DataLoader, as a user would write it."""
    if find_spec("torch") is None:
        return {"result": "PyTorch is not installed"}
    code = TORCH.format(
        benchmarks=str(ROOT / "benchmarks"), photos=str(photos), times=times, shape=shape,
        workers=min(16, cpu_threads()), device=device, cuda=device != "cpu",
    )  # fmt: skip
    script = run.folder / "torch_loop.py"
    script.write_text(code, encoding="utf-8")
    return {"images/s": float(_output([sys.executable, str(script)]).split()[-1])}


def time_to_verdict(run: Run, path: Path, photos: Path, device: str) -> dict[str, Any]:
    """Seconds of the command: a whole check, and its start alone (8 photos)."""

    def seconds(n: int) -> float:
        words = ["check", str(path), "--images", str(photos), "--preprocess", "clip", "--device", device, "-qq"]
        begun = time.perf_counter()
        _output([*COMMAND, *words, "--max-images", str(n)], codes=(0, 1))
        return time.perf_counter() - begun

    whole, start = seconds(1000), seconds(8)
    return {"whole s": whole, "start s": start, "images s": max(0.0, whole - start)}


def device_mib(run: Run, path: Path, photos: Path) -> dict[str, Any]:
    """Memory of the device that a check takes beyond a bare session, by nvidia-smi."""
    pixels = stacked(opened(path, photos, "cpu", 32))
    before = _used_mib()
    job = opened(path, photos, run.device, 32)
    model = job.models[0]
    session, _ = open_session(model.graph.with_addition(), model, run.device, threads=cpu_threads())
    del job
    batch = np.zeros((32, *_chw(model)), model.image_input.dtype)
    session.run([model.fetch], {model.image_input.name: batch})
    bare = _used_mib() - before
    del session
    job = opened(path, photos, run.device, 32)
    job.runners[0].represent(pixels)
    ours = _used_mib() - before
    return {"ours MiB": ours, "bare MiB": bare, "more": ours - bare, "goal": "≤ 200"}


def _used_mib() -> float:
    return float(_output(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]).split()[0])


def _output(command: list[str], codes: tuple[int, ...] = (0,)) -> str:
    environment = os.environ | {OFFLINE: "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode not in codes:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def cores(run: Run, path: Path, photos: Path) -> Iterator[dict[str, Any]]:
    """Images a second from files on 1, 2, 4, 8 and 16 cores of this machine's CPU."""
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    for n in (1, 2, 4, 8, 16):
        if n <= len(allowed):
            call = f"gpu_check.rate_on({allowed[:n]}, {str(path)!r}, {str(photos)!r}, {64 if run.quick else 256})"
            code = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import gpu_check; print({call})"
            yield {"cores": n, "images/s": float(_output([sys.executable, "-c", code]).split()[-1])}


def rate_on(cores: list[int], path: str, photos: str, n: int) -> float:
    """Images a second from files on these cores, for a process of its own."""
    os.sched_setaffinity(0, cores)
    job = opened(Path(path), Path(photos), "cpu", n)
    begun = time.perf_counter()
    measure_images(job)
    return len(job.source) / (time.perf_counter() - begun)


def tests(run: Run) -> dict[str, Any]:
    """Every test that is marked `requires_cuda`."""
    if find_spec("pytest") is None or not (ROOT / "tests").is_dir():
        return {"result": "pytest or the tests are not here"}
    words = [sys.executable, "-m", "pytest", "-q", "-m", "requires_cuda", "-p", "no:cacheprovider", str(ROOT / "tests")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    last = [line for line in done.stdout.splitlines() if " in " in line][-1:]
    return {"rc": done.returncode, "said": last[0] if last else done.stdout[-300:], "met": done.returncode == 0}


def main() -> int:
    """Run it all; exit code 1 where something that has a goal of being right is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models: a trial of the script")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    reason = why_missing(parse_device(given.device).provider)
    with tempfile.TemporaryDirectory() as name:
        run = Run(given.device, reason, Path(name), given.quick, time.monotonic() + 60 * given.minutes)
        environment(run)
        everything(run)
        record = {"device": given.device, "reason": reason, "quick": given.quick, "rows": run.rows}
    (given.out / "gpu-check.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    lines = [f"{row.pop('what')}: {json.dumps(row, ensure_ascii=False)}" for row in run.rows]
    (given.out / "gpu-check.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    failed = [line for line in lines if '"met": false' in line or '"result": "failed"' in line]
    print(f"written to {given.out}; {len(failed)} rows are not as they must be")
    return 1 if failed else 0


def environment(run: Run) -> None:
    """What this machine is, by `doctor`."""
    run.add(
        "machine", cpu=cpu_name(), cores=cpu_threads(), python=platform.python_version(), onnxruntime=ort.__version__
    )
    for finding in doctor.diagnose():
        run.add("doctor", **finding.model_dump(mode="json"))


def everything(run: Run) -> None:
    """All rows, the right before the fast."""
    photos = write_photos(run.folder / "photos", 32 if run.quick else 256)
    made_here, times = models(run), 2 if run.quick else 4
    run.on_device("tests marked requires_cuda", lambda: tests(run))
    for name, path in made_here.items():
        run.on_device(f"agreement, {name}", partial(agreement, run, path, photos))
    run.on_device("float16 transformer", lambda: half_agreement(run, photos))
    for name, path in made_here.items():
        run.on_device(f"tensors in memory, {name}", partial(tensors_in_memory, run, path, photos, run.device))
        run.on_device(f"JPEG files, {name}", partial(from_files, run, path, photos, run.device, times))
        run.on_device(f"time to verdict, {name}", partial(time_to_verdict, run, path, photos, run.device))
    in_torch = run.device if run.device.startswith("cuda") else "cpu"
    for shape in ("TINY",) if run.quick else ("B32", "L14"):
        run.on_device(f"PyTorch, {shape}", partial(torch_rate, run, photos, shape, in_torch, times))
    first = next(iter(made_here.values()))
    if run.device.startswith("cuda"):
        run.on_device("memory of the device", lambda: device_mib(run, first, photos))
    run.on_device(
        "scan of all blocks",
        lambda: dict(zip(("with s", "plain s", "ratio", "tensors"), scan_rows.measure(first, run.device), strict=True)),
    )
    run.add("CPU: tensors in memory", **tensors_in_memory(run, first, photos, "cpu"))
    for row in cores(run, first, photos):
        run.add("CPU: files", **row)


if __name__ == "__main__":
    sys.exit(main())
