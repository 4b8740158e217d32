"""Target registration error of shifts that are known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from regnet_lib.metrics import tre_mm

CASES = [((20, 24), (1.5, 0.8)), ((12, 14, 13), (2.5, 0.97, 1.2))]
both = pytest.mark.parametrize("shape, spacing", CASES, ids=["2-D", "3-D"])


def points_in(shape, count=15, seed=0):
    upper = np.array(shape) - 5
    return torch.from_numpy(np.random.default_rng(seed).uniform(4, upper, (count, len(shape))))


def constant_field(shape, vector):
    field = torch.tensor(vector, dtype=torch.float64).view(1, -1, *[1] * len(shape))
    return field.expand(1, len(shape), *shape)


@both
def test_zero_when_the_displacement_is_right(shape, spacing):
    vector = [1.25, -2.0, 0.5][: len(shape)]
    fixed = points_in(shape)
    moving = fixed + torch.tensor(vector, dtype=torch.float64)
    errors = tre_mm(moving, fixed, constant_field(shape, vector), spacing)
    assert errors.shape == (15,) and errors.dtype == np.float64
    np.testing.assert_allclose(errors, 0, atol=1e-10)


@both
def test_the_distance_of_the_points_without_displacement(shape, spacing):
    fixed, moving = points_in(shape), points_in(shape, seed=1)
    zero = constant_field(shape, [0.0] * len(shape))
    expected = np.linalg.norm((fixed - moving).numpy() * np.array(spacing), axis=1)
    np.testing.assert_allclose(tre_mm(moving, fixed, zero, spacing), expected, rtol=0, atol=1e-10)


@both
def test_the_remaining_shift_in_millimetres(shape, spacing):
    """A displacement that is wrong by one voxel per axis leaves the voxel's diagonal."""
    fixed = points_in(shape)
    found = constant_field(shape, [2.0] * len(shape))
    errors = tre_mm(fixed + 1, fixed, found, spacing)
    np.testing.assert_allclose(errors, np.linalg.norm(spacing), rtol=0, atol=1e-10)


@both
def test_the_direction_is_fixed_to_moving(shape, spacing):
    """The other direction of the printed equations doubles the error instead of removing it."""
    vector = torch.tensor([2.0, -1.0, 0.5][: len(shape)], dtype=torch.float64)
    fixed = points_in(shape)
    field = constant_field(shape, vector.tolist())
    wrong_way = tre_mm(fixed, fixed + vector, field, spacing)
    expected = 2 * np.linalg.norm(vector.numpy() * np.array(spacing))
    np.testing.assert_allclose(wrong_way, expected, rtol=0, atol=1e-10)


@both
def test_equals_scipy_on_a_smooth_field(shape, spacing):
    random = np.random.default_rng(3)
    field = np.stack([6 * gaussian_filter(random.normal(size=shape), 2.0) for _ in shape])
    fixed, moving = points_in(shape), points_in(shape, seed=1)
    moved = fixed.numpy() + np.stack(
        [map_coordinates(part, fixed.numpy().T, order=1) for part in field], axis=1
    )
    for snap in (False, True):
        target = np.rint(moved) if snap else moved
        expected = np.linalg.norm((target - moving.numpy()) * np.array(spacing), axis=1)
        errors = tre_mm(moving, fixed, torch.from_numpy(field)[None], spacing, snap=snap)
        np.testing.assert_allclose(errors, expected, rtol=0, atol=1e-10)


@both
def test_snap_moves_to_the_voxel_that_an_observer_would_click(shape, spacing):
    """0.4 voxels off along the first axis: snapped away entirely; 0.6 becomes a whole voxel."""
    fixed = points_in(shape).round()
    for offset, steps in ((0.4, 0), (0.6, 1)):
        field = constant_field(shape, [offset] + [0.0] * (len(shape) - 1))
        exact = tre_mm(fixed, fixed, field, spacing)
        np.testing.assert_allclose(exact, offset * spacing[0], rtol=0, atol=1e-10)
        snapped = tre_mm(fixed, fixed, field, spacing, snap=True)
        np.testing.assert_allclose(snapped, steps * spacing[0], rtol=0, atol=1e-10)


@both
def test_float32_points_and_fields(shape, spacing):
    fixed, moving = points_in(shape), points_in(shape, seed=1)
    field = constant_field(shape, [0.5] * len(shape))
    exact = tre_mm(moving, fixed, field, spacing)
    rounded = tre_mm(moving.float(), fixed.float(), field.float(), spacing)
    np.testing.assert_allclose(rounded, exact, rtol=1e-5)


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    FIELD = torch.zeros(1, 2, 8, 8)

    def test_point_lists_of_other_lengths(self):
        with pytest.raises(ValueError, match=r"tre_mm: .*\(3, 2\) and \(4, 2\)"):
            tre_mm(torch.ones(3, 2), torch.ones(4, 2), self.FIELD, (1, 1))

    @pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0)])
    def test_spacing(self, spacing):
        """One number would broadcast over the axes without a word."""
        with pytest.raises(ValueError, match="tre_mm: expected 2 positive spacings in mm"):
            tre_mm(torch.ones(3, 2), torch.ones(3, 2), self.FIELD, spacing)

    def test_points_outside_the_volume_do_not_pass_as_unregistered(self):
        with pytest.raises(ValueError, match="inside the grid"):
            tre_mm(torch.ones(1, 2), torch.full((1, 2), 9.0), self.FIELD, (1, 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@both
def test_gpu_equals_cpu(shape, spacing):
    fixed, moving = points_in(shape).float(), points_in(shape, seed=1).float()
    field = constant_field(shape, [0.5] * len(shape)).float()
    on_gpu = tre_mm(moving.cuda(), fixed.cuda(), field.cuda(), spacing)
    np.testing.assert_allclose(on_gpu, tre_mm(moving, fixed, field, spacing), rtol=1e-5)
