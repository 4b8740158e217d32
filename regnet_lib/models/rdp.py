"""RDP: the recursive deformable pyramid, convolutions alone, each level refined more than once.

Wang et al., "Recursive deformable pyramid network for unsupervised medical image registration",
IEEE TMI 2024. Model card:

- repository: ZAX130/RDP, `models.py`;
- licence: an MIT badge without a licence file;
- compared by: LGANet++ (tables 2 to 6), in this configuration;
- parameters: 8,922,444 with 16 channels;
- sizes: sides that are multiples of 8, at least 16;
- deviations: none in the result.

Two encoders with weights of their own see the moving and the fixed image. At each of four levels
one step warps the moving features by the field so far, estimates a velocity from both images and
the decoder's own features, integrates it and composes it with the field. Levels 1/4 and 1/2 repeat
this step with the same weights, two and three times; level 1/8 has one step after its first field.

    registration = RDP()(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 8
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import ConvNormActivation
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.pyramid import ResidualPyramid, UpConvolution
from regnet_lib.spatial import compose, integrate, resize, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration


class RecursiveStep(nn.Module):
    """Refines a displacement `times` times with the same weights.

    Args:
        channels: of one image's features.
        context: channels of the decoder's features that come in.
        width: channels inside, and of the features that go out.
        times: number of evaluations; between two of them the features become context again.
    """

    def __init__(self, channels: int, context: int, width: int, times: int) -> None:
        super().__init__()
        self.merge = nn.Sequential(
            ConvNormActivation(2 * channels + context, width), ConvNormActivation(width, width)
        )
        self.head = DisplacementHead(width, std=1e-5)
        self.narrow = ConvNormActivation(width, context) if times > 1 else None
        self.times = times

    def forward(
        self, moving: Tensor, fixed: Tensor, displacement: Displacement, context: Tensor
    ) -> tuple[Displacement, Tensor]:
        """The refined displacement and the features it came from."""
        for evaluation in range(self.times):
            if evaluation > 0:
                context = self.narrow(features)  # noqa: F821 (of the pass before)
            features = self.merge(torch.cat([fixed, warp(moving, displacement), context], dim=1))
            residual = integrate(self.head(features), padding="zeros")
            displacement = compose(displacement, residual, padding="zeros")
        return displacement, features


class RDP(nn.Module):
    """Recursive deformable pyramid (Wang et al., 2024).

    The pyramid of the result holds the displacements at 1/8, 1/4, 1/2 and the full size.

    Args:
        channels: of the features at full size; doubled at each coarser level.
        times: evaluations of the step at 1/8, 1/4, 1/2 and full size.
    """

    official_keys = KeyMap(
        renames=(
            (r"^encoder_(moving|fixed)\.conv(\d)\.", r"\1_encoder.levels.\2."),
            (r"\.1\.block\.2\.", ".1.conv."),
            (r"^cconv_4\.", "entry."),
            (r"^dconv4\.", "steps.0.merge."),
            (r"^cconv_3\.conv\.", "steps.1.merge."),
            (r"^cconv_2\.conv\.", "steps.2.merge."),
            (r"^cconv_1\.conv\.", "steps.3.merge."),
            (r"^dconv3\.", "steps.1.narrow."),
            (r"^dconv2\.", "steps.2.narrow."),
            (r"^defconv4\.", "steps.0.head."),
            (r"^defconv3\.", "steps.1.head."),
            (r"^defconv2\.", "steps.2.head."),
            (r"^defconv1\.", "steps.3.head."),
            (r"^upconv3\.upconv\.", "up.0.0."),
            (r"^upconv2\.upconv\.", "up.1.0."),
            (r"^upconv1\.upconv\.", "up.2.0."),
            (r"\.main\.", ".0."),
        ),
    )

    def __init__(self, channels: int = 16, times: tuple[int, int, int, int] = (1, 2, 3, 1)) -> None:
        super().__init__()
        c = channels
        self.moving_encoder = ResidualPyramid((c, 2 * c, 4 * c, 8 * c))
        self.fixed_encoder = ResidualPyramid((c, 2 * c, 4 * c, 8 * c))
        self.entry = nn.Sequential(
            ConvNormActivation(16 * c, 8 * c), ConvNormActivation(8 * c, 8 * c)
        )
        self.steps = nn.ModuleList(
            (
                RecursiveStep(8 * c, context=8 * c, width=8 * c, times=times[0]),
                RecursiveStep(4 * c, context=4 * c, width=12 * c, times=times[1]),
                RecursiveStep(2 * c, context=2 * c, width=6 * c, times=times[2]),
                RecursiveStep(c, context=c, width=3 * c, times=times[3]),
            )
        )
        self.up = nn.ModuleList(
            (
                UpConvolution(8 * c, 4 * c),
                UpConvolution(12 * c, 2 * c),
                UpConvolution(6 * c, c),
            )
        )

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 8, at least 16."""
        return next_multiple([max(side, 16) for side in shape], 8)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "sides that are multiples of 8, at least 16"
        require_valid_images("RDP", moving, fixed, self.valid_shape, rule)
        moving_levels = self.moving_encoder(moving)[::-1]
        fixed_levels = self.fixed_encoder(fixed)[::-1]
        context = self.entry(torch.cat([fixed_levels[0], moving_levels[0]], dim=1))
        displacement = integrate(self.steps[0].head(context), padding="zeros")
        pyramid: list[Displacement] = []
        for level, step in enumerate(self.steps):
            if level > 0:
                displacement = resize(displacement, fixed_levels[level].shape[2:])
                context = self.up[level - 1](features)  # noqa: F821 (of the pass before)
            displacement, features = step(
                moving_levels[level], fixed_levels[level], displacement, context
            )
            pyramid.append(displacement)
        return Registration(displacement, tuple(pyramid))
