"""How long `compare --index` searches, and in how much memory, beside faiss's flat index: results/index-speed.md.

    python benchmarks/index_speed.py FOLDER --vectors 4000000 --queries 141    # needs 1 GB of disk per million

Vectors of 512 features in float16 are written to FOLDER, and searched by a process of their own each: the blocks of
`compare`, a plain NumPy product of the same blocks without any search, and faiss.IndexFlatIP (faiss-cpu, where it is
installed), which holds them in float32. The neighbours of two models' queries are looked for.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from robustcheck_onnx.checker.compare import neighbours, vectors

WIDTH = 512
WRITTEN_AT_ONCE = 1 << 17  # vectors


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
    new, old = queries(n)
    blocks = ((block, block, ids) for block, ids in vectors.open_vectors(path, "--index").blocks())
    found = neighbours.search(new, old, blocks, "cosine", ())
    return f"recall@10 {found.kept[10].mean():.4f}"


def product(path: Path, n: int) -> str:
    """Multiply alone."""
    both = np.concatenate(queries(n)).astype(np.float32)
    rows, largest = np.load(path, mmap_mode="r"), -np.inf
    for first in range(0, len(rows), vectors.BLOCK):
        largest = max(largest, float((both @ rows[first : first + vectors.BLOCK].astype(np.float32).T).max()))
    return f"largest product {largest:.4f}"


def flat(path: Path, n: int) -> str:
    """Search with faiss's flat index, filled block by block."""
    import faiss

    index, rows = faiss.IndexFlatIP(WIDTH), np.load(path, mmap_mode="r")
    for first in range(0, len(rows), vectors.BLOCK):
        index.add(rows[first : first + vectors.BLOCK].astype(np.float32))
    new, old = (each.astype(np.float32) for each in queries(n))
    ours, theirs = (index.search(each, 10)[1] for each in (new, old))
    shares = [len({*a} & {*b}) / 10 for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
    return f"recall@10 {np.mean(shares):.4f}"


WAYS = {"compare --index": ours, "product alone": product, "faiss.IndexFlatIP": flat}


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
        started = time.monotonic()
        said = WAYS[options.way](path, options.queries)
        own_mib = int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) >> 10
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"| {options.way} | {time.monotonic() - started:.0f} s | {own_mib} MiB | {peak_mib} MiB | {said} |")
        return
    write(path, options.vectors)
    print(f"{options.vectors:,} vectors, {path.stat().st_size / 1e9:.1f} GB, {options.queries} photos", flush=True)
    for way in WAYS:
        call = [sys.executable, __file__, str(options.folder), "--queries", str(options.queries), "--way", way]
        subprocess.run(call, check=False)  # faiss may be missing
    path.unlink()


if __name__ == "__main__":
    main()
