"""MJ-CNN: three networks at three scales, trained apart and then jointly.

After Jiang et al., "A multi-scale framework with unsupervised joint training of convolutional
neural networks for pulmonary deformable image registration", Physics in Medicine and Biology 65,
2020. Networks at 1/4, 1/2 and full resolution refine each other's field; first each one is trained
on its own scale, then all of them together.

Model card:

- repository: none;
- licence: none;
- compared by: AD-RegNet, Table I ("Jiang", cited there with a title that could not be found);
- parameters: 345,225;
- sizes: sides that are multiples of 4, at least 8;
- deviations: a family. Scales, joint training and the warp between scales are the article's; the
  layers of each network are ours (five 3x3x3 convolutions, 32 channels), because the abstract does
  not give them.

    model = MJCNN()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 4
"""

from collections.abc import Sequence

from torch import nn

from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import ConvNormActivation
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.scales import over_scales
from regnet_lib.spatial import resize
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Image, Registration


class ScaleNetwork(nn.Sequential):
    """Images of one scale, moving before fixed, to the displacement that is still missing."""

    def __init__(self, channels: int, layers: int) -> None:
        blocks = [
            ConvNormActivation(2 if index == 0 else channels, channels) for index in range(layers)
        ]
        super().__init__(*blocks, DisplacementHead(channels, std=1e-5))


class MJCNN(nn.Module):
    """Multi-scale joint training, after Jiang et al. (2020).

    Args:
        channels, layers: of each of the three networks.
        scales: how many of the three to run, coarsest first: 1 and 2 train the coarser ones alone,
            3 all of them jointly.
    """

    def __init__(self, channels: int = 32, layers: int = 5, scales: int = 3) -> None:
        super().__init__()
        if scales not in (1, 2, 3):
            raise ValueError(f"MJCNN: expected 1, 2 or 3 scales, got {scales!r}.")
        self.networks = nn.ModuleList(ScaleNetwork(channels, layers) for _ in range(scales))

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 4, at least 8."""
        return next_multiple([max(side, 8) for side in shape], 4)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "sides that are multiples of 4, at least 8"
        require_valid_images("MJCNN", moving, fixed, self.valid_shape, rule)
        pyramid = over_scales(self.networks, (4, 2, 1), moving, fixed)
        shape = moving.shape[2:]
        displacement = pyramid[-1]
        if displacement.shape[2:] != shape:  # the finest network was left out
            displacement = resize(displacement, shape)
        return Registration(displacement, tuple(pyramid))
