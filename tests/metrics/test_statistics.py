"""Paired tests against SciPy, against listed sign patterns and against the papers' tables."""

from itertools import product

import numpy as np
import pytest
import scipy.stats

from regnet_lib.metrics import (
    bootstrap_interval,
    dice,
    holm,
    jensen_bound,
    precision,
    rank_biserial,
    recall,
    standardized_difference,
    wilcoxon,
)

# AD-RegNet Table I: mean TRE in mm of the ten DIR-Lab cases, as printed.
TABLE_I = {
    "De Vos": [1.27, 1.20, 1.48, 2.09, 1.95, 5.16, 3.05, 6.48, 2.10, 2.09],
    "Eppenhof": [1.45, 1.46, 1.57, 1.95, 2.07, 3.04, 3.41, 2.80, 2.18, 1.83],
    "Fang": [1.19, 1.08, 1.35, 1.63, 1.93, 1.94, 1.98, 3.97, 1.92, 1.95],
    "Zhang": [1.54, 1.48, 1.67, 1.63, 2.10, 1.58, 1.91, 2.30, 1.50, 2.68],
    "Hering": [1.33, 1.33, 1.48, 1.85, 1.84, 3.57, 2.61, 2.62, 2.70, 2.63],
    "Jiang": [1.20, 1.13, 1.30, 1.55, 1.72, 2.02, 1.70, 2.64, 1.51, 1.79],
}
AD_REGNET = [1.23, 1.06, 1.31, 1.47, 1.64, 1.61, 1.58, 2.35, 1.36, 1.49]

ALTERNATIVES = ["two-sided", "greater", "less"]


def listed_patterns(differences, alternative, zeros="drop"):
    """The p-value from every one of the 2^n sign patterns, as the definition has it."""
    differences = np.asarray(differences)
    if zeros == "drop":
        differences = differences[differences != 0]
    size = np.abs(differences)
    ranks = np.array([(size < s).sum() + ((size == s).sum() + 1) / 2 for s in size])
    ranks, signs = ranks[differences != 0], differences[differences != 0] > 0
    observed = ranks[signs].sum()
    sums = np.array([ranks[list(s)].sum() for s in product((False, True), repeat=len(ranks))])
    less, greater = (sums <= observed).mean(), (sums >= observed).mean()
    return {"less": less, "greater": greater, "two-sided": min(1, 2 * min(less, greater))}[
        alternative
    ]


class TestWilcoxon:
    @pytest.mark.parametrize("alternative", ALTERNATIVES)
    @pytest.mark.parametrize("n", [1, 2, 6, 9, 20])
    def test_without_ties_it_is_scipys_exact_test(self, n, alternative):
        random = np.random.default_rng(n)
        a, b = random.standard_normal((2, n)) + [[0.4], [0]]
        expected = scipy.stats.wilcoxon(a, b, alternative=alternative, method="exact")
        ours = wilcoxon(a, b, alternative)
        assert ours.statistic == expected.statistic
        assert ours.p == pytest.approx(expected.pvalue, rel=1e-12)
        assert (ours.n, ours.method) == (n, "exact")

    @pytest.mark.parametrize("zeros", ["drop", "pratt"])
    @pytest.mark.parametrize("alternative", ALTERNATIVES)
    @pytest.mark.parametrize("seed", range(4))
    def test_with_ties_and_zeros_it_counts_the_sign_patterns(self, seed, alternative, zeros):
        differences = np.random.default_rng(seed).integers(-3, 5, 11).astype(float)
        assert len(set(np.abs(differences))) < len(differences)
        ours = wilcoxon(differences, np.zeros(11), alternative, zeros=zeros)
        expected = listed_patterns(differences, alternative, zeros)
        assert ours.p == pytest.approx(expected, rel=1e-12)
        assert ours.n == np.count_nonzero(differences)

    def test_the_two_policies_on_zeros_differ(self):
        """|d| = 0 0 1 2 3: dropped, the ranks are 1 2 3; after Pratt 3 4 5."""
        a = np.array([0.0, 0.0, -1.0, 2.0, 3.0])
        assert wilcoxon(a, np.zeros(5), "greater").statistic == 2 + 3
        assert wilcoxon(a, np.zeros(5), "greater", zeros="pratt").statistic == 4 + 5

    @pytest.mark.parametrize("continuity", [False, True])
    @pytest.mark.parametrize("zeros", ["drop", "pratt"])
    @pytest.mark.parametrize("alternative", ALTERNATIVES)
    def test_normal_approximation_is_scipys_with_ties_and_zeros(
        self, alternative, zeros, continuity
    ):
        scipys = {"drop": "wilcox", "pratt": "pratt"}[zeros]
        for seed in range(3):
            a = np.random.default_rng(seed).integers(-4, 6, 40).astype(float)
            expected = scipy.stats.wilcoxon(
                a,
                alternative=alternative,
                zero_method=scipys,
                correction=continuity,
                method="asymptotic",
            )
            ours = wilcoxon(a, np.zeros(40), alternative, zeros=zeros, continuity=continuity)
            assert ours.method == "normal"
            assert ours.statistic == expected.statistic
            assert ours.p == pytest.approx(expected.pvalue, rel=1e-12)

    def test_exact_and_normal_meet_for_many_cases(self):
        a = np.random.default_rng(0).standard_normal(115) + 0.15
        exact, normal = (wilcoxon(a, np.zeros(115), method=m) for m in ("exact", "normal"))
        assert 0.01 < exact.p < 0.9
        assert normal.p == pytest.approx(exact.p, rel=0.01)

    @pytest.mark.parametrize("n, floor", [(6, 0.03125), (9, 0.00390625), (10, 0.001953125)])
    def test_floor(self, n, floor):
        """The smallest attainable p: every case in favor. LGANet++'s 7.5e-4 (n = 9) is below."""
        b = np.random.default_rng(n).random(n)
        won_all = wilcoxon(b + np.arange(1, n + 1), b)
        assert won_all.p == won_all.smallest_p == floor
        assert wilcoxon(b + np.arange(1, n + 1), b, "greater").smallest_p == floor / 2
        assert wilcoxon(b + np.arange(1, n + 1), b, "less").p == 1
        lost_smallest = wilcoxon(np.r_[-1, np.arange(2, n + 1)], np.zeros(n))
        assert lost_smallest.p == 2 * floor and lost_smallest.smallest_p == floor

    def test_floor_of_the_normal_approximation(self):
        assert wilcoxon(np.arange(1, 10), np.zeros(9), method="normal").p == pytest.approx(
            0.0077, abs=5e-5
        )

    @pytest.mark.parametrize("alternative", ALTERNATIVES)
    def test_equal_values_say_nothing(self, alternative):
        test = wilcoxon([1.0, 2.0], [1.0, 2.0], alternative)
        assert (test.p, test.n, test.smallest_p) == (1, 0, 1)

    def test_rounding_noise_is_a_tie_in_any_unit(self):
        """0.3 - 0.2 and 0.2 - 0.1 differ in the last bits."""
        a, b = np.array([0.3, 0.1, 0.9]), np.array([0.2, 0.2, 0.5])
        assert abs(a - b)[0] != abs(a - b)[1]
        for factor in (1, 100, 1e-6):
            assert wilcoxon(factor * a, factor * b).statistic == 1.5

    def test_swapping_the_methods_swaps_the_sides(self):
        a, b = np.random.default_rng(5).random((2, 12))
        assert wilcoxon(a, b).p == wilcoxon(b, a).p
        assert wilcoxon(a, b, "greater").p == wilcoxon(b, a, "less").p


class TestTableOne:
    """AD-RegNet's p-values do not follow from the case means of its Table I."""

    @pytest.mark.parametrize(
        "method, statistic, exact, printed",
        [
            ("De Vos", 0, 0.00195, 0.012),
            ("Eppenhof", 0, 0.00195, 0.005),
            ("Hering", 0, 0.00195, 0.014),
            ("Fang", 2.5, 0.0078, 0.041),
            ("Zhang", 3, 0.0098, 0.089),
            ("Jiang", 3, 0.0098, 0.072),
        ],
    )
    def test_exact(self, method, statistic, exact, printed):
        test = wilcoxon(TABLE_I[method], AD_REGNET)
        assert test.statistic == statistic and test.n == 10 and test.method == "exact"
        assert test.p == pytest.approx(exact, abs=5e-5)
        assert test.p < 0.01 and abs(test.p - printed) > 0.003

    def test_normal_approximation_explains_one_of_the_six(self):
        expected = {"De Vos": 0.0051, "Eppenhof": 0.0051, "Hering": 0.0050}
        expected |= {"Fang": 0.0108, "Zhang": 0.0125, "Jiang": 0.0125}
        for method, p in expected.items():
            test = wilcoxon(TABLE_I[method], AD_REGNET, method="normal")
            assert test.p == pytest.approx(p, abs=5e-5), method
        corrected = wilcoxon(TABLE_I["Jiang"], AD_REGNET, method="normal", continuity=True)
        assert corrected.p == pytest.approx(0.0144, abs=5e-5)

    def test_all_six_stay_significant_after_holm(self):
        adjusted = holm([wilcoxon(values, AD_REGNET).p for values in TABLE_I.values()])
        assert (adjusted < 0.025).all()


class TestHolm:
    def test_by_hand(self):
        """Sorted 0.01 0.02 0.03 0.04 times 4 3 2 1 = 0.04 0.06 0.06 0.04; the last is raised."""
        adjusted = holm([0.04, 0.01, 0.03, 0.02])
        np.testing.assert_allclose(adjusted, [0.06, 0.04, 0.06, 0.06], rtol=1e-12)

    def test_never_above_one_and_never_below_the_raw_value(self):
        p = np.random.default_rng(0).random(30)
        adjusted = holm(p)
        assert adjusted.max() == 1 and (adjusted >= p).all()
        assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()

    def test_one_and_none(self):
        assert holm([0.03]) == pytest.approx([0.03])
        assert holm([]).shape == (0,)


class TestBootstrap:
    def test_known_distribution_of_two_values(self):
        """Means of 0 and 1 drawn twice: 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
        assert bootstrap_interval([0.0, 1.0], level=0.95) == (0, 1)
        assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)

    def test_width_is_that_of_the_mean(self):
        values = np.random.default_rng(1).standard_normal(400)
        low, high = bootstrap_interval(values)
        standard_error = values.std() / 20
        assert low < values.mean() < high
        assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.05)

    def test_deterministic_and_equivariant(self):
        values = np.random.default_rng(2).random(9)
        low, high = bootstrap_interval(values)
        assert bootstrap_interval(values) == (low, high)
        np.testing.assert_allclose(
            bootstrap_interval(100 * values + 3), (100 * low + 3, 100 * high + 3)
        )


class TestEffectSizes:
    def test_rank_biserial_by_hand(self):
        """Differences 1 -2 3 4: ranks in favor 8, against 2, of 10."""
        a = np.array([1.0, -2.0, 3.0, 4.0])
        assert rank_biserial(a, np.zeros(4)) == pytest.approx(0.6)
        assert rank_biserial(np.zeros(4), a) == pytest.approx(-0.6)

    def test_rank_biserial_extremes(self):
        b = np.random.default_rng(0).random(7)
        assert rank_biserial(b + 1, b) == 1 and rank_biserial(b - 1, b) == -1
        assert np.isnan(rank_biserial(b, b))

    def test_standardized_difference_follows_students_t(self):
        a, b = np.random.default_rng(3).random((2, 12))
        t = scipy.stats.ttest_rel(a, b).statistic
        assert standardized_difference(a, b) == pytest.approx(t / np.sqrt(12), rel=1e-10)

    def test_standardized_difference_without_spread(self):
        assert np.isnan(standardized_difference([1.3, 2.3], [1.0, 2.0]))
        assert np.isnan(standardized_difference([1.0], [0.5]))


class TestJensen:
    def test_by_hand(self):
        np.testing.assert_allclose(jensen_bound([0.5, 0.0, 0.0], [1.0, 0.0, 1.0]), [2 / 3, 0, 0])

    def test_percent_stay_percent(self):
        assert jensen_bound(80.0, 60.0) == pytest.approx(100 * jensen_bound(0.8, 0.6))

    def test_our_own_overlaps_respect_it(self):
        """Mean Dice of random label maps stays below the bound of the mean P and R."""
        random = np.random.default_rng(0)
        scores = []
        for _ in range(12):
            fixed = random.integers(0, 4, (6, 7, 8))
            warped = np.where(random.random(fixed.shape) < random.random(), fixed, fixed.max() - 2)
            pair = (warped, fixed, [1, 2, 3])
            scores.append([metric(*pair) for metric in (dice, precision, recall)])
        scores = np.array(scores)  # (cases, metric, labels)
        one_by_one = jensen_bound(scores[:, 1], scores[:, 2])
        np.testing.assert_allclose(scores[:, 0], one_by_one, rtol=1e-12)
        means = scores.mean((0, 2))
        assert means[0] < jensen_bound(means[1], means[2]) - 1e-3


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize("b", [[1.0], [[1.0, 2.0]]])
    def test_unpaired(self, b):
        for function in (wilcoxon, rank_biserial, standardized_difference):
            with pytest.raises(ValueError, match="two lists of one value per case, paired"):
                function([1.0, 2.0], b)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_missing_values(self, value):
        with pytest.raises(ValueError, match="wilcoxon: expected finite values"):
            wilcoxon([1.0, value], [1.0, 2.0])

    @pytest.mark.parametrize(
        "argument, match",
        [
            ({"alternative": "larger"}, "got 'larger'"),
            ({"method": "asymptotic"}, "'exact' or 'normal', got 'asymptotic'"),
            ({"zeros": "split"}, "zeros='drop' or 'pratt', got 'split'"),
        ],
    )
    def test_arguments(self, argument, match):
        with pytest.raises(ValueError, match=match):
            wilcoxon([1.0, 2.0], [2.0, 4.0], **argument)

    @pytest.mark.parametrize("p", [[0.1, 1.2], [-0.1], [float("nan")], [[0.1]]])
    def test_holm(self, p):
        with pytest.raises(ValueError, match="holm: expected a list of p-values between 0 and 1"):
            holm(p)

    @pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]]])
    def test_bootstrap_values(self, values):
        with pytest.raises(ValueError, match="bootstrap_interval: expected one value per case"):
            bootstrap_interval(values)

    @pytest.mark.parametrize("argument", [{"level": 95}, {"level": 0.0}, {"resamples": 0}])
    def test_bootstrap_arguments(self, argument):
        with pytest.raises(ValueError, match="bootstrap_interval: expected 0 < level < 1"):
            bootstrap_interval([1.0, 2.0], **argument)

    def test_jensen(self):
        with pytest.raises(ValueError, match="jensen_bound: expected precision and recall"):
            jensen_bound(-0.1, 0.5)
