"""AD-RegNet, one training step, against the same network in plain form: every image passes the
U-Net by itself, and the scores of attention are written out."""

from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.measure import CPU, Comparison
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.losses import ADRegNetObjective
from regnet_lib.models.ad_regnet import ADRegNet
from regnet_lib.types import Displacement, Image

SHAPE = (48, 48, 48)
EXPLANATION = ""

Step = tuple[Tensor, float, Tensor]


def comparisons(device: torch.device = CPU, shape: tuple[int, ...] = SHAPE) -> list[Comparison]:
    torch.manual_seed(0)
    model = ADRegNet().to(device)
    last = ADRegNet().to(device)
    last.load_state_dict(model.state_dict())
    last = last.to(memory_format=torch.channels_last_3d)
    case = phantom_pair(shape, seed=0)
    images = case.moving.to(device), case.fixed.to(device)
    plain = TrainingStep(model, PlainADRegNet(model), images)
    name = "x".join(map(str, shape))
    return [
        Comparison(
            case=f"AD-RegNet {name}, training step, {what}",
            ours=ours,
            other=plain,
            other_name="the plain form in float32",
            check=check,
            target=1.3,
            rounds=2,
        )
        for what, ours, check in (
            ("float32", TrainingStep(model, model, images), _same),
            (
                "bfloat16 autocast, channels last",
                TrainingStep(last, last, images, torch.bfloat16),
                _close,
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


class TrainingStep:
    """Forward pass, loss, backward pass: displacement, loss, and gradients in one row."""

    def __init__(
        self,
        model: ADRegNet,
        run: nn.Module,
        images: tuple[Tensor, Tensor],
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.images, self.autocast = model, images, autocast
        self.run = run

    def __call__(self) -> Step:
        self.model.zero_grad()
        device = self.images[0].device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            result = self.run(*self.images)
        displacement = result if isinstance(result, Tensor) else result.displacement
        loss, _ = ADRegNetObjective()(displacement, *self.images)
        loss.backward()
        gradients = [weights.grad.flatten() for weights in self.model.parameters()]
        return displacement.detach(), loss.item(), torch.cat(gradients)


def _same(ours: Step, other: Step) -> str:
    loss = abs(ours[1] - other[1])
    gradient = ((ours[2] - other[2]).norm() / other[2].norm()).item()
    assert loss < 1e-5 and gradient < 1e-2, (loss, gradient)
    return f"loss differs by {loss:.1e}, gradient by {gradient:.1e} (relative)"


def _close(ours: Step, other: Step) -> str:
    difference = (ours[0] - other[0]).abs()
    loss = abs(ours[1] - other[1])
    assert difference.max() < 0.1 and loss < 5e-3, (difference.max(), loss)
    return (
        f"displacement differs by at most {difference.max().item():.1e} of "
        f"{other[0].abs().max().item():.1e} voxel, loss by {loss:.1e}"
    )
