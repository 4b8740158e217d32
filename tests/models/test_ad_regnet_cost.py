"""What AD-RegNet costs, counted on tensors without values (see `regnet_lib.profile`)."""

import pytest
import torch
from torch import nn

from regnet_lib.losses import ADRegNetObjective
from regnet_lib.models.ad_regnet import ADRegNet
from regnet_lib.nn.cross_attention import BidirectionalCrossAttention
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


class Attending(nn.Module):
    """Cross-attention of two images, each repeated in 32 channels, as an account can run it."""

    def __init__(self, window, written_out=False):
        super().__init__()
        self.attention = BidirectionalCrossAttention(32, window=window)
        self.written_out = written_out

    def forward(self, moving, fixed):
        moving, fixed = (image.expand(-1, 32, -1, -1, -1) for image in (moving, fixed))
        if not self.written_out:
            return self.attention(moving, fixed).features[:, :3]
        moving, fixed = (image.flatten(2).mT for image in (moving, fixed))
        query, key = self.attention.fixed.query(fixed), self.attention.moving.key(moving)
        attended = (query @ key.mT).softmax(-1) @ self.attention.moving.value(moving)
        return attended[..., :3].mT.unflatten(2, (8, 8, -1))


def saved_by(model, windows):
    """Bytes kept for the backward pass on a row of cubes of 8 voxels, the loss included."""
    return account(model, (8, 8, 8 * windows)).saved_bytes


def test_memory_of_windowed_attention_is_linear_in_the_windows():
    counts = (2, 4, 8, 16)
    for window in (4, 8):
        saved = [saved_by(Attending(window), count) for count in counts]
        per_window = [
            (more - less) / (many - few)
            for less, more, few, many in zip(saved, saved[1:], counts, counts[1:], strict=False)
        ]
        assert max(per_window) < 1.01 * min(per_window), per_window
    written_out = [saved_by(Attending(None, written_out=True), count) for count in counts]
    assert written_out[-1] > 3 * written_out[-2] > 9 * written_out[-3]
