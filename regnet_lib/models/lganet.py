"""LGANet: the conference version of LGANet++, five levels without correlation and scale fusion.

The "LGANet" row of the tables of LGANet++ (Huang et al., "Unsupervised deformable image
registration with local-global attention and image decomposition"), published by Huang and Sui,
"Dual-stream pyramidal attention networks for medical image registration", ISBI 2025. Model card:

- repository: huangzyong/LGANet-Registration, `code/models/LGANet.py`; no weights are published;
- licence: none;
- compared by: LGANet++ (tables 2 to 6);
- parameters: 34,872,957, all of them used; the released class declares 66,454,287;
- sizes: sides that are multiples of 16, at least 96, see `LGANet.valid_shape`;
- deviations: none in the result; modules that the released forward pass never reaches are left out.

Both images pass one encoder (levels 1 to 5, channels 8 to 128). Level 5 estimates a first
velocity by attention. Levels 4 to 2 warp the moving features by the field of the coarser level,
let both images exchange what they decompose into once, and add both decomposed fields to the
velocity; level 1 leaves the decomposition out. Every velocity is integrated and composed with the
doubled field of the coarser level (LGANet++ equations 6, 7 and 9).

    model = LGANet()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, for example 96x112x96
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.attention import (
    LocalGlobalBlock,
    PositionAttention,
    grid_with_whole_groups,
)
from regnet_lib.nn.blocks import ConvNormActivation, FeaturePyramid, PairedResidual
from regnet_lib.nn.decomposition import Decomposition
from regnet_lib.nn.fusion import ChannelWiseFusion
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.spatial import compose, integrate, resize, warp
from regnet_lib.types import Displacement, Image, Registration, Velocity

CHANNELS = (8, 16, 32, 64, 128)
COARSEST = 2 ** (len(CHANNELS) - 1)


class CoarsestDecoder(nn.Module):
    """The first velocity, by attention over both images' features of the coarsest level.

    The order of LGANet++ section 2.3, at twice the width of its input and without correlation and
    fused map.

    Args:
        channels: of one feature map.
    """

    def __init__(self, channels: int, blocks: int = 2) -> None:
        super().__init__()
        both = 2 * channels
        self.merge = ConvNormActivation(both, both)
        self.position_attention = PositionAttention(both)
        self.residual = PairedResidual(both)
        self.blocks = nn.Sequential(*(LocalGlobalBlock(both) for _ in range(blocks)))
        self.head = DisplacementHead(both)

    def forward(
        self, moving: Tensor, fixed: Tensor, coarser: Displacement | None = None
    ) -> Velocity:
        """Velocity `(B, 3, ...)` of features `(B, C, ...)`; nothing is coarser than this level."""
        features = self.merge(torch.cat([moving, fixed], dim=1))
        return self.head(self.blocks(self.residual(self.position_attention(features))))


class RefiningDecoder(nn.Module):
    """The velocity that refines the field of the coarser level.

    Args:
        channels: of one feature map.
        decomposes: evaluate the decomposition; False at the finest level.
    """

    def __init__(self, channels: int, decomposes: bool) -> None:
        super().__init__()
        self.decompose = Decomposition(channels) if decomposes else None
        self.fuse = ChannelWiseFusion(channels)
        self.residual = PairedResidual(3 * channels)
        self.head = DisplacementHead(3 * channels)

    def forward(self, moving: Tensor, fixed: Tensor, coarser: Displacement) -> Velocity:
        """Velocity of one level.

        With fields f and residuals R of the decomposed features F and W, and a o b for a sampled
        at x + b(x): W becomes W + R_F o f_W + R_W o f_F, and f_F + f_W join the velocity as a
        plain sum. LGANet++ integrates and composes these fields instead.

        Args:
            moving, fixed: M_i and F_i, `(B, C, ...)`. The fusion sees M_i itself, unwarped, beside
                its warped version, where LGANet++ has the map of the scale fusion.
            coarser: field of level i + 1, already resized to this level.
        """
        warped = warp(moving, coarser)
        if self.decompose is None:
            return self._velocity(moving, warped, fixed)
        parts, own = self.decompose(fixed), self.decompose(warped)
        warped = warped + warp(parts.residual, own.field) + warp(own.residual, parts.field)
        return self._velocity(moving, warped, fixed) + parts.field + own.field

    def _velocity(self, moving: Tensor, warped: Tensor, fixed: Tensor) -> Velocity:
        return self.head(self.residual(self.fuse(moving, warped, fixed)))


class LGANet(nn.Module):
    """LGANet, the conference version of LGANet++ (Huang and Sui, ISBI 2025), as released.

    The pyramid of the result holds the composed fields of levels 5 to 1; `extras["velocities"]` the
    decoders' outputs before integration, in the same order.

    Args:
        channels: of levels 1 to 5, multiples of 4; (4, 8, 16, 32, 64) suits a small machine.
    """

    # What the authors' class declares, used or not.
    declared_parameters = 66_454_287

    official_keys = KeyMap(
        renames=(
            (r"^encoder\.conv(\d)\.", r"encoder.levels.\1."),
            (r"^deblock", "decoders."),
            (r"\.convs\.", ".merge."),
            (r"\.pa\.(query|key|value)_conv\.", r".position_attention.\1."),
            (r"\.pa\.gamma", ".position_attention.gamma"),
            (r"\.resnets?\.conv1\.", ".residual.entry."),
            (r"\.resnets?\.conv2\.", ".residual.residual."),
            (r"\.flows?\.", ".head."),
            (r"\.swin\.(\d)\.attn\.", r".blocks.\1."),
            (r"\.ln\.", ".norm."),
            (r"\.ffn\.", ".feed_forward."),
            # the two names are swapped in the released code
            (r"\.lsa\.", ".global_attention."),
            (r"\.gsa\.", ".local_attention."),
            (r"\.q\.weight", ".attention.query.weight"),
            (r"\.k\.weight", ".attention.key.weight"),
            (r"\.v\.weight", ".attention.value.weight"),
            (r"\.local_attention\.proj\.", ".local_attention.projection.0."),
            (r"\.global_attention\.proj\.", ".global_attention.projection."),
            (r"\.de\.conv\.", ".decompose.trunk."),
            (r"\.de\.conv1\.", ".decompose.residual."),
            (r"\.de\.conv2\.", ".decompose.field."),
            (r"\.nff\.conv\.", ".fuse.merge."),
            (r"\.nff\.weight_conv\.0\.", ".fuse.weigh."),
            (r"\.nff\.channel_attention\.fc\.", ".fuse.gate."),
            (r"\.main\.", ".0."),
        ),
        dead=(
            r"deblock5\.(resnet|flow|nff)\..+",
            r"deblock[1234]\.(resnets|flows|pa|convs)\..+",
        ),
    )

    def __init__(self, channels: tuple[int, int, int, int, int] = CHANNELS) -> None:
        super().__init__()
        self.encoder = FeaturePyramid(channels)
        coarsest, *finer = reversed(tuple(enumerate(channels, start=1)))
        self.decoders = nn.ModuleDict({str(coarsest[0]): CoarsestDecoder(coarsest[1])})
        for level, width in finer:
            self.decoders[str(level)] = RefiningDecoder(width, decomposes=level > 1)

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The valid shape at least as large along every axis that adds the fewest voxels."""
        grid = grid_with_whole_groups(tuple(-(-side // COARSEST) for side in shape))
        return tuple(COARSEST * side for side in grid)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        """Register `(B, 1, D, H, W)` images.

        Raises:
            ValueError: images of other shapes, or sides that `valid_shape` would change.
            TypeError: images of an integer type.
        """
        rule = (
            "sides that are multiples of 16, at least 96, and whose number of whole 96-voxel cubes "
            "divides the number of 16-voxel cubes"
        )
        require_valid_images("LGANet", moving, fixed, self.valid_shape, rule)
        # Both images in one batch; fine to coarse, (2 B, C, ...).
        pairs = self.encoder(torch.cat([moving, fixed]))
        velocities: list[Velocity] = []
        pyramid: list[Displacement] = []
        for decoder, pair in zip(self.decoders.values(), reversed(pairs), strict=True):
            coarser = resize(pyramid[-1], pair.shape[2:]) if pyramid else None
            velocities.append(decoder(*pair.chunk(2), coarser))
            displacement = integrate(velocities[-1], padding="zeros")  # equations (6) and (7)
            if coarser is not None:
                displacement = compose(coarser, displacement, padding="zeros")  # equation (9)
            pyramid.append(displacement)
        return Registration(pyramid[-1], tuple(pyramid), {"velocities": tuple(velocities)})
