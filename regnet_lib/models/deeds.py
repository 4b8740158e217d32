"""deeds: dense displacement sampling, solved on a minimum spanning tree.

Heinrich, Jenkinson, Brady, Schnabel, "MRF-based deformable registration and ventilation estimation
of lung CT", IEEE TMI 2013, with the MIND-SSC descriptor of Heinrich et al., MICCAI 2013. No
training and no gradient: for each cell of a grid, every displacement of a dense set is tried, and
dynamic programming on a tree finds the best combination of all cells at once. Model card:

- repository: mattiaspaul/deedsBCV, a program in C++;
- licence: MIT;
- compared by: AD-RegNet, Table III, with the preset `ixi`;
- parameters: none, and nothing is random;
- sizes: at least two of the largest cells along each axis: 12 voxels with the preset `ixi`;
- deviations: control points sit in the centres of their cells, where the program puts them at the
  first voxel, half a cell off (0.6 points of Dice on one pair of LPBA40 at 2 mm); the noise
  estimate of MIND-SSC has the bounds of `mind_ssc_descriptor`, and its windows continue the border
  where the program's shrink; edges of equal cost enter the tree in the order of the cells. Not
  compared with the program's output: only the steps are tested, each against its definition;
- result: `results/lganetpp.table2.deeds.2mm`, on the nine test subjects of LPBA40 at 2 mm.

    registration = create_model("deeds")(moving, fixed)   # (B, 1, D, H, W) twice
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.losses.multimodal import mind_ssc_descriptor
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.control_points import interpolate, make_consistent
from regnet_lib.nn.spanning_tree import best_displacements, spanning_tree
from regnet_lib.spatial import warp
from regnet_lib.types import Displacement, Image, Registration


@dataclass(frozen=True)
class Level:
    """One level of the search.

    Attributes:
        spacing: side of a cell in voxels.
        reach: displacements tried on each side of zero, along each axis: (2 reach + 1)^3 in all.
        step: distance between them in voxels.
    """

    spacing: int
    reach: int
    step: int


PRESETS = {
    "default": (Level(8, 8, 5), Level(7, 7, 4), Level(6, 6, 3), Level(5, 5, 2), Level(4, 4, 1)),
    "ixi": (Level(6, 6, 5), Level(5, 5, 4), Level(4, 4, 3), Level(3, 3, 2), Level(2, 2, 1)),
}
CONSISTENCY_ITERATIONS = 10


class Deeds(nn.Module):
    """deeds (Heinrich et al., 2013), with the settings that TransMorph and AD-RegNet compared with.

    Dense sampling, MIND-SSC in 60 bits, minimum spanning tree with exact belief propagation, both
    directions made consistent, five levels.

    Cost: for each pair and direction the preset `ixi` compares 0.98 billion 60-bit codes at
    72x88x72 voxels, in proportion to the voxels. Measured there: 12 s on one CPU core and 0.65 GB
    for the whole process. The largest table of costs at 160x192x224 is 0.43 GB, held twice.
    It runs on the CPU wherever the images are.

    Args:
        preset: `ixi`, the settings of the TransMorph repository on IXI at 1 mm (finest cells of 2
            voxels), or `default`, those of the program (finest cells of 4 voxels).
        levels: settings of your own, coarse to fine, instead of a preset.
        alpha: weight of the smoothness of the displacement against the data.
    """

    def __init__(
        self,
        preset: Literal["default", "ixi"] = "ixi",
        levels: Sequence[Level] | None = None,
        alpha: float = 1.6,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"Deeds: expected preset in {sorted(PRESETS)}, got {preset!r}.")
        self.levels = PRESETS[preset] if levels is None else tuple(levels)
        self.alpha = alpha

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large with two of the largest cells along each axis."""
        smallest = 2 * max(level.spacing for level in self.levels)
        return tuple(max(side, smallest) for side in shape)

    @torch.no_grad()
    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "at least two of the largest cells along each axis"
        require_valid_images("Deeds", moving, fixed, self.valid_shape, rule)
        pairs = zip(moving.float().cpu().split(1), fixed.float().cpu().split(1), strict=True)
        displacements = [self._register(*pair) for pair in pairs]
        return Registration(torch.cat(displacements).to(moving.device))

    def _register(self, moving: Image, fixed: Image) -> Displacement:
        shape = fixed.shape[2:]
        forward = backward = fixed.new_zeros(1, 3, *shape)
        for level in self.levels:
            found = (
                self._search(fixed, warp(moving, forward, padding="border"), forward, level),
                self._search(moving, warp(fixed, backward, padding="border"), backward, level),
            )
            cells = [displacement / level.spacing for displacement in found]
            cells = make_consistent(*cells, CONSISTENCY_ITERATIONS)
            forward, backward = (
                interpolate(level.spacing * displacement, shape, level.spacing)
                for displacement in cells
            )
        return forward

    def _search(
        self, reference: Image, warped: Image, displacement: Displacement, level: Level
    ) -> Float[Tensor, "#batch axes *cells"]:
        """Best displacement of each cell, on top of the one that `warped` has been warped with."""
        cost = data_cost(quantised_mind(reference, level), quantised_mind(warped, level), level)
        cost *= 0.5 * level.spacing / (self.alpha * level.step)
        tree = spanning_tree(reference, level.spacing)
        before = F.avg_pool3d(displacement, level.spacing)  # (1, 3, *cells)
        start = before.flatten(2)[0].T / level.step  # (1, 3, *cells) -> (cells, 3)
        added = best_displacements(cost, start, tree)
        return before + level.step * added.T.reshape(before.shape)


def quantised_mind(image: Image, level: Level) -> np.ndarray:
    """MIND-SSC of `(1, 1, D, H, W)` in 60 bits per voxel, `(D, H, W)`.

    Each of the 12 channels is rounded to six levels, written as 0 to 5 set bits: the number of bits
    in which two voxels differ is then the sum of absolute differences of their levels. Patch and
    dilation grow with the step of the search.
    """
    radius = level.step // 2 + 1
    levels = (6 * mind_ssc_descriptor(image, radius, radius) - 0.5).floor().clamp(0, 5)
    code = torch.zeros(image.shape[2:], dtype=torch.int64)
    for unary in ((1 << levels[0].long()) - 1).unbind():
        code = (code << 5) | unary
    return code.numpy().view(np.uint64)


def data_cost(
    reference: np.ndarray, warped: np.ndarray, level: Level
) -> Float[Tensor, "displacements cells"]:
    """Mean number of differing bits of each cell for each displacement.

    Args:
        reference, warped: codes `(D, H, W)`; `warped` is the one that is displaced, and its border
            voxels continue outside.

    Cells of more than 4 voxels are sampled at every second voxel along the first two axes.
    """
    spacing, every = level.spacing, 2 if level.spacing > 4 else 1
    cells = [side // spacing for side in reference.shape]
    margin = level.reach * level.step
    padded = np.pad(warped, margin, mode="edge")

    def samples(codes: np.ndarray, start: Sequence[int]) -> np.ndarray:
        window = codes[tuple(slice(s, s + n * spacing) for s, n in zip(start, cells, strict=True))]
        window = window.reshape(cells[0], spacing, cells[1], spacing, cells[2] * spacing)
        return window[:, ::every, :, ::every]

    of_reference = np.ascontiguousarray(samples(reference, (0, 0, 0)))
    differing = np.empty_like(of_reference)
    bits = torch.empty(of_reference.shape)
    per_cell = (of_reference.shape[1], of_reference.shape[3], spacing)
    offsets = range(0, 2 * margin + 1, level.step)
    cost = torch.empty(len(offsets) ** 3, *cells)
    for start, result in zip(product(offsets, repeat=3), cost, strict=True):
        np.bitwise_xor(of_reference, samples(padded, start), out=differing)
        np.bitwise_count(differing, out=bits.numpy())
        image = bits.flatten(2, 3).flatten(0, 1)  # (cells, samples) x 2 -> (D', H', W)
        result[:] = F.avg_pool3d(image[None, None], per_cell)[0, 0]
    return cost.flatten(1)
