"""Local NCC, forward and backward, against the published form: a dense 9x9x9 convolution of
ones."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Comparison
from regnet_lib.losses import local_ncc

SHAPE = (96, 112, 80)
WINDOW = 9


def comparisons() -> list[Comparison]:
    warped, fixed = _textured_pair()
    return [
        Comparison(
            case="local_ncc 96x112x80, window 9, forward and backward",
            ours=partial(_with_gradient, local_ncc, warped, fixed),
            other=partial(_with_gradient, dense_local_ncc, warped, fixed),
            other_name="dense conv3d of ones",
            check=_agree,
            target=25.0,
        )
    ]


def dense_local_ncc(warped: Tensor, fixed: Tensor) -> Tensor:
    """1 - mean squared local correlation with every window sum as a convolution."""
    ones = torch.ones(1, 1, WINDOW, WINDOW, WINDOW, dtype=warped.dtype)
    voxels = WINDOW**3

    def window_sum(image: Tensor) -> Tensor:
        return F.conv3d(image, ones, padding=WINDOW // 2)

    sum_a, sum_b = window_sum(warped), window_sum(fixed)
    mean_a, mean_b = sum_a / voxels, sum_b / voxels
    cross = window_sum(warped * fixed) - mean_b * sum_a - mean_a * sum_b + mean_a * mean_b * voxels
    variance_a = window_sum(warped * warped) - 2 * mean_a * sum_a + mean_a * mean_a * voxels
    variance_b = window_sum(fixed * fixed) - 2 * mean_b * sum_b + mean_b * mean_b * voxels
    return 1 - (cross * cross / (variance_a * variance_b + 1e-5)).mean()


def _with_gradient(loss, warped: Tensor, fixed: Tensor) -> tuple[float, Tensor]:
    warped = warped.detach().requires_grad_()
    value = loss(warped, fixed)
    value.backward()
    return value.item(), warped.grad


def _agree(ours: tuple[float, Tensor], other: tuple[float, Tensor]) -> str:
    loss = abs(ours[0] - other[0])
    gradient = ((ours[1] - other[1]).norm() / other[1].norm()).item()
    assert loss < 1e-4 and gradient < 2e-2, (loss, gradient)
    return f"loss differs by {loss:.1e}, gradient by {gradient:.1e} (relative)"


def _textured_pair() -> tuple[Tensor, Tensor]:
    """Two related images with texture everywhere, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 1, *(side // 4 for side in SHAPE), generator=generator)
    noise = torch.rand(2, 1, *SHAPE, generator=generator)
    shared = F.interpolate(coarse[:1], size=SHAPE, mode="trilinear")
    own = F.interpolate(coarse, size=SHAPE, mode="trilinear")
    images = 0.6 * shared + 0.3 * own + 0.1 * noise
    return images[:1], images[1:]
