"""Supervised lung registration: a U-Net that learns from random deformations of real scans.

After Eppenhof and Pluim, "Pulmonary CT registration through supervised learning with convolutional
neural networks", IEEE Transactions on Medical Imaging 38, 2019. No pair with a known field exists,
so training makes them: a scan is deformed by a random field, a composition of B-spline fields of
several grid spacings, and the network has to find that field.

Model card:

- repository: none;
- licence: none;
- compared by: AD-RegNet, Table I ("Eppenhof", cited there with another title);
- parameters: 1,359,587;
- sizes: sides that are multiples of 8;
- deviations: a family. Supervision by composed random B-splines and the squared error of the field
  are the article's, from memory; the widths of the U-Net, the grid spacings and the size of the
  random motion are ours.

    model = Eppenhof()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 8
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regnet_lib.losses import Objective
from regnet_lib.models.dlir import spline_displacement
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.unet import UNet
from regnet_lib.spatial import compose, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration


def random_displacement(
    image: Image,
    spacings: Sequence[int] = (16, 8),
    largest: Sequence[float] = (6.0, 2.0),
) -> Displacement:
    """A random smooth field for each image `(B, 1, *shape)`, in voxels.

    Args:
        spacings: voxels between the control points of the composed fields, even numbers.
        largest: bound of each field's control points, in voxels. A third of the spacing at most
            keeps a B-spline from folding (Choi and Lee, 2000: 0.40).
    """
    batch, _, *shape = image.shape
    field: Displacement | None = None
    for spacing, bound in zip(spacings, largest, strict=True):
        cells = [-(-side // spacing) for side in shape]
        points = bound * (2 * torch.rand(batch, 3, *cells, device=image.device) - 1)
        step = spline_displacement(points, spacing)
        step = step[(..., *[slice(side) for side in shape])]
        field = step if field is None else compose(field, step)
    return field


class Eppenhof(nn.Module):
    """Supervised U-Net, after Eppenhof and Pluim (2019).

    Args:
        encoder, decoder, full_resolution: channels, see `UNet`.
    """

    def __init__(
        self,
        encoder: tuple[int, ...] = (32, 64, 128),
        decoder: tuple[int, ...] = (128, 64, 32),
        full_resolution: tuple[int, ...] = (32, 32),
    ) -> None:
        super().__init__()
        self.multiple = 2 ** len(encoder)
        self.unet = UNet(2, encoder, decoder, full_resolution, pooled=True)
        self.head = DisplacementHead(full_resolution[-1], std=1e-5)

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 8."""
        return next_multiple(shape, self.multiple)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = f"sides that are multiples of {self.multiple}"
        require_valid_images("Eppenhof", moving, fixed, self.valid_shape, rule)
        return Registration(self.head(self.unet(torch.cat([moving, fixed], dim=1))))

    def training_loss(
        self, objective: Objective, moving: Image, fixed: Image
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the field, on the moving image and a random deformation of it.

        The objective and the fixed image of the pair play no part: training is supervised.
        """
        truth = random_displacement(moving)
        displacement = self(moving, warp(moving, truth)).displacement
        loss = (displacement - truth).square().mean()
        return loss, {"loss": loss.detach(), "squared_error": loss.detach()}
