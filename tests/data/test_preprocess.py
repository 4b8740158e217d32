"""Crops and coarser grids keep every voxel at its place in the world."""

import numpy as np
import pytest

from regnet_lib.data import BadInputError, Volume
from regnet_lib.data.preprocess import crop, halve_image, halve_labels

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
