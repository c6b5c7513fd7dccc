"""Error-rate bounds against SciPy."""

import numpy as np
import pytest
import scipy.stats

from robustcheck_onnx.thresholds.error_rates import auroc, binomial_cdf, clopper_pearson_upper


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 13), (1, 13), (5, 40), (39, 40), (3, 3)])
def test_clopper_pearson_is_the_beta_quantile(k: int, n: int) -> None:
    want = 1.0 if k == n else scipy.stats.beta.ppf(0.95, k + 1, n - k)
    assert clopper_pearson_upper(k, n) == pytest.approx(want, rel=1e-9)


def test_no_error_has_a_closed_form() -> None:
    assert clopper_pearson_upper(0, 13) == pytest.approx(1 - 0.05 ** (1 / 13), rel=1e-12)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_what_is_no_rate_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        clopper_pearson_upper(k, n)


def test_binomial_cdf_is_scipys() -> None:
    assert binomial_cdf(4, 20, 0.3) == pytest.approx(scipy.stats.binom.cdf(4, 20, 0.3), rel=1e-12)


def test_auroc_is_mann_whitney() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 20) + 1, rng.integers(0, 9, 30)
    want = scipy.stats.mannwhitneyu(a, b).statistic / 600
    assert auroc(a.tolist(), b.tolist()) == pytest.approx(want, rel=1e-12)
    assert auroc([2.0], [1.0]) == 1.0
    with pytest.raises(ValueError, match="both sides"):
        auroc([], [1.0])
