"""TransMorph: a Swin transformer encodes both images, a convolutional decoder with skips decodes.

Chen et al., "TransMorph: transformer for unsupervised medical image registration", Medical Image
Analysis 82, 2022. Model card:

- repository: junyuchen245/TransMorph_Transformer_for_Medical_Image_Registration, commit 6357a1d;
- licence: MIT;
- compared by: AD-RegNet, Table III;
- parameters: 46,771,251 ("base") and 244,527 ("tiny"), the other presets in the table below; the
  official counts in the comments of the configuration file ("15,201,579") are stale;
- sizes: sides that are multiples of 32; windows need not divide the map;
- output: a displacement in voxels at full resolution, not integrated, near 0 at the start;
- deviations: none in the result. What a preset never uses is left out: the layers of skips that are
  off, the bias table of `no_relative_positions`;
- training as published (IXI): Adam with AMSGrad, 1e-4 falling as (1 - epoch / 500)^0.9, batches of
  one pair, local correlation in windows of 9 voxels plus diffusion with weight 1, flips along the
  first axis.

All declared parameters are used, except where two numbers stand:

| preset                  | parameters  | declared    |
|-------------------------|-------------|-------------|
| `tiny`                  | 244,527     |             |
| `small`                 | 11,757,195  |             |
| `base`                  | 46,771,251  |             |
| `large`                 | 108,343,907 |             |
| `no_convolution_skips`  | 46,698,675  | 46,702,131  |
| `no_transformer_skips`  | 41,544,435  | 41,545,779  |
| `no_skips`              | 41,471,859  | 41,476,659  |
| `no_relative_positions` | 46,688,883  | 46,771,251  |
| `learned_positions`     | 63,630,387  |             |
| `sinusoidal_positions`  | 46,771,251  |             |

The variants with B-splines, with a probabilistic head and with dropout at test time are networks
of their own and not part of this file.

    model = TransMorph()                  # or TransMorph("small")
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, for example 160x192x224
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.skip_decoder import ConvNorm, SkipUp
from regnet_lib.nn.transformer import (
    SWIN_DERIVED,
    SWIN_RENAMES,
    SwinEncoder,
    Voxels,
    Window,
)
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Image, Registration

MULTIPLE = 32
# Channels at full resolution, in front of the head.
FULL_RESOLUTION = 16


@dataclass(frozen=True)
class Configuration:
    """What the published configurations differ in.

    Attributes:
        channels: of the first stage.
        depths, heads: Swin blocks, and their attention heads, per stage.
        window: sides of the windows in voxels of a stage's map.
        convolution_skips: skip connections from convolutions at full and half resolution.
        transformer_skips: skip connections from the first three stages.
        relative_positions: a learned bias per offset within a window.
        absolute_positions: codes added to the patches.
        depth_rate: stochastic depth of the last block.
    """

    channels: int = 96
    depths: tuple[int, int, int, int] = (2, 2, 4, 2)
    heads: tuple[int, int, int, int] = (4, 4, 8, 8)
    window: Window = (5, 6, 7)
    convolution_skips: bool = True
    transformer_skips: bool = True
    relative_positions: bool = True
    absolute_positions: Literal["none", "learned", "sinusoidal"] = "none"
    depth_rate: float = 0.3


BASE = Configuration()
PRESETS = {
    "tiny": replace(BASE, channels=6, heads=(2, 2, 4, 4)),
    "small": replace(BASE, channels=48, heads=(4, 4, 4, 4)),
    "base": BASE,
    "large": replace(BASE, channels=128, depths=(2, 2, 12, 2), heads=(4, 4, 8, 16)),
    "no_convolution_skips": replace(BASE, convolution_skips=False),
    "no_transformer_skips": replace(BASE, transformer_skips=False),
    "no_skips": replace(BASE, convolution_skips=False, transformer_skips=False),
    "no_relative_positions": replace(BASE, relative_positions=False),
    "learned_positions": replace(BASE, absolute_positions="learned"),
    "sinusoidal_positions": replace(BASE, absolute_positions="sinusoidal"),
}


class LearnedPosition(nn.Module):
    """A learned code per place of a 56x56x56 grid, resampled linearly to the grid of the patches.

    Resampled by PyTorch's default convention, half a voxel at the faces, as published.
    """

    def __init__(self, channels: int, side: int = 56) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(1, channels, side, side, side))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, voxels: Voxels) -> Voxels:
        table = F.interpolate(self.table, size=voxels.shape[1:4], mode="trilinear")
        return voxels + rearrange(table, "1 c d h w -> 1 d h w c")


class SinusoidalPosition(nn.Module):
    """Sines and cosines of the place along each axis, a third of the channels for each axis."""

    def forward(self, voxels: Voxels) -> Voxels:
        _, *shape, channels = voxels.shape
        per_axis = 2 * ceil(channels / 6)
        exponents = torch.arange(0, per_axis, 2, device=voxels.device) / per_axis
        codes = []
        for axis, side in enumerate(shape):
            angles = torch.arange(side, device=voxels.device)[:, None] / 10_000.0**exponents
            code = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (side, per_axis)
            along = [side if other == axis else 1 for other in range(3)]
            codes.append(code.view(*along, per_axis).expand(*shape, per_axis))
        return voxels + torch.cat(codes, dim=-1)[..., :channels].to(voxels.dtype)


class TransMorph(nn.Module):
    """TransMorph (Chen et al., 2022): a Swin transformer with a convolutional decoder.

    Sides must be multiples of 32.

    Args:
        preset: one of `PRESETS`, or a `Configuration` of your own.
    """

    official_keys = KeyMap(
        renames=(
            (r"^transformer\.", "encoder."),
            *SWIN_RENAMES,
            (r"\.absolute_pos_embed", ".position.table"),
            (r"^up(\d)\.conv1\.", r"decoder.\1.0."),
            (r"^up(\d)\.conv2\.", r"decoder.\1.1."),
            (r"^c1\.", "half_resolution."),
            (r"^c2\.", "full_resolution."),
            (r"^reg_head\.0\.", "head."),
        ),
        derived=(*KeyMap().derived, *SWIN_DERIVED),
    )

    def __init__(self, preset: str | Configuration = "base") -> None:
        super().__init__()
        chosen = _chosen(preset)
        self.encoder = SwinEncoder(
            *(2, chosen.channels, chosen.depths, chosen.heads, chosen.window, chosen.depth_rate),
            positions=chosen.relative_positions,
            position=_position(chosen),
            skips=chosen.transformer_skips,
        )
        # From 1/32 of the size to full size.
        channels = [chosen.channels * 8 // 2**step for step in range(5)] + [FULL_RESOLUTION]
        self.half_resolution = self.full_resolution = None
        if chosen.convolution_skips:
            self.half_resolution = ConvNorm(2, channels[-2])
            self.full_resolution = ConvNorm(2, channels[-1])
        skips = [chosen.transformer_skips] * 3 + [chosen.convolution_skips] * 2
        self.decoder = nn.ModuleList(
            SkipUp(more, less if skip else 0, less)
            for (more, less), skip in zip(pairwise(channels), skips, strict=True)
        )
        self.head = DisplacementHead(FULL_RESOLUTION, std=1e-5)
        self.official_keys = replace(type(self).official_keys, dead=_unused(chosen))

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
        require_valid_images("TransMorph", moving, fixed, self.valid_shape, rule)
        images = torch.cat([moving, fixed], dim=1)
        *skips, features = self.encoder(images)  # fine to coarse
        skips = skips[::-1] or [None] * 3
        for up, skip in zip(self.decoder, [*skips, *self._convolved(images)], strict=True):
            features = up(features, skip)
        return Registration(self.head(features))

    def _convolved(self, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Skip connections at half and at full resolution."""
        if self.half_resolution is None:
            return None, None
        halved = F.avg_pool3d(images, 3, stride=2, padding=1)
        return self.half_resolution(halved), self.full_resolution(images)


def transmorph_tiny() -> TransMorph:
    """TransMorph-Tiny (Chen et al., 2022): the preset "tiny", 6 channels in the first stage."""
    return TransMorph("tiny")


def _chosen(preset: str | Configuration) -> Configuration:
    if isinstance(preset, Configuration):
        return preset
    if preset not in PRESETS:
        raise ValueError(
            f"TransMorph: expected preset to be one of {', '.join(PRESETS)}, or a Configuration, "
            f"got {preset!r}."
        )
    return PRESETS[preset]


def _position(chosen: Configuration) -> nn.Module | None:
    if chosen.absolute_positions == "learned":
        return LearnedPosition(chosen.channels)
    return SinusoidalPosition() if chosen.absolute_positions == "sinusoidal" else None


def _unused(chosen: Configuration) -> tuple[str, ...]:
    """Official parameters that the released code declares and, configured so, never uses."""
    unused = []
    if not chosen.convolution_skips:
        unused.append(r"c[12]\..+")
    if not chosen.transformer_skips:
        unused.append(r"transformer\.norm[012]\..+")
    if not chosen.relative_positions:
        unused.append(r".+\.relative_position_bias_table")
    return tuple(unused)
