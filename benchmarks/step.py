"""One training step of a network as a contender, and how close two of them have to be."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from regnet_lib.losses import Objective
from regnet_lib.types import Displacement, Image, Registration

Step = tuple[Displacement, float, Tensor]
Loss = Callable[[Displacement, Image, Image], tuple[Tensor, object]]


class TrainingStep:
    """Forward pass, loss, backward pass.

    The first call leaves dropout out, so that results can be compared: displacement, loss, and
    gradients in one row.

    Args:
        model: owns the parameters, and knows whether it is in training.
        run: the network itself, or another form of it with the same parameters.
        autocast: precision of autocast in the network; none if None.
        objective: the loss; `Objective()` if None.
    """

    def __init__(
        self,
        model: nn.Module,
        run: Callable[[Image, Image], Registration | Displacement],
        images: tuple[Image, Image],
        autocast: torch.dtype | None = None,
        objective: Loss | None = None,
    ) -> None:
        self.model, self.run, self.images, self.autocast = model, run, images, autocast
        self.objective = objective or Objective()
        self.fresh = True

    def __call__(self) -> Step | None:
        fresh, self.fresh = self.fresh, False
        self.model.train(not fresh)
        self.model.zero_grad()
        with in_precision(self.images[0].device, self.autocast):
            displacement = displacement_of(self.run(*self.images))
        loss, _ = self.objective(displacement, *self.images)
        loss.backward()
        if not fresh:
            return None
        gradients = [weights.grad.flatten() for weights in self.model.parameters()]
        return displacement.detach(), loss.item(), torch.cat(gradients)


def in_precision(device: torch.device, autocast: torch.dtype | None) -> AbstractContextManager:
    """Autocast to a type, or none."""
    return torch.autocast(device.type, autocast, enabled=autocast is not None)


def displacement_of(result: Registration | Displacement) -> Displacement:
    return result.displacement if isinstance(result, Registration) else result


def same_gradients(ours: Step, other: Step) -> str:
    """What float32 leaves of two orders of the same operations."""
    loss = abs(ours[1] - other[1])
    gradient = ((ours[2] - other[2]).norm() / other[2].norm()).item()
    assert loss < 1e-5 and gradient < 1e-2, (loss, gradient)
    return f"loss differs by {loss:.1e}, gradient by {gradient:.1e} (relative)"


def equal_gradients(ours: Step, other: Step) -> str:
    assert all(torch.equal(*map(torch.as_tensor, pair)) for pair in zip(ours, other, strict=True))
    return "displacement, loss and gradient bit-equal"


def close_displacement(ours: Step, other: Step) -> str:
    """What bfloat16 leaves of a network."""
    difference = (ours[0] - other[0]).abs()
    loss = abs(ours[1] - other[1])
    assert difference.mean() < 0.03 and difference.max() < 0.5 and loss < 5e-3, difference.max()
    return (
        f"displacement differs by {difference.mean().item():.1e} voxel in the mean and "
        f"{difference.max().item():.1e} at most of {other[0].abs().max().item():.1e}, loss by "
        f"{loss:.1e}"
    )
