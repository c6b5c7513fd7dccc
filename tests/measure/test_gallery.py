"""The images that a report shows, against SciPy on the raw representations, and their merging."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from robustcheck_onnx import check
from robustcheck_onnx.checker.images.source import Skipped, open_images
from robustcheck_onnx.checker.measure import job
from robustcheck_onnx.checker.measure.job import EXTREME, FEATURES, SHOWN
from robustcheck_onnx.checker.statistics import state
from support import lookup
from support.measuring import never_decided

N_IMAGES, SIZE_PX = 150, 16
CONSTANT, NOT_FINITE, DAMAGED = 17, 23, 40  # images that the gallery must leave out


def test_images_and_numbers_are_those_of_the_raw_representations(tmp_path: Path) -> None:
    h = np.random.default_rng(11).standard_t(4, size=(N_IMAGES, 24)).astype(np.float32)
    h[:, 5] += 6
    h[CONSTANT], h[NOT_FINITE, 3] = 2.0, np.inf
    photos = tmp_path / "photos"
    lookup.write_lookup_images(photos, N_IMAGES, size_px=SIZE_PX)[DAMAGED].write_bytes(b"\x89PNG")
    model = lookup.write_lookup_model(tmp_path / "m.onnx", h, size_px=SIZE_PX)
    found = check(model, images=photos, thresholds=never_decided(), max_bad=0.5).evidence.gallery
    assert found is not None
    loaded = [item for item in open_images(photos).items() if not isinstance(item, Skipped)]
    digests = {int(item.name[6:11]): item.digest for item in loaded}  # in the order of a run
    rows = [row for row in digests if row not in (CONSTANT, NOT_FINITE)]
    assert len(rows) == N_IMAGES - 3
    z = scipy.stats.zscore(h[rows].astype(np.float64), axis=1)
    kurtosis = scipy.stats.kurtosis(z, axis=1, fisher=False)
    assert found.features == tuple(np.argsort(-(z**4).sum(axis=0))[:FEATURES])
    ranked = np.argsort(kurtosis)
    for got, want in (
        (found.shown, range(SHOWN)),
        (found.least, ranked[:EXTREME]),
        (found.most, ranked[: -EXTREME - 1 : -1]),
    ):
        for seen, place in zip(got, want, strict=True):
            assert (seen.name, seen.digest) == (f"photo_{rows[place]:05d}.png", digests[rows[place]])
            assert seen.kurtosis == pytest.approx(kurtosis[place], rel=1e-9)
            np.testing.assert_allclose(seen.z, z[place, found.features], atol=5.1e-4)
            assert seen.z == tuple(round(value, 3) for value in seen.z)


@given(st.lists(st.integers(1, 6), max_size=90), st.integers(0, 90), st.integers(0, 90))
def test_merging_is_associative_and_ties_go_to_the_earlier(kurtosis: list[int], i: int, j: int) -> None:
    names = [f"{number}.png" for number in range(len(kurtosis))]
    z = np.arange(len(kurtosis), dtype=np.float64)[:, None]

    def rows(start: int | None, end: int | None) -> job.SeenRows:
        part = slice(start, end)
        batch = state.Measured(np.ones_like(kurtosis[part], bool), z[part], np.array(kurtosis[part]))
        return job.seen_rows(batch, names[part], names[part])

    i, j = sorted((i, j))
    a, b, c = rows(None, i), rows(i, j), rows(j, None)
    most, least = (np.argsort(sign * np.array(kurtosis, int), kind="stable")[:EXTREME] for sign in (-1, 1))
    want = [names[:SHOWN], [names[n] for n in most], [names[n] for n in least]]
    for found in (job.merge_seen(job.merge_seen(a, b), c), job.merge_seen(a, job.merge_seen(b, c)), rows(None, None)):
        assert [[row.name for row in part] for part in vars(found).values()] == want
        assert [row.z for row in found.first] == list(z[:SHOWN])
        assert all(row.z.base is None and row.z.dtype == np.float32 for row in found.first)  # a view keeps a batch


def test_zero_has_no_sign_and_no_usable_image_keeps_nothing() -> None:
    batch = state.Measured(np.ones(1, dtype=bool), np.array([[-1e-4, 1.0]]), np.array([1.0]))
    found = job.gallery_of(job.seen_rows(batch, "a", "0"), [0, 1])
    assert found is not None
    assert str(found.shown[0].z) == "(0.0, 1.0)"
    nothing = state.update(state.State(4), [[1.0, 1, 1, 1], [np.nan, 0, 1, 2]], [0, 1])
    assert job.gallery_of(job.seen_rows(nothing, "ab", "01"), [0]) is None
