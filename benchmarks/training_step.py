"""What the settings of the training loop give on a CPU: weights with the channels innermost, and
bfloat16 autocast, against the same model as PyTorch builds it, in float32."""

from functools import partial

import torch
from torch import nn

from benchmarks.measure import CPU, Comparison
from benchmarks.step import Step, TrainingStep
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.models import create_model
from regnet_lib.models.sizes import run_at_valid_size
from regnet_lib.nn.blocks import channels_innermost

SHAPE = (48, 64, 48)
MODELS = ("voxelmorph2", "modet", "pivit")
SETTINGS: dict[str, torch.dtype | None] = {
    "channels last": None,
    "channels last, bfloat16 autocast": torch.bfloat16,
}


def comparisons(
    device: torch.device = CPU,
    shape: tuple[int, ...] = SHAPE,
    models: tuple[str, ...] = MODELS,
) -> list[Comparison]:
    case = phantom_pair(shape, seed=0)
    images = case.moving.to(device), case.fixed.to(device)
    name = "x".join(map(str, shape))

    def step(model: nn.Module, autocast: torch.dtype | None = None) -> TrainingStep:
        return TrainingStep(model, partial(run_at_valid_size, model), images, autocast)

    found = []
    for model in models:
        plain = _model(model, device)
        last = channels_innermost(_model(model, device))
        for setting, autocast in SETTINGS.items():
            found.append(
                Comparison(
                    case=f"{model} {name}, training step, {setting}",
                    ours=step(last, autocast=autocast),
                    other=step(plain),
                    other_name="contiguous, float32",
                    check=partial(_agree, 1e-3 if autocast is None else 0.5),
                    rounds=3,
                )
            )
    return found


def _model(name: str, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name).to(device)


def _agree(limit_voxels: float, ours: Step, other: Step) -> str:
    worst = (ours[0] - other[0]).abs().max().item()
    loss = abs(ours[1] - other[1])
    assert worst < limit_voxels and loss < 5e-3, (worst, loss)
    return f"displacement differs by {worst:.1e} voxel at most, loss by {loss:.1e}"
