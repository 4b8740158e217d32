"""Crops, pads, turns and coarser grids keep every voxel at its place in the world."""

import numpy as np
import pytest
import torch

from regnet_lib.data import BadInputError, Volume
from regnet_lib.data.preprocess import (
    crop,
    halve_image,
    halve_labels,
    keep_slices,
    pad_to,
    reorient,
    resample_to,
    shrink_image,
    shrink_labels,
    to_min_max,
    to_unit_range,
)

AFFINE = np.array(
    [[-0.9, 0.2, 0.1, 30.0], [0.3, 1.1, -0.2, -12.5], [0.05, 0.1, 2.5, 7.0], [0, 0, 0, 1.0]]
)


def world_image(shape):
    """Every voxel holds its own first world coordinate in mm."""
    index = np.stack(np.indices(shape), axis=-1).reshape(-1, 3)
    world = index @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    return Volume(world[:, 0].reshape(shape).astype(np.float32), AFFINE)


def first_world_coordinate(volume):
    """What `world_image` would hold on the grid of `volume`."""
    index = np.stack(np.indices(volume.array.shape), axis=-1)
    return index @ volume.affine[0, :3] + volume.affine[0, 3]


@pytest.mark.parametrize("shape", [(10, 12, 14), (11, 13, 15)], ids=["even", "odd"])
def test_world_positions_survive_crop_and_halving(shape):
    volume = world_image(shape)
    for result in (crop(volume, 2), halve_image(volume), halve_image(crop(volume, 1))):
        np.testing.assert_allclose(result.array, first_world_coordinate(result), atol=1e-4)


def test_crop_keeps_the_inside():
    volume = world_image((10, 12, 14))
    cropped = crop(volume, 3)
    assert cropped.array.shape == (4, 6, 8)
    np.testing.assert_array_equal(cropped.array, volume.array[3:-3, 3:-3, 3:-3])
    assert cropped.spacing_mm == volume.spacing_mm


def test_crop_by_nothing_changes_nothing():
    volume = world_image((4, 5, 6))
    same = crop(volume, 0)
    np.testing.assert_array_equal(same.array, volume.array)
    np.testing.assert_array_equal(same.affine, volume.affine)


def test_crop_refuses_to_leave_nothing():
    with pytest.raises(
        BadInputError, match=r"crop: expected sides above 7 voxels, got \(7, 12, 14\)"
    ):
        crop(world_image((7, 12, 14)), 3)


def test_halving_takes_means_of_images():
    array = np.random.default_rng(0).random((4, 6, 8)).astype(np.float32)
    halved = halve_image(Volume(array, AFFINE))
    for index in np.ndindex(2, 3, 4):
        block = tuple(slice(2 * i, 2 * i + 2) for i in index)
        assert halved.array[index] == pytest.approx(array[block].mean(), abs=1e-6)
    np.testing.assert_allclose(halved.spacing_mm, 2 * np.array(Volume(array, AFFINE).spacing_mm))


def test_halving_labels_invents_none_and_takes_every_second_voxel():
    array = np.random.default_rng(1).choice([0, 21, 182], (5, 6, 7))
    halved = halve_labels(Volume(array, AFFINE))
    assert halved.array.shape == (2, 3, 3) and halved.array.dtype == array.dtype
    for index in np.ndindex(2, 3, 3):
        assert halved.array[index] == array[tuple(2 * i for i in index)]


def test_images_and_labels_share_the_coarser_grid():
    volume = world_image((6, 7, 8))
    labels = Volume(np.ones((6, 7, 8), dtype=np.int64), AFFINE)
    image, halved = halve_image(volume), halve_labels(labels)
    assert image.array.shape == halved.array.shape
    np.testing.assert_array_equal(image.affine, halved.affine)


def test_inputs_are_left_alone():
    volume = world_image((6, 6, 6))
    before = volume.array.copy(), volume.affine.copy()
    crop(volume, 1), halve_image(volume), halve_labels(volume)
    np.testing.assert_array_equal(volume.array, before[0])
    np.testing.assert_array_equal(volume.affine, before[1])


class TestPad:
    def test_centred_with_the_odd_plane_at_the_end(self):
        volume = world_image((4, 5, 7))
        padded = pad_to(volume, (8, 8, 8))
        assert padded.array.shape == (8, 8, 8)
        np.testing.assert_array_equal(padded.array[2:6, 1:6, 0:7], volume.array)
        assert np.count_nonzero(padded.array) == np.count_nonzero(volume.array)
        inside = np.zeros((8, 8, 8), dtype=bool)
        inside[2:6, 1:6, 0:7] = True
        expected = first_world_coordinate(padded)
        np.testing.assert_allclose(padded.array[inside], expected[inside], atol=1e-4)

    def test_too_large(self):
        with pytest.raises(BadInputError, match=r"at most \(8, 8, 8\), got \(4, 9, 4\)"):
            pad_to(world_image((4, 9, 4)), (8, 8, 8))


class TestReorient:
    @pytest.mark.parametrize("axes", ["RAS", "LPI", "LIA", "PSR"])
    def test_every_voxel_stays_in_the_world(self, axes):
        volume = world_image((4, 5, 6))
        turned = reorient(volume, axes)
        np.testing.assert_allclose(turned.array, first_world_coordinate(turned), atol=1e-4)
        np.testing.assert_array_equal(np.sort(turned.array, None), np.sort(volume.array, None))

    def test_axes_point_as_asked(self):
        affine = np.array([[-1.0, 0, 0, 80], [0, 0, 1, -112], [0, -1, 0, 96], [0, 0, 0, 1]])  # LIA
        array = np.arange(24).reshape(2, 3, 4)
        turned = reorient(Volume(array, affine), "LPI")
        np.testing.assert_array_equal(turned.array, array.transpose(0, 2, 1)[:, ::-1])
        np.testing.assert_array_equal(turned.affine[:3, :3], -np.eye(3))
        assert turned.array.flags.c_contiguous

    def test_back_and_forth(self):
        volume = world_image((4, 5, 6))
        once = reorient(volume, "RAS")
        back = reorient(reorient(once, "LPI"), "RAS")
        np.testing.assert_array_equal(back.array, once.array)
        np.testing.assert_allclose(back.affine, once.affine, atol=1e-12)


class TestUnitRange:
    def test_bytes_are_divided_and_unit_images_left_alone(self):
        unit = Volume(np.array([[[0.0, 0.25, 1.0]]], dtype=np.float32), AFFINE)
        stored = Volume(unit.array * 255, AFFINE)
        assert to_unit_range(unit, "x") is unit
        np.testing.assert_allclose(to_unit_range(stored, "x").array, unit.array, atol=1e-7)
        assert to_unit_range(stored, "x").array.dtype == np.float32

    @pytest.mark.parametrize("values", [(-1, 1), (0, 256), (0, 0), (7, 7)])
    def test_other_intensities(self, values):
        volume = Volume(np.array(values, dtype=np.float32).reshape(1, 1, 2), AFFINE)
        with pytest.raises(BadInputError, match=r"head.nii: .*from 0 to 255, found"):
            to_unit_range(volume, "head.nii")


class TestShrink:
    def test_against_torch_with_the_released_arguments(self):
        array = np.random.default_rng(0).random((8, 10, 12)).astype(np.float32)
        labels = np.random.default_rng(1).integers(0, 36, (8, 10, 12))
        image = torch.from_numpy(array)[None, None]
        expected = torch.nn.functional.interpolate(
            image, scale_factor=0.5, mode="trilinear", align_corners=True
        )
        found = shrink_image(Volume(array, AFFINE))
        np.testing.assert_allclose(found.array, expected[0, 0].numpy(), atol=1e-6)
        nearest = torch.nn.functional.interpolate(
            torch.from_numpy(labels)[None, None].float(), scale_factor=0.5, mode="nearest"
        )
        np.testing.assert_array_equal(
            shrink_labels(Volume(labels, AFFINE)).array, nearest[0, 0].numpy()
        )

    @pytest.mark.parametrize("shape", [(10, 12, 14), (11, 13, 15)], ids=["even", "odd"])
    def test_labels_are_exact_and_images_at_most_one_fine_voxel_beyond(self, shape):
        index = np.stack(np.indices(shape)).astype(np.float32)
        for axis in range(3):
            image = shrink_image(Volume(index[axis], np.eye(4)))
            labels = shrink_labels(Volume(index[axis], np.eye(4)))
            np.testing.assert_array_equal(image.affine, labels.affine)
            stated = 2.0 * np.indices(labels.array.shape)[axis]
            np.testing.assert_array_equal(labels.array, stated)
            beyond = image.array - stated
            assert beyond.min() == pytest.approx(0, abs=1e-5)
            assert beyond.max() == pytest.approx(1, abs=1e-5)


class TestOtherGrids:
    ramp = Volume(
        np.indices((6, 7, 8)).sum(axis=0).astype(np.float32), np.diag([-2.0, 1.0, 3.0, 1.0])
    )

    def test_the_same_grid_changes_nothing(self):
        found = resample_to(self.ramp, (6, 7, 8), self.ramp.affine)
        np.testing.assert_array_equal(found.array, self.ramp.array)

    def test_whole_voxels_move_exactly_and_the_rest_is_filled(self):
        step = np.eye(4)
        step[:3, 3] = (1, -2, 0)
        found = resample_to(self.ramp, (6, 7, 8), self.ramp.affine @ step, fill=-9.0)
        np.testing.assert_array_equal(found.array[:-1, 2:], self.ramp.array[1:, :-2])
        assert (found.array[-1] == -9).all() and (found.array[:, :2] == -9).all()

    def test_linear_between_voxels_and_nearest_for_labels(self):
        finer = self.ramp.affine @ np.diag([0.25, 1, 1, 1])
        found = resample_to(self.ramp, (21, 7, 8), finer)
        np.testing.assert_allclose(found.array[:, 0, 0], np.arange(21) / 4, atol=1e-6)
        labels = Volume(self.ramp.array.astype(np.int64), self.ramp.affine)
        found = resample_to(labels, (21, 7, 8), finer, labels=True)
        assert found.array.dtype == np.int64
        np.testing.assert_array_equal(found.array[[0, 1, 3, 4, 5], 0, 0], [0, 0, 1, 1, 1])

    def test_turned_axes(self):
        turned = self.ramp.affine[:, [2, 1, 0, 3]]
        found = resample_to(self.ramp, (8, 7, 6), turned)
        np.testing.assert_array_equal(found.array, self.ramp.array.transpose(2, 1, 0))

    def test_slices(self):
        kept = keep_slices(self.ramp, 2, 5, "scan")
        np.testing.assert_array_equal(kept.array, self.ramp.array[:, :, 2:5])
        np.testing.assert_array_equal(kept.affine[:3, 3], [0, 0, 6])
        with pytest.raises(BadInputError, match="scan: expected at least 9 slices, found 8"):
            keep_slices(self.ramp, 2, 9, "scan")

    def test_smallest_and_largest(self):
        scaled = to_min_max(Volume(self.ramp.array - 5, self.ramp.affine), "scan").array
        assert scaled.min() == 0 and scaled.max() == 1 and scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, self.ramp.array / 18, atol=1e-6)
        with pytest.raises(BadInputError, match="scan: .* more than one intensity, found only 4"):
            to_min_max(Volume(np.full((2, 2, 2), 4.0), np.eye(4)), "scan")
