"""Multi-resolution synthesis: one gate per level between two displacements (AD-RegNet III.B.4).

    W   = sigmoid(f([A, coarser])) M
    Phi = W candidate + (1 - W) coarser                                                     (eq. 15)

with the enlarged field of the coarser level and the one that this level proposes. Where W is high,
local detail enters; where it is low, the coarse field passes on.

    fusion = GatedFusion(64)
    displacement, gate = fusion(features, candidate, coarser, modulation)
"""

import torch
from torch import Tensor, nn

from regnet_lib.nn.blocks import ConvActivation, conv
from regnet_lib.types import Displacement

HIDDEN = 16


class GatedFusion(nn.Module):
    """Equation (15), with two convolutions as f: (C + 3) -> 16 -> 1.

    Args:
        channels: C of the features A.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(ConvActivation(channels + 3, HIDDEN), conv(HIDDEN, 1))

    def forward(
        self,
        features: Tensor,
        candidate: Displacement,
        coarser: Displacement,
        modulation: Tensor | None = None,
    ) -> tuple[Displacement, Tensor]:
        """The blended field and the gate W `(B, 1, D, H, W)`; all on one grid.

        Args:
            modulation: M in [0, 1]; 1 everywhere if None.
        """
        logits = self.weigh(torch.cat([features, coarser.to(features.dtype)], dim=1))
        gate = torch.sigmoid(logits.to(candidate.dtype))
        if modulation is not None:
            gate = gate * modulation
        return gate * candidate + (1 - gate) * coarser, gate
