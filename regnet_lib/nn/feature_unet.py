"""A 3-D U-Net that gives feature maps at five scales (AD-RegNet section III.B.1).

Two images pass it in one batch, so that they share its weights. Every level of the encoder has two
3x3x3 convolution blocks and a strided 2x2x2 convolution behind them; the decoder mirrors this with
transposed convolutions and concatenated skips. D_4 = E_4: at the bottom there is nothing to decode.

    unet = FeatureUNet((32, 64, 128, 256, 512))
    features = unet(image)   # (B, 1, D, H, W) -> five maps (B, C_l, D / 2^l, ...), fine to coarse
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from regnet_lib.nn.blocks import checkpointed, conv

SLOPE = 0.2


class ConvPair(nn.Sequential):
    """Twice: 3x3x3 convolution, instance normalisation with learned scale and shift, LeakyReLU.

    The paper says "Conv blocks" alone; its batches of one image pair rule batch normalisation out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for less in (inputs, outputs):
            layers += [
                conv(less, outputs),
                nn.InstanceNorm3d(outputs, affine=True),
                # In place: the backward pass needs the sign alone, and the result has it too.
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
        super().__init__(*layers)


class FeatureUNet(nn.Module):
    """Encoder and decoder features of one image (equations 4 to 7, with E_0 = Encoder_0(image)).

    Args:
        channels: per level, fine to coarse; every level halves the grid.
        dropout: share of the channels of D_l that are set to 0 in training.
        checkpointing: compute activations again in the backward pass instead of keeping them.
    """

    def __init__(
        self, channels: Sequence[int], dropout: float = 0.0, checkpointing: bool = False
    ) -> None:
        super().__init__()
        steps = list(pairwise(channels))
        self.encoder = nn.ModuleList(
            ConvPair(less, more) for less, more in zip((1, *channels[1:]), channels, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv3d(less, more, 2, stride=2) for less, more in steps)
        self.up = nn.ModuleList(nn.ConvTranspose3d(more, less, 2, stride=2) for less, more in steps)
        self.decoder = nn.ModuleList(ConvPair(2 * less, less) for less, _ in steps)
        self.dropout = nn.Dropout3d(dropout)
        self.checkpointing = checkpointing

    def forward(self, image: Tensor) -> list[Tensor]:
        """D_0 to D_4."""
        skips: list[Tensor] = []
        for level in range(len(self.encoder)):
            finer = skips[-1] if skips else image
            skips.append(checkpointed(self.checkpointing, self._encode, level, finer))
        features = [self.dropout(skips[-1])]
        for level in reversed(range(len(self.decoder))):
            features.append(
                checkpointed(self.checkpointing, self._decode, level, features[-1], skips[level])
            )
        return features[::-1]

    def _encode(self, level: int, finer: Tensor) -> Tensor:
        return self.encoder[level](finer if level == 0 else self.down[level - 1](finer))

    def _decode(self, level: int, coarser: Tensor, skip: Tensor) -> Tensor:
        joint = torch.cat([self.up[level](coarser), skip], dim=1)
        return self.dropout(self.decoder[level](joint))
