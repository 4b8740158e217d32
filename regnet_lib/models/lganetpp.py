"""LGANet++: local-global attention and multi-scale fusion in a pyramid of four levels.

Huang et al., "Unsupervised deformable image registration with local-global attention and image
decomposition", sections 2.1 to 2.5. The variant "official" gives what the authors' released class
(huangzyong/LGANet-Registration, `code/models/LGANetPlusPlus.py`) gives, with the 6,602,260 of its
25,535,632 parameters that it uses.

Both images pass one encoder (levels 1 to 4, channels 8 to 64). Level 4 estimates a first
displacement by attention, levels 3 to 1 refine it: warp the moving features, estimate a velocity,
integrate it (equations 6 and 7) and compose it with the doubled field of the coarser level
(equation 9).

    model = LGANetPP()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 8, at least 48
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

import torch
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.attention import WINDOW_VOXELS, LocalGlobalBlock, PositionAttention, local_groups
from regnet_lib.nn.blocks import FeaturePyramid, PairedResidual, conv
from regnet_lib.nn.correlation import CorrelationResidual
from regnet_lib.nn.decomposition import DecompositionExchange
from regnet_lib.nn.fusion import ChannelWiseFusion, MultiScaleFusion
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.spatial import compose, integrate, resize, warp
from regnet_lib.types import Displacement, Image, Registration, Velocity

CHANNELS = (8, 16, 32, 64)
COARSEST = 2 ** (len(CHANNELS) - 1)


@dataclass(frozen=True)
class Variant:
    """The choices in which published descriptions of the network differ, all in one place.

    Attributes:
        declared_parameters: what the authors' class declares, used or not; the paper's "24.353 M"
            is this number divided by 2^20.
        exchanges: evaluations of the IDM at levels 4 to 1 (finest last), with shared weights.
        positive_fields: ReLU on the fields of the IDM.
        scaled_position_attention: divide by sqrt(l) in equation (8).
        attention_heads: l = C / heads in equation (4); attention itself has one head.
    """

    declared_parameters: int
    exchanges: tuple[int, int, int, int]
    positive_fields: bool
    scaled_position_attention: bool
    attention_heads: int


VARIANTS = {
    "official": Variant(
        declared_parameters=25_535_632,
        exchanges=(0, 2, 2, 0),
        positive_fields=True,
        scaled_position_attention=False,
        attention_heads=8,
    ),
}


class AttentionDecoder(nn.Module):
    """LGAM (section 2.3, Fig. 2a): the first velocity, at the coarsest level."""

    def __init__(self, channels: int, variant: Variant, blocks: int = 2) -> None:
        super().__init__()
        self.correlate = CorrelationResidual(channels)
        self.merge = conv(3 * channels, channels)
        self.position_attention = PositionAttention(
            channels, scaled=variant.scaled_position_attention
        )
        self.residual = PairedResidual(channels)
        self.blocks = nn.Sequential(
            *(LocalGlobalBlock(channels, variant.attention_heads) for _ in range(blocks))
        )
        self.head = DisplacementHead(channels)

    def forward(
        self, moving: Tensor, fixed: Tensor, fused: Tensor, coarser: Displacement | None = None
    ) -> Velocity:
        features = torch.cat([self.correlate(moving, fixed), fixed, fused], dim=1)
        features = self.residual(self.position_attention(self.merge(features)))
        return self.head(self.blocks(features))


class RefinementDecoder(nn.Module):
    """FIFM (section 2.4, Fig. 2b): the velocity that refines the field of the coarser level.

    Args:
        exchanges: evaluations of the IDM; 0 leaves it out, as at the finest level.
    """

    def __init__(self, channels: int, variant: Variant, exchanges: int) -> None:
        super().__init__()
        self.exchanges = exchanges
        self.correlate = CorrelationResidual(channels)
        if exchanges:
            self.exchange = DecompositionExchange(channels, variant.positive_fields)
        self.fuse = ChannelWiseFusion(channels)
        self.residual = PairedResidual(3 * channels)
        self.head = DisplacementHead(3 * channels)

    def forward(
        self, moving: Tensor, fixed: Tensor, fused: Tensor, coarser: Displacement
    ) -> Velocity:
        """Equation (5).

        Args:
            moving, fixed, fused: M_i, F_i and C_i, `(B, C, ...)`.
            coarser: field of level i + 1, already resized to this level.
        """
        warped = warp(self.correlate(moving, fixed), coarser)
        aligned: Displacement | None = None
        fixed_parts = self.exchange.decompose(fixed) if self.exchanges else None
        for _ in range(self.exchanges):
            warped, step = self.exchange(fixed_parts, warped)
            aligned = step if aligned is None else compose(aligned, step, padding="zeros")
        velocity = self.head(self.residual(self.fuse(fused, warped, fixed)))
        return velocity if aligned is None else compose(aligned, velocity, padding="zeros")


class LGANetPP(nn.Module):
    """LGANet++.

    Args:
        variant: "official", the released network.

    The pyramid of the result holds the composed fields of levels 4 to 1; `extras["velocities"]` the
    decoders' outputs before integration, in the same order.
    """

    official_keys = KeyMap(
        renames=(
            (r"^encoder\.conv(\d)\.(\d)(\.main)?\.", r"encoder.levels.\1.\2\3."),
            (r"^c1\.", "msfm.reduce.0."),
            (r"^c2\.", "msfm.reduce.1."),
            (r"^c3\.", "msfm.reduce.2."),
            (r"^c4\.", "msfm.reduce.3."),
            (r"^u2\.", "msfm.expand.1."),
            (r"^u3\.", "msfm.expand.2."),
            (r"^u4\.", "msfm.expand.3."),
            (r"^sdi_1\.", "msfm.products.0."),
            (r"^sdi_2\.", "msfm.products.1."),
            (r"^sdi_3\.", "msfm.products.2."),
            (r"^sdi_4\.", "msfm.products.3."),
            # maps 0 to 3 come from the fixed image, 4 to 7 from the moving one
            (r"\.convs\.([0-3])\.", r".fixed.\1."),
            (r"\.convs\.4\.", ".moving.0."),
            (r"\.convs\.5\.", ".moving.1."),
            (r"\.convs\.6\.", ".moving.2."),
            (r"\.convs\.7\.", ".moving.3."),
            (r"^deblock", "decoders."),
            (r"\.Conv\.", ".correlate.conv."),
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
            (r"\.idm\.idm\.conv\.", ".exchange.decompose.trunk."),
            (r"\.idm\.idm\.conv1\.", ".exchange.decompose.residual."),
            (r"\.idm\.idm\.conv2\.", ".exchange.decompose.field."),
            (r"\.nff\.conv\.", ".fuse.merge."),
            (r"\.nff\.weight_conv\.0\.", ".fuse.weigh."),
            (r"\.nff\.channel_attention\.fc\.", ".fuse.gate."),
            (r"\.main\.", ".0."),
        ),
        dead=(
            r"deblock4\.(resnet|flow|nff|idm)\..+",
            r"deblock[123]\.(resnets|flows|pa|convs|idm\.conv|de)\..+",
            r"deblock1\.idm\..+",
        ),
    )

    def __init__(self, variant: str = "official") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(
                f"LGANetPP: expected variant to be one of {sorted(VARIANTS)}, got {variant!r}."
            )
        self.variant = VARIANTS[variant]
        self.encoder = FeaturePyramid(CHANNELS)
        self.msfm = MultiScaleFusion(CHANNELS)
        coarsest, *finer = zip((4, 3, 2, 1), CHANNELS[::-1], self.variant.exchanges, strict=True)
        self.decoders = nn.ModuleDict({"4": AttentionDecoder(coarsest[1], self.variant)})
        for level, channels, exchanges in finer:
            self.decoders[str(level)] = RefinementDecoder(channels, self.variant, exchanges)

    @property
    def declared_parameters(self) -> int:
        """Parameters that the authors' class declares, beside the ones that exist here."""
        return self.variant.declared_parameters

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The valid shape at least as large along every axis that adds the fewest voxels."""
        return _nearest_valid(tuple(shape))

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = (
            "sides that are multiples of 8, at least 48, and whose number of whole 48-voxel cubes "
            "divides the number of 8-voxel cubes"
        )
        require_valid_images("LGANetPP", moving, fixed, self.valid_shape, rule)
        # Both images in one batch; fine to coarse, (2 B, C, ...).
        pairs = self.encoder(torch.cat([moving, fixed]))
        fused = self.msfm(pairs)
        velocities: list[Velocity] = []
        pyramid: list[Displacement] = []
        for decoder, pair, joint in zip(
            self.decoders.values(), reversed(pairs), reversed(fused), strict=True
        ):
            coarser = resize(pyramid[-1], pair.shape[2:]) if pyramid else None
            velocities.append(decoder(*pair.chunk(2), joint, coarser))
            displacement = integrate(velocities[-1], padding="zeros")  # equations (6) and (7)
            if coarser is not None:
                displacement = compose(coarser, displacement, padding="zeros")  # equation (9)
            pyramid.append(displacement)
        return Registration(pyramid[-1], tuple(pyramid), {"velocities": tuple(velocities)})


@lru_cache(maxsize=256)
def _nearest_valid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Search the coarsest grid: multiples of the window always fit, so they bound the search."""
    least = [max(-(-side // COARSEST), WINDOW_VOXELS) for side in shape]
    fallback = [-(-side // WINDOW_VOXELS) * WINDOW_VOXELS for side in least]
    ranges = [range(side, prod(fallback) // (prod(least) // side) + 1) for side in least]
    candidates = (grid for grid in product(*ranges) if prod(grid) % local_groups(grid) == 0)
    best = min(candidates, key=lambda grid: (prod(grid), grid))
    return tuple(COARSEST * side for side in best)
