"""The content and the gallery of a run: against NumPy and SciPy, and the same however the run is cut."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.evidence import Content
from robustcheck_onnx.checker.core.images.sanity import DESCRIBED, describe
from robustcheck_onnx.checker.core.images.source import Skipped
from robustcheck_onnx.checker.core.measure.content import (
    DescribedRow,
    content_of,
    described_rows,
    is_complete,
    merge_described,
)
from robustcheck_onnx.checker.core.measure.gallery import (
    EXTREME,
    FEATURES,
    SHOWN,
    SeenRows,
    gallery_of,
    merge_seen,
    seen_rows,
)
from robustcheck_onnx.checker.core.statistics import state
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.thresholds import profile
from support import PHOTOS, Fields, but, lookup, normal
from support.comparisons import planted
from support.measuring import never_decided

N_IMAGES, WIDTH = 96, 512
COPIES, MIRRORED = range(4), range(4, 16)  # of these images there is another one, which no content may count
NOT_FINITE = 25


def vectors() -> np.ndarray:
    """Signed, with one outlier feature that varies: clear of every threshold."""
    return planted(N_IMAGES, WIDTH, 3, 15, (92,)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Look-up images of different photos, copies of some and mirrored ones of others."""
    folder = tmp_path_factory.mktemp("content")
    paths = lookup.write_lookup_images(folder / "photos", N_IMAGES)
    for index in COPIES:
        Image.open(paths[index]).save(folder / "photos" / f"copy_{index:05d}.png")
    for index in MIRRORED:
        turned = np.array(Image.open(paths[index]).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        # the same row as the image it mirrors
        turned[: lookup.BLOCK_PX, : lookup.BLOCK_PX] = (index, 0, 0)
        Image.fromarray(turned).save(folder / "photos" / f"mirrored_{index:05d}.png")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return lookup.write_lookup_model(folder / "m.onnx", vectors())


def expected(images: Path, n: int = 50, without: Sequence[int] = ()) -> Fields:
    """Numbers of the first n different photos of the seeded order."""
    rows = list(dict.fromkeys(int(item.name[-9:-4]) for item in open_images(images).items()))
    h = vectors()[[row for row in rows if row not in without][:n]].astype(np.float64)
    u = h / np.linalg.norm(h, axis=1, keepdims=True)
    squares = np.linalg.svd(u - u.mean(axis=0), compute_uv=False) ** 2
    rank = np.exp(scipy.stats.entropy(squares))
    strongest = np.argsort(-np.mean(scipy.stats.zscore(h, axis=1) ** 4, axis=0))[:3]
    products = np.delete(u, strongest, axis=1) @ np.delete(u, strongest, axis=1).T
    others = products[~np.eye(n, dtype=bool)].mean()
    return {
        "n": n,
        "effective_rank": rank,
        "relative_variance": squares.sum() / n,
        "mean_of_rest": others / products.diagonal().mean(),
    }


def assert_same(found: Content | None, wanted: Fields, rtol: float = 1e-5) -> None:
    """rtol: the rows are kept in float32."""
    assert vars(found) == pytest.approx(wanted, rel=rtol)


@pytest.fixture(scope="module")
def report(model: Path, folder: Path) -> Report:
    """All images, in one go."""
    return check(model, images=folder / "photos", thresholds=never_decided())


def test_it_is_measured_on_the_first_fifty_different_photos(report: Report, folder: Path) -> None:
    sanity = report.evidence.images.sanity
    assert (sanity.n_duplicates, sanity.n_near_duplicates) == (len(COPIES), len(MIRRORED))  # and no other
    assert sanity.n_varied == N_IMAGES
    assert_same(report.evidence.content, expected(folder / "photos"))


def test_neither_batches_nor_an_early_stop_change_it(report: Report, model: Path, folder: Path) -> None:
    """Nor does a profile that asks for fewer images: a run goes on until there are fifty."""
    early = profile.seal(but(profile.load(), id="early", min_images=20))
    for thresholds, n in ((never_decided(), N_IMAGES + 16), (profile.load(), 64), (early, None)):
        found = check(model, images=folder / "photos", thresholds=thresholds, batch_size=32 if n == 64 else 7).evidence
        assert_same(found.content, vars(report.evidence.content), rtol=1e-12)
        assert n in (None, found.statistics.n_images)
    few = check(model, images=folder / "photos", max_images=20)
    assert few.evidence.content is not None
    assert few.evidence.content.n <= 20
    assert "little_content" not in {reason.id for reason in few.verdict.reasons}


def test_a_representation_that_is_not_finite_is_left_out(folder: Path, tmp_path: Path) -> None:
    h = vectors()
    h[NOT_FINITE, 3] = np.nan
    broken = lookup.write_lookup_model(tmp_path / "m.onnx", h)
    found = check(broken, images=folder / "photos", thresholds=never_decided())
    assert found.evidence.statistics.n_nonfinite == 1
    assert_same(found.evidence.content, expected(folder / "photos", without=[NOT_FINITE]))


def test_only_described_images_are_kept_and_no_more_than_there_can_be() -> None:
    sketch = describe(Image.open(PHOTOS[0]).convert("RGB"))
    h = normal(3, 8).astype(np.float16)
    (row,) = described_rows(h, [sketch, 12345, None])
    np.testing.assert_allclose(row.u, h[0] / np.linalg.norm(h[0].astype(float)), rtol=1e-3)
    assert row.u.base is None  # a view would keep the batch
    many = tuple(DescribedRow(sketch, row.u) for _ in range(DESCRIBED + 5))
    assert merge_described(many[:3], many[3:]) == many[:DESCRIBED]
    assert (described_rows(h, [None] * 3), content_of(())) == ((), None)
    copies = described_rows(normal(60, 8), [sketch] * 60)
    assert content_of(copies) == Content(n=1, effective_rank=0.0, relative_variance=0.0, mean_of_rest=0.0)
    assert not is_complete(copies)


N_SEEN, SIZE_PX = 150, 16
CONSTANT, NAN_AT, DAMAGED = 17, 23, 40  # images that the gallery must leave out


def test_images_and_numbers_are_those_of_the_raw_representations(tmp_path: Path) -> None:
    h = np.random.default_rng(11).standard_t(4, size=(N_SEEN, 24)).astype(np.float32)
    h[:, 5] += 6
    h[CONSTANT], h[NAN_AT, 3] = 2.0, np.inf
    photos = tmp_path / "photos"
    lookup.write_lookup_images(photos, N_SEEN, size_px=SIZE_PX)[DAMAGED].write_bytes(b"\x89PNG")
    model = lookup.write_lookup_model(tmp_path / "m.onnx", h, size_px=SIZE_PX)
    found = check(model, images=photos, thresholds=never_decided(), max_bad=0.5).evidence.gallery
    assert found is not None
    loaded = [item for item in open_images(photos).items() if not isinstance(item, Skipped)]
    digests = {int(item.name[6:11]): item.digest for item in loaded}  # in the order of a run
    rows = [row for row in digests if row not in (CONSTANT, NAN_AT)]
    assert len(rows) == N_SEEN - 3
    z = scipy.stats.zscore(h[rows].astype(np.float64), axis=1)
    kurtosis = scipy.stats.kurtosis(z, axis=1, fisher=False)
    assert found.features == tuple(np.argsort(-(z**4).sum(axis=0))[:FEATURES])
    ranked = np.argsort(kurtosis)
    wanted: tuple[Any, ...] = (range(SHOWN), ranked[:EXTREME], ranked[: -EXTREME - 1 : -1])
    for got, want in zip((found.shown, found.least, found.most), wanted, strict=True):
        for seen, place in zip(got, want, strict=True):
            assert (seen.name, seen.digest) == (f"photo_{rows[place]:05d}.png", digests[rows[place]])
            assert seen.kurtosis == pytest.approx(kurtosis[place], rel=1e-9)
            np.testing.assert_allclose(seen.z, z[place, found.features], atol=5.1e-4)
            assert seen.z == tuple(round(value, 3) for value in seen.z)


@given(st.lists(st.integers(1, 6), max_size=90), st.integers(0, 90), st.integers(0, 90))
def test_merging_is_associative_and_ties_go_to_the_earlier(kurtosis: list[int], i: int, j: int) -> None:
    names = [f"{number}.png" for number in range(len(kurtosis))]
    z = np.arange(len(kurtosis), dtype=np.float64)[:, None]

    def rows(start: int | None, end: int | None) -> SeenRows:
        part = slice(start, end)
        batch = state.MeasuredBatch(np.ones_like(kurtosis[part], bool), z[part], np.array(kurtosis[part]))
        return seen_rows(batch, names[part], names[part])

    i, j = sorted((i, j))
    a, b, c = rows(None, i), rows(i, j), rows(j, None)
    most, least = (np.argsort(sign * np.array(kurtosis, int), kind="stable")[:EXTREME] for sign in (-1, 1))
    want = [names[:SHOWN], [names[n] for n in most], [names[n] for n in least]]
    for found in (merge_seen(merge_seen(a, b), c), merge_seen(a, merge_seen(b, c)), rows(None, None)):
        assert [[row.name for row in part] for part in vars(found).values()] == want
        assert [row.z for row in found.first] == list(z[:SHOWN])
        assert all(row.z.base is None and row.z.dtype == np.float32 for row in found.first)  # a view keeps a batch


def test_zero_has_no_sign_and_no_usable_image_keeps_nothing() -> None:
    batch = state.MeasuredBatch(np.ones(1, dtype=bool), np.array([[-1e-4, 1.0]]), np.array([1.0]))
    found = gallery_of(seen_rows(batch, "a", "0"), [0, 1])
    assert found is not None
    assert str(found.shown[0].z) == "(0.0, 1.0)"
    nothing = state.update(state.State(4), [[1.0, 1, 1, 1], [np.nan, 0, 1, 2]], [0, 1])
    assert gallery_of(seen_rows(nothing, "ab", "01"), [0]) is None
