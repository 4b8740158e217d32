"""Attention over the 27 neighbours whose values are their offsets: where does a voxel look?

ModeT section 2.2 (Wang et al., MICCAI 2023): with query q, key k and a learned bias b per offset o,

    offset(x) = sum_o o * softmax_o(q(x) . k(x + o) + b_o)

    u = expected_offset(query, key, bias)   # (G, F, D, H, W) twice, (G, 27) -> (G, 3, D, H, W)

With a margin of one voxel around the volume, every neighbour is a constant distance away in
memory. So one pass over short runs of voxels does it all, with the 27 logits and weights of a run
in the processor's cache. Only queries and keys are kept for the backward pass, which computes the
weights again.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

OFFSETS = tuple(product((-1, 0, 1), repeat=3))
# Voxels of all groups together in a run; 27 float32 weights each make 1.7 MiB.
RUN_VOXELS = 2**14


def expected_offset(
    query: Float[Tensor, "groups feature depth height width"],
    key: Float[Tensor, "groups feature depth height width"],
    bias: Float[Tensor, "groups 27"],
) -> Float[Tensor, "groups 3 depth height width"]:
    """Mean offset of at most one voxel along each axis, in float32 at least.

    Keys outside the volume are zero vectors and take part in the softmax.

    Args:
        bias: of the offsets in {-1, 0, 1}^3, the first axis slowest.

    Raises:
        ValueError: queries and keys differ in shape.
    """
    if query.shape != key.shape:
        raise ValueError(
            "expected_offset: expected queries and keys of one shape, got "
            f"{tuple(query.shape)} and {tuple(key.shape)}. Resample one to the other grid."
        )
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
    # Shifted products of whole channels: one channel after the other in memory.
    query, key = (
        features.to(dtype, memory_format=torch.contiguous_format) for features in (query, key)
    )
    with torch.autocast(query.device.type, enabled=False):
        return _ExpectedOffset.apply(query, key, bias.to(dtype))


class _ExpectedOffset(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, bias)
        offsets = query.new_tensor(OFFSETS).T  # (3, 27)
        queries, keys = _with_margin(query), _with_margin(key)
        shape = [side + 2 for side in query.shape[2:]]
        result = query.new_zeros(query.shape[0], 3, queries.shape[2])
        distances = _distances(shape)
        for run in _runs(queries, distances):
            result[:, :, run] = offsets @ _weights(queries, keys, bias, run, distances)
        return _without_margin(result, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        query, key, bias = ctx.saved_tensors
        offsets = query.new_tensor(OFFSETS)  # (27, 3)
        queries, keys, upstream = (_with_margin(one) for one in (query, key, upstream))
        shape = [side + 2 for side in query.shape[2:]]
        of_queries, of_keys = torch.zeros_like(queries), torch.zeros_like(keys)
        of_bias = torch.zeros_like(bias)
        distances = _distances(shape)
        for run in _runs(queries, distances):
            weights = _weights(queries, keys, bias, run, distances)
            along = offsets @ upstream[:, :, run]
            # The derivative of a softmax: p_o (g_o - sum_o p_o g_o).
            logits = along.sub_((weights * along).sum(dim=1, keepdim=True)).mul_(weights)
            of_bias += logits.sum(dim=2)
            for share, distance in zip(logits.split(1, dim=1), distances, strict=True):
                of_queries[:, :, run].addcmul_(share, _moved(keys, run, distance))
                _moved(of_keys, run, distance).addcmul_(share, queries[:, :, run])
        return _without_margin(of_queries, shape), _without_margin(of_keys, shape), of_bias


def _weights(
    queries: Tensor, keys: Tensor, bias: Tensor, run: slice, distances: Sequence[int]
) -> Tensor:
    """Softmax over the neighbours of a run of voxels, `(G, 27, voxels)`."""
    part = queries[:, :, run]
    logits = part.new_empty(part.shape[0], len(distances), part.shape[2])
    products = torch.empty_like(part)
    for offset, distance in enumerate(distances):
        torch.mul(part, _moved(keys, run, distance), out=products)
        torch.sum(products, dim=1, out=logits[:, offset])
    return logits.add_(bias.unsqueeze(2)).softmax(dim=1)


def _with_margin(volume: Tensor) -> Tensor:
    """Zeros around, and one axis for all voxels, `(G, C, D, H, W)` -> `(G, C, voxels)`."""
    return F.pad(volume, [1] * 6).flatten(2)


def _without_margin(values: Tensor, shape: Sequence[int]) -> Tensor:
    inner = slice(1, -1)
    return values.unflatten(2, shape)[:, :, inner, inner, inner].contiguous()


def _distances(shape: Sequence[int]) -> list[int]:
    """How far in memory each neighbour lies, in voxels of the volume with its margin."""
    _, height, width = shape
    return [(i * height + j) * width + k for i, j, k in OFFSETS]


def _runs(queries: Tensor, distances: Sequence[int]) -> Iterator[slice]:
    """All voxels with 27 neighbours. Some of the margin is among them, and cut off later."""
    groups, _, voxels = queries.shape
    margin = distances[-1]
    length = max(RUN_VOXELS // groups, 1)
    for start in range(margin, voxels - margin, length):
        yield slice(start, min(start + length, voxels - margin))


def _moved(values: Tensor, run: slice, distance: int) -> Tensor:
    return values[:, :, run.start + distance : run.stop + distance]
