"""The plain U-Net of VoxelMorph, which other networks build on.

unet = UNet(2, (16, 32, 32, 32), (32, 32, 32, 32), (32, 16, 16))
features = unet(images)   # (B, 2, D, H, W) -> (B, 16, D, H, W), sides multiples of 16
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regnet_lib.nn.blocks import ConvActivation


class UNet(nn.Module):
    """U-Net without normalisation; doubling by the nearest neighbour, then concatenation.

    Args:
        inputs: channels of the input.
        encoder: channels of the levels; each halves the grid.
        decoder: channels before each doubling; as many as `encoder`.
        full_resolution: channels of the convolutions at the size of the input.
        pooled: halve by max pooling behind each convolution, whose full output is the skip
            connection. Otherwise the convolutions have stride 2, and the input itself is the last
            skip connection.
    """

    def __init__(
        self,
        inputs: int,
        encoder: tuple[int, ...],
        decoder: tuple[int, ...],
        full_resolution: tuple[int, ...],
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.down = nn.ModuleList(
            ConvActivation(less, more, stride=1 if pooled else 2)
            for less, more in pairwise((inputs, *encoder))
        )
        skips = encoder if pooled else (inputs, *encoder[:-1])
        channels = encoder[-1]
        self.up = nn.ModuleList()
        for outputs, skip in zip(decoder, reversed(skips), strict=True):
            self.up.append(ConvActivation(channels, outputs))
            channels = outputs + skip
        self.full = nn.Sequential(
            *(ConvActivation(less, more) for less, more in pairwise((channels, *full_resolution)))
        )

    def forward(self, features: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            if self.pooled:
                skips.append(down(features))
                features = F.max_pool3d(skips[-1], 2)
            else:
                skips.append(features)
                features = down(features)
        for up in self.up:
            features = F.interpolate(up(features), scale_factor=2, mode="nearest")
            features = torch.cat([features, skips.pop()], dim=1)
        return self.full(features)
