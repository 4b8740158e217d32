"""AD-RegNet: cross-attention between two feature pyramids, and one blended displacement.

Iqbal et al., "Attention-Driven Framework for Non-Rigid Medical Image Registration", section III.
Model card:

- repository: none was published; this is a reading of the text;
- licence: none;
- compared by: its own paper, Tables I to V;
- parameters: 30,716,956 (U-Net 28,674,944, cross-attention 1,396,741, regional attention 350,564,
  displacement heads 80,367, gates 214,340);
- sizes: sides that are multiples of 16, at least 32;
- deviations: none from the text where it is clear; the readings chosen where it is not are below;
- cost at 160x192x224, counted by `regnet_lib.profile`: 7.7 TFLOP for a registration, 23.3 for a
  training step, with 40.3 GiB at its peak in float32, 22.4 under bfloat16 autocast, and 10.2 with
  `checkpointing` in addition;
- starts from almost no displacement ("recommended": from that of untrained matches).

Both images pass one U-Net (levels 0 to 4, channels 32 to 512). On every level the two feature maps
attend to each other (equations 8 to 12); on levels 0 to 3 regions are weighted; a convolution
proposes a displacement (equation 13); and from level 4 to 0 a gate blends it with the field of the
coarser level (equations 14 and 15). The moving image is warped once, at the end.

Where the text leaves several readings, this one was chosen:

- Levels count from 0: E_0 = Encoder_0(image), D_4 = E_4, and the field of level 4 is not blended.
- The strided convolutions double the channels, the transposed ones halve them. "Conv block" is
  convolution, instance normalisation with scale and shift, LeakyReLU(0.2).
- Attention is global on levels 4 and 3, and within cubes of 6, 4 and 4 voxels on levels 2, 1 and 0;
  one head, d_k = C / 2 (at least 16); alpha is a learned number per level, 0.5 at the start.
- A region is a cube of 16 (DIR-Lab) or 24 (IXI) voxels *of the image*: taken as voxels of the
  "high-level feature maps", one cube would hold the whole of level 4.
- Regional weights multiply the features in place, and M in equation (15) is the weight relative to
  the largest one.
- The blend is equation (15); the sentence of section III.B.1 swaps the roles of its weight. "Finer"
  there means coarser. An enlarged field is multiplied by 2, since it counts voxels.

`mode="recommended"` repairs four things that follow from the text:

- Attention returns what matches look like, and not where they are: here its values carry
  coordinates.
- Untrained attention asks everybody alike, and the mean of everybody's position is the middle of
  the window, whatever the images show. Here positions count from where a voxel would look in its
  own image, and the four projections to queries and keys start equal, so that scores compare
  features from the first step on (`relative` in `BidirectionalCrossAttention`).
- Windows of 4 voxels cannot follow a motion of 20: here each level sees the moving features warped
  by the field so far, and its proposal is composed with that field before the blend.
- Adam moves all 27 C weights of a head by one learning rate. Level 4 has 16 times the channels of
  level 0, and voxels 16 times as long, so that its first steps throw the field about by
  centimetres. Here features enter the head divided by 4^l, offsets as they are, and the head
  starts as 1.5 times the mean offset of 3x3x3 voxels: the first field is that of the matches.

Without the second and the last, hundreds of steps taught nothing on semi-real lungs. Parameters:
30,718,171.

Table V leaves parts out:

| row of Table V                    | switches                 | parameters |
|-----------------------------------|--------------------------|------------|
| Full Model                        |                          | 30,716,956 |
| w/o Bidirectional Cross-Attention | cross_attention=False    | 30,019,575 |
| w/o Regional Adaptive Attention   | regional_attention=False | 30,366,392 |
| w/o Multi-Resolution DVF          | multi_resolution=False   | 28,685,893 |
| w/o Both Attention Mechanisms     | the first two            | 29,669,011 |

Without cross-attention a 1x1x1 convolution of both maps takes its place. Without multi-resolution
level 0 alone proposes the displacement, and the 1,738,951 parameters of the attention on coarser
levels, which nothing would use, are not made.

    model = ADRegNet()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, for example 160x192x224
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import checkpointed
from regnet_lib.nn.cross_attention import BidirectionalCrossAttention, JointFeatures
from regnet_lib.nn.feature_unet import FeatureUNet
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.regions import RegionalAttention
from regnet_lib.nn.synthesis import GatedFusion
from regnet_lib.spatial import compose, resize, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration

CHANNELS = (32, 64, 128, 256, 512)
COARSEST = 2 ** (len(CHANNELS) - 1)
# Levels 0 to 2; above, attention is global.
WINDOWS_VOXELS = (4, 4, 6)
GLOBAL_LEVEL = len(WINDOWS_VOXELS)
# Regions are weighted up to this level: on level 4 a cube of 16 voxels is a single one.
REGION_LEVELS = 4
HEAD_STD = 1e-5
# Recommended mode: heads begin with this many times the mean offset of 3 x 3 x 3 voxels.
OFFSET_GAIN = 1.5


class LevelResult(NamedTuple):
    """One level: its displacement, and how it came about.

    Attributes:
        displacement: Phi_final, in voxels of this level.
        candidate: Phi of equation (13), before blending.
        gate: W of equation (15); None where nothing is blended.
        region_weights: one per region, with sum 1; None without regional attention.
        attention_entropy: of equation (11), in nats; None unless asked for.
    """

    displacement: Displacement
    candidate: Displacement
    gate: Tensor | None
    region_weights: Tensor | None
    attention_entropy: Tensor | None


class Level(nn.Module):
    """One level of AD-RegNet: attention, regions, candidate displacement, blend.

    Args:
        channels: of the feature maps.
        match: cross-attention, or what takes its place; called with moving and fixed features.
        region_side: of a regional cube, in voxels of this level; None: no regional attention.
        fused: there is a coarser level to blend with.
        composition: warp the moving features by the coarser field, and compose instead of replace.
        feature_scale: factor of the features, and not of the offset, before the head.
    """

    def __init__(
        self,
        channels: int,
        match: BidirectionalCrossAttention | JointFeatures,
        region_side: int | None,
        fused: bool,
        composition: bool,
        feature_scale: float = 1.0,
    ) -> None:
        super().__init__()
        located = isinstance(match, BidirectionalCrossAttention) and match.coordinates
        self.match = match
        self.regions = None if region_side is None else RegionalAttention(channels)
        self.region_side = region_side
        self.head = DisplacementHead(channels + 3 * located, std=HEAD_STD)
        if located and match.relative:
            self._start_from_offsets()
        self.fusion = GatedFusion(channels) if fused else None
        self.composition = composition
        self.feature_scale = feature_scale

    @torch.no_grad()
    def _start_from_offsets(self) -> None:
        for axis in range(3):
            taps = self.head.weight[axis, axis - 3]
            taps.fill_(OFFSET_GAIN / taps.numel())

    def forward(
        self,
        moving: Tensor,
        fixed: Tensor,
        coarser: Displacement | None = None,
        details: bool = False,
    ) -> LevelResult:
        """The displacement of this level.

        Args:
            moving, fixed: features D of this level, `(B, C, ...)`.
            coarser: displacement of the next coarser level, in voxels of its own grid.
            details: compute the entropy of attention, too.
        """
        if coarser is not None:
            coarser = resize(coarser, fixed.shape[2:])
            if self.composition:
                moving = warp(moving, coarser)
        features, offset, entropy = self.match(moving, fixed, details)
        weights = modulation = None
        if self.regions is not None:
            features, modulation, weights = self.regions(features, self.region_side)
        proposal = features if self.feature_scale == 1 else self.feature_scale * features
        if offset is not None:
            proposal = torch.cat([proposal, offset], dim=1)
        displacement = candidate = self.head(proposal)
        gate = None
        if self.fusion is not None and coarser is not None:
            if self.composition:
                candidate = compose(coarser, candidate)
            displacement, gate = self.fusion(features, candidate, coarser, modulation)
        return LevelResult(displacement, candidate, gate, weights, entropy)


class ADRegNet(nn.Module):
    """AD-RegNet (Iqbal et al., section III) and the variants of its Table V.

    Args:
        mode: "paper", or "recommended", which switches `coordinates` and `composition` on, and with
            the coordinates their `relative` count.
        channels: of the five levels, fine to coarse; multiples of 4. (8, 16, 32, 64, 128) has
            1,983,756 parameters and suits a small machine.
        cross_attention, regional_attention, multi_resolution: Table V.
        region_voxels: side of a region in voxels of the image, a multiple of 8.
        literal_regions: the side counts voxels of every feature map instead.
        fine_attention: "window": on levels 0 to 2 a voxel asks a cube around it; "pooled": it asks
            the whole image, averaged to the grid of level 3. At 160x192x224 that takes about four
            times the operations of everything else.
        coordinates: attention values carry their position; None leaves it to `mode`.
        composition: levels see warped moving features and compose; None leaves it to `mode`.
        dropout: share of decoder channels set to 0 in training, and in `sample`.
        checkpointing: keep less for the backward pass and compute it again; the same gradients.

    The pyramid of the result holds the displacements of levels 4 to 0; without multi-resolution it
    is empty.
    """

    def __init__(
        self,
        mode: Literal["paper", "recommended"] = "paper",
        *,
        channels: Sequence[int] = CHANNELS,
        cross_attention: bool = True,
        regional_attention: bool = True,
        multi_resolution: bool = True,
        region_voxels: int = 16,
        literal_regions: bool = False,
        fine_attention: Literal["window", "pooled"] = "window",
        coordinates: bool | None = None,
        composition: bool | None = None,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _require_options(mode, channels, region_voxels, fine_attention)
        recommended = mode == "recommended"
        coordinates = recommended if coordinates is None else coordinates
        composition = recommended if composition is None else composition
        self.checkpointing = checkpointing
        self.backbone = FeatureUNet(channels, dropout, checkpointing)
        self.levels = nn.ModuleDict()  # coarse to fine
        for level in (4, 3, 2, 1, 0) if multi_resolution else (0,):
            width = channels[level]
            if cross_attention:
                match = BidirectionalCrossAttention(
                    width,
                    **_reach(level, fine_attention),
                    coordinates=coordinates,
                    relative=recommended and coordinates,
                )
            else:
                match = JointFeatures(width)
            side = region_voxels if literal_regions else region_voxels // 2**level
            self.levels[str(level)] = Level(
                width,
                match,
                side if regional_attention and level < REGION_LEVELS else None,
                fused=multi_resolution and level < len(channels) - 1,
                composition=composition,
                feature_scale=4.0**-level if recommended else 1.0,
            )

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large: multiples of 16, at least 32.

        Neither a normalisation nor an enlargement of the grid has a meaning on one voxel.
        """
        return next_multiple([max(side, 2 * COARSEST) for side in shape], COARSEST)

    def forward(self, moving: Image, fixed: Image, details: bool = False) -> Registration:
        """The registration of two images `(B, 1, D, H, W)`.

        Args:
            details: also return `extras` by level number: `candidates`, `gates`, `region_weights`,
                `attention_entropy`, see `LevelResult`.
        """
        rule = "sides that are multiples of 16, at least 32"
        require_valid_images("ADRegNet", moving, fixed, self.valid_shape, rule)
        # Both images in one batch; instance normalisation keeps them apart.
        features = self.backbone(torch.cat([moving, fixed]))
        results: dict[int, LevelResult] = {}
        displacement: Displacement | None = None
        for name, level in self.levels.items():
            moving_features, fixed_features = features[int(name)].chunk(2)
            result = checkpointed(
                self.checkpointing, level, moving_features, fixed_features, displacement, details
            )
            displacement = result.displacement
            results[int(name)] = result
        pyramid = tuple(result.displacement for result in results.values())
        return Registration(
            displacement, pyramid if len(pyramid) > 1 else (), _extras(results) if details else {}
        )

    @torch.no_grad()
    def sample(
        self, moving: Image, fixed: Image, samples: int
    ) -> Float[Tensor, "samples batch 3 depth height width"]:
        """Displacements under as many random dropouts; their spread estimates uncertainty.

        Monte Carlo dropout (Gal and Ghahramani, ICML 2016). The maps in Fig. 5 of AD-RegNet come
        without a method; the standard deviation of the warped images is one that gives such maps.

        Raises:
            ValueError: the model has no dropout, so that all samples would be equal.
        """
        dropout = self.backbone.dropout
        if dropout.p == 0:
            raise ValueError(
                "ADRegNet.sample: expected a model with dropout, got dropout=0.0, with which every "
                "sample is the same. Build and train it with, for example, dropout=0.1."
            )
        training = dropout.training
        dropout.train()
        try:
            return torch.stack([self(moving, fixed).displacement for _ in range(samples)])
        finally:
            dropout.train(training)


def _reach(level: int, fine_attention: str) -> dict[str, int]:
    """Which voxels attention sees on a level: arguments of `BidirectionalCrossAttention`."""
    if level >= GLOBAL_LEVEL:
        return {}
    if fine_attention == "pooled":
        return {"pooling": 2 ** (GLOBAL_LEVEL - level)}
    return {"window": WINDOWS_VOXELS[level]}


def _extras(results: dict[int, LevelResult]) -> dict[str, object]:
    """Named by-products by level; only what exists."""
    extras: dict[str, object] = {}
    for name, attribute in {
        "candidates": "candidate",
        "gates": "gate",
        "region_weights": "region_weights",
        "attention_entropy": "attention_entropy",
    }.items():
        values = {level: getattr(result, attribute) for level, result in results.items()}
        extras[name] = {
            level: value.detach() for level, value in values.items() if value is not None
        }
    return extras


def _require_options(
    mode: str, channels: Sequence[int], region_voxels: int, fine_attention: str
) -> None:
    for name, value, known in (
        ("mode", mode, ("paper", "recommended")),
        ("fine_attention", fine_attention, ("window", "pooled")),
    ):
        if value not in known:
            raise ValueError(f"ADRegNet: expected {name} to be one of {known}, got {value!r}.")
    if len(channels) != len(CHANNELS) or any(width < 4 or width % 4 for width in channels):
        raise ValueError(
            "ADRegNet: expected the channels of five levels, positive multiples of 4, got "
            f"{tuple(channels)}. For example (8, 16, 32, 64, 128)."
        )
    if region_voxels < 8 or region_voxels % 8:
        raise ValueError(
            "ADRegNet: expected region_voxels to be a multiple of 8, so that a region has whole "
            f"voxels on level 3, got {region_voxels}."
        )
