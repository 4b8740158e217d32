"""Crops and coarser grids of a volume, with the affine that goes along.

volume = halve_image(crop(read_volume(path), 8))
"""

import numpy as np

from regnet_lib.data.nifti import BadInputError, Volume


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


def _even(array: np.ndarray) -> np.ndarray:
    """Drop the last plane of odd sides."""
    return array[tuple(slice(0, side - side % 2) for side in array.shape)]


def _twice_as_large() -> np.ndarray:
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:3, 3] = 0.5
    return matrix
