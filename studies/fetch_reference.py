"""Fetches the published vectors behind thresholds/data/reference_statistics.csv again, into a folder outside.

`python studies/fetch_reference.py FOLDER [SET ...]`. The column `source` of reference_sources.csv names
repository, commit and path of a file. A .npy or .npz file is opened without pickle: it must be as wide as the table
says and have as many rows; where the table took all of them, its statistics must come out again (but two-sidedness,
which leaves out what is strongest in the images that came first), and FOLDER/SET.npz is what measure_reference.py
reads. Of larger sets the table took 300 rows, which only those who drew them know. Files of other kinds are kept and
not opened. Sets of faces and persons are fetched where they are named. Exit code 1 where a file is gone or is another
one.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
from measure_reference import DATA, SOURCES, sums

from robustcheck_onnx.checker.core.statistics.state import statistics
from robustcheck_onnx.thresholds.statistics import STATISTICS
from robustcheck_onnx.thresholds.tables import TABLE

SERVER = "https://raw.githubusercontent.com"
SOURCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{7,40}):(?P<path>[^{}]+?)(?: \(also .*\))?")
OBJECTS = b"\x93NUMPY\x01\x00v\x00{'descr': '|O'"  # the start of a .npy file that is a pickle
MAX_BYTES = 1 << 28
TIMEOUT_S = 60


def listed(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return {row["set"]: row for row in csv.DictReader(handle)}


def download(server: str, source: re.Match[str], into: Path) -> None:
    url = f"{server}/{source['repo']}/{source['commit']}/{urllib.parse.quote(source['path'])}"
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        content = answer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    into.write_bytes(content)


def vectors(path: Path, d: int) -> np.ndarray:
    """The (image, feature) array of a file whose width is d. Raises ValueError: none is."""
    opened = np.load(path, allow_pickle=False)
    arrays = [opened] if path.suffix == ".npy" else [opened[name] for name in opened.files]
    for array in arrays:
        if array.dtype.kind == "f" and array.size and array.reshape(len(array), -1).shape[1] == d:
            return np.asarray(array.reshape(len(array), d), np.float16)  # as they were measured
    raise ValueError(f"no array is {d} wide: {[array.shape for array in arrays]}")


def check(path: Path, known: dict[str, str]) -> str:
    """Say in words how far a file is what the table was made from. Raises ValueError: it is another one."""
    if path.suffix not in (".npy", ".npz") or path.read_bytes().startswith(OBJECTS):
        return "kept, not opened"
    n, x = int(known["n"]), vectors(path, int(known["d"]))
    if len(x) < n:
        raise ValueError(f"{len(x)} rows; the table has {n}")
    if len(x) > n:
        return f"as wide as in the table; {n} of its {len(x)} rows were measured"
    found = statistics(sums(x), alpha=0.05)
    numbers = {name: f"{getattr(found, name).estimate:.4g}" for name in STATISTICS if name != "two_sidedness"}
    if wrong := [f"{name} {number}, not {known[name]}" for name, number in numbers.items() if number != known[name]]:
        raise ValueError("; ".join(wrong))
    np.savez_compressed(path.parents[1] / f"{known['set']}.npz", x=x)
    return "the table's statistics"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--server", default=SERVER)
    options = parser.parse_intermixed_args()
    if options.folder.resolve().is_relative_to(DATA.parents[1]):
        parser.error("FOLDER must be outside of the repository: most of these repositories carry no licence")
    table, sources = listed(DATA / TABLE), listed(SOURCES)
    bad = False
    for name in options.sets or [name for name, row in sources.items() if row["group"] not in ("face", "reid")]:
        source = SOURCE.fullmatch(sources[name]["source"])
        if source is None:
            said = "not one published file"
        else:
            path = options.folder / "fetched" / f"{name}{Path(source['path']).suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                download(options.server, source, path)
                said = check(path, table[name])
            except (OSError, ValueError, urllib.error.URLError) as fault:
                said, bad = f"WRONG: {fault}", True
        print(f"{name}: {said}", flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
