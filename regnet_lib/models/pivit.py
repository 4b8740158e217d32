"""PIViT: attention in shifted windows, iterated at 1/8 of the size, and little else.

Ma et al., "PIViT: large deformation image registration with pyramid-iterative vision transformer",
MICCAI 2023. Model card:

- repository: Torbjorn1997/PIViT, `voxelmorph/torch/pivit.py`;
- licence: none;
- compared by: LGANet++ (tables 2 to 6), in this configuration;
- parameters: 664,873;
- sizes: sides that are multiples of 8, at least 16;
- deviations: none in the result. Where the grid at 1/8 is smaller than the window of 8 voxels,
  the published positional biases belong to wrong offsets, as they do here (`SwinBlock`).

One encoder without a level at full size, which makes it the cheapest network of the comparison. At
1/8 three decoders with weights of their own, two Swin blocks each, refine the field one after the
other, every time warping the original moving features; at 1/4 and 1/2 two convolutions do it
once. The last field is enlarged to the full size and not refined.

    registration = PIViT()(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 8
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import ConvActivation
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.pyramid import Pyramid
from regnet_lib.nn.transformer import SWIN_DERIVED, SWIN_RENAMES, SwinBlock
from regnet_lib.spatial import compose, resize, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration

SLOPE = 0.1
WINDOW = (8, 8, 8)
ITERATIONS = 3


class FieldDecoder(nn.Module):
    """A residual field from the warped moving and the fixed features of one level.

    Args:
        channels: of one image's features.
        blocks: Swin blocks in front of the convolutions; every second one is shifted.
    """

    def __init__(self, channels: int, blocks: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(2 * channels, 1, WINDOW, shifted=number % 2 == 1, clipped=True)
            for number in range(blocks)
        )
        self.merge = ConvActivation(2 * channels, channels, slope=SLOPE)
        self.head = DisplacementHead(channels)

    def forward(self, warped: Tensor, fixed: Tensor) -> Displacement:
        features = torch.cat([warped, fixed], dim=1)
        voxels = rearrange(features, "b c d h w -> b d h w c")
        for block in self.blocks:
            voxels = block(voxels)
        return self.head(self.merge(rearrange(voxels, "b d h w c -> b c d h w")))


class PIViT(nn.Module):
    """Pyramid-iterative vision transformer (Ma et al., 2023).

    The pyramid of the result holds the displacements at 1/8, 1/4, 1/2 and the full size, the last
    one an enlargement; `extras["iterations"]` those after each of the iterations at 1/8.

    Args:
        channels: of one image's features, the same at all levels.
    """

    official_keys = KeyMap(
        renames=(
            (r"^encoder\.block1\.", "encoder.levels.0."),
            (r"^encoder\.block2\.", "encoder.levels.1."),
            (r"^encoder\.block3\.", "encoder.levels.2."),
            (r"^decoder31\.", "iterations.0."),
            (r"^decoder32\.", "iterations.1."),
            (r"^decoder33\.", "iterations.2."),
            (r"^decoder2\.Conv1\.", "finer.0.merge."),
            (r"^decoder2\.Conv2\.", "finer.0.head."),
            (r"^decoder1\.Conv1\.", "finer.1.merge."),
            (r"^decoder1\.Conv2\.", "finer.1.head."),
            (r"\.Swin1\.", "."),
            (r"\.Conv2\.", ".merge."),
            (r"\.Conv3\.", ".head."),
            (r"\.main\.", ".0."),
            *SWIN_RENAMES,
        ),
        derived=(r"(.+\.)?grid", *SWIN_DERIVED),
    )

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.encoder = Pyramid(
            ConvActivation(inputs, channels, stride=2, slope=SLOPE)
            for inputs in (1, channels, channels)
        )
        self.iterations = nn.ModuleList(FieldDecoder(channels, blocks=2) for _ in range(ITERATIONS))
        self.finer = nn.ModuleList(FieldDecoder(channels) for _ in range(2))

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 8, at least 16."""
        return next_multiple([max(side, 16) for side in shape], 8)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "sides that are multiples of 8, at least 16"
        require_valid_images("PIViT", moving, fixed, self.valid_shape, rule)
        coarsest, *finer = reversed(self.encoder(torch.cat([moving, fixed])))
        iterations: list[Displacement] = []
        for decoder in self.iterations:
            displacement = iterations[-1] if iterations else None
            iterations.append(_refined(decoder, coarsest, displacement))
        pyramid = [iterations[-1]]
        for decoder, pair in zip(self.finer, finer, strict=True):
            pyramid.append(_refined(decoder, pair, resize(pyramid[-1], pair.shape[2:])))
        pyramid.append(resize(pyramid[-1], fixed.shape[2:]))
        return Registration(pyramid[-1], tuple(pyramid), {"iterations": tuple(iterations)})


def _refined(
    decoder: FieldDecoder, pair: Tensor, displacement: Displacement | None
) -> Displacement:
    """One pass of a decoder over moving and fixed features `(2 B, C, ...)`."""
    moving, fixed = pair.chunk(2)
    if displacement is None:
        return decoder(moving, fixed)
    residual = decoder(warp(moving, displacement), fixed)
    return compose(displacement, residual, padding="zeros")
