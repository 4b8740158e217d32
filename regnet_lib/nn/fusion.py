"""Fusing feature maps: across scales (LGANet++ section 2.2) and across sources (section 2.4.2).

fused = MultiScaleFusion((8, 16, 32, 64))(moving, fixed)   # one map per level
merged = ChannelWiseFusion(8)(fused[0], warped, fixed[0])  # 3 x (B, 8, ...) -> (B, 24, ...)
"""

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        factors: list[Tensor] = []
        for pair, fixed_layer, moving_layer in zip(pairs, self.fixed, self.moving, strict=True):
            moving, fixed = _match(pair, shape).chunk(2)
            factors += [fixed_layer(fixed), moving_layer(moving)]
        return _Product.apply(*factors)


class _Product(torch.autograd.Function):
    """Of an even number of factors, in float32 at least: eight leave the range of float16 quickly.

    Keeps the factors alone; the recorded graph would keep every partial product too.
    """

    @staticmethod
    def forward(ctx, *factors: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        pairs = zip(factors[::2], factors[1::2], strict=True)
        return reduce(torch.mul, (_in_float32(one) * other for one, other in pairs))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        factors = ctx.saved_tensors
        before = [None, *accumulate(factors[1:-1], torch.mul, initial=_in_float32(factors[0]))]
        gradients: list[Tensor] = []
        behind = upstream  # times all factors behind the current one
        for factor, product in zip(reversed(factors), reversed(before), strict=True):
            gradient = behind if product is None else behind * product
            gradients.append(gradient.to(factor.dtype))
            behind = behind * factor
        return tuple(reversed(gradients))


def _in_float32(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))


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
        # The encoder's type is that of the convolutions, also under autocast.
        maps = torch.cat([features.to(fixed.dtype) for features in (fused, warped, fixed)], dim=1)
        shares = self.weigh(self.merge(maps)).softmax(dim=1).to(fixed.dtype)
        # (B, 3 C, ...) as (B, 3, C, ...): one share for all channels of a map
        merged = (maps.unflatten(1, (3, -1)) * shares.unsqueeze(2)).flatten(1, 2)
        average, maximum = merged.mean((2, 3, 4)), merged.amax((2, 3, 4))
        gate = torch.sigmoid(self.gate(average) + self.gate(maximum))
        return merged * gate[:, :, None, None, None]


def _match(features: Tensor, shape: Sequence[int]) -> Tensor:
    """Equation (2): means of blocks where the map is larger, linear interpolation where smaller."""
    if features.shape[2] > shape[0]:
        sides = zip(features.shape[2:], shape, strict=True)
        return F.avg_pool3d(features, [old // new for old, new in sides])
    return resample(features, shape)
