"""Convolutional blocks shared by the networks.

All of them map `(B, C, D, H, W)` to `(B, C', D', H', W')` and take any size.

    block = ConvNormActivation(8, 16)
    features = block(image_features)   # (B, 8, D, H, W) -> (B, 16, D, H, W)
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def convolve(
    features: Tensor, weight: Tensor, bias: Tensor | None, **settings: int | tuple[int, ...]
) -> Tensor:
    """`F.conv3d`, safe under bfloat16 autocast on the CPU.

    On CPUs with AVX-512 the bfloat16 weight gradient of a padded convolution is made of
    uninitialised memory where the map is smaller than the kernel (PyTorch 2.13 with oneDNN 3.12),
    as at the bottom of a U-Net on small volumes. Such maps are convolved in float32.

    Args:
        settings: stride, padding, dilation, groups, as in `F.conv3d`.
    """
    sides = zip(features.shape[2:], weight.shape[2:], strict=True)
    if features.device.type != "cpu" or all(side >= kernel for side, kernel in sides):
        return F.conv3d(features, weight, bias, **settings)
    wide = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.to(wide)
        return F.conv3d(features.to(wide), weight.to(wide), bias, **settings)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` on top of `convolve`."""

    def forward(self, features: Tensor) -> Tensor:
        return convolve(
            features,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> Conv3d:
    """A convolution that keeps the size (at stride 1)."""
    return Conv3d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)


class ConvActivation(nn.Sequential):
    """Convolution and LeakyReLU, the only block of VoxelMorph.

    In place: the backward pass reads the sign back from the result, which the next layer keeps too.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, slope: float = 0.2) -> None:
        super().__init__(conv(inputs, outputs, stride=stride), nn.LeakyReLU(slope, inplace=True))


class InstanceNormActivation(nn.Module):
    """Instance normalisation (no affine, no running statistics) and LeakyReLU in one step.

    Only the result is kept for the backward pass, which reads the normalised values back from it;
    the two layers by themselves keep their inputs too, three maps instead of one. The next layer
    keeps the same result, so that the step as a whole costs no memory. Statistics are in float32
    at least, also under autocast.

    Args:
        slope: of the LeakyReLU, above 0; 1 leaves the normalised values as they are.
    """

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        if slope <= 0:
            raise ValueError(
                f"InstanceNormActivation: expected a slope above 0, got {slope}. The values before "
                "the activation could not be read back from those behind it."
            )
        self.slope = slope

    def forward(self, features: Tensor) -> Tensor:
        last = features.ndim == 5 and features.is_contiguous(memory_format=torch.channels_last_3d)
        # In half precision the float32 copies cost more than turning the axes.
        if last and not features.is_contiguous() and features.element_size() >= 4:
            return _ChannelsLastNormActivation.apply(features, self.slope)
        return _InstanceNormActivation.apply(features, self.slope)


class _InstanceNormActivation(torch.autograd.Function):
    """For the gradient g of the normalised values n: (g - mean(g) - n mean(g n)) / std."""

    @staticmethod
    def forward(ctx, features: Tensor, slope: float) -> Tensor:
        rows = _one_row_per_map(features)
        # Statistics follow the type of weight and bias; without those they would be in bfloat16.
        weight = rows.new_ones(rows.shape[1], dtype=torch.promote_types(rows.dtype, torch.float32))
        bias = torch.zeros_like(weight)
        normal, _, inverse_std = torch.native_batch_norm(
            rows, weight, bias, None, None, True, 0.0, 1e-5
        )
        result = _back_to_layout(F.leaky_relu_(normal, slope), features)
        ctx.save_for_backward(result, inverse_std, bias, weight)
        ctx.slope = slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        result, inverse_std, zeros, ones = ctx.saved_tensors
        rows = _one_row_per_map(result)
        gradient = torch.ops.aten.leaky_relu_backward(
            _one_row_per_map(upstream), rows, ctx.slope, True
        )
        # The backward pass of the same normalisation, for values whose mean is 0 and std is 1.
        gradient, _, _ = torch.ops.aten.native_batch_norm_backward(
            gradient,
            F.leaky_relu(rows, 1 / ctx.slope),
            inverse_std,
            None,
            None,
            zeros,
            ones,
            True,
            0.0,
            [True, False, False],
        )
        return _back_to_layout(gradient, result), None


class _ChannelsLastNormActivation(torch.autograd.Function):
    """The same for channels-last memory, read as a table of voxels x channels.

    Twice as fast on the CPU as turning the axes there and back, which PyTorch's layer does.
    """

    @staticmethod
    def forward(ctx, features: Tensor, slope: float) -> Tensor:
        table = _voxels_by_channels(features)
        normal = table - table.mean(1, keepdim=True)
        inverse_std = normal.square().mean(1, keepdim=True).add_(1e-5).rsqrt_()
        table = F.leaky_relu_(normal.mul_(inverse_std), slope)
        result = table.view(features.movedim(1, -1).shape).movedim(-1, 1)
        ctx.save_for_backward(result, inverse_std)
        ctx.slope = slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        result, inverse_std = ctx.saved_tensors
        table = _voxels_by_channels(result)
        gradient = torch.ops.aten.leaky_relu_backward(
            _voxels_by_channels(upstream), table, ctx.slope, True
        )
        normal = F.leaky_relu(table, 1 / ctx.slope)
        mean = gradient.mean(1, keepdim=True)
        covariance = (gradient * normal).mean(1, keepdim=True)
        gradient.sub_(mean).sub_(normal.mul_(covariance)).mul_(inverse_std)
        return gradient.view(result.movedim(1, -1).shape).movedim(-1, 1), None


def _voxels_by_channels(features: Tensor) -> Tensor:
    """`(B, C, D, H, W)` -> `(B, D H W, C)`, without a copy from channels-last memory."""
    return features.movedim(1, -1).flatten(1, -2)


def _one_row_per_map(features: Tensor) -> Tensor:
    """`(B, C, ...)` -> `(1, B C, ...)`, one map after the other in memory.

    Over channels-last memory the kernels of PyTorch are slower, and those of the CPU lose four
    digits of the statistics.
    """
    return features.contiguous().flatten(0, 1).unsqueeze(0)


def _back_to_layout(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse: shape and memory format of `like`."""
    rows = rows.view(like.shape)
    return rows if like.is_contiguous() else torch.empty_like(like).copy_(rows)


class ConvNormActivation(nn.Sequential):
    """Convolution, instance normalisation (no affine, no running statistics) and LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, slope: float = 0.1) -> None:
        super().__init__(conv(inputs, outputs), InstanceNormActivation(slope))


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
        return convolve(features, kernel, mix @ first.bias + second.bias, padding=first.padding)


class PairedResidual(nn.Module):
    """Five convolutions C -> C with one inner skip; the "ResNet" of the LGANet family.

    y = ReLU(conv conv x);  result = y + ReLU(conv conv ReLU(conv y)). Neighbouring convolutions
    have no activation between them, as released, and there is no skip around the whole block.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(
            conv(channels, channels), conv(channels, channels), nn.ReLU(inplace=True)
        )
        self.residual = nn.Sequential(
            conv(channels, channels),
            nn.ReLU(inplace=True),
            conv(channels, channels),
            conv(channels, channels),
            nn.ReLU(inplace=True),
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


def channels_innermost(model: nn.Module) -> nn.Module:
    """Lay out the weights of 3-D convolutions with the channels innermost, in place.

    Convolutions then keep their maps so too, which makes them 1.3 times faster on the CPU in
    float32, and twice in bfloat16. The function stays the same, to within rounding.
    """
    for weights in model.parameters():
        if weights.ndim == 5:
            weights.data = weights.data.to(memory_format=torch.channels_last_3d)
    return model


def checkpointed(wanted: bool, block: Callable[..., Result], *inputs: object) -> Result:
    """`block(*inputs)`; if wanted, the backward pass computes it again instead of keeping it.

    Dropout draws the same values again (activation checkpointing, Chen et al., 2016).
    """
    if not (wanted and torch.is_grad_enabled()):
        return block(*inputs)
    return checkpoint(block, *inputs, use_reentrant=False)
