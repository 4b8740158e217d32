"""Data parallelism: several processes, each with a share of every batch or of the cases.

    torchrun --nproc-per-node 2 -m regnet_lib train EXPERIMENT      # gloo on CPUs, nccl on GPUs

Gradients are averaged before each step, so that N processes take the step that one would take on
the whole batch: exactly where the loss is a mean over cases, as all losses here are. Batch
normalisation sees its own share only, and dropout draws other masks.
"""

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

Item = TypeVar("Item")


@dataclass(frozen=True)
class Team:
    """The processes of this run, and which of them this one is; alone without `torchrun`."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """True for the one process that writes files and shows progress."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of a batch or of a list of cases: every N-th, from its rank on."""
        return items[self.rank :: self.size]

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def average_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(joined)
        joined /= self.size
        parts = joined.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def average(self, values: Float[Tensor, " values"]) -> Float[Tensor, " values"]:
        """The mean of every value over the processes, still on its device."""
        if self.size == 1:
            return values
        total = values.double()
        dist.all_reduce(total)
        return total / self.size

    def any(self, condition: bool) -> bool:
        """True if the condition holds in at least one process, in all of them alike."""
        if self.size == 1:
            return condition
        flag = torch.tensor([float(condition)], device=self.device)
        return bool(self.average(flag) > 0)

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """The shares of all processes as one list, in the order that `share` took them from."""
        if self.size == 1:
            return list(items)
        parts: list[Sequence[Item]] = [[]] * self.size
        dist.all_gather_object(parts, list(items))
        longest = max(len(part) for part in parts)
        return [part[i] for i in range(longest) for part in parts if i < len(part)]


def team(device: torch.device) -> Team:
    """The team of a `torchrun` process, or a team of one.

    Args:
        device: where to compute; of several GPUs each process takes the one of its local rank.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team(device=device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # Not earlier: a group that is opened twice in one process waits for ever.
        atexit.register(dist.destroy_process_group)
    return Team(rank=dist.get_rank(), size=size, device=device)
