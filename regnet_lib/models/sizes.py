"""Image sizes: what a network accepts, and how to run it on any other size.

A network that halves the grid four times needs sides that are multiples of 16. Every model says
which sizes fit (`model.valid_shape(shape)`, the nearest one at least as large along every axis)
and refuses the others; this file pads with zeros, runs, and crops the displacement back.

    registration = run_at_valid_size(model, moving, fixed)   # any (B, 1, D, H, W)
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from regnet_lib.types import Image, Registration


def require_valid_images(
    model: str,
    moving: Tensor,
    fixed: Tensor,
    valid_shape: Callable[[Sequence[int]], tuple[int, ...]],
    rule: str,
) -> None:
    """Check a model's two inputs once, at its door.

    Args:
        model: its name, for the message.
        valid_shape: the model's own rule.
        rule: the same rule in words, for example "sides that are multiples of 16".

    Raises:
        ValueError: other than two `(B, 1, D, H, W)` images of one shape, or sides the model cannot
            take.
        TypeError: images of an integer type.
    """
    if moving.ndim != 5 or moving.shape[1] != 1 or moving.shape != fixed.shape:
        raise ValueError(
            f"{model}: expected moving and fixed images of one shape (B, 1, D, H, W), got "
            f"{tuple(moving.shape)} and {tuple(fixed.shape)}. Add batch and channel axes with "
            "image[None, None]; resample the moving image to the fixed grid first."
        )
    if not (moving.is_floating_point() and fixed.is_floating_point()):
        raise TypeError(
            f"{model}: expected images of a floating type, got {moving.dtype} and {fixed.dtype}. "
            "Convert with image.float()."
        )
    shape = tuple(moving.shape[2:])
    nearest = valid_shape(shape)
    if nearest != shape:
        raise ValueError(
            f"{model}: expected {rule}, got {shape}. The nearest valid size is {nearest}; "
            "regnet_lib.models.sizes.run_at_valid_size pads to it and crops the result back."
        )


def pad_to_valid_size(
    model: nn.Module, moving: Image, fixed: Image
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Both images with zeros on both sides of every axis that needs them, and the zeros in front.

    Models without `valid_shape` take every size; their images stay as they are.
    """
    shape = tuple(moving.shape[2:])
    valid = model.valid_shape(shape) if hasattr(model, "valid_shape") else shape
    before = tuple((new - old) // 2 for new, old in zip(valid, shape, strict=True))
    if valid == shape:
        return moving, fixed, before
    after = [new - old - less for new, old, less in zip(valid, shape, before, strict=True)]
    # F.pad counts from the last axis
    padding = [width for pair in zip(before[::-1], after[::-1], strict=True) for width in pair]
    return F.pad(moving, padding), F.pad(fixed, padding), before


def crop_padding(field: Tensor, before: Sequence[int], shape: Sequence[int]) -> Tensor:
    """What lies on the images, of a field `(B, C, ...)` on the grid of `pad_to_valid_size`.

    Args:
        before: the zeros in front, per axis.
        shape: of the images before padding.
    """
    for axis, (start, length) in enumerate(zip(before, shape, strict=True), start=2):
        field = field.narrow(axis, start, length)
    return field


def run_at_valid_size(model: nn.Module, moving: Image, fixed: Image) -> Registration:
    """Run a model on images of any size `(B, 1, D, H, W)`; differentiable.

    Both images are padded with zeros where needed (`pad_to_valid_size`). A displacement is in
    voxels, so cropping it needs no rescaling. Where padding was needed, the result has neither the
    coarser levels of the pyramid nor extras: they live on the padded grid.
    """
    shape = tuple(moving.shape[2:])
    padded_moving, padded_fixed, before = pad_to_valid_size(model, moving, fixed)
    registration = model(padded_moving, padded_fixed)
    if padded_moving.shape == moving.shape:
        return registration
    displacement = crop_padding(registration.displacement, before, shape)
    return Registration(displacement, (displacement,) if registration.pyramid else ())
