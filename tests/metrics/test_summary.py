"""Means and the three standard deviations, by hand."""

import math
import warnings

import numpy as np
import pytest

from regnet_lib.metrics import summarize

NAN = float("nan")


def test_by_hand():
    """Case means 2 and 6, structure means 2, 4 and 6; pooled: 0 2 4 4 6 8."""
    summary = summarize(np.array([[0.0, 2.0, 4.0], [4.0, 6.0, 8.0]]))
    assert summary.mean == pytest.approx(4)
    assert summary.std_cases == pytest.approx(2)
    assert summary.std_structures == pytest.approx(math.sqrt(8 / 3))
    assert summary.std_pooled == pytest.approx(math.sqrt((16 + 4 + 0 + 0 + 4 + 16) / 6))
    assert (summary.cases, summary.missing) == (2, 0)


def test_missing_values_by_hand():
    """Case means 2 and 5; the mean weighs cases, not values: 3.5 and not 3."""
    summary = summarize(np.array([[1.0, 2.0, 3.0], [NAN, 5.0, NAN]]))
    assert summary.mean == pytest.approx(3.5)
    assert summary.std_cases == pytest.approx(1.5)
    assert summary.std_structures == pytest.approx(np.std([1, 3.5, 3]))
    assert summary.std_pooled == pytest.approx(np.std([1, 2, 3, 5]))
    assert (summary.cases, summary.missing) == (2, 2)


def test_an_empty_case_and_an_empty_structure_drop_out_without_a_warning():
    values = np.array([[1.0, NAN], [NAN, NAN], [3.0, NAN]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = summarize(values)
    assert summary.mean == 2 and summary.std_cases == 1
    assert summary.std_structures == 0 and summary.std_pooled == 1
    assert (summary.cases, summary.missing) == (3, 4)


def test_nothing_but_missing_values():
    summary = summarize(np.full((2, 3), NAN))
    numbers = (summary.mean, summary.std_pooled, summary.std_cases, summary.std_structures)
    assert np.isnan(numbers).all()
    assert (summary.cases, summary.missing) == (2, 6)


def test_one_value_per_case():
    values = [0.5, 0.7, 0.9]
    summary = summarize(np.array(values))
    assert summary.mean == pytest.approx(0.7)
    assert summary.std_pooled == pytest.approx(np.std(values))
    assert summary.std_cases == pytest.approx(np.std(values))
    assert summary.std_structures == 0


def test_complete_values_equal_numpy():
    values = np.random.default_rng(0).random((9, 56))
    summary = summarize(values)
    assert summary.mean == pytest.approx(values.mean(), rel=1e-12)
    assert summary.std_pooled == pytest.approx(values.std(), rel=1e-12)
    assert summary.std_cases == pytest.approx(values.mean(1).std(), rel=1e-12)
    assert summary.std_structures == pytest.approx(values.mean(0).std(), rel=1e-12)


def test_variances_add_up():
    """Pooled variance = that between cases + the mean one within cases."""
    values = np.random.default_rng(1).random((7, 5)) + np.arange(7)[:, None]
    summary = summarize(values)
    within = values.var(1).mean()
    assert summary.std_pooled**2 == pytest.approx(summary.std_cases**2 + within, rel=1e-12)


@pytest.mark.parametrize(
    "method, mean, printed",
    [
        ("Before", 8.488, 8.46),
        ("De Vos", 2.687, 2.64),
        ("Eppenhof", 2.176, 2.17),
        ("AD-RegNet", 1.510, 1.51),
    ],
)
def test_case_means_of_ad_regnet_table_1(method, mean, printed):
    """Three of these "Mean TRE" cells are not the mean of their column to the printed digits."""
    columns = {
        "Before": [3.89, 4.34, 6.94, 9.83, 7.48, 10.89, 11.30, 14.99, 7.92, 7.30],
        "De Vos": [1.27, 1.20, 1.48, 2.09, 1.95, 5.16, 3.05, 6.48, 2.10, 2.09],
        "Eppenhof": [1.45, 1.46, 1.57, 1.95, 2.07, 3.04, 3.41, 2.80, 2.18, 1.83],
        "AD-RegNet": [1.23, 1.06, 1.31, 1.47, 1.64, 1.61, 1.58, 2.35, 1.36, 1.49],
    }
    summary = summarize(np.array(columns[method]))
    assert summary.mean == pytest.approx(mean, abs=1e-9)
    assert (abs(summary.mean - printed) > 0.005) == (method != "AD-RegNet")


@pytest.mark.parametrize("factor, offset", [(100.0, 0.0), (-2.0, 5.0)])
def test_units_and_offsets(factor, offset):
    """Deviations scale with the unit and forget the offset: fractions and percent agree."""
    values = np.random.default_rng(3).random((6, 4))
    values[2, 1] = NAN
    one, other = summarize(values), summarize(factor * values + offset)
    assert other.mean == pytest.approx(factor * one.mean + offset, rel=1e-12)
    for name in ("std_pooled", "std_cases", "std_structures"):
        assert getattr(other, name) == pytest.approx(abs(factor) * getattr(one, name), rel=1e-10)


def test_the_deviations_differ_fourfold_when_structures_differ_more_than_cases():
    """The ±0.12 and the ±0.03 of one IXI table: easy and hard structures, similar cases."""
    random = np.random.default_rng(4)
    difficulty = random.normal(0, 0.12, 17)
    values = 0.75 + difficulty + random.normal(0, 0.03, (115, 1))
    summary = summarize(values)
    assert summary.std_cases == pytest.approx(0.03, rel=0.2)
    assert summary.std_structures == pytest.approx(difficulty.std(), rel=1e-10)
    assert summary.std_pooled == pytest.approx(np.hypot(difficulty.std(), summary.std_cases))
    assert summary.std_pooled > 3 * summary.std_cases


def test_order_does_not_matter():
    random = np.random.default_rng(2)
    values = random.random((6, 4))
    values[random.random(values.shape) < 0.2] = NAN
    shuffled = values[random.permutation(6)][:, random.permutation(4)]
    one, other = summarize(values), summarize(shuffled)
    for name in ("mean", "std_pooled", "std_cases", "std_structures"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)
    assert one.missing == other.missing > 0


@pytest.mark.parametrize("shape", [(0,), (3, 0), (2, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"summarize: expected values \(cases, structures\)"):
        summarize(np.zeros(shape))
