"""Intensity metrics against NumPy, closed forms and SciPy's filters."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, uniform_filter

from regnet_lib.metrics import mse, ncc, ssim

both = pytest.mark.parametrize("shape", [(21, 25), (13, 15, 17)], ids=["2-D", "3-D"])
WINDOWS = [
    {},
    {"window": 7},
    {"window": 5},
    {"window": 11, "weights": "gaussian"},
]
each_window = pytest.mark.parametrize("window", WINDOWS, ids=["global", "7", "5", "gaussian"])


def pair(shape, seed=0):
    """Two smooth images that resemble each other, in about [0, 1]."""
    random = np.random.default_rng(seed)
    noise = [gaussian_filter(random.standard_normal(shape), 1.5) for _ in range(2)]
    fixed = 0.5 + noise[0] / (4 * noise[0].std())
    return fixed + 0.1 * noise[1] / noise[1].std(), fixed


def filtered_ssim(warped, fixed, data_range, window, weights="uniform"):
    """Equation (22) with SciPy's filters, averaged where the window lies inside the image."""
    radius = window // 2

    def mean(image):
        if weights == "uniform":
            return uniform_filter(image, window)
        return gaussian_filter(image, 1.5, truncate=radius / 1.5)

    c1, c2 = 0.0001 * data_range**2, 0.0009 * data_range**2
    mean_a, mean_b = mean(warped), mean(fixed)
    variance = mean(warped**2) - mean_a**2 + mean(fixed**2) - mean_b**2
    covariance = mean(warped * fixed) - mean_a * mean_b
    values = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    values /= (mean_a**2 + mean_b**2 + c1) * (variance + c2)
    return values[(slice(radius, -radius),) * warped.ndim].mean()


class TestShape:
    @both
    def test_arrays_tensors_and_leading_axes_agree(self, shape):
        warped, fixed = pair(shape)
        tensors = [torch.from_numpy(image)[None, None] for image in (warped, fixed)]
        for metric in (ncc, mse):
            assert metric(*tensors) == metric(warped, fixed)
        for window in WINDOWS:
            expected = ssim(warped, fixed, data_range=1.0, **window)
            assert isinstance(expected, float)
            assert ssim(*tensors, data_range=1.0, **window) == expected

    def test_integers_do_not_overflow(self):
        bright, dark = np.full((4, 4), 250, np.uint8), np.full((4, 4), 5, np.uint8)
        assert mse(dark, bright) == 245**2
        assert mse(torch.from_numpy(dark), torch.from_numpy(bright)) == 245**2


class TestAgainstOthers:
    @both
    def test_ncc_is_the_correlation_coefficient(self, shape):
        warped, fixed = pair(shape)
        expected = np.corrcoef(warped.ravel(), fixed.ravel())[0, 1]
        assert ncc(warped, fixed) == pytest.approx(expected, rel=1e-12)

    def test_ncc_does_not_see_gain_and_offset(self):
        warped, fixed = pair((12, 13))
        value = ncc(warped, fixed)
        assert ncc(1000 - 300 * warped, fixed) == pytest.approx(-value, rel=1e-10)
        assert ncc(warped, warped * 7 - 1000) == pytest.approx(1, rel=1e-12)

    def test_ncc_of_a_constant_image_is_undefined(self):
        warped, _ = pair((5, 6))
        assert math.isnan(ncc(np.full((5, 6), 0.1), warped))
        assert math.isnan(ncc(warped, np.full((5, 6), 0.1)))

    @both
    def test_mse(self, shape):
        warped, fixed = pair(shape)
        assert mse(warped, fixed) == pytest.approx(np.mean((warped - fixed) ** 2), rel=1e-12)
        assert mse(warped, warped + 0.5) == pytest.approx(0.25, rel=1e-12)
        assert mse(warped, warped) == 0

    @both
    def test_global_ssim_from_the_covariance_matrix(self, shape):
        warped, fixed = pair(shape)
        covariance = np.cov(warped.ravel(), fixed.ravel(), ddof=0)
        a, b = warped.mean(), fixed.mean()
        c1, c2 = (0.01 * 2.0) ** 2, (0.03 * 2.0) ** 2
        expected = (2 * a * b + c1) * (2 * covariance[0, 1] + c2)
        expected /= (a * a + b * b + c1) * (np.trace(covariance) + c2)
        assert ssim(warped, fixed, data_range=2.0) == pytest.approx(expected, rel=1e-12)

    @both
    @pytest.mark.parametrize("window", WINDOWS[1:], ids=["7", "5", "gaussian"])
    def test_windowed_ssim_from_scipys_filters(self, shape, window):
        warped, fixed = pair(shape, seed=1)
        expected = filtered_ssim(warped, fixed, 1.0, **window)
        assert ssim(warped, fixed, data_range=1.0, **window) == pytest.approx(expected, rel=1e-10)

    @each_window
    def test_constant_images(self, window):
        """No structure left: (2ab + C1) / (a^2 + b^2 + C1)."""
        a, b, c1 = 0.25, 0.75, 0.0001
        value = ssim(np.full((12, 12), a), np.full((12, 12), b), data_range=1.0, **window)
        assert value == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), rel=1e-10)

    def test_the_three_forms_differ(self):
        warped, fixed = pair((13, 15, 17))
        values = {round(ssim(warped, fixed, data_range=1.0, **w), 3) for w in WINDOWS}
        assert len(values) == len(WINDOWS)


class TestProperties:
    @each_window
    @settings(max_examples=20, deadline=None)
    @given(gain=st.floats(1e-3, 4000), seed=st.integers(0, 100))
    def test_only_the_ratio_to_the_data_range_counts(self, window, gain, seed):
        warped, fixed = pair((11, 12), seed)
        expected = ssim(warped, fixed, data_range=1.0, **window)
        scaled = ssim(gain * warped, gain * fixed, data_range=gain, **window)
        assert scaled == pytest.approx(expected, rel=1e-8, abs=1e-10)

    @each_window
    def test_one_with_itself_symmetric_and_below_one_otherwise(self, window):
        warped, fixed = pair((12, 13, 14))
        assert ssim(fixed, fixed, data_range=1.0, **window) == pytest.approx(1, abs=1e-12)
        value = ssim(warped, fixed, data_range=1.0, **window)
        assert -1 < value < 0.999
        assert ssim(fixed, warped, data_range=1.0, **window) == pytest.approx(value, rel=1e-12)

    @each_window
    def test_a_larger_range_forgives_more(self, window):
        warped, fixed = pair((12, 13, 14))
        values = [ssim(warped, fixed, data_range=span, **window) for span in (0.5, 1, 10)]
        assert values == sorted(values) and values[0] < values[-1]

    def test_bytes_have_a_range_of_255(self):
        warped, fixed = (np.clip(255 * i, 0, 255).astype(np.uint8) for i in pair((12, 13)))
        expected = ssim(warped, fixed, data_range=255)
        assert ssim(warped, fixed) == expected
        assert ssim(torch.from_numpy(warped), torch.from_numpy(fixed)) == expected


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.int64])
    def test_no_guess_of_the_data_range(self, kind):
        image = np.ones((8, 8), kind)
        name = np.dtype(kind).name
        with pytest.raises(ValueError, match=f"expected data_range for images of type {name}"):
            ssim(image, image)
        with pytest.raises(ValueError, match=f"expected data_range for images of type {name}"):
            ssim(torch.from_numpy(image), torch.from_numpy(image))

    @pytest.mark.parametrize("span", [0.0, -1.0, float("inf"), float("nan")])
    def test_data_range(self, span):
        image = np.ones((8, 8))
        with pytest.raises(ValueError, match="expected a positive finite data_range"):
            ssim(image, image, data_range=span)

    @pytest.mark.parametrize("window", [1, 4, 9])
    def test_window(self, window):
        image = np.ones((8, 12))
        with pytest.raises(ValueError, match="expected an odd window from 3 to 8 voxels"):
            ssim(image, image, data_range=1.0, window=window)

    def test_weights(self):
        image = np.ones((8, 8))
        with pytest.raises(ValueError, match="weights='uniform' or 'gaussian', got 'flat'"):
            ssim(image, image, data_range=1.0, window=7, weights="flat")
        with pytest.raises(ValueError, match="expected a window for weights='gaussian'"):
            ssim(image, image, data_range=1.0, weights="gaussian")

    @pytest.mark.parametrize("metric", [ncc, mse, lambda a, b: ssim(a, b, data_range=1.0)])
    def test_shapes(self, metric):
        with pytest.raises(ValueError, match=r"of one shape .*\(4, 5\) and \(5, 4\)"):
            metric(np.ones((4, 5)), np.ones((5, 4)))
        batch = np.ones((2, 1, 4, 4, 4))
        with pytest.raises(ValueError, match="Evaluate one case at a time"):
            metric(batch, batch)
