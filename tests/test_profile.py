"""The accountant against costs that can be written down, and against PyTorch's own counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from regnet_lib.models import create_model
from regnet_lib.profile import account

SHAPE = (8, 6, 4)
VOXELS = 8 * 6 * 4
FLOAT, BFLOAT = 4, 2


class OneConvolution(nn.Module):
    """From two images to a displacement, with optional layers in between."""

    def __init__(self, *between: nn.Module, width: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(2, width, 3, padding=1), *between)

    def forward(self, moving, fixed):
        return self.layers(torch.cat([moving, fixed], dim=1))


class LastFilled(nn.Module):
    """Keeps one volume, needs three at once: 1, 2 and 3 are alive when 3 appears."""

    def forward(self, moving, fixed):
        first = moving + fixed
        second = first * 2
        third = second + first
        del first, second
        return third.square()


def plain_loss(displacement, moving, fixed):
    return displacement.sum(), {}


def test_operations_of_a_convolution():
    forward = 2 * 27 * 2 * 3 * VOXELS
    model = OneConvolution()
    cost = account(model, SHAPE, training=False)
    assert (cost.flops, cost.kernels, cost.saved_bytes) == (forward, 2, 0)  # cat and convolution
    # images need no gradient, so the backward pass is one more convolution
    assert account(model, SHAPE, objective=plain_loss).flops == 2 * forward
    assert account(model, SHAPE, training=False, batch=3).flops == 3 * forward


def test_traffic_and_peak_of_a_convolution():
    cost = account(OneConvolution(), SHAPE, training=False)
    weights = 2 * 3 * 27 + 3
    volumes = 1 + 1 + 2 + 2 + 3  # two images to a pair, the pair to three channels
    assert cost.traffic_bytes == FLOAT * (volumes * VOXELS + weights)
    assert cost.peak_bytes == FLOAT * (2 + 3) * VOXELS


def test_peak_is_the_worst_moment_and_freed_bytes_return():
    cost = account(LastFilled(), SHAPE, training=False)
    assert cost.peak_bytes == FLOAT * 3 * VOXELS


def test_saved_bytes_are_those_that_the_backward_pass_needs():
    def saved(*between):
        cost = account(OneConvolution(*between), SHAPE, objective=plain_loss)
        return (cost.saved_bytes - FLOAT) / FLOAT / VOXELS  # without the loss itself

    assert saved() == 2  # the input of the convolution
    assert saved(nn.Tanh()) == 2 + 3  # its result
    assert saved(nn.Tanh(), nn.Sigmoid()) == 2 + 3 + 3


def test_autocast_halves_what_is_kept():
    def kept(autocast):
        model = OneConvolution(nn.Tanh(), width=16)
        return account(model, (32, 32, 32), autocast=autocast, objective=plain_loss).saved_bytes

    assert kept(torch.bfloat16) < 0.55 * kept(None)


def test_the_model_stays_as_it_is():
    model = OneConvolution(nn.Dropout(0.5)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    account(model, SHAPE, objective=plain_loss)
    assert not model.training and all(weights.grad is None for weights in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(type(weights) is nn.Parameter for weights in model.parameters())


def test_operations_of_a_network_match_the_counter_of_pytorch():
    model = create_model("voxelmorph2").eval()
    images = torch.rand(2, 1, 1, 16, 16, 16).unbind()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*images)
    cost = account(model, (16, 16, 16), training=False)
    assert cost.flops == counter.get_total_flops() > 0


def test_attention_of_the_cpu_counts():
    """PyTorch's table has no entry for it."""

    class Attention(nn.Module):
        def forward(self, moving, fixed):
            tokens = moving.flatten(1)[:, None, :, None].expand(-1, -1, -1, 8)
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    assert account(Attention(), SHAPE, training=False).flops == 2 * 2 * 8 * VOXELS**2


@pytest.mark.parametrize("training", [True, False])
def test_any_size_without_its_memory(training):
    side = 1024
    cost = account(OneConvolution(), (side,) * 3, training=training, objective=plain_loss)
    assert cost.peak_bytes >= FLOAT * 5 * side**3  # 20 GiB
