"""`measure` and `Accumulator`: SciPy's numbers, the check's numbers, and the same whatever the batches."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import robustcheck_onnx as rc
from robustcheck_onnx.checker.statistics import state
from robustcheck_onnx.thresholds import profile
from support import lookup, raised


def vectors(n: int = 80, d: int = 64) -> np.ndarray:
    rng = np.random.default_rng(5)
    h = rng.normal(size=(n, d)) + rng.normal(0, 0.5, d)
    h[:, 7] += 12
    h[: n // 4, 7] -= 9
    return (h * rng.uniform(0.5, 2, (n, 1))).astype(np.float32)


def test_the_numbers_are_those_of_the_sums_at_every_number_of_images(tmp_path: Path) -> None:
    """What the sums are is compared with SciPy and the page (test_page.py, test_definitions.py)."""
    h, total = vectors(), state.State(64)
    state.update(total, h, list(range(80)))
    found, want = rc.measure(h), state.statistics(total, 0.05, "each")
    assert (profile.load().alpha, found.alpha, found.bounds) == (0.05, 0.05, "each")  # it may be asked at any time
    assert (found.n_images, found.n_features, found.features[0].index) == (80, 64, 7)
    for name in ("kurtosis", "outlier_frequency"):
        assert getattr(found, name).model_dump() == pytest.approx(getattr(want, name).model_dump(), rel=1e-12), name
    # and those of a check, which takes the images in its seeded order: two-sidedness goes by the first ones
    lookup.write_lookup_images(tmp_path, 80)
    checked = rc.check(lookup.write_lookup_model(tmp_path / "m.onnx", h), images=tmp_path).evidence.statistics
    for name in {*profile.STATISTICS} - {"two_sidedness"}:
        assert getattr(found, name).estimate == pytest.approx(getattr(checked, name).estimate, rel=1e-5), name


def test_batches_merging_and_order_change_nothing() -> None:
    h = vectors(97)
    first, second, none = rc.Accumulator(), rc.Accumulator(), rc.Accumulator()
    for one, rows in ((first, h[:7]), (first, h[7:40]), (second, h[40:][::-1]), (second, h[:0])):
        one.update(rows)
    merged = none.merge(first).merge(pickle.loads(pickle.dumps(second)))
    copy = none.merge(first)
    copy.update(h[40:])
    assert (first.n, second.n, copy.n, none.n) == (40, 57, 97, 0)
    assert repr(merged) == "<Accumulator: 97 images, 64 features>"
    a, b = merged.result(), rc.measure(h)
    for name in ("kurtosis", "outlier_frequency", "negative_z_energy"):
        assert getattr(a, name).model_dump() == pytest.approx(getattr(b, name).model_dump(), rel=1e-9), name


def test_copies_of_one_image_do_not_narrow_the_bounds() -> None:
    h = vectors(40)
    once, copies, fresh = (
        np.array([*dict(rc.measure(rows).top3_share).values()], float)
        for rows in (h, np.repeat(h, 10, axis=0), vectors(400))
    )
    assert copies[0] == pytest.approx(once[0])
    # ten times the rows, one group each: far wider than of ten times the images
    assert copies[0] - copies[1] > 1.5 * (fresh[0] - fresh[1])


class Tensor:
    """Another library's array: DLPack alone."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __dlpack__(self, **options: object) -> Any:
        return self.values.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_tensors_of_other_libraries() -> None:
    h = vectors()
    assert rc.measure(Tensor(h)) == rc.measure(h)  # type: ignore[arg-type] # DLPack has no __array__
    assert rc.measure(h.astype(np.float16)) == rc.measure(h.astype(np.float16).astype(np.float64))


@pytest.mark.long
def test_tensors_of_torch() -> None:
    h, torch = vectors(), pytest.importorskip("torch")
    assert rc.measure(torch.tensor(h, requires_grad=True)) == rc.measure(h)
    half = torch.tensor(h).to(torch.bfloat16)
    assert rc.measure(half) == rc.measure(half.float().numpy())


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ([[1.0, 2.0]], TypeError, r"^representations: type is list; it must be a NumPy array or a tensor$"),
        (np.zeros(5), rc.UsageError, r"^representations: shape is \(5,\); it must be \(image, feature\)\n"),
        (np.zeros((2, 3, 4, 4)), rc.UsageError, r"^representations: shape is \(2, 3, 4, 4\); it must be"),
        (np.zeros((2, 3), complex), rc.UsageError, r"^representations: dtype is complex128; they must be real"),
        (np.zeros((1, 16385)), rc.UsageError, r"^representations: number of features is 16385; more than 16384 is"),
        (np.zeros((3, 4)), rc.CannotAssessError, r"number that is finite and not constant is 0 of 3; one is needed$"),
        (np.zeros((0, 4)), rc.CannotAssessError, r"number that is finite and not constant is 0 of 0; one is needed$"),
    ],
)
def test_what_is_refused(given: Any, error: type[Exception], said: str) -> None:
    raised(error, said, rc.measure, given)


def test_widths_must_agree() -> None:
    one, other = rc.Accumulator(), rc.Accumulator()
    raised(rc.CannotAssessError, "is 0 of 0; one is needed$", one.result)
    one.update(vectors(4, 16))
    other.update(vectors(4, 17))
    raised(rc.UsageError, r"number of features is 17; before it was 16$", one.update, vectors(4, 17))
    assert one.n == 4
    raised(rc.UsageError, r"numbers of features are 16 and 17; they must be the same$", one.merge, other)
    raised(TypeError, r"^other: type is NoneType; it must be an Accumulator$", one.merge, None)
