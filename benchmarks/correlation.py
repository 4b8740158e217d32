"""The correlation with 27 neighbours at the levels of LGANet++ on an LPBA40 brain, forward and
backward, against means that are concatenated and against unfolded neighbours."""

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import CPU, Comparison
from regnet_lib.nn.correlation import local_correlation

# Channels and grid; the finest of 8 channels at 144x176x144 is eight times the first.
LEVELS = ((8, (72, 88, 72)), (32, (36, 44, 36)), (64, (18, 22, 18)))
EXPLANATION = (
    "Per neighbour a product and a mean forward, two multiply-adds backward, each a pass over maps "
    "that fit into the cache at the coarser levels, where the other form loses least."
)

Result = tuple[Tensor, Tensor, Tensor]


def comparisons(
    device: torch.device = CPU, levels: tuple[tuple[int, tuple[int, ...]], ...] = LEVELS
) -> list[Comparison]:
    found = []
    for channels, shape in levels:
        generator = torch.Generator().manual_seed(0)
        maps = torch.randn(2, 1, channels, *shape, generator=generator).to(device)
        upstream = torch.randn(1, 27, *shape, generator=generator).to(device)
        others = [("27 means, concatenated", concatenated, 2.5), ("unfolded", unfolded, None)]
        for other_name, other, target in others:
            found.append(
                Comparison(
                    case=f"correlation of {channels} channels, {'x'.join(map(str, shape))}",
                    ours=partial(_with_gradients, local_correlation, *maps, upstream),
                    other=partial(_with_gradients, other, *maps, upstream),
                    other_name=other_name,
                    check=_agree,
                    target=target,
                    rounds=5 if target else 3,
                )
            )
    return found


def concatenated(first: Tensor, second: Tensor) -> Tensor:
    """The plain form: one product and one mean per neighbour, then one tensor."""
    depth, height, width = first.shape[2:]
    padded = F.pad(second, [1] * 6)
    means = [
        (first * padded[:, :, i : i + depth, j : j + height, k : k + width]).mean(1, keepdim=True)
        for i, j, k in product(range(3), repeat=3)
    ]
    return torch.cat(means, dim=1)


def unfolded(first: Tensor, second: Tensor) -> Tensor:
    """All neighbours as one view, weighed by one `einsum`."""
    neighbours = F.pad(second, [1] * 6)
    for axis in (2, 3, 4):
        neighbours = neighbours.unfold(axis, 3, 1)
    products = torch.einsum("bcdhw,bcdhwijk->bijkdhw", first, neighbours)
    return products.flatten(1, 3) / first.shape[1]


def _with_gradients(
    function: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor, upstream: Tensor
) -> Result:
    first, second = (one.detach().requires_grad_() for one in (first, second))
    found = function(first, second)
    return found.detach(), *torch.autograd.grad(found, (first, second), upstream)


def _agree(ours: Result, other: Result) -> str:
    error = ((ours[0] - other[0]).norm() / other[0].norm()).item()
    gradients = [
        ((a - b).norm() / b.norm()).item() for a, b in zip(ours[1:], other[1:], strict=True)
    ]
    assert error < 1e-5 and max(gradients) < 1e-5, (error, gradients)
    values = "bit-equal" if torch.equal(ours[0], other[0]) else f"within {error:.1e}"
    return f"values {values}, gradients within {max(gradients):.1e} (relative)"
