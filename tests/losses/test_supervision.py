"""Landmark distance against the reported error, soft Dice against counted voxels."""

import numpy as np
import pytest
import torch

from regnet_lib import metrics
from regnet_lib.losses import Landmarks, landmark_distance, memberships, soft_dice

SPACING = (1.0, 2.0, 2.5)


def example(seed=0, count=7):
    random = np.random.default_rng(seed)
    field = torch.from_numpy(random.normal(size=(1, 3, 6, 7, 8)))
    fixed = torch.from_numpy(random.uniform(0, (5, 6, 7), size=(count, 3)))
    moving = torch.from_numpy(random.uniform(0, (5, 6, 7), size=(count, 3)))
    return field, Landmarks(moving, fixed, SPACING)


class TestLandmarks:
    def test_is_the_mean_of_the_reported_error(self):
        field, landmarks = example()
        errors = metrics.tre_mm(landmarks.moving, landmarks.fixed, field, SPACING)
        assert landmark_distance(field, landmarks).item() == pytest.approx(errors.mean(), rel=1e-12)

    def test_by_hand(self):
        """u = (2, 0, 0) takes (1, 1, 1) to (3, 1, 1); off by (0, 3, 4) voxels = (0, 6, 10) mm."""
        field = torch.zeros(1, 3, 6, 7, 8)
        field[:, 0] = 2
        fixed, moving = torch.tensor([[1.0, 1, 1]]), torch.tensor([[3.0, 4, 5]])
        found = landmark_distance(field, Landmarks(moving, fixed, SPACING))
        assert found.item() == pytest.approx(136**0.5, rel=1e-6)

    def test_the_right_field_is_free_and_its_gradient_finite(self):
        field = torch.full((1, 3, 6, 7, 8), 0.5, requires_grad=True)
        fixed = torch.tensor([[1.0, 2, 3], [2, 2, 2]])
        loss = landmark_distance(field, Landmarks(fixed + 0.5, fixed, SPACING))
        assert loss.item() < 1e-6
        loss.backward()
        assert torch.isfinite(field.grad).all()

    def test_gradcheck(self):
        field, landmarks = example(count=3)
        assert torch.autograd.gradcheck(
            lambda field: landmark_distance(field, landmarks), (field.requires_grad_(),)
        )

    def test_descent_pulls_the_landmark_to_its_place(self):
        field, landmarks = example(count=1)
        field.requires_grad_()
        optimiser = torch.optim.SGD([field], lr=0.05)
        before = landmark_distance(field, landmarks).item()
        for _ in range(50):
            optimiser.zero_grad()
            landmark_distance(field, landmarks).backward()
            optimiser.step()
        assert landmark_distance(field, landmarks).item() < 0.8 * before

    @pytest.mark.usefixtures("unchecked")
    def test_errors(self):
        field, landmarks = example()
        with pytest.raises(ValueError, match="3 positive spacings"):
            landmark_distance(field, Landmarks(landmarks.moving, landmarks.fixed, (1.0, 0.0, 1.0)))
        with pytest.raises(ValueError, match=r"as many moving .*\(7, 3\) and \(6, 3\)"):
            landmark_distance(field, Landmarks(landmarks.moving, landmarks.fixed[:6], SPACING))
        none = torch.zeros(0, 3)
        with pytest.raises(ValueError, match="at least one"):
            landmark_distance(field, Landmarks(none, none, SPACING))


class TestSoftDice:
    def labels(self, seed):
        random = np.random.default_rng(seed)
        return torch.from_numpy(random.integers(0, 5, (1, 1, 4, 5, 6)))

    def test_of_whole_labels_is_the_reported_overlap(self):
        ids = (1, 2, 4)
        warped, fixed = self.labels(0), self.labels(1)
        expected = 1 - np.mean(metrics.dice(warped, fixed, ids))
        loss = soft_dice(memberships(warped, ids), memberships(fixed, ids))
        assert loss.item() == pytest.approx(expected, abs=1e-6)

    def test_by_hand(self):
        """a = (1, 1/2, 0, 0), b = (1, 1, 0, 0): 2 * 1.5 / 3.5."""
        a = torch.tensor([1.0, 0.5, 0, 0]).view(1, 1, 2, 2)
        b = torch.tensor([1.0, 1, 0, 0]).view(1, 1, 2, 2)
        assert soft_dice(a, b).item() == pytest.approx(1 - 3 / 3.5)
        assert soft_dice(b, b).item() == pytest.approx(0)
        assert soft_dice(b, 1 - b).item() == pytest.approx(1)

    def test_a_label_in_neither_image_does_not_count(self):
        warped, fixed = self.labels(0), self.labels(1)
        found = soft_dice(memberships(warped, (1, 9)), memberships(fixed, (1, 9)))
        expected = soft_dice(memberships(warped, (1,)), memberships(fixed, (1,)))
        torch.testing.assert_close(found, expected)
        nothing = memberships(fixed, (8, 9)).requires_grad_()
        loss = soft_dice(nothing, memberships(fixed, (8, 9)))
        loss.backward()
        assert loss.item() == 0 and not nothing.grad.any()

    def test_a_label_in_one_image_costs_all(self):
        fixed = torch.zeros(1, 1, 2, 2, 2)
        assert soft_dice(torch.ones(1, 1, 2, 2, 2), fixed).item() == 1

    def test_every_label_of_every_pair_weighs_the_same(self):
        warped = torch.cat([self.labels(0), self.labels(2)])
        fixed = torch.cat([self.labels(1), self.labels(3)])
        ids = (1, 2)
        parts = [
            soft_dice(
                memberships(warped[i : i + 1], (label,)), memberships(fixed[i : i + 1], (label,))
            )
            for i in range(2)
            for label in ids
        ]
        found = soft_dice(memberships(warped, ids), memberships(fixed, ids))
        torch.testing.assert_close(found, torch.stack(parts).mean())

    def test_memberships(self):
        labels = torch.tensor([[[[0, 3], [5, 3]]]])
        found = memberships(labels, (3, 5))
        assert found.dtype == torch.float32
        assert found[0].tolist() == [[[0, 1], [0, 1]], [[0, 0], [1, 0]]]

    def test_gradcheck(self):
        random = np.random.default_rng(0)
        a, b = (torch.from_numpy(random.random((2, 2, 3, 2))).requires_grad_() for _ in range(2))
        assert torch.autograd.gradcheck(soft_dice, (a, b))

    def test_half_precision_is_summed_in_float32(self):
        """In bfloat16 a sum of 4096 ones can end at 256."""
        ones = torch.ones(1, 1, 64, 64, dtype=torch.bfloat16)
        loss = soft_dice(ones, ones)
        assert loss.dtype == torch.float32 and loss.item() == 0

    @pytest.mark.usefixtures("unchecked")
    def test_shapes(self):
        with pytest.raises(ValueError, match=r"soft_dice: .*one shape"):
            soft_dice(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))
