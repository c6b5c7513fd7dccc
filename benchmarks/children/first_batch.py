"""Measures the first batch of a model: `first_batch.py MODEL IMAGES STARTED`.

Prints the wall time since STARTED (s since the epoch), the CPU time (s), and the peak memory (KiB, Linux; `ru_maxrss`
would be at least the parent's).
"""

import re
import sys
import time
from pathlib import Path

from robustcheck_onnx.checker.core.measure.job import Job
from robustcheck_onnx.checker.core.measure.loop import add_rows, batches, decode, represent
from robustcheck_onnx.checker.core.measure.opening import open_job
from robustcheck_onnx.checker.core.measure.probe import probe
from robustcheck_onnx.checker.core.measure.sums import nothing_yet
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.outside.image_sets.open import open_images

model, images, started = sys.argv[1:]
job = Job(Path(model), Options(images=images))
source = open_images(images, seed=job.options.seed)
opened = open_job(job, lambda _: source)
probe(opened)
total = nothing_yet(1)
with decode(opened) as decoded:
    batch = next(batches(decoded, total.images, 32))
    add_rows(opened, total, batch, represent(opened, batch))
    wall = time.time() - float(started)
assert total.images.n_usable == 32
peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
assert peak is not None
print(wall, time.process_time(), peak[1])
