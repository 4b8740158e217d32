"""nnFormer, adapted to registration: Swin blocks in the encoder and in the decoder.

Zhou et al., "nnFormer: interleaved transformer for volumetric medical image segmentation", arXiv
2109.03201, in the adaptation of the TransMorph repository, the "nnFormer" of AD-RegNet's Table III
and of the tables of TransMorph. Model card:

- repositories: junyuchen245/TransMorph_Transformer_for_Medical_Image_Registration, commit 6357a1d,
  `IXI/Baseline_Transformers/models/nnFormer`, after 282857341/nnFormer;
- licence: MIT;
- compared by: AD-RegNet, Table III;
- parameters: 34,415,851; the released class declares 45,327,627, of which it never uses a position
  table (10,321,920) and two expansions of coarser maps (589,856);
- sizes: sides that are multiples of 32; with `compat`, every stage must divide into windows: 160,
  192 and 224 are the smallest sides for windows of 5x6x7;
- output: a displacement in voxels at full resolution, not integrated, near 0 at the start;
- deviations: errors of the released code are repaired here and kept with `compat=True`, which
  published numbers come from:
    1. windows are joined in another order of axes than they were cut, so that every block shuffles
       the voxels;
    2. the shift is undone on an array whose last axis holds width and features together: along
       the width it moves features, not voxels;
    3. the multipliers of the relative positions, (3 h - 1, 2 h - 1, 1) for windows `(d, h, w)`, let
       different offsets share one bias;
    4. the padding to whole windows goes to the wrong axes, which sizes that need none do not show;
- checked: parameters to the unit, and each error on its own; not against outputs of the released
  class. `official_keys` takes the module names of the upstream repository;
- training as published (IXI): as TransMorph.

    model = NNFormer()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, for example 160x192x224
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.transformer import (
    SWIN_DERIVED,
    SWIN_RENAMES,
    SwinBlock,
    SwinEncoder,
    Tokens,
    Voxels,
    Window,
    depth_rates,
    relative_index,
    swin_blocks,
)
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Image, Registration

DEPTHS, HEADS = (2, 2, 4, 2), (4, 4, 8, 8)
# Of the decoder, coarse to fine.
DECODER_DEPTHS, DECODER_HEADS = (2, 4, 2), (8, 8, 4)
DEPTH_RATE = 0.2
MULTIPLE = 32
# Channels at full resolution, in front of the head.
FULL_RESOLUTION = 16


def released_index(window: Window) -> Tensor:
    """`relative_index` with error 3: rows that several offsets share."""
    _, height, _ = window
    return relative_index(window, strides=(3 * height - 1, 2 * height - 1))


class ReleasedSwinBlock(SwinBlock):
    """A Swin block with errors 1 to 3 of the released code, listed above."""

    index = staticmethod(released_index)

    def join(
        self, tokens: Tokens, shape: Sequence[int], window: Window, shift: Sequence[int]
    ) -> Voxels:
        """Errors 1 and 2; the inverse of the cut would be `b (d x) (h y) (w z) c`."""
        d, h, w = (side // step for side, step in zip(shape, window, strict=True))
        x, y, z = window
        order = "(b d h w) (x y z) c -> b (d w y h x z c)"
        shuffled = rearrange(tokens, order, d=d, h=h, w=w, x=x, y=y, z=z)
        depth, height, width = shape
        rows = rearrange(shuffled, "b (d h wc) -> b d h wc", d=depth, h=height)
        rows = rows.roll(list(shift), dims=(1, 2, 3))
        return rearrange(rows, "b d h (w c) -> b d h w c", w=width)


class Expansion(nn.Module):
    """Twice the grid and half the channels, plus the skip connection, then Swin blocks.

    Args:
        channels: of the finer grid.
    """

    def __init__(self, channels: int, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)
        self.up = nn.ConvTranspose3d(2 * channels, channels, kernel_size=2, stride=2)
        self.blocks = blocks

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """`(B, 2 C, D, H, W)` and skip `(B, C, 2 D, 2 H, 2 W)` -> the shape of the skip."""
        normalised = self.norm(rearrange(features, "b c d h w -> b d h w c"))
        expanded = self.up(rearrange(normalised, "b d h w c -> b c d h w")) + skip
        voxels = rearrange(expanded, "b c d h w -> b d h w c")
        for block in self.blocks:
            voxels = block(voxels)
        return rearrange(voxels, "b d h w c -> b c d h w")


class NNFormer(nn.Module):
    """nnFormer (Zhou et al., 2021) for registration: Swin blocks on both sides of a U-Net.

    Sides must be multiples of 32.

    Args:
        compat: keep the errors of the released code.
        channels: of the first stage.
        window: sides of the windows in voxels of a stage's map.
    """

    declared_parameters = 45_327_627

    official_keys = KeyMap(
        renames=(
            (r"^encoder\.layers\.(\d)\.Upsample\.", r"decoder.\1."),
            (r"^encoder\.layers\.", "decoder."),
            (r"^model_down\.", "encoder."),
            *SWIN_RENAMES,
            (r"^final\.0\.up\.", "expand."),
            (r"^reg_head\.0\.", "head."),
        ),
        dead=(r"model_down\.absolute_pos_embed", r"final\.[12]\..+"),
        derived=(*KeyMap().derived, *SWIN_DERIVED),
    )

    def __init__(
        self, *, compat: bool = False, channels: int = 96, window: Window = (5, 6, 7)
    ) -> None:
        super().__init__()
        sides = [MULTIPLE * side if compat else MULTIPLE for side in window]
        self.multiples = tuple(sides)
        block = ReleasedSwinBlock if compat else SwinBlock
        self.encoder = SwinEncoder(
            *(2, channels, DEPTHS, HEADS, window, DEPTH_RATE), qkv_bias=True, block=block
        )
        # Levels count from 0, the finest, as in the released code.
        self.decoder = nn.ModuleDict()
        rates = depth_rates(DEPTH_RATE, DECODER_DEPTHS)
        for level, heads, rate in zip((2, 1, 0), DECODER_HEADS, rates, strict=True):
            width = channels * 2**level
            blocks = swin_blocks(width, heads, window, rate, block, qkv_bias=True)
            self.decoder[str(level)] = Expansion(width, blocks)
        self.expand = nn.ConvTranspose3d(channels, FULL_RESOLUTION, kernel_size=4, stride=4)
        self.head = DisplacementHead(FULL_RESOLUTION, std=1e-5)

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of `multiples`."""
        sides = zip(shape, self.multiples, strict=True)
        return tuple(next_multiple((side,), multiple)[0] for side, multiple in sides)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        """Register `(B, 1, D, H, W)` images.

        Raises:
            ValueError: images of other shapes, or sides that `valid_shape` would change.
            TypeError: images of an integer type.
        """
        rule = "sides that are multiples of {}, {} and {}".format(*self.multiples)
        require_valid_images("NNFormer", moving, fixed, self.valid_shape, rule)
        *skips, features = self.encoder(torch.cat([moving, fixed], dim=1))  # fine to coarse
        for level in self.decoder.values():
            features = level(features, skips.pop())
        return Registration(self.head(self.expand(features)))
