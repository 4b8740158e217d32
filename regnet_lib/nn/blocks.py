"""Convolutional blocks shared by the networks.

All of them map `(B, C, D, H, W)` to `(B, C', D', H', W')` and take any size.

    block = ConvNormActivation(8, 16)
    features = block(image_features)   # (B, 8, D, H, W) -> (B, 16, D, H, W)
"""

import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv3d:
    """A convolution that keeps the size (at stride 1)."""
    return nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)


class ConvActivation(nn.Sequential):
    """Convolution and LeakyReLU, the only block of VoxelMorph."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, slope: float = 0.2) -> None:
        super().__init__(conv(inputs, outputs, stride=stride), nn.LeakyReLU(slope))


class ConvNormActivation(nn.Sequential):
    """Convolution, instance normalisation (no affine, no running statistics) and LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, slope: float = 0.1) -> None:
        super().__init__(conv(inputs, outputs), nn.InstanceNorm3d(outputs), nn.LeakyReLU(slope))


class LinearPair(nn.Sequential):
    """A 3x3x3 and a 1x1x1 convolution with nothing in between, evaluated as the one that they are.

    Their composition has the kernel W2 W1 and the bias W2 b1 + b2. It is formed anew in every call,
    so both layers train as usual, and the channels in between are never computed.
    """

    def __init__(self, inputs: int, between: int, outputs: int) -> None:
        super().__init__(conv(inputs, between), conv(between, outputs, kernel=1))

    def forward(self, features: Tensor) -> Tensor:
        first, second = self
        mix = second.weight.flatten(1)  # (outputs, between, 1, 1, 1) -> (outputs, between)
        kernel = (mix @ first.weight.flatten(1)).view(len(mix), *first.weight.shape[1:])
        return F.conv3d(features, kernel, mix @ first.bias + second.bias, padding=first.padding)


class PairedResidual(nn.Module):
    """Five convolutions C -> C with one inner skip; the "ResNet" of the LGANet family.

    y = ReLU(conv conv x);  result = y + ReLU(conv conv ReLU(conv y)). Neighbouring convolutions
    have no activation between them, as released, and there is no skip around the whole block.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(conv(channels, channels), conv(channels, channels), nn.ReLU())
        self.residual = nn.Sequential(
            conv(channels, channels),
            nn.ReLU(),
            conv(channels, channels),
            conv(channels, channels),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        features = self.entry(features)
        return features + self.residual(features)


class FeaturePyramid(nn.Module):
    """Encoder of the LGANet family: three convolutions per level, max pooling between levels.

    The first convolution of a level has neither normalisation nor activation.

    Args:
        channels: per level, fine to coarse; level i has 1/2^i of the input size.
    """

    def __init__(self, channels: tuple[int, ...], inputs: int = 1) -> None:
        super().__init__()
        before = (inputs, *channels[:-1])
        self.levels = nn.ModuleList(
            nn.Sequential(
                conv(less, more), ConvNormActivation(more, more), ConvNormActivation(more, more)
            )
            for less, more in zip(before, channels, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features fine to coarse."""
        features = []
        for index, level in enumerate(self.levels):
            image = level(F.max_pool3d(image, 2) if index > 0 else image)
            features.append(image)
        return features
