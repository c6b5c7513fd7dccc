"""Representations with planted outlier features, models of them to compare, and labelled sets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.core.images.source import digest_of_set
from robustcheck_onnx.checker.core.statistics import state
from robustcheck_onnx.checker.questions.compare import baseline, run
from robustcheck_onnx.checker.questions.compare.judge import CompareReport
from robustcheck_onnx.checker.questions.compare.pairs import Compared, Pair, Side, add_predictions, update
from robustcheck_onnx.checker.questions.compare.similarity import Similarity
from robustcheck_onnx.checker.questions.shift.robustness import SetResult
from robustcheck_onnx.checker.report.record import Time
from robustcheck_onnx.thresholds.profile import Profile, load
from support import but, normal

from . import reports

ALPHA = 0.05
Array = npt.NDArray[np.float64]


def planted(
    n: int = 80, d: int = 384, seed: int = 0, strength: float = 14.0, features: tuple[int, ...] = (7,)
) -> Array:
    """Signed representations with persistent outlier features of `strength` SD that vary between images."""
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, d)) + rng.normal(0, 0.5, d)
    h[:, features] += strength * rng.uniform(0.8, 1.2, (n, len(features)))
    return h


def paired(candidate: Array, reference: Array, keys: npt.NDArray[np.int64] | None = None) -> Pair:
    pair = Pair(Side(state.State(candidate.shape[1])), Side(state.State(reference.shape[1])))
    keys = np.arange(len(candidate)) if keys is None else keys
    for rows in np.array_split(np.arange(len(candidate)), 3):
        update(pair, candidate[rows], reference[rows], keys[rows])
    return pair


def numbers(*values: float | None) -> Array:
    """None is NaN, which is close to nothing."""
    return np.array(values, dtype=np.float64)


def rotation(d: int) -> Array:
    return np.asarray(np.linalg.qr(normal(d, d, seed=1))[0], dtype=np.float64)


def same_mean(h: Array, share: float = 0.0, seed: int = 3) -> Array:
    """The mean vector of h, and residuals of the same SD of which only a part is h's."""
    residual = h - h.mean(axis=0)
    own = residual.std(axis=0) * normal(*h.shape, seed=seed)
    return np.asarray(h.mean(axis=0) + share * residual + np.sqrt(1 - share**2) * own)


def rounded(h: Array) -> Array:
    step = np.abs(h).max() / 127
    return np.asarray(np.round(h / step) * step)


def measured(side: Side, profile: Profile, **model: Any) -> Compared:
    """What a check concludes of a model's sums; `model` changes single facts."""
    return Compared.of(reports.evidence(state.statistics(side.state, profile.alpha), model=model), profile)


WHEN = Time(started="2026-01-02T03:04:05Z", wall_s=1.0, images_per_s=80.0)


def judged(
    candidate: Array,
    reference: Array,
    *,
    tolerance: float = 0.2,
    logits: tuple[Array, Array] | None = None,
    **model: Any,
) -> CompareReport:
    """Compare the vectors of two models without files and photos: what follows once both were run."""
    pair, profile = paired(candidate, reference), load()
    if logits is not None:
        add_predictions(pair, *logits)
    ours, theirs = (measured(side, profile, **model) for side in (pair.candidate, pair.reference))
    comparison = run._between(pair, theirs, profile, tolerance)
    return run._report(ours, comparison, profile, tolerance, "", WHEN)


def on_images(model: Compared, keys: npt.NDArray[np.int64]) -> tuple[Compared, list[str]]:
    """The model as measured on these images, and their digests."""
    digests = [str(key) for key in keys]
    return but(model, evidence__images__digest=digest_of_set(digests)), digests


def stored(h: Array) -> baseline.Baseline:
    side = paired(h, h).candidate
    model, digests = on_images(measured(side, load()), np.arange(len(h)))
    return baseline.make(side, model.evidence, digests, {})


def judged_by(known: baseline.Baseline, candidate: Array, order: npt.NDArray[np.int64] | None = None) -> CompareReport:
    """Compare vectors with a baseline; `order`: which image each row is of."""
    order, profile = np.arange(len(candidate)) if order is None else order, load()
    side = paired(candidate, candidate, order).candidate
    ours, digests = on_images(measured(side, profile), order)
    comparison = run._against(side, ours.evidence, digests, known, profile, 0.2)
    return run._report(ours, comparison, profile, 0.2, "baseline.json", WHEN)


def alike(report: CompareReport) -> Similarity:
    assert report.similarity is not None
    return report.similarity


def ids(report: CompareReport) -> set[str]:
    return {reason.id for reason in report.verdict.reasons}


@dataclass
class Workshop:
    """Writes look-up models, and compares them on one set of photos."""

    folder: Path
    photos: Path
    write: Callable[..., Path]

    def model(self, name: str, h: npt.ArrayLike, **options: Any) -> Path:
        return self.write(self.folder / f"{name}.onnx", h, **options)

    def run(self, candidate: Path, reference: Path | None, **options: Any) -> CompareReport:
        report = run.compare(candidate, reference, images=self.photos, device="cpu", **options)
        assert isinstance(report, CompareReport)
        return report

    def baseline(self, candidate: Path) -> baseline.Baseline:
        made = run.compare(candidate, images=self.photos, device="cpu").next_baseline
        assert made is not None
        return made


def labelled_set(**given: Any) -> SetResult:
    """A labelled set of 4,000 images that were all read, of which these things are given."""
    counts: dict[str, Any] = {"n_available": 4000, "n_read": 4000, "n_skipped": 0, "skipped": ()}
    return SetResult(source="somewhere", labels="", digest="sha256:0", **counts, **given)
