"""CT of the lungs: the window of intensities, where the lungs lie, and phantoms as CT.

image = to_lung_window(ct)             # Hounsfield units -> [0, 1]
first, last = lung_box(ct, path)       # voxels, inclusive
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regnet_lib.data.case import Case
from regnet_lib.data.nifti import BadInputError, Volume
from regnet_lib.data.phantoms import phantom_pair

# AD-RegNet section IV.B prints "-1000 - to - 200HU", "to focus on lung tissue". Read as -200, since
# a window up to +200 would hold all soft tissue.
WINDOW_HU = (-1000.0, -200.0)
AIR_HU = -1024.0
# Lung tissue is darker than this, everything else in the body but gas is brighter.
LUNG_BELOW_HU = -400.0


def to_lung_window(volume: Volume) -> Volume:
    """Hounsfield units clipped to `WINDOW_HU` and scaled to [0, 1]."""
    lowest, highest = WINDOW_HU
    scaled = (np.clip(volume.array, lowest, highest) - lowest) / (highest - lowest)
    return Volume(scaled.astype(np.float32, order="C"), volume.affine)


def lung_box(volume: Volume, path: object) -> tuple[np.ndarray, np.ndarray]:
    """First and last voxel `(3,)` of the box around the lungs of a CT in Hounsfield units.

    Dark regions that are closed within their axial slice, joined across slices; of these the
    largest and those of at least a tenth of its size. Gas in the bowel can make the box larger.
    """
    from scipy.ndimage import find_objects, label

    in_slice = np.zeros((3, 3, 3), dtype=bool)
    in_slice[1, :, 1] = in_slice[:, 1, 1] = True
    pieces, count = label(volume.array < LUNG_BELOW_HU, in_slice)
    closed = np.ones(count + 1, dtype=bool)
    closed[0] = False
    for side in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        closed[side] = False
    regions, count = label(closed[pieces])
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    if sizes.max() == 0:
        raise BadInputError(
            f"{path}: expected lungs, found no region below {LUNG_BELOW_HU:g} HU inside the body. "
            "Check the intensities."
        )
    boxes = find_objects(regions)
    kept = [boxes[region - 1] for region in np.flatnonzero(sizes >= 0.1 * sizes.max())]
    first = np.min([[axis.start for axis in box] for box in kept], axis=0)
    last = np.max([[axis.stop - 1 for axis in box] for box in kept], axis=0)
    return first, last


@dataclass(frozen=True)
class FakeScans:
    """A breathing phantom: two CTs `(D, H, W)` int16 in Hounsfield units, lung masks, and the
    phantom itself with landmarks and the true displacement."""

    moving: np.ndarray
    fixed: np.ndarray
    moving_mask: np.ndarray
    fixed_mask: np.ndarray
    phantom: Case


def fake_lungs(
    shape: Sequence[int],
    seed: int,
    *,
    landmarks: int = 40,
    max_displacement_voxels: float | None = None,
) -> FakeScans:
    """Phantom lungs with vessels, as an adapter's fake data; air is -1000 HU, fat about 0."""
    case = phantom_pair(
        shape,
        seed=seed,
        kind="lung",
        max_displacement_voxels=max_displacement_voxels,
        landmarks=landmarks,
        noise=0.01,
    )
    moving, fixed = (
        (1600 * image[0, 0].numpy() - 1000).round().astype(np.int16)
        for image in (case.moving, case.fixed)
    )
    moving_mask, fixed_mask = (
        (labels[0, 0].numpy() > 0).astype(np.uint8)
        for labels in (case.moving_labels, case.fixed_labels)
    )
    return FakeScans(moving, fixed, moving_mask, fixed_mask, case)
