"""VoxelMorph-2: the U-Net that every later method compares with.

Balakrishnan et al., "VoxelMorph: a learning framework for deformable medical image registration",
IEEE TMI 2019, in the variant of the TransMorph repository (`VxmDense_2`), the "VoxelMorph-2" of
the AD-RegNet and TransMorph tables: full resolution output, no integration, 301,411 parameters.
The network sees both images as two channels.

    model = VoxelMorph2()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 16
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import next_multiple, require_valid_images
from regnet_lib.nn.blocks import ConvActivation
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.types import Image, Registration

ENCODER = (16, 32, 32, 32)
DECODER = (32, 32, 32, 32)
FULL_RESOLUTION = (32, 16, 16)


class UNet(nn.Module):
    """Encoder by strided convolutions, decoder by nearest-neighbour doubling and concatenation.

    Args:
        inputs: channels of the input, which is itself the last skip connection.
        encoder: channels after each halving of the grid.
        decoder: channels before each doubling; as many as `encoder`.
        full_resolution: channels of the convolutions at the size of the input.
    """

    def __init__(
        self,
        inputs: int,
        encoder: tuple[int, ...],
        decoder: tuple[int, ...],
        full_resolution: tuple[int, ...],
    ) -> None:
        super().__init__()
        skips = (inputs, *encoder)
        self.down = nn.ModuleList(
            ConvActivation(less, more, stride=2) for less, more in pairwise(skips)
        )
        channels = encoder[-1]
        self.up = nn.ModuleList()
        for outputs, skip in zip(decoder, reversed(skips[:-1]), strict=True):
            self.up.append(ConvActivation(channels, outputs))
            channels = outputs + skip
        self.full = nn.Sequential(
            *(ConvActivation(less, more) for less, more in pairwise((channels, *full_resolution)))
        )

    def forward(self, images: Tensor) -> Tensor:
        skips = [images]
        for down in self.down:
            skips.append(down(skips[-1]))
        features = skips.pop()
        for up in self.up:
            features = F.interpolate(up(features), scale_factor=2, mode="nearest")
            features = torch.cat([features, skips.pop()], dim=1)
        return self.full(features)


class VoxelMorph2(nn.Module):
    """VoxelMorph-2 (Balakrishnan et al., 2019), the variant of the TransMorph repository.

    Sides must be multiples of 16.

    Args:
        encoder, decoder, full_resolution: channels, see `UNet`; the defaults are the published
        ones.
    """

    official_keys = KeyMap(
        renames=(
            (r"^unet_model\.downarm\.(\d)\.main", r"unet.down.\1.0"),
            (r"^unet_model\.uparm\.(\d)\.main", r"unet.up.\1.0"),
            (r"^unet_model\.extras\.(\d)\.main", r"unet.full.\1.0"),
            (r"^flow\.", "head."),
        ),
    )

    def __init__(
        self,
        encoder: tuple[int, ...] = ENCODER,
        decoder: tuple[int, ...] = DECODER,
        full_resolution: tuple[int, ...] = FULL_RESOLUTION,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** len(encoder)
        self.unet = UNet(2, encoder, decoder, full_resolution)
        self.head = DisplacementHead(full_resolution[-1], std=1e-5)

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 16."""
        return next_multiple(shape, self.multiple)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = f"sides that are multiples of {self.multiple}"
        require_valid_images("VoxelMorph2", moving, fixed, self.valid_shape, rule)
        return Registration(self.head(self.unet(torch.cat([moving, fixed], dim=1))))
