"""Feature pyramids of the registration networks, and the step up from level to level.

Level i has 1 / 2^i of the input size; every encoder returns its levels fine to coarse.

    levels = ResidualPyramid((16, 32, 64, 128))(image)   # (B, 1, D, H, W) -> four maps (B, C, ...)
    finer = UpConvolution(128, 64)(levels[-1])           # (B, 128, ...) -> (B, 64, ...), doubled
"""

from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn

from regnet_lib.nn.blocks import ConvNormActivation, InstanceNormActivation, conv


class Pyramid(nn.Module):
    """The outputs of a chain of modules, one per level.

    Args:
        levels: fine to coarse; each of them halves the grid itself, by pooling or by a stride.
    """

    def __init__(self, levels: Iterable[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features fine to coarse."""
        features = []
        for level in self.levels:
            image = level(image)
            features.append(image)
        return features


class PreActivationResidual(nn.Module):
    """y = x + conv(a(x)), result = a(y), where a is instance normalisation and LeakyReLU."""

    def __init__(self, channels: int, slope: float = 0.1) -> None:
        super().__init__()
        self.conv = conv(channels, channels)
        self.activation = InstanceNormActivation(slope)

    def forward(self, features: Tensor) -> Tensor:
        return self.activation(features + self.conv(self.activation(features)))


class ResidualPyramid(Pyramid):
    """Encoder of RDP and PCNet: a strided convolution and a residual block per level.

    Args:
        channels: per level, fine to coarse.
    """

    def __init__(self, channels: tuple[int, ...], inputs: int = 1) -> None:
        finest = ConvNormActivation(inputs, channels[0])
        coarser = (
            nn.Sequential(conv(less, more, stride=2), PreActivationResidual(more))
            for less, more in pairwise(channels)
        )
        super().__init__([finest, *coarser])


class UpConvolution(nn.Sequential):
    """A transposed convolution that doubles the grid, instance normalisation and LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, slope: float = 0.1) -> None:
        super().__init__(
            nn.ConvTranspose3d(inputs, outputs, kernel_size=4, stride=2, padding=1),
            InstanceNormActivation(slope),
        )
