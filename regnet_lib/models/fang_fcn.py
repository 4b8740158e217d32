"""One fully convolutional network for chest CT, without supervision.

After Fang et al., "A FCN-based unsupervised learning model for deformable chest CT image
registration", IEEE NSS/MIC 2019. Only its abstract's idea was at hand: a fully convolutional
network estimates the field of a pair in one pass and learns from similarity and smoothness alone.

Model card:

- repository: none;
- licence: none;
- compared by: AD-RegNet, Table I ("Fang", cited there with a title that could not be found);
- parameters: 1,486,380;
- sizes: sides that are multiples of 8, at least 16;
- deviations: a family, not a reproduction. Layers and widths are ours, in the manner of fully
  convolutional networks (Long et al., 2015): every scale predicts, and the predictions are added
  from coarse to fine.

    model = FangFCN()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 8
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import Conv3d, ConvNormActivation
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.spatial import resize
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration


class FangFCN(nn.Module):
    """Fully convolutional registration network, after Fang et al. (2019).

    Args:
        channels: per scale, fine to coarse; each scale halves the grid.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.multiple = 2 ** (len(channels) - 1)
        self.levels = nn.ModuleList(
            nn.Sequential(
                Conv3d(less, more, 3, stride=1 if index == 0 else 2, padding=1),
                ConvNormActivation(more, more),
                ConvNormActivation(more, more),
            )
            for index, (less, more) in enumerate(pairwise((2, *channels)))
        )
        self.heads = nn.ModuleList(DisplacementHead(count, std=1e-5) for count in channels)

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 8, 16 at least."""
        return next_multiple([max(side, 2 * self.multiple) for side in shape], self.multiple)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = f"sides that are multiples of {self.multiple}, at least {2 * self.multiple}"
        require_valid_images("FangFCN", moving, fixed, self.valid_shape, rule)
        features = torch.cat([moving, fixed], dim=1)
        predictions = []
        for level, head in zip(self.levels, self.heads, strict=True):
            features = level(features)
            predictions.append(head(features))
        pyramid: list[Displacement] = [predictions.pop()]
        while predictions:
            finer = predictions.pop()
            pyramid.append(finer + resize(pyramid[-1], finer.shape[2:]))
        return Registration(pyramid[-1], tuple(pyramid))
