"""A small suite of look-up models, and its calibration.

They replay measured representations: those in a folder of embeddings (one npz a set of the reference table), or made
ones. Nothing follows from it for real encoders.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustcheck_onnx.thresholds.tables import references
from support import Fields, lookup

N_MODELS, N_IMAGES = 6, 60


class Calibrated(NamedTuple):
    """A suite of look-up models, calibrated."""

    folder: Path
    suite: Path
    photos: Path
    table: Path
    profile: Path


def line(suite: Path, photos: Path, out: Path) -> str:
    """The command line of a calibration."""
    call = f"calibrate --suite {suite} --images {photos} --out {out} --cache {suite.parent}/cache"
    return f"{call} --id mini --device cpu"


HEAD = 'schema_version = 1\nname = "mini"\n\n[labels]\nmeaning = "with: an outlier feature is there"\n'


def made(with_outlier: bool, seed: int) -> NDArray[np.float32]:
    """Signed representations, with one persistent outlier feature or none: (image, feature)."""
    return lookup.passing_rows(60, seed=seed, strengths=[(14 + 2 * seed) * with_outlier]).astype(np.float32)


def block(entry: Fields) -> str:
    return "\n[[models]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())


def write_suite(folder: Path, embeddings: Path | None = None) -> Path:
    """Write photos, models and suite.toml into the folder; return the suite's path."""
    folder.mkdir(parents=True, exist_ok=True)
    lookup.write_lookup_images(folder / "photos", 60 if embeddings is None else 120)
    entries: list[Fields] = []
    if embeddings is not None:
        for row in (r for r in references() if not r.excluded and r.n >= 120):
            vectors = embeddings / f"{row.set}.npz"
            if not vectors.is_file():  # faces and persons: their vectors are not passed on
                continue
            x = np.load(vectors, allow_pickle=False)["x"].astype(np.float32)
            lookup.write_lookup_model(folder / f"{row.set}.onnx", x)
            entry = {"model": f"{row.set}.onnx", "group": row.group, "checkpoint": row.model}
            entries.append(entry | {"label": row.expected})
    else:
        for i in range(2):
            for name, x, label in (
                (f"made_with_{i}", made(True, i), "present"),
                (f"made_without_{i}", made(False, 10 + i), "absent"),
                (f"made_rectified_{i}", np.maximum(made(False, 20 + i), 0), "absent"),
            ):
                lookup.write_lookup_model(folder / f"{name}.onnx", x)
                entries.append({"model": f"{name}.onnx", "group": "planted" if i else "other", "label": label})
    path = folder / "suite.toml"
    path.write_text(HEAD + "".join(map(block, entries)), encoding="utf-8")
    return path
