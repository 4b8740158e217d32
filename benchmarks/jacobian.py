"""The Jacobian determinant of a displacement and the share of folded voxels, against NumPy as the
released evaluation codes write it, and against SimpleITK's filter."""

from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import CPU, Comparison, installed
from regnet_lib.data.phantoms import smooth_displacement
from regnet_lib.spatial import folding_fraction, jacobian_determinant

SHAPE = (144, 176, 144)
PEERS = ("SimpleITK",)
EXPLANATION = (
    "The central differences come from torch.gradient, which writes nine maps and joins their "
    "one-sided borders by copying; slabs keep them in the cache, and the copies are what remains."
)


def comparisons(device: torch.device = CPU, shape: tuple[int, ...] = SHAPE) -> list[Comparison]:
    # Noise, so that some voxels fold.
    noise = 0.2 * torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    field = smooth_displacement(shape, np.random.default_rng(0), 12.0) + noise
    array = field[0].numpy()
    field = field.to(device)
    name = "x".join(map(str, shape))
    found = [
        Comparison(
            case=f"folded voxels, forward differences, {name}",
            ours=partial(_folded, field, "forward"),
            other=partial(numpy_folded_forward, array),
            other_name="NumPy, forward differences",
            check=_same_number,
            target=3.0,
            growth=("voxels", prod(shape)),
        ),
        Comparison(
            case=f"folded voxels, central differences, {name}",
            ours=partial(_folded, field, "central"),
            other=partial(numpy_folded_central, array),
            other_name="np.gradient",
            check=_same_number,
            target=3.0,
        ),
    ]
    if installed("SimpleITK"):
        found.append(
            Comparison(
                case=f"determinant, central differences, {name}",
                ours=partial(jacobian_determinant, field, "central"),
                other=partial(_simpleitk, array),
                other_name="SimpleITK's DisplacementFieldJacobianDeterminant",
                check=_same_inside,
            )
        )
    return found


def numpy_folded_forward(field: np.ndarray) -> float:
    """Share of voxels with det < 0 of `(3, D, H, W)`, forward differences, last planes dropped."""
    inner = field[:, :-1, :-1, :-1]
    steps = (field[:, 1:, :-1, :-1], field[:, :-1, 1:, :-1], field[:, :-1, :-1, 1:])
    return float((_numpy_determinant([step - inner for step in steps]) < 0).mean())


def numpy_folded_central(field: np.ndarray) -> float:
    """Share of voxels with det <= 0, np.gradient."""
    derivatives = [np.stack(axes) for axes in zip(*(np.gradient(u) for u in field), strict=True)]
    return float((_numpy_determinant(derivatives) <= 0).mean())


def _numpy_determinant(derivatives: list[np.ndarray]) -> np.ndarray:
    """Of the identity plus d u / d x_j, one array `(3, ...)` per axis j."""
    columns = []
    for axis, derivative in enumerate(derivatives):
        column = derivative.copy()
        column[axis] += 1
        columns.append(column)
    return (columns[0] * np.cross(columns[1], columns[2], axis=0)).sum(0)


def _folded(field: Tensor, difference: str) -> float:
    return folding_fraction(field, difference).item()


def _simpleitk(field: np.ndarray) -> np.ndarray:
    import SimpleITK

    # x, y, z as the last axis: the components in the reverse order of the axes of the array.
    vectors = np.ascontiguousarray(np.moveaxis(field[::-1], 0, -1))
    image = SimpleITK.GetImageFromArray(vectors, isVector=True)
    return SimpleITK.GetArrayFromImage(SimpleITK.DisplacementFieldJacobianDeterminant(image))


def _same_number(ours: float, other: float) -> str:
    assert abs(ours - other) < 1e-6, (ours, other)
    return f"{100 * ours:.3f} % against {100 * other:.3f} %"


def _same_inside(ours: Tensor, other: np.ndarray) -> str:
    """Without the border, where SimpleITK has another rule."""
    inside = (slice(1, -1),) * 3
    worst = np.abs(ours[0, 0].cpu().numpy()[inside] - other[inside]).max()
    assert worst < 1e-3, worst
    return f"largest difference {worst:.1e} inside"
