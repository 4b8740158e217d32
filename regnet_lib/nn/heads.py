"""Heads: from features to three displacement (or velocity) channels.

head = DisplacementHead(24, std=1e-5)
displacement = head(features)   # (B, 24, D, H, W) -> (B, 3, D, H, W), float32 at least
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from regnet_lib.types import Displacement


def start_small(layer: nn.Conv3d, std: float = 1e-5) -> None:
    """Normal weights of the given standard deviation and a zero bias, in place."""
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)


class DisplacementHead(nn.Conv3d):
    """A 3x3x3 convolution to three channels, evaluated in float32 also under autocast.

    A bfloat16 displacement of 10 voxels is only known to 1/32 voxel, and its error passes straight
    into the warp.

    Args:
        std: standard deviation of the normal initial weights, with a zero bias; VoxelMorph and most
            of its successors start from 1e-5, so from almost no motion. None keeps PyTorch's
            default initialisation (the LGANet family), which starts with motions of a few voxels.
    """

    def __init__(self, channels: int, std: float | None = None) -> None:
        super().__init__(channels, 3, kernel_size=3, padding=1)
        if std is not None:
            start_small(self, std)

    def forward(self, features: Tensor) -> Displacement:
        with _no_autocast(features.device.type):
            field = super().forward(_twice_if_small(features.to(self.weight.dtype)))
        # Fields are sampled, scaled and added component by component.
        return field[: len(features)].contiguous()


def _twice_if_small(features: Tensor) -> Tensor:
    """A small batch of one a second time, where the convolution is then three times as fast.

    PyTorch 2.13 convolves one float32 map with channels x depth x height <= 20,480 on the CPU by a
    slow kernel, and two of them by oneDNN. The second costs no memory.
    """
    small = len(features) == 1 and features.shape[1:4].numel() <= 20_480
    if small and features.device.type == "cpu":
        return features.expand(2, *features.shape[1:])
    return features


def _no_autocast(device: str) -> AbstractContextManager:
    # Devices without arithmetic, such as "meta", know no autocast and refuse to switch it off.
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
