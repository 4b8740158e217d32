"""Crops, pads, turns, coarser grids and intensities of a volume, with the affine that goes along.

volume = halve_image(crop(read_volume(path), 8))
"""

from collections.abc import Sequence

import numpy as np
import torch

from regnet_lib.data.nifti import BadInputError, Volume
from regnet_lib.spatial.grid import resample


def crop(volume: Volume, margin_voxels: int) -> Volume:
    """Remove `margin_voxels` from every face; the origin moves to the first voxel that is kept."""
    if min(volume.array.shape) <= 2 * margin_voxels + 1:
        raise BadInputError(
            f"crop: expected sides above {2 * margin_voxels + 1} voxels, got {volume.array.shape}."
        )
    inner = tuple(slice(margin_voxels, side - margin_voxels) for side in volume.array.shape)
    shift = np.eye(4)
    shift[:3, 3] = margin_voxels
    return Volume(np.ascontiguousarray(volume.array[inner]), volume.affine @ shift)


def keep_slices(volume: Volume, first: int, stop: int, path: object) -> Volume:
    """The slices `first` to `stop - 1` of the last axis; the origin moves to the first of them."""
    if volume.array.shape[2] < stop:
        raise BadInputError(
            f"{path}: expected at least {stop} slices, found {volume.array.shape[2]}. Fetch it "
            "again, or open the dataset without the crop."
        )
    shift = np.eye(4)
    shift[2, 3] = first
    return Volume(np.ascontiguousarray(volume.array[:, :, first:stop]), volume.affine @ shift)


def pad_to(volume: Volume, shape: Sequence[int]) -> Volume:
    """Zeros around the volume up to `shape`; an odd one out goes to the end of the axis."""
    missing = [target - side for target, side in zip(shape, volume.array.shape, strict=True)]
    if min(missing) < 0:
        raise BadInputError(
            f"pad_to: expected sides of at most {tuple(shape)}, got {volume.array.shape}."
        )
    before = [amount // 2 for amount in missing]
    around = [(first, amount - first) for first, amount in zip(before, missing, strict=True)]
    shift = np.eye(4)
    shift[:3, 3] = [-first for first in before]
    return Volume(np.pad(volume.array, around), volume.affine @ shift)


def reorient(volume: Volume, axes: str) -> Volume:
    """Exchange and flip array axes until they point as `axes` says, for example "RAS" or "LPI".

    The letters name the direction in which each array axis grows. No value is interpolated, and
    every voxel stays at its place in the world.
    """
    from nibabel.orientations import (
        apply_orientation,
        axcodes2ornt,
        inv_ornt_aff,
        io_orientation,
        ornt_transform,
    )

    turn = ornt_transform(io_orientation(volume.affine), axcodes2ornt(tuple(axes)))
    array = np.ascontiguousarray(apply_orientation(volume.array, turn))
    return Volume(array, volume.affine @ inv_ornt_aff(turn, volume.array.shape))


def end_for_end(volume: Volume) -> Volume:
    """The array reversed along all three axes; every voxel stays at its place in the world."""
    turn = np.diag([-1.0, -1.0, -1.0, 1.0])
    turn[:3, 3] = np.array(volume.array.shape) - 1
    return Volume(np.ascontiguousarray(volume.array[::-1, ::-1, ::-1]), volume.affine @ turn)


def to_unit_range(volume: Volume, path: object) -> Volume:
    """Intensities in [0, 1]; volumes that store the same as bytes, 0 to 255, are divided by 255."""
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    if lowest < 0 or highest > 255 or highest <= lowest:
        raise BadInputError(
            f"{path}: expected intensities from 0 to 1, or from 0 to 255, found {lowest:g} to "
            f"{highest:g}. Take the normalised, skull-stripped image."
        )
    if highest <= 1 + 1e-3:
        return volume
    return Volume(volume.array / np.float32(255), volume.affine)


def to_min_max(volume: Volume, path: object) -> Volume:
    """The smallest intensity becomes 0, the largest 1."""
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    if highest <= lowest:
        raise BadInputError(
            f"{path}: expected more than one intensity, found only {lowest:g}. Fetch it again."
        )
    scaled = (volume.array - np.float32(lowest)) / np.float32(highest - lowest)
    return Volume(scaled.astype(np.float32, order="C"), volume.affine)


def resample_to(
    volume: Volume,
    shape: Sequence[int],
    affine: np.ndarray,
    *,
    fill: float = 0.0,
    labels: bool = False,
) -> Volume:
    """The volume on another grid of the same world, linear (labels: nearest), `fill` outside.

    Args:
        shape, affine: of the new grid; affine maps its voxels to the world of `volume`.
    """
    from scipy.ndimage import affine_transform

    to_voxels = np.linalg.inv(volume.affine) @ affine
    array = affine_transform(
        volume.array,
        to_voxels[:3, :3],
        to_voxels[:3, 3],
        output_shape=tuple(shape),
        order=0 if labels else 1,
        mode="grid-constant",
        cval=fill,
    )
    return Volume(array, affine)


def halve_image(volume: Volume) -> Volume:
    """Means of 2x2x2 voxels; the new voxel centre lies between the eight old ones."""
    array = _even(volume.array)
    d, h, w = (side // 2 for side in array.shape)
    means = array.reshape(d, 2, h, 2, w, 2).mean(axis=(1, 3, 5), dtype=np.float32)
    return Volume(means, volume.affine @ _twice_as_large())


def halve_labels(volume: Volume) -> Volume:
    """Every second voxel, as the label maps of the authors' half-resolution data.

    The sample lies half a fine voxel from the centre that the affine (that of `halve_image`) names.
    Both label maps of a pair share the offset, so overlaps are not affected.
    """
    array = np.ascontiguousarray(_even(volume.array)[::2, ::2, ::2])
    return Volume(array, volume.affine @ _twice_as_large())


def shrink_image(volume: Volume) -> Volume:
    """Half the voxels along each axis, linear, as the LGANet++ scripts do: the outermost voxel
    centres stay (`align_corners=True`).

    Its samples are (n - 1) / (n / 2 - 1) fine voxels apart, slightly more than two. The affine is
    that of `shrink_labels`, exactly two: so the first sample of an axis is where the affine says,
    and the last shows what lies one fine voxel beyond. Unlike the means of `halve_image` it does
    not smooth.
    """
    image = torch.from_numpy(np.ascontiguousarray(_even(volume.array)))[None, None]
    array = resample(image, [side // 2 for side in image.shape[2:]])[0, 0].numpy()
    return Volume(array, volume.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))


def shrink_labels(volume: Volume) -> Volume:
    """Every second voxel from the first on, each exactly where the affine puts it."""
    array = np.ascontiguousarray(_even(volume.array)[::2, ::2, ::2])
    return Volume(array, volume.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))


def _even(array: np.ndarray) -> np.ndarray:
    """Drop the last plane of odd sides."""
    return array[tuple(slice(0, side - side % 2) for side in array.shape)]


def _twice_as_large() -> np.ndarray:
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:3, 3] = 0.5
    return matrix
