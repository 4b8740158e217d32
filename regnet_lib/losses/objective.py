"""The training objective: a weighted sum that also returns its named parts.

LGANet++ equation (12): similarity(fixed, warped) + weight * regularity(displacement).

    objective = Objective()
    loss, parts = objective(registration.displacement, moving, fixed)
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from regnet_lib.losses.regularity import diffusion
from regnet_lib.losses.similarity import local_ncc, mse
from regnet_lib.spatial import warp
from regnet_lib.types import Displacement, Image


@dataclass(frozen=True)
class Objective:
    """What training minimises, as a value.

    Attributes:
        similarity: `local_ncc` (LGANet++ eq. 11) or `mse`.
        window_voxels: side of the local window.
        squared: squared local correlation, see `local_ncc`.
        diffusion_weight: lambda of LGANet++ eq. (12).
        zoomed: warp with the half-voxel zoom of the released LGANet training script.
    """

    similarity: Literal["local_ncc", "mse"] = "local_ncc"
    window_voxels: int = 9
    squared: bool = True
    diffusion_weight: float = 1.0
    zoomed: bool = False

    def __call__(
        self, displacement: Displacement, moving: Image, fixed: Image
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss to differentiate, and its detached parts by name (unweighted)."""
        warped = warp(moving, displacement, zoomed=self.zoomed)
        if self.similarity == "local_ncc":
            similarity = local_ncc(warped, fixed, self.window_voxels, self.squared)
        elif self.similarity == "mse":
            similarity = mse(warped, fixed)
        else:
            raise ValueError(
                f"Objective: expected similarity 'local_ncc' or 'mse', got {self.similarity!r}."
            )
        regularity = diffusion(displacement)
        loss = similarity + self.diffusion_weight * regularity
        parts = {self.similarity: similarity.detach(), "diffusion": regularity.detach()}
        return loss, {"loss": torch.as_tensor(loss).detach(), **parts}
