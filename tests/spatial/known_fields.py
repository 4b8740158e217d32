"""Images and displacements whose warp, inverse or Jacobian is known, in NumPy and float64.

field = affine_field(near_identity(3, seed=0), (7, 9, 8))   # (1, 3, 7, 9, 8), u = (A - I)(x - c)
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

SHAPES = [(11, 14), (7, 9, 8)]
NAMES = ["2-D", "3-D"]


def voxel_grid(shape):
    """Voxel coordinates `(n, *shape)`, by NumPy."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)


def noise_image(shape, seed=0, batch=1, channels=1):
    """White noise in [0, 1], `(B, C, *shape)` float64."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.random((batch, channels, *shape)))


def linear_image(shape, seed=0):
    """A linear function of the voxel coordinates and its gradient, `(1, 1, *shape)` and `(n,)`."""
    gradient = np.random.default_rng(seed).normal(size=len(shape))
    values = 0.7 + np.tensordot(gradient, voxel_grid(shape), 1)
    return torch.from_numpy(values)[None, None], gradient


def smooth_field(shape, voxels, seed=0, sigma=2.0, batch=1):
    """Smooth random displacement whose largest component is `voxels`, float64."""
    random = np.random.default_rng(seed)
    axes = len(shape)
    field = random.normal(size=(batch, axes, *shape))
    field = gaussian_filter(field, [0, 0, *[sigma] * axes], mode="nearest")
    return torch.from_numpy(field * (voxels / np.abs(field).max()))


def inward_field(shape, voxels, seed=0):
    """A random displacement that never leaves the grid: x + u(x) stays in [0, size - 1]."""
    grid = voxel_grid(shape)
    last = np.array(shape).reshape(-1, *[1] * len(shape)) - 1
    target = np.clip(grid + smooth_field(shape, voxels, seed)[0].numpy(), 0, last)
    return torch.from_numpy(target - grid)[None]


def near_identity(axes, seed=0, strength=0.1):
    """A random matrix close to the identity."""
    return np.eye(axes) + strength * np.random.default_rng(seed).normal(size=(axes, axes))


def affine_field(matrix, shape):
    """u(x) = (A - I)(x - c) about the centre of the grid, `(1, n, *shape)` float64."""
    centre = (np.array(shape) - 1) / 2
    offset = voxel_grid(shape) - centre.reshape(-1, *[1] * len(shape))
    field = np.tensordot(np.asarray(matrix) - np.eye(len(shape)), offset, 1)
    return torch.from_numpy(field)[None]


def interior(array, margin):
    """Drop `margin` voxels at every face of the trailing spatial axes of `(B, C, *dims)`."""
    return array[(..., *[slice(margin, -margin)] * (array.ndim - 2))]


def scipy_warp(image, displacement, mode, order=1):
    """The warp of every batch item and channel by `scipy.ndimage.map_coordinates`."""
    image, displacement = image.numpy(), displacement.numpy()
    result = np.empty_like(image)
    for item in range(len(image)):
        where = voxel_grid(image.shape[2:]) + displacement[item]
        for channel in range(image.shape[1]):
            result[item, channel] = map_coordinates(
                image[item, channel], where, order=order, mode=mode, prefilter=False
            )
    return result
