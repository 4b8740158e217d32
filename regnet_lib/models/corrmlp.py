"""CorrMLP: correlation, and perceptrons that mix the voxels of windows, at every level.

Meng et al., "Correlation-aware coarse-to-fine MLPs for deformable medical image registration",
CVPR 2024. Model card:

- repository: MungoMeng/Registration-CorrMLP, `CorrMLP/networks.py`;
- licence: GPL-3;
- compared by: LGANet++ (tables 2 to 6), in this configuration;
- parameters: 4,190,834;
- sizes: sides that are multiples of 8, at least 16;
- memory: training keeps 5.8 GiB of activations for a 96x112x80 pair in float32;
- deviations: none in the result. The official network is called with the fixed image first, and
  recomputes activations in the backward pass by default, here `checkpointing=True`;
- known error of the official repository: its count of folded voxels pairs axes and components
  wrongly and misses folds along two axes, so its published folding percentages compare with no
  others.

One encoder, four levels. A block at each level correlates the fixed with the warped moving features
and lets voxels talk within windows of three sizes; a second block does the same with the features
of the decoder. The residual field of a level is added to that of the coarser level, not composed.

    registration = CorrMLP()(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 8
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.attention import join_windows, split_windows
from regnet_lib.nn.blocks import InstanceNormActivation, checkpointed, conv
from regnet_lib.nn.correlation import local_correlation
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.pyramid import Pyramid
from regnet_lib.spatial import resize, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration

WINDOWS = (3, 5, 7)
SLOPE = 0.2
SIZE_RULE = "sides that are multiples of 8, at least 16"

Voxels = Float[Tensor, "batch depth height width features"]


class ConvActivationNorm(nn.Sequential):
    """Twice convolution, LeakyReLU and only then instance normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for less in (inputs, outputs):
            # In place: the backward pass needs the sign alone, and the result has it too.
            layers += [conv(less, outputs), nn.LeakyReLU(SLOPE, inplace=True)]
            layers += [InstanceNormActivation()]
        super().__init__(*layers)


class GatedWindowMLP(nn.Module):
    """u * (mix(v) + 1) within windows, where mix has one weight per pair of voxels of a window.

    Zeros fill up the last windows and are mixed in, as published.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.gate_norm = nn.LayerNorm(channels)
        self.mix = nn.Linear(window**3, window**3)
        self.project = nn.Linear(channels, channels)

    def forward(self, voxels: Voxels) -> Voxels:
        tokens, _ = split_windows(voxels, self.window)
        kept, gate = self.expand(self.norm(tokens)).chunk(2, dim=-1)
        # Two cheap layers, repeated in the backward pass: the map between them is large.
        gate = checkpointed(True, self._normalised, gate)
        gate = self.mix(rearrange(gate, "m n c -> m c n"))
        gated = F.gelu(kept) * (rearrange(gate, "m c n -> m n c") + 1)
        return join_windows(tokens + self.project(gated), voxels.shape[1:4], self.window)

    def _normalised(self, gate: Tensor) -> Tensor:
        return self.gate_norm(F.gelu(gate))


class MultiWindowMLP(nn.Module):
    """Three window sizes side by side, weighted per channel by the mean of all of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.branches = nn.ModuleList(GatedWindowMLP(channels, window) for window in WINDOWS)
        self.reweigh = nn.Sequential(
            nn.Linear(channels, channels // 4),
            nn.GELU(),
            nn.Linear(channels // 4, len(WINDOWS) * channels),
        )
        self.project = nn.Linear(channels, channels)

    def forward(self, voxels: Voxels) -> Voxels:
        normalised = self.norm(voxels)
        branches = [branch(normalised) for branch in self.branches]
        found = sum(branch.mean((1, 2, 3)) for branch in branches)
        weights = self.reweigh(found).unflatten(-1, (-1, len(WINDOWS))).softmax(dim=-1)
        weights = rearrange(weights, "b c branch -> branch b 1 1 1 c")
        mixed = sum(weight * branch for weight, branch in zip(weights, branches, strict=True))
        return voxels + self.project(mixed)


class ChannelAttention(nn.Module):
    """Two convolutions whose channels are gated by their means, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.convs = nn.Sequential(
            conv(channels, channels), nn.LeakyReLU(SLOPE, inplace=True), conv(channels, channels)
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool3d(1),
            conv(channels, channels // 4, kernel=1),
            nn.ReLU(),
            conv(channels // 4, channels, kernel=1),
            nn.Sigmoid(),
        )

    def forward(self, voxels: Voxels) -> Voxels:
        features = self.convs(rearrange(self.norm(voxels), "b d h w c -> b c d h w"))
        return voxels + rearrange(features * self.gate(features), "b c d h w -> b d h w c")


class CorrelationMLP(nn.Module):
    """Correlation-aware multi-window MLP block: two maps in, one out.

    Args:
        inputs: channels of each of the two maps.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.merge = conv(2 * inputs + 27, channels)
        self.windows = MultiWindowMLP(channels)
        self.channels = ChannelAttention(channels)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        correlation = local_correlation(first, second)
        features = self.merge(torch.cat([first, correlation, second], dim=1))
        voxels = self.channels(self.windows(rearrange(features, "b c d h w -> b d h w c")))
        return features + rearrange(voxels, "b d h w c -> b c d h w")


class Enlargement(nn.Module):
    """A transposed convolution to twice the grid and half the channels, layer normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(channels, channels // 2, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(channels // 2)

    def forward(self, features: Tensor) -> Tensor:
        voxels = self.norm(rearrange(self.conv(features), "b c d h w -> b d h w c"))
        return rearrange(voxels, "b d h w c -> b c d h w")


class CorrMLP(nn.Module):
    """Correlation-aware coarse-to-fine MLPs (Meng et al., 2024).

    The pyramid of the result holds the displacements at 1/8, 1/4, 1/2 and the full size.

    Args:
        encoder, decoder: channels at full size; doubled at each coarser level.
        checkpointing: in training, recompute the blocks in the backward pass instead of keeping
            their activations.
    """

    official_keys = KeyMap(
        renames=(
            (r"^Encoder\.Convblock_1\.", "encoder.levels.0."),
            (r"^Encoder\.Convblock_2\.", "encoder.levels.1.1."),
            (r"^Encoder\.Convblock_3\.", "encoder.levels.2.1."),
            (r"^Encoder\.Convblock_4\.", "encoder.levels.3.1."),
            (r"^(encoder\..+)\.Conv_1\.", r"\1.0."),
            (r"^(encoder\..+)\.Conv_2\.", r"\1.3."),
            (r"^Decoder\.mlp_14\.", "match.0."),
            (r"^Decoder\.mlp_13\.", "match.1."),
            (r"^Decoder\.mlp_12\.", "match.2."),
            (r"^Decoder\.mlp_11\.", "match.3."),
            (r"^Decoder\.mlp_23\.", "refine.0."),
            (r"^Decoder\.mlp_22\.", "refine.1."),
            (r"^Decoder\.mlp_21\.", "refine.2."),
            (r"^Decoder\.upsample_3\.", "up.0."),
            (r"^Decoder\.upsample_2\.", "up.1."),
            (r"^Decoder\.upsample_1\.", "up.2."),
            (r"^Decoder\.reghead_4\.reg_head\.", "heads.0."),
            (r"^Decoder\.reghead_3\.reg_head\.", "heads.1."),
            (r"^Decoder\.reghead_2\.reg_head\.", "heads.2."),
            (r"^Decoder\.reghead_1\.reg_head\.", "heads.3."),
            (r"\.up_conv\.", ".conv."),
            (r"\.Conv\.", ".merge."),
            (r"\.channel_attention\.Conv_0\.", ".gate.1."),
            (r"\.channel_attention\.Conv_1\.", ".gate.3."),
            (r"\.channel_attention_block\.", ".channels."),
            (r"\.mlpLayer\.", ".windows."),
            (r"\.WinGmlpLayer_1\.", ".branches.0."),
            (r"\.WinGmlpLayer_2\.", ".branches.1."),
            (r"\.WinGmlpLayer_3\.", ".branches.2."),
            (r"\.SpatialGatingUnit\.Dense_0\.", ".mix."),
            (r"\.SpatialGatingUnit\.LayerNorm\.", ".gate_norm."),
            (r"\.LayerNorm\.", ".norm."),
            (r"\.in_project\.", ".expand."),
            (r"\.out_project\.", ".project."),
            (r"\.reweight\.fc1\.", ".reweigh.0."),
            (r"\.reweight\.fc2\.", ".reweigh.2."),
            (r"\.conv1\.", ".convs.0."),
            (r"\.conv2\.", ".convs.2."),
        ),
    )

    def __init__(self, encoder: int = 8, decoder: int = 16, *, checkpointing: bool = False) -> None:
        super().__init__()
        scales = (1, 2, 4, 8)
        self.encoder = Pyramid(
            [
                ConvActivationNorm(1, encoder),
                *(
                    nn.Sequential(
                        nn.AvgPool3d(2), ConvActivationNorm(scale * encoder // 2, scale * encoder)
                    )
                    for scale in scales[1:]
                ),
            ]
        )
        widths = [scale * decoder for scale in reversed(scales)]
        self.match = nn.ModuleList(
            CorrelationMLP(scale * encoder, width)
            for scale, width in zip(reversed(scales), widths, strict=True)
        )
        self.up = nn.ModuleList(Enlargement(width) for width in widths[:-1])
        self.refine = nn.ModuleList(CorrelationMLP(width, width) for width in widths[1:])
        self.heads = nn.ModuleList(DisplacementHead(width, std=1e-5) for width in widths)
        self.checkpointing = checkpointing

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 8, at least 16."""
        return next_multiple([max(side, 16) for side in shape], 8)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        require_valid_images("CorrMLP", moving, fixed, self.valid_shape, SIZE_RULE)
        pairs = self.encoder(torch.cat([moving, fixed]))
        pyramid: list[Displacement] = []
        for level, pair in enumerate(reversed(pairs)):
            moving_features, fixed_features = pair.chunk(2)
            if not pyramid:
                features = checkpointed(
                    self.checkpointing, self.match[0], fixed_features, moving_features
                )
                pyramid.append(self.heads[0](features))
                continue
            coarser = resize(pyramid[-1], pair.shape[2:])
            warped = warp(moving_features, coarser)
            matched = checkpointed(self.checkpointing, self.match[level], fixed_features, warped)
            enlarged = self.up[level - 1](features)
            features = checkpointed(self.checkpointing, self.refine[level - 1], matched, enlarged)
            pyramid.append(coarser + self.heads[level](features))
        return Registration(pyramid[-1], tuple(pyramid))
