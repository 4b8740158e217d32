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

# Every slab costs a copy of the image's gradient for a moment, and small volumes gain nothing.
MOST_SLABS = 4
LEAST_VOXELS = 2**14


def next_multiple(shape: Sequence[int], multiple: int) -> tuple[int, ...]:
    """The nearest shape at least as large whose sides are all multiples of `multiple`."""
    return tuple(-(-side // multiple) * multiple for side in shape)


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

    On several threads of a CPU both passes are faster too, see `_slabs`.

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
        dtype = torch.promote_types(image.dtype, displacement.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        ctx.axes = normalised_axes(displacement.shape[2:], dtype, displacement.device)
        ctx.save_for_backward(image, displacement)
        ctx.padding = padding
        grid = displaced_grid(displacement, ctx.axes)
        return _in_layout(sample_at(image.to(dtype), grid, padding), image)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        image, displacement = ctx.saved_tensors
        grid = displaced_grid(displacement, ctx.axes)
        gradient_image, gradient_grid = sample_at_backward(
            upstream, image.to(upstream.dtype), grid, ctx.padding, ctx.needs_input_grad[0]
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


def normalised_axes(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """[-1, 1] coordinates of the voxels along every axis, shaped to broadcast over the grid."""
    axes = [torch.linspace(-1, 1, size, dtype=dtype, device=device) for size in shape]
    return tuple(axis.view(-1, *[1] * (len(shape) - 1 - i)) for i, axis in enumerate(axes))


def normalised_identity(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`voxel_to_normalised(identity_grid(shape), shape)` with the fastest axis first."""
    axes = [torch.linspace(-1, 1, size, dtype=dtype, device=device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1]).unsqueeze(0)


def displaced_grid(displacement: Tensor, axes: Sequence[Tensor]) -> Tensor:
    """`voxel_to_normalised` of x + u(x), as `(B, *shape, n)` with the fastest axis first."""
    grid = torch.empty_like(
        displacement, dtype=axes[0].dtype, memory_format=torch.contiguous_format
    )
    for axis, (coordinates, size) in enumerate(zip(axes, displacement.shape[2:], strict=True)):
        component = grid[:, len(axes) - 1 - axis]
        torch.add(coordinates, displacement[:, axis], alpha=2 / (size - 1), out=component)
    return grid.movedim(1, -1)


def sample_at(image: Tensor, grid: Tensor, padding: Padding) -> Tensor:
    """`F.grid_sample` of as many voxels as the image has, on all threads of the CPU."""
    slabs = _slabs(grid)
    sampled = F.grid_sample(
        image.expand(slabs * len(image), *image.shape[1:]),
        _cut(grid, 1, slabs),
        padding_mode=padding,
        align_corners=True,
    )
    return sampled if slabs == 1 else sampled.movedim(0, 1).reshape(image.shape)


def sample_at_backward(
    upstream: Tensor, image: Tensor, grid: Tensor, padding: Padding, image_needed: bool = True
) -> tuple[Tensor | None, Tensor]:
    """The gradients of `sample_at` to the image, if needed, and to the grid."""
    kernel = (
        torch.ops.aten.grid_sampler_3d_backward
        if image.ndim == 5
        else torch.ops.aten.grid_sampler_2d_backward
    )
    slabs = _slabs(grid)
    gradient_image, gradient_grid = kernel(
        _cut(upstream, 2, slabs),
        image.expand(slabs * len(image), *image.shape[1:]),
        _cut(grid, 1, slabs),
        0,  # linear
        ("zeros", "border").index(padding),
        True,  # align_corners
        [image_needed, True],
    )
    if slabs > 1 and gradient_image is not None:  # each slab has seen the whole image
        gradient_image = gradient_image.sum(0, keepdim=True)
    return gradient_image, gradient_grid.reshape(grid.shape)


def _slabs(grid: Tensor) -> int:
    """Into how many slabs of voxels to cut a volume, one per thread.

    PyTorch's kernels of the CPU give every item of a batch to one thread, so that a single volume
    keeps one core busy, however many there are. Cut into slabs that are sampled as a batch, it
    keeps as many as there are slabs; values stay the same bit for bit, and sums of gradients to
    within rounding.

    Args:
        grid: `(B, *shape, n)`.
    """
    batch, *shape, axes = grid.shape
    if grid.device.type != "cpu" or axes != 3 or batch > 1 or prod(shape) < LEAST_VOXELS:
        return 1
    most = min(torch.get_num_threads(), MOST_SLABS)
    return max(slabs for slabs in range(1, most + 1) if shape[0] * shape[1] % slabs == 0)


def _cut(voxels: Tensor, first: int, slabs: int) -> Tensor:
    """Rows of voxels as slabs: D and H, from dimension `first` on, become D H / slabs and 1."""
    if slabs == 1:
        return voxels
    rows = voxels.flatten(first, first + 1).unflatten(first, (slabs, -1, 1))
    return rows.movedim(first, 0).squeeze(1)


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
    flat = inside = None
    for axis, size in enumerate(shape):
        index = coordinates[:, axis].detach().round().long()
        clamped = index.clamp(0, size - 1)
        if padding == "zeros":
            known = index.eq_(clamped).bool()
            inside = known if inside is None else inside.logical_and_(known)
        flat = clamped if flat is None else flat.mul_(size).add_(clamped)
    # (B, *out) -> (B, C, voxels)
    flat = flat.flatten(1).unsqueeze(1).expand(-1, image.shape[1], -1)
    values = image.flatten(2).gather(2, flat)
    values = values.view(*image.shape[:2], *coordinates.shape[2:])
    return values if inside is None else values.masked_fill_(~inside.unsqueeze(1), 0)


def _column(shape: Sequence[int], like: Tensor) -> Tensor:
    """One number per axis, shaped to broadcast against `(B, n, *dims)`."""
    return torch.tensor(shape, dtype=like.dtype, device=like.device).view(
        1, -1, *[1] * (like.ndim - 2)
    )
