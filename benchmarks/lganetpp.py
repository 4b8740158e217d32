"""LGANet++, one pair and one training step, against its plain transcription with the same
weights, and what activation checkpointing costs."""

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
    "to gain in float32 is therefore the number of convolutions, which the model fixes, and their "
    "layout: channels-last memory meets the target. Checkpointing computes the forward pass of the "
    "checkpointed blocks once more; its cost is the number of blocks, chosen for 6 GiB at "
    "144x176x144."
)
SMALL = (48, 64, 48)


def comparisons(
    device: torch.device = CPU,
    shape: tuple[int, ...] = SHAPE,
    small_shape: tuple[int, ...] = SMALL,
) -> list[Comparison]:
    model = _model().to(device)
    # The layout of the training loop.
    last = channels_innermost(_model().to(device))
    plain = PlainLGANetPP(model).to(device)
    images, small = _images(shape, device), _images(small_shape, device)
    name, small_name = ("x".join(map(str, sides)) for sides in (shape, small_shape))
    result = [
        Comparison(
            case=f"LGANet++ {name}, forward without gradient",
            ours=partial(_forward, model, model, images),
            other=partial(_forward, model, plain, images),
            other_name="the plain transcription",
            check=_same_displacement,
            target=1.2,
            rounds=3,
        )
    ]
    steps = {
        "training step, float32": (TrainingStep(model, model, images), same_gradients, 1.4),
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
    checkpointing = _model(checkpointing=True).to(device)
    result.append(
        Comparison(
            case=f"LGANet++ {small_name}, training step with activation checkpointing",
            ours=TrainingStep(checkpointing, checkpointing, small),
            other=TrainingStep(model, model, small),
            other_name="the same without",
            check=equal_gradients,
            target=0.83,
            rounds=3,
        )
    )
    return result


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
