"""PRNet++: two streams of features, a field per level of the decoder, correlation at a stride.

Kang et al., "Dual-stream pyramid registration network", Medical Image Analysis 2022. Model card:

- repositories: kangmiao15/Dual-Stream-PRNet-Plus (`voxnet_fusion`) and the version of it in
  ZAX130/SmileCode, `Baseline methods/PR++/models.py`;
- licence: none, for both;
- compared by: LGANet++ (tables 2 to 6) with `preset="lganet", compat=True`, the second one;
- parameters: 613,855 (official), 1,236,965 (lganet);
- sizes: sides that are multiples of 16, at least 32;
- deviations: "official" keeps fields in voxels and axis order, where its code has sampling grids in
  x, y, z order of [-1, 1], and samples with aligned corners, where its code mixes both ways; its
  checkpoints do not fit. "lganet" loads those of the second repository;
- known error of the second repository, repeated with `compat=True`: it warps features with the
  doubled field of the coarser level but adds the field undoubled, so that a coarse displacement
  loses half of its length at each doubling; 1/8 of what the coarsest level found is left.

Both images pass one U-Net. At each of five levels of its decoder (1/8, 1/4, 1/2 and twice the full
size) the moving features are warped by the field so far, correlated with the fixed ones at 27
offsets of two voxels, and convolutions estimate a residual field, which is composed with the field.

    registration = PRNetPP()(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 16
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import ConvActivation, conv
from regnet_lib.nn.correlation import local_correlation
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.spatial import compose, identity_grid, resize, sample, warp
from regnet_lib.spatial.grid import Padding, next_multiple
from regnet_lib.types import Displacement, Image, Registration

DECODER = (32, 32, 16, 16, 8)  # channels, coarse to fine
OFFSETS = 27
PRESETS = ("official", "lganet")
# On a grid of its own, whatever the other arguments have.
Field = Float[Tensor, "#batch axes ..."]


def stride_correlation(moving: Tensor, fixed: Tensor) -> Tensor:
    """Correlation at the 27 offsets {-2, 0, 2}^3, `(B, C, D, H, W)` twice -> `(B, 27, D, H, W)`.

    Voxels two apart are neighbours on each of the eight interleaved grids of every second voxel, so
    this is the usual correlation of these. Sides must be even.
    """
    split = "b c (d x) (h y) (w z) -> (b x y z) c d h w"
    sides = {"x": 2, "y": 2, "z": 2}
    grids = (rearrange(features, split, **sides) for features in (moving, fixed))
    join = "(b x y z) c d h w -> b c (d x) (h y) (w z)"
    return rearrange(local_correlation(*grids), join, **sides)


def box_correlation(moving: Tensor, fixed: Tensor) -> Tensor:
    """What SmileCode correlates: sums over 3x3x3 boxes; the products summed over channels, / 27.

    A box around a voxel outside the image still sees what lies inside.
    """
    boxes = (
        F.avg_pool3d(F.pad(features, [2] * 6), 3, stride=1, padding=1)
        for features in (moving, fixed)
    )
    # a sum over a box is 27 times its mean, in both factors; then divided by 27 once
    correlation = 27 * moving.shape[1] * stride_correlation(*boxes)
    return correlation[..., 2:-2, 2:-2, 2:-2]


class DualStream(nn.Module):
    """The U-Net that both images pass; its decoder's features are what is matched.

    Args:
        preset: "official" enlarges the coarser features together with the skip of their own level,
            linearly; "lganet" enlarges them by repetition and then adds the skip of the finer one.
    """

    def __init__(self, preset: str) -> None:
        super().__init__()
        encoder = (8, 16, 16, 32, 32)
        self.encoder = nn.ModuleList(
            ConvActivation(less, more, stride=1 if less == 1 else 2, slope=0.0)
            for less, more in pairwise((1, *encoder))
        )
        skips = reversed(encoder[:-1])
        self.skip_first = preset == "official"
        if self.skip_first:
            self.encoder[0][0].register_parameter("bias", None)
            self.enlarge = nn.Upsample(scale_factor=2, mode="trilinear")
            skips = (0, *skips)
        else:
            self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
            skips = (*skips, 0)
        self.decoder = nn.ModuleList(
            ConvActivation(less + skip, more, slope=0.0)
            for (less, more), skip in zip(pairwise((encoder[-1], *DECODER)), skips, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features coarse to fine: 1/8, 1/4, 1/2, and twice at the full size."""
        skips = []
        for layer in self.encoder:
            image = layer(image)
            skips.append(image)
        features = [skips.pop()]
        for level, layer in enumerate(self.decoder):
            finest = level == len(self.decoder) - 1
            coarser = features[-1]
            if self.skip_first and level > 0:
                coarser = torch.cat([coarser, skips.pop()], dim=1)
            if not finest:
                coarser = self.enlarge(coarser)
            if not self.skip_first and not finest:
                coarser = torch.cat([coarser, skips.pop()], dim=1)
            features.append(layer(coarser))
        return features[1:]


class FieldEstimator(nn.Module):
    """The residual field of one level, from both images' features and their correlation."""

    def __init__(self, channels: int, preset: str) -> None:
        super().__init__()
        inputs = 2 * channels + OFFSETS
        if preset == "official":
            self.entry = nn.Sequential(
                ConvActivation(inputs, channels, slope=0.0),
                ConvActivation(channels, channels, slope=0.0),
            )
            self.residual = nn.Sequential(
                ConvActivation(channels, channels, slope=0.0),
                ConvActivation(channels, channels, slope=0.0),
            )
            self.correlate, std = stride_correlation, None
        else:  # with no activation between two convolutions, and the first as wide as its input
            self.entry = nn.Sequential(conv(inputs, inputs), conv(inputs, channels), nn.ReLU())
            self.residual = nn.Sequential(
                conv(channels, channels), conv(channels, channels), nn.ReLU()
            )
            self.correlate, std = box_correlation, 1e-5
        self.head = DisplacementHead(channels, std)

    def forward(self, moving: Tensor, fixed: Tensor) -> Displacement:
        correlation = self.correlate(moving, fixed)
        features = self.entry(torch.cat([moving, correlation, fixed], dim=1))
        return self.head(features + self.residual(features))


class PRNetPP(nn.Module):
    """Dual-stream pyramid registration network (Kang et al., 2022).

    The pyramid of the result holds the displacements at 1/8, 1/4, 1/2 and twice at the full size.

    Args:
        preset: "official", or "lganet", the version of SmileCode that LGANet++ compared with.
        compat: repeat the error of that version when fields of two levels are composed.
    """

    official_keys: KeyMap | None = None

    def __init__(
        self, preset: Literal["official", "lganet"] = "official", *, compat: bool = False
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"PRNetPP: expected a preset of {PRESETS}, got {preset!r}.")
        if compat and preset != "lganet":
            raise ValueError(
                'PRNetPP: expected compat=True with preset="lganet" alone, got preset '
                f"{preset!r}. The error it repeats is that of SmileCode's version."
            )
        if preset == "lganet":
            self.official_keys = SMILECODE_KEYS
        self.features = DualStream(preset)
        self.estimators = nn.ModuleList(FieldEstimator(channels, preset) for channels in DECODER)
        self.compat = compat
        # The official code stops gradients where fields warp features, and continues fields (and
        # features) outside the image; SmileCode has zeros there.
        self.detached = preset == "official"
        self.padding: Padding = "border" if preset == "official" else "zeros"

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 16, at least 32."""
        return next_multiple([max(side, 32) for side in shape], 16)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "sides that are multiples of 16, at least 32"
        require_valid_images("PRNetPP", moving, fixed, self.valid_shape, rule)
        pyramid: list[Displacement] = []
        for estimator, pair in zip(
            self.estimators, self.features(torch.cat([moving, fixed])), strict=True
        ):
            moving_features, fixed_features = pair.chunk(2)
            if not pyramid:
                pyramid.append(estimator(moving_features, fixed_features))
                continue
            coarser = resize(pyramid[-1], pair.shape[2:])
            field = coarser.detach() if self.detached else coarser
            moving_features = warp(moving_features, field, padding=self.padding)
            residual = estimator(moving_features, fixed_features)
            if self.compat:
                pyramid.append(residual + _undoubled(pyramid[-1], residual))
            else:
                pyramid.append(compose(coarser, residual, padding=self.padding))
        return Registration(pyramid[-1], tuple(pyramid))


def _undoubled(coarser: Field, residual: Displacement) -> Displacement:
    """The field of a coarser grid at x + residual(x), still in voxels of the coarser grid."""
    shape = residual.shape[2:]
    ratios = [(less - 1) / (more - 1) for less, more in zip(coarser.shape[2:], shape, strict=True)]
    positions = identity_grid(shape, dtype=residual.dtype, device=residual.device) + residual
    return sample(coarser, positions * residual.new_tensor(ratios).view(1, 3, 1, 1, 1))


SMILECODE_KEYS = KeyMap(
    renames=(
        (r"^net\.encoder\.block1\.", "features.encoder.0."),
        (r"^net\.encoder\.block2\.", "features.encoder.1."),
        (r"^net\.encoder\.block3\.", "features.encoder.2."),
        (r"^net\.encoder\.block4\.", "features.encoder.3."),
        (r"^net\.encoder\.block5\.", "features.encoder.4."),
        (r"^net\.decoder1\.", "features.decoder.0."),
        (r"^net\.decoder2\.", "features.decoder.1."),
        (r"^net\.decoder3\.", "features.decoder.2."),
        (r"^net\.decoder4\.", "features.decoder.3."),
        (r"^net\.decoder5\.", "features.decoder.4."),
        (r"^prblock1\.", "estimators.0."),
        (r"^prblock2\.", "estimators.1."),
        (r"^prblock3\.", "estimators.2."),
        (r"^prblock4\.", "estimators.3."),
        (r"^prblock5\.", "estimators.4."),
        (r"(\.Conv)?\.main\.", ".0."),
        (r"\.conv1\.", ".entry."),
        (r"\.conv2\.", ".residual."),
        (r"\.flow\.", ".head."),
    ),
)
