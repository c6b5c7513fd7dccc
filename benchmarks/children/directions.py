"""Times the linear algebra of `robustcheck directions`, next to one SVD: `directions.py CLASSES FEATURES IMAGES RUNS`.

Prints as JSON: the median seconds of `analyse`, those of its CPU time, those of the SVD, and the peak memory (MiB).
"""

import json
import resource
import statistics
import sys
import time

import numpy as np

from robustcheck_onnx.checker.questions.directions.analysis import analyse
from robustcheck_onnx.checker.questions.head import LinearHead

classes, features, images, runs = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
head = LinearHead(rng.normal(size=(classes, features)), np.zeros(classes), "random")
h = rng.normal(size=(images, features)).astype(np.float32)
ours: list[float] = []
cpu: list[float] = []
svd: list[float] = []
for _ in range(runs):
    start = time.perf_counter()
    used = time.process_time()
    analyse(head, h)
    ours.append(time.perf_counter() - start)
    cpu.append(time.process_time() - used)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for _ in range(runs):
    start = time.perf_counter()
    np.linalg.svd(head.weight, full_matrices=False)
    svd.append(time.perf_counter() - start)
print(json.dumps([*map(statistics.median, (ours, cpu, svd)), peak]))
