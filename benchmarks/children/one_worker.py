"""Measures all shards of a job as a worker of the local engine: `one_worker.py STARTED MODEL IMAGES N THREADS`.

Prints the seconds of its start since STARTED (s since the epoch), of opening the model, and of each shard.
"""

import sys
import time
from pathlib import Path

from robustcheck_onnx.checker.core.measure.job import SHARD_IMAGES, Job
from robustcheck_onnx.checker.core.measure.loop import measure_shard
from robustcheck_onnx.checker.core.measure.opening import open_job
from robustcheck_onnx.checker.core.measure.probe import probe
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.outside.image_sets.open import of_job

begun, model, images, n_images, threads = sys.argv[1:]
started = time.time()
options = Options(images=images, max_images=int(n_images), preprocess="clip")
opened = open_job(Job(Path(model), options), of_job, threads=int(threads))
probe(opened)
print("start", started - float(begun))
print("open", time.time() - started)
for index in range(-(-int(n_images) // SHARD_IMAGES)):
    at = time.time()
    measure_shard(opened, index)
    print("shard", time.time() - at, flush=True)
