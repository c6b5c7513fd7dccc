"""A small mixed suite that needs no hub: what a calibration does, shown end to end (docs/calibration.md).

    python benchmarks/mini_suite.py FOLDER [EMBEDDINGS_DIR]
    robustcheck calibrate --suite FOLDER/suite.toml --images FOLDER/photos --out FOLDER/mini.json

EMBEDDINGS_DIR holds one npz a set of the reference table; what is in the suite says support/mini_suite.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from support.mini_suite import write_suite

if __name__ == "__main__":
    print(write_suite(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
