"""What the settings of the training loop give on a CPU: weights with the channels innermost, and
bfloat16 autocast, against the same model as PyTorch builds it, in float32."""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import CPU, Comparison
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.losses import Objective
from regnet_lib.models import create_model
from regnet_lib.models.sizes import run_at_valid_size
from regnet_lib.nn.blocks import channels_innermost

SHAPE = (48, 64, 48)
MODELS = ("voxelmorph2", "modet", "pivit")
SETTINGS: dict[str, torch.dtype | None] = {
    "channels last": None,
    "channels last, bfloat16 autocast": torch.bfloat16,
}

Step = tuple[Tensor, float]


def comparisons(
    device: torch.device = CPU,
    shape: tuple[int, ...] = SHAPE,
    models: tuple[str, ...] = MODELS,
) -> list[Comparison]:
    case = phantom_pair(shape, seed=0)
    images = case.moving.to(device), case.fixed.to(device)
    name = "x".join(map(str, shape))
    found = []
    for model in models:
        plain = _model(model, device)
        last = channels_innermost(_model(model, device))
        for setting, autocast in SETTINGS.items():
            found.append(
                Comparison(
                    case=f"{model} {name}, training step, {setting}",
                    ours=partial(_step, last, images, autocast),
                    other=partial(_step, plain, images, None),
                    other_name="contiguous, float32",
                    check=partial(_agree, 1e-3 if autocast is None else 0.5),
                    rounds=3,
                )
            )
    return found


def _model(name: str, device: torch.device) -> nn.Module:
    """Without dropout, so that results can be compared."""
    torch.manual_seed(0)
    model = create_model(name).to(device).eval()
    return model.requires_grad_()


def _step(model: nn.Module, images: tuple[Tensor, Tensor], autocast: torch.dtype | None) -> Step:
    model.zero_grad()
    with torch.autocast(images[0].device.type, autocast, enabled=autocast is not None):
        displacement = run_at_valid_size(model, *images).displacement
    loss, _ = Objective()(displacement, *images)
    loss.backward()
    return displacement.detach(), loss.item()


def _agree(limit_voxels: float, ours: Step, other: Step) -> str:
    worst = (ours[0] - other[0]).abs().max().item()
    loss = abs(ours[1] - other[1])
    assert worst < limit_voxels and loss < 5e-3, (worst, loss)
    return f"displacement differs by {worst:.1e} voxel at most, loss by {loss:.1e}"
