"""What AD-RegNet costs, counted on tensors without values (see `regnet_lib.profile`)."""

import pytest
import torch

from regnet_lib.losses import ADRegNetObjective
from regnet_lib.models.ad_regnet import ADRegNet
from regnet_lib.profile import account

MODES = ("paper", "recommended")
FULL_SIZE = (160, 192, 224)  # IXI
GIB = 2**30


def test_forward():
    cost = account(ADRegNet(), FULL_SIZE, training=False)
    assert 7.5e12 < cost.flops < 7.9e12
    assert cost.peak_bytes < 10 * GIB


def test_training_step():
    cost = account(ADRegNet(), FULL_SIZE, objective=ADRegNetObjective())
    assert cost.peak_bytes < 41 * GIB


def test_training_step_checkpointed_in_bfloat16():
    model = ADRegNet(checkpointing=True)
    cost = account(model, FULL_SIZE, autocast=torch.bfloat16, objective=ADRegNetObjective())
    assert cost.peak_bytes < 12 * GIB
    assert cost.saved_bytes < 4 * GIB


@pytest.mark.parametrize("mode", MODES)
def test_memory_grows_with_the_number_of_voxels(mode):
    """Global attention on levels 3 and 4 included: its score maps are never kept."""
    bytes_per_voxel = []
    for shape in ((64, 64, 64), (128, 128, 256)):
        cost = account(ADRegNet(mode), shape)
        voxels = shape[0] * shape[1] * shape[2]
        bytes_per_voxel.append(cost.saved_bytes / voxels)
    assert max(bytes_per_voxel) < 1.02 * min(bytes_per_voxel)
