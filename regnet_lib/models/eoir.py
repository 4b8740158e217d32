"""EOIR: three convolutions as encoder, no U-Net, a plain pyramid; a modern reference.

Chen et al., "Encoder-only image registration", IEEE TCSVT 2026. Model card:

- repository: XiangChen1994/EOIR, `src/models/EOIR.py`;
- licence: MIT;
- compared by: neither of the two papers of this book; it came second on the brain data of LUMIR
  2024 and is the simplest strong network here;
- parameters: 909,232 with 32 channels;
- sizes: sides that are multiples of 16, at least 32;
- deviations: none in the result.

Three convolutions extract features at full size; averaging interpolation halves them four times.
At each level the warped moving and the fixed features enter as their sum and difference, two more
convolutions and a head estimate a velocity, and its integral is composed with the doubled field of
the coarser level. The levels share nothing but the encoder.

    registration = EOIR()(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 16
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import InstanceNormActivation, conv
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.spatial import compose, integrate, resample, resize, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration, Velocity

LEVELS = 5
CANDIDATES = 27  # channels in front of each head


class ConvNormPReLU(nn.Sequential):
    """Convolution, instance normalisation and a rectifier with one learned slope."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(conv(inputs, outputs), InstanceNormActivation(), nn.PReLU())


class VelocityEstimator(nn.Sequential):
    """Velocity of one level from the sum and the difference of both images' features."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            conv(2 * channels, 2 * channels),
            nn.ReLU(),
            conv(2 * channels, CANDIDATES),
            nn.ReLU(),
            DisplacementHead(CANDIDATES),
        )

    def forward(self, warped: Tensor, fixed: Tensor) -> Velocity:
        return super().forward(torch.cat([fixed + warped, fixed - warped], dim=1))


class EOIR(nn.Module):
    """Encoder-only image registration (Chen et al., 2026).

    The pyramid of the result holds the displacements at 1/16 to the full size;
    `extras["velocities"]` the velocities, in the same order.

    Args:
        channels: of the features that are matched.
    """

    official_keys = KeyMap(
        renames=(
            (r"^simple_encoder\.(\d)\.layer\.", r"encoder.\1."),
            (r"^disp_warp_4\.", "estimators.0."),
            (r"^disp_warp_3\.", "estimators.1."),
            (r"^disp_warp_2\.", "estimators.2."),
            (r"^disp_warp_1\.", "estimators.3."),
            (r"^disp_warp_0\.", "estimators.4."),
            (r"\.disp_field_fea\.", "."),
            (r"\.get_flow\.", ".4."),
        ),
    )

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            ConvNormPReLU(1, channels),
            ConvNormPReLU(channels, 2 * channels),
            ConvNormPReLU(2 * channels, channels),
        )
        self.estimators = nn.ModuleList(VelocityEstimator(channels) for _ in range(LEVELS))

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 16, at least 32."""
        return next_multiple([max(side, 32) for side in shape], 16)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "sides that are multiples of 16, at least 32"
        require_valid_images("EOIR", moving, fixed, self.valid_shape, rule)
        pairs = [self.encoder(torch.cat([moving, fixed]))]
        for _ in range(LEVELS - 1):
            pairs.append(resample(pairs[-1], [side // 2 for side in pairs[-1].shape[2:]]))
        velocities: list[Velocity] = []
        pyramid: list[Displacement] = []
        for estimator, pair in zip(self.estimators, reversed(pairs), strict=True):
            moving_features, fixed_features = pair.chunk(2)
            coarser = resize(pyramid[-1], pair.shape[2:]) if pyramid else None
            if coarser is not None:
                moving_features = warp(moving_features, coarser)
            velocities.append(estimator(moving_features, fixed_features))
            displacement = integrate(velocities[-1], padding="zeros")
            if coarser is not None:
                displacement = compose(coarser, displacement, padding="zeros")
            pyramid.append(displacement)
        return Registration(pyramid[-1], tuple(pyramid), {"velocities": tuple(velocities)})
