"""The pictures of the front page: one registration as a short film, and in six panels.

    python -m tools.make_pictures        # writes book/_static/registration.webp and pullback.png

The pair is a phantom and the displacement is the true one, so the difference that remains is noise
and interpolation: what a perfect registration looks like.
"""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from PIL import Image

from regnet_lib.data.case import Case
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.spatial import identity_grid, warp
from regnet_lib.types import Displacement
from tools.contents import ROOT

SHAPE = (160, 160)
GRID_STEP_VOXELS = 8
FILM_FRAMES = 26
INK, ACCENT, WARM = "#14324a", "#0b6e6e", "#e07b39"
# Axis 0 is left to right as on disk, so pictures show the transpose, from the bottom up.
UPRIGHT = {"origin": "lower", "interpolation": "bilinear"}


def draw_film(path: Path) -> None:
    """The moving image slides into the outlines of the fixed one, and the difference fades."""
    case = _pair()
    fixed = case.fixed[0, 0].numpy()
    limit = np.abs(fixed - case.moving[0, 0].numpy()).max()
    shares = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, FILM_FRAMES))  # slow, quick, slow
    frames = [_film_frame(case, float(share), limit) for share in shares]
    durations = [1200, *[60] * (FILM_FRAMES - 2), 2200]  # milliseconds
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        quality=72,
        method=6,
    )


def _film_frame(case: Case, share: float, limit: float) -> Image.Image:
    warped = warp(case.moving, share * case.displacement)[0, 0].numpy()
    fixed, outlines = (tensor[0, 0].numpy() for tensor in (case.fixed, case.fixed_labels))
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.45), layout="constrained")
    axes[0].imshow(fixed.T, cmap="gray", vmin=0, vmax=1, **UPRIGHT)
    axes[1].imshow(warped.T, cmap="gray", vmin=0, vmax=1, **UPRIGHT)
    axes[2].imshow((warped - fixed).T, cmap="RdBu_r", vmin=-limit, vmax=limit, **UPRIGHT)
    for label in case.label_ids:
        for axis, width in ((axes[0], 1.0), (axes[1], 1.6)):
            axis.contour((outlines == label).T, [0.5], colors=WARM, linewidths=width)
    titles = ("fixed image, outlines", "moving image, deforming", "what is left to explain")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("#c8d0d6")
        axis.set_title(title, color=INK, fontsize=13)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90, facecolor="white")
    plt.close(figure)
    return Image.open(drawn).convert("RGB")


def _pair() -> Case:
    return phantom_pair(SHAPE, seed=3, max_displacement_voxels=13.0, landmarks=0, noise=0.015)


def draw_panels(path: Path) -> None:
    """Draw moving, fixed, the field, warped and the remaining difference."""
    case = _pair()
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
    draw_film(ROOT / "book" / "_static" / "registration.webp")
    draw_panels(ROOT / "book" / "_static" / "pullback.png")
