"""The training objective and its named parts."""

import dataclasses

import pytest
import torch

from regnet_lib.losses import (
    ADRegNetObjective,
    Landmarks,
    Objective,
    diffusion,
    global_ncc,
    landmark_distance,
    local_ncc,
    mind_ssc,
    mse,
    mutual_information,
    negative_jacobian,
    ssim,
)
from regnet_lib.spatial import warp

SHAPES = [(12, 14), (9, 10, 11)]
both = pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])


def inputs(shape):
    torch.manual_seed(0)
    moving, fixed = torch.rand(2, 1, *shape), torch.rand(2, 1, *shape)
    return torch.randn(2, len(shape), *shape, requires_grad=True), moving, fixed


@both
@pytest.mark.parametrize("weight", [0.0, 0.25, 4.0])
@pytest.mark.parametrize(
    "similarity", ["local_ncc", "global_ncc", "mse", "mind_ssc", "mutual_information"]
)
def test_is_the_weighted_sum_of_its_parts(shape, weight, similarity):
    displacement, moving, fixed = inputs(shape)
    objective = Objective(similarity, window_voxels=5, diffusion_weight=weight)
    loss, parts = objective(displacement, moving, fixed)
    assert list(parts) == ["loss", similarity, "diffusion"]
    warped = warp(moving, displacement)
    expected = {
        "local_ncc": local_ncc(warped, fixed, 5),
        "global_ncc": global_ncc(warped, fixed),
        "mse": mse(warped, fixed),
        "mind_ssc": mind_ssc(warped, fixed),
        "mutual_information": mutual_information(warped, fixed),
    }[similarity]
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
    for similarity in ("local_ncc", "global_ncc", "mse"):
        objective = Objective(similarity, window_voxels=5)
        at_truth, _ = objective(truth, moving, fixed)
        at_rest, _ = objective(torch.zeros_like(truth), moving, fixed)
        assert at_truth < 0.5 * at_rest


@pytest.mark.usefixtures("unchecked")
def test_unknown_similarity_is_refused():
    displacement, moving, fixed = inputs((6, 7))
    with pytest.raises(ValueError, match="'local_ncc', .*'mutual_information', got 'ssim'"):
        Objective("ssim")(displacement, moving, fixed)


def test_is_a_value():
    assert Objective() == Objective("local_ncc", 9, True, 1.0, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Objective().diffusion_weight = 2.0


class TestADRegNet:
    """Equations (16) to (19), from the four losses and the numbers of section IV.C."""

    def inputs(self):
        torch.manual_seed(0)
        moving, fixed = torch.rand(2, 1, 1, 12, 13, 11)
        displacement = (2 * torch.randn(1, 3, 12, 13, 11)).requires_grad_()
        landmarks = Landmarks(11 * torch.rand(5, 3) - 0.5, 10 * torch.rand(5, 3), (1.0, 1.0, 2.5))
        return displacement, moving, fixed, landmarks

    def test_default_weights_by_hand(self):
        displacement, moving, fixed, landmarks = self.inputs()
        loss, parts = ADRegNetObjective()(displacement, moving, fixed, landmarks)
        warped = warp(moving, displacement)
        terms = {
            "global_ncc": global_ncc(warped, fixed),
            "ssim": ssim(warped, fixed),
            "diffusion": diffusion(displacement),
            "negative_jacobian": negative_jacobian(displacement),
            "landmark_mm": landmark_distance(displacement, landmarks),
        }
        ncc, structure, smooth, folds, distance = terms.values()
        expected = 1.0 * (ncc + structure) + 0.1 * (10 * smooth + 100 * folds) + 1.0 * distance
        torch.testing.assert_close(loss, expected)
        assert list(parts) == ["loss", *terms]
        for name, term in terms.items():
            torch.testing.assert_close(parts[name], term.detach())
            assert term > 0

    def test_every_weight_moves_its_term(self):
        displacement, moving, fixed, landmarks = self.inputs()
        base, parts = ADRegNetObjective()(displacement, moving, fixed, landmarks)
        slopes = {
            "ncc_weight": parts["global_ncc"],
            "ssim_weight": parts["ssim"],
            "similarity_weight": parts["global_ncc"] + parts["ssim"],
            "diffusion_weight": 0.1 * parts["diffusion"],
            "jacobian_weight": 0.1 * parts["negative_jacobian"],
            "regularity_weight": 10 * parts["diffusion"] + 100 * parts["negative_jacobian"],
            "landmark_weight": parts["landmark_mm"],
        }
        for name, slope in slopes.items():
            weight = getattr(ADRegNetObjective(), name)
            changed = ADRegNetObjective(**{name: weight + 0.5})
            loss, _ = changed(displacement, moving, fixed, landmarks)
            torch.testing.assert_close((loss - base).detach(), 0.5 * slope, rtol=1e-3, atol=1e-4)

    def test_without_landmarks_the_term_is_absent(self):
        displacement, moving, fixed, landmarks = self.inputs()
        loss, parts = ADRegNetObjective()(displacement, moving, fixed)
        whole, others = ADRegNetObjective()(displacement, moving, fixed, landmarks)
        assert "landmark_mm" not in parts
        torch.testing.assert_close(whole - loss, others["landmark_mm"])

    def test_local_correlation_instead(self):
        displacement, moving, fixed, _ = self.inputs()
        objective = ADRegNetObjective(similarity="local_ncc", window_voxels=5, squared=False)
        _, parts = objective(displacement, moving, fixed)
        expected = local_ncc(warp(moving, displacement), fixed, 5, squared=False)
        torch.testing.assert_close(parts["local_ncc"], expected.detach())

    def test_only_the_loss_carries_gradients(self):
        displacement, moving, fixed, landmarks = self.inputs()
        loss, parts = ADRegNetObjective()(displacement, moving, fixed, landmarks)
        assert not any(part.requires_grad for part in parts.values())
        loss.backward()
        assert torch.isfinite(displacement.grad).all() and displacement.grad.abs().sum() > 0

    def test_serves_wherever_an_objective_does(self):
        objective = ADRegNetObjective()
        assert isinstance(objective, Objective) and objective.zoomed is False
        assert dataclasses.asdict(objective)["similarity"] == "global_ncc"
        assert objective == ADRegNetObjective() != ADRegNetObjective(ssim_weight=0.0)
