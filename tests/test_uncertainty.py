"""Uncertainty: maps by hand, agreement against SciPy, calibration of errors drawn to order."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from regnet_lib.data import phantom_pair
from regnet_lib.models.ad_regnet import ADRegNet
from regnet_lib.spatial import warp
from regnet_lib.uncertainty import (
    appearance_deviation,
    attention_spread,
    calibration_factor,
    displacement_deviation,
    rank_correlation,
    reliability,
)

SHAPE = (5, 6, 7)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def honest(voxels=4000, factor=1.0):
    """A map, and the lengths of normal errors with `factor` times its deviation."""
    deviation = 0.2 + noise(1, 1, voxels).abs()
    errors = factor * deviation / math.sqrt(3) * noise(1, 3, voxels, seed=1)
    return deviation, errors.norm(dim=1, keepdim=True)


def test_of_a_model():
    """From a network with dropout to maps on the grid of the image."""
    torch.manual_seed(0)
    case = phantom_pair((32, 32, 32), seed=0)
    model = ADRegNet("recommended", channels=(4, 8, 16, 32, 64), dropout=0.2)
    for level in model.levels.values():
        torch.nn.init.normal_(level.head.weight, std=0.02)
    samples = model.sample(case.moving, case.fixed, samples=3)
    with torch.no_grad():
        extras = model.eval()(case.moving, case.fixed, details=True).extras
    spread = attention_spread(extras["attention_entropy"], case.shape)
    maps = [displacement_deviation(samples), appearance_deviation(case.moving, samples)]
    for map_ in (*maps, *spread.values()):
        assert map_.shape == (1, 1, *case.shape) and torch.isfinite(map_).all()
    assert all(map_.max() > 1e-3 for map_ in maps)
    assert list(spread) == [4, 3, 2, 1, 0]
    for level, keys in {4: 2**3, 3: 4**3, 2: 6**3, 1: 4**3, 0: 4**3}.items():
        assert 1 <= spread[level].min() and spread[level].max() <= keys * 1.001


class TestMaps:
    def test_displacement_deviation_equals_numpy(self):
        samples = noise(6, 2, 3, *SHAPE)
        variance = np.var(samples.numpy(), axis=0, ddof=1).sum(axis=1, keepdims=True)
        expected = torch.from_numpy(np.sqrt(variance))
        torch.testing.assert_close(displacement_deviation(samples), expected)

    def test_a_shift_of_all_samples_is_no_uncertainty(self):
        samples = noise(4, 1, 3, *SHAPE)
        shifted = displacement_deviation(samples + noise(1, 1, 3, *SHAPE, seed=5))
        torch.testing.assert_close(shifted, displacement_deviation(samples))
        assert displacement_deviation(samples[:1].expand(3, -1, -1, -1, -1, -1)).max() == 0

    def test_deviation_is_the_root_mean_square_error_of_what_scatters_alike(self):
        samples = noise(400, 1, 3, *SHAPE)
        length = samples.square().sum(2, keepdim=True).mean(0).sqrt()
        assert (displacement_deviation(samples) - length).abs().max() < 0.02

    def test_appearance_by_hand_on_a_ramp(self):
        """On a ramp, a deviation of 1 voxel along it is one of 1 in intensity."""
        ramp = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(1, 1, 9, 4, 4)
        samples = torch.zeros(2, 1, 3, 9, 4, 4)
        samples[0, :, 0], samples[1, :, 0] = -1.0, 1.0
        found = appearance_deviation(ramp, samples)[0, 0, 1:-1]
        torch.testing.assert_close(found, torch.full_like(found, math.sqrt(2)))
        samples = samples.roll(1, dims=2)  # across the ramp, where nothing changes
        assert appearance_deviation(ramp, samples)[0, 0, :, 1:-1].abs().max() < 1e-5

    def test_appearance_is_that_of_the_warped_images(self):
        moving, samples = noise(2, 1, *SHAPE), noise(3, 2, 3, *SHAPE)
        warped = np.stack([warp(moving, one).numpy() for one in samples])
        expected = torch.from_numpy(warped.std(axis=0, ddof=1))
        torch.testing.assert_close(appearance_deviation(moving, samples), expected)

    @pytest.mark.parametrize("count", [1, 8, 64])
    def test_equal_weights_on_n_voxels_spread_over_n(self, count):
        entropy = {0: torch.full((1, 1, 4, 4, 4), math.log(count)), 2: torch.zeros(1, 1, 2, 2, 2)}
        found = attention_spread(entropy, (8, 8, 8))
        assert list(found) == [2, 0]
        torch.testing.assert_close(found[0], torch.full((1, 1, 8, 8, 8), float(count)))
        torch.testing.assert_close(found[2], torch.ones(1, 1, 8, 8, 8))


class TestRankCorrelation:
    def test_equals_scipy_with_ties(self):
        uncertainty, error = noise(1, 1, 200).round(decimals=1), noise(1, 1, 200, seed=1)
        error = error + uncertainty
        expected = spearmanr(uncertainty.flatten(), error.flatten()).statistic
        assert rank_correlation(uncertainty, error) == pytest.approx(expected, abs=1e-12)

    def test_depends_on_order_alone(self):
        error = noise(1, 1, 50).abs()
        assert rank_correlation(error.pow(3), error) == pytest.approx(1)
        assert rank_correlation(-error, error) == pytest.approx(-1)

    def test_counts_what_is_inside(self):
        error = noise(1, 1, 50).abs()
        inside = torch.arange(50).view(1, 1, 50) < 20
        uncertainty = torch.where(inside, error, -error)
        assert rank_correlation(uncertainty, error, inside) == pytest.approx(1)
        assert rank_correlation(uncertainty, error) < 0

    def test_a_constant_map_orders_nothing(self):
        assert math.isnan(rank_correlation(torch.ones(1, 1, 9), torch.rand(1, 1, 9)))


class TestReliability:
    def test_by_hand(self):
        uncertainty = torch.tensor([4.0, 1.0, 3.0, 2.0]).view(1, 1, 4)
        error = torch.tensor([8.0, 1.0, 6.0, 1.0]).view(1, 1, 4)
        found = reliability(uncertainty, error, bins=2)
        np.testing.assert_allclose(found.predicted, np.sqrt([2.5, 12.5]))
        np.testing.assert_allclose(found.observed, np.sqrt([1.0, 50.0]))
        assert found.voxels.tolist() == [2, 2]
        gaps = abs(found.predicted - found.observed)
        assert found.gap == pytest.approx(gaps.mean())

    def test_honest_errors_lie_on_the_diagonal(self):
        found = reliability(*honest())
        np.testing.assert_allclose(found.observed, found.predicted, rtol=0.1)
        assert found.gap < 0.05

    def test_the_factor_repairs_a_wrong_scale_and_no_ranks(self):
        deviation, error = honest(factor=3.0)
        factor = calibration_factor(deviation, error)
        assert factor == pytest.approx(3, rel=0.03)
        assert reliability(factor * deviation, error).gap < 0.1 * reliability(deviation, error).gap
        scaled = rank_correlation(factor * deviation, error)
        assert scaled == pytest.approx(rank_correlation(deviation, error))

    def test_the_factor_has_the_largest_likelihood(self):
        deviation, error = honest(factor=0.4)

        def unlikelihood(factor):
            scale = factor * deviation / math.sqrt(3)
            return float((error.square() / (2 * scale.square()) + 3 * scale.log()).sum())

        best = calibration_factor(deviation, error)
        assert all(unlikelihood(best) < unlikelihood(best * other) for other in (0.97, 1.03))

    def test_every_voxel_is_in_one_bin(self):
        uncertainty = torch.ones(1, 1, 103, dtype=torch.float64)  # ties, and no equal bins
        found = reliability(uncertainty, noise(1, 1, 103).abs(), bins=10)
        assert found.voxels.sum() == 103 and set(found.voxels.tolist()) == {10, 11}


class TestErrors:
    def test_one_sample(self):
        for refused in (
            lambda: displacement_deviation(noise(1, 1, 3, *SHAPE)),
            lambda: appearance_deviation(noise(1, 1, *SHAPE), noise(1, 1, 3, *SHAPE)),
        ):
            with pytest.raises(ValueError, match="at least two samples"):
                refused()

    def test_bins(self):
        for bins in (0, 5):
            with pytest.raises(ValueError, match=f"1 to 4 bins.*got {bins}"):
                reliability(torch.ones(1, 1, 4), torch.ones(1, 1, 4), bins=bins)

    def test_nothing_inside(self):
        with pytest.raises(ValueError, match="at least one voxel inside"):
            rank_correlation(*honest(), torch.zeros(1, 1, 4000, dtype=torch.bool))

    def test_certainty(self):
        with pytest.raises(ValueError, match="positive uncertainty"):
            calibration_factor(torch.zeros(1, 1, 4), torch.ones(1, 1, 4))
