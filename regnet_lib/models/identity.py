"""No registration at all: the row every table starts from.

A zero displacement, whatever the images. Model card:

- repository: none, this is ours;
- licence: none;
- compared by: every table of results, as the error before registration;
- parameters: none;
- sizes: all;
- deviations: none.

registration = Identity()(moving, fixed)   # displacement 0
"""

from collections.abc import Sequence

from torch import nn

from regnet_lib.models.sizes import require_valid_images
from regnet_lib.types import Image, Registration


class Identity(nn.Module):
    """No registration: zero displacement `(B, 3, D, H, W)`, no parameters, every size."""

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Every shape is valid."""
        return tuple(shape)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        require_valid_images("Identity", moving, fixed, self.valid_shape, "any size")
        batch, _, *shape = moving.shape
        return Registration(moving.new_zeros(batch, 3, *shape))
