"""Other signals beside the verdict's own, from other packages: entry points of the group `robustcheck.detectors`.

A detector sees the representations that a check measures and says "ok" or "warn". It can turn PASS into WARN and
nothing into PASS. Code of other packages runs only where the caller names it; one that fails ends the run, since a
check without a signal that was asked for is not the check that was asked for.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.evidence import DetectorResult, Preprocessing

__all__ = ["GROUP", "Detector", "DetectorResult", "Loaded", "begin", "load", "name_of", "results", "update"]

GROUP: Final = "robustcheck.detectors"

Array = npt.NDArray[np.float64]


class Detector(Protocol):
    """What an entry point's class makes: one object a run.

    It is called without arguments, or with the text that the user gave behind the name (`--detector NAME=TEXT`). Where
    the object has a method `begin(model_digest: str, preprocessing: Preprocessing)`, it is called before the first
    images, with the digest of the model and the preprocessing as reports have them.
    """

    name: str
    """the entry point's"""
    version: str

    def update(self, representations: Array) -> None:
        """Take the next usable representations, at least one.

        representations: (image, feature), raw, finite, not constant, read-only; batches of any size, images in the
        order of the run.
        """

    def result(self) -> DetectorResult:
        """What was found; called once, at the end of the run."""


@dataclass(frozen=True)
class Loaded:
    """A detector at work."""

    name: str
    """the entry point's"""
    package: str
    """name and version of the distribution that it came with"""
    detector: Detector


def name_of(spec: str) -> str:
    """The name in `NAME` or `NAME=TEXT`."""
    return spec.partition("=")[0]


def load(specs: Sequence[str]) -> tuple[Loaded, ...]:
    """Make the named detectors; nothing is imported for any other.

    Args:
        specs: `NAME`, or `NAME=TEXT` for a detector that takes a text.

    Raises:
        UsageError: a name that no installed package has, or several have; a name given twice.
        CannotAssessError: a detector that can't be loaded, or is none.
        Whatever of our own errors a detector raises.
    """
    names = [name_of(spec) for spec in specs]
    if repeated := [name for place, name in enumerate(names) if name in names[:place]]:
        raise UsageError(
            f"--detector names {repeated[0]} twice; a detector runs once", f"leave out one --detector {repeated[0]}"
        )
    installed = entry_points(group=GROUP) if names else ()
    return tuple(_make(_find(name, installed), spec) for name, spec in zip(names, specs, strict=True))


def begin(loaded: Sequence[Loaded], model_digest: str, preprocessing: Preprocessing) -> None:
    """Tell every detector that asks for it (a method `begin`) which model is measured, and how pixels become inputs.

    Raises CannotAssessError: a detector raised.
    """
    for one in loaded:
        with _calling_detector(one.name, one.package):
            start = getattr(one.detector, "begin", None)
            if start is not None:
                start(model_digest, preprocessing)


def update(loaded: Sequence[Loaded], representations: npt.ArrayLike) -> None:
    """Show one batch to every detector.

    Args:
        loaded: from `load`.
        representations: (image, feature), usable ones only; without an image nobody is called.

    Raises:
        CannotAssessError: a detector raised.
    """
    rows = np.array(representations, dtype=np.float64)  # a copy: what is measured is nobody else's to change
    rows.setflags(write=False)
    for one in loaded if len(rows) else ():
        with _calling_detector(one.name, one.package):
            one.detector.update(rows)


def results(loaded: Sequence[Loaded]) -> tuple[DetectorResult, ...]:
    """Return each detector's result, in their order.

    Raises:
        CannotAssessError: a detector raised, or what it returned is no sound result of its own.
    """
    collected = []
    for one in loaded:
        with _calling_detector(one.name, one.package):
            result = one.detector.result()
            if not isinstance(result, DetectorResult):
                raise TypeError(f"its result is a {type(result).__name__}; it must be a DetectorResult")
            result = DetectorResult.model_validate(dict(result))  # one made by model_construct is checked by nobody
            stated, expected = (result.name, result.version), (one.detector.name, one.detector.version)
            if stated != expected or result.name != one.name:
                raise ValueError(f"its result is of {' '.join(stated)}; it must be of {' '.join(expected)}")
            collected.append(result)
    return tuple(collected)


def _find(name: str, installed: Sequence[EntryPoint]) -> EntryPoint:
    having = [point for point in installed if point.name == name]
    if not having:
        others = sorted({point.name for point in installed})
        near = difflib.get_close_matches(name, others, 1)
        raise UsageError(
            f"--detector is {name!r}; it must be an installed detector ({', '.join(others) or 'there is none'})",
            f"--detector {near[0]}" if near else "pip install the package that has it",
        )
    if len(having) > 1:
        packages = sorted(_package(point) for point in having)
        raise UsageError(
            f"--detector is {name!r}; one package must have it, and there are {', '.join(packages)}",
            f"pip uninstall {packages[0].split()[0]}",
        )
    return having[0]


def _make(point: EntryPoint, spec: str) -> Loaded:
    _, has_text, text = spec.partition("=")
    with _calling_detector(point.name, _package(point)):
        detector = point.load()(*([text] if has_text else []))
        if not callable(getattr(detector, "update", None)) or not callable(getattr(detector, "result", None)):
            raise TypeError("it has no update and result")
        if detector.name != point.name or not isinstance(detector.version, str):
            raise ValueError(f"its name is {detector.name!r}; it must be {point.name!r}, and its version a text")
    return Loaded(point.name, _package(point), detector)


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown package"


@contextlib.contextmanager
def _calling_detector(name: str, package: str) -> Iterator[None]:
    """Run a detector's code: what it prints goes to stderr, what it raises is an error that names it.

    `sys.exit(0)` too, which would read as PASS. Our own errors, which say what is wrong and what to do, stay.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (UsageError, CannotAssessError, EnvironmentFaultError) as fault:
        if type(fault) in (UsageError, CannotAssessError, EnvironmentFaultError):  # the exit code is the class's own
            raise
        raise _failed(name, package, fault) from fault
    except (Exception, SystemExit) as fault:  # other people's code may raise anything
        raise _failed(name, package, fault) from fault


def _failed(name: str, package: str, fault: BaseException) -> CannotAssessError:
    text = " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
    return CannotAssessError(
        f"{name}: detector of {package} failed ({text}); a check needs every detector that was named",
        f"leave out --detector {name}, or tell the makers of {package}",
    )
