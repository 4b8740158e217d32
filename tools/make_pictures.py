"""The picture of the front page: one registration in six panels.

    python -m tools.make_pictures        # writes book/_static/pullback.png

The pair is a phantom and the displacement is the true one, so the difference that remains is noise
and interpolation: what a perfect registration looks like.
"""

import io
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from PIL import Image

from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.spatial import identity_grid, warp
from regnet_lib.types import Displacement
from tools.contents import ROOT

SHAPE = (160, 160)
GRID_STEP_VOXELS = 8
INK, ACCENT = "#14324a", "#0b6e6e"
# Axis 0 is left to right as on disk, so pictures show the transpose, from the bottom up.
UPRIGHT = {"origin": "lower", "interpolation": "bilinear"}


def draw(path: Path) -> None:
    """Draw moving, fixed, the field, warped and the remaining difference."""
    case = phantom_pair(SHAPE, seed=3, max_displacement_voxels=13.0, landmarks=0, noise=0.015)
    warped = warp(case.moving, case.displacement)
    difference = (warped - case.fixed)[0, 0].numpy()
    before = (case.moving - case.fixed)[0, 0].numpy()
    limit = np.abs(before).max()

    figure, axes = plt.subplots(2, 3, figsize=(9, 6.3), layout="constrained")
    for axis, image, title in (
        (axes[0, 0], case.fixed, "fixed"),
        (axes[0, 1], case.moving, "moving"),
        (axes[1, 1], warped, "warped = moving(x + u(x))"),
    ):
        axis.imshow(image[0, 0].numpy().T, cmap="gray", vmin=0, vmax=1, **UPRIGHT)
        axis.set_title(title)
    _draw_field(axes[1, 0], case.moving[0, 0].numpy(), case.displacement)
    for axis, image, title in (
        (axes[0, 2], before, "moving − fixed"),
        (axes[1, 2], difference, "warped − fixed"),
    ):
        axis.imshow(image.T, cmap="RdBu_r", vmin=-limit, vmax=limit, **UPRIGHT)
        axis.set_title(title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("#c8d0d6")
        axis.title.set(color=INK, fontsize=13)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, facecolor="white", bbox_inches="tight")
    # A palette is enough for grey tissue and two inks, and halves the file.
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(200, dither=Image.Dither.NONE).save(path)
    plt.close(figure)


def _draw_field(axis: Axes, moving: np.ndarray, displacement: Displacement) -> None:
    """Where the fixed grid looks in the moving image: the lines of x + u(x)."""
    sampled = (identity_grid(SHAPE) + displacement)[0].numpy()  # (2, H, W)
    lines = [sampled[:, i].T for i in range(0, SHAPE[0], GRID_STEP_VOXELS)]  # (points, 2)
    lines += [sampled[:, :, j].T for j in range(0, SHAPE[1], GRID_STEP_VOXELS)]
    axis.imshow(moving.T, cmap="gray", vmin=0, vmax=1, alpha=0.35, **UPRIGHT)
    axis.add_collection(LineCollection(lines, colors=ACCENT, linewidths=0.9))
    axis.set_title("where to look: x + u(x)")


if __name__ == "__main__":
    sys.exit(draw(ROOT / "book" / "_static" / "pullback.png"))
