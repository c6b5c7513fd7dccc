"""`robustcheck calibrate` on a suite of look-up models, for the tests."""

from pathlib import Path
from typing import NamedTuple, Protocol

from robustcheck_onnx.thresholds import tables
from robustcheck_onnx.thresholds.tables import Result
from support import bad_input

N_MODELS, N_IMAGES = 6, 60


def run(*words: str | Path, code: int = 0, **more: str) -> bad_input.Done:
    """The command in a process of its own; more: environment variables."""
    done = bad_input.run([bad_input.COMMAND, *map(str, words)], env=bad_input.environment(**more))
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr[-3000:])
    return done


class Call(Protocol):
    """The command within this process: exit code expected, (stdout, stderr) returned."""

    def __call__(self, *words: str | Path, code: int = 0) -> tuple[str, str]: ...


class Calibrated(NamedTuple):
    """A suite of look-up models, calibrated."""

    folder: Path
    suite: Path
    photos: Path
    table: Path
    profile: Path


def words(suite: Path, photos: Path, out: Path, *more: str | Path) -> list[str]:
    """The command line of a calibration."""
    call = ("calibrate", "--suite", suite, "--images", photos, "--out", out, "--cache", suite.parent / "cache")
    return list(map(str, (*call, "--id", "mini", "--device", "cpu", *more)))


def calibrate(suite: Path, photos: Path, out: Path, *more: str | Path) -> bad_input.Done:
    return run(*words(suite, photos, out, *more))


def rows(path: Path) -> list[Result]:
    return tables.read(path)
