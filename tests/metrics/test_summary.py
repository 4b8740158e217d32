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
