"""Fusing feature maps: across scales (LGANet++ section 2.2) and across sources (section 2.4.2).

fused = MultiScaleFusion((8, 16, 32, 64))(moving, fixed)   # one map per level
merged = ChannelWiseFusion(8)(fused[0], warped, fixed[0])  # 3 x (B, 8, ...) -> (B, 24, ...)
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regnet_lib.nn.blocks import ConvNormActivation, conv
from regnet_lib.spatial import resample


class ScaleProduct(nn.Module):
    """The product in equation (3): every level of both images, resized, convolved, multiplied.

    At PyTorch's default initialisation the eight factors are about 0.1 each, the product is about
    1e-6, and so are its gradients: weight decay then drives all weights to zero and the product
    with them.

    Args:
        unit_factors: biases start at 1, and so the factors near 1. Leave these weights out of
            weight decay too, which would pull the factors back to 0.
    """

    def __init__(self, levels: int, width: int, unit_factors: bool = False) -> None:
        super().__init__()
        self.fixed = nn.ModuleList(conv(width, width) for _ in range(levels))
        self.moving = nn.ModuleList(conv(width, width) for _ in range(levels))
        if unit_factors:
            for layer in (*self.fixed, *self.moving):
                nn.init.ones_(layer.bias)

    def forward(self, pairs: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """Product on a grid of the given shape.

        Args:
            pairs: per level `(2 B, width, ...)`, the moving half of the batch before the fixed
                half.
        """
        product: Tensor | None = None
        for pair, fixed_layer, moving_layer in zip(pairs, self.fixed, self.moving, strict=True):
            moving, fixed = _match(pair, shape).chunk(2)
            factor, other = fixed_layer(fixed), moving_layer(moving)
            # Eight factors leave the range of float16 quickly.
            factor = factor.to(torch.promote_types(factor.dtype, torch.float32)) * other
            product = factor if product is None else product * factor
        return product


class MultiScaleFusion(nn.Module):
    """MSFM, equations (2) and (3): fused maps C_i, one per level, with the channels of that level.

    Args:
        channels: per level, fine to coarse.
        width: channels of the product, c = 8 in the paper.
        unit_factors: start every product near 1 (see `ScaleProduct`).
    """

    def __init__(
        self, channels: tuple[int, ...], width: int = 8, unit_factors: bool = False
    ) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(conv(count, width) for count in channels)
        self.products = nn.ModuleList(
            ScaleProduct(len(channels), width, unit_factors) for _ in channels
        )
        # The finest level has `width` channels already and no last convolution.
        self.expand = nn.ModuleList(
            nn.Identity() if count == width else conv(width, count) for count in channels
        )

    def forward(self, pairs: Sequence[Tensor]) -> list[Tensor]:
        """Fused maps, fine to coarse.

        Args:
            pairs: encoder features per level `(2 B, C, ...)`, moving before fixed in the batch.
        """
        reduced = [layer(pair) for layer, pair in zip(self.reduce, pairs, strict=True)]
        return [
            expand(product(reduced, pair.shape[2:]))
            for product, expand, pair in zip(self.products, self.expand, pairs, strict=True)
        ]


class ChannelWiseFusion(nn.Module):
    """CWAM: a softmax over three maps at every voxel, then a gate per channel (section 2.4.2).

    The gate sees average- and maximum-pooled channels through one shared two-layer network without
    biases.

    Args:
        channels: of each of the three maps; the result has three times as many.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        together = 3 * channels
        self.merge = nn.Sequential(
            ConvNormActivation(together, together), ConvNormActivation(together, together)
        )
        self.weigh = conv(together, 3)
        self.gate = nn.Sequential(
            nn.Linear(together, together // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(together // reduction, together, bias=False),
        )

    def forward(self, fused: Tensor, warped: Tensor, fixed: Tensor) -> Tensor:
        maps = (fused, warped, fixed)
        weights = self.weigh(self.merge(torch.cat(maps, dim=1))).softmax(dim=1)
        shares = weights.split(1, dim=1)
        merged = torch.cat([one * share for one, share in zip(maps, shares, strict=True)], dim=1)
        average, maximum = merged.mean((2, 3, 4)), merged.amax((2, 3, 4))
        gate = torch.sigmoid(self.gate(average) + self.gate(maximum))
        return merged * gate[:, :, None, None, None]


def _match(features: Tensor, shape: Sequence[int]) -> Tensor:
    """Equation (2): means of blocks where the map is larger, linear interpolation where smaller."""
    if features.shape[2] > shape[0]:
        sides = zip(features.shape[2:], shape, strict=True)
        return F.avg_pool3d(features, [old // new for old, new in sides])
    return resample(features, shape)
