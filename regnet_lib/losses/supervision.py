"""Losses that need more than the two images: landmarks or label maps.

    loss = landmark_distance(displacement, landmarks)   # mm

Labels take part as one image per label:

    moving, fixed = memberships(moving_labels, ids), memberships(fixed_labels, ids)
    loss = soft_dice(warp(moving, displacement), fixed)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from regnet_lib.losses.similarity import _require_same_shape, wide_type
from regnet_lib.spatial import warp_points
from regnet_lib.types import Displacement, Image, Labels, Points


@dataclass(frozen=True)
class Landmarks:
    """Corresponding points of one pair.

    Attributes:
        moving, fixed: `(N, 3)` voxel coordinates, counted from 0, in array axis order.
        spacing_mm: voxel size of the moving image along the array axes.
    """

    moving: Points
    fixed: Points
    spacing_mm: Sequence[float]


def landmark_distance(displacement: Displacement, landmarks: Landmarks) -> Float[Tensor, ""]:
    """Mean distance in mm of the moved fixed landmarks from the moving ones (AD-RegNet eq. 19).

    The equation prints |T(p_M) - p_F|. A displacement for a pull-back carries points from fixed to
    moving, so this is |p_F + u(p_F) - p_M|, the error that `regnet_lib.metrics.tre_mm` reports; the
    printed form would need the inverse of the displacement.

    The landmarks of a test case must not be used in training: those of DIR-Lab *are* its test.

    Args:
        displacement: `(1, 3, D, H, W)`, voxels.
    """
    if landmarks.moving.shape != landmarks.fixed.shape or len(landmarks.fixed) == 0:
        raise ValueError(
            "landmark_distance: expected as many moving as fixed landmarks, at least one, got "
            f"shapes {tuple(landmarks.moving.shape)} and {tuple(landmarks.fixed.shape)}."
        )
    axes = landmarks.fixed.shape[1]
    if len(landmarks.spacing_mm) != axes or min(landmarks.spacing_mm) <= 0:
        raise ValueError(
            f"landmark_distance: expected {axes} positive spacings in mm, got "
            f"{tuple(landmarks.spacing_mm)}."
        )
    moved = warp_points(landmarks.fixed.to(displacement.device), displacement)
    spacing = torch.tensor(landmarks.spacing_mm, dtype=moved.dtype, device=moved.device)
    return ((moved - landmarks.moving.to(moved)) * spacing).norm(dim=1).mean()


def memberships(labels: Labels, ids: Sequence[int]) -> Image:
    """One 0/1 image per label, `(B, 1, *shape)` -> `(B, len(ids), *shape)` float32."""
    return torch.cat([(labels == label).float() for label in ids], dim=1)


def soft_dice(warped: Image, fixed: Image) -> Float[Tensor, ""]:
    """1 - mean Dice overlap of membership images, differentiable.

    Dice = 2 sum(ab) / (sum(a) + sum(b)) over the voxels of one label of one pair. A label that is
    in neither image has no overlap and does not count; if none is left the loss is 0.

    Args:
        warped, fixed: `(B, labels, *shape)` in [0, 1], without background, see `memberships`.
    """
    _require_same_shape("soft_dice", warped, fixed)
    dtype = wide_type(warped, fixed)
    a, b = warped.to(dtype).flatten(2), fixed.to(dtype).flatten(2)
    size = a.sum(2) + b.sum(2)
    present = size > 0
    dice = 2 * (a * b).sum(2) / size.masked_fill(~present, 1)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)
