"""GroupMorph: channels in groups, a field per group with its own receptive field, and their mean.

Tan et al., "GroupMorph: medical image registration via grouping network with contextual fusion",
IEEE TMI 2024. Model card:

- repository: TVayne/GroupMorph, `Model/Net.py`;
- licence: none;
- compared by: LGANet++ (tables 2 to 6) with `preset="lganet", compat=True`: two groups everywhere;
- parameters: 1,373,660 (official) or 1,208,668 (lganet), and the positional tables, which grow with
  the training images: 2,365,440 or 2,257,920 for 96x112x80. The official class declares 69,216 or
  290,528 more, in stages that no group reaches;
- sizes: sides that are multiples of 8, at least 16. The official network takes the training size
  alone; here the positional tables are interpolated to other sizes;
- deviations: everything samples with aligned corners. The official code normalises coordinates for
  them and then samples without: its warps zoom by up to half a voxel at the faces and never give
  the identity. `compat=True` repeats that, in the network; the official code repeats it a last time
  in the warped image. Its training adds an overlap of labels to the loss.

Both images pass one encoder, four levels. At each of the three coarser ones the channels are cut
into groups. Group i of both images passes a convolution of its own size; that of the moving image
is warped by the field so far and correlated with its partner; both pass the first i + 1 stages of
one chain of convolutions, so that groups see neighbourhoods of different extent. The level's field
is the mean of the groups' fields. Contexts of neighbouring groups are fused and handed to the next
level. The full size has two convolutions without groups.

    model = GroupMorph("lganet", shape=(96, 112, 80))
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 8
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import InstanceNormActivation, conv
from regnet_lib.nn.correlation import local_correlation
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.pyramid import Pyramid
from regnet_lib.spatial import resample, resize, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration

SLOPE = 0.2
SIZE_RULE = "sides that are multiples of 8, at least 16"
CHANNELS = (8, 16, 32, 64)  # fine to coarse
KERNELS = {4: (1, 3, 5, 7), 2: (3, 5)}  # of the groups

# On a grid of its own, whatever the other arguments have.
Field = Float[Tensor, "#batch axes ..."]


@dataclass(frozen=True)
class Preset:
    """Groups at 1/8, 1/4 and 1/2 of the size, and the shape of the training images."""

    groups: tuple[int, int, int]
    shape: tuple[int, int, int]


PRESETS = {
    "official": Preset((4, 2, 2), (160, 192, 192)),
    "lganet": Preset((2, 2, 2), (144, 176, 144)),
}


def bare(layer: nn.Conv3d) -> nn.Conv3d:
    """The same convolution without its bias."""
    layer.register_parameter("bias", None)
    return layer


def normalised_conv(channels: int) -> tuple[nn.Module, nn.Module]:
    """Instance normalisation and LeakyReLU, then the convolution."""
    return InstanceNormActivation(SLOPE), conv(channels, channels)


class ConvBlock(nn.Sequential):
    """Convolution without bias, instance normalisation, LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(bare(conv(inputs, outputs, stride=stride)), InstanceNormActivation(SLOPE))


class GroupSplit(nn.Module):
    """Each group of channels passes a convolution of its own kernel size, C -> C channels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        width = channels // groups
        self.convs = nn.ModuleList(conv(width, width, kernel) for kernel in KERNELS[groups])

    def forward(self, features: Tensor) -> Tensor:
        parts = features.chunk(len(self.convs), dim=1)
        convolved = [layer(part) for layer, part in zip(self.convs, parts, strict=True)]
        return torch.cat(convolved, dim=1)


class GroupEstimator(nn.Module):
    """Grouping-combination: a field and a context per group, the fields averaged.

    Args:
        channels: of one image's features.
        groups: number g of groups.
        width: channels inside; half as many per context.
        context: channels of the context per group that comes in.
    """

    def __init__(self, channels: int, groups: int, width: int, context: int) -> None:
        super().__init__()
        self.groups = groups
        self.split = GroupSplit(channels, groups)
        first = conv(channels // groups + 27 + context, width)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(first, *normalised_conv(width)),
                nn.Sequential(*normalised_conv(width), *normalised_conv(width)),
                *(nn.Sequential(*normalised_conv(width)) for _ in range(groups - 2)),
            ]
        )
        self.head = DisplacementHead(width)
        self.context = ConvBlock(width, width // 2)

    def forward(
        self, moving: Tensor, fixed: Tensor, context: Tensor | None
    ) -> tuple[Displacement, list[Tensor]]:
        """The level's residual field, and the contexts of all groups, `(B, width / 2, ...)`.

        Args:
            moving, fixed: features behind `split`, the moving ones warped.
            context: from the coarser level, groups one after the other in the batch.
        """
        batch = len(fixed)
        to_batch = "b (g c) d h w -> (g b) c d h w"
        moving, fixed = (rearrange(maps, to_batch, g=self.groups) for maps in (moving, fixed))
        inputs = [fixed, local_correlation(moving, fixed)]
        waiting = torch.cat(inputs if context is None else [*inputs, context], dim=1)
        done = []
        for stage in self.stages:
            # the first of the waiting groups has passed all of its stages
            group, waiting = stage(waiting).tensor_split([batch])
            done.append(group)
        groups = torch.cat(done)
        field = self.head(groups).unflatten(0, (-1, batch)).mean(dim=0)
        return field, list(self.context(groups).split(batch))


class ContextFusion(nn.Module):
    """Contexts of neighbouring groups fused in pairs.

    K = act(conv(cat(p_a, p_b))), result = K + conv(c_a) K + conv(c_b) K, where p is the context c
    with the positional table of its group added, and conv(c) has one channel.

    Args:
        channels: of one context.
        groups: that come in.
        finer_groups: that go out. Where these are as many, each pair is fused in both orders.
        shape: of the positional table.
    """

    def __init__(self, channels: int, groups: int, finer_groups: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, groups * channels, *shape))
        self.merge = nn.Sequential(conv(2 * channels, channels), InstanceNormActivation(SLOPE))
        self.weigh = conv(channels, 1)
        pairs = [(first, first + 1) for first in range(0, groups, 2)]
        if finer_groups == groups:
            pairs += [pair[::-1] for pair in pairs]
        self.pairs = pairs

    def forward(self, contexts: Sequence[Tensor]) -> Tensor:
        """Fused contexts, one after the other in the batch, at twice the size."""
        shape = contexts[0].shape[2:]
        positions = resample(self.position, shape).chunk(len(contexts), dim=1)
        fused = []
        for a, b in self.pairs:
            both = torch.cat([contexts[a] + positions[a], contexts[b] + positions[b]], dim=1)
            merged = self.merge(both)
            weights = self.weigh(contexts[a]) + self.weigh(contexts[b])
            fused.append(merged + weights * merged)
        return resample(torch.cat(fused), [2 * side for side in shape])


class GroupMorph(nn.Module):
    """Grouping network with contextual fusion (Tan et al., 2024).

    The pyramid of the result holds the displacements at 1/8, 1/4, 1/2 and the full size;
    `extras["residuals"]` the field that each level added, whose smoothness the authors penalise.

    Args:
        preset: "official", or "lganet", the one that LGANet++ compared with.
        shape: of the training images, which sizes the positional tables; the preset's if None.
        compat: repeat the zoom in all warps of the official code.
    """

    def __init__(
        self,
        preset: Literal["official", "lganet"] = "official",
        *,
        shape: tuple[int, int, int] | None = None,
        compat: bool = False,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"GroupMorph: expected a preset of {sorted(PRESETS)}, got {preset!r}.")
        groups = PRESETS[preset].groups
        shape = PRESETS[preset].shape if shape is None else shape
        if self.valid_shape(shape) != tuple(shape):
            raise ValueError(
                f"GroupMorph: expected a training shape of {SIZE_RULE}, got {tuple(shape)}."
            )
        self.compat = compat
        self.encoder = Pyramid(
            [
                ConvBlock(1, CHANNELS[0]),
                *(
                    nn.Sequential(ConvBlock(less, more, stride=2), ConvBlock(more, more))
                    for less, more in pairwise(CHANNELS)
                ),
            ]
        )
        self.estimators = nn.ModuleList()
        self.fusions = nn.ModuleList()
        before = 0
        for level, (count, finer) in enumerate(pairwise((*groups, 1))):
            channels = CHANNELS[3 - level]
            self.estimators.append(GroupEstimator(channels, count, channels, before))
            before = channels // 2
            table = [side // 2 ** (3 - level) for side in shape]
            self.fusions.append(ContextFusion(before, count, finer, table))
        finest = CHANNELS[0]
        self.finest = nn.Sequential(
            ConvBlock(2 * finest + before, finest), bare(DisplacementHead(finest))
        )
        self.official_keys = official_keys(groups)

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 8, at least 16."""
        return next_multiple([max(side, 16) for side in shape], 8)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        require_valid_images("GroupMorph", moving, fixed, self.valid_shape, SIZE_RULE)
        *coarser, finest = reversed(self.encoder(torch.cat([moving, fixed])))
        context: Tensor | None = None
        residuals: list[Displacement] = []
        pyramid: list[Displacement] = []
        for estimate, fuse, pair in zip(self.estimators, self.fusions, coarser, strict=True):
            warped, fixed_features = self._warped(estimate.split(pair), pyramid)
            residual, contexts = estimate(warped, fixed_features, context)
            context = fuse(contexts)
            residuals.append(residual)
            pyramid.append(self._composed(pyramid, residual))
        residuals.append(self.finest(torch.cat([*self._warped(finest, pyramid), context], dim=1)))
        pyramid.append(self._composed(pyramid, residuals[-1]))
        return Registration(pyramid[-1], tuple(pyramid), {"residuals": tuple(residuals)})

    def _warped(self, pair: Tensor, pyramid: Sequence[Field]) -> tuple[Tensor, Tensor]:
        """Moving features, warped by the coarser level's field, and fixed features of a level."""
        moving, fixed = pair.chunk(2)
        if pyramid:
            coarser = resize(pyramid[-1], pair.shape[2:])
            moving = warp(moving, coarser, zoomed=self.compat)
        return moving, fixed

    def _composed(self, pyramid: Sequence[Field], residual: Displacement) -> Displacement:
        """The residual field composed with that of the coarser level."""
        if not pyramid:
            return residual
        coarser = resize(pyramid[-1], residual.shape[2:])
        return residual + warp(coarser, residual, zoomed=self.compat)


def official_keys(groups: tuple[int, int, int]) -> KeyMap:
    """Names of the official class, which declares four stages however many groups there are."""
    dead = []
    for size, count in zip("842", groups, strict=True):
        dead += [rf"groupflow{size}\.conv{stage}\..+" for stage in range(count + 1, 5)]
    return KeyMap(
        renames=(
            (r"^mf\.conv0\.", "encoder.levels.0."),
            (r"^mf\.conv1\.", "encoder.levels.1.0."),
            (r"^mf\.conv2\.", "encoder.levels.1.1."),
            (r"^mf\.conv3\.", "encoder.levels.2.0."),
            (r"^mf\.conv4\.", "encoder.levels.2.1."),
            (r"^mf\.conv5\.", "encoder.levels.3.0."),
            (r"^mf\.conv6\.", "encoder.levels.3.1."),
            (r"^conv\.0\.", "finest.0.0."),
            (r"^conv\.3\.", "finest.1."),
            (r"^groupflow(\d)\.conv1\.0\.", r"estimator\1.stages.0.0."),
            (r"^groupflow(\d)\.conv1\.3\.", r"estimator\1.stages.0.2."),
            (r"^groupflow(\d)\.conv2\.2\.", r"estimator\1.stages.1.1."),
            (r"^groupflow(\d)\.conv2\.5\.", r"estimator\1.stages.1.3."),
            (r"^groupflow(\d)\.conv3\.2\.", r"estimator\1.stages.2.1."),
            (r"^groupflow(\d)\.conv4\.2\.", r"estimator\1.stages.3.1."),
            (r"^groupflow(\d)\.flowout\.", r"estimator\1.head."),
            (r"^groupflow(\d)\.context\.", r"estimator\1.context."),
            (r"^split(\d)\.", r"estimator\1.split."),
            (r"^context_attention(\d)\.conv1\.", r"fusion\1.merge."),
            (r"^context_attention(\d)\.conv2\.", r"fusion\1.weigh."),
            (r"^absolute_pos_embed(\d)", r"fusion\1.position"),
            (r"^(estimator|fusion)8\.", r"\1s.0."),
            (r"^(estimator|fusion)4\.", r"\1s.1."),
            (r"^(estimator|fusion)2\.", r"\1s.2."),
        ),
        dead=tuple(dead),
    )
