"""3-D local correlation in plain PyTorch: how similar is a voxel to the neighbours of its partner?

LGANet++ section 2.4, after CorrMLP (Meng et al., 2024); PRNet++, PCNet and CorrMLP use the same
layer. With radius 1 there are 27 channels, one per offset o in {-1, 0, 1}^3, the first axis
slowest:

    correlation[k](x) = mean over channels of first(x) * second(x + o_k)

    similarity = local_correlation(moving, fixed)   # (B, C, D, H, W) twice -> (B, 27, D, H, W)
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from regnet_lib.nn.blocks import conv


def local_correlation(
    first: Float[Tensor, "batch channel depth height width"],
    second: Float[Tensor, "batch channel depth height width"],
    radius: int = 1,
) -> Float[Tensor, "batch offsets depth height width"]:
    """Mean product of `first` with `second` at every offset up to `radius` voxels, zeros outside.

    Computed in float32 at least. Memory: the output and one product; nothing else is kept for the
    backward pass but the two inputs, however many offsets there are.

    Raises:
        ValueError: the two maps differ in shape, or the radius is negative.
    """
    if first.shape != second.shape or first.ndim != 5:
        raise ValueError(
            "local_correlation: expected two feature maps of one shape (B, C, D, H, W), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}. Resample one to the other grid."
        )
    if radius < 0:
        raise ValueError(f"local_correlation: expected a radius of at least 0, got {radius}.")
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    # Shifted products of whole channels: one channel after the other in memory, in both passes.
    first, second = (
        features.to(dtype, memory_format=torch.contiguous_format) for features in (first, second)
    )
    return _LocalCorrelation.apply(first, second, radius)


class CorrelationResidual(nn.Module):
    """M' = M + conv(correlation of M and F): the M'_i of LGANet++ section 2.4.

    The paper calls the correlation map itself M'_i; its channel numbers need this sum, and it is
    what the released code computes.
    """

    def __init__(self, channels: int, radius: int = 1) -> None:
        super().__init__()
        self.radius = radius
        self.conv = conv((2 * radius + 1) ** 3, channels)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        return moving + self.conv(local_correlation(moving, fixed, self.radius))


class _LocalCorrelation(torch.autograd.Function):
    """One channel per offset, written in place; the recorded graph would keep 27 products."""

    @staticmethod
    def forward(ctx, first: Tensor, second: Tensor, radius: int) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.radius = radius
        padded = F.pad(second, [radius] * 6)
        batch, _, *shape = first.shape
        correlation = first.new_empty(batch, (2 * radius + 1) ** 3, *shape)
        products = torch.empty_like(first)
        for offset, shifted in enumerate(_shifts(padded, shape, radius)):
            torch.mul(first, shifted, out=products)
            torch.mean(products, dim=1, out=correlation[:, offset])
        return correlation

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        first, second = ctx.saved_tensors
        radius, shape = ctx.radius, first.shape[2:]
        upstream = (upstream.contiguous() / first.shape[1]).unsqueeze(2)  # (B, 27, 1, D, H, W)
        gradient_first = gradient_second = None
        if ctx.needs_input_grad[0]:
            gradient_first = torch.zeros_like(first)
            padded = F.pad(second, [radius] * 6)
            for offset, shifted in enumerate(_shifts(padded, shape, radius)):
                gradient_first.addcmul_(upstream[:, offset], shifted)
        if ctx.needs_input_grad[1]:
            padded = F.pad(torch.zeros_like(second), [radius] * 6)
            for offset, shifted in enumerate(_shifts(padded, shape, radius)):
                shifted.addcmul_(upstream[:, offset], first)
            gradient_second = padded[(..., *[slice(radius, radius + side) for side in shape])]
        return gradient_first, gradient_second, None


def _shifts(padded: Tensor, shape: Sequence[int], radius: int) -> Iterator[Tensor]:
    """Views of the padded map at every offset, first axis slowest."""
    for start in product(range(2 * radius + 1), repeat=3):
        window = [slice(first, first + side) for first, side in zip(start, shape, strict=True)]
        yield padded[(..., *window)]
