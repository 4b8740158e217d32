"""Jacobian statistics against affine maps, fields solved by hand and NumPy loops."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d, gaussian_filter

from regnet_lib.metrics import (
    folding_inside,
    jacobian_statistics,
    non_diffeomorphic_volume,
    sd_log_jacobian,
)
from regnet_lib.spatial import folding_fraction, jacobian_determinant

both = pytest.mark.parametrize("shape", [(9, 11), (7, 8, 9)], ids=["2-D", "3-D"])


def grid(shape):
    return np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"))


def affine_field(shape, matrix):
    matrix = np.asarray(matrix, dtype=float)
    return np.einsum("ij,j...->i...", matrix - np.eye(len(matrix)), grid(shape))[None]


def random_field(shape, largest, seed=0):
    random = np.random.default_rng(seed)
    field = np.stack([gaussian_filter(random.standard_normal(shape), 1.5) for _ in shape])
    return (field * largest / np.abs(field).max())[None]


def matrix_of_size(axes):
    return np.array([[1.2, 0.1, -0.2], [0.05, 0.9, 0.1], [0.1, -0.1, 1.1]])[:axes, :axes]


def cell_simplices(axes):
    """Both mirrored subdivisions of a unit square or cube, as lists of corners.

    Every corner with its neighbors, and in 3-D the corners of even and those of odd coordinate sum.
    """
    corners = list(product((0, 1), repeat=axes))
    simplices = []
    for corner in corners:
        neighbors = [
            tuple(1 - c if axis == moved else c for axis, c in enumerate(corner))
            for moved in range(axes)
        ]
        simplices.append([corner, *neighbors])
    if axes == 3:
        for parity in (0, 1):
            simplices.append([corner for corner in corners if sum(corner) % 2 == parity])
    return simplices


def inverted_volume(field):
    """Signed volumes of the moved simplices of all cells, one cell after the other."""
    field = field[0]
    axes, shape = field.shape[0], field.shape[1:]
    factorial = {2: 2, 3: 6}[axes]
    volume = at_rest = 0.0
    for base in product(*(range(n - 1) for n in shape)):
        for simplex in cell_simplices(axes):
            rest = np.array([np.add(base, corner) for corner in simplex], dtype=float)
            moved = rest + np.array([field[(slice(None), *point.astype(int))] for point in rest])
            signed = np.linalg.det(moved[1:] - moved[0]) / factorial
            rest_signed = np.linalg.det(rest[1:] - rest[0]) / factorial
            volume += max(0.0, -signed * np.sign(rest_signed))
            at_rest += abs(rest_signed)
    cells = np.prod(np.subtract(shape, 1))
    assert at_rest == pytest.approx(2 * cells), "the two subdivisions fill every cell"
    return volume / 2


def still_border(field, width=2):
    """Zero displacement near the faces, so that the continuation by edge values is at rest."""
    inside = np.zeros_like(field)
    center = (..., *[slice(width, -width)] * (field.ndim - 2))
    inside[center] = field[center]
    return inside


class TestJacobianStatistics:
    @both
    def test_affine(self, shape):
        matrix = matrix_of_size(len(shape))
        for difference in ("central", "forward"):
            found = jacobian_statistics(affine_field(shape, matrix), difference)
            np.testing.assert_allclose(found.mean, np.linalg.det(matrix), rtol=1e-10)
            np.testing.assert_allclose(found.minimum, np.linalg.det(matrix), rtol=1e-10)
            np.testing.assert_allclose(found.std, 0, atol=1e-10)

    @both
    def test_against_numpys_gradient(self, shape):
        field = random_field(shape, 2.0)
        gradient = np.stack([np.stack(np.gradient(c)) for c in field[0] + grid(shape)])
        expected = np.linalg.det(np.moveaxis(gradient, (0, 1), (-2, -1)))
        found = jacobian_statistics(field)
        assert found.mean[0] == pytest.approx(expected.mean(), rel=1e-10)
        assert found.std[0] == pytest.approx(expected.std(), rel=1e-10)
        assert found.minimum[0] == pytest.approx(expected.min(), rel=1e-10)


class TestSdLogJacobian:
    @both
    def test_affine_maps_have_none(self, shape):
        for convention in ("plain", "learn2reg"):
            found = sd_log_jacobian(affine_field(shape, matrix_of_size(len(shape))), convention)
            np.testing.assert_allclose(found, 0, atol=1e-10)

    def test_plain_by_hand(self):
        """u = x^2 / 20 has central determinants 1.05, 1.1, 1.2, 1.25 along the axis of four."""
        field = np.zeros((1, 2, 4, 3))
        field[0, 0] = np.arange(4)[:, None] ** 2 / 20
        expected = np.std(np.log([1.05, 1.1, 1.2, 1.25]))
        assert sd_log_jacobian(field)[0] == pytest.approx(expected, rel=1e-10)

    def test_folded_voxels_are_clipped(self):
        """Mirrored along one axis: det -1 everywhere, log 1e-9 everywhere, spread 0."""
        field = affine_field((6, 7), np.diag([-1.0, 1.0]))
        np.testing.assert_allclose(sd_log_jacobian(field), 0, atol=1e-10)
        np.testing.assert_allclose(sd_log_jacobian(field, "learn2reg"), 0, atol=1e-10)
        half = np.concatenate([field, 0 * field], axis=2)
        logs = np.log(np.clip(jacobian_determinant(torch.from_numpy(half)), 1e-9, 1e9))
        assert sd_log_jacobian(half)[0] == pytest.approx(np.std(np.asarray(logs)), rel=1e-10)
        assert sd_log_jacobian(half)[0] > 8

    @pytest.mark.parametrize("largest", [1.0, 4.5])
    def test_learn2reg_with_scipys_correlation(self, largest):
        """Differences with zero padding, two voxels cut off every face, 3 added, clipped."""
        shape = (10, 11, 12)
        field = random_field(shape, largest)
        rows = [
            [correlate1d(c, [-0.5, 0, 0.5], axis=axis, mode="constant") for axis in range(3)]
            for c in field[0]
        ]
        jacobian = np.moveaxis(np.array(rows), (0, 1), (-2, -1)) + np.eye(3)
        determinant = np.linalg.det(jacobian)[2:-2, 2:-2, 2:-2]
        expected = np.log(np.clip(determinant + 3, 1e-9, 1e9)).std()
        assert sd_log_jacobian(field, "learn2reg")[0] == pytest.approx(expected, rel=1e-10)
        assert sd_log_jacobian(field)[0] > 2 * expected


class TestFoldingInside:
    def test_with_scipys_correlation(self):
        """Differences with zero padding, two voxels cut off every face, not positive."""
        field = random_field((10, 11, 12), 4.5)
        rows = [
            [correlate1d(c, [-0.5, 0, 0.5], axis=axis, mode="constant") for axis in range(3)]
            for c in field[0]
        ]
        jacobian = np.moveaxis(np.array(rows), (0, 1), (-2, -1)) + np.eye(3)
        determinant = np.linalg.det(jacobian)[2:-2, 2:-2, 2:-2]
        assert (determinant <= 0).any()
        assert folding_inside(field)[0] == pytest.approx((determinant <= 0).mean(), rel=1e-12)

    @both
    def test_a_fold_at_the_face_is_left_out(self, shape):
        """The first plane is pushed past the others: folded at the face only."""
        field = np.zeros((1, len(shape), *shape))
        field[0, 0, 0] = 3
        assert folding_fraction(torch.from_numpy(field), "central") > 0
        assert folding_inside(field)[0] == 0
        field[0, 0, 3] = 3
        assert folding_inside(field)[0] > 0

    def test_after_adding_3_nothing_is_left_to_count(self):
        field = random_field((10, 11, 12), 4.5)
        determinant = np.asarray(jacobian_determinant(torch.from_numpy(field)))
        assert folding_inside(field)[0] > 0
        assert (np.clip(determinant + 3, 1e-9, 1e9) <= 0).sum() == 0


class TestNonDiffeomorphicVolume:
    @both
    def test_nothing_folds_in_affine_maps_of_positive_determinant(self, shape):
        field = affine_field(shape, matrix_of_size(len(shape)))
        np.testing.assert_array_equal(non_diffeomorphic_volume(field), [0])
        np.testing.assert_array_equal(non_diffeomorphic_volume(0 * field), [0])

    def test_one_voxel_pushed_six_voxels(self):
        """Invisible to central differences there, 14/3 voxels by the tetrahedra.

        The forward difference at the voxel is 1 - 6: four corner determinants of -5 there, four
        of -5 of the next voxel, and the central tetrahedra of the four cubes ahead: 2 - 6 each.
        """
        field = np.zeros((1, 3, 9, 9, 9))
        field[0, 0, 4, 4, 4] = 6
        assert jacobian_determinant(torch.from_numpy(field))[0, 0, 4, 4, 4] == 1
        expected = (4 * 5 + 4 * 5 + 4 * 4) / 12
        assert expected == pytest.approx(14 / 3)
        assert non_diffeomorphic_volume(field)[0] == pytest.approx(expected, rel=1e-12)

    def test_one_pixel_pushed_six_pixels(self):
        """Two corner determinants of -5 at the pixel and two at the next one, over 4."""
        field = np.zeros((1, 2, 9, 9))
        field[0, 0, 4, 4] = 6
        assert non_diffeomorphic_volume(field)[0] == pytest.approx((2 * 5 + 2 * 5) / 4, rel=1e-12)

    @both
    @pytest.mark.parametrize("seed", [0, 1])
    def test_random_fields_simplex_by_simplex(self, shape, seed):
        field = still_border(random_field(shape, 5.0, seed))
        expected = inverted_volume(field)
        assert expected > 0.05
        assert non_diffeomorphic_volume(field)[0] == pytest.approx(expected, rel=1e-10)

    @both
    def test_up_to_the_faces_every_voxel_has_all_its_determinants(self, shape):
        """All determinants of every voxel in NumPy, on the field with its edges repeated."""
        field, axes = random_field(shape, 5.0), len(shape)
        expected = 0.0
        ways = {2: [], 3: [(1, 1, 1), (-1, -1, -1)]}[axes]
        position = np.pad(field[0], [(0, 0)] + [(1, 1)] * axes, mode="edge")
        position += grid(position.shape[1:])
        for voxel in product(*(range(1, n + 1) for n in shape)):
            at = np.array(voxel)

            def edge(*offset, at=at):
                return position[(slice(None), *(at + offset))] - position[(slice(None), *at)]

            for signs in product((1, -1), repeat=axes):
                edges = np.array([edge(*row) for row in np.diag(signs)])
                expected += max(0, -np.linalg.det(edges) * np.prod(signs))
            for side in ways:
                central = [np.where(np.arange(3) == out, 0, side) for out in range(3)]
                moved = np.array([edge(*offset) for offset in central])
                expected += max(0, -np.linalg.det(moved) * np.sign(np.linalg.det(central)))
        expected /= {2: 4, 3: 12}[axes]
        assert expected > inverted_volume(field)
        assert non_diffeomorphic_volume(field)[0] == pytest.approx(expected, rel=1e-10)

    @both
    def test_no_axis_or_direction_is_preferred(self, shape):
        field = still_border(random_field(shape, 5.0))
        expected = non_diffeomorphic_volume(field)
        assert expected > 0
        for axis in range(len(shape)):
            mirrored = np.flip(field, 2 + axis).copy()
            mirrored[:, axis] *= -1
            np.testing.assert_allclose(non_diffeomorphic_volume(mirrored), expected)
        order = np.roll(np.arange(len(shape)), 1)
        turned = np.transpose(field[:, order], (0, 1, *(2 + order)))
        np.testing.assert_allclose(non_diffeomorphic_volume(turned), expected)

    def test_zero_only_if_no_voxel_folds_digitally(self):
        gentle, wild = random_field((9, 10, 11), 0.8), random_field((9, 10, 11), 5.0)
        assert folding_fraction(torch.from_numpy(gentle), "digital") == 0
        assert non_diffeomorphic_volume(gentle) == 0
        assert folding_fraction(torch.from_numpy(wild), "digital") > 0
        assert non_diffeomorphic_volume(wild) > 0


@both
def test_batches_tensors_and_float32(shape):
    field = np.concatenate([random_field(shape, 4.0, seed) for seed in (0, 1)])
    tensor = torch.from_numpy(field)
    before = tensor.clone()
    for metric in (
        non_diffeomorphic_volume,
        sd_log_jacobian,
        lambda f: jacobian_statistics(f).mean,
        lambda f: jacobian_statistics(f).std,
        lambda f: jacobian_statistics(f).minimum,
    ):
        values = metric(field)
        assert values.shape == (2,) and values[0] != values[1]
        np.testing.assert_allclose(values, [metric(item[None])[0] for item in field], rtol=1e-12)
        np.testing.assert_array_equal(metric(tensor.requires_grad_()), values)
        np.testing.assert_allclose(metric(tensor.float()), values, rtol=1e-4)
    assert torch.equal(tensor, before), "the caller's field is left as it was"


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        "metric",
        [folding_inside, jacobian_statistics, sd_log_jacobian, non_diffeomorphic_volume],
    )
    def test_shape(self, metric):
        with pytest.raises(ValueError, match=rf"{metric.__name__}: expected displacement of shape"):
            metric(np.zeros((3, 5, 6, 7)))
        with pytest.raises(TypeError, match="of a floating type, got torch.int64"):
            metric(np.zeros((1, 2, 5, 6), dtype=np.int64))

    def test_convention(self):
        with pytest.raises(ValueError, match="'plain' or 'learn2reg', got 'l2r'"):
            sd_log_jacobian(np.zeros((1, 2, 8, 8)), "l2r")

    def test_too_small_for_the_crop(self):
        with pytest.raises(ValueError, match="sd_log_jacobian: expected at least 5 voxels along"):
            sd_log_jacobian(np.zeros((1, 2, 4, 8)), "learn2reg")
        with pytest.raises(ValueError, match="folding_inside: expected at least 5 voxels along"):
            folding_inside(np.zeros((1, 2, 8, 4)))
