"""ModeT: motion as the expected offset of an attention over neighbours, without values.

Wang et al., "ModeT: learning deformable image registration via motion decomposition transformer",
MICCAI 2023. Model card:

- repository: ZAX130/SmileCode, `ModeT/models.py`; its CUDA operator and its PyTorch fallback
  compute the same;
- licence: none;
- compared by: LGANet++ (tables 2 to 6) with `preset="lganet"`: twice the width, half the features
  per head, and the usual scale of attention;
- parameters: 1,029,670 (official), 3,681,750 (lganet);
- sizes: sides that are multiples of 16, at least 32;
- deviations: none in the result. Each level moves by at most one of its voxels, and so no weights
  whatever can give a displacement beyond 31 voxels along an axis, a limit of the method.

Every head of a level asks, at each voxel of the fixed image, which of the 27 neighbours in the
warped moving image resembles it; the softmax over them is a distribution of offsets, and its mean a
displacement of at most one voxel. Where a level has several heads, a small network weighs their
fields against each other, voxel by voxel, on the next finer grid.

    registration = ModeT()(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 16
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import ConvActivation, ConvNormActivation, conv
from regnet_lib.nn.expected_offset import expected_offset
from regnet_lib.nn.pyramid import Pyramid
from regnet_lib.spatial import compose, resample, resize, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration

HEADS = (8, 4, 2, 1, 1)  # coarse to fine


@dataclass(frozen=True)
class Preset:
    """Channels at full size, features of a head, and the factor of the attention logits."""

    channels: int
    head_features: int
    scale: float


PRESETS = {
    "official": Preset(channels=4, head_features=6, scale=1.0),
    "lganet": Preset(channels=8, head_features=3, scale=3**-0.5),
}


class NeighbourAttention(nn.Module):
    """Expected offsets, one displacement of at most one voxel per head.

    Neighbours outside the image are zero vectors and take part in the softmax. The biases of the
    27 offsets are learned, the first axis slowest.
    """

    def __init__(self, channels: int, heads: int, head_features: int, scale: float) -> None:
        super().__init__()
        width = heads * head_features
        self.project = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width))
        nn.init.normal_(self.project[0].weight, std=1e-5)
        nn.init.zeros_(self.project[0].bias)
        self.bias = nn.Parameter(torch.zeros(heads, 3, 3, 3))
        self.heads = heads
        self.factor = scale

    def forward(
        self, moving: Tensor, fixed: Tensor
    ) -> Float[Tensor, "batch heads 3 depth height width"]:
        query, key = self.factor * self._per_head(fixed), self._per_head(moving)
        bias = self.bias.flatten(1).repeat(fixed.shape[0], 1)  # (heads, 3, 3, 3) -> (B heads, 27)
        return expected_offset(query, key, bias).unflatten(0, (-1, self.heads))

    def _per_head(self, features: Tensor) -> Tensor:
        tokens = self.project(rearrange(features, "b c d h w -> b d h w c"))
        return rearrange(tokens, "b d h w (n f) -> (b n) f d h w", n=self.heads)


class CompetitiveWeighting(nn.Module):
    """The fields of several heads become one, `(B, heads, 3, ...)` -> `(B, 3, 2 ...)`.

    The result is in voxels of the next finer grid.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            ConvNormActivation(3 * heads, 6 * heads),
            ConvNormActivation(6 * heads, 6 * heads),
            conv(6 * heads, heads),
        )

    def forward(self, fields: Float[Tensor, "batch heads 3 depth height width"]) -> Displacement:
        finer = [2 * side for side in fields.shape[3:]]
        together = resample(fields.flatten(1, 2), finer)
        weights = self.weigh(together).softmax(dim=1).to(fields.dtype)
        return 2 * (together.unflatten(1, fields.shape[1:3]) * weights.unsqueeze(2)).sum(dim=1)


class ModeT(nn.Module):
    """Motion decomposition transformer (Wang et al., 2023).

    The pyramid of the result holds the displacements after levels 5 to 1, at 1/8, 1/4, 1/2, 1/2 and
    the full size: a level with several heads already ends on the next finer grid.

    Args:
        preset: "official", or "lganet", the one that LGANet++ compared with.
    """

    official_keys = KeyMap(
        renames=(
            (r"^encoder\.conv(\d)\.", r"encoder.levels.\1."),
            (r"^projblock(\d)\.proj\.", r"attention.\1.project.0."),
            (r"^projblock(\d)\.norm\.", r"attention.\1.project.1."),
            (r"^mdt(\d)\.rpb", r"attention.\1.bias"),
            (r"^cwm(\d)\.conv\.", r"weighting.\1.weigh."),
            (r"\.main\.", ".0."),
        ),
    )

    def __init__(self, preset: Literal["official", "lganet"] = "official") -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"ModeT: expected a preset of {sorted(PRESETS)}, got {preset!r}.")
        chosen = PRESETS[preset]
        c = chosen.channels
        finest = nn.Sequential(
            ConvActivation(1, c, slope=0.1),
            ConvNormActivation(c, 2 * c),
            ConvNormActivation(2 * c, 2 * c),
        )
        widths = [2 * c, 4 * c, 8 * c, 16 * c, 32 * c]
        coarser = (
            nn.Sequential(
                nn.AvgPool3d(2),
                ConvNormActivation(width // 2, width),
                ConvNormActivation(width, width),
            )
            for width in widths[1:]
        )
        self.encoder = Pyramid([finest, *coarser])
        coarse_to_fine = list(zip("54321", widths[::-1], HEADS, strict=True))
        self.attention = nn.ModuleDict(
            {
                level: NeighbourAttention(width, heads, chosen.head_features, chosen.scale)
                for level, width, heads in coarse_to_fine
            }
        )
        self.weighting = nn.ModuleDict(
            {level: CompetitiveWeighting(heads) for level, _, heads in coarse_to_fine if heads > 1}
        )

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 16, at least 32."""
        return next_multiple([max(side, 32) for side in shape], 16)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "sides that are multiples of 16, at least 32"
        require_valid_images("ModeT", moving, fixed, self.valid_shape, rule)
        pairs = self.encoder(torch.cat([moving, fixed]))
        pyramid: list[Displacement] = []
        for (level, attention), pair in zip(self.attention.items(), reversed(pairs), strict=True):
            moving_features, fixed_features = pair.chunk(2)
            if pyramid:
                coarser = resize(pyramid[-1], pair.shape[2:])
                moving_features = warp(moving_features, coarser)
            fields = attention(moving_features, fixed_features)
            weigh = self.weighting[level] if level in self.weighting else None
            displacement = fields.squeeze(1) if weigh is None else weigh(fields)
            if pyramid:
                coarser = resize(pyramid[-1], displacement.shape[2:])
                displacement = compose(coarser, displacement, padding="zeros")
            pyramid.append(displacement)
        return Registration(pyramid[-1], tuple(pyramid))
