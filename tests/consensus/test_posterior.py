"""The incomplete beta function and its inverse against closed forms and, where it is installed, scipy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.consensus import beta_cdf, beta_quantile
from distill.consensus.posterior import beta_binomial
from distill.errors import ConfigError

CHANCES = st.floats(0.001, 0.999)
SHAPES = st.floats(0.1, 200)


@given(x=CHANCES, a=st.integers(1, 12), b=st.integers(1, 12))
def test_the_beta_distribution_counts_as_the_binomial_does(x, a, b):
    # P(Beta(a, b) <= x) = P(Binomial(a + b - 1, x) >= a)
    n = a + b - 1
    tail = sum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))
    assert beta_cdf(x, a, b) == pytest.approx(tail, rel=1e-9, abs=1e-12)


@given(x=CHANCES, a=SHAPES, b=SHAPES)
def test_swapping_success_and_failure_mirrors_the_distribution(x, a, b):
    assert beta_cdf(x, a, b) == pytest.approx(1 - beta_cdf(1 - x, b, a), abs=1e-12)


@given(mass=CHANCES, a=st.floats(0.5, 100), b=st.floats(0.5, 100))
def test_the_quantile_inverts_the_distribution(mass, a, b):
    assert beta_cdf(beta_quantile(mass, a, b), a, b) == pytest.approx(mass, abs=1e-9)


@pytest.mark.parametrize("a", [0.1, 0.5, 1, 3, 11, 250])
@pytest.mark.parametrize("b", [0.1, 0.5, 1, 7, 400])
@pytest.mark.parametrize("x", [1e-6, 0.01, 0.3, 0.5, 0.77, 0.999])
def test_the_distribution_agrees_with_scipy(a, b, x):
    special = pytest.importorskip("scipy.special")
    assert beta_cdf(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-10, abs=1e-13)


@given(trials=st.integers(0, 20), a=SHAPES, b=SHAPES)
def test_the_predictive_distribution_sums_to_one(trials, a, b):
    assert sum(beta_binomial(k, trials, a, b) for k in range(trials + 1)) == pytest.approx(1)


def test_the_ends_and_the_uniform_case_are_exact():
    assert beta_cdf(0, 2, 3) == 0 and beta_cdf(1, 2, 3) == 1
    assert beta_cdf(0.3, 1, 1) == pytest.approx(0.3, abs=1e-15)


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0), (-1, 2), (math.nan, 1)])
def test_what_is_no_distribution_is_refused(a, b):
    with pytest.raises(ConfigError, match="above 0"):
        beta_cdf(0.5, a, b)
