"""Lists of corresponding points, from text files to the grid of a case.

    moving, fixed = read_pairs("LungCT_0001_0001.csv", "LungCT_0001_0000.csv")    # (N, 3) each
    points = on_grid(fixed, affine_of_the_list, case.affine)                     # (N, 3) voxels

A crop can leave points outside the grid of a case. They stay in the list, because published errors
are means over all of them; `landmarks_outside` counts them, and evaluation gives them the nearest
displacement of the grid.
"""

import os
import re
from pathlib import Path

import numpy as np
import torch

from regnet_lib.data.case import Case
from regnet_lib.data.nifti import BadInputError
from regnet_lib.types import Points


def read_columns(path: str | os.PathLike, columns: int) -> np.ndarray:
    """Numbers `(N, columns)` of a text file, separated by commas or blanks.

    One line of headings, a byte-order mark and the line ends of any system are accepted.

    Raises:
        BadInputError: missing or empty file, or a line with anything but `columns` finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInputError(f"{path}: the file does not exist. Check the path.")
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
