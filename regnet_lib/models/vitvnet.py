"""ViT-V-Net: a vision transformer at the bottom of a V-Net.

Chen et al., "ViT-V-Net: vision transformer for unsupervised volumetric medical image registration",
arXiv 2104.06468, 2021, in the version of the TransMorph repository, the "ViT-V-Net" of the tables
of AD-RegNet (Table III) and TransMorph. Model card:

- repositories: junyuchen245/TransMorph_Transformer_for_Medical_Image_Registration, commit 6357a1d,
  `IXI/Baseline_Transformers/models/ViTVNet.py` (the version here), and
  junyuchen245/ViT-V-Net_for_3D_Image_Registration_Pytorch. The latter, as it is now, has LeakyReLU
  in place of ReLU;
- licence: MIT;
- compared by: AD-RegNet, Table III;
- parameters: 31,560,079 for images of 160x192x224, all of them used;
- sizes: sides that are multiples of 32. The learned code of 5x6x7 places belongs to 160x192x224;
  for other sizes it is resampled linearly, which the official code cannot;
- output: a displacement in voxels at full resolution, near 0 at the start. The integration that the
  first version declares is switched off in its forward pass;
- deviations: none in the result at the size that the network was built for;
- training as published (IXI): as TransMorph. Batch normalisation with batches of one pair: what is
  learned in training mode is not quite what evaluation mode computes.

    model = ViTVNet()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, for example 160x192x224
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import conv
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.skip_decoder import ConvNorm, SkipUp
from regnet_lib.nn.transformer import Perceptron
from regnet_lib.spatial import resample
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Image, Registration

Tokens = Float[Tensor, "batch tokens features"]

# Channels at 1/1, 1/2 and 1/4 of the size.
ENCODER = (16, 32, 32)
# Channels at 1/16 to 1/1 of the size.
DECODER = (96, 48, 32, 32, 16)


class SelfAttention(nn.Module):
    """Multi-head attention of every token to every token, `(B, N, C)` -> `(B, N, C)`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.projection = nn.Linear(channels, channels)

    def forward(self, tokens: Tokens) -> Tokens:
        query, key, value = (
            rearrange(layer(tokens), "b n (h f) -> b h n f", h=self.heads)
            for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.projection(rearrange(attended, "b h n f -> b n (h f)"))


class TransformerBlock(nn.Module):
    """y = t + attention(LN(t)); result = y + MLP(LN(y)) (Dosovitskiy et al., ICLR 2021)."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=1e-6)
        self.attention = SelfAttention(channels, heads)
        self.perceptron_norm = nn.LayerNorm(channels, eps=1e-6)
        self.perceptron = Perceptron(channels, hidden, dropout)
        for layer in (self.perceptron[0], self.perceptron[3]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, tokens: Tokens) -> Tokens:
        tokens = tokens + self.attention(self.attention_norm(tokens))
        return tokens + self.perceptron(self.perceptron_norm(tokens))


class PatchTokens(nn.Module):
    """Patches of a feature map as tokens, plus a learned code per place, `(B, C, ...)` -> tokens.

    Args:
        patch: side of a patch in voxels of the map.
        grid: patches along each axis for which the code is stored; other grids resample it.
    """

    def __init__(
        self, inputs: int, channels: int, patch: int, grid: tuple[int, ...], dropout: float
    ) -> None:
        super().__init__()
        self.grid = grid
        self.projection = nn.Conv3d(inputs, channels, patch, stride=patch)
        self.code = nn.Parameter(torch.zeros(1, prod(grid), channels))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> tuple[Tokens, torch.Size]:
        """Tokens, and the shape of the grid that they come from."""
        patches = self.projection(features)
        shape = patches.shape[2:]
        depth, height, width = self.grid
        code = self.code
        if tuple(shape) != self.grid:
            code = rearrange(code, "1 (d h w) c -> 1 c d h w", d=depth, h=height, w=width)
            code = rearrange(resample(code, shape), "1 c d h w -> 1 (d h w) c")
        return self.dropout(rearrange(patches, "b c d h w -> b (d h w) c") + code), shape


class ViTVNet(nn.Module):
    """ViT-V-Net (Chen et al., 2021): twelve transformer blocks at the bottom of a V-Net.

    Args:
        shape: of the images for which positions are stored; other valid shapes resample them.
        encoder: channels at 1/1, 1/2 and 1/4 of the size.
        patch: side of a patch in voxels of the 1/4 map.
        channels: of a token.
        blocks, heads: of the transformer.
        hidden: features inside its MLPs.
        entry: channels of the first convolution behind the transformer.
        decoder: channels after each doubling of the grid.
        dropout: of embedded patches and inside the MLPs, in training.
    """

    official_keys = KeyMap(
        renames=(
            (r"^transformer\.embeddings\.hybrid_model\.inc\.double_conv\.", "encoder.0."),
            (
                r"^transformer\.embeddings\.hybrid_model\.down(\d)\.maxpool_conv\.1\.double_conv\.",
                r"encoder.\1.",
            ),
            (r"^transformer\.embeddings\.patch_embeddings\.", "embed.projection."),
            (r"^transformer\.embeddings\.position_embeddings$", "embed.code"),
            (r"^transformer\.encoder\.layer\.", "transformer."),
            (r"^transformer\.encoder\.encoder_norm\.", "norm."),
            (r"\.ffn_norm\.", ".perceptron_norm."),
            (r"\.ffn\.fc1\.", ".perceptron.0."),
            (r"\.ffn\.fc2\.", ".perceptron.3."),
            (r"\.attn\.out\.", ".attention.projection."),
            (r"\.attn\.", ".attention."),
            (r"^decoder\.conv_more\.", "entry."),
            (r"^decoder\.blocks\.(\d)\.conv1\.", r"decoder.\1.0."),
            (r"^decoder\.blocks\.(\d)\.conv2\.", r"decoder.\1.1."),
            (r"^reg_head\.0\.", "head."),
        ),
    )

    def __init__(
        self,
        shape: tuple[int, int, int] = (160, 192, 224),
        *,
        encoder: tuple[int, int, int] = ENCODER,
        patch: int = 8,
        channels: int = 252,
        blocks: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        entry: int = 512,
        decoder: tuple[int, ...] = DECODER,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.multiple = 4 * patch
        if 2 ** len(decoder) != self.multiple or self.valid_shape(shape) != tuple(shape):
            raise ValueError(
                f"ViTVNet: expected log2(4 patch) decoder channels and a shape of multiples of "
                f"4 patch = {self.multiple}, got {len(decoder)} and {tuple(shape)}."
            )
        self.encoder = nn.ModuleList(
            nn.Sequential(conv(less, more), nn.ReLU(), conv(more, more), nn.ReLU())
            for less, more in pairwise((2, *encoder))
        )
        grid = tuple(side // self.multiple for side in shape)
        self.embed = PatchTokens(encoder[-1], channels, patch, grid, dropout)
        self.transformer = nn.ModuleList(
            TransformerBlock(channels, heads, hidden, dropout) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.entry = ConvNorm(channels, entry, batch_norm=True)
        skips = [encoder[-1]] * (len(decoder) - len(encoder)) + list(encoder[::-1])
        self.decoder = nn.ModuleList(
            SkipUp(less, skip, more, batch_norm=True)
            for (less, more), skip in zip(pairwise((entry, *decoder)), skips, strict=True)
        )
        self.head = DisplacementHead(decoder[-1], std=1e-5)

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 32 (4 patches)."""
        return next_multiple(shape, self.multiple)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        """Register `(B, 1, D, H, W)` images.

        Raises:
            ValueError: images of other shapes, or sides that `valid_shape` would change.
            TypeError: images of an integer type.
        """
        rule = f"sides that are multiples of {self.multiple}"
        require_valid_images("ViTVNet", moving, fixed, self.valid_shape, rule)
        features = torch.cat([moving, fixed], dim=1)
        skips: list[Tensor] = []
        for level in self.encoder:
            skips.append(level(F.max_pool3d(skips[-1], 2) if skips else features))
        tokens, grid = self.embed(skips[-1])
        for block in self.transformer:
            tokens = block(tokens)
        depth, height, width = grid
        features = rearrange(
            self.norm(tokens), "b (d h w) c -> b c d h w", d=depth, h=height, w=width
        )
        features = self.entry(features)
        # Below 1/4 of the size a skip connection is the pooled 1/4 map.
        while len(skips) < len(self.decoder):
            skips.append(F.max_pool3d(skips[-1], 2))
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            features = up(features, skip)
        return Registration(self.head(features))
