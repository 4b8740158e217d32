"""ModeT against its plain form, in which the 27 neighbours of every voxel are written out."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import CPU, Comparison
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.models.modet import ModeT, NeighbourAttention
from regnet_lib.nn.expected_offset import OFFSETS

EXPLANATION = ""
SHAPE = (96, 112, 80)


def comparisons(device: torch.device = CPU, shape: tuple[int, ...] = SHAPE) -> list[Comparison]:
    torch.manual_seed(0)
    ours, other = ModeT().to(device), ModeT().to(device)
    for attention in ours.attention.values():  # away from the almost motionless start
        nn.init.normal_(attention.project[0].weight, std=0.2)
    other.load_state_dict(ours.state_dict())
    for level, attention in other.attention.items():
        other.attention[level] = Unfolded(attention)
    case = phantom_pair(shape, seed=0)
    images = case.moving.to(device), case.fixed.to(device)
    name = "x".join(map(str, shape))
    return [
        Comparison(
            case=f"ModeT {name}, {what}",
            ours=partial(run, ours, images),
            other=partial(run, other, images),
            other_name="the same with unfolded neighbours",
            check=check,
            target=1.6,
            rounds=3,
        )
        for what, run, check in (
            ("forward without gradient", _forward, _same_displacement),
            ("forward and backward", _with_gradient, _same_gradients),
        )
    ]


class Unfolded(nn.Module):
    """`NeighbourAttention` in its published order: unfold the keys, multiply, softmax, weigh."""

    def __init__(self, attention: NeighbourAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        layer = self.attention
        query, key = layer.factor * layer._per_head(fixed), layer._per_head(moving)
        shape = query.shape[2:]
        keys = F.pad(key, [1] * 6)
        for axis in (2, 3, 4):
            keys = keys.unfold(axis, 3, 1)
        keys = keys.flatten(5).flatten(2, 4)  # (B heads, F, voxels, 27)
        logits = torch.einsum("gfv,gfvo->gvo", query.flatten(2), keys)
        bias = layer.bias.flatten(1).repeat(fixed.shape[0], 1)
        weights = (logits + bias.unsqueeze(1)).softmax(dim=2)
        fields = (weights @ weights.new_tensor(OFFSETS)).transpose(1, 2)
        return fields.unflatten(2, shape).unflatten(0, (-1, layer.heads))


def _forward(model: ModeT, images: tuple[Tensor, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(*images).displacement


def _with_gradient(model: ModeT, images: tuple[Tensor, Tensor]) -> Tensor:
    model.zero_grad()
    model(*images).displacement.square().mean().backward()
    return torch.cat([weights.grad.flatten() for weights in model.parameters()])


def _same_displacement(ours: Tensor, other: Tensor) -> str:
    worst = (ours - other).abs().max().item()
    assert worst < 1e-3, worst
    return f"largest difference {worst:.1e} voxel of {other.abs().max():.2f}"


def _same_gradients(ours: Tensor, other: Tensor) -> str:
    error = ((ours - other).norm() / other.norm()).item()
    assert error < 1e-3, error
    return f"gradients differ by {error:.1e} (relative)"
