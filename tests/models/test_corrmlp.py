"""CorrMLP against the network of its repository."""

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

from regnet_lib.models.corrmlp import CorrMLP
from regnet_lib.spatial import resize

SHAPE = (16, 24, 16)


def test_parameter_count_is_the_published_one():
    model = CorrMLP()
    assert parameter_count(model) == 4_190_834
    assert parameter_count(model.match[0]) == 1_747_618


@pytest.mark.golden
def test_golden(goldens):
    check_golden(CorrMLP(encoder=4, decoder=8), read_golden(goldens, "CorrMLP_small"))


def test_sizes():
    check_sizes(CorrMLP(4, 4), multiple=8, least=16)


def test_behaviour():
    torch.manual_seed(0)
    model = CorrMLP(4, 16)
    for head in model.heads:  # away from the almost motionless start
        torch.nn.init.normal_(head.weight, std=0.02)
    check_behaviour(model, SHAPE)


def test_starts_from_almost_no_motion():
    torch.manual_seed(0)
    registration = CorrMLP(4, 4)(*smooth_images(SHAPE))
    assert 0 < registration.displacement.abs().max() < 0.01
    assert sides(registration.pyramid) == [(2, 3, 2), (4, 6, 4), (8, 12, 8), SHAPE]


def test_fields_of_the_levels_are_added():
    torch.manual_seed(0)
    model = CorrMLP(4, 4)
    residuals = []
    for head in model.heads:
        torch.nn.init.normal_(head.weight, std=0.05)
        head.register_forward_hook(lambda _, __, field: residuals.append(field))
    registration = model(*smooth_images(SHAPE))
    total = residuals[0]
    for residual in residuals[1:]:
        total = resize(total, residual.shape[2:]) + residual
    torch.testing.assert_close(registration.displacement, total)


def test_checkpointing_changes_no_gradient():
    images = smooth_images(SHAPE)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = CorrMLP(4, 4, checkpointing=checkpointing)
        model(*images).displacement.square().sum().backward()
        gradients.append([weights.grad for weights in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_what_is_kept_for_the_backward_pass():
    """6 GiB for the 96x112x80 voxels of an IXI brain at 2 mm are 7.5 kB per voxel."""
    model = CorrMLP()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    shape = (48, 56, 40)
    images = smooth_images(shape, batch=1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        registration = model(*images)
    assert registration.displacement.requires_grad
    assert 3e3 < sum(kept.values()) / (48 * 56 * 40) < 6 * 2**30 / (96 * 112 * 80)
