"""Attention over voxels: position attention, and the local-global block of LGANet++ section 2.3.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(l)) V                                    (equation 4)

`torch.nn.functional.scaled_dot_product_attention` computes it without keeping the N x N map, which
is 203 MB per evaluation for the 18x22x18 grid of an LPBA40 brain.

What the released code calls a token is not a voxel: it reads the channel-first array as a sequence
of C consecutive values, so that a token is a run of neighbouring voxels of one channel, and writes
feature j of token n to channel j of voxel n. `consecutive_tokens` and `tokens_to_channels` are
these two readings; networks trained so have learned to live with them. `VoxelBlock` is the block
that the paper describes: a token is a voxel, a local volume is a cube of neighbours.

    block = LocalGlobalBlock(64)   # as released; VoxelBlock(64) as described
    features = block(features)     # (B, 64, D, H, W) -> (B, 64, D, H, W)
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regnet_lib.nn.blocks import checkpointed, conv

Tokens = Float[Tensor, "batch tokens features"]

# Sides of a local window, in voxels of the coarsest level (LGANet++ code; its paper: h x w x d).
WINDOW_VOXELS = 6


def attend(
    query: Float[Tensor, "batch tokens narrow"],
    key: Float[Tensor, "batch tokens narrow"],
    value: Float[Tensor, "batch tokens features"],
    scale: float,
    dropout: float = 0.0,
    present: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, "batch tokens features"]:
    """softmax(query key^T scale) value; values may have more features than queries and keys.

    Args:
        present: tokens that may be attended to, at least one per batch item; all of them if None.
    """
    missing = value.shape[-1] - query.shape[-1]
    if missing:
        # The kernels that avoid the N x N map want equally wide q, k and v; zeros add nothing.
        query, key = F.pad(query, (0, missing)), F.pad(key, (0, missing))
    value = value.contiguous()
    # They also want a head axis.
    attended = F.scaled_dot_product_attention(
        query.unsqueeze(1),
        key.unsqueeze(1),
        value.unsqueeze(1),
        attn_mask=None if present is None else present[:, None, None],  # (B, N) -> (B, 1, 1, N)
        dropout_p=dropout,
        scale=scale,
    )
    return attended.squeeze(1)


def consecutive_tokens(features: Tensor) -> Tokens:
    """Runs of C values of the channel-first array, `(B, C, D, H, W)` -> `(B, N, C)`."""
    width = features.shape[1]
    values = rearrange(features, "b c d h w -> b (c d h w)")
    return rearrange(values, "b (n f) -> b n f", f=width)


def tokens_to_channels(tokens: Tokens, shape: Sequence[int]) -> Tensor:
    """Feature j of token n becomes channel j of voxel n, `(B, N, C)` -> `(B, C, D, H, W)`."""
    depth, height, width = shape
    return rearrange(tokens, "b (d h w) f -> b f d h w", d=depth, h=height, w=width)


def local_groups(shape: Sequence[int]) -> int:
    """Number of groups of the released local attention: how many whole 6x6x6 windows fit."""
    return prod(side // WINDOW_VOXELS for side in shape)


@lru_cache(maxsize=256)
def grid_with_whole_groups(least: tuple[int, ...]) -> tuple[int, ...]:
    """The grid with the fewest voxels, at least `least`, that splits into its local groups.

    Sides below a window are raised to it. Multiples of the window always fit, which bounds the
    search.
    """
    least = tuple(max(side, WINDOW_VOXELS) for side in least)
    bound = prod(-(-side // WINDOW_VOXELS) * WINDOW_VOXELS for side in least)
    ranges = [range(side, bound // (prod(least) // side) + 1) for side in least]
    fitting = (grid for grid in product(*ranges) if prod(grid) % local_groups(grid) == 0)
    return min(fitting, key=lambda grid: (prod(grid), grid))


class PositionAttention(nn.Module):
    """Attention between all voxels with a learned share (LGANet++ equation 8, without its ResNet).

    result = x + gamma * attention(x). Gamma starts at 0, so queries, keys and values get no
    gradient in the very first step.

    Args:
        reduction: queries and keys have channels / reduction features.
        scaled: divide by sqrt(l) as equation (8) prints; the released code does not.
    """

    def __init__(self, channels: int, reduction: int = 8, scaled: bool = False) -> None:
        super().__init__()
        self.query = conv(channels, channels // reduction, kernel=1)
        self.key = conv(channels, channels // reduction, kernel=1)
        self.value = conv(channels, channels, kernel=1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.scale = (channels // reduction) ** -0.5 if scaled else 1.0

    def forward(self, features: Tensor) -> Tensor:
        query, key, value = (
            rearrange(layer(features), "b c d h w -> b (d h w) c")
            for layer in (self.query, self.key, self.value)
        )
        attended = attend(query, key, value, self.scale)
        return features + self.gamma * tokens_to_channels(attended, features.shape[2:])


class TokenAttention(nn.Module):
    """Equation (4) on tokens `(B, N, C)`, without biases.

    Args:
        heads: only sets the scale, (C / heads)^-0.5. The released network declares 8 heads and
            attends with one over all 64 features.
        dropout: of attention weights, in training.
    """

    def __init__(self, channels: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.scale = (channels / heads) ** -0.5
        self.dropout = dropout

    def forward(
        self, tokens: Tokens, present: Bool[Tensor, "batch tokens"] | None = None
    ) -> Tokens:
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        dropout = self.dropout if self.training else 0.0
        # The CPU's kernel knows no dropout; what takes its place keeps the N x N map.
        whole_map = dropout > 0 and tokens.device.type == "cpu"
        return checkpointed(whole_map, attend, query, key, value, self.scale, dropout, present)


class GlobalAttention(nn.Module):
    """Every token attends to every token; the projection has a bottleneck of C / 8 features."""

    def __init__(self, channels: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = TokenAttention(channels, heads, dropout)
        self.projection = nn.Sequential(
            nn.Linear(channels, channels // 8),
            nn.ReLU(),
            nn.Linear(channels // 8, channels),
            nn.Dropout(dropout),
        )

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.projection(self.attention(consecutive_tokens(features)))
        return tokens_to_channels(tokens, features.shape[2:])


class LocalAttention(nn.Module):
    """Tokens attend within groups of N / G consecutive tokens.

    The number of groups G is that of the 6x6x6 windows in the grid, but a group is not a window: at
    18x22x18 its 264 tokens hold two channels and a bit of the complete volume.
    """

    def __init__(self, channels: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = TokenAttention(channels, heads, dropout)
        self.projection = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        shape = features.shape[2:]
        batch, groups = features.shape[0], local_groups(shape)
        tokens = rearrange(consecutive_tokens(features), "b (g n) f -> (b g) n f", g=groups)
        tokens = rearrange(self.attention(tokens), "(b g) n f -> b (g n) f", b=batch)
        return tokens_to_channels(self.projection(tokens), shape)


class LocalGlobalBlock(nn.Module):
    """Global, then local attention, twice with the same weights (LGANet++ Fig. 2a, as released).

    Each step is y = x + FFN(attention(LN(x))); one layer normalisation and one feed-forward network
    of 1x1x1 convolutions serve all four.
    """

    def __init__(self, channels: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.global_attention = GlobalAttention(channels, heads, dropout)
        self.local_attention = LocalAttention(channels, heads, dropout)
        self.feed_forward = nn.Sequential(
            conv(channels, 4 * channels, kernel=1),
            nn.ReLU(),
            conv(4 * channels, channels, kernel=1),
            nn.Dropout(dropout),
        )

    def forward(self, features: Tensor) -> Tensor:
        for attention in (self.global_attention, self.local_attention) * 2:
            normalised = self.norm(rearrange(features, "b c d h w -> b d h w c"))
            normalised = rearrange(normalised, "b d h w c -> b c d h w")
            features = features + self.feed_forward(attention(normalised))
        return features


def split_windows(
    voxels: Float[Tensor, "batch depth height width features"], window: int
) -> tuple[Float[Tensor, "windows tokens features"], Bool[Tensor, "windows tokens"] | None]:
    """Cut a grid into cubes of neighbours, `(B, D, H, W, C)` -> `(B m, window^3, C)`.

    Sides that are no multiple of the window get zeros at their end.

    Returns:
        The tokens of the m windows, and which of them are voxels of the grid, `(B m, window^3)`;
        None where all are.
    """
    batch, *shape, _ = voxels.shape
    missing = [-side % window for side in shape]
    cut = "b (d x) (h y) (w z) c -> (b d h w) (x y z) c"
    sides = dict.fromkeys("xyz", window)
    if not any(missing):
        return rearrange(voxels, cut, **sides), None
    # F.pad counts from the last axis, which holds the features.
    padding = [0, 0, *(width for extra in reversed(missing) for width in (0, extra))]
    inside = F.pad(voxels.new_ones(batch, *shape, 1, dtype=torch.bool), padding)
    tokens = rearrange(F.pad(voxels, padding), cut, **sides)
    return tokens, rearrange(inside, cut, **sides).squeeze(-1)


def join_windows(
    tokens: Float[Tensor, "windows tokens features"], shape: Sequence[int], window: int
) -> Float[Tensor, "batch depth height width features"]:
    """The inverse of `split_windows`: back to the grid of the given shape, without the padding."""
    depth, height, width = shape
    counts = {name: -(-side // window) for name, side in zip("dhw", shape, strict=True)}
    voxels = rearrange(
        tokens,
        "(b d h w) (x y z) c -> b (d x) (h y) (w z) c",
        **counts,
        **dict.fromkeys("xyz", window),
    )
    return voxels[:, :depth, :height, :width]


class VoxelAttention(nn.Module):
    """Attention among voxels `(B, D, H, W, C)`, as LGANet++ section 2.3 words it.

    Args:
        window: voxels attend within cubes of this side, cut from the first corner on: 6^3 keys per
            voxel however large the grid is. None lets every voxel attend to every other.
    """

    def __init__(
        self, channels: int, window: int | None = None, heads: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.attention = TokenAttention(channels, heads, dropout)
        self.window = window

    def forward(
        self, voxels: Float[Tensor, "batch depth height width features"]
    ) -> Float[Tensor, "batch depth height width features"]:
        batch, *shape, features = voxels.shape
        if self.window is None:
            return self.attention(voxels.reshape(batch, -1, features)).view(voxels.shape)
        tokens, present = split_windows(voxels, self.window)
        return join_windows(self.attention(tokens, present), shape, self.window)


class VoxelStep(nn.Module):
    """y = x + attention(LN(x)); result = y + MLP(LN(y)), on voxels `(B, D, H, W, C)`.

    The MLP has two layers and 4 C hidden features.
    """

    def __init__(
        self, channels: int, window: int | None = None, heads: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.LayerNorm(channels),
            VoxelAttention(channels, window, heads, dropout),
            nn.Dropout(dropout),
        )
        self.perceptron = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.ReLU(),
            nn.Linear(4 * channels, channels),
            nn.Dropout(dropout),
        )

    def forward(
        self, voxels: Float[Tensor, "batch depth height width features"]
    ) -> Float[Tensor, "batch depth height width features"]:
        voxels = voxels + self.attention(voxels)
        return voxels + self.perceptron(voxels)


class VoxelBlock(nn.Module):
    """Global, then local attention between voxels (LGANet++ section 2.3 as described).

    Equation (4) has no projection behind the attention, and with a single head one would only
    repeat that of the values. The two steps share no weights. The paper names an MLP after the
    global attention; the local one has its own here, as in a transformer.
    """

    def __init__(
        self, channels: int, window: int = WINDOW_VOXELS, heads: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.global_step = VoxelStep(channels, None, heads, dropout)
        self.local_step = VoxelStep(channels, window, heads, dropout)

    def forward(self, features: Tensor) -> Tensor:
        voxels = rearrange(features, "b c d h w -> b d h w c")
        return rearrange(self.local_step(self.global_step(voxels)), "b d h w c -> b c d h w")
