"""The two images of a registration: read, checked against each other, brought to one grid.

pair = Pair("moving.nii.gz", "fixed.nii.gz", prealign="affine")
moving, fixed = pair.on_fixed_grid(pair.align())      # (1, 1, *shape) each, in [0, 1]
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from regnet_lib.data.landmarks import Columns, read_landmarks
from regnet_lib.data.nifti import read_volume
from regnet_lib.data.volume import BadInputError, Volume, require_same_grid, same_grid
from regnet_lib.spatial.world import between_grids, voxel_to_world, warp_from

Source = str | os.PathLike | np.ndarray | Tensor
Points = str | os.PathLike | np.ndarray | Tensor | Sequence[Sequence[float]]
Prealign = Literal["none", "rigid", "affine"]

# Methods that work on slices as on volumes; networks are made for 3-D.
PLANAR_MODELS = ("gradient_descent", "syn")
# More distinct values than any atlas has: an image was given as its label map.
MOST_LABELS = 1024


class Pair:
    """Two images, each on its grid, and the world between them."""

    def __init__(
        self, moving: Source, fixed: Source, prealign: Prealign, resample_to: str, model: str
    ) -> None:
        self.names = (name_of(moving, "moving"), name_of(fixed, "fixed"))
        self.moving, self.fixed = read_source(moving), read_source(fixed)
        self.kind = prealign
        self.still = prealign == "none"
        axes = self.fixed.array.ndim
        if self.moving.array.ndim != axes:
            raise BadInputError(
                f"{self.names[0]}: expected an image of {axes} dimensions like {self.names[1]}, "
                f"found the shape {self.moving.array.shape}. Give two volumes or two slices."
            )
        if axes == 2 and model not in PLANAR_MODELS:
            raise BadInputError(
                f"{self.names[1]}: expected a 3-D image for the model {model!r}, found the slice "
                f"{self.fixed.array.shape}. For slices take {' or '.join(PLANAR_MODELS)}."
            )
        for volume, name in zip((self.moving, self.fixed), self.names, strict=True):
            if not volume.array.max() > volume.array.min():
                raise BadInputError(
                    f"{name}: expected an image with contrast, found the constant value "
                    f"{float(volume.array.min()):g} everywhere. Check that it is the right file."
                )
        if self.still and resample_to == "none":
            require_same_grid(self.moving, self.fixed, *self.names)
        self.one_grid = same_grid(self.moving, self.fixed)
        self.to_moving = np.eye(4)
        if not self.one_grid:
            self.to_moving = between_grids(self.moving.affine, self.fixed.affine)
        self.notes = [
            f"{Path(name).name}: {note}"
            for name, volume in zip(self.names, (self.moving, self.fixed), strict=True)
            for note in volume.notes
        ]

    def align(self) -> np.ndarray:
        """Fixed -> moving, RAS+ mm."""
        if self.kind == "none":
            return np.eye(4)
        from regnet_lib.prealign import prealign

        return prealign(self.moving, self.fixed, self.kind)

    def on_fixed_grid(self, world: np.ndarray) -> tuple[Tensor, Tensor]:
        """Moving and fixed `(1, 1, *shape)` in [0, 1], the range that all models were made for."""
        fixed = torch.from_numpy(unit_range(self.fixed.array, self.fixed.array))[None, None]
        moving = torch.from_numpy(unit_range(self.moving.array, self.moving.array))[None, None]
        unmoved = np.array_equal(world, np.eye(4))
        if not (unmoved and self.one_grid):
            to_moving = between_grids(self.moving.affine, self.fixed.affine, world)
            still = torch.zeros(1, fixed.ndim - 2, *fixed.shape[2:])
            moving = warp_from(moving, still, to_moving)
            if not self.still and unmoved:
                return moving, fixed  # before the alignment they need not overlap
            if not float(moving.max()) > float(moving.min()):
                raise BadInputError(
                    f"{self.names[0]}: expected an image that overlaps {self.names[1]} in the "
                    f"world, found none: the centres lie {self._apart_mm():.0f} mm apart. Repair "
                    "the headers, or align the images first (--prealign)."
                )
        return moving, fixed

    def scaled_to_moving(self, array: np.ndarray) -> Tensor:
        """An image with the moving intensities, scaled as the moving image was."""
        return torch.from_numpy(unit_range(array, self.moving.array))[None, None]

    def pictures(self, warped: np.ndarray) -> dict[str, np.ndarray]:
        """Fixed, moving and warped `(*shape)` on the fixed grid, for the report."""
        return {
            "fixed": self.fixed.array,
            "moving": self.on_fixed_grid(np.eye(4))[0][0, 0].numpy(),
            "warped": self.scaled_to_moving(warped)[0, 0].numpy(),
        }

    def _apart_mm(self) -> float:
        centres = [
            voxel_to_world((np.array(volume.array.shape) - 1) / 2, volume.affine)
            for volume in (self.moving, self.fixed)
        ]
        return float(np.linalg.norm(centres[0] - centres[1]))


def read_source(source: Source) -> Volume:
    if isinstance(source, str | os.PathLike):
        return read_volume(source, planar=True)
    array = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (2, 3) or min(array.shape) < 2 or not np.isfinite(array).all():
        raise BadInputError(
            "register: expected finite arrays of shape (D, H, W) or (H, W), got shape "
            f"{array.shape}."
        )
    return Volume(array.astype(np.float32), np.eye(4))


def label_map(
    source: Source | None, image: Volume, name: str, image_source: Source
) -> Tensor | None:
    """`(1, 1, *shape)` int64 on the grid of its image."""
    if source is None:
        return None
    if isinstance(source, str | os.PathLike):
        labels = read_volume(source, labels=True, planar=True)
    else:
        array = np.asarray(source)
        while array.ndim > image.array.ndim and array.shape[0] == 1:
            array = array[0]
        labels = Volume(array.astype(np.int64), image.affine)
    given, belongs = name_of(source, name), name_of(image_source, name.removesuffix("_labels"))
    if labels.array.shape != image.array.shape:
        raise BadInputError(
            f"{given}: expected the shape of {belongs}, {image.array.shape}, found "
            f"{labels.array.shape}. Give the label map that belongs to the image."
        )
    if not same_grid(labels, image):
        raise BadInputError(
            f"{given}: expected the voxel-to-world matrix of {belongs}, "
            f"{image.affine.round(4).tolist()}, found {labels.affine.round(4).tolist()}. Give the "
            "label map that belongs to the image."
        )
    distinct = len(np.unique(labels.array))
    if distinct > MOST_LABELS:
        raise BadInputError(
            f"{given}: expected a label map, found {distinct} different values. Is it an image?"
        )
    if distinct == 1:
        raise BadInputError(
            f"{given}: expected a label map, found the value {int(labels.array.flat[0])} "
            "everywhere. Check that it is the right file."
        )
    return torch.from_numpy(np.ascontiguousarray(labels.array))[None, None]


def landmark_points(
    source: Points | None, volume: Volume, name: str, columns: Columns
) -> np.ndarray | None:
    """`(N, n)` voxels of the volume, all inside it."""
    if source is None:
        return None
    axes = volume.array.ndim
    if isinstance(source, str | os.PathLike):
        points = read_landmarks(source, volume.affine, dimensions=axes, **vars(columns))
    else:
        given = source.detach().cpu() if isinstance(source, Tensor) else source
        points = np.asarray(given, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != axes or not np.isfinite(points).all():
            raise BadInputError(
                f"register: expected {name} of shape (N, {axes}), all finite, got shape "
                f"{points.shape}."
            )
    # Text files round: a point on the outermost voxel centre may come out a hair beyond it.
    last = np.array(volume.array.shape) - 1.0
    tolerance = 1e-3
    outside = ((points < -tolerance) | (points > last + tolerance)).any(axis=1)
    if outside.any():
        first = points[outside][0].round(3).tolist()
        raise BadInputError(
            f"{name_of(source, name)}: expected points inside the image, voxels 0 to "
            f"{last.astype(int).tolist()}, found {int(outside.sum())} of {len(points)} outside, "
            f"the first at voxel {first}. Check what the file counts: voxels from 0 or from 1, or "
            "millimetres in RAS or LPS (--landmark-space, --landmark-base, --landmark-axes)."
        )
    return points.clip(0, last)


def require_pairs(fixed_points: np.ndarray | None, moving_points: np.ndarray | None) -> None:
    if moving_points is None:
        return
    if fixed_points is None or len(fixed_points) != len(moving_points):
        found = 0 if fixed_points is None else len(fixed_points)
        raise BadInputError(
            f"register: expected as many landmarks of the fixed image as of the moving one, "
            f"{len(moving_points)}, got {found}. Row i of both lists must be the same place."
        )


def in_world(
    fixed: np.ndarray | None, moving: np.ndarray | None, warped: np.ndarray | None, pair: Pair
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Fixed, moving and warped points in RAS+ mm, where both lists are known."""
    if fixed is None or moving is None or warped is None:
        return None
    return (
        voxel_to_world(fixed, pair.fixed.affine),
        voxel_to_world(moving, pair.moving.affine),
        voxel_to_world(warped, pair.moving.affine),
    )


def unit_range(array: np.ndarray, of: np.ndarray) -> np.ndarray:
    low, high = float(of.min()), float(of.max())
    return np.ascontiguousarray((array - np.float32(low)) / np.float32(high - low))


def describe(source: Source, volume: Volume) -> dict[str, object]:
    """Which image this was, to be found again."""
    described: dict[str, object] = {
        "name": Path(name_of(source, "array")).name,
        "shape": list(volume.array.shape),
        "spacing_mm": [round(size, 6) for size in volume.spacing_mm],
        "affine_ras_mm": volume.affine.round(6).tolist(),
    }
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            described["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return described


def is_path(source: object) -> bool:
    return isinstance(source, str | os.PathLike)


def name_of(source: object, otherwise: str) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else otherwise
