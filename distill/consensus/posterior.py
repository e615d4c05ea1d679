"""The Beta posterior over the chance that the model gives its majority answer, without scipy or torch."""

from __future__ import annotations

import math

from distill.errors import ConfigError


def beta_cdf(x: float, a: float, b: float) -> float:
    """P(p <= x) for p ~ Beta(a, b): the regularised incomplete beta function I_x(a, b), to about 1e-13.

    >>> beta_cdf(0.5, 3, 3), round(beta_cdf(0.3, 2, 5), 6)
    (0.5, 0.579825)

    Source: continued fraction DLMF 8.17.22 by Lentz's method, with the symmetry I_x(a, b) = 1 - I_{1-x}(b, a).
    """
    if not (a > 0 and b > 0):
        raise ConfigError(f"Beta({a}, {b}) is no distribution; both parameters must be above 0")
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if a == b and x == 0.5:
        return 0.5
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only below the mean
        return 1.0 - _lower(1 - x, b, a)
    return _lower(x, a, b)


def beta_quantile(mass: float, a: float, b: float) -> float:
    """The x with P(p <= x) = mass for p ~ Beta(a, b), by bisection to machine precision.

    >>> round(beta_quantile(0.5, 2, 2), 12), round(beta_quantile(0.975, 1, 1), 12)
    (0.5, 0.975)
    """
    if not 0 <= mass <= 1:
        raise ConfigError(f"a quantile's mass must be in [0, 1], got {mass}")
    low, high = 0.0, 1.0
    while high - low > 1e-15 and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if beta_cdf(middle, a, b) < mass else (low, middle)
    return (low + high) / 2


def beta_binomial(count: int, trials: int, a: float, b: float) -> float:
    """P(exactly `count` successes in `trials`) where the chance of success is Beta(a, b).

    >>> round(beta_binomial(1, 2, 1, 1), 12)
    0.333333333333
    """
    return math.comb(trials, count) * math.exp(_log_beta(a + count, b + trials - count) - _log_beta(a, b))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _lower(x: float, a: float, b: float) -> float:
    """I_x(a, b) = x^a (1-x)^b / (a B(a, b)) * 1 / (1 + d1 / (1 + d2 / (1 + ...)))."""
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b)) / a
    tiny = 1e-300  # Lentz: stands in for a zero denominator
    fraction, ratio, inverse = 1.0, 1.0, 0.0  # of 1 + 1 / (1 + d1 / ...), hence the - 1 at the end
    for step in range(10_000):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        inverse = 1 / (1 + term * inverse or tiny)
        ratio = 1 + term / ratio or tiny
        fraction *= ratio * inverse
        if step and abs(ratio * inverse - 1) < 1e-15:
            break
    return front * (fraction - 1)
