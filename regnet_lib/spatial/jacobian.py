"""The Jacobian of the transformation x -> x + u(x), its determinant, and three counts of folding.

The determinant is the local change of volume; where it is not positive the transformation folds.
Which difference scheme estimates the derivative changes the count by a factor of two and more, so
every table has to name it:

* `central`: np.gradient, one-sided at the border, all voxels, det <= 0 (VoxelMorph, TransMorph,
  AD-RegNet);
* `forward`: forward differences, the last plane of each axis dropped, det < 0 (LGANet, LGANet++
  eq. 18);
* `digital`: any of the eight (2-D: four) corner determinants of Liu et al. (IJCV 2024) <= 0.

    fraction = folding_fraction(displacement, difference="central")   # (B,)
"""

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from regnet_lib.spatial.checks import require_displacement
from regnet_lib.types import Displacement

Difference = Literal["central", "forward"]

SLAB_PLANES = 8


def jacobian_matrix(
    displacement: Displacement, difference: Difference = "central"
) -> Float[Tensor, "#batch axes axes *kept"]:
    """`J[:, i, j]` = d(x_i + u_i) / d x_j, of shape `(B, n, n, *shape)`.

    `central` keeps the grid; `forward` drops the last plane of every axis. Voxels cancel: the
    result is the same in millimetres when the vectors are in millimetres too.
    """
    require_displacement("jacobian_matrix", displacement)
    displacement = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
    return _add_identity(torch.stack(_derivatives(displacement, difference), dim=2))


def jacobian_determinant(
    displacement: Displacement, difference: Difference = "central"
) -> Float[Tensor, "#batch 1 *kept"]:
    """Determinant of `jacobian_matrix` as an image `(B, 1, *shape)`.

    On a CPU without gradients it is computed slab by slab, so that the derivatives stay in the
    processor's cache and take no memory of their own.
    """
    require_displacement("jacobian_determinant", displacement)
    displacement = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
    planes = displacement.shape[2]
    recorded = displacement.requires_grad and torch.is_grad_enabled()
    if recorded or displacement.device.type != "cpu" or planes <= SLAB_PLANES:
        return _plain_determinant(displacement, difference).unsqueeze(1)
    kept = planes if difference == "central" else planes - 1
    slabs = []
    for start in range(0, kept, SLAB_PLANES):
        stop = min(start + SLAB_PLANES, kept)
        first = max(start - 1, 0)
        slab = _plain_determinant(displacement[:, :, first : min(stop + 1, planes)], difference)
        slabs.append(slab[:, start - first : stop - first])
    return torch.cat(slabs, dim=1).unsqueeze(1)


def folding_fraction(
    displacement: Displacement, difference: Literal["forward", "central", "digital"] = "forward"
) -> Float[Tensor, " batch"]:
    """Fraction (not percent) of voxels where the transformation folds, one value per batch item."""
    axes = require_displacement("folding_fraction", displacement)
    if difference == "digital":
        folded = _digitally_folded(displacement, axes)
    elif difference == "central":
        folded = jacobian_determinant(displacement, "central") <= 0
    elif difference == "forward":
        folded = jacobian_determinant(displacement, "forward") < 0
    else:
        raise ValueError(
            "folding_fraction: expected difference='forward', 'central' or 'digital', got "
            f"{difference!r}."
        )
    return folded.flatten(1).double().mean(1).to(displacement.device)


def _plain_determinant(displacement: Tensor, difference: str) -> Tensor:
    """`(B, n, *shape)` -> `(B, *kept)`, without the matrix in memory."""
    columns = _derivatives(displacement, difference)
    with_identity = [
        [column[:, axis] + 1 if axis == across else column[:, axis] for axis in range(len(columns))]
        for across, column in enumerate(columns)
    ]
    return _determinant(with_identity)  # of the transpose, which is the same


def _derivatives(displacement: Tensor, difference: str) -> list[Tensor]:
    """d u / d x_j as `(B, n, *kept)` for every axis j."""
    axes = displacement.ndim - 2
    if difference == "central":
        return list(torch.gradient(displacement, dim=tuple(range(2, 2 + axes))))
    if difference == "forward":
        return [_forward(displacement, axis) for axis in range(axes)]
    raise ValueError(
        f"jacobian_matrix: expected difference='central' or 'forward', got {difference!r}."
    )


def _forward(displacement: Tensor, axis: int) -> Tensor:
    """Forward difference along one spatial axis, cropped by one plane along every axis."""
    size = displacement.shape[2 + axis] - 1
    difference = displacement.narrow(2 + axis, 1, size) - displacement.narrow(2 + axis, 0, size)
    for other in range(displacement.ndim - 2):
        if other != axis:
            difference = difference.narrow(2 + other, 0, difference.shape[2 + other] - 1)
    return difference


def _digitally_folded(displacement: Tensor, axes: int) -> Tensor:
    """Voxels where one of the 2^n one-sided determinants is not positive (edges are replicated).

    In slabs of a few planes, whose eight determinants stay in the processor's cache.
    """
    planes = displacement.shape[2]
    slabs = []
    for start in range(0, planes, SLAB_PLANES):
        stop = min(start + SLAB_PLANES, planes)
        first, last = max(start - 1, 0), min(stop + 1, planes)
        folded = _folded_corners(displacement[:, :, first:last], axes)
        slabs.append(folded[:, start - first : stop - first])
    return torch.cat(slabs, dim=1)


def _folded_corners(displacement: Tensor, axes: int) -> Tensor:
    forward, backward = [], []
    for dim in range(2, 2 + axes):
        size = displacement.shape[dim]
        step = displacement.narrow(dim, 1, size - 1) - displacement.narrow(dim, 0, size - 1)
        edge = torch.zeros_like(displacement.narrow(dim, 0, 1))
        forward.append(torch.cat([step, edge], dim))
        backward.append(torch.cat([edge, step], dim))
        for difference in (forward[-1], backward[-1]):
            difference[:, dim - 2] += 1  # the column of I + grad u
    folded = torch.zeros_like(displacement[:, 0], dtype=torch.bool)
    for corner in product(*zip(forward, backward, strict=True)):
        folded |= _determinant([column.unbind(1) for column in corner]) <= 0
    return folded


def _add_identity(gradient: Tensor) -> Tensor:
    axes = gradient.shape[1]
    identity = torch.eye(axes, dtype=gradient.dtype, device=gradient.device)
    return gradient + identity.view(1, axes, axes, *[1] * axes)


def _determinant(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Determinant of n x n maps `(B, *shape)`, written out: 20x faster than LAPACK."""
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
