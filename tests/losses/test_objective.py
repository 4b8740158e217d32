"""The training objective and its named parts."""

import dataclasses

import pytest
import torch

from regnet_lib.losses import Objective, diffusion, local_ncc, mse
from regnet_lib.spatial import warp

SHAPES = [(12, 14), (9, 10, 11)]
both = pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])


def inputs(shape):
    torch.manual_seed(0)
    moving, fixed = torch.rand(2, 1, *shape), torch.rand(2, 1, *shape)
    return torch.randn(2, len(shape), *shape, requires_grad=True), moving, fixed


@both
@pytest.mark.parametrize("weight", [0.0, 0.25, 4.0])
@pytest.mark.parametrize("similarity", ["local_ncc", "mse"])
def test_is_the_weighted_sum_of_its_parts(shape, weight, similarity):
    displacement, moving, fixed = inputs(shape)
    objective = Objective(similarity, window_voxels=5, diffusion_weight=weight)
    loss, parts = objective(displacement, moving, fixed)
    assert list(parts) == ["loss", similarity, "diffusion"]
    warped = warp(moving, displacement)
    expected = local_ncc(warped, fixed, 5) if similarity == "local_ncc" else mse(warped, fixed)
    torch.testing.assert_close(parts[similarity], expected.detach())
    torch.testing.assert_close(parts["diffusion"], diffusion(displacement).detach())
    total = parts[similarity] + weight * parts["diffusion"]
    torch.testing.assert_close(loss.detach(), total)
    torch.testing.assert_close(parts["loss"], total)


@both
def test_only_the_loss_carries_gradients(shape):
    displacement, moving, fixed = inputs(shape)
    loss, parts = Objective()(displacement, moving, fixed)
    assert not any(part.requires_grad for part in parts.values())
    loss.backward()
    assert displacement.grad.abs().min() >= 0 and displacement.grad.abs().sum() > 0


@both
def test_the_form_of_the_correlation_is_a_switch(shape):
    displacement, moving, fixed = inputs(shape)
    warped = warp(moving, displacement).detach()
    for squared in (True, False):
        _, parts = Objective(squared=squared)(displacement, moving, fixed)
        torch.testing.assert_close(parts["local_ncc"], local_ncc(warped, fixed, 9, squared))


@both
def test_zoomed_warps_like_the_released_script(shape):
    displacement, moving, fixed = inputs(shape)
    _, parts = Objective("mse", zoomed=True)(displacement, moving, fixed)
    expected = mse(warp(moving, displacement, zoomed=True), fixed).detach()
    torch.testing.assert_close(parts["mse"], expected)
    assert parts["mse"] != Objective("mse")(displacement, moving, fixed)[1]["mse"]


@both
def test_the_right_displacement_has_the_lower_loss(shape):
    _, moving, _ = inputs(shape)
    truth = torch.full((2, len(shape), *shape), 0.6)
    fixed = warp(moving, truth)
    for similarity in ("local_ncc", "mse"):
        objective = Objective(similarity, window_voxels=5)
        at_truth, _ = objective(truth, moving, fixed)
        at_rest, _ = objective(torch.zeros_like(truth), moving, fixed)
        assert at_truth < 0.5 * at_rest


@pytest.mark.usefixtures("unchecked")
def test_unknown_similarity_is_refused():
    displacement, moving, fixed = inputs((6, 7))
    with pytest.raises(ValueError, match="'local_ncc' or 'mse', got 'ssim'"):
        Objective("ssim")(displacement, moving, fixed)


def test_is_a_value():
    assert Objective() == Objective("local_ncc", 9, True, 1.0, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Objective().diffusion_weight = 2.0
