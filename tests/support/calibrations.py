"""`robustcheck calibrate` on a suite of look-up models, for the tests."""

from pathlib import Path
from typing import NamedTuple

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
