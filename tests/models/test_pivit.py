"""PIViT against the network of its repository."""

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

from regnet_lib.models.pivit import PIViT
from regnet_lib.spatial import resize

SHAPE = (16, 24, 16)


def test_parameter_count_is_the_published_one():
    model = PIViT()
    assert parameter_count(model) == 664_873
    assert [parameter_count(decoder) for decoder in model.iterations] == [164_257] * 3


@pytest.mark.golden
def test_golden_with_windows_larger_than_the_map(goldens):
    check_golden(PIViT(), read_golden(goldens, "PIViT_smallwin"))


def test_sizes():
    check_sizes(PIViT(channels=4), multiple=8, least=16)


def test_behaviour():
    torch.manual_seed(0)
    # 9 voxels at 1/8 along one axis: two windows, the second shift
    check_behaviour(PIViT(channels=8), (72, 16, 16))


def test_the_full_size_is_an_enlargement():
    torch.manual_seed(0)
    registration = PIViT(channels=8)(*smooth_images(SHAPE))
    assert sides(registration.pyramid) == [(2, 3, 2), (4, 6, 4), (8, 12, 8), SHAPE]
    assert torch.equal(registration.displacement, resize(registration.pyramid[-2], SHAPE))
    iterations = registration.extras["iterations"]
    assert sides(iterations) == [(2, 3, 2)] * 3
    assert iterations[-1] is registration.pyramid[0]
    assert not torch.equal(iterations[0], iterations[1])
