"""Is a difference between two methods more than chance? Paired tests, intervals, effect sizes.

Both papers compare methods by the Wilcoxon signed-rank test over 6 to 115 cases. With few cases
the test has a floor that no effect can get below: two-sided 0.031 for 6 cases, 0.0039 for 9,
0.00195 for 10. The 7.5e-4 that LGANet++ reports for HD95 on LPBA40 (9 cases) lies below it. So
every result names its floor, `smallest_p`.

    test = wilcoxon(tre_of_baseline_mm, tre_of_ours_mm)   # one value per case each
    adjusted = holm([first.p, second.p, third.p])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Values = Sequence[float] | np.ndarray
Alternative = Literal["two-sided", "greater", "less"]
Zeros = Literal["drop", "pratt"]

EXACT_UP_TO = 20
# Printed values differ by rounding noise: 1.23 - 1.19 and 1.35 - 1.31 have to be a tie.
TIE_DECIMALS = 12


@dataclass(frozen=True)
class SignedRankTest:
    """Result of `wilcoxon`.

    Attributes:
        statistic: rank sum of the positive differences; two-sided the smaller of the two rank sums.
        p: probability, if signs are tossed coins, of a statistic at least as extreme.
        n: pairs that differ; the others are dropped.
        method: `exact` or `normal`.
        smallest_p: what p would be if all n differences had the same (alternative's) sign.
    """

    statistic: float
    p: float
    n: int
    method: Literal["exact", "normal"]
    smallest_p: float


def wilcoxon(
    a: Values,
    b: Values,
    alternative: Alternative = "two-sided",
    *,
    method: Literal["auto", "exact", "normal"] = "auto",
    zeros: Zeros = "drop",
    continuity: bool = False,
) -> SignedRankTest:
    """Wilcoxon signed-rank test of the paired differences a - b.

    Args:
        a, b: `(cases,)`, paired.
        alternative: `greater` asks whether a tends to be larger than b.
        method: `exact` counts all 2^n sign patterns of the observed mid-ranks, so ties need no
            correction; `normal` uses the mean and the exact variance of that distribution;
            `auto` is exact up to 20 differences.
        zeros: `drop` ranks the other pairs alone (Wilcoxon); `pratt` ranks all and then drops.
        continuity: count half a rank more on either tail of the normal approximation; off, as in
            SciPy.
    """
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(
            f"wilcoxon: expected alternative='two-sided', 'greater' or 'less', got {alternative!r}."
        )
    if method not in ("auto", "exact", "normal"):
        raise ValueError(f"wilcoxon: expected method='auto', 'exact' or 'normal', got {method!r}.")
    ranks, positive = _signed_ranks("wilcoxon", a, b, zeros)
    n = len(ranks)
    if method == "auto":
        method = "exact" if n <= EXACT_UP_TO else "normal"
    if n == 0:
        return SignedRankTest(0.0, 1.0, 0, method, 1.0)
    above = float(ranks[positive].sum())
    below = float(ranks[~positive].sum())
    if method == "exact":
        tails, extremes = _exact_tails(ranks, above), _exact_tails(ranks, float(ranks.sum()))
    else:
        tails = _normal_tails(ranks, above, continuity)
        extremes = _normal_tails(ranks, float(ranks.sum()), continuity)
    if alternative == "two-sided":
        p, smallest = min(1.0, 2 * min(tails)), min(1.0, 2 * min(extremes))
        return SignedRankTest(min(above, below), p, n, method, smallest)
    # By symmetry the floor of `less` is that of `greater`.
    p = tails[1] if alternative == "greater" else tails[0]
    return SignedRankTest(above, p, n, method, extremes[1])


def rank_biserial(a: Values, b: Values, zeros: Zeros = "drop") -> float:
    """Matched-pairs rank-biserial correlation: share of the rank sum for a > b minus that against.

    1 when a is larger in every case, -1 when it is smaller in every case, NaN when all are equal.
    """
    ranks, positive = _signed_ranks("rank_biserial", a, b, zeros)
    if len(ranks) == 0:
        return float("nan")
    return float((ranks[positive].sum() - ranks[~positive].sum()) / ranks.sum())


def standardized_difference(a: Values, b: Values) -> float:
    """Mean of a - b over the sample standard deviation (ddof 1) of a - b; Cohen's d of pairs.

    NaN for fewer than two pairs and for differences that are all equal.
    """
    difference = _differences("standardized_difference", a, b)
    if len(difference) < 2 or np.ptp(difference) == 0:
        return float("nan")
    return float(difference.mean() / difference.std(ddof=1))


def holm(p: Values) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given.

    Rejecting where the adjusted value is at most 0.05 keeps the chance of any false rejection
    among the comparisons of one table at 5 %, whatever their dependence.
    """
    p = np.asarray(p, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"holm: expected a list of p-values between 0 and 1, got {p.tolist()}. Leave out "
            "comparisons that were not made."
        )
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps).clip(max=1)
    return adjusted


def bootstrap_interval(
    values: Values, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over cases; deterministic."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
        raise ValueError(
            "bootstrap_interval: expected one value per case without NaN, got shape "
            f"{values.shape} with {int(np.isnan(values).sum())} NaN. Give the case means of the "
            "cases that have one."
        )
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(
            "bootstrap_interval: expected 0 < level < 1 and at least one resample, got "
            f"level={level} and resamples={resamples}."
        )
    random = np.random.default_rng(0)
    means = values[random.integers(0, len(values), (resamples, len(values)))].mean(1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def jensen_bound(precision: float | Values, recall: float | Values) -> float | np.ndarray:
    """Largest mean Dice that a mean precision and a mean recall allow, 2PR / (P + R).

    Dice is the harmonic mean of precision and recall for every case and label, and that mean is
    concave, so Jensen's inequality bounds the mean Dice by the harmonic mean of the means when all
    three are taken over the same cells. A table above the bound (11 of 52 rows of LGANet++) did
    not take them so. Fractions or percent, the result is in the same unit.
    """
    precision, recall = np.asarray(precision, dtype=float), np.asarray(recall, dtype=float)
    if (precision < 0).any() or (recall < 0).any():
        raise ValueError("jensen_bound: expected precision and recall of at least 0, got less.")
    total = precision + recall
    # 0 / 0: a label that is missed entirely has Dice 0.
    bound = 2 * precision * recall / np.where(total == 0, 1, total)
    return float(bound) if bound.ndim == 0 else bound


def _differences(function: str, a: Values, b: Values) -> np.ndarray:
    """a - b with what is only rounding noise removed."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"{function}: expected two lists of one value per case, paired, got shapes {a.shape} "
            f"and {b.shape}. Average over structures or landmarks first."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            f"{function}: expected finite values, got NaN or infinity. Remove the pair: a missing "
            "case has no rank."
        )
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) or 1.0
    return np.round((a - b) / scale, TIE_DECIMALS) * scale


def _signed_ranks(
    function: str, a: Values, b: Values, zeros: Zeros
) -> tuple[np.ndarray, np.ndarray]:
    """Mid-ranks of the absolute differences that are not 0, and which of them are positive."""
    from scipy.stats import rankdata

    if zeros not in ("drop", "pratt"):
        raise ValueError(f"{function}: expected zeros='drop' or 'pratt', got {zeros!r}.")
    difference = _differences(function, a, b)
    differs = difference != 0
    ranked = difference[differs] if zeros == "drop" else difference
    ranks = rankdata(np.abs(ranked))
    return (ranks if zeros == "drop" else ranks[differs]), difference[differs] > 0


def _exact_tails(ranks: np.ndarray, statistic: float) -> tuple[float, float]:
    """P(W <= statistic) and P(W >= statistic) over all sign patterns of these ranks.

    Doubled mid-ranks are whole numbers, so the patterns are counted by their sum, one rank after
    the other, instead of being listed. Python's integers keep the counts exact for every n.
    """
    doubled = np.rint(2 * ranks).astype(int)
    counts = np.array([1], dtype=object)
    for rank in doubled:
        nothing = np.zeros(rank, dtype=object)
        counts = np.concatenate([counts, nothing]) + np.concatenate([nothing, counts])
    observed = round(2 * statistic)
    patterns = 2 ** len(ranks)
    return int(sum(counts[: observed + 1])) / patterns, int(sum(counts[observed:])) / patterns


def _normal_tails(ranks: np.ndarray, statistic: float, continuity: bool) -> tuple[float, float]:
    """The two tails by the normal distribution with W's own mean and variance."""
    from scipy.stats import norm

    deviation = np.sqrt((ranks**2).sum()) / 2
    distance = statistic - ranks.sum() / 2
    half = 0.5 if continuity else 0.0
    return (
        float(norm.cdf((distance + half) / deviation)),
        float(norm.sf((distance - half) / deviation)),
    )
