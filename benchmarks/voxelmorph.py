"""One training step of VoxelMorph: ours against the networks of the same name in MONAI and in the
package of its authors.

MONAI's has the same layout and needs the same operations. That of the authors' package, in its
present release, is another network with a third of them, so that its row has no target. Operations
and parameters stand beside the times, and nothing here says that one registers better.
`benchmarks.zoo` has a row for every other network of the book.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import CPU, Comparison, installed
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.losses import Objective
from regnet_lib.models import create_model
from regnet_lib.nn.blocks import channels_innermost
from regnet_lib.types import Displacement

SHAPE = (64, 80, 64)
CHANNELS = (16, 32, 32, 32)
STEPS = 7
PEERS = ("monai", "voxelmorph")
EXPLANATION = ""

Network = Callable[[Tensor, Tensor], Displacement]


def comparisons(device: torch.device = CPU, shape: tuple[int, ...] = SHAPE) -> list[Comparison]:
    torch.manual_seed(0)
    model = channels_innermost(create_model("voxelmorph2", preset="official").to(device))
    case = phantom_pair(shape, seed=0)
    images = case.moving.to(device), case.fixed.to(device)
    ours = TrainingStep(model, lambda *pair: model(*pair).displacement, images)
    name = "x".join(map(str, shape))
    return [
        Comparison(
            case=f"VoxelMorph-2 {name}, velocity, training step",
            ours=ours,
            other=TrainingStep(network, run, images),
            other_name=other_name,
            check=partial(_costs, ours, TrainingStep(network, run, images)),
            target=target,
            rounds=2,
        )
        for other_name, network, run, target in _others(device)
    ]


def _others(device: torch.device) -> list[tuple[str, nn.Module, Network, float | None]]:
    others: list[tuple[str, nn.Module, Network, float | None]] = []
    if installed("monai"):
        from monai.networks.nets import VoxelMorph

        monai = VoxelMorph(integration_steps=STEPS, half_res=True).to(device)
        others.append(("MONAI's VoxelMorph", monai, lambda *pair: monai(*pair)[1], 1.0))
    if installed("voxelmorph"):
        from voxelmorph.nn.models import VxmPairwise

        authors = VxmPairwise(
            3, 1, 1, nb_features=CHANNELS, integration_steps=STEPS, device=device.type
        ).to(device)
        others.append(("voxelmorph's VxmPairwise", authors, authors, None))
    return others


class TrainingStep:
    """Forward pass, loss, backward pass; the shape of the displacement."""

    def __init__(self, model: nn.Module, run: Network, images: tuple[Tensor, Tensor]) -> None:
        self.model, self.run, self.images = model, run, images

    def __call__(self) -> tuple[int, ...]:
        self.model.zero_grad()
        displacement = self.run(*self.images)
        loss, _ = Objective()(displacement, *self.images)
        loss.backward()
        return tuple(displacement.shape)

    def costs(self) -> str:
        """Parameters and operations."""
        with FlopCounterMode(display=False) as counter:
            self()
        parameters = sum(weights.numel() for weights in self.model.parameters())
        return f"{parameters:,} parameters and {counter.get_total_flops() / 1e9:.0f} GFLOP"


def _costs(
    ours: TrainingStep,
    other: TrainingStep,
    our_shape: tuple[int, ...],
    other_shape: tuple[int, ...],
) -> str:
    assert our_shape == other_shape, (our_shape, other_shape)
    return f"other networks: {ours.costs()} against {other.costs()}"
