"""The grid and the intensities that a trained network knows, and the way there and back.

A network learned one voxel size, one order of axes and one range of grey values. Images of another
kind are brought to its grid, and its displacement is brought back to the grid of the fixed image.

    displacement, notes = ask_as_trained(ask, pair, pair.align(), trained, resample=True)
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regnet_lib.data.preprocess import reorient
from regnet_lib.data.volume import Volume, same_grid
from regnet_lib.pair import Pair, unit_range
from regnet_lib.spatial.world import between_grids, displacement_to_grid, warp_from
from regnet_lib.types import Displacement
from regnet_lib.weights import TrainedImages

# Voxel sizes that differ by less are the same: headers round.
SAME_SPACING = 0.02
# What is darker than this part of the range is background.
BACKGROUND = 0.05


def ask_as_trained(
    ask: Callable[[Tensor, Tensor], Displacement],
    pair: Pair,
    world: np.ndarray,
    trained: TrainedImages,
    *,
    resample: bool,
) -> tuple[Displacement, list[str]]:
    """The answer of a network on the fixed grid, and what the user may want to know about it.

    Args:
        ask: the network, from moving and fixed `(1, 1, *grid)` to a displacement.
        world: `(4, 4)` from the fixed to the moving image, RAS+ mm.
        resample: False for arrays, whose voxel size nobody knows: they are taken as they are.
    """
    grid = network_grid(pair.fixed, trained) if resample else pair.fixed
    moving, fixed = (to_trained_range(volume, trained) for volume in (pair.moving, pair.fixed))
    found = ask(on_network_grid(moving, grid, world), on_network_grid(fixed, grid))
    notes = [
        f"{Path(name).name}: {note}"
        for name, volume in zip(pair.names, (moving, fixed), strict=True)
        for note in volume.notes
    ]
    spacing = " x ".join(f"{size:g}" for size in trained.spacing_mm)
    known = f"the network was trained on {trained.what}, {spacing} mm, axes {trained.axes}"
    if not resample:
        return found, [*notes, f"{known}: the arrays were taken as such"]
    if same_grid(grid, pair.fixed):
        return found, notes
    sides = " x ".join(map(str, grid.array.shape))
    notes.append(f"{known}: registered on a grid of {sides} such voxels")
    onto = (pair.fixed.array.shape, pair.fixed.affine)
    return displacement_to_grid(found, grid.affine, *onto), notes


def to_trained_range(volume: Volume, trained: TrainedImages) -> Volume:
    """Intensities in [0, 1] as the network saw them.

    Values within [0, 1] are taken as prepared already and stay. CT numbers go through the window,
    where there is one; anything else is scaled by its own range. Where the values do not look like
    those of the training, the result has a note about it.
    """
    low, high = float(volume.array.min()), float(volume.array.max())
    if low >= 0 and high <= 1 + 1e-3:
        return volume
    if trained.window_hu is None:
        return Volume(unit_range(volume.array, volume.array), volume.affine)
    darkest, brightest = trained.window_hu
    if low < darkest / 2:
        scaled = (volume.array.clip(darkest, brightest) - darkest) / (brightest - darkest)
        return Volume(scaled.astype(np.float32, order="C"), volume.affine)
    note = (
        f"the network was trained on CT from {darkest:g} to {brightest:g} HU, this image has "
        f"values from {low:g} to {high:g}: scaled by its own range"
    )
    return Volume(unit_range(volume.array, volume.array), volume.affine, (note,))


def network_grid(fixed: Volume, trained: TrainedImages) -> Volume:
    """An empty volume that says where the network looks at the fixed image.

    Where voxel size and axes are those of the training, it is the grid of the image itself. Else it
    has them, parallel to the axes of the image, with the middle of what is not background in its
    middle, as large as in the training and larger where that does not fit.
    """
    from nibabel.orientations import aff2axcodes

    sizes = np.array(trained.spacing_mm)
    same_axes = "".join(aff2axcodes(fixed.affine)) == trained.axes
    if same_axes and np.allclose(fixed.spacing_mm, sizes, rtol=SAME_SPACING):
        return Volume(np.zeros_like(fixed.array), fixed.affine)
    turned = reorient(fixed, trained.axes)
    content = np.argwhere(unit_range(turned.array, turned.array) > BACKGROUND)
    first, last = content.min(axis=0), content.max(axis=0)
    spacing_mm = np.array(turned.spacing_mm)
    needed = np.ceil((last - first + 1) * spacing_mm / sizes).astype(int)
    shape = np.maximum(needed, trained.shape)
    affine = np.eye(4)
    affine[:3, :3] = turned.affine[:3, :3] / spacing_mm * sizes
    middle = turned.affine[:3, :3] @ ((first + last) / 2) + turned.affine[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
    return Volume(np.zeros(tuple(shape), np.float32), affine)


def on_network_grid(volume: Volume, grid: Volume, world: np.ndarray | None = None) -> Tensor:
    """An image `(1, 1, *grid)` on the grid of the network, smoothed where its voxels are larger.

    Args:
        grid: of `network_grid`.
        world: `(4, 4)` from the fixed to the moving image, RAS+ mm, for a moving image.
    """
    from scipy.ndimage import gaussian_filter

    to_volume = between_grids(volume.affine, grid.affine, world)
    if volume.array.shape == grid.array.shape and np.allclose(to_volume, np.eye(4), atol=1e-4):
        return torch.from_numpy(np.ascontiguousarray(volume.array))[None, None]
    # A larger voxel is the mean over its volume: a box of `voxels` voxels has this deviation.
    voxels = np.linalg.norm(to_volume[:3, :3], axis=1)
    deviation = np.sqrt(np.maximum(voxels**2 - 1, 0) / 12)
    smooth = gaussian_filter(volume.array, deviation, mode="nearest")
    still = torch.zeros(1, 3, *grid.array.shape)
    return warp_from(torch.from_numpy(smooth)[None, None], still, to_volume)
