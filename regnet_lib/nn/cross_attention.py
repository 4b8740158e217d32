"""Bidirectional cross-attention between two images (AD-RegNet section III.B.2).

    A_MF = softmax(Q_M K_F^T / sqrt(d)) V_F      a voxel of M asks the voxels of F   (eq. 10)
    A_FM = softmax(Q_F K_M^T / sqrt(d)) V_M      and the reverse                     (eq. 11)
    A    = alpha A_MF + (1 - alpha) A_FM                                             (eq. 12)

One score per pair of voxels would fill 172 TiB for images of 160x192x224 voxels. At fine levels a
voxel therefore asks the voxels of one cube, or means over cubes, and `scaled_dot_product_attention`
keeps no scores at all: memory grows with the number of voxels, not with its square.

    attention = BidirectionalCrossAttention(64, window=4)
    found = attention(moving, fixed)   # (B, 64, D, H, W) twice
    found.features                     # (B, 64, D, H, W)
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regnet_lib.nn.attention import join_windows, split_windows
from regnet_lib.spatial import identity_grid

Present = Bool[Tensor, "groups keys"]

LEAST_KEY_FEATURES = 16
# Soft at first: untrained features are poor descriptions, and a sharp choice among them is wrong.
RELATIVE_GAIN = 0.7
# The kernels that keep no score matrix want features in multiples of 8.
ALIGNMENT = 8
# Scores that `attention_entropy` holds at once.
SCORES_AT_ONCE = 2**24


class Correspondence(NamedTuple):
    """What attention finds.

    Attributes:
        features: A, `(B, C, D, H, W)`.
        offset: where on average the fixed voxels look, minus where they are (`relative`: minus
            where they look in the fixed image): `(B, 3, D, H, W)` in voxels of this level,
            float32; None without coordinates.
        entropy: of the weights in equation (11), in nats, `(B, 1, D, H, W)`; None unless asked for.
    """

    features: Tensor
    offset: Tensor | None = None
    entropy: Tensor | None = None


def cross_attend(
    query: Float[Tensor, "groups queries narrow"],
    key: Float[Tensor, "groups keys narrow"],
    value: Float[Tensor, "groups keys features"],
    present: Present | None = None,
    rows: int = 1,
) -> Float[Tensor, "groups queries features"]:
    """softmax(query key^T / sqrt(narrow)) value, in each group by itself.

    Args:
        present: keys that may be looked at, at least one per group; all of them if None.
        rows: a divisor of the number of groups. CUDA kernels take at most 65,535 groups along one
            axis; groups laid out as rows x columns reach the square of that.
    """
    scale, features = query.shape[-1] ** -0.5, value.shape[-1]
    width = -(-max(features, query.shape[-1]) // ALIGNMENT) * ALIGNMENT
    # The same kernels want equally wide q, k and v; zeros add nothing to the scores.
    padded = [_widened(tokens, width) for tokens in (query, key, value)]
    laid_out = [tokens.unflatten(0, (rows, -1)) for tokens in padded]
    mask = None if present is None else present.unflatten(0, (rows, -1)).unsqueeze(2)
    attended = F.scaled_dot_product_attention(*laid_out, attn_mask=mask, scale=scale)
    return attended.flatten(0, 1)[..., :features]


def _widened(tokens: Tensor, width: int) -> Tensor:
    """With zeros up to that many features; `F.pad` would copy tokens that have them already."""
    missing = width - tokens.shape[-1]
    return F.pad(tokens, (0, missing)) if missing else tokens


@torch.no_grad()
def attention_entropy(
    query: Float[Tensor, "groups queries narrow"],
    key: Float[Tensor, "groups keys narrow"],
    present: Present | None = None,
) -> Float[Tensor, "groups queries"]:
    """Entropy of the attention weights in nats: 0 for one key, log(keys) for all of them alike.

    Weights are computed for some queries at a time, in float32.
    """
    groups, queries = query.shape[:2]
    keys = key.shape[1]
    entropy = query.new_empty(groups, queries, dtype=torch.float32)
    many_queries = max(SCORES_AT_ONCE // keys, 1)
    many_groups = max(many_queries // queries, 1)
    for group in range(0, groups, many_groups):
        chosen = slice(group, group + many_groups)
        keys_here = key[chosen].float().transpose(1, 2)
        for first in range(0, queries, many_queries):
            part = slice(first, first + many_queries)
            scores = query[chosen, part].float() @ keys_here * query.shape[-1] ** -0.5
            if present is not None:
                scores = scores.masked_fill(~present[chosen, None], -torch.inf)
            logarithms = scores.log_softmax(-1)
            products = logarithms.exp() * logarithms.nan_to_num(neginf=0.0)
            entropy[chosen, part] = -products.sum(-1)
    return entropy


class Projections(nn.Module):
    """Queries, keys and values of one image (equation 8 or 9), linear without biases.

    Queries and keys have d = max(C / 2, 16) features, values C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(channels // 2, LEAST_KEY_FEATURES)
        self.query = nn.Linear(channels, narrow, bias=False)
        self.key = nn.Linear(channels, narrow, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)


class BidirectionalCrossAttention(nn.Module):
    """Both directions between a moving and a fixed feature map; 4 C^2 + 1 parameters (C >= 32).

    Equation (12) adds a map on the moving grid, A_MF, and one on the fixed grid, A_FM, voxel by
    voxel. A displacement for a pull-back lives on the fixed grid, so that only A_FM says where its
    voxels have to look.

    Args:
        channels: C of each map.
        window: a voxel asks the voxels of one cube of this side, the same cube in both images, cut
            from the first corner on; None: all voxels.
        pooling: keys and values are means over cubes of this side. Not together with a window.
        coordinates: values also carry their position. Attention alone returns content, and what it
            found does not say where; the mean position does (a "soft argmax"). Attention then runs
            in float32 also under autocast.
        relative: with coordinates: count the mean position from the one that the same query, with
            the same keys, finds in the fixed image itself. A soft mean drifts to the middle of what
            may be seen; both drift alike, and equal images have no offset at all. Together with
            this, all four projections to queries and keys start as the same orthogonal map, so that
            scores compare features from the first step on.
    """

    def __init__(
        self,
        channels: int,
        window: int | None = None,
        pooling: int = 1,
        coordinates: bool = False,
        relative: bool = False,
    ) -> None:
        super().__init__()
        if window is not None and pooling > 1:
            raise ValueError(
                "BidirectionalCrossAttention: expected a window or pooling, got "
                f"window={window} and pooling={pooling}."
            )
        self.moving = Projections(channels)
        self.fixed = Projections(channels)
        self.balance = nn.Parameter(torch.zeros(()))  # alpha = sigmoid(balance)
        self.window = window
        self.pooling = pooling
        self.coordinates = coordinates
        self.relative = relative
        if relative:
            self._start_alike()

    @torch.no_grad()
    def _start_alike(self) -> None:
        shared = self.moving.query.weight
        nn.init.orthogonal_(shared, gain=RELATIVE_GAIN)
        for projections in (self.moving, self.fixed):
            projections.query.weight.copy_(shared)
            projections.key.weight.copy_(shared)

    def forward(self, moving: Tensor, fixed: Tensor, entropy: bool = False) -> Correspondence:
        """A, and on request the entropy of what the fixed voxels look at."""
        if not self.coordinates:
            return self._correspond(moving, fixed, entropy)
        with torch.autocast(fixed.device.type, enabled=False):
            dtype = self.balance.dtype
            return self._correspond(moving.to(dtype), fixed.to(dtype), entropy)

    def _correspond(self, moving: Tensor, fixed: Tensor, entropy: bool) -> Correspondence:
        batch, channels, *shape = fixed.shape
        query_moving, key_moving, value_moving, present = self._project(self.moving, moving)
        query_fixed, key_fixed, value_fixed, _ = self._project(self.fixed, fixed)
        if self.coordinates:
            grid = identity_grid(shape, dtype=fixed.dtype, device=fixed.device)
            grid = grid.expand(batch, -1, -1, -1, -1)
            places = self._sources(grid)[0]
            value_moving = torch.cat([value_moving, places], dim=-1)
        rows = batch if self.window is None else batch * -(-shape[0] // self.window)
        to_fixed = cross_attend(query_moving, key_fixed, value_fixed, present, rows)
        to_moving = cross_attend(query_fixed, key_moving, value_moving, present, rows)
        alpha = torch.sigmoid(self.balance)
        tokens = alpha * to_fixed + (1 - alpha) * to_moving[..., :channels]
        offset = spread = None
        if self.coordinates:
            own = self._tokens(grid)[0]
            if self.relative:
                key = self.moving.key(self._sources(fixed)[0])
                own = cross_attend(query_fixed, key, places, present, rows)
            offset = self._grid(to_moving[..., channels:] - own, shape)
        if entropy:
            spread = attention_entropy(query_fixed, key_moving, present)
            spread = self._grid(spread.unsqueeze(-1), shape)
        return Correspondence(self._grid(tokens, shape), offset, spread)

    def _project(
        self, projections: Projections, features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values as `(groups, tokens, ...)`, and which keys are voxels."""
        tokens, present = self._tokens(features)
        sources = tokens if self.pooling == 1 else self._sources(features)[0]
        query, key = projections.query(tokens), projections.key(sources)
        return query, key, projections.value(sources), present

    def _sources(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens that are looked at."""
        if self.pooling > 1:
            features = F.avg_pool3d(features, self.pooling, ceil_mode=True)
        return self._tokens(features)

    def _tokens(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """`(B, C, D, H, W)` -> `(groups, tokens, C)`: a group is a window, or the whole image."""
        if self.window is None:
            return rearrange(features, "b c d h w -> b (d h w) c"), None
        return split_windows(rearrange(features, "b c d h w -> b d h w c"), self.window)

    def _grid(self, tokens: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of `_tokens`."""
        if self.window is None:
            depth, height, width = shape
            return rearrange(tokens, "b (d h w) c -> b c d h w", d=depth, h=height, w=width)
        voxels = join_windows(tokens, shape, self.window)
        return rearrange(voxels, "b d h w c -> b c d h w")


class JointFeatures(nn.Conv3d):
    """What stands in for cross-attention without it (Table V): a 1x1x1 convolution of both maps."""

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels, kernel_size=1)

    def forward(self, moving: Tensor, fixed: Tensor, entropy: bool = False) -> Correspondence:
        return Correspondence(super().forward(torch.cat([moving, fixed], dim=1)))
