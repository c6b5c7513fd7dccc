"""The passes alone: ONNX Runtime over the first photos of a folder, with nothing measured, tried or digested.

python benchmarks/baselines/bare_session.py MODEL.onnx PHOTOS N

Opens the file, decodes and preprocesses the photos with Pillow as CLIP does, and runs them as the check does: passes of
4 images side by side, one a core, and idle threads that do not spin. What a check costs beyond this is its own.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

EDGE_PX, PASS, BATCH = 224, 4, 32
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def preprocess(path: Path) -> np.ndarray:
    """Resize the shorter edge, crop the centre, scale: (channel, height, width), float32."""
    image = Image.open(path).convert("RGB")
    ratio = EDGE_PX / min(image.size)
    image = image.resize([max(EDGE_PX, int(edge * ratio)) for edge in image.size], Image.Resampling.BICUBIC)
    left, top = ((edge - EDGE_PX) // 2 for edge in image.size)
    pixels = np.asarray(image.crop((left, top, left + EDGE_PX, top + EDGE_PX)))
    return ((pixels * np.float32(1 / 255) - MEAN) / STD).transpose(2, 0, 1)


def main(model: str, folder: str, n: int) -> None:
    """Run the photos."""
    options = ort.SessionOptions()
    cores = len(os.sched_getaffinity(0))
    options.intra_op_num_threads, options.inter_op_num_threads = max(1, cores - BATCH // PASS + 1), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()]
    with ThreadPoolExecutor(2) as decoders, ThreadPoolExecutor(min(cores, BATCH // PASS)) as passes:
        decoded = decoders.map(preprocess, sorted(Path(folder).iterdir())[:n])
        while batch := list(islice(decoded, BATCH)):
            parts = [np.stack(batch[at : at + PASS]) for at in range(0, len(batch), PASS)]
            list(passes.map(lambda part: session.run(outputs, {name: part}), parts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
