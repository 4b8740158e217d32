"""RDP against the network of its repository."""

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

from regnet_lib.models.rdp import RDP

SHAPE = (16, 24, 16)


def test_parameter_count_is_the_published_one():
    assert parameter_count(RDP()) == 8_922_444


@pytest.mark.golden
def test_golden(goldens):
    check_golden(RDP(channels=8), read_golden(goldens, "RDP_c8"))


def test_sizes():
    check_sizes(RDP(channels=2), multiple=8, least=16)


def test_behaviour():
    torch.manual_seed(0)
    check_behaviour(RDP(channels=4), SHAPE)


def test_starts_from_almost_no_motion():
    torch.manual_seed(0)
    registration = RDP(channels=2)(*smooth_images(SHAPE))
    assert 0 < registration.displacement.abs().max() < 0.01
    assert sides(registration.pyramid) == [(2, 3, 2), (4, 6, 4), (8, 12, 8), SHAPE]


def test_levels_are_refined_two_two_three_and_one_times():
    model = RDP(channels=2)
    evaluations = [0] * 4

    def count(level):
        def hook(*_):
            evaluations[level] += 1

        return hook

    for level, step in enumerate(model.steps):
        step.head.register_forward_hook(count(level))
    model(*smooth_images(SHAPE))
    assert evaluations == [2, 2, 3, 1]  # the first of the coarsest level is its first field
