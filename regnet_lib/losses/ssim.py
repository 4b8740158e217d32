"""Structural similarity of two volumes, as a scalar to minimise (AD-RegNet equations 17 and 22).

    SSIM(x) = (2 mu_a mu_b + C1) (2 sigma_ab + C2)
              / ((mu_a^2 + mu_b^2 + C1) (sigma_a^2 + sigma_b^2 + C2)),   loss = 1 - mean(SSIM)

with means, variances and covariance under a Gaussian window around x, the usual reading (Wang et
al., IEEE TIP 2004: 11 voxels, sigma 1.5, C1 = (0.01 L)^2, C2 = (0.03 L)^2); AD-RegNet gives neither
window nor constants. Windows that leave the image do not count. The same number as the metric:
1 - regnet_lib.metrics.ssim(warped, fixed, data_range=1.0, window=11, weights="gaussian").

    loss = ssim(warped, fixed)   # (B, C, D, H, W) twice, in [0, 1] -> scalar
"""

from math import exp

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from regnet_lib.losses.similarity import _require_same_shape, wide_type
from regnet_lib.types import Image

K1, K2 = 0.01, 0.03
SIGMA_VOXELS = 1.5


def ssim(
    warped: Image, fixed: Image, window: int = 11, data_range: float = 1.0
) -> Float[Tensor, ""]:
    """1 - mean structural similarity; symmetric in its two images, 0 for equal ones.

    Args:
        warped, fixed: `(B, C, *shape)`, same shape; 2-D or 3-D.
        window: side of the window in voxels, odd, at most the shortest side of the images.
        data_range: L, the span of intensities the images can have.

    Always computed in float32 at least, also under autocast: the variances are small differences
    of large numbers.
    """
    _require_same_shape("ssim", warped, fixed)
    shortest = min(fixed.shape[2:])
    if window < 3 or window % 2 == 0 or window > shortest:
        raise ValueError(
            f"ssim: expected an odd window from 3 to {shortest} voxels for images of shape "
            f"{tuple(fixed.shape)}, got {window}."
        )
    if not data_range > 0:
        raise ValueError(f"ssim: expected a positive data_range, got {data_range}.")
    dtype = wide_type(warped, fixed)
    # Variances do not change with a common shift, and near 0 they lose fewer digits.
    shift = fixed.to(dtype).mean().detach()
    a, b = warped.to(dtype) - shift, fixed.to(dtype) - shift
    means = _GaussianMean.apply(torch.stack([a, b, a * a + b * b, a * b]), window)
    mean_a, mean_b, mean_squares, mean_product = means.unbind(0)
    covariance = mean_product - mean_a * mean_b
    variances = mean_squares - mean_a.square() - mean_b.square()
    mean_a, mean_b = mean_a + shift, mean_b + shift
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return 1 - (luminance * (2 * covariance + c2) / (variances + c2)).mean()


class _GaussianMean(torch.autograd.Function):
    """Weighted means of all windows inside the image; keeps nothing for the backward pass.

    A dense convolution would multiply 1331 times per voxel, and on recent GPUs round its inputs to
    TF32 first, which drowns the variances of a smooth image.
    """

    @staticmethod
    def forward(ctx, images: Tensor, window: int) -> Tensor:
        ctx.window = window
        return _weighted_windows(images, window)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        # The window is symmetric, so the adjoint is the same sum over the windows of a frame of 0.
        frame = [ctx.window - 1] * (2 * (upstream.ndim - 3))
        return _weighted_windows(F.pad(upstream, frame), ctx.window), None


def _weighted_windows(images: Tensor, window: int) -> Tensor:
    """Gaussian sums along each axis of `(4, B, C, *shape)`; sides shrink by the window - 1."""
    distances = [index - window // 2 for index in range(window)]
    weights = [exp(-0.5 * (distance / SIGMA_VOXELS) ** 2) for distance in distances]
    weights = [weight / sum(weights) for weight in weights]
    for dim in range(3, images.ndim):
        size = images.shape[dim] - window + 1
        total = weights[window // 2] * images.narrow(dim, window // 2, size)
        for start in range(window // 2):
            both = images.narrow(dim, start, size) + images.narrow(dim, window - 1 - start, size)
            total.add_(both, alpha=weights[start])
        images = total
    return images
