"""The convolutional decoder that TransMorph and ViT-V-Net put behind their transformers.

up = SkipUp(384, 192, 192)
features = up(features, skip)   # (B, 384, D, H, W), (B, 192, 2D, 2H, 2W) -> (B, 192, 2D, 2H, 2W)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regnet_lib.nn.blocks import Conv3d, InstanceNormActivation


class ConvNorm(nn.Sequential):
    """3x3x3 convolution without bias, normalisation, activation.

    Args:
        batch_norm: batch normalisation and ReLU (ViT-V-Net); else instance normalisation without
            learned scale and LeakyReLU of slope 0.01 (TransMorph).
    """

    def __init__(self, inputs: int, outputs: int, batch_norm: bool = False) -> None:
        convolution = Conv3d(inputs, outputs, 3, padding=1, bias=False)
        if batch_norm:
            super().__init__(convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))
        else:
            super().__init__(convolution, InstanceNormActivation(0.01))


class SkipUp(nn.Sequential):
    """Double the grid linearly, append the skip connection, convolve twice.

    Args:
        inputs: channels of the coarser map.
        skip: channels of the skip connection; 0 for none.
        outputs: channels of the result.
        batch_norm: see `ConvNorm`.
    """

    def __init__(self, inputs: int, skip: int, outputs: int, batch_norm: bool = False) -> None:
        super().__init__(
            ConvNorm(inputs + skip, outputs, batch_norm), ConvNorm(outputs, outputs, batch_norm)
        )

    def forward(self, features: Tensor, skip: Tensor | None = None) -> Tensor:
        features = F.interpolate(features, scale_factor=2, mode="trilinear")
        if skip is not None:
            features = torch.cat([features, skip], dim=1)
        return super().forward(features)
