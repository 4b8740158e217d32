"""How regular a transformation x -> x + u(x) is, from its Jacobian determinant.

* `jacobian_statistics`: mean, standard deviation and minimum of the determinant (AD-RegNet section
  IV.D; its "gradient of Phi" has to be read as that of the transformation, not of u).
* `sd_log_jacobian`: spread of the logarithm, 0 for an affine map. Learn2Reg adds 3 first, which
  shrinks the value twentyfold on a folded field (2.81 to 0.15).
* `non_diffeomorphic_volume`: how much volume folds, not how many voxels do (Liu et al., IJCV 2024).
  The field is read as linear inside tetrahedra, so no fold can hide between voxels: one voxel
  pushed 6 voxels aside has a central-difference determinant of 1, but a volume of 4.67 folds.

Fractions of folded voxels are in `regnet_lib.spatial.folding_fraction`; `folding_inside` is that of
the voxels which Learn2Reg looks at.

    volume = non_diffeomorphic_volume(displacement)   # (B, 3, D, H, W) voxels -> (B,) voxels
    percent = 100 * volume / displacement[0, 0].numel()
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regnet_lib.spatial import jacobian_determinant
from regnet_lib.spatial.checks import require_displacement

Field = Tensor | np.ndarray

LOG_LIMITS = (1e-9, 1e9)
LEARN2REG_SHIFT = 3.0
LEARN2REG_CROP = 2


@dataclass(frozen=True)
class JacobianStatistics:
    """Over all voxels, one value per batch item `(B,)`; std is the population one (ddof 0)."""

    mean: np.ndarray
    std: np.ndarray
    minimum: np.ndarray


def jacobian_statistics(
    displacement: Field, difference: Literal["central", "forward"] = "central"
) -> JacobianStatistics:
    """Mean, standard deviation and minimum of det J of a field `(B, n, *shape)` in voxels."""
    field = _as_field("jacobian_statistics", displacement)
    values = jacobian_determinant(field, difference).flatten(1).double().cpu().numpy()
    return JacobianStatistics(values.mean(1), values.std(1), values.min(1))


def sd_log_jacobian(
    displacement: Field, convention: Literal["plain", "learn2reg"] = "plain"
) -> np.ndarray:
    """Population standard deviation of log det J, central differences, `(B,)`.

    Args:
        displacement: `(B, n, *shape)`, voxels.
        convention: `plain` takes all voxels; `learn2reg` takes log(det J + 3) and leaves out two
            voxels at every face. Both clip to 1e-9 ... 1e9 before the logarithm, so that under
            `plain` a folded voxel counts as log 1e-9 = -20.7 and a few of them decide the value.
    """
    field = _as_field("sd_log_jacobian", displacement)
    if convention not in ("plain", "learn2reg"):
        raise ValueError(
            f"sd_log_jacobian: expected convention='plain' or 'learn2reg', got {convention!r}."
        )
    determinant = jacobian_determinant(field, "central")[:, 0].double()
    if convention == "learn2reg":
        determinant = _inside("sd_log_jacobian", determinant) + LEARN2REG_SHIFT
    logarithm = determinant.clamp(*LOG_LIMITS).log()
    return logarithm.flatten(1).std(1, correction=0).cpu().numpy()


def folding_inside(displacement: Field) -> np.ndarray:
    """Fraction of voxels with det J <= 0, central differences, without two at every face, `(B,)`.

    The voxels of Learn2Reg's evaluation. Its own count, `num_foldings`, is 0 for every field: it
    counts what is not positive after adding 3 and clipping to at least 1e-9.

    Args:
        displacement: `(B, n, *shape)`, voxels.
    """
    field = _as_field("folding_inside", displacement)
    determinant = jacobian_determinant(field, "central")[:, 0]
    folded = _inside("folding_inside", determinant) <= 0
    return folded.flatten(1).double().mean(1).cpu().numpy()


def non_diffeomorphic_volume(displacement: Field) -> np.ndarray:
    """Volume (2-D: area) that the transformation turns inside out, in voxels, `(B,)`.

    A cube of eight voxel centers splits in two mirrored ways into five tetrahedra: four at corners,
    whose determinants are the one-sided differences at these corners, and a central one. Over both
    ways that makes eight corner and two central determinants per voxel. A determinant is six
    volumes and every way counts half, hence the sum of the negative parts over 12; in 2-D four
    triangles, over 4. The field is continued by its edge values, so that every voxel has all ten.

    Args:
        displacement: `(B, n, *shape)`, voxels.
    """
    field = _as_field("non_diffeomorphic_volume", displacement)
    axes = field.shape[1]
    field = field.to(torch.promote_types(field.dtype, torch.float32))
    padded = F.pad(field, [1, 1] * axes, mode="replicate")
    volume = torch.zeros(len(field), dtype=torch.float64, device=field.device)
    for mirrored in product((False, True), repeat=axes):
        mirror_image = _mirror(padded, [axis for axis in range(axes) if mirrored[axis]])
        # Without the first plane of every axis: the padding has no voxels of its own.
        inner = mirror_image[(..., *[slice(1, None)] * axes)]
        volume += _negative_part(jacobian_determinant(inner, "forward"))
        if axes == 3 and len(set(mirrored)) == 1:
            volume += _negative_part(_central_determinant(inner))
    return (volume / {2: 4, 3: 12}[axes]).cpu().numpy()


def _inside(function: str, determinant: Tensor) -> Tensor:
    """`(B, *shape)` without the voxels that Learn2Reg leaves out.

    It pads its differences with 0, which reaches only what it then cuts off.
    """
    if min(determinant.shape[1:]) <= 2 * LEARN2REG_CROP:
        raise ValueError(
            f"{function}: expected at least {2 * LEARN2REG_CROP + 1} voxels along every axis, as "
            f"Learn2Reg leaves out two at every face; got {tuple(determinant.shape[1:])}."
        )
    for dim in range(1, determinant.ndim):
        size = determinant.shape[dim] - 2 * LEARN2REG_CROP
        determinant = determinant.narrow(dim, LEARN2REG_CROP, size)
    return determinant


def _mirror(field: Tensor, axes: list[int]) -> Tensor:
    """The same transformation seen in a mirror: forward differences become backward ones."""
    mirror_image = field.flip([2 + axis for axis in axes])
    mirror_image[:, axes] *= -1
    return mirror_image


def _central_determinant(field: Tensor) -> Tensor:
    """Determinant of the tetrahedron of a cube's corners 000, 110, 101, 011; 2 at rest.

    The two mirrored cubes at a voxel give both central tetrahedra of the cubes of the grid.
    """

    sizes = [size - 1 for size in field.shape[2:]]

    def corner(*offset: int) -> Tensor:
        inside = [slice(start, start + size) for start, size in zip(offset, sizes, strict=True)]
        at_rest = torch.tensor(offset, dtype=field.dtype, device=field.device)
        return field[(..., *inside)] + at_rest.view(1, 3, 1, 1, 1)

    origin = corner(0, 0, 0)
    a, b, c = (corner(*offset) - origin for offset in ((0, 1, 1), (1, 0, 1), (1, 1, 0)))
    return (a * torch.linalg.cross(b, c, dim=1)).sum(1)


def _negative_part(determinant: Tensor) -> Tensor:
    return -determinant.clamp(max=0).flatten(1).sum(1, dtype=torch.float64)


def _as_field(function: str, displacement: Field) -> Tensor:
    field = torch.as_tensor(displacement).detach()
    require_displacement(function, field)
    return field
