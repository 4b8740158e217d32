"""LGANet++: local-global attention and multi-scale fusion in a pyramid of four levels.

Huang et al., "Unsupervised deformable image registration with local-global attention and image
decomposition", sections 2.1 to 2.5. The variant "official" gives what the authors' released class
(huangzyong/LGANet-Registration, `code/models/LGANetPlusPlus.py`) gives, with the 6,602,260 of its
25,535,632 parameters that it uses. The variant "paper" follows the text where the two differ:
attention between voxels and within true local windows, equation (5) as printed, and a fusion of
scales that starts alive. It has the switches of the ablation, Table 1:

| model | lgam  | fifm  | msfm  | parameters | the same with released attention blocks | Table 1 |
|-------|-------|-------|-------|------------|-----------------------------------------|---------|
| 1     | False | False | False | 3,094,296  | 3,094,296                               | 2.936 M |
| 2     | True  | False | False | 3,765,550  | 3,709,118                               | 10.225 M|
| 3     | True  | True  | False | 6,465,284  | 6,408,852                               | 21.320 M|
| 4     | True  | True  | True  | 6,658,692  | 6,602,260                               | 24.353 M|

The authors released Model 4 alone, and Table 1 counts what their class declares, used or not;
Models 1 to 3 are reconstructed from these counts. Model card:

- repository: huangzyong/LGANet-Registration, `code/models/LGANetPlusPlus.py`; no weights are
  published;
- licence: none;
- compared by: its own paper, Tables 1 to 6;
- parameters: 6,602,260 ("official"), 6,658,692 ("paper"); the released class declares 25,535,632;
- sizes: sides that are multiples of 8; "official" also wants the coarsest grid to divide into its
  local groups, see `LGANetPP.valid_shape`;
- deviations: "official" none in the result; "paper" departs from the released code where the text
  says otherwise.

Both images pass one encoder (levels 1 to 4, channels 8 to 64). Level 4 estimates a first
displacement by attention, levels 3 to 1 refine it: warp the moving features, estimate a velocity,
integrate it (equations 6 and 7) and compose it with the doubled field of the coarser level
(equation 9).

    model = LGANetPP("paper")
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 8
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.attention import (
    WINDOW_VOXELS,
    LocalGlobalBlock,
    PositionAttention,
    VoxelBlock,
    grid_with_whole_groups,
)
from regnet_lib.nn.blocks import FeaturePyramid, PairedResidual, checkpointed, conv
from regnet_lib.nn.correlation import CorrelationResidual
from regnet_lib.nn.decomposition import DecompositionExchange
from regnet_lib.nn.fusion import ChannelWiseFusion, MultiScaleFusion
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.spatial import compose, integrate, resize, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration, Velocity

CHANNELS = (8, 16, 32, 64)
COARSEST = 2 ** (len(CHANNELS) - 1)
HEAD_STD = 1e-5


@dataclass(frozen=True)
class Variant:
    """The choices in which published descriptions of the network differ, all in one place.

    Attributes:
        declared_parameters: what the authors' class declares, used or not; the paper's "24.353 M"
            is this number divided by 2^20. None: no more than is used.
        exchanges: evaluations of the IDM at levels 4 to 1 (finest last), with shared weights.
        positive_fields: ReLU on the fields of the IDM.
        carried_fields: the two fields of the IDM carry each other and are integrated; equation (5)
            only adds them.
        scaled_position_attention: divide by sqrt(l) in equation (8).
        attention_heads: l = C / heads in equation (4); attention itself has one head.
        voxel_tokens: a token of the LGAM is a voxel, and local attention works in windows.
        window_voxels: sides of these windows, in voxels of level 4.
        head_std: initial weights of everything that outputs a field; None: PyTorch's default.
        unit_factors: the factors of equation (3) start at 1.
        folding_free: integrate the sum of the velocities in place of composing fields.
        minimum_side: of an image, in voxels.
        size_rule: the images it takes, in words.
    """

    declared_parameters: int | None
    exchanges: tuple[int, int, int, int]
    positive_fields: bool
    carried_fields: bool
    scaled_position_attention: bool
    attention_heads: int
    voxel_tokens: bool
    window_voxels: int
    head_std: float | None
    unit_factors: bool
    folding_free: bool
    minimum_side: int
    size_rule: str


VARIANTS = {
    "official": Variant(
        declared_parameters=25_535_632,
        exchanges=(0, 2, 2, 0),
        positive_fields=True,
        carried_fields=True,
        scaled_position_attention=False,
        attention_heads=8,
        voxel_tokens=False,
        window_voxels=WINDOW_VOXELS,
        head_std=None,
        unit_factors=False,
        folding_free=False,
        minimum_side=COARSEST * WINDOW_VOXELS,
        size_rule=(
            "sides that are multiples of 8, at least 48, and whose number of whole 48-voxel cubes "
            "divides the number of 8-voxel cubes"
        ),
    ),
    "paper": Variant(
        declared_parameters=None,
        exchanges=(0, 1, 1, 0),
        positive_fields=False,
        carried_fields=False,
        scaled_position_attention=True,
        attention_heads=1,
        voxel_tokens=True,
        window_voxels=WINDOW_VOXELS,
        head_std=HEAD_STD,
        unit_factors=True,
        folding_free=False,
        # Neither a normalisation nor an enlargement of the grid has a meaning on one voxel.
        minimum_side=2 * COARSEST,
        size_rule="sides that are multiples of 8, at least 16",
    ),
}


class AttentionDecoder(nn.Module):
    """LGAM (section 2.3, Fig. 2a): the first velocity, at the coarsest level.

    Args:
        correlated: add the correlation with F_4 to M_4.
    """

    def __init__(
        self, channels: int, variant: Variant, blocks: int = 2, correlated: bool = True
    ) -> None:
        super().__init__()
        self.correlate = CorrelationResidual(channels) if correlated else None
        self.merge = conv(3 * channels, channels)
        self.position_attention = PositionAttention(
            channels, scaled=variant.scaled_position_attention
        )
        self.residual = PairedResidual(channels)
        self.blocks = nn.Sequential(
            *(
                VoxelBlock(channels, variant.window_voxels, variant.attention_heads)
                if variant.voxel_tokens
                else LocalGlobalBlock(channels, variant.attention_heads)
                for _ in range(blocks)
            )
        )
        self.head = DisplacementHead(channels, variant.head_std)

    def forward(
        self, moving: Tensor, fixed: Tensor, fused: Tensor, coarser: Displacement | None = None
    ) -> Velocity:
        moving = self.correlate(moving, fixed) if self.correlate is not None else moving
        features = torch.cat([moving, fixed, fused], dim=1)
        features = self.residual(self.position_attention(self.merge(features)))
        return self.head(self.blocks(features))


class RefinementDecoder(nn.Module):
    """FIFM (section 2.4, Fig. 2b): the velocity that refines the field of the coarser level.

    Args:
        exchanges: evaluations of the IDM; 0 leaves it out, as at the finest level.
        correlated: add the correlation with F_i to M_i.
        residual: the "ResNet" in front of the head.
        checkpointing: see `LGANetPP`.
    """

    def __init__(
        self,
        channels: int,
        variant: Variant,
        exchanges: int,
        correlated: bool = True,
        residual: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.exchanges = exchanges
        self.call = partial(checkpointed, checkpointing)
        self.correlate = CorrelationResidual(channels) if correlated else None
        if exchanges:
            self.exchange = DecompositionExchange(
                channels, variant.positive_fields, variant.carried_fields, variant.head_std
            )
        self.fuse = ChannelWiseFusion(channels)
        self.residual = PairedResidual(3 * channels) if residual else nn.Identity()
        self.head = DisplacementHead(3 * channels, variant.head_std)

    def forward(
        self, moving: Tensor, fixed: Tensor, fused: Tensor, coarser: Displacement | None = None
    ) -> Velocity:
        """Equation (5).

        Args:
            moving, fixed, fused: M_i, F_i and C_i, `(B, C, ...)`.
            coarser: field of level i + 1, already resized to this level; None at the coarsest.
        """
        moving = self.call(self.correlate, moving, fixed) if self.correlate is not None else moving
        warped = moving if coarser is None else warp(moving, coarser)
        aligned: Displacement | None = None
        fixed_parts = self.exchange.decompose(fixed) if self.exchanges else None
        for _ in range(self.exchanges):
            warped, step = self.call(self.exchange, fixed_parts, warped)
            aligned = step if aligned is None else compose(aligned, step, padding="zeros")
        velocity = self.head(self.residual(self.call(self.fuse, fused, warped, fixed)))
        return velocity if aligned is None else compose(aligned, velocity, padding="zeros")


class LGANetPP(nn.Module):
    """LGANet++ (Huang et al.): local-global attention in a pyramid of four levels.

    Args:
        variant: "official", the released network, or "paper", the described one.
        lgam: off, level 4 has a decoder like level 1, without a field to start from, and no level
            has the "ResNet" in front of its head.
        fifm: off, there is neither image decomposition nor correlation; the weighing of the three
            maps (CWAM) stays.
        msfm: off, M_i takes the place of the fused map C_i, and correlation is left out: the last
            step of the reconstructed ablation adds both.
        window_voxels: sides of a local window in voxels of level 4; 6 if None.
        attention_heads: l = C / heads in equation (4), a matter of scale alone; 1 if None.
        small_heads: start from almost no displacement; True if None.
        checkpointing: for any variant; the backward pass computes encoder, MSFM, correlation, IDM,
            CWAM and integration again instead of keeping their activations: half the memory,
            a fifth more time, the same result.
        folding_free: beyond the paper, in place of equations (6), (7) and (9), see below.

    The switches and options belong to the variant "paper".

    The pyramid of the result holds the fields of levels 4 to 1; `extras["velocities"]` the
    decoders' outputs before integration, in the same order.

    `folding_free` adds each level's velocity to the resized sum of the coarser ones and integrates
    that one stationary velocity, with border padding. It differs from the composition of equation
    (9) by terms of second order in the velocities and costs one warp per level less. The sum at
    full size is `extras["velocity"]`: `integrate(-velocity)` approximates the inverse.

    What is guaranteed: let L be the largest 1-norm of the difference of this sum between
    neighbouring voxels. Linear interpolation and border padding expand no 1-norm distance, so
    neighbours of the displacement differ by at most (1 + L/2^t)^(2^t) - 1 < e^L - 1. For L <= ln 2
    no voxel folds, by any definition of `folding_fraction`, however long the vectors. What is not:
    for larger L only the continuous flow is invertible, and its samples on the grid may fold where
    it compresses much within a voxel. Smooth velocities seldom do. The zero padding of equation (9)
    as published, in contrast, tears every field that does not vanish at the faces.
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

    def __init__(
        self,
        variant: str = "official",
        *,
        lgam: bool = True,
        fifm: bool = True,
        msfm: bool = True,
        window_voxels: int | None = None,
        attention_heads: int | None = None,
        small_heads: bool | None = None,
        checkpointing: bool = False,
        folding_free: bool = False,
    ) -> None:
        super().__init__()
        switches = {"lgam": lgam, "fifm": fifm, "msfm": msfm}
        options = {
            "window_voxels": window_voxels,
            "attention_heads": attention_heads,
            "small_heads": small_heads,
            "folding_free": folding_free or None,
        }
        self.variant = _chosen(variant, switches, options)
        self.call = partial(checkpointed, checkpointing)
        self.encoder = FeaturePyramid(CHANNELS)
        self.msfm = (
            MultiScaleFusion(CHANNELS, unit_factors=self.variant.unit_factors) if msfm else None
        )
        correlated = fifm and msfm
        coarsest, *finer = zip((4, 3, 2, 1), CHANNELS[::-1], self.variant.exchanges, strict=True)
        self.decoders = nn.ModuleDict(
            {
                "4": AttentionDecoder(coarsest[1], self.variant, correlated=correlated)
                if lgam
                else RefinementDecoder(coarsest[1], self.variant, 0, correlated, residual=False)
            }
        )
        for level, channels, exchanges in finer:
            self.decoders[str(level)] = RefinementDecoder(
                channels,
                self.variant,
                exchanges if fifm else 0,
                correlated,
                residual=lgam,
                checkpointing=checkpointing,
            )

    @property
    def declared_parameters(self) -> int:
        """Parameters that the authors' class declares, beside the ones that exist here."""
        if self.variant.declared_parameters is None:
            return sum(weights.numel() for weights in self.parameters())
        return self.variant.declared_parameters

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters to leave out of weight decay: those of the MSFM.

        Decay pulls eight factors to 0 at once, and their product much faster (see `ScaleProduct`).
        Empty for the released network, which was trained with decay on everything.
        """
        if not self.variant.unit_factors:
            return set()
        return {name for name, _ in self.named_parameters() if name.startswith("msfm.")}

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The valid shape at least as large along every axis that adds the fewest voxels.

        Multiples of 8, at least 16, for the variant "paper"; the released one also asks that its
        local groups divide the grid of level 4.
        """
        least = next_multiple([max(side, self.variant.minimum_side) for side in shape], COARSEST)
        if self.variant.voxel_tokens:
            return least
        grid = grid_with_whole_groups(tuple(side // COARSEST for side in least))
        return tuple(COARSEST * side for side in grid)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        require_valid_images("LGANetPP", moving, fixed, self.valid_shape, self.variant.size_rule)
        # Both images in one batch; fine to coarse, (2 B, C, ...).
        pairs = self.call(self.encoder, torch.cat([moving, fixed]))
        if self.msfm is None:
            fused = [pair.chunk(2)[0] for pair in pairs]
        else:
            fused = self.call(self.msfm, pairs)
        velocities: list[Velocity] = []
        pyramid: list[Displacement] = []
        total: Velocity | None = None
        for decoder, pair, joint in zip(
            self.decoders.values(), reversed(pairs), reversed(fused), strict=True
        ):
            coarser = resize(pyramid[-1], pair.shape[2:]) if pyramid else None
            velocity = decoder(*pair.chunk(2), joint, coarser)
            velocities.append(velocity)
            if self.variant.folding_free:
                total = velocity if total is None else resize(total, pair.shape[2:]) + velocity
                displacement = self.call(integrate, total)
            else:
                displacement = self.call(_integrate, velocity)
                if coarser is not None:
                    displacement = compose(coarser, displacement, padding="zeros")  # equation (9)
            pyramid.append(displacement)
        extras: dict[str, object] = {"velocities": tuple(velocities)}
        if total is not None:
            extras["velocity"] = total
        return Registration(pyramid[-1], tuple(pyramid), extras)


def _integrate(velocity: Velocity) -> Displacement:
    """Equations (6) and (7)."""
    return integrate(velocity, padding="zeros")


def _chosen(
    name: str, switches: Mapping[str, bool], options: Mapping[str, int | bool | None]
) -> Variant:
    """The variant of this name with the given options (those that are not None)."""
    if name not in VARIANTS:
        raise ValueError(
            f"LGANetPP: expected variant to be one of {sorted(VARIANTS)}, got {name!r}."
        )
    given = {key: value for key, value in options.items() if value is not None}
    changes = {key: on for key, on in switches.items() if not on} | given
    if name == "official" and changes:
        found = ", ".join(f"{key}={value}" for key, value in changes.items())
        raise ValueError(
            "LGANetPP: expected no switch off and no option for variant 'official', the released "
            f"network, got {found}. Use variant='paper'."
        )
    for key in ("window_voxels", "attention_heads"):
        if given.get(key, 1) < 1:
            raise ValueError(f"LGANetPP: expected {key} of at least 1, got {given[key]}.")
    if "small_heads" in given:
        given["head_std"] = HEAD_STD if given.pop("small_heads") else None
    return replace(VARIANTS[name], **given)
