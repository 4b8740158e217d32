"""Distances between the surfaces of two label maps, in millimetres.

A surface voxel has a 6-neighbour (4 in 2-D) of another label; outside the volume counts as another
label. Each surface voxel of one map looks for the nearest one of the other map, both ways.

`hd95` has three definitions in published code and one pair gives 2.50, 2.68 or 2.85 mm, so it is
named: `medpy` (default; the LGANet code) takes the 95th percentile of both directions pooled, `max`
(MONAI) the larger of the two directed percentiles, `area` (Learn2Reg) the larger of the two after
weighting every piece of the surface by its area (`surface_elements.py`).

    scores = hd95(warped_labels, fixed_labels, ids, spacing_mm=(1.0, 1.0, 1.0))   # (len(ids),) mm
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from regnet_lib.metrics.labels import LabelMap, as_pair, require_distinct, to_index
from regnet_lib.metrics.surface_elements import element_distances_mm, hd95_by_area

CONVENTIONS = ("medpy", "max", "area")


def hd95(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    convention: Literal["medpy", "max", "area"] = "medpy",
) -> np.ndarray:
    """95th percentile Hausdorff distance per id in mm; NaN where a map lacks the id."""
    if convention not in CONVENTIONS:
        raise ValueError(f"hd95: expected convention in {CONVENTIONS}, got {convention!r}.")
    if convention == "area":
        elements = element_distances_mm(warped_labels, fixed_labels, ids, spacing_mm)
        return np.array([hd95_by_area(each) for each in elements])
    distances = surface_distances_mm(warped_labels, fixed_labels, ids, spacing_mm)
    return np.array([hd95_of(pair, convention) for pair in distances])


def assd(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    spacing_mm: Sequence[float],
) -> np.ndarray:
    """Average symmetric surface distance per id in mm (both directions pooled, as MedPy)."""
    distances = surface_distances_mm(warped_labels, fixed_labels, ids, spacing_mm)
    return np.array([assd_of(pair) for pair in distances])


DirectedDistances = tuple[np.ndarray, np.ndarray]


def hd95_of(distances: DirectedDistances, convention: Literal["medpy", "max"] = "medpy") -> float:
    """HD95 of one label from its two lists of directed distances between surface voxels."""
    if min(len(direction) for direction in distances) == 0:
        return float("nan")
    if convention == "medpy":
        return float(np.percentile(np.concatenate(distances), 95))
    if convention == "max":
        return float(max(np.percentile(direction, 95) for direction in distances))
    raise ValueError(
        f"hd95_of: expected convention='medpy' or 'max', got {convention!r}. Areas need the label "
        "maps: hd95(..., convention='area')."
    )


def assd_of(distances: DirectedDistances) -> float:
    """ASSD of one label from its two lists of directed distances."""
    if min(len(direction) for direction in distances) == 0:
        return float("nan")
    return float(np.concatenate(distances).mean())


def surface_distances_mm(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    spacing_mm: Sequence[float],
) -> list[DirectedDistances]:
    """Per id: distances warped -> fixed and fixed -> warped of all surface voxels, in mm."""
    from scipy.spatial import cKDTree

    warped, fixed = as_pair("surface_distances_mm", warped_labels, fixed_labels)
    require_distinct("surface_distances_mm", ids)
    if len(spacing_mm) != warped.ndim or min(spacing_mm) <= 0:
        raise ValueError(
            f"surface_distances_mm: expected {warped.ndim} positive spacings in mm, got "
            f"{tuple(spacing_mm)}."
        )
    warped_surfaces = _surface_points_mm(warped, ids, spacing_mm)
    fixed_surfaces = _surface_points_mm(fixed, ids, spacing_mm)
    nothing = np.empty(0)
    result = []
    for a, b in zip(warped_surfaces, fixed_surfaces, strict=True):
        if len(a) == 0 or len(b) == 0:
            result.append((nothing, nothing))
        else:
            result.append((cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]))
    return result


def _surface_points_mm(
    labels: np.ndarray, ids: Sequence[int], spacing_mm: Sequence[float]
) -> list[np.ndarray]:
    """Coordinates in mm of the surface voxels of every id, found in one pass over the volume.

    For disjoint labels "has a neighbour of another label" equals "is removed by an erosion", which
    spares one erosion of the whole volume per label.
    """
    surface = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        moved, boundary = np.moveaxis(labels, axis, 0), np.moveaxis(surface, axis, 0)
        differs = moved[1:] != moved[:-1]
        boundary[1:] |= differs
        boundary[:-1] |= differs
        boundary[0] = boundary[-1] = True
    surface &= labels != 0 if 0 not in ids else True
    voxels = np.nonzero(surface)
    index = to_index(labels[voxels], ids)
    order = np.argsort(index, kind="stable")
    points = np.stack(voxels, axis=1)[order] * np.asarray(spacing_mm, dtype=float)
    ends = np.searchsorted(index[order], np.arange(len(ids) + 1))
    return [points[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]
