"""Swin transformer in 3-D: attention within shifted windows, and an encoder made of it.

Liu et al., "Swin transformer: hierarchical vision transformer using shifted windows", ICCV 2021.
Every voxel attends to the voxels of its own window; every second block cuts the windows half a
window further on, so that neighbouring windows exchange what they know. Patch merging halves the
grid between stages. TransMorph and nnFormer share `SwinEncoder`, PIViT has only the block. Maps are
channel-last here, `(B, D, H, W, C)`.

    block = SwinBlock(96, heads=4, window=(5, 6, 7), shifted=True)
    voxels = block(voxels)                                # (B, D, H, W, 96), any size
    features = SwinEncoder(2, 96, (2, 2, 4, 2), (4, 4, 8, 8), (5, 6, 7))(images)   # fine to coarse
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Integer
from torch import Tensor, nn

Window = tuple[int, int, int]
Voxels = Float[Tensor, "batch depth height width features"]
Tokens = Float[Tensor, "windows tokens features"]
Regions = Integer[Tensor, "places tokens"]

# Added to a score instead of minus infinity, as published: exp(-100) is 0 beside any other score.
SEPARATION = -100.0

# Eight corners of a 2x2x2 patch, in the order in which the published code stacks them.
CORNERS = (
    *((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
    *((1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)),
)

# Official names of everything below, for `KeyMap.renames`.
SWIN_RENAMES = (
    (r"\.patch_embed\.proj\.", ".embed.projection."),
    (r"\.patch_embed\.norm\.", ".embed.norm."),
    (r"\.layers\.", ".stages."),
    (r"\.(\d+)\.norm1\.", r".\1.attention_norm."),
    (r"\.(\d+)\.norm2\.", r".\1.perceptron_norm."),
    (r"\.attn\.relative_position_bias_table", ".attention.bias_table"),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"\.attn\.proj\.", ".attention.projection."),
    (r"\.mlp\.fc1\.", ".perceptron.0."),
    (r"\.mlp\.fc2\.", ".perceptron.3."),
    (r"\.downsample\.", ".merge."),
    (r"\.norm(\d)\.", r".norms.\1."),
)
# Index tables that follow from the window.
SWIN_DERIVED = (r".+\.relative_position_index",)


class Perceptron(nn.Sequential):
    """Two linear layers with GELU in between, `(..., C)` -> `(..., C)`.

    Args:
        hidden: features in between.
        dropout: behind both layers, in training.
    """

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Linear(channels, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, channels),
            nn.Dropout(dropout),
        )


class StochasticDepth(nn.Module):
    """In training, leave out a residual branch for whole samples (Huang et al., ECCV 2016).

    Kept branches are divided by the share that is kept, so that the mean stays.

    Args:
        rate: share of samples without the branch.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Voxels) -> Voxels:
        if not self.training or self.rate == 0:
            return branch
        kept = branch.new_empty(branch.shape[0], 1, 1, 1, 1).bernoulli_(1 - self.rate)
        return branch * kept / (1 - self.rate)


def relative_index(
    window: Window, strides: tuple[int, int] | None = None
) -> Integer[Tensor, "tokens tokens"]:
    """Row of the bias table for each pair (query, key) of a window.

    The offset between the two lies in -(w - 1) ... w - 1 along an axis of w voxels; the rows count
    through all offsets, the last axis fastest.

    Args:
        strides: rows per step along the first two axes; None: those that give each offset its own.
    """
    _, height, width = window
    slow, fast = strides or ((2 * height - 1) * (2 * width - 1), 2 * width - 1)
    axes = torch.meshgrid(*(torch.arange(side) for side in window), indexing="ij")
    z, y, x = (
        axis.flatten()[:, None] - axis.flatten() + side - 1
        for axis, side in zip(axes, window, strict=True)
    )
    return slow * z + fast * y + x


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of a window, with a learned bias per offset.

    softmax(Q K^T / sqrt(l) + B) V, l = C / heads; B has one value per head and offset between two
    tokens of the window, (2 d - 1) (2 h - 1) (2 w - 1) of them (Liu et al., equation 4).

    Args:
        window: sides `(d, h, w)` in voxels.
        qkv_bias: queries, keys and values have biases.
        positions: add B; without it tokens do not know where they are.
        index: row of B's table for each pair of tokens, `(N, N)` of the window.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: Window,
        qkv_bias: bool = False,
        positions: bool = True,
        index: Callable[[Window], Tensor] = relative_index,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.projection = nn.Linear(channels, channels)
        self.bias_table = None
        if positions:
            offsets = prod(2 * side - 1 for side in window)
            self.bias_table = nn.Parameter(torch.empty(offsets, heads))
            nn.init.trunc_normal_(self.bias_table, std=0.02)
            self.register_buffer("bias_index", index(window), persistent=False)

    def forward(self, tokens: Tokens, regions: Regions | None = None) -> Tokens:
        """Attention within each of the windows, `(B m, N, C)` -> `(B m, N, C)`.

        Args:
            tokens: m windows per batch item. Fewer tokens than the window has take the first rows
                of the index table, as published for windows that are larger than the map.
            regions: `(m, N)`; tokens of different regions do not see each other.
        """
        query, key, value = rearrange(
            self.qkv(tokens), "m n (three h f) -> three m h n f", three=3, h=self.heads
        )
        bias = self._bias(tokens.shape[1], regions)
        if bias is not None:
            bias = repeat(
                bias.to(query.dtype), "m h q k -> (b m) h q k", b=len(tokens) // len(bias)
            )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.projection(rearrange(attended, "m h n f -> m n (h f)"))

    def _bias(self, count: int, regions: Regions | None) -> Tensor | None:
        """What is added to the scores, `(1 or m, 1 or heads, N, N)`."""
        bias = None
        if self.bias_table is not None:
            index = self.bias_index[:count, :count]
            bias = rearrange(self.bias_table[index], "q k h -> 1 h q k")
        if regions is not None:
            apart = rearrange(regions, "m q -> m 1 q 1") != rearrange(regions, "m k -> m 1 1 k")
            separation = SEPARATION * apart.to(self.projection.weight.dtype)
            bias = separation if bias is None else bias + separation
        return bias


def shifted_regions(
    shape: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device
) -> Regions:
    """Which of up to eight regions each voxel of a cyclically shifted map comes from, by window.

    The last `shift` planes of an axis have wrapped around from its beginning: in the last window
    they stand beside voxels that are no neighbours of theirs.
    """
    d, h, w = (
        (torch.arange(side, device=device) >= side - step).long()
        for side, step in zip(shape, shift, strict=True)
    )
    region = 4 * d[:, None, None] + 2 * h[:, None] + w
    x, y, z = window
    return rearrange(region, "(d x) (h y) (w z) -> (d h w) (x y z)", x=x, y=y, z=z)


class SwinBlock(nn.Module):
    """y = v + attention(LN(v)); result = y + MLP(LN(y)), attention within windows.

    Maps of any size: zeros fill up the last windows. They are attended to, as published.

    Args:
        window: sides `(d, h, w)` in voxels.
        shifted: cut the windows half a window further on, for every second block.
        clipped: a window that is not smaller than the map becomes the map along that axis, and is
            not shifted there (PIViT).
        expansion: hidden features of the MLP per channel.
        depth_rate: see `StochasticDepth`.
        qkv_bias, positions: see `WindowAttention`.
    """

    index = staticmethod(relative_index)

    def __init__(
        self,
        channels: int,
        heads: int,
        window: Window,
        shifted: bool = False,
        *,
        qkv_bias: bool = False,
        positions: bool = True,
        clipped: bool = False,
        expansion: int = 4,
        depth_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.window, self.shifted, self.clipped = window, shifted, clipped
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, qkv_bias, positions, self.index)
        self.perceptron_norm = nn.LayerNorm(channels)
        self.perceptron = Perceptron(channels, expansion * channels)
        self.stochastic_depth = StochasticDepth(depth_rate)

    def forward(self, voxels: Voxels) -> Voxels:
        attended = self.attend_in_windows(self.attention_norm(voxels))
        voxels = voxels + self.stochastic_depth(attended)
        perceived = self.perceptron(self.perceptron_norm(voxels))
        return voxels + self.stochastic_depth(perceived)

    def attend_in_windows(self, voxels: Voxels) -> Voxels:
        """Pad, shift, cut into windows, attend, and all the way back."""
        _, depth, height, width, _ = voxels.shape
        window, shift = self._window_and_shift((depth, height, width))
        missing = [-side % step for side, step in zip((depth, height, width), window, strict=True)]
        # F.pad counts from the last axis, which holds the features.
        voxels = F.pad(voxels, [0, 0, *(n for extra in missing[::-1] for n in (0, extra))])
        padded = voxels.shape[1:4]
        regions = None
        if any(shift):
            voxels = voxels.roll([-step for step in shift], dims=(1, 2, 3))
            regions = shifted_regions(padded, window, shift, voxels.device)
        x, y, z = window
        cut = "b (d x) (h y) (w z) c -> (b d h w) (x y z) c"
        tokens = self.attention(rearrange(voxels, cut, x=x, y=y, z=z), regions)
        return self.join(tokens, padded, window, shift)[:, :depth, :height, :width]

    def join(
        self, tokens: Tokens, shape: Sequence[int], window: Window, shift: Sequence[int]
    ) -> Voxels:
        """Put the windows together to a map of the given shape, and undo the shift."""
        d, h, w = (side // step for side, step in zip(shape, window, strict=True))
        x, y, z = window
        back = "(b d h w) (x y z) c -> b (d x) (h y) (w z) c"
        voxels = rearrange(tokens, back, d=d, h=h, w=w, x=x, y=y, z=z)
        return voxels.roll(list(shift), dims=(1, 2, 3)) if any(shift) else voxels

    def _window_and_shift(self, shape: tuple[int, int, int]) -> tuple[Window, Window]:
        """Sides of the windows, and by how much they are shifted, on a map of this shape."""
        window, shift = self.window, tuple(side // 2 for side in self.window)
        if self.clipped:
            axes = list(zip(shape, window, shift, strict=True))
            shift = tuple(0 if size <= side else step for size, side, step in axes)
            window = tuple(min(size, side) for size, side, _ in axes)
        return window, shift if self.shifted else (0, 0, 0)


class PatchEmbedding(nn.Module):
    """One token per patch of `patch` voxels a side, `(B, C, D, H, W)` -> `(B, D', H', W', C')`."""

    def __init__(self, inputs: int, channels: int, patch: int) -> None:
        super().__init__()
        self.projection = nn.Conv3d(inputs, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Voxels:
        return self.norm(rearrange(self.projection(images), "b c d h w -> b d h w c"))


class PatchMerging(nn.Module):
    """Eight neighbours become one voxel of twice the channels; the map needs even sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * channels)
        self.reduction = nn.Linear(8 * channels, 2 * channels, bias=False)

    def forward(
        self, voxels: Voxels
    ) -> Float[Tensor, "batch half_depth half_height half_width twice_features"]:
        corners = [voxels[:, d::2, h::2, w::2] for d, h, w in CORNERS]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


def depth_rates(largest: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth rising linearly from 0 over all blocks, listed by stage."""
    steps = max(sum(depths) - 1, 1)
    rates = [largest * number / steps for number in range(sum(depths))]
    ends = list(accumulate(depths))
    return [rates[end - depth : end] for end, depth in zip(ends, depths, strict=True)]


def swin_blocks(
    channels: int,
    heads: int,
    window: Window,
    rates: Sequence[float],
    block: type[SwinBlock] = SwinBlock,
    *,
    qkv_bias: bool = False,
    positions: bool = True,
) -> nn.ModuleList:
    """Blocks at one scale, every second one shifted; one per rate of stochastic depth."""
    return nn.ModuleList(
        block(
            *(channels, heads, window, number % 2 == 1),
            qkv_bias=qkv_bias,
            positions=positions,
            depth_rate=rate,
        )
        for number, rate in enumerate(rates)
    )


class SwinStage(nn.Module):
    """Blocks at one scale, and the merging that leads to the next one (None at the last)."""

    def __init__(self, blocks: nn.ModuleList, merge: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = blocks
        self.merge = merge

    def forward(self, voxels: Voxels) -> Voxels:
        for block in self.blocks:
            voxels = block(voxels)
        return voxels


class SwinEncoder(nn.Module):
    """Patches of 4 voxels a side, then stages of Swin blocks with twice the channels each.

    Args:
        inputs: channels of the images.
        channels: of the first stage.
        depths, heads: blocks, and their attention heads, per stage.
        window: sides of the windows, the same at all stages.
        depth_rate: stochastic depth of the last block; it rises linearly from 0.
        position: added knowledge of the absolute position, a map of voxels to voxels.
        skips: return the maps of all stages; False returns only the coarsest.
        block: another block of the same signature.
        qkv_bias, positions: see `WindowAttention`.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: Window,
        depth_rate: float = 0.0,
        *,
        qkv_bias: bool = False,
        positions: bool = True,
        position: nn.Module | None = None,
        skips: bool = True,
        block: type[SwinBlock] = SwinBlock,
    ) -> None:
        super().__init__()
        last = len(depths) - 1
        self.embed = PatchEmbedding(inputs, channels, patch=4)
        self.position = position
        self.stages = nn.ModuleList()
        rates = depth_rates(depth_rate, depths)
        for stage, (count, rate) in enumerate(zip(heads, rates, strict=True)):
            width = channels * 2**stage
            blocks = swin_blocks(
                *(width, count, window, rate, block), qkv_bias=qkv_bias, positions=positions
            )
            self.stages.append(SwinStage(blocks, PatchMerging(width) if stage < last else None))
        returned = range(len(depths)) if skips else (last,)
        self.norms = nn.ModuleDict({str(i): nn.LayerNorm(channels * 2**i) for i in returned})

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps `(B, C, D, H, W)`, fine to coarse: 1/4, 1/8, 1/16 and 1/32 of the images' size."""
        voxels = self.embed(images)
        if self.position is not None:
            voxels = self.position(voxels)
        features = []
        for number, stage in enumerate(self.stages):
            voxels = stage(voxels)
            if str(number) in self.norms:
                normalised = self.norms[str(number)](voxels)
                features.append(rearrange(normalised, "b d h w c -> b c d h w"))
            if stage.merge is not None:
                voxels = stage.merge(voxels)
        return features
