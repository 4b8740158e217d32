"""LGANet++, one pair and one training step, against its plain transcription with the same
weights, and what activation checkpointing costs.

The library registers and trains with the channels innermost in memory; a row without a target
shows the step in PyTorch's usual layout.
"""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import CPU, Comparison
from benchmarks.plain_lganetpp import PlainLGANetPP
from benchmarks.step import (
    TrainingStep,
    close_displacement,
    displacement_of,
    equal_gradients,
    same_gradients,
)
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.nn.blocks import channels_innermost

SHAPE = (72, 88, 72)
EXPLANATION = (
    "Convolutions are 93 % of a step in a profile at 48x48x48, and both forms run the same kernels "
    "of oneDNN for them; ours has 156 of them where the plain transcription has 204. What is left "
    "to gain is therefore the number of convolutions, which the model fixes, and their layout."
)
CHECKPOINTING_EXPLANATION = (
    "Checkpointing computes the forward pass of the checkpointed blocks once more; its cost is the "
    "number of blocks, chosen for 6 GiB at 144x176x144."
)
SMALL = (48, 64, 48)


def comparisons(device: torch.device = CPU, shape: tuple[int, ...] = SHAPE) -> list[Comparison]:
    model = _model().to(device)
    last = channels_innermost(_model().to(device))
    plain = PlainLGANetPP(model).to(device)
    images, name = _images(shape, device), "x".join(map(str, shape))
    result = [
        Comparison(
            case=f"LGANet++ {name}, registration, float32, channels last",
            ours=partial(_forward, last, last, images),
            other=partial(_forward, model, plain, images),
            other_name="the plain transcription",
            check=_same_displacement,
            target=1.2,
            rounds=2,
        )
    ]
    steps = {
        "training step, float32": (TrainingStep(model, model, images), same_gradients, None),
        "training step, float32, channels last": (
            TrainingStep(last, last, images),
            same_gradients,
            1.4,
        ),
        "training step, bfloat16 autocast, channels last": (
            TrainingStep(last, last, images, torch.bfloat16),
            close_displacement,
            2.5,
        ),
    }
    result += [
        Comparison(
            case=f"LGANet++ {name}, {what}",
            ours=ours,
            other=TrainingStep(model, plain, images),
            other_name="the plain transcription in float32",
            check=check,
            target=target,
            rounds=2,
        )
        for what, (ours, check, target) in steps.items()
    ]
    return result


def checkpointing_comparisons(
    device: torch.device = CPU, shape: tuple[int, ...] = SMALL
) -> list[Comparison]:
    """What the second forward pass of the checkpointed blocks costs."""
    model, again = _model().to(device), _model(checkpointing=True).to(device)
    images = _images(shape, device)
    return [
        Comparison(
            case=f"LGANet++ {'x'.join(map(str, shape))}, training step with activation "
            "checkpointing",
            ours=TrainingStep(again, again, images),
            other=TrainingStep(model, model, images),
            other_name="the same without",
            check=equal_gradients,
            target=0.83,
            rounds=3,
        )
    ]


def _model(**options: bool) -> LGANetPP:
    torch.manual_seed(0)
    model = LGANetPP(**options)
    # At its initial 0 the position attention would not take part.
    model.decoders["4"].position_attention.gamma.data.fill_(0.8)
    return model


def _images(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    case = phantom_pair(shape, seed=0)
    return case.moving.to(device), case.fixed.to(device)


@torch.no_grad()
def _forward(model: LGANetPP, run: nn.Module, images: tuple[Tensor, Tensor]) -> Tensor:
    model.eval()
    return displacement_of(run(*images))


def _same_displacement(ours: Tensor, other: Tensor) -> str:
    worst = (ours - other).abs().max().item()
    assert worst < 5e-3, worst
    return f"largest difference {worst:.1e} voxel of {other.abs().max().item():.1f}"
