"""DLIR: a chain of small networks that predict B-spline control points, coarse to fine.

After de Vos et al., "A deep learning framework for unsupervised affine and deformable image
registration", Medical Image Analysis 52, 2019. Each stage sees the fixed image and the moving image
as warped so far, averages its features down to one vector per control point, and predicts the
point's displacement; cubic B-splines carry it to all voxels. Stages are composed.

Model card:

- repository: none by the authors of the article; BDdeVos/TorchIR is the first author's later
  rewrite;
- licence: MIT (TorchIR);
- compared by: AD-RegNet, Table I ("De Vos", cited there with another title);
- parameters: 114,691 per stage of 32 channels, 344,073 for the three stages;
- sizes: sides that are multiples of the coarsest grid, 16 voxels, and at least twice that;
- deviations: the affine network in front is left out (lung pairs come pre-aligned), the grids 16,
  8, 4 are TorchIR's examples, and the article's 32 channels are from memory. All stages are
  trained together here; the article trains one after the other (`stages=1` trains the first).

    model = DLIR()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import conv
from regnet_lib.spatial import compose, warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration


def cubic_b_spline(spacing: int) -> Tensor:
    """The cubic B-spline at the voxels of its support, `(4 spacing,)`.

    A control point lies at the centre of its cell of `spacing` voxels. The values of all points
    that reach a voxel add up to 1.
    """
    distance = ((torch.arange(4 * spacing) + 0.5) / spacing - 2).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def spline_displacement(
    points: Float[Tensor, "#batch 3 *cells"], spacing: int
) -> Float[Tensor, "#batch 3 *voxels"]:
    """Displacement of all voxels from control points `(B, 3, *cells)`, `(B, 3, *shape)`.

    One axis after the other, as the spline is a product of three. Points beyond the outermost are
    copies of them, so a constant stays a constant.
    """
    spline = cubic_b_spline(spacing).to(points)
    points = F.pad(points, [2] * 6, mode="replicate")
    for axis in range(3):
        moved = points.movedim(2 + axis, -1)
        flat = moved.reshape(-1, 1, moved.shape[-1])
        # A cell's spline reaches 1.5 cells beyond it: crop these and the two copied cells.
        values = F.conv_transpose1d(flat, spline.view(1, 1, -1), stride=spacing)
        margin = 2 * spacing + 3 * spacing // 2
        values = values[..., margin : values.shape[-1] - margin]
        points = values.reshape(*moved.shape[:-1], -1).movedim(-1, 2 + axis)
    return points


class Stage(nn.Module):
    """Control points on a grid of `spacing` voxels, a power of two from 2 to 32.

    Five 3x3x3 convolutions, the first log2(spacing) of them followed by average pooling, then two
    1x1x1 convolutions; ELU throughout. The last layer starts at zero, and so does the displacement.
    """

    def __init__(self, spacing: int, channels: int = 32) -> None:
        super().__init__()
        self.spacing = spacing
        self.poolings = spacing.bit_length() - 1
        self.convolutions = nn.ModuleList(
            conv(2 if i == 0 else channels, channels) for i in range(5)
        )
        self.dense = nn.Sequential(
            conv(channels, channels, kernel=1),
            nn.ELU(),
            conv(channels, channels, kernel=1),
            nn.ELU(),
        )
        self.head = conv(channels, 3, kernel=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, warped: Image, fixed: Image) -> Displacement:
        features = torch.cat([fixed, warped], dim=1)
        for index, layer in enumerate(self.convolutions):
            features = F.elu(layer(features))
            if index < self.poolings:
                features = F.avg_pool3d(features, 2)
        features = self.dense(features)
        with torch.autocast(features.device.type, enabled=False):
            points = self.head(features.to(self.head.weight.dtype))
        return spline_displacement(points, self.spacing)


class DLIR(nn.Module):
    """DLIR, deformable stages (de Vos et al., 2019). The pyramid holds the field after each stage.

    Args:
        spacings: voxels between control points, per stage.
        channels: of every convolution.
        stages: how many of the stages to run; all of them if None.
    """

    def __init__(
        self,
        spacings: tuple[int, ...] = (16, 8, 4),
        channels: int = 32,
        stages: int | None = None,
    ) -> None:
        super().__init__()
        for spacing in spacings:
            if spacing not in (2, 4, 8, 16, 32):
                raise ValueError(f"DLIR: expected spacings of 2, 4, 8, 16 or 32, got {spacings}.")
        self.coarsest = max(spacings)
        self.stages = nn.ModuleList(Stage(spacing, channels) for spacing in spacings[:stages])

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large that holds whole cells, two at least."""
        return next_multiple([max(side, 2 * self.coarsest) for side in shape], self.coarsest)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = f"sides that are multiples of {self.coarsest}, at least {2 * self.coarsest}"
        require_valid_images("DLIR", moving, fixed, self.valid_shape, rule)
        pyramid: list[Displacement] = []
        warped = moving
        for stage in self.stages:
            displacement = stage(warped, fixed)
            if pyramid:
                displacement = compose(pyramid[-1], displacement)
            pyramid.append(displacement)
            warped = warp(moving, displacement)
        return Registration(pyramid[-1], tuple(pyramid))
