"""LL-Net: a U-Net of gated depthwise convolutions with large kernels; few parameters, many maps.

The network that AD-RegNet's Table III lists as LL-Net-Tiny, -Small, -Large and -diff-Small.

Model card:

- paper: AD-RegNet cites "LL-Net: learning large deformation fields for fast medical image
  registration"; this file follows the repository, not a paper;
- repository: BoyOfChu/LL_Net, commit ed2544f, which holds weights of Tiny, Small and diff-Small;
- licence: none;
- compared by: AD-RegNet, Table III;
- parameters: 170,157 (Tiny), 602,925 (Small and diff-Small), 1,247,677 (Large); all of them used.
  "Large" is published with kernels of 7 and of 5 (1,197,037): `LLNet(24, 7)` and `LLNet(24, 5)`;
- memory: few parameters do not make a light network. Small keeps 12.7 GiB for the backward pass of
  a 160x192x224 pair, TransMorph 8.7 GiB, because most of its layers work at full resolution;
- sizes: sides that are multiples of 32;
- output: near 0 at the start. The head ends in a softsign, in the [-1, 1] coordinates of PyTorch's
  sampler: no component exceeds half of its axis;
- deviations: none in the result. Fields are turned into voxels by (S - 1) / 2, the factor that the
  official sampler applies; the official loss takes S / 2 instead, and by the axis of the derivative
  where the component's would be due;
- training as published (IXI): Adam at a constant 1e-4, 200 epochs, batches of one pair, local
  correlation in windows of 9 voxels plus 5 times the mean squared difference of the field.

    model = LLNet(channels=8, kernel=5)   # LL-Net-Tiny
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, for example 160x192x224
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import Conv3d, conv
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.spatial import integrate
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration

# Channels per level, fine to coarse, in units of the first; the global branch halves once more.
WIDTHS = (1, 2, 4, 8, 16)
MULTIPLE = 2 ** len(WIDTHS)


def halve(features: Tensor) -> Tensor:
    """Half the grid: mean plus maximum of each 2x2x2 block."""
    return F.avg_pool3d(features, 2) + F.max_pool3d(features, 2)


def double(features: Tensor) -> Tensor:
    """Twice the grid, linearly."""
    return F.interpolate(features, scale_factor=2, mode="trilinear")


def depthwise(channels: int, *kernel: int) -> nn.Conv3d:
    """A convolution of each channel on its own."""
    padding = [side // 2 for side in kernel]
    return Conv3d(channels, channels, kernel, padding=padding, groups=channels)


class LargeKernelGate(nn.Module):
    """x * sigmoid(W (local(x) + up(wide(half x)))), all but W depthwise.

    Args:
        kernel: long side of the three wide kernels (k, 3, 3), (3, k, 3) and (3, 3, k), which with a
            3x3x3 one are summed at half the resolution.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.local = depthwise(channels, 3, 3, 3)
        self.wide = nn.ModuleList(
            depthwise(channels, *sides)
            for sides in ((3, 3, 3), (kernel, 3, 3), (3, kernel, 3), (3, 3, kernel))
        )
        self.mix = conv(channels, channels, kernel=1)

    def forward(self, features: Tensor) -> Tensor:
        halved = halve(features)
        wide = sum(layer(halved) for layer in self.wide)
        return features * torch.sigmoid(self.mix(self.local(features) + double(wide)))


class ProductGate(nn.Module):
    """x * sigmoid(W (V x * local(x))); V and W are 1x1x1 convolutions, local is a depthwise one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = conv(channels, channels, kernel=1)
        self.local = depthwise(channels, 3, 3, 3)
        self.mix = conv(channels, channels, kernel=1)

    def forward(self, features: Tensor) -> Tensor:
        return features * torch.sigmoid(self.mix(self.channel(features) * self.local(features)))


class GatedResidual(nn.Module):
    """Normalise, change the channels, gate, mix; around it a skip connection.

    Args:
        gate: `LargeKernelGate` in the encoder, `ProductGate` in the decoder.
    """

    def __init__(self, inputs: int, outputs: int, gate: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.InstanceNorm3d(inputs),
            conv(inputs, outputs, kernel=1),
            nn.PReLU(),
            gate,
            conv(outputs, outputs, kernel=1),
        )
        changes = inputs != outputs
        self.skip = conv(inputs, outputs, kernel=1) if changes else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.skip(features) + self.branch(features)


class LLNet(nn.Module):
    """LL-Net, as released: gated depthwise convolutions in a U-Net of five levels.

    Sides must be multiples of 32. A diffeomorphic network puts its velocity in voxels into
    `extras["velocity"]`.

    Args:
        channels: at full resolution.
        kernel: long side of the wide kernels, and side of the first convolution.
        diffeomorphic: the output is a velocity, integrated by seven squarings.
    """

    official_keys = KeyMap(
        renames=(
            (r"^start_conv\.", "start.0."),
            (r"^start_act\.", "start.1."),
            (r"^mid_stage\.", "encoder_stage_5."),
            (r"^(encoder|decoder)_stage_(\d)\.(msa|ffn)\.", r"\1.\2."),
            (r"\.linear_1\.conv\.", ".branch.1."),
            (r"\.act(_1)?\.", ".branch.2."),
            (r"\.att\.", ".branch.3."),
            (r"\.linear_2\.conv\.", ".branch.4."),
            (r"\.re_channels\.conv\.", ".skip."),
            (r"\.(local|spatial)\.conv\.", ".local."),
            (r"\.global_3x3\.conv\.", ".wide.0."),
            (r"\.global_h\.conv1\.", ".wide.1."),
            (r"\.global_w\.conv1\.", ".wide.2."),
            (r"\.global_d\.conv1\.", ".wide.3."),
            (r"\.channel\.conv\.", ".channel."),
            (r"\.(linear|fusion)\.conv\.", ".mix."),
            (r"^FlowConv\.", "head."),
        ),
    )

    def __init__(self, channels: int = 8, kernel: int = 5, diffeomorphic: bool = False) -> None:
        super().__init__()
        self.diffeomorphic = diffeomorphic
        widths = [channels * width for width in WIDTHS]
        self.start = nn.Sequential(conv(2, channels, kernel), nn.PReLU())
        # Levels count from 1, the finest, as in the released code.
        self.encoder = nn.ModuleDict()
        for level, (less, more) in enumerate(pairwise([channels, *widths]), start=1):
            self.encoder[str(level)] = GatedResidual(less, more, LargeKernelGate(more, kernel))
        self.decoder = nn.ModuleDict()
        for level, (less, more) in reversed(list(enumerate(pairwise(widths), start=1))):
            self.decoder[str(level)] = GatedResidual(more + less, less, ProductGate(less))
        self.head = DisplacementHead(channels, std=1e-5)

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 32."""
        return next_multiple(shape, MULTIPLE)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        """Register `(B, 1, D, H, W)` images.

        Raises:
            ValueError: images of other shapes, or sides that `valid_shape` would change.
            TypeError: images of an integer type.
        """
        rule = f"sides that are multiples of {MULTIPLE}"
        require_valid_images("LLNet", moving, fixed, self.valid_shape, rule)
        features = self.start(torch.cat([moving, fixed], dim=1))
        skips: list[Tensor] = []
        for level in self.encoder.values():
            features = level(halve(skips[-1]) if skips else features)
            skips.append(features)
        skips.pop()  # the coarsest is what the decoder starts from
        for level in self.decoder.values():
            features = level(torch.cat([double(features), skips.pop()], dim=1))
        field = voxels_of(F.softsign(self.head(features)))
        if not self.diffeomorphic:
            return Registration(field)
        return Registration(integrate(field), extras={"velocity": field})


def voxels_of(normalised: Tensor) -> Displacement:
    """A field `(B, 3, D, H, W)` in units of the [-1, 1] coordinates of its grid, in voxels."""
    halves = [(side - 1) / 2 for side in normalised.shape[2:]]
    return normalised * normalised.new_tensor(halves).view(1, -1, 1, 1, 1)


def llnet_tiny() -> LLNet:
    """LL-Net-Tiny of AD-RegNet Table III: 8 channels, kernels of 5."""
    return LLNet(channels=8, kernel=5)


def llnet_small() -> LLNet:
    """LL-Net-Small of AD-RegNet Table III: 16 channels, kernels of 7."""
    return LLNet(channels=16, kernel=7)


def llnet_large(kernel: int = 7) -> LLNet:
    """LL-Net-Large of AD-RegNet Table III: 24 channels; published with kernels of 7 and of 5."""
    return LLNet(channels=24, kernel=kernel)


def llnet_diff_small() -> LLNet:
    """LL-Net-diff-Small of AD-RegNet Table III: LL-Net-Small with an integrated velocity."""
    return LLNet(channels=16, kernel=7, diffeomorphic=True)
