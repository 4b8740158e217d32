"""Local NCC, forward and backward, against the published form, a dense 9x9x9 convolution of ones,
and against the losses of MONAI and of VoxelMorph's package neurite."""

from collections.abc import Callable
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import CPU, Comparison, installed
from regnet_lib.losses import local_ncc

SHAPES = ((48, 56, 40), (96, 112, 80), (144, 176, 144))
WINDOW = 9
# The dense form of the largest size takes twenty seconds a round.
DENSE_VOXELS = 10**6
PEERS = ("monai", "neurite")
EXPLANATION = ""

Loss = Callable[[Tensor, Tensor], Tensor]


def comparisons(
    device: torch.device = CPU, shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> list[Comparison]:
    found = []
    for shape in shapes:
        images = [image.to(device) for image in _textured_pair(shape)]
        name = "x".join(map(str, shape))
        for other_name, other, target in _others(prod(shape), device):
            found.append(
                Comparison(
                    case=f"local_ncc {name}, window {WINDOW}, forward and backward",
                    ours=partial(_with_gradient, local_ncc, *images),
                    other=partial(_with_gradient, other, *images),
                    other_name=other_name,
                    check=_agree,
                    target=target,
                    rounds=5 if prod(shape) < 200_000 else 3,
                    growth=("voxels", prod(shape)),
                )
            )
    return found


def _others(voxels: int, device: torch.device) -> list[tuple[str, Loss, float | None]]:
    """Name, loss and the ratio that we hold ourselves to."""
    others: list[tuple[str, Loss, float | None]] = []
    if voxels < DENSE_VOXELS or device.type == "cuda":
        others.append(("dense conv3d of ones", dense_local_ncc, 25.0))
    if installed("monai"):
        from monai.losses import LocalNormalizedCrossCorrelationLoss

        monai = LocalNormalizedCrossCorrelationLoss(kernel_size=WINDOW).to(device)
        others.append(("MONAI", lambda warped, fixed: 1 + monai(warped, fixed), None))
    if installed("neurite"):
        from neurite.nn.modules import NCC

        neurite = NCC(window_size=WINDOW, keepdims=False)
        others.append(("neurite", lambda warped, fixed: 1 - neurite(warped, fixed), 1.5))
    return others


def dense_local_ncc(warped: Tensor, fixed: Tensor) -> Tensor:
    """1 - mean squared local correlation with every window sum as a convolution."""
    ones = warped.new_ones(1, 1, WINDOW, WINDOW, WINDOW)
    voxels = WINDOW**3

    def window_sum(image: Tensor) -> Tensor:
        return F.conv3d(image, ones, padding=WINDOW // 2)

    sum_a, sum_b = window_sum(warped), window_sum(fixed)
    mean_a, mean_b = sum_a / voxels, sum_b / voxels
    cross = window_sum(warped * fixed) - mean_b * sum_a - mean_a * sum_b + mean_a * mean_b * voxels
    variance_a = window_sum(warped * warped) - 2 * mean_a * sum_a + mean_a * mean_a * voxels
    variance_b = window_sum(fixed * fixed) - 2 * mean_b * sum_b + mean_b * mean_b * voxels
    return 1 - (cross * cross / (variance_a * variance_b + 1e-5)).mean()


def _with_gradient(loss: Loss, warped: Tensor, fixed: Tensor) -> tuple[float, Tensor]:
    warped = warped.detach().requires_grad_()
    value = loss(warped, fixed)
    value.backward()
    return value.item(), warped.grad


def _agree(ours: tuple[float, Tensor], other: tuple[float, Tensor]) -> str:
    loss = abs(ours[0] - other[0])
    gradient = ((ours[1] - other[1]).norm() / other[1].norm()).item()
    assert loss < 1e-4 and gradient < 2e-2, (loss, gradient)
    return f"loss differs by {loss:.1e}, gradient by {gradient:.1e} (relative)"


def _textured_pair(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Two related images with texture everywhere, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 1, *(side // 4 for side in shape), generator=generator)
    noise = torch.rand(2, 1, *shape, generator=generator)
    shared = F.interpolate(coarse[:1], size=shape, mode="trilinear")
    own = F.interpolate(coarse, size=shape, mode="trilinear")
    images = 0.6 * shared + 0.3 * own + 0.1 * noise
    return images[:1], images[1:]
