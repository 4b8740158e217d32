"""The surface of a label as small polygons between voxel centers, each with its area.

Counting surface voxels counts an oblique surface less often than a straight one. The definition of
Nikolov et al. (J. Med. Internet Res. 2021), which Learn2Reg uses, cuts every block of 2 x 2 x 2
voxel centers (2-D: 2 x 2) by marching cubes (Lorensen and Cline 1987) and gives the block the area
of the cut. The published table of 256 areas is not stored here but derived. A cut runs through
the middles of the edges between a corner inside and one outside; on a face with four such edges the
less frequent kind of corner stays apart; a ring of five or six middles, which is not flat, is cut
into triangles so that their area on cubic voxels is largest.

    pairs = element_distances_mm(warped_labels, fixed_labels, ids, spacing_mm=(1.0, 1.0, 2.5))
    distances_mm, sizes = pairs[0].from_warped
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from regnet_lib.metrics.labels import LabelMap, as_pair, require_distinct, to_index

Corner = tuple[int, ...]
Edge = frozenset[Corner]
Weighted = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ElementDistances:
    """Of one label: per surface element the distance to the other surface in mm, and its size.

    Sizes are in mm^2 (2-D: mm). All arrays are empty where one of the maps lacks the label.
    """

    from_warped: Weighted
    from_fixed: Weighted


def element_distances_mm(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    spacing_mm: Sequence[float],
) -> list[ElementDistances]:
    """Per id: distances and sizes of the elements of both surfaces.

    An element stands at the center of its block, and the distance is to the nearest element of the
    other surface. Outside the volume counts as another label.

    Args:
        warped_labels, fixed_labels: integers `(D, H, W)`, `(H, W)` or with leading axes of size 1.
        ids: labels to measure, each once.
        spacing_mm: voxel size along the array axes.
    """
    from scipy.spatial import cKDTree

    warped, fixed = as_pair("element_distances_mm", warped_labels, fixed_labels)
    require_distinct("element_distances_mm", ids)
    if len(spacing_mm) != warped.ndim or min(spacing_mm) <= 0:
        raise ValueError(
            f"element_distances_mm: expected {warped.ndim} positive spacings in mm, got "
            f"{tuple(spacing_mm)}."
        )
    sizes = element_sizes(spacing_mm)
    result = []
    for (a, size_a), (b, size_b) in zip(
        _elements(warped, ids, spacing_mm, sizes),
        _elements(fixed, ids, spacing_mm, sizes),
        strict=True,
    ):
        if len(a) == 0 or len(b) == 0:
            nothing = np.empty(0), np.empty(0)
            result.append(ElementDistances(nothing, nothing))
        else:
            there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
            result.append(ElementDistances((there, size_a), (back, size_b)))
    return result


def hd95_by_area(distances: ElementDistances) -> float:
    """The distance in mm within which 95 % of the surface lie, the larger of both directions."""
    directions = distances.from_warped, distances.from_fixed
    if min(len(values) for values, _ in directions) == 0:
        return float("nan")
    return max(_weighted_percentile(*direction, 0.95) for direction in directions)


def element_sizes(spacing_mm: Sequence[float]) -> np.ndarray:
    """Area in mm^2 (2-D: length in mm) of the cut through a block, by its code.

    `(256,)` or `(16,)`. The code has a bit for every corner inside, the last corner the lowest.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    scale = spacing if len(spacing) == 2 else spacing.prod() / spacing
    table = _cuts(len(spacing))
    return np.array([np.linalg.norm(vectors * scale, axis=1).sum() for vectors in table])


@cache
def _cuts(axes: int) -> tuple[np.ndarray, ...]:
    """Per code the cut on a block with edges of length 1: vectors `(pieces, axes)`.

    In 2-D a vector along each segment; in 3-D one normal to each triangle, as long as its area.
    """
    corners = list(product((0, 1), repeat=axes))
    table = []
    for code in range(2 ** len(corners)):
        bits = f"{code:0{len(corners)}b}"
        inside = {corner for corner, bit in zip(corners, bits, strict=True) if bit == "1"}
        apart = len(inside) <= len(corners) // 2
        vectors = []
        if axes == 2:
            for first, second in _segments(corners, inside, apart):
                vectors.append(_middle(second) - _middle(first))
        else:
            for ring in _rings(inside, apart):
                vectors += _largest_triangulation(np.array([_middle(edge) for edge in ring]))
        table.append(np.array(vectors).reshape(-1, axes))
    return tuple(table)


def _segments(face: Sequence[Corner], inside: set[Corner], apart: bool) -> list[tuple[Edge, Edge]]:
    """The cut of a square, corners in the order 00, 01, 10, 11, as pairs of the edges it joins."""
    around = [face[0], face[1], face[3], face[2]]
    is_inside = [corner in inside for corner in around]
    edges = [frozenset((around[k - 1], around[k])) for k in range(4)]  # edge k ends at corner k
    crossed = [edges[k] for k in range(4) if is_inside[k - 1] != is_inside[k]]
    if len(crossed) == 4:
        corners = [k for k in range(4) if is_inside[k] == apart]
        return [(edges[k], edges[(k + 1) % 4]) for k in corners]
    return [(crossed[0], crossed[1])] if crossed else []


def _rings(inside: set[Corner], apart: bool) -> Iterator[list[Edge]]:
    """The closed polygons that the cut of a cube leaves on its six faces."""
    neighbors: dict[Edge, list[Edge]] = {}
    for axis, side in product(range(3), (0, 1)):
        face = [(*rest[:axis], side, *rest[axis:]) for rest in product((0, 1), repeat=2)]
        for first, second in _segments(face, inside, apart):
            neighbors.setdefault(first, []).append(second)
            neighbors.setdefault(second, []).append(first)
    while neighbors:
        ring = [next(iter(neighbors))]
        while following := [edge for edge in neighbors.pop(ring[-1]) if edge in neighbors]:
            ring.append(following[0])
        yield ring


def _largest_triangulation(ring: np.ndarray) -> list[np.ndarray]:
    """Area vectors of the triangles of a closed polygon `(points, 3)`, chosen for most area."""
    if len(ring) < 3:
        return []
    best: list[np.ndarray] = []
    for tip in range(1, len(ring) - 1):
        # The triangle on the side that closes the ring splits the rest in two.
        triangle = np.cross(ring[tip] - ring[0], ring[-1] - ring[0]) / 2
        choice = [
            triangle,
            *_largest_triangulation(ring[: tip + 1]),
            *_largest_triangulation(ring[tip:]),
        ]
        if _area(choice) > _area(best) + 1e-9:
            best = choice
    return best


def _area(vectors: list[np.ndarray]) -> float:
    return sum((float(np.linalg.norm(vector)) for vector in vectors), start=0.0)


def _middle(edge: Edge) -> np.ndarray:
    return np.mean(list(edge), axis=0)


def _elements(
    labels: np.ndarray, ids: Sequence[int], spacing_mm: Sequence[float], sizes: np.ndarray
) -> list[Weighted]:
    """Per id the centers of its surface elements in mm `(N, axes)` and their sizes `(N,)`."""
    index = np.pad(to_index(labels, ids), 1, constant_values=len(ids))
    blocks = tuple(side - 1 for side in index.shape)
    corners = [
        index[tuple(slice(start, start + n) for start, n in zip(offset, blocks, strict=True))]
        for offset in product((0, 1), repeat=labels.ndim)
    ]
    mixed = np.zeros(blocks, dtype=bool)
    for corner in corners[1:]:
        mixed |= corner != corners[0]
    places = np.argwhere(mixed) * np.asarray(spacing_mm, dtype=float)
    at_mixed = np.stack([corner[mixed] for corner in corners])  # (2^axes, mixed blocks)
    result = []
    for label in range(len(ids)):
        code = np.packbits(at_mixed == label, axis=0)[0] >> (8 - len(corners))
        cut = (code > 0) & (code < len(sizes) - 1)
        result.append((places[cut], sizes[code[cut]]))
    return result


def _weighted_percentile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The smallest value that, with all below it, carries the share of the weight."""
    order = np.argsort(values, kind="stable")
    carried = np.cumsum(weights[order])
    reached = np.searchsorted(carried / carried[-1], share)
    return float(values[order][min(reached, len(values) - 1)])
