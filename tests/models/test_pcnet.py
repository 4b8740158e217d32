"""PCNet against its PyTorch version in SmileCode."""

import pytest
import torch
from pyramid_networks import (
    check_behaviour,
    check_golden,
    check_sizes,
    parameter_count,
    read_golden,
    sides,
    smooth_images,
)

from regnet_lib.models.pcnet import FieldIntegration, PCNet

SHAPE = (16, 24, 16)


def test_parameter_counts_are_the_published_ones():
    assert parameter_count(PCNet()) == 6_928_647
    assert parameter_count(PCNet(channels=8)) == 1_848_391
    assert parameter_count(PCNet("lganet")) == 1_851_415


def test_unknown_preset(unchecked):
    with pytest.raises(ValueError, match=r"PCNet: .*lganet.*smilecode.*'official'"):
        PCNet("official")


@pytest.mark.golden
def test_golden(goldens):
    check_golden(PCNet(channels=8), read_golden(goldens, "PCNet_smile_c8"))


def test_sizes():
    check_sizes(PCNet("lganet", channels=4), multiple=8, least=16)


def test_behaviour():
    torch.manual_seed(0)
    check_behaviour(PCNet("lganet", channels=4), SHAPE)


def test_pyramid():
    torch.manual_seed(0)
    registration = PCNet("lganet", channels=4)(*smooth_images(SHAPE))
    assert sides(registration.pyramid) == [(4, 6, 4), (8, 12, 8), SHAPE, SHAPE]
    assert sides(registration.extras["velocities"]) == [(2, 3, 2), (4, 6, 4), (8, 12, 8), SHAPE]


def test_velocities_keep_their_values_when_they_are_enlarged():
    integration = FieldIntegration(2).double()
    for layer in integration.weigh:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)  # each weight is 1/2
    velocities = [torch.full((1, 3, side, side, side), 0.5).double() for side in (4, 8)]
    displacement = integration(velocities, (16, 16, 16))
    inside = displacement[..., 3:-3, 3:-3, 3:-3]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5), rtol=0, atol=1e-4)
