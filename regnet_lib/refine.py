"""Instance optimisation: improve one displacement by gradient descent on the objective.

Starting from zero over a pyramid of resolutions it is a registration method of its own (the model
`gradient_descent`); starting from a network's answer it is the refinement step that several papers
add (`register(..., refine_steps=50)`).

    displacement = refine(moving, fixed, objective, steps=(60, 40, 20))   # (1, 3, D, H, W)
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from regnet_lib.losses import Objective
from regnet_lib.spatial import resample, resize
from regnet_lib.types import Displacement, Image

Report = Callable[[int, int, float], None]


def refine(
    moving: Image,
    fixed: Image,
    objective: Objective,
    *,
    steps: Sequence[int] = (80, 60, 30),
    initial: Displacement | None = None,
    learning_rate: float = 0.25,
    report: Report | None = None,
) -> Displacement:
    """Minimise the objective over the displacement itself, coarse to fine.

    Args:
        moving, fixed: `(1, 1, *shape)`.
        steps: iterations per level, coarse to fine; the last level is the full grid and every level
            before halves it.
        initial: displacement to start from, `(1, n, *shape)` voxels; zero by default.
        learning_rate: step of Adam in voxels of the level.
        report: called with level, iteration and loss.

    The unknown is a displacement on half the level's resolution, interpolated to the level: smooth
    by construction, and eight times fewer unknowns.
    """
    shape = tuple(fixed.shape[2:])
    axes = len(shape)
    displacement = initial
    if displacement is None:
        displacement = fixed.new_zeros(1, axes, *shape)
    correction: Displacement | None = None
    for level, iterations in enumerate(steps):
        factor = 2 ** (len(steps) - 1 - level)
        grid = tuple(max(side // factor, min(side, 16)) for side in shape)
        coarse = tuple(max(side // 2, 8) for side in grid)
        images = resample(_smoothed(moving, factor), grid), resample(_smoothed(fixed, factor), grid)
        base = resize(displacement, grid, ratio="corner").detach()
        if correction is None:
            correction = fixed.new_zeros(1, axes, *coarse)
        else:
            correction = resize(correction.detach(), coarse, ratio="corner")
        correction.requires_grad_(True)
        optimiser = torch.optim.Adam([correction], lr=learning_rate)
        for iteration in range(iterations):
            current = base + resize(correction, grid, ratio="corner")
            loss, _ = objective(current, *images)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if report is not None:
                report(level, iteration, float(loss.detach()))
    if correction is None:
        return displacement
    return (displacement + resize(correction, shape, ratio="corner")).detach()


def _smoothed(image: Image, factor: int) -> Image:
    """Means over `factor + 1` voxels around each one, so that the coarse grid does not alias."""
    if factor == 1:
        return image
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[image.ndim - 2]
    # An odd window has a centre voxel: an even one would shift the image by half a voxel.
    return pool(image, factor + 1, stride=1, padding=factor // 2, count_include_pad=False)
