"""Exact minimisation over the displacements of all cells, on a spanning tree of the volume.

The cost of a cell's displacement and a penalty on the difference between neighbouring cells are
minimised together. On a grid that is intractable; on a tree two passes are exact: costs travel from
the leaves to the root, where the best displacement is read off, and from the root back to the
leaves (Felzenszwalb and Huttenlocher, IJCV 2005; for registration Heinrich et al., IEEE TMI 2013).

    tree = spanning_tree(image, spacing=6)              # (1, 1, D, H, W)
    chosen = best_displacements(cost, start, tree)      # (cells, 3)
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from regnet_lib.types import Image


@dataclass(frozen=True)
class Tree:
    """A spanning tree of the cells, in breadth-first order: parents before their children.

    Attributes:
        order: cell at each position of the order, `(cells,)`.
        parent: position of the parent; that of the root, position 0, is 0.
        weight: strength of the edge to the parent, in (0, 1].
        depths: start and end of the positions of each depth below the root, from the top.
    """

    order: Int[Tensor, " cells"]
    parent: Int[Tensor, " cells"]
    weight: Float[Tensor, " cells"]
    depths: tuple[tuple[int, int], ...]


def spanning_tree(image: Image, spacing: int) -> Tree:
    """The tree that connects neighbouring cells `(1, 1, D, H, W)` of most similar intensity.

    An edge costs the mean absolute difference of corresponding voxels of its two cells, and its
    weight is exp(-cost / (2 std)). The root is the central cell.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    cells = [side // spacing for side in image.shape[2:]]
    count = cells[0] * cells[1] * cells[2]
    inside = image[0, 0, *(slice(n * spacing) for n in cells)]
    inside = inside.reshape(cells[0], spacing, cells[1], spacing, cells[2], spacing)
    index = torch.arange(count).view(cells)
    first, second, cost = [], [], []
    for axis, n in enumerate(cells):
        difference = inside.narrow(2 * axis, 1, n - 1) - inside.narrow(2 * axis, 0, n - 1)
        cost.append(difference.abs().mean((1, 3, 5)).flatten())
        first.append(index.narrow(axis, 0, n - 1).flatten())
        second.append(index.narrow(axis, 1, n - 1).flatten())
    cost, first, second = torch.cat(cost), torch.cat(first), torch.cat(second)
    # Ranks instead of costs: flat background has many edges of cost 0, which a sparse matrix takes
    # for missing ones and different sorting routines take in different orders.
    ranked = cost.argsort(stable=True)
    ranks = np.arange(1, len(cost) + 1)
    ends = torch.stack([first, second])[:, ranked].int().numpy()  # csgraph takes 32-bit indices
    graph = coo_array((ranks, (ends[0], ends[1])), (count, count))
    chosen = minimum_spanning_tree(graph.tocsr())
    root = index[tuple(n // 2 for n in cells)].item()
    order, predecessor = breadth_first_order(chosen, root, directed=False)
    predecessor[root] = root
    position = np.empty(count, dtype=np.int64)
    position[order] = np.arange(count)
    parent = position[predecessor[order]]

    weight = torch.ones(count)
    rank = chosen.data.astype(np.int64) - 1
    child = position[ends[:, rank]].max(0)  # of the two ends, the later one
    scale = (2 * image.std()).clamp(min=torch.finfo(cost.dtype).tiny)
    weight[torch.from_numpy(child)] = (-cost[ranked[torch.from_numpy(rank)]] / scale).exp()

    # Parents come in the order of their children, so each depth is one interval.
    depths, end = [], 1
    while end < count:
        start, end = end, int(np.searchsorted(parent, end))
        depths.append((start, end))
    return Tree(torch.from_numpy(order).long(), torch.from_numpy(parent), weight, tuple(depths))


def best_displacements(
    cost: Float[Tensor, "displacements cells"], start: Float[Tensor, "cells axes"], tree: Tree
) -> Float[Tensor, "cells axes"]:
    """The displacements d, one per cell, that minimise the sum of costs and penalties.

    Along every edge of the tree the penalty is |(start + d) of the parent - (start + d) of the
    child|^2. The cost of a subtree is multiplied by the weight of the edge above it.

    Args:
        cost: of each displacement of a cube of (2 reach + 1)^3, axis 0 slowest.
        start: displacement that the cells have already, in the same unit.
    """
    side = round(len(cost) ** (1 / 3))
    values = torch.arange(side, dtype=cost.dtype) - side // 2
    start = start[tree.order]
    total = cost.T[tree.order].view(-1, side, side, side)
    for first, last in reversed(tree.depths):
        parent = tree.parent[first:last]
        total[first:last] *= tree.weight[first:last, None, None, None]
        gap = start[parent] - start[first:last]
        message = _lower_envelope(total[first:last], values + gap[..., None], values)
        message -= message.amin((1, 2, 3), keepdim=True)
        total.index_add_(0, parent, message)
    chosen = torch.empty_like(start)
    chosen[0] = _minimiser(total[:1], values)[0]
    for first, last in tree.depths:
        parent = tree.parent[first:last]
        target = chosen[parent] + start[parent] - start[first:last]
        penalty = (target[..., None] - values).square()  # (children, 3, side)
        cube = total[first:last] + penalty[:, 0, :, None, None]
        cube += penalty[:, 1, None, :, None] + penalty[:, 2, None, None, :]
        chosen[first:last] = _minimiser(cube, values)
    result = torch.empty_like(chosen)
    result[tree.order] = chosen
    return result


def _lower_envelope(cost: Tensor, targets: Tensor, values: Tensor) -> Tensor:
    """min over d of cost(d) + |target - d|^2, one axis after the other.

    `(cells, side, side, side)` costs and `(cells, 3, side)` targets along each axis.
    """
    for axis in range(3):
        penalty = (targets[:, axis, :, None] - values).square()  # (cells, targets, side)
        envelope = None
        for index in range(len(values)):
            candidate = cost[:, index, :, :, None] + penalty[:, None, None, :, index]
            envelope = candidate if envelope is None else torch.minimum(envelope, candidate)
        cost = envelope  # the axis that was first is now last, so three turns restore the order
    return cost


def _minimiser(cost: Tensor, values: Tensor) -> Tensor:
    """Displacement of least cost, `(cells, side, side, side)` -> `(cells, 3)`."""
    index = torch.unravel_index(cost.flatten(1).argmin(1), cost.shape[1:])
    return values[torch.stack(index, dim=1)]
