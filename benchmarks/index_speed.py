"""How long `compare --index` searches, and in how much memory, compared with faiss: results/index-speed.md.

    python benchmarks/index_speed.py FOLDER --vectors 10000000 --queries 141    # needs 1 GB of disk per million

Vectors of 512 features in float16 are written to FOLDER, and searched by a process of their own each: as `compare`
does, by a plain NumPy product of the same blocks without any search, and by faiss (faiss-cpu, where it is installed).
faiss.IndexFlatIP holds vectors in float32, so it is filled and searched in shards of a million; its scalar quantiser
holds all of them in float16. The neighbours of two models' queries are looked for.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from robustcheck_onnx.checker.questions.compare.neighbours import recall_bounds, search
from robustcheck_onnx.checker.questions.compare.vectors import BLOCK, open_vectors

WIDTH = 512
WRITTEN_AT_ONCE = 1 << 17  # vectors
SHARD = 1 << 20  # vectors


def write(path: Path, n: int) -> None:
    """Write random vectors of length 1 in blocks."""
    draw = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (n, WIDTH))
    for first in range(0, n, WRITTEN_AT_ONCE):
        block = draw.standard_normal((min(WRITTEN_AT_ONCE, n - first), WIDTH), np.float32)
        rows[first : first + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    rows.flush()


def queries(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the queries of both models."""
    draw = np.random.default_rng(1)
    old = draw.standard_normal((n, WIDTH))
    return old + 0.1 * draw.standard_normal((n, WIDTH)), old


def ours(path: Path, n: int) -> str:
    """Search as `compare --index` does."""
    blocks = open_vectors(path, "--index").blocks()
    new, old = search(queries(n), blocks, "cosine", {}).ranked
    return f"recall@10 {recall_bounds(new, old, 10, 'cosine')[0].mean():.4f}"


def _blocks(path: Path) -> Iterator[np.ndarray]:
    rows = np.load(path, mmap_mode="r")
    for first in range(0, len(rows), BLOCK):
        yield rows[first : first + BLOCK].astype(np.float32)


def product(path: Path, n: int) -> str:
    """Multiply alone."""
    both, largest = np.concatenate(queries(n)).astype(np.float32).T, -np.inf
    for rows in _blocks(path):
        largest = max(largest, float((rows @ both).max()))
    return f"largest product {largest:.4f}"


def _recall(numbers: np.ndarray) -> str:
    halves = (each.tolist() for each in np.split(numbers, 2))
    shares = [len({*a} & {*b}) / 10 for a, b in zip(*halves, strict=True)]
    return f"recall@10 {np.mean(shares):.4f}"


def flat(path: Path, n: int) -> str:
    """Search with faiss's flat index, a shard after the other."""
    import faiss

    both = np.concatenate(queries(n)).astype(np.float32)
    heap, index, start, n_vectors = faiss.ResultHeap(len(both), 10, keep_max=True), faiss.IndexFlatIP(WIDTH), 0, 0

    def search() -> None:
        scores, numbers = index.search(both, 10)
        heap.add_result(scores, numbers + start)

    for rows in _blocks(path):
        index.add(rows)
        n_vectors += len(rows)
        if index.ntotal >= SHARD:
            search()
            index.reset()
            start = n_vectors
    if index.ntotal:
        search()
    heap.finalize()
    return _recall(heap.I)


def quantised(path: Path, n: int) -> str:
    """Search with faiss's scalar quantiser, which holds the vectors in float16."""
    import faiss

    index = faiss.IndexScalarQuantizer(WIDTH, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for rows in _blocks(path):
        index.add(rows)
    started = time.monotonic()
    numbers = index.search(np.concatenate(queries(n)).astype(np.float32), 10)[1]
    return f"{_recall(numbers)}; search alone {time.monotonic() - started:.0f} s"


WAYS = {
    "product alone": product,
    "compare --index": ours,
    "faiss.IndexFlatIP in shards": flat,
    "faiss.IndexScalarQuantizer, QT_fp16": quantised,
}


def watch(most: list[int]) -> None:
    """Keep the largest memory of this process without mapped files, in MiB."""
    while True:
        own = int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) >> 10
        most[0] = max(most[0], own)
        time.sleep(0.1)


def main() -> None:
    """Run each way in a process of its own, or one of them here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=141)
    parser.add_argument("--way", choices=WAYS)
    options = parser.parse_args()
    path = options.folder / "index.npy"
    if options.way is not None:
        own, started = [0], time.monotonic()
        threading.Thread(target=watch, args=(own,), daemon=True).start()
        found = WAYS[options.way](path, options.queries)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        times = f"{time.monotonic() - started:.0f} s | {time.process_time():.0f} s"
        print(f"| {options.way} | {times} | {own[0]} MiB | {peak} MiB | {found} |", flush=True)
        return
    write(path, options.vectors)
    print(f"{options.vectors:,} vectors, {path.stat().st_size / 1e9:.1f} GB, {options.queries} photos", flush=True)
    for way in WAYS:
        call = [sys.executable, __file__, str(options.folder), "--queries", str(options.queries), "--way", way]
        subprocess.run(call, check=False)  # faiss may be missing
    path.unlink()


if __name__ == "__main__":
    main()
