"""Similarity of images from different scanners: MIND-SSC and mutual information.

A CT and an MR image of one patient show the same organs with unrelated grey values, so comparing
intensities voxel by voxel, or correlating them, says nothing. Two ways out:

* MIND-SSC (Heinrich et al., MICCAI 2013) describes each voxel by how similar the patches around it
  are to each other *within its own image*, and compares the descriptions;
* mutual information (Mattes et al., IEEE TMI 2003) asks how well the grey value of one image
  predicts the grey value of the other, whatever the rule.

    loss = mind_ssc(warped, fixed)              # (B, C, D, H, W) twice -> scalar
    loss = mutual_information(warped, fixed)    # minus the mutual information, in nats
"""

from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from regnet_lib.losses.similarity import _require_same_shape, wide_type, window_sum
from regnet_lib.types import Image

# Range of a voxel's noise estimate, relative to its mean over the image.
NOISE_RANGE = (1e-3, 1e3)
# Voxels that are counted into one partial histogram.
PARTIAL_VOXELS = 4096


def mind_ssc(warped: Image, fixed: Image, radius: int = 1, dilation: int = 2) -> Float[Tensor, ""]:
    """Mean squared difference of the two images' MIND-SSC descriptors.

    Args:
        warped, fixed: `(B, C, *shape)`, same shape; 2-D or 3-D.
        radius, dilation: see `mind_ssc_descriptor`.
    """
    _require_same_shape("mind_ssc", warped, fixed)
    return F.mse_loss(
        mind_ssc_descriptor(warped, radius, dilation), mind_ssc_descriptor(fixed, radius, dilation)
    )


def mind_ssc_descriptor(
    image: Image, radius: int = 1, dilation: int = 2
) -> Float[Tensor, "#batch features *dims"]:
    """Self-similarity context of every voxel: `(B, C, *shape)` -> `(B, 12 C, *shape)`, in (0, 1].

    With the six neighbours at distance `dilation` along the axes, each of the 12 pairs that are not
    opposite gives one channel

        m = exp(-(D - min D) / V),   D = mean over a patch of (I(x + a) - I(x + b))^2,

    where min and the noise estimate V = mean (D - min D) run over the pairs of a voxel. In 2-D
    there are four neighbours and four pairs.

    Args:
        radius: of the patch, whose side is 2 radius + 1 voxels.
        dilation: distance of the neighbours in voxels.

    Gain, offset and inversion of the grey values cancel. V is kept between 0.001 and 1000 times its
    mean over the image; a constant image has V = 0, and then every channel is 1. Outside the grid
    the nearest voxel continues the image. Computed in float32 at least.
    """
    if radius < 0 or dilation < 1:
        raise ValueError(
            "mind_ssc_descriptor: expected radius >= 0 and dilation >= 1 voxels, got "
            f"{radius} and {dilation}."
        )
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    axes, shape = image.ndim - 2, image.shape[2:]
    padded = F.pad(image, [dilation] * (2 * axes), mode="replicate")

    def neighbour(axis: int, direction: int) -> Tensor:
        shifted = padded
        for dim, side in enumerate(shape):
            step = direction * dilation if dim == axis else 0
            shifted = shifted.narrow(2 + dim, dilation + step, side)
        return shifted

    around = [(axis, direction) for axis in range(axes) for direction in (-1, 1)]
    distances = []
    for one, other in combinations(around, 2):
        if one[0] == other[0]:
            continue  # opposite neighbours
        square = (neighbour(*one) - neighbour(*other)).square()
        square = F.pad(square, [radius] * (2 * axes), mode="replicate")
        distances.append(window_sum(square, 2 * radius + 1, axes))
    distance = torch.stack(distances, dim=2) / (2 * radius + 1) ** axes  # (B, C, pairs, *shape)
    distance = distance - distance.amin(2, keepdim=True)
    noise = distance.mean(2, keepdim=True)
    typical = noise.mean(tuple(range(2, noise.ndim)), keepdim=True)
    noise = torch.minimum(torch.maximum(noise, NOISE_RANGE[0] * typical), NOISE_RANGE[1] * typical)
    noise = noise.clamp(min=torch.finfo(noise.dtype).tiny)
    return (-distance / noise).exp().flatten(1, 2)  # (B, C, pairs, *shape) -> (B, C pairs, *shape)


def mutual_information(warped: Image, fixed: Image, bins: int = 32) -> Float[Tensor, ""]:
    """Minus the mutual information of grey values, in nats, after Mattes et al. (2003).

        MI = sum_ij p(i, j) log(p(i, j) / (p(i) p(j)))

    The joint histogram p spreads each grey value of `warped` over four bins by a cubic B-spline,
    which makes it differentiable, and counts that of `fixed` in one. So the gradient reaches
    `warped` only, and exchanging the images changes the value a little. Two empty bins on each
    side keep the splines inside, as in ITK.

    Args:
        warped, fixed: `(B, C, *shape)`, same shape. Every image and channel has a histogram of its
            own, over its own range of values, and the mean is returned.
        bins: number of bins per image, at least 5.
    """
    _require_same_shape("mutual_information", warped, fixed)
    if bins < 5:
        raise ValueError(f"mutual_information: expected at least 5 bins, got {bins}.")
    dtype = wide_type(warped, fixed)
    position = _bin_position(warped.to(dtype), bins)  # (B C, voxels)
    column = _bin_position(fixed.detach().to(dtype), bins).floor().long().clamp(2, bins - 3)
    first = position.detach().floor().long().clamp(2, bins - 3) - 1
    images, voxels = position.shape
    # A float32 count of millions of voxels would lose the small ones: sum in parts.
    parts = -(-voxels // PARTIAL_VOXELS)
    part = torch.arange(voxels, device=position.device) // PARTIAL_VOXELS
    part = part + parts * torch.arange(images, device=position.device)[:, None]
    counts = position.new_zeros(images * parts * bins * bins)
    for row in range(4):
        weight = _cubic_spline(position - (first + row))
        index = (part * bins + first + row) * bins + column
        counts = counts.index_add(0, index.flatten(), weight.flatten())
    joint = counts.view(images, parts, bins, bins).sum(1)
    joint = joint / joint.sum((1, 2), keepdim=True)
    of_warped, of_fixed = joint.sum(2, keepdim=True), joint.sum(1, keepdim=True)
    # 0 log 0 = 0: where the joint probability is 0 the ratio is replaced before the logarithm
    empty = joint <= 0
    ratio = joint.masked_fill(empty, 1) / (of_warped * of_fixed).masked_fill(empty, 1)
    return -(joint * ratio.log()).sum((1, 2)).mean()


def _bin_position(image: Tensor, bins: int) -> Tensor:
    """Grey values in units of bins, `(B, C, *shape)` -> `(B C, voxels)`: 2 to bins - 2."""
    values = image.flatten(0, 1).flatten(1)
    lowest, highest = values.detach().aminmax(dim=1, keepdim=True)
    extent = highest - lowest
    width = torch.where(extent > 0, extent, torch.ones_like(extent)) / (bins - 4)
    return (values - lowest) / width + 2


def _cubic_spline(distance: Tensor) -> Tensor:
    """The cubic B-spline, for distances of at most 2."""
    distance = distance.abs()
    near = 2 / 3 - distance.square() * (1 - distance / 2)
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)
