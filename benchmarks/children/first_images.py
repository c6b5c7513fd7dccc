"""Measures the first images of a model as one shard: `first_images.py MODEL IMAGES N [probe]`.

With `probe` the model is tried before, as in every run, in a second session for a moment.
"""

import sys
from pathlib import Path

from robustcheck_onnx.checker.core.measure.job import Job
from robustcheck_onnx.checker.core.measure.loop import measure_images
from robustcheck_onnx.checker.core.measure.opening import open_job
from robustcheck_onnx.checker.core.measure.probe import probe
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.outside.image_sets.open import of_job

model, images, n_images, *probed = sys.argv[1:]
opened = open_job(Job(Path(model), Options(images=images, max_images=int(n_images))), of_job)
if probed:
    probe(opened)
measure_images(opened)
