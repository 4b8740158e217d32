"""The shapes and the result that the whole library shares.

Arrays keep the axis order of the file they were read from. `dims` is `depth height width` in 3-D
and `height width` in 2-D: the spatial core is written for both. `#batch` admits a batch of one that
broadcasts; names bind across the arguments of one function, so `*out` marks another grid.

    image: Image            # (B, C, D, H, W)
    displacement: Displacement  # (B, 3, D, H, W), voxels, component i along array axis i
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float, Integer, Shaped
from torch import Tensor

Image = Float[Tensor, "#batch channel *dims"]
AnyImage = Shaped[Tensor, "#batch channel *dims"]
Labels = Integer[Tensor, "#batch 1 *dims"]
Displacement = Float[Tensor, "#batch axes *dims"]
Velocity = Float[Tensor, "#batch axes *dims"]
# Of a network's convolutions and attention; bfloat16 is autocast.
Precision = Literal["float32", "bfloat16"]
Coordinates = Float[Tensor, "#batch axes *out"]
Points = Float[Tensor, "points axes"]


@dataclass(frozen=True)
class Registration:
    """What every model returns.

    Attributes:
        displacement: `(B, 3, D, H, W)`, voxels of the fixed grid; warped(x) = moving(x + u(x)).
        pyramid: displacements of the coarser levels, coarse to fine, each in voxels of its own
            grid; empty for models without a pyramid. The last entry is `displacement`.
        extras: named by-products of a model (velocities, attention maps, ...).
    """

    displacement: Displacement
    pyramid: tuple[Float[Tensor, "#batch axes ..."], ...] = ()
    extras: dict[str, object] = field(default_factory=dict)
