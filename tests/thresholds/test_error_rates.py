"""Error-rate bounds against SciPy."""

import numpy as np
import pytest
import scipy.stats

from robustcheck_onnx.thresholds.error_rates import auroc, binomial_cdf, clopper_pearson_upper


def test_clopper_pearson_is_the_beta_quantile() -> None:
    for k, n in ((0, 1), (0, 13), (1, 13), (5, 40), (39, 40)):
        assert clopper_pearson_upper(k, n) == pytest.approx(scipy.stats.beta.ppf(0.95, k + 1, n - k), rel=1e-9)
    assert clopper_pearson_upper(3, 3) == 1
    for k, n in ((-1, 3), (4, 3), (0, 0)):
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
