"""Regional adaptive attention: which regions of the grid matter (AD-RegNet section III.B.3).

The grid is cut into cubes. A cube is described by its mean, the descriptions attend to each other,
and a softmax over all n cubes gives one weight w_i each. The printed sum F' = sum_i w_i R_i would
shrink the map to a single cube, while the text speaks of emphasising regions: so every cube returns
to its place, multiplied by n w_i, which is 1 on average.

    attention = RegionalAttention(64)
    found = attention(features, side=8)   # (B, 64, D, H, W)
    found.features, found.modulation      # (B, 64, D, H, W), (B, 1, D, H, W) in (0, 1]
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

HEADS = 4


class Regions(NamedTuple):
    """Weighted features.

    Attributes:
        features: F'(x) = n w(x) F(x), `(B, C, D, H, W)`.
        modulation: w(x) / max w, `(B, 1, D, H, W)`, the M of equation (15).
        weights: w, `(B, 1, d, h, w)`, one value per region, with sum 1.
    """

    features: Tensor
    modulation: Tensor
    weights: Tensor


class RegionalAttention(nn.Module):
    """One weight per cube of the grid, from self-attention among the means of the cubes.

    Args:
        channels: of the features, a multiple of the four heads.
    """

    def __init__(self, channels: int, heads: int = HEADS) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.score = nn.Linear(channels, 1)

    def forward(self, features: Tensor, side: int) -> Regions:
        """The features, each region by its gain.

        Args:
            features: `(B, C, D, H, W)`.
            side: of a cube, in voxels of this map. Cubes at the far faces may be cut; the mean is
                over the voxels that exist.
        """
        shape = features.shape[2:]
        # A map smaller than a cube is one region along that axis.
        kernel = [min(side, size) for size in shape]
        descriptors = F.avg_pool3d(features, kernel, ceil_mode=True)
        grid = descriptors.shape[2:]
        tokens = rearrange(descriptors, "b c d h w -> b (d h w) c")
        context, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        scores = self.score(context).squeeze(-1)
        weights = scores.to(self.score.weight.dtype).softmax(dim=1)
        gain = weights * weights.shape[1]
        relative = weights / weights.amax(dim=1, keepdim=True)
        gain, relative, weights = (
            values.view(-1, 1, *grid) for values in (gain, relative, weights)
        )
        gain = _enlarge(gain.to(features.dtype), side, shape)
        return Regions(gain * features, _enlarge(relative, side, shape), weights)


def _enlarge(values: Tensor, side: int, shape: Sequence[int]) -> Tensor:
    """Every value fills its cube, `(B, 1, d, h, w)` -> `(B, 1, *shape)`."""
    for dim, size in enumerate(shape, start=2):
        values = values.repeat_interleave(side, dim).narrow(dim, 0, size)
    return values
