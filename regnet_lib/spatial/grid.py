"""Voxel grids and sampling: the only file of the library that knows `align_corners`.

Everywhere else a position is a voxel coordinate: 0 is the centre of the first voxel, `size - 1` the
centre of the last. The conversion to the [-1, 1] coordinates of PyTorch happens here and nowhere
else, because half of the published code gets it wrong (see the chapter on warping).

    coordinates = identity_grid(image.shape[2:]) + displacement   # (B, 3, D, H, W)
    warped = sample(image, coordinates)                            # (B, C, D, H, W)
"""

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from regnet_lib.types import AnyImage, Coordinates, Image

Interpolation = Literal["linear", "nearest"]
Padding = Literal["zeros", "border"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def identity_grid(
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Coordinates:
    """Voxel coordinates of every voxel of a grid of the given spatial shape, `(1, n, *shape)`."""
    axes = [torch.arange(size, dtype=dtype, device=device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


def voxel_to_normalised(coordinates: Coordinates, shape: Sequence[int]) -> Coordinates:
    """Map voxel coordinates to [-1, 1], where -1 and 1 are the centres of the outermost voxels."""
    size = _column(shape, coordinates)
    return coordinates * (2 / (size - 1)) - 1


def normalised_to_voxel(coordinates: Coordinates, shape: Sequence[int]) -> Coordinates:
    """The inverse of `voxel_to_normalised`."""
    size = _column(shape, coordinates)
    return (coordinates + 1) * ((size - 1) / 2)


def half_voxel_zoom(coordinates: Coordinates, shape: Sequence[int]) -> Coordinates:
    """Where code that mixes both conventions samples instead: x -> x * size / (size - 1) - 1/2.

    Normalising with `size - 1` and sampling with `align_corners=False` turns the identity into a
    zoom by up to half a voxel at the faces. The released LGANet code does this in its loss and its
    evaluation (`code/models/model.py`); experiments that follow it to the letter ask for it.
    """
    size = _column(shape, coordinates)
    return coordinates * (size / (size - 1)) - 0.5


def sample(
    image: AnyImage,
    coordinates: Coordinates,
    *,
    interpolation: Interpolation = "linear",
    padding: Padding = "zeros",
) -> Shaped[Tensor, "#batch channel *out"]:
    """Values of `image` at voxel coordinates.

    Args:
        image: `(B, C, *shape)`; 2-D or 3-D. `nearest` accepts any type, `linear` floats.
        coordinates: `(B, n, *out)` in voxels of `image`, component i along array axis i.
        interpolation: `linear` (bi- or trilinear) or `nearest` (ties go to the even voxel).
        padding: outside the grid take 0 (`zeros`, fading over one voxel) or the nearest voxel.

    Returns:
        `(B, C, *out)`. Linear interpolation runs in float32 at least, also under autocast.
    """
    if image.shape[0] != coordinates.shape[0]:
        batch = max(image.shape[0], coordinates.shape[0])
        image = image.expand(batch, *image.shape[1:])
        coordinates = coordinates.expand(batch, *coordinates.shape[1:])
    if interpolation == "nearest":
        return _gather_nearest(image, coordinates, padding)
    dtype = torch.promote_types(torch.promote_types(image.dtype, coordinates.dtype), torch.float32)
    normalised = voxel_to_normalised(coordinates.to(dtype), image.shape[2:])
    # grid_sample wants the fastest axis first and the components last; autocast leaves it in the
    # widest type of its inputs
    grid = normalised.flip(1).movedim(1, -1)  # (B, n, *out) -> (B, *out, n)
    return F.grid_sample(
        image.to(dtype), grid, mode="bilinear", padding_mode=padding, align_corners=True
    )


def sample_displaced(
    image: AnyImage, displacement: Coordinates, *, padding: Padding = "zeros"
) -> Shaped[Tensor, "#batch channel *out"]:
    """`sample(image, identity_grid(...) + displacement)`, linear, without keeping the grid.

    The backward pass forms the grid again from the displacement, which the caller mostly has
    anyway; composing a field with itself keeps one field instead of two.

    Args:
        image: `(B, C, *shape)`, floats.
        displacement: `(B, n, *shape)` in voxels.
        padding: as in `sample`.
    """
    if image.shape[0] != displacement.shape[0]:
        batch = max(image.shape[0], displacement.shape[0])
        image = image.expand(batch, *image.shape[1:])
        displacement = displacement.expand(batch, *displacement.shape[1:])
    return _SampleDisplaced.apply(image, displacement, padding)


class _SampleDisplaced(torch.autograd.Function):
    """A grid is three volumes, and a network with seven squarings per level samples 75 times."""

    @staticmethod
    def forward(ctx, image: Tensor, displacement: Tensor, padding: Padding) -> Tensor:
        ctx.save_for_backward(image, displacement)
        ctx.padding = padding
        dtype = torch.promote_types(image.dtype, displacement.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        grid = _normalised_grid(displacement, dtype)
        sampled = F.grid_sample(image.to(dtype), grid, padding_mode=padding, align_corners=True)
        return _in_layout(sampled, image)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        image, displacement = ctx.saved_tensors
        kernel = (
            torch.ops.aten.grid_sampler_3d_backward
            if image.ndim == 5
            else torch.ops.aten.grid_sampler_2d_backward
        )
        gradient_image, gradient_grid = kernel(
            upstream,
            image.to(upstream.dtype),
            _normalised_grid(displacement, upstream.dtype),
            0,  # linear
            ("zeros", "border").index(ctx.padding),
            True,  # align_corners
            [ctx.needs_input_grad[0], True],
        )
        if gradient_image is not None:
            gradient_image = _in_layout(gradient_image.to(image.dtype), image)
        gradient = torch.empty_like(
            displacement, dtype=upstream.dtype, memory_format=torch.contiguous_format
        )
        axes = displacement.shape[1]
        for axis, size in enumerate(displacement.shape[2:]):
            torch.mul(gradient_grid[..., axes - 1 - axis], 2 / (size - 1), out=gradient[:, axis])
        return gradient_image, gradient.to(displacement.dtype), None


def _normalised_grid(displacement: Tensor, dtype: torch.dtype) -> Tensor:
    """`voxel_to_normalised` of x + u(x), as `(B, *shape, n)` with the fastest axis first."""
    axes, shape = displacement.shape[1], displacement.shape[2:]
    grid = torch.empty_like(displacement, dtype=dtype, memory_format=torch.contiguous_format)
    for axis, size in enumerate(shape):
        component = grid[:, axes - 1 - axis]
        voxels = torch.arange(size, dtype=dtype, device=grid.device)
        voxels = voxels.view(-1, *[1] * (axes - 1 - axis))
        torch.add(displacement[:, axis], voxels, out=component).mul_(2 / (size - 1))
    return grid.sub_(1).movedim(1, -1)


def _in_layout(features: Tensor, like: Tensor) -> Tensor:
    """The memory format of `like`, which has the same shape."""
    if like.is_contiguous():
        return features
    return torch.empty_like(like, dtype=features.dtype).copy_(features)


def resample(image: Image, shape: Sequence[int]) -> Float[Tensor, "#batch channel *resampled"]:
    """Linear resampling to a grid whose outermost voxel centres coincide with the old ones."""
    if tuple(shape) == tuple(image.shape[2:]):
        return image
    return F.interpolate(image, size=tuple(shape), mode=_LINEAR[image.ndim - 2], align_corners=True)


def _gather_nearest(image: Tensor, coordinates: Tensor, padding: Padding) -> Tensor:
    """Nearest-neighbour lookup by integer indices: exact for every type, labels included."""
    shape = image.shape[2:]
    index = coordinates.detach().round().long()
    last = _column(shape, index) - 1
    clamped = index.clamp(min=torch.zeros_like(last), max=last)
    strides = _column([prod(shape[axis + 1 :]) for axis in range(len(shape))], index)
    flat = (clamped * strides).sum(1).flatten(1)  # (B, voxels)
    values = image.flatten(2).gather(2, flat[:, None].expand(-1, image.shape[1], -1))
    values = values.view(*image.shape[:2], *coordinates.shape[2:])
    if padding == "zeros":
        inside = (index == clamped).all(1, keepdim=True)
        values = torch.where(
            inside, values, torch.zeros((), dtype=values.dtype, device=values.device)
        )
    return values


def _column(shape: Sequence[int], like: Tensor) -> Tensor:
    """One number per axis, shaped to broadcast against `(B, n, *dims)`."""
    return torch.tensor(shape, dtype=like.dtype, device=like.device).view(
        1, -1, *[1] * (like.ndim - 2)
    )
