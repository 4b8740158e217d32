"""AD-RegNet, one training step, against the same network in plain form: every image passes the
U-Net by itself, and the scores of attention are written out.

The library trains with the channels innermost in memory; the row without a target shows the step in
PyTorch's usual layout.
"""

from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.measure import CPU, Comparison
from benchmarks.step import TrainingStep, close_displacement, same_gradients
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.losses import ADRegNetObjective
from regnet_lib.models.ad_regnet import ADRegNet
from regnet_lib.nn.blocks import channels_innermost
from regnet_lib.types import Displacement, Image

SHAPE = (48, 48, 48)
EXPLANATION = (
    "AD-RegNet in float32: both forms run the same convolutions of 32 to 512 channels. What ours "
    "saves, a second pass of the U-Net and the scores of attention, is a small part of a step. "
    "Channels-last memory gains nothing, because the affine normalization turns the axes there and "
    "back; without that turn, as in LGANet++, a step was 13 % faster and still 1.1 times the plain "
    "one. In bfloat16, in which the book trains it, the target is met."
)


def comparisons(device: torch.device = CPU, shape: tuple[int, ...] = SHAPE) -> list[Comparison]:
    torch.manual_seed(0)
    model = ADRegNet().to(device)
    last = ADRegNet().to(device)
    last.load_state_dict(model.state_dict())
    channels_innermost(last)
    case = phantom_pair(shape, seed=0)
    images = case.moving.to(device), case.fixed.to(device)
    step = partial(TrainingStep, images=images, objective=ADRegNetObjective())
    name = "x".join(map(str, shape))
    return [
        Comparison(
            case=f"AD-RegNet {name}, training step, {what}",
            ours=ours,
            other=step(model, PlainADRegNet(model)),
            other_name="the plain form in float32",
            check=check,
            target=target,
            rounds=2,
        )
        for what, ours, check, target in (
            ("float32", step(model, model), same_gradients, None),
            ("float32, channels last", step(last, last), same_gradients, 1.3),
            (
                "bfloat16 autocast, channels last",
                step(last, last, autocast=torch.bfloat16),
                close_displacement,
                1.3,
            ),
        )
    ]


class PlainADRegNet(nn.Module):
    """Runs the layers of an `ADRegNet` in the plain order; shares its parameters."""

    def __init__(self, model: ADRegNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, moving: Image, fixed: Image) -> Displacement:
        levels_moving, levels_fixed = self.model.backbone(moving), self.model.backbone(fixed)
        displacement: Displacement | None = None
        with patch("regnet_lib.nn.cross_attention.cross_attend", written_out):
            for name, level in self.model.levels.items():
                features = levels_moving[int(name)], levels_fixed[int(name)]
                displacement = level(*features, displacement).displacement
        return displacement


def written_out(
    query: Tensor, key: Tensor, value: Tensor, present: Tensor | None = None, rows: int = 1
) -> Tensor:
    """`cross_attend` with every score in memory."""
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if present is not None:
        scores = scores.masked_fill(~present.unsqueeze(1), -torch.inf)
    return scores.softmax(-1) @ value
