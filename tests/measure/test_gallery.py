"""The gallery: which images it keeps, their numbers against SciPy on the raw representations, and its merging."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from robustcheck_onnx import check
from robustcheck_onnx.checker.evidence import Evidence, Gallery
from robustcheck_onnx.checker.images.source import Skipped, open_images
from robustcheck_onnx.checker.measure import job
from robustcheck_onnx.checker.measure.job import EXTREME, FEATURES, SHOWN, SeenRows
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.statistics import state
from support import PHOTOS, lookup
from support.measuring import never_decided

N_IMAGES, WIDTH, SIZE_PX = 150, 24, 16
CONSTANT, NOT_FINITE, DAMAGED = 17, 23, 40  # images that the gallery must leave out


def vectors() -> np.ndarray:
    h = np.random.default_rng(11).standard_t(4, size=(N_IMAGES, WIDTH))
    h[:, 5] += 6
    h[CONSTANT] = 2.0
    h[NOT_FINITE, 3] = np.inf
    return h.astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A look-up model of `vectors` and its images, one of them damaged."""
    folder = tmp_path_factory.mktemp("gallery")
    paths = lookup.write_lookup_images(folder / "photos", N_IMAGES, photos=PHOTOS, size_px=SIZE_PX)
    paths[DAMAGED].write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return lookup.write_lookup_model(folder / "m.onnx", vectors(), size_px=SIZE_PX), folder / "photos"


@pytest.fixture(scope="module")
def order(model: tuple[Path, Path]) -> list[tuple[int, str, str]]:
    """(row of `vectors`, name, digest) of the usable images in the order of a run."""
    in_folder = [path.name for path in sorted(model[1].iterdir())]
    source = open_images(model[1])
    loaded = [item for item in source.items() if not isinstance(item, Skipped)]
    found = [(in_folder.index(item.name), item.name, item.digest) for item in loaded]
    return [entry for entry in found if entry[0] not in (CONSTANT, NOT_FINITE)]


@pytest.fixture(scope="module")
def report(model: tuple[Path, Path]) -> Report:
    return check(model[0], images=model[1], thresholds=never_decided(), max_bad=0.5)


def gallery_of(evidence: Evidence) -> Gallery:
    assert evidence.gallery is not None
    return evidence.gallery


def test_images_and_numbers_are_those_of_the_raw_representations(
    report: Report, order: list[tuple[int, str, str]]
) -> None:
    found, h = gallery_of(report.evidence), vectors().astype(np.float64)
    assert len(order) == N_IMAGES - 3
    rows = [row for row, _, _ in order]
    z = dict(zip(rows, scipy.stats.zscore(h[rows], axis=1), strict=True))
    kurtosis = dict(zip(rows, scipy.stats.kurtosis(h[rows], axis=1, fisher=False), strict=True))
    shares = (scipy.stats.zscore(h[rows], axis=1) ** 4).sum(axis=0)
    assert found.features == tuple(np.argsort(-shares)[:FEATURES])
    ranked = sorted(order, key=lambda entry: kurtosis[entry[0]])
    for got, want in (
        (found.shown, order[:SHOWN]),
        (found.least, ranked[:EXTREME]),
        (found.most, ranked[::-1][:EXTREME]),
    ):
        assert [(seen.name, seen.digest) for seen in got] == [(name, digest) for _, name, digest in want]
        for seen, (row, _, _) in zip(got, want, strict=True):
            assert seen.kurtosis == pytest.approx(kurtosis[row], rel=1e-9)
            np.testing.assert_allclose(seen.z, z[row][list(found.features)], atol=5.1e-4)
            assert seen.z == tuple(round(value, 3) for value in seen.z)


def kept(kurtosis: list[float], start: int = 0) -> SeenRows:
    """What one batch of images of these kurtosis values keeps."""
    n = len(kurtosis)
    batch = state.Measured(
        np.ones(n, dtype=bool), np.arange(start, start + n, dtype=np.float64)[:, None], np.array(kurtosis)
    )
    names = [f"{number}.png" for number in range(start, start + n)]
    return job.seen_rows(batch, names, names)


@given(st.lists(st.integers(1, 6).map(float), max_size=90), st.integers(0, 90), st.integers(0, 90))
def test_merging_is_associative_and_ties_go_to_the_earlier(values: list[float], i: int, j: int) -> None:
    i, j = sorted((min(i, len(values)), min(j, len(values))))
    a, b, c = kept(values[:i]), kept(values[i:j], i), kept(values[j:], j)
    most, least = ((sorted(range(len(values)), key=lambda n: (sign * values[n], n))[:EXTREME]) for sign in (-1, 1))
    want = [[f"{n}.png" for n in part] for part in (range(len(values))[:SHOWN], most, least)]
    for rows in (job.merge_seen(job.merge_seen(a, b), c), job.merge_seen(a, job.merge_seen(b, c)), kept(values)):
        assert [[row.name for row in part] for part in (rows.first, rows.most, rows.least)] == want
        assert [float(row.z[0]) for row in rows.first] == list(range(len(rows.first)))
        assert all(row.z.base is None and row.z.dtype == np.float32 for row in rows.first)  # a view would keep a batch


def test_zero_has_no_sign_and_no_usable_image_keeps_nothing() -> None:
    batch = state.Measured(np.ones(1, dtype=bool), np.array([[-1e-4, 1.0]]), np.array([1.0]))
    found = job.gallery_of(job.seen_rows(batch, ["a"], ["0"]), [0, 1])
    assert found is not None
    assert str(found.shown[0].z) == "(0.0, 1.0)"
    nothing = state.update(state.State(4), [[1.0, 1, 1, 1], [np.nan, 0, 1, 2]], [0, 1])
    assert job.gallery_of(job.seen_rows(nothing, ["a", "b"], ["0", "1"]), [0]) is None
