"""mlVIRNET: one U-Net per level of an image pyramid, each starting from the coarser field.

After Hering, van Ginneken and Heldmann, "mlVIRNET: multilevel variational image registration
network", MICCAI 2019. Large motion is found on small images, detail is added on larger ones; the
levels are trained one after the other, each with the weights of the coarser one as its start.

Model card:

- repository: none;
- licence: none;
- compared by: AD-RegNet, Table I ("Hering", cited there with a title that could not be found);
- parameters: 655,209 for three levels;
- sizes: sides that are multiples of 32;
- deviations: a family. Pyramid, one U-Net per level and the start from the coarser field are the
  article's, from memory; the widths are those of VoxelMorph-2 without its last layers. The
  article's loss has an edge distance (NGF), a curvature term and the overlap of lung masks.

    model = MLVIRNet()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 32
"""

from collections.abc import Sequence

from torch import nn

from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.scales import over_scales
from regnet_lib.nn.unet import UNet
from regnet_lib.spatial import resize
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Image, Registration


class LevelNetwork(nn.Sequential):
    """U-Net with three halvings, images of one level to the displacement that is still missing."""

    def __init__(self) -> None:
        unet = UNet(2, (16, 32, 32), (32, 32, 32), (32, 16, 16))
        super().__init__(unet, DisplacementHead(16, std=1e-5))


class MLVIRNet(nn.Module):
    """Multilevel registration, after Hering et al. (2019).

    Args:
        levels: U-Nets in total; level 1 works at the full size, each further one at half of it.
        trained_levels: how many to run, coarsest first; fewer than `levels` train the coarse ones
            before the fine ones exist.
    """

    def __init__(self, levels: int = 3, trained_levels: int | None = None) -> None:
        super().__init__()
        trained = levels if trained_levels is None else trained_levels
        if not 1 <= trained <= levels:
            raise ValueError(
                f"MLVIRNet: expected 1 to {levels} trained levels, got {trained_levels!r}."
            )
        self.factors = tuple(2**level for level in reversed(range(levels)))
        self.networks = nn.ModuleList(LevelNetwork() for _ in range(trained))

    def start_finer_levels(self, level: int) -> None:
        """Copy the weights of level `level` (0 is the coarsest) to the next finer one."""
        self.networks[level + 1].load_state_dict(self.networks[level].state_dict())

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides fit all levels."""
        return next_multiple(shape, 8 * self.factors[0])

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = f"sides that are multiples of {8 * self.factors[0]}"
        require_valid_images("MLVIRNet", moving, fixed, self.valid_shape, rule)
        pyramid = over_scales(self.networks, self.factors, moving, fixed)
        displacement = pyramid[-1]
        if displacement.shape[2:] != moving.shape[2:]:  # finer levels are not there yet
            displacement = resize(displacement, moving.shape[2:])
        return Registration(displacement, tuple(pyramid))
