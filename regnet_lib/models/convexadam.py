"""ConvexAdam: a coarse search over all displacements, then gradient descent on the same features.

Siebert, Grossbroehmer, Hansen, Heinrich, "ConvexAdam: self-configuring dual-optimisation-based 3D
multitask medical image registration", IEEE TMI 2024; the coupled convex search is that of Heinrich
et al., MICCAI 2014. Model card:

- repository: multimodallearning/convexAdam, the package `convexAdam` 0.2.0, which returns the field
  with its components last and defaults to half precision;
- licence: Apache-2.0;
- compared by: neither of the two papers of this book; a strong reference without training;
- parameters: none, and nothing is random;
- sizes: at least three cells along each axis: 18 voxels with the default settings;
- deviations: voxels are counted from centre to centre (the package samples with
  `align_corners=False`), cells keep their size where it does not divide the image, and all is
  computed in float32. Descriptor, matching cost and search equal the package's to rounding. On
  LPBA40 subject S02 at 2 mm the whole fields differ by 0.06 to 0.08 voxels (median in the head)
  with the three presets, and the Dice scores by at most 0.2 points;
- result: `results/lganetpp.table2.convexadam.2mm`, on the nine test subjects of LPBA40 at 2 mm.

    registration = create_model("convexadam")(moving, fixed)   # (B, 1, D, H, W) twice
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.losses import diffusion
from regnet_lib.losses.multimodal import mind_ssc_descriptor
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.control_points import interpolate, make_consistent
from regnet_lib.spatial import warp
from regnet_lib.types import Displacement, Image, Registration


@dataclass(frozen=True)
class Settings:
    """What the task decides.

    Attributes:
        spacing: side of a cell of the search in voxels, and the distance of its displacements.
        reach: displacements tried on each side of zero, along each axis: (2 reach + 1)^3 in all.
        smoothness: weight of the diffusion penalty, the paper's lambda.
        iterations: steps of Adam.
        refined_spacing: side of a cell of the gradient descent in voxels.
    """

    spacing: int = 6
    reach: int = 4
    smoothness: float = 1.25
    iterations: int = 80
    refined_spacing: int = 2


PRESETS = {
    "default": Settings(),
    "brain": Settings(spacing=2, reach=2, smoothness=1.6),
    "lung": Settings(spacing=4, reach=6, smoothness=0.65),
}
# Coupling of the search to its smoothed answer, from nearly free to nearly fixed.
COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
CONSISTENCY_ITERATIONS = 15
MIND_RADIUS, MIND_DILATION, MIND_CHANNELS = 1, 2, 12


class ConvexAdam(nn.Module):
    """ConvexAdam (Siebert et al., 2024) with MIND-SSC features.

    Runs on the device of the images.

    Cost: `default` tries 729 displacements for each cell of 6^3 voxels and descends 80 steps on
    3 unknowns per 2^3 voxels. Measured at 72x88x72: 5 s on one CPU core, with less than 0.65 GB for
    the whole process.

    Args:
        preset: `default` of the package, `brain` (of the MIR repository for IXI at 1 mm), `lung`.
        settings: settings of your own instead of a preset.
    """

    def __init__(
        self,
        preset: Literal["default", "brain", "lung"] = "default",
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"ConvexAdam: expected preset in {sorted(PRESETS)}, got {preset!r}.")
        self.settings = PRESETS[preset] if settings is None else settings

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large with three cells along each axis."""
        smallest = 3 * max(self.settings.spacing, self.settings.refined_spacing)
        return tuple(max(side, smallest) for side in shape)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "at least three cells along each axis"
        require_valid_images("ConvexAdam", moving, fixed, self.valid_shape, rule)
        pairs = zip(moving.detach().float().split(1), fixed.detach().float().split(1), strict=True)
        displacements = [self._register(*pair) for pair in pairs]
        return Registration(torch.cat(displacements))

    def _register(self, moving: Image, fixed: Image) -> Displacement:
        with torch.no_grad():
            features = [
                mind_ssc_descriptor(image, MIND_RADIUS, MIND_DILATION) for image in (moving, fixed)
            ]
            displacement = self._search(*features)
        with torch.enable_grad():
            return self._descend(*features, displacement)

    def _search(self, moving: Tensor, fixed: Tensor) -> Displacement:
        """Consistent coarse displacement `(1, 3, D, H, W)` of features `(1, 12, D, H, W)`."""
        spacing, reach = self.settings.spacing, self.settings.reach
        moving_cells, fixed_cells = F.avg_pool3d(moving, spacing), F.avg_pool3d(fixed, spacing)
        forward = coupled_convex(matching_cost(moving_cells, fixed_cells, reach))
        backward = coupled_convex(matching_cost(fixed_cells, moving_cells, reach))
        forward, _ = make_consistent(forward, backward, CONSISTENCY_ITERATIONS)
        return interpolate(spacing * forward, fixed.shape[2:], spacing)

    def _descend(self, moving: Tensor, fixed: Tensor, initial: Displacement) -> Displacement:
        """Adam on the displacement of smaller cells, with the same features."""
        spacing, shape = self.settings.refined_spacing, fixed.shape[2:]
        moving, fixed = F.avg_pool3d(moving, spacing), F.avg_pool3d(fixed, spacing)
        parameters = (F.avg_pool3d(initial, spacing) / spacing).requires_grad_()
        optimiser = torch.optim.Adam([parameters], lr=1.0)
        displacement = parameters
        for _ in range(self.settings.iterations):
            displacement = _smoothed(parameters, 3)
            similarity = MIND_CHANNELS * F.mse_loss(warp(moving, displacement), fixed)
            # the paper's penalty adds the three axes, `diffusion` averages them
            loss = similarity + self.settings.smoothness * 3 * diffusion(displacement)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return interpolate(spacing * displacement.detach(), shape, spacing)


def matching_cost(
    moving: Float[Tensor, "1 channel *cells"], fixed: Float[Tensor, "1 channel *cells"], reach: int
) -> Float[Tensor, "side side side *cells"]:
    """Squared distance of features for each displacement of a cube, smoothed over the cells.

    Displacements are whole cells, -reach to reach along each axis; outside the grid features are 0.
    """
    padded = F.pad(moving, [reach] * 6)
    side, shape = 2 * reach + 1, fixed.shape[2:]
    cost = fixed.new_empty(side**3, *shape)
    for start, result in zip(product(range(side), repeat=3), cost, strict=True):
        window = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
        result[:] = (padded[0, :, *window] - fixed[0]).square().sum(0)
    return _smoothed(cost[None], 2).view(side, side, side, *shape)


def coupled_convex(cost: Float[Tensor, "side side side *cells"]) -> Displacement:
    """Smooth displacement `(1, 3, *cells)`, in cells, of low matching cost.

    Alternates between the best displacement of each cell near the smooth one, and the smooth one of
    the best, with a coupling that grows until both agree.
    """
    side, shape = cost.shape[0], cost.shape[3:]
    axis = torch.arange(side, dtype=cost.dtype, device=cost.device) - side // 2
    candidates = torch.cartesian_prod(axis, axis, axis)  # (displacements, 3)
    cost = cost.flatten(3).flatten(0, 2)  # (displacements, cells)
    smooth = None
    for coupling in (0.0, *COUPLING):
        total = cost
        if smooth is not None:
            total = cost + coupling * torch.cdist(candidates, smooth.flatten(2)[0].T).square()
        best = candidates[total.argmin(0)].T.reshape(1, 3, *shape)
        smooth = _smoothed(best, 1)
    return smooth


def _smoothed(volumes: Tensor, times: int) -> Tensor:
    """Means over 3^3 voxels, taken `times` times; outside is 0."""
    for _ in range(times):
        volumes = F.avg_pool3d(volumes, 3, stride=1, padding=1)
    return volumes
