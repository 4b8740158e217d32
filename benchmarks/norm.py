"""Instance normalization and LeakyReLU as one step, forward and backward, against the two layers of
PyTorch, in both memory formats; and against these two compiled. Results and gradients come in the
format of the features, as the convolutions around them want it."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import CPU, Comparison, kept_storages
from regnet_lib.nn.blocks import InstanceNormActivation

CHANNELS, SHAPE = 24, (72, 88, 72)
SLOPE = 0.1
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}
EXPLANATION = (
    "Contiguous maps: both forms make the same passes at the speed of the memory, with the same "
    "kernel for the statistics. What is gained is that nothing but the result is kept for the "
    "backward pass. Fewer passes take a fused kernel, as a compiler makes it."
)

Result = tuple[Tensor, Tensor, float]


def comparisons(
    device: torch.device = CPU, shape: tuple[int, ...] = SHAPE, compiled: bool = True
) -> list[Comparison]:
    layers = nn.Sequential(nn.InstanceNorm3d(CHANNELS), nn.LeakyReLU(SLOPE))
    others: list[tuple[str, Callable[[Tensor], Tensor], float | None]] = [
        ("the two layers of PyTorch", layers, 1.3)
    ]
    if compiled:
        others.append(("the two layers, compiled", torch.compile(layers, dynamic=False), None))
    return [
        Comparison(
            case=f"normalization and activation, {CHANNELS} channels, "
            f"{'x'.join(map(str, shape))}, {layout}",
            ours=partial(_with_gradient, InstanceNormActivation(SLOPE), *inputs),
            other=partial(_with_gradient, other, *inputs),
            other_name=other_name,
            check=_agree,
            target=target,
        )
        for layout in FORMATS
        for inputs in [_inputs(shape, layout, device)]
        for other_name, other, target in others
    ]


def _inputs(shape: tuple[int, ...], layout: str, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 1, CHANNELS, *shape, generator=generator)
    return [one.to(device, memory_format=FORMATS[layout]) for one in drawn]


def _with_gradient(
    function: Callable[[Tensor], Tensor], features: Tensor, upstream: Tensor
) -> Result:
    """Values, gradient, and how many maps were kept in between beside the result itself."""
    features = features.detach().requires_grad_()
    layout = torch.contiguous_format if features.is_contiguous() else torch.channels_last_3d
    with kept_storages() as kept:
        found = function(features).contiguous(memory_format=layout)
    kept.pop(found.untyped_storage().data_ptr(), None)
    maps = sum(kept.values()) / (features.numel() * features.element_size())
    (gradient,) = torch.autograd.grad(found, features, upstream)
    return found.detach(), gradient.contiguous(memory_format=layout), maps


def _agree(ours: Result, other: Result) -> str:
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(ours[:2], other[:2], strict=True)]
    assert max(errors) < 1e-4, errors
    return (
        f"values within {errors[0]:.1e}, gradients within {errors[1]:.1e} (relative); "
        f"{ours[2]:.0f} maps kept beside the result against {other[2]:.0f}"
    )
