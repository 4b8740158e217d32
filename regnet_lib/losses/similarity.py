"""Image similarity, as scalars to minimise.

Local normalised cross-correlation (LGANet++ equations 10 and 11, VoxelMorph, TransMorph):

    cc(x) = cross(x)^2 / (variance_warped(x) variance_fixed(x) + eps),   loss = 1 - mean(cc)

with sums over a cubic window, zero padding and the full window size as divisor everywhere, the form
of all published code. Background windows count as 0, so the loss of an image with itself is not 0
but 1 - (textured share of the volume): 0.595 on an LPBA40 brain.

    loss = local_ncc(warped, fixed, window=9)   # (B, C, D, H, W) twice -> scalar

Global correlation (AD-RegNet equation 20) is one number per image: `global_ncc`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from regnet_lib.types import Image

EPSILON = 1e-5
# Share of the sum of squares, in units of the last place, that window sums lose at most.
ROUNDING = 16


def mse(warped: Image, fixed: Image) -> Float[Tensor, ""]:
    """Mean squared difference."""
    _require_same_shape("mse", warped, fixed)
    return F.mse_loss(warped, fixed)


def global_ncc(warped: Image, fixed: Image) -> Float[Tensor, ""]:
    """1 - normalised cross-correlation over all voxels (AD-RegNet eqs. 17 and 20), 0 to 2.

    The mean over batch and channels. A constant image correlates with nothing: it counts as 1, with
    a gradient of 0. In float32 at least, also under autocast.
    """
    _require_same_shape("global_ncc", warped, fixed)
    dtype = wide_type(warped, fixed)
    # (B, C, *shape) -> (B, C, voxels)
    a, b = warped.to(dtype).flatten(2), fixed.to(dtype).flatten(2)
    # What rounding leaves of a constant image minus its mean is no texture.
    limit = (ROUNDING * torch.finfo(dtype).eps) ** 2
    least_a, least_b = limit * a.detach().square().sum(2), limit * b.detach().square().sum(2)
    a, b = a - a.mean(2, keepdim=True), b - b.mean(2, keepdim=True)
    squares_a, squares_b = a.square().sum(2), b.square().sum(2)
    flat = (squares_a <= least_a) | (squares_b <= least_b)
    norm = (squares_a * squares_b).masked_fill(flat, 1).sqrt()
    return 1 - ((a * b).sum(2).masked_fill(flat, 0) / norm).mean()


def local_ncc(
    warped: Image, fixed: Image, window: int = 9, squared: bool = True
) -> Float[Tensor, ""]:
    """1 - mean local (squared) normalised cross-correlation; symmetric in its two images.

    Args:
        warped, fixed: `(B, C, *shape)`, same shape; 2-D or 3-D.
        window: side of the window in voxels, odd.
        squared: True is what every published training minimises; False is the signed form that
            LGANet++ equation (10) prints, with values in [-1, 1].

    Always computed in float32 at least, also under autocast: with inputs rounded to bfloat16 the
    per-voxel value ranges from -303 to +685 on a real brain pair.
    """
    _require_same_shape("local_ncc", warped, fixed)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"local_ncc: expected an odd window of at least 1 voxel, got {window}.")
    dtype = wide_type(warped, fixed)
    return 1 - _LocalCorrelation.apply(warped.to(dtype), fixed.to(dtype), window, squared)


class _LocalCorrelation(torch.autograd.Function):
    """Mean local correlation by shift-and-add window sums, with a hand-written backward.

    Five volumes are kept for the backward pass instead of the twenty-odd of the recorded graph.
    Subtracting a constant from an image leaves every window's variance unchanged and removes the
    cancellation that turns the sums of squares to noise for images far from zero. The median is a
    better constant than the mean: it is close to the background, whose weak texture would
    drown first.
    """

    @staticmethod
    def forward(ctx, warped: Tensor, fixed: Tensor, window: int, squared: bool) -> Tensor:
        # The padding stays 0 in the original intensities, hence -median after the shift.
        axes = warped.ndim - 2
        voxels = window**axes
        warped_shift, fixed_shift = _typical(warped), _typical(fixed)
        a = _pad(warped, window, axes) - warped_shift
        b = _pad(fixed, window, axes) - fixed_shift
        sums = window_sum(torch.stack([a, b, a * a, b * b, a * b]), window, axes)
        sum_a, sum_b, sum_aa, sum_bb, sum_ab = sums.unbind(0)
        cross = sum_ab - sum_a * sum_b / voxels
        variance_a = sum_aa - sum_a * sum_a / voxels
        variance_b = sum_bb - sum_b * sum_b / voxels
        # What rounding leaves in a flat window is no texture, yet it can exceed epsilon: a plateau
        # of a CT in HU would "correlate" with values of -1e5, and its gradients would explode.
        flat_a = variance_a <= ROUNDING * torch.finfo(warped.dtype).eps * sum_aa
        flat_b = variance_b <= ROUNDING * torch.finfo(warped.dtype).eps * sum_bb
        variance_a.masked_fill_(flat_a, 0)
        variance_b.masked_fill_(flat_b, 0)
        cross.masked_fill_(flat_a | flat_b, 0)
        ctx.window, ctx.squared, ctx.shifts = window, squared, (warped_shift, fixed_shift)
        # Copies: as parts of `sums` the first two would keep all five of it.
        sum_a, sum_b = sum_a.clone(), sum_b.clone()
        ctx.save_for_backward(warped, fixed, sum_a, sum_b, cross, variance_a, variance_b)
        product = variance_a * variance_b + EPSILON
        return (cross * cross / product if squared else cross * product.rsqrt()).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        warped, fixed, sum_a, sum_b, cross, variance_a, variance_b = ctx.saved_tensors
        product = variance_a * variance_b + EPSILON
        if ctx.squared:
            by_cross = 2 * cross / product
            by_product = -((cross / product) ** 2)
        else:
            by_cross = product.rsqrt()
            by_product = -0.5 * cross * by_cross / product
        axes = warped.ndim - 2
        voxels = ctx.window**axes
        images = (warped - ctx.shifts[0], fixed - ctx.shifts[1])
        terms = ((sum_a, variance_b), (sum_b, variance_a))
        gradients: list[Tensor | None] = [None, None]
        for one, other in ((0, 1), (1, 0)):
            if not ctx.needs_input_grad[one]:
                continue
            # Where the other image is flat its values cancel their mean, but for rounding.
            by_other = by_cross.masked_fill(terms[one][1] == 0, 0)
            by_variance = by_product * terms[one][1]
            offset = by_other * terms[other][0] + 2 * by_variance * terms[one][0]
            weights = torch.stack([by_other, by_variance, offset])
            weights = window_sum(_pad(weights, ctx.window, axes), ctx.window, axes)
            gradient = images[other] * weights[0] + 2 * images[one] * weights[1]
            gradient -= weights[2] / voxels
            gradients[one] = gradient * (upstream / cross.numel())
        return gradients[0], gradients[1], None, None


def window_sum(image: Tensor, window: int, axes: int) -> Tensor:
    """Sums over all complete windows along the last `axes` axes, one axis after the other.

    The window is built from powers of two: 9 = 8 + 1 costs four additions per axis instead of the
    729 multiplications of a dense convolution. Every side shrinks by `window - 1`.
    """
    for dim in range(image.ndim - axes, image.ndim):
        length = image.shape[dim] - window + 1
        total, start, width, power = None, 0, 1, image
        while True:
            if window & width:
                part = power.narrow(dim, start, length)
                total = part if total is None else total + part
                start += width
            if 2 * width > window:
                break
            shorter = power.shape[dim] - width
            power = power.narrow(dim, 0, shorter) + power.narrow(dim, width, shorter)
            width *= 2
        image = total
    return image


def _typical(image: Tensor) -> Tensor:
    """The median intensity, of every seventh voxel: exact enough, and cheap."""
    return image.flatten()[::7].median()


def _pad(image: Tensor, window: int, axes: int) -> Tensor:
    return F.pad(image, [window // 2] * (2 * axes))


def wide_type(warped: Tensor, fixed: Tensor) -> torch.dtype:
    """The wider type of both images, float32 at least."""
    return torch.promote_types(torch.promote_types(warped.dtype, fixed.dtype), torch.float32)


def _require_same_shape(function: str, warped: Tensor, fixed: Tensor) -> None:
    """Refuse two images of different shapes: broadcasting would compare what does not belong."""
    if warped.shape != fixed.shape:
        raise ValueError(
            f"{function}: expected two images of one shape, got {tuple(warped.shape)} and "
            f"{tuple(fixed.shape)}. Warp or resample the moving image to the fixed grid first."
        )
