"""Scaling and squaring: from a stationary velocity to a displacement.

LGANet++ equations (6) and (7): start from v / 2^t and compose the field with itself t times. The
error falls as 2^-t until the interpolation error takes over.

    displacement = integrate(velocity, steps=7)   # (B, 3, D, H, W) -> (B, 3, D, H, W)
"""

from regnet_lib.spatial.checks import require_displacement
from regnet_lib.spatial.compose import compose
from regnet_lib.spatial.grid import Padding
from regnet_lib.types import Displacement, Velocity


def integrate(velocity: Velocity, steps: int = 7, *, padding: Padding = "border") -> Displacement:
    """exp(v) of a stationary velocity `(B, n, *shape)` in voxels per unit time, at time 1.

    Args:
        steps: number of squarings t; both papers use 7.
        padding: `border` integrates a constant velocity exactly; the published networks use
        `zeros`.
    """
    require_displacement("integrate", velocity, "velocity")
    if steps < 0:
        raise ValueError(f"integrate: expected steps >= 0, got {steps}.")
    displacement = velocity.contiguous() / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement, padding=padding)
    return displacement
