"""Landmark files in every frame they come in, against SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk

from regnet_lib.data import BadInputError, write_volume
from regnet_lib.data.landmarks import read_landmarks, write_landmarks

POINTS = np.array([[0.0, 1, 2], [3.25, 4, 5], [6, 2.5, 1]])
AFFINE = np.array([[-1.5, 0, 0, 20], [0, 0, 1.1, -7], [0, 2.0, 0, 3], [0, 0, 0, 1.0]])
frames = pytest.mark.parametrize(
    "frame",
    [
        {"space": "voxel"},
        {"space": "voxel", "base": 1},
        {"space": "voxel", "axes": "zyx"},
        {"space": "voxel", "base": 1, "axes": "zyx"},
        {"space": "ras"},
        {"space": "lps"},
        {"space": "lps", "axes": "zyx"},
    ],
    ids=str,
)


@frames
def test_there_and_back(tmp_path, frame):
    path = write_landmarks(tmp_path / "points.csv", POINTS, AFFINE, **frame)
    np.testing.assert_allclose(read_landmarks(path, AFFINE, **frame), POINTS, atol=1e-4)
    heading = "z,y,x" if frame.get("axes") == "zyx" else "x,y,z"
    assert path.read_text().splitlines()[0] == heading


def test_lps_is_what_simpleitk_says(tmp_path):
    image = sitk.ReadImage(
        str(write_volume(tmp_path / "a.nii", np.zeros((8, 7, 6), np.float32), AFFINE))
    )
    lps = [image.TransformContinuousIndexToPhysicalPoint(point.tolist()) for point in POINTS]
    np.savetxt(tmp_path / "points.txt", lps)
    found = read_landmarks(tmp_path / "points.txt", AFFINE, space="lps")
    np.testing.assert_allclose(found, POINTS, atol=1e-4)


def test_counting_from_one_and_backwards(tmp_path):
    (tmp_path / "points.csv").write_text("3,2,1\n")
    found = read_landmarks(tmp_path / "points.csv", np.eye(4), base=1, axes="zyx")
    assert found.tolist() == [[0, 1, 2]]


def test_two_columns(tmp_path):
    path = write_landmarks(tmp_path / "points.csv", POINTS[:, :2], np.diag([2.0, 3, 1, 1]))
    assert path.read_text().startswith("x,y\n0.0000,1.0000")
    found = read_landmarks(path, np.diag([2.0, 3, 1, 1]), space="ras", dimensions=2)
    np.testing.assert_allclose(found, POINTS[:, :2] / [2, 3], atol=1e-4)


def test_existing_files_are_kept(tmp_path):
    path = write_landmarks(tmp_path / "points.csv", POINTS, AFFINE)
    with pytest.raises(BadInputError, match="exists"):
        write_landmarks(path, POINTS, AFFINE)
    write_landmarks(path, POINTS + 1, AFFINE, overwrite=True)
    np.testing.assert_allclose(read_landmarks(path, AFFINE), POINTS + 1)


@pytest.mark.parametrize(
    "wrong", [{"space": "mni"}, {"base": 2}, {"axes": "yxz"}, {"space": "ras", "base": 1}]
)
def test_meanings_that_do_not_exist(tmp_path, wrong, unchecked):
    with pytest.raises(BadInputError, match="points.csv: expected"):
        write_landmarks(tmp_path / "points.csv", POINTS, AFFINE, **wrong)
    with pytest.raises(BadInputError, match="points.csv: expected"):
        read_landmarks(tmp_path / "points.csv", AFFINE, **wrong)
