"""Scaling and squaring: from a stationary velocity to a displacement.

LGANet++ equations (6) and (7): start from v / 2^t and compose the field with itself t times. The
error falls as 2^-t until the interpolation error takes over.

    displacement = integrate(velocity, steps=7)   # (B, 3, D, H, W) -> (B, 3, D, H, W)
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from regnet_lib.spatial.checks import require_displacement
from regnet_lib.spatial.grid import (
    Padding,
    normalised_identity,
    sample_at,
    sample_at_backward,
)
from regnet_lib.types import Displacement, Velocity


def integrate(velocity: Velocity, steps: int = 7, *, padding: Padding = "border") -> Displacement:
    """exp(v) of a stationary velocity `(B, n, *shape)` in voxels per unit time, at time 1.

    Args:
        steps: number of squarings t; both papers use 7.
        padding: `border` integrates a constant velocity exactly; the published networks use
        `zeros`.
    """
    require_displacement("integrate", velocity, "velocity")
    if steps < 0:
        raise ValueError(f"integrate: expected steps >= 0, got {steps}.")
    return _ScalingAndSquaring.apply(velocity, steps, padding) if steps else velocity.contiguous()


class _ScalingAndSquaring(torch.autograd.Function):
    """u <- u + u(x + u), t times: `compose(u, u)` with fewer passes over the field.

    In between the field is in the units and the order of components in which it is sampled, so that
    a position is one addition. The t intermediate fields are kept; in the backward pass the three
    gradients that meet at one of them (as what is displaced, as image and as vectors) are added
    where the second one lies.
    """

    @staticmethod
    def forward(ctx, velocity: Tensor, steps: int, padding: Padding) -> Tensor:
        shape, dtype = velocity.shape[2:], torch.promote_types(velocity.dtype, torch.float32)
        identity = normalised_identity(shape, dtype, velocity.device)
        field = _turned(velocity.to(dtype), [2 / (size - 1) / 2**steps for size in shape])
        fields: list[Tensor] = []
        for _ in range(steps):
            if ctx.needs_input_grad[0]:
                fields.append(field)
            field = sample_at(field, (identity + field).movedim(1, -1), padding).add_(field)
        ctx.save_for_backward(*fields)
        ctx.padding, ctx.steps, ctx.dtype = padding, steps, velocity.dtype
        return _turned(field, [(size - 1) / 2 for size in reversed(shape)])

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        fields, shape = ctx.saved_tensors, upstream.shape[2:]
        identity = normalised_identity(shape, upstream.dtype, upstream.device)
        gradient = _turned(upstream, [(size - 1) / 2 for size in shape])
        for field in reversed(fields):
            grid = (identity + field).movedim(1, -1)
            as_image, as_vectors = sample_at_backward(gradient, field, grid, ctx.padding)
            gradient = as_image.add_(gradient).add_(as_vectors.movedim(-1, 1))
        factors = [2 / (size - 1) / 2**ctx.steps for size in reversed(shape)]
        return _turned(gradient, factors).to(ctx.dtype), None, None


def _turned(field: Tensor, factors: Sequence[float]) -> Tensor:
    """Components in the opposite order, component i of `field` times factor i."""
    turned = torch.empty_like(field, memory_format=torch.contiguous_format)
    for axis, factor in enumerate(factors):
        torch.mul(field[:, axis], factor, out=turned[:, -1 - axis])
    return turned
