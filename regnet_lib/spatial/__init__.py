"""Grids, warps, fields and their Jacobians, in voxels; 2-D and 3-D through the same code."""

from regnet_lib.spatial.compose import compose, invert, resize
from regnet_lib.spatial.grid import (
    half_voxel_zoom,
    identity_grid,
    normalised_to_voxel,
    resample,
    sample,
    voxel_to_normalised,
)
from regnet_lib.spatial.jacobian import folding_fraction, jacobian_determinant, jacobian_matrix
from regnet_lib.spatial.velocity import integrate
from regnet_lib.spatial.warp import warp, warp_labels, warp_points

__all__ = [
    "compose",
    "folding_fraction",
    "half_voxel_zoom",
    "identity_grid",
    "integrate",
    "invert",
    "jacobian_determinant",
    "jacobian_matrix",
    "normalised_to_voxel",
    "resample",
    "resize",
    "sample",
    "voxel_to_normalised",
    "warp",
    "warp_labels",
    "warp_points",
]
