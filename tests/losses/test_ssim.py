"""The SSIM loss against SciPy's convolutions and against the metric of the library."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from regnet_lib import metrics
from regnet_lib.losses import ssim

SHAPES = [(13, 15), (12, 11, 14)]
both = pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])


def image_pair(shape, batch=1, channels=1, seed=0):
    random = np.random.default_rng(seed)
    one = random.random((batch, channels, *shape))
    other = 0.7 * one + 0.3 * random.random(one.shape)
    return torch.from_numpy(one), torch.from_numpy(other)


def ssim_by_scipy(a, b, window=11, span=1.0):
    """Equation (22) under a Gaussian window, from whole convolutions of raw moments."""
    offsets = np.arange(window) - window // 2
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    inside = tuple(slice(window // 2, side - window // 2) for side in a.shape)

    def mean(image):
        for axis in range(image.ndim):
            image = correlate1d(image, weights, axis, mode="constant")
        return image[inside]

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2
    covariance = mean(a * b) - mu_a * mu_b
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    similarity = (2 * mu_a * mu_b + c1) * (2 * covariance + c2)
    return (similarity / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))).mean()


@both
@pytest.mark.parametrize(("window", "span"), [(11, 1.0), (3, 1.0), (7, 255.0)])
def test_equals_scipy(shape, window, span):
    a, b = (span * image for image in image_pair(shape))
    expected = 1 - ssim_by_scipy(a[0, 0].numpy(), b[0, 0].numpy(), window, span)
    found = ssim(a, b, window, span)
    assert found.shape == () and found.item() == pytest.approx(expected, abs=1e-10)


@both
def test_is_one_minus_the_metric(shape):
    a, b = image_pair(shape)
    value = metrics.ssim(a, b, data_range=1.0, window=11, weights="gaussian")
    assert ssim(a, b).item() == pytest.approx(1 - value, abs=1e-10)


@both
def test_the_batch_is_the_mean_of_its_items(shape):
    a, b = image_pair(shape, batch=2, channels=2)
    parts = [
        ssim(a[i : i + 1, j : j + 1], b[i : i + 1, j : j + 1]) for i in range(2) for j in range(2)
    ]
    # The shift that keeps digits is of the batch, so the last digits may differ.
    torch.testing.assert_close(ssim(a, b), torch.stack(parts).mean(), rtol=0, atol=1e-10)


@both
def test_equal_images_and_symmetry(shape):
    a, b = image_pair(shape)
    assert abs(ssim(a, a).item()) < 1e-10
    assert ssim(a, b).item() == pytest.approx(ssim(b, a).item(), abs=1e-10)
    assert 0.05 < ssim(a, b) < ssim(a, 1 - a) <= 2


def test_two_constant_images_by_hand():
    """No texture: only the means count, 1 - (2 ab + C1) / (a^2 + b^2 + C1)."""
    a, b = torch.full((1, 1, 11, 11, 11), 0.2), torch.full((1, 1, 11, 11, 11), 0.6)
    expected = 1 - (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4)
    assert ssim(a.double(), b.double()).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4)], ids=["2-D", "3-D"])
def test_gradcheck(shape):
    images = [image.requires_grad_() for image in image_pair(shape, batch=2)]
    assert torch.autograd.gradcheck(lambda a, b: ssim(a, b, 3), images)


@both
def test_half_precision_is_computed_in_float32(shape):
    a, b = (image.bfloat16() for image in image_pair(shape))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ssim(a, b)
    assert loss.dtype == torch.float32 and torch.equal(loss, ssim(a.float(), b.float()))


def test_float32_keeps_its_digits_on_a_bright_smooth_image():
    """Variance 1e-6 on top of 1: E[x^2] - E[x]^2 without the shift would lose all of it."""
    a, b = (0.9 + 1e-3 * image for image in image_pair((12, 12, 12)))
    exact = ssim(a, b, 11, 0.01).item()
    assert ssim(a.float(), b.float(), 11, 0.01).item() == pytest.approx(exact, rel=1e-3)


def test_runs_where_its_input_is():
    assert ssim(*torch.zeros(2, 1, 1, 12, 12, 12, device="meta")).device.type == "meta"


class TestErrors:
    @pytest.mark.parametrize("window", [1, 4, 13])
    def test_window(self, window):
        images = image_pair((12, 11, 14))
        with pytest.raises(ValueError, match=f"odd window from 3 to 11 .*got {window}"):
            ssim(*images, window)

    def test_data_range(self):
        with pytest.raises(ValueError, match=r"positive data_range, got 0\.0"):
            ssim(*image_pair((12, 12)), 11, 0.0)

    @pytest.mark.usefixtures("unchecked")
    def test_shapes(self):
        with pytest.raises(ValueError, match=r"ssim: .*one shape, got \(1, 1, 12, 12\)"):
            ssim(torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12, 13))
