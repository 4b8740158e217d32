"""Lists of points: files in, voxels of a case out."""

import numpy as np
import pytest
import torch

from regnet_lib.data import BadInputError, Case, landmarks_outside
from regnet_lib.data.landmarks import on_grid, read_columns, read_pairs, require_inside


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3\n4,5,6.5\n",
        "1 2\t3\r\n4 5 6.5",
        "x,y,z\n1,2,3\n\n4,5,6.5\n",
        b"\xef\xbb\xbf1.0, 2.0, 3.0\n  4 5  6.5\n\n",
    ],
)
def test_separators_headings_and_line_ends(tmp_path, text):
    points = read_columns(write(tmp_path / "points.csv", text), 3)
    np.testing.assert_array_equal(points, [[1, 2, 3], [4, 5, 6.5]])


@pytest.mark.parametrize(
    "text, found",
    [
        ("1,2,3\n4,5\n", "'4,5' in line 2"),
        ("1,2,3\n4,5,nan\n", "'4,5,nan' in line 2"),
        ("1,2,3\n4,5,inf\n", "line 2"),
        ("1,2,three\n", "line 1"),
        ("1,2,3\nx,y,z\n", "'x,y,z' in line 2"),
        ("1,2,3,4\n", "line 1"),
        ("\n\n", "found none"),
        ("<!DOCTYPE html>\n<html lang='en'>\n", "line 2"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "found a binary one"),
    ],
)
def test_files_that_are_refused(tmp_path, text, found):
    with pytest.raises(BadInputError, match=f"points.csv: expected .*{found}"):
        read_columns(write(tmp_path / "points.csv", text), 3)


def test_missing_file(tmp_path):
    with pytest.raises(BadInputError, match="none.csv: the file does not exist"):
        read_columns(tmp_path / "none.csv", 3)


def test_one_point_is_not_broadcast(tmp_path):
    few = write(tmp_path / "few.csv", "1,2,3\n")
    many = write(tmp_path / "many.csv", "1,2,3\n4,5,6\n")
    with pytest.raises(BadInputError, match=r"few.csv: expected as many .*many.csv, 2, found 1"):
        read_pairs(few, many)
    moving, fixed = read_pairs(many, many)
    assert moving.shape == fixed.shape == (2, 3)


def test_points_outside_their_scan():
    require_inside(np.array([[0, 0, 0], [3, 4, 5]]), (4, 5, 6), "points")
    for outside in ([-1, 0, 0], [0, 0, 6]):
        with pytest.raises(BadInputError, match=r"shape \(4, 5, 6\), found 1 of 2 points outside"):
            require_inside(np.array([[0, 0, 0], outside]), (4, 5, 6), "points")


def test_on_grid_keeps_the_place_in_the_world():
    old = np.diag([-1.0, -2.0, 3.0, 1.0])
    new = np.array([[0, 0.5, 0, 3.0], [2, 0, 0, -1], [0, 0, 1, 4], [0, 0, 0, 1]])
    points = np.array([[1.0, 2, 3], [4, 5, 6]])
    moved = on_grid(points, old, new).double().numpy()
    world = points @ old[:3, :3].T + old[:3, 3]
    np.testing.assert_allclose(moved @ new[:3, :3].T + new[:3, 3], world, atol=1e-5)


def test_counting_landmarks_outside():
    image = torch.zeros(1, 1, 4, 5, 6)
    points = torch.tensor([[0.0, 0, 0], [3, 4, 5], [3.1, 4, 5], [0, -0.1, 0]])
    assert landmarks_outside(Case("a", image, image, np.eye(4))) == 0
    case = Case("a", image, image, np.eye(4), moving_landmarks=points, fixed_landmarks=points)
    assert landmarks_outside(case) == 2
