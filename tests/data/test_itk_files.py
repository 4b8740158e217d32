"""MetaImage, NRRD and flat pictures: the same voxels at the same place as in NIfTI."""

import numpy as np
import pytest
import SimpleITK as sitk

from regnet_lib.data import BadInputError, read_volume, write_volume
from regnet_lib.data.itk_files import itk_affine, itk_array, itk_image
from regnet_lib.spatial.world import ras_to_lps, voxel_to_world

ARRAY = np.random.default_rng(0).random((7, 6, 5)).astype(np.float32)
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.diag([-1.2, 1.5, 2.0])
AFFINE[:3, 3] = (4, -9, 11)
suffixes = pytest.mark.parametrize("suffix", [".mha", ".nrrd"])


@suffixes
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_written_and_read_back(tmp_path, suffix, dtype):
    array = (200 * ARRAY).astype(dtype)
    path = write_volume(tmp_path / f"image{suffix}", array, AFFINE)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array.astype(np.float32))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    assert list(tmp_path.iterdir()) == [path]


@suffixes
def test_labels(tmp_path, suffix):
    labels = np.random.default_rng(1).choice([0, 3, 1035], ARRAY.shape)
    path = write_volume(tmp_path / f"labels{suffix}", labels, AFFINE)
    volume = read_volume(path, labels=True)
    assert volume.array.dtype == np.int64
    np.testing.assert_array_equal(volume.array, labels)


@suffixes
def test_the_place_is_the_same_in_both_libraries(tmp_path, suffix):
    nifti = write_volume(tmp_path / "image.nii.gz", ARRAY, AFFINE)
    other = tmp_path / f"image{suffix}"
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(other))
    first, second = read_volume(nifti), read_volume(other)
    np.testing.assert_array_equal(first.array, second.array)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-5)


def test_points_of_our_images_are_where_simpleitk_sees_them():
    image = itk_image(ARRAY, AFFINE)
    assert image.GetSize() == ARRAY.shape and image[1, 2, 3] == ARRAY[1, 2, 3]
    found = image.TransformContinuousIndexToPhysicalPoint((1.5, 2.0, 3.25))
    expected = ras_to_lps(voxel_to_world(np.array([[1.5, 2.0, 3.25]]), AFFINE))[0]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_array_equal(itk_array(image), ARRAY)
    np.testing.assert_allclose(itk_affine(image), AFFINE, atol=1e-12)


def test_vectors_and_planes():
    vectors = np.random.default_rng(2).random((7, 6, 5, 3)).astype(np.float32)
    image = itk_image(vectors, AFFINE, vector=True)
    np.testing.assert_allclose(image[1, 2, 3], vectors[1, 2, 3])
    np.testing.assert_array_equal(itk_array(image), vectors)
    plane = itk_image(ARRAY[:, :, 0], np.diag([-2.0, 3, 1, 1]))
    assert plane.GetSize() == (7, 6) and plane.GetSpacing() == (2.0, 3.0)
    np.testing.assert_allclose(itk_affine(plane), np.diag([-2.0, 3, 1, 1]))


def test_pictures_are_for_those_who_ask(tmp_path):
    byte = (255 * ARRAY[:, :, 0]).astype(np.uint8)
    path = tmp_path / "slice.png"
    sitk.WriteImage(sitk.GetImageFromArray(byte.T), str(path))
    with pytest.raises(BadInputError, match="a PNG picture"):
        read_volume(path)
    volume = read_volume(path, planar=True)
    np.testing.assert_array_equal(volume.array, byte)
    assert volume.spacing_mm == (1.0, 1.0) and "1 mm" in volume.notes[0]
    color = sitk.Compose(*[sitk.GetImageFromArray(byte.T)] * 3)
    sitk.WriteImage(color, str(path))
    with pytest.raises(BadInputError, match="3 components"):
        read_volume(path, planar=True)


def test_planes_of_nifti_files(tmp_path):
    path = write_volume(tmp_path / "slice.nii", ARRAY[:, :, :1], np.diag([1.0, 2, 3, 1]))
    with pytest.raises(BadInputError, match="one 3-D volume"):
        read_volume(path)
    volume = read_volume(path, planar=True)
    assert volume.array.shape == (7, 6) and volume.spacing_mm == (1.0, 2.0)


def test_without_simpleitk_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    path = write_volume(tmp_path / "image.mha", ARRAY, AFFINE)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ModuleNotFoundError, match=r"regnet_lib\[io\]"):
        read_volume(path)
