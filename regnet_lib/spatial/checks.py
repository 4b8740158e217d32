"""Checks at the public boundary of the spatial core: one clear error instead of a broadcast."""

from torch import Tensor


def require_displacement(function: str, displacement: Tensor, what: str = "displacement") -> int:
    """Return the number of axes n of a `(B, n, *dims)` field or say what is wrong with it."""
    axes = displacement.ndim - 2
    if axes not in (2, 3) or displacement.shape[1] != axes:
        raise ValueError(
            f"{function}: expected {what} of shape (B, 3, D, H, W) or (B, 2, H, W), got "
            f"{tuple(displacement.shape)}. Component i displaces along array axis i, in voxels; "
            "add a batch axis with field[None], and move a trailing component axis to the front "
            "with field.movedim(-1, 1)."
        )
    if min(displacement.shape[2:]) < 2:
        raise ValueError(
            f"{function}: expected at least 2 voxels along every axis, got {what} of shape "
            f"{tuple(displacement.shape)}. Use the 2-D form (B, 2, H, W) for single slices."
        )
    if not displacement.is_floating_point():
        raise TypeError(
            f"{function}: expected {what} of a floating type, got {displacement.dtype}."
        )
    return axes


def require_same_grid(function: str, image: Tensor, displacement: Tensor, what: str) -> None:
    """The image and the displacement must lie on the same grid and have compatible batches."""
    batches = {image.shape[0], displacement.shape[0]}
    if image.ndim != displacement.ndim or image.shape[2:] != displacement.shape[2:]:
        raise ValueError(
            f"{function}: expected {what} of shape (B, C, "
            f"{', '.join(map(str, displacement.shape[2:]))}) on the grid of the displacement, got "
            f"{tuple(image.shape)}. Resample one of the two (regnet_lib.spatial.resize for fields)."
        )
    if len(batches - {1}) > 1:
        raise ValueError(
            f"{function}: expected equal batch sizes (or 1), got {image.shape[0]} for {what} and "
            f"{displacement.shape[0]} for the displacement."
        )
