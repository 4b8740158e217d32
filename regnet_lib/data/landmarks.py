"""Lists of points in text files, and the grids and frames that they are counted in.

    points = read_landmarks("points.csv", affine, space="lps")                   # (N, 3) voxels
    moving, fixed = read_pairs("LungCT_0001_0001.csv", "LungCT_0001_0000.csv")    # (N, 3) each
    points = on_grid(fixed, affine_of_the_list, case.affine)                     # (N, 3) voxels

A crop can leave points outside the grid of a case. They stay in the list, because published errors
are means over all of them; `landmarks_outside` counts them, and evaluation gives them the nearest
displacement of the grid.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.case import Case
from regnet_lib.data.volume import BadInputError
from regnet_lib.types import Points

Space = Literal["voxel", "ras", "lps"]
# Signs that take RAS to RAS and LPS to RAS, and back.
SIGNS = {"ras": np.array([1.0, 1.0, 1.0]), "lps": np.array([-1.0, -1.0, 1.0])}


@dataclass(frozen=True)
class Columns:
    """What the columns of a landmark file are; the arguments of `read_landmarks`."""

    space: Space = "voxel"
    base: int = 0
    axes: Literal["xyz", "zyx"] = "xyz"


def read_landmarks(
    path: str | os.PathLike,
    affine: np.ndarray,
    *,
    space: Space = "voxel",
    base: int = 0,
    axes: Literal["xyz", "zyx"] = "xyz",
    dimensions: int = 3,
) -> np.ndarray:
    """Points of a text file as voxels `(N, n)` of an image, counted from 0.

    Args:
        affine: voxel -> RAS+ mm of the image that the points were marked in.
        space: what the columns count: voxels, RAS+ mm (nibabel, MNI) or LPS mm (ITK, ANTs, Slicer).
        base: the first voxel is number 0, or 1 as in DIR-Lab and Matlab.
        axes: order of the columns; `zyx` where software counts arrays backwards, as SimpleITK's
            NumPy views do.
        dimensions: number of columns, 3, or 2 for slices.

    Raises:
        BadInputError: as `read_columns`, or a base that makes no sense.
    """
    _require_meaning(path, space, base, axes)
    points = read_columns(path, dimensions)
    if axes == "zyx":
        points = points[:, ::-1]
    if space == "voxel":
        return np.ascontiguousarray(points - base)
    world = points * SIGNS[space][:dimensions]
    linear, origin = affine[:dimensions, :dimensions], affine[:dimensions, 3]
    return (world - origin) @ np.linalg.inv(linear).T


def write_landmarks(
    path: str | os.PathLike,
    points: np.ndarray,
    affine: np.ndarray,
    *,
    space: Space = "voxel",
    base: int = 0,
    axes: Literal["xyz", "zyx"] = "xyz",
    overwrite: bool = False,
) -> Path:
    """The reverse of `read_landmarks`: a CSV file with a heading, four decimals."""
    path = Path(path)
    _require_meaning(path, space, base, axes)
    points = np.asarray(points, dtype=float)
    dimensions = points.shape[1]
    if space == "voxel":
        columns = points + base
    else:
        world = points @ affine[:dimensions, :dimensions].T + affine[:dimensions, 3]
        columns = world * SIGNS[space][:dimensions]
    names = "xyz"[:dimensions]
    if axes == "zyx":
        columns, names = columns[:, ::-1], names[::-1]
    lines = [",".join(names), *(",".join(f"{value:.4f}" for value in row) for row in columns)]
    text = "\n".join(lines) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text), overwrite=overwrite)
    return path


def _require_meaning(path: object, space: str, base: int, axes: str) -> None:
    if space not in ("voxel", "ras", "lps") or base not in (0, 1) or axes not in ("xyz", "zyx"):
        raise BadInputError(
            f"{path}: expected space 'voxel', 'ras' or 'lps', base 0 or 1, and axes 'xyz' or "
            f"'zyx', got {space!r}, {base!r} and {axes!r}."
        )
    if base == 1 and space != "voxel":
        raise BadInputError(
            f"{path}: expected base 0 for millimetres, got 1. Only voxels are counted; give the "
            "base only with space 'voxel'."
        )


def read_columns(path: str | os.PathLike, columns: int) -> np.ndarray:
    """Numbers `(N, columns)` of a text file, separated by commas or blanks.

    One line of headings, a byte-order mark and the line ends of any system are accepted.

    Raises:
        BadInputError: missing or empty file, or a line with anything but `columns` finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder was found" if path.is_dir() else "the file does not exist"
        raise BadInputError(f"{path}: {found}. Check the path.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{path}: expected a text file with {columns} numbers per line, found a binary one. "
            "Fetch it again."
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        words = re.split(r"[,;\s]+", line.strip())
        if words == [""] or (number == 1 and not any(map(_is_number, words))):
            continue
        if len(words) != columns or not all(map(_is_number, words)):
            raise BadInputError(
                f"{path}: expected {columns} finite numbers per line, found {line.strip()!r} in "
                f"line {number}. Fetch it again."
            )
        rows.append([float(word) for word in words])
    if not rows:
        raise BadInputError(f"{path}: expected at least one point, found none. Fetch it again.")
    return np.array(rows)


def read_pairs(
    moving_path: str | os.PathLike, fixed_path: str | os.PathLike
) -> tuple[np.ndarray, np.ndarray]:
    """Two lists `(N, 3)` whose rows correspond."""
    moving, fixed = read_columns(moving_path, 3), read_columns(fixed_path, 3)
    if len(moving) != len(fixed):
        raise BadInputError(
            f"{moving_path}: expected as many points as in {fixed_path}, {len(fixed)}, found "
            f"{len(moving)}. Row i of both files must be the same place; fetch both again."
        )
    return moving, fixed


def require_inside(points: np.ndarray, shape: tuple[int, ...], path: object) -> None:
    """All points must lie in the scan they were marked in."""
    outside = ((points < 0) | (points > np.array(shape) - 1)).any(axis=1)
    if outside.any():
        raise BadInputError(
            f"{path}: expected voxels of a scan of shape {tuple(shape)}, found "
            f"{int(outside.sum())} of {len(points)} points outside, the first, counted from 0, at "
            f"{points[outside][0].tolist()}. Check that the list belongs to this scan."
        )


def on_grid(points: np.ndarray, affine: np.ndarray, grid_affine: np.ndarray) -> Points:
    """Voxels of one grid as voxels of another grid in the same world, float32."""
    matrix = np.linalg.inv(grid_affine) @ affine
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    return torch.from_numpy(moved.astype(np.float32))


def landmarks_outside(case: Case) -> int:
    """How many landmarks of the fixed image lie outside the grid of the case."""
    if case.fixed_landmarks is None:
        return 0
    last = torch.tensor(case.shape) - 1
    return int(((case.fixed_landmarks < 0) | (case.fixed_landmarks > last)).any(dim=1).sum())


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False
