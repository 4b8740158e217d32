"""What the training paths keep, counted without running them, so that no change makes it worse.

The accountant of `regnet_lib.profile` gives the same number on every machine. Limits of LGANet++'s
memory and operations are in `models/test_lganetpp_memory.py`, more of AD-RegNet's in
`models/test_ad_regnet_cost.py`.
"""

import pytest
import torch
from torch import nn

from regnet_lib.losses import ADRegNetObjective, local_ncc
from regnet_lib.models.ad_regnet import ADRegNet
from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.profile import account
from regnet_lib.spatial import integrate

GIB = 2**30
FLOAT = 4
SHAPE = (24, 28, 20)
VOXELS = 24 * 28 * 20


class Weighted(nn.Module):
    """An image, or three of it as a velocity, that gradients flow into."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1, 1))

    def forward(self, moving, fixed):
        return moving * self.weight


def kept_volumes(channels, objective):
    """Volumes that stay in memory until the backward pass, besides the weighted image itself."""
    return account(Weighted(channels), SHAPE, objective=objective).saved_bytes / FLOAT / VOXELS


def test_local_ncc_keeps_five_volumes():
    """Beside the two images, which exist anyway; written in plain operations it is over twenty."""
    kept = kept_volumes(1, lambda warped, _, fixed: (local_ncc(warped, fixed), None))
    assert kept <= 1 + 5 + 0.01


@pytest.mark.parametrize("steps", [4, 7])
def test_scaling_and_squaring_keeps_a_field_per_step(steps):
    """Sampling grids are made again in the backward pass; kept, they would double it."""
    kept = kept_volumes(3, lambda velocity, *_: (integrate(velocity, steps).sum(), None))
    assert kept / 3 <= steps + 1.01


def test_kernels_of_a_step_of_lganetpp():
    assert account(LGANetPP(), (48, 48, 48)).kernels <= 3300


def test_training_step_of_ad_regnet_with_checkpointing():
    """13.5 GiB would be the aim in float32; the recomputed attention of level 0 takes more."""
    model = ADRegNet(checkpointing=True)
    cost = account(model, (160, 192, 224), objective=ADRegNetObjective())
    assert cost.peak_bytes <= 20 * GIB
