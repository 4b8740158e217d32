"""PCNet: predictions of every level are integrated into one deformation at the working level.

Lv et al., "Joint progressive and coarse-to-fine registration of brain MRI via deformation field
integration and non-rigid feature fusion", IEEE TMI 2022. Model card:

- repositories: JinxLv/Progressvie-and-Coarse-to-fine-Registration-Network (TensorFlow 1.15); its
  PyTorch version in ZAX130/SmileCode, `Baseline methods/PCnet/models.py`;
- licence: GPL-3; none for the PyTorch version;
- compared by: LGANet++ (tables 2 to 6) with `preset="lganet"`: half the width, wider gates;
- parameters: 6,928,647 (smilecode), 1,851,415 (lganet);
- sizes: sides that are multiples of 8, at least 16;
- deviations: none from the PyTorch version. That one adds normalisation, activation and width to
  the TensorFlow code, continues fields outside the image by zeros instead of the border, enlarges
  predictions linearly instead of by repetition, and leaves out the affine network in front.

Two encoders with weights of their own see the two images. The decoder adds one velocity per level;
at each level all velocities so far, enlarged to the next finer grid and weighed voxel by voxel, are
summed and integrated, and the outcome warps the moving features. Velocities keep their values when
they are enlarged, by design: the learned weights have to make up for the change of voxels.

    registration = PCNet()(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 8
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import ConvNormActivation, conv
from regnet_lib.nn.fusion import ChannelWiseFusion
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.pyramid import ResidualPyramid, UpConvolution
from regnet_lib.spatial import compose, integrate, resample, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration, Velocity

# On a grid of its own, whatever the other arguments have.
Field = Float[Tensor, "#batch axes ..."]


@dataclass(frozen=True)
class Preset:
    """Channels at full size, and by how much the channel gates narrow."""

    channels: int
    reduction: int


PRESETS = {
    "smilecode": Preset(channels=16, reduction=8),
    "lganet": Preset(channels=8, reduction=4),
}


class FieldIntegration(nn.Module):
    """Deformation field integration: one displacement from the velocities of several levels.

    Args:
        fields: number of velocities that come in.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        width = 16 * fields
        self.merge = nn.Sequential(
            ConvNormActivation(3 * fields, width), ConvNormActivation(width, width)
        )
        self.weigh = nn.ModuleList(conv(width, 3) for _ in range(fields))

    def forward(self, velocities: Sequence[Field], shape: Sequence[int]) -> Displacement:
        """Displacement on a grid of the given shape."""
        enlarged = [resample(velocity, shape) for velocity in velocities]
        features = self.merge(torch.cat(enlarged, dim=1))
        weighted = (
            velocity * torch.sigmoid(weigh(features))
            for velocity, weigh in zip(enlarged, self.weigh, strict=True)
        )
        return integrate(sum(weighted), padding="zeros")


class ProgressiveStep(nn.Module):
    """From the features of one level to those of the next finer one, and the field between.

    Args:
        inputs: channels of the coarser features.
        channels: of one image's features at the finer level; three times as many go out.
        fields: number of velocities, with the one estimated here.
    """

    def __init__(self, inputs: int, channels: int, fields: int, reduction: int) -> None:
        super().__init__()
        self.head = DisplacementHead(inputs)
        self.up = UpConvolution(inputs, channels)
        self.integrate = FieldIntegration(fields)
        self.fuse = ChannelWiseFusion(channels, reduction)

    def forward(
        self, features: Tensor, velocities: Sequence[Field], moving: Tensor, fixed: Tensor
    ) -> tuple[Tensor, Field, Displacement]:
        """Finer features, the velocity of this level, and the displacement on the finer grid."""
        velocity = self.head(features)
        displacement = self.integrate([*velocities, velocity], fixed.shape[2:])
        features = self.fuse(fixed, warp(moving, displacement), self.up(features))
        return features, velocity, displacement


class PCNet(nn.Module):
    """Progressive and coarse-to-fine registration network (Lv et al., 2022).

    The pyramid of the result holds the integrated displacements at 1/4, 1/2 and the full size, and
    then the final one; `extras["velocities"]` the four velocities, coarse to fine.

    Args:
        preset: "smilecode", or "lganet", the one that LGANet++ compared with.
        channels: of the features at full size, in place of the preset's.
    """

    official_keys = KeyMap(
        renames=(
            (r"^encoder_float\.conv(\d)\.", r"moving_encoder.levels.\1."),
            (r"^encoder_fixed\.conv(\d)\.", r"fixed_encoder.levels.\1."),
            (r"\.1\.block\.2\.", ".1.conv."),
            (r"^conv_bottleNeck\.", "entry."),
            (r"^reg_conv0\.", "head."),
            (r"^reg_conv3\.", "steps.0.head."),
            (r"^reg_conv2\.", "steps.1.head."),
            (r"^reg_conv1\.", "steps.2.head."),
            (r"^(upconv|dfi_|nff_)2\.", r"steps.0.\1."),
            (r"^(upconv|dfi_|nff_)1\.", r"steps.1.\1."),
            (r"^(upconv|dfi_|nff_)0\.", r"steps.2.\1."),
            (r"\.upconv\.upconv\.", ".up.0."),
            (r"\.dfi_\.conv\.", ".integrate.merge."),
            (r"\.dfi_\.weight_conv\.(\d)\.0\.", r".integrate.weigh.\1."),
            (r"\.nff_\.conv\.", ".fuse.merge."),
            (r"\.nff_\.weight_conv\.0\.", ".fuse.weigh."),
            (r"\.nff_\.channel_attention\.fc\.", ".fuse.gate."),
            (r"\.main\.", ".0."),
        ),
    )

    def __init__(
        self,
        preset: Literal["smilecode", "lganet"] = "smilecode",
        *,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"PCNet: expected a preset of {sorted(PRESETS)}, got {preset!r}.")
        reduction = PRESETS[preset].reduction
        c = PRESETS[preset].channels if channels is None else channels
        self.moving_encoder = ResidualPyramid((c, 2 * c, 4 * c, 8 * c))
        self.fixed_encoder = ResidualPyramid((c, 2 * c, 4 * c, 8 * c))
        self.entry = nn.Sequential(
            ConvNormActivation(16 * c, 8 * c), ConvNormActivation(8 * c, 8 * c)
        )
        self.steps = nn.ModuleList(
            (
                ProgressiveStep(8 * c, 4 * c, 1, reduction),
                ProgressiveStep(12 * c, 2 * c, 2, reduction),
                ProgressiveStep(6 * c, c, 3, reduction),
            )
        )
        self.head = nn.Sequential(conv(3 * c, c), DisplacementHead(c))

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 8, at least 16."""
        return next_multiple([max(side, 16) for side in shape], 8)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "sides that are multiples of 8, at least 16"
        require_valid_images("PCNet", moving, fixed, self.valid_shape, rule)
        moving_levels = self.moving_encoder(moving)[::-1]
        fixed_levels = self.fixed_encoder(fixed)[::-1]
        features = self.entry(torch.cat([fixed_levels[0], moving_levels[0]], dim=1))
        velocities: list[Velocity] = []
        pyramid: list[Displacement] = []
        for step, finer_moving, finer_fixed in zip(
            self.steps, moving_levels[1:], fixed_levels[1:], strict=True
        ):
            features, velocity, displacement = step(features, velocities, finer_moving, finer_fixed)
            velocities.append(velocity)
            pyramid.append(displacement)
        velocities.append(self.head(features))
        residual = integrate(velocities[-1], padding="zeros")
        pyramid.append(compose(pyramid[-1], residual, padding="zeros"))
        return Registration(pyramid[-1], tuple(pyramid), {"velocities": tuple(velocities)})
