"""Static figures of the book. Each function draws on given axes or returns a figure; none shows it.

figure = compare(case, displacement)
figure = learning_curve(run.training)
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from regnet_lib.data.case import Case
from regnet_lib.metrics import bootstrap_interval
from regnet_lib.spatial import identity_grid, jacobian_determinant, resize, warp, warp_labels
from regnet_lib.types import Displacement

# Colour-blind safe (Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, GREY]),
    "image.cmap": "gray",
    "image.origin": "lower",
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Switch matplotlib to the book's style."""
    plt.rcParams.update(STYLE)


def middle_slice(image: Tensor | np.ndarray, axis: int = 1, index: int | None = None) -> np.ndarray:
    """One slice of an image `(..., D, H, W)` or `(..., H, W)`, ready for `imshow`.

    The first remaining array axis runs to the right, the second one up.
    """
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    array = array.reshape(
        array.shape[-3:] if array.ndim >= 5 or array.ndim == 3 else array.shape[-2:]
    )
    if array.ndim == 3:
        index = array.shape[axis] // 2 if index is None else index
        array = np.take(array, index, axis=axis)
    return array.T


def panels(
    images: Mapping[str, Tensor | np.ndarray], *, axis: int = 1, index: int | None = None
) -> Figure:
    """One slice of several images side by side, on one grey scale."""
    slices = {title: middle_slice(image, axis, index) for title, image in images.items()}
    high = max(float(array.max()) for array in slices.values())
    figure, axes = plt.subplots(1, len(slices), figsize=(2.4 * len(slices), 2.9), squeeze=False)
    for ax, (title, array) in zip(axes[0], slices.items(), strict=True):
        ax.imshow(array, vmin=0, vmax=high)
        ax.set_title(title)
        ax.axis("off")
    return figure


def draw_slice(
    ax: Axes,
    image: Tensor | np.ndarray,
    title: str = "",
    *,
    axis: int = 1,
    index: int | None = None,
    **style: object,
) -> AxesImage:
    """One slice without axes; `style` goes to `imshow`, by default the grey scale from 0."""
    if not style:
        style = {"vmin": 0}
    drawn = ax.imshow(middle_slice(image, axis, index), **style)
    ax.set_title(title)
    ax.axis("off")
    return drawn


def draw_arrows(
    ax: Axes, displacement: Displacement, *, every: int = 8, color: str = ORANGE
) -> None:
    """Arrows u(x) of a 2-D field to scale, each standing at its x on the fixed grid."""
    start = identity_grid(displacement.shape[2:])
    picked = (0, slice(None), *[slice(every // 2, None, every)] * 2)
    ax.quiver(
        *start[picked],
        *displacement.detach().cpu()[picked],
        color=color,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.006,
    )


def draw_grid(
    ax: Axes,
    displacement: Displacement,
    *,
    every: int = 4,
    axis: int = 1,
    index: int | None = None,
    color: str = ORANGE,
) -> None:
    """Draw where the lines of the fixed grid look in the moving image: x + u(x) (pull-back)."""
    positions = identity_grid(displacement.shape[2:]) + displacement.detach().cpu()
    shown = [component for component in range(positions.shape[1])]
    if positions.ndim == 5:
        index = positions.shape[2 + axis] // 2 if index is None else index
        positions = positions.select(2 + axis, index)
        shown.remove(axis)
    across, up = (positions[0, component].numpy() for component in shown)
    for line in range(0, across.shape[0], every):
        ax.plot(across[line], up[line], color=color, linewidth=0.6)
    for line in range(0, across.shape[1], every):
        ax.plot(across[:, line], up[:, line], color=color, linewidth=0.6)
    ax.set_aspect("equal")
    ax.axis("off")


def draw_jacobian(
    figure: Figure, ax: Axes, displacement: Displacement, *, axis: int = 1, index: int | None = None
) -> None:
    """Map of the Jacobian determinant: blue shrinks, red grows, magenta folds."""
    determinant = middle_slice(jacobian_determinant(displacement), axis, index)
    span = max(abs(determinant - 1).max(), 0.05)
    norm = TwoSlopeNorm(vmin=1 - span, vcenter=1, vmax=1 + span)
    drawn = ax.imshow(determinant, cmap="RdBu_r", norm=norm)
    folds = np.ma.masked_where(determinant > 0, np.ones_like(determinant))
    ax.imshow(folds, cmap="spring", vmin=1, vmax=2)
    ax.axis("off")
    figure.colorbar(drawn, ax=ax, shrink=0.75, label="det J")


def compare(
    case: Case, displacement: Displacement, *, axis: int = 1, index: int | None = None
) -> Figure:
    """Fixed, moving, warped, both differences, the grid and the Jacobian of one registration."""
    warped = warp(case.moving, displacement)
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.6))
    pictures = {"fixed": case.fixed, "moving": case.moving, "warped moving": warped}
    for ax, (title, image) in zip(axes[0], pictures.items(), strict=False):
        ax.imshow(middle_slice(image, axis, index), vmin=0, vmax=1)
        ax.set_title(title)
        ax.axis("off")
    draw_grid(axes[0, 3], displacement, axis=axis, index=index)
    axes[0, 3].set_title("pull-back grid x + u(x)")
    for ax, title, image in (
        (axes[1, 0], "fixed - moving", case.fixed - case.moving),
        (axes[1, 1], "fixed - warped", case.fixed - warped),
    ):
        ax.imshow(middle_slice(image, axis, index), cmap="PuOr", vmin=-0.6, vmax=0.6)
        error = float(image.abs().mean())
        ax.set_title(f"{title}\nmean |error| {error:.4f}")
        ax.axis("off")
    length = displacement.detach().norm(dim=1, keepdim=True)
    drawn = axes[1, 2].imshow(middle_slice(length, axis, index), cmap="viridis")
    axes[1, 2].set_title("|u| (voxels)")
    axes[1, 2].axis("off")
    figure.colorbar(drawn, ax=axes[1, 2], shrink=0.75)
    draw_jacobian(figure, axes[1, 3], displacement, axis=axis, index=index)
    axes[1, 3].set_title("Jacobian determinant")
    return figure


def pyramid(
    moving: Tensor, fixed: Tensor, fields: Sequence[Displacement], *, axis: int = 1
) -> Figure:
    """The pair, then per level, coarse to fine: length, pull-back grid and the image seen through.

    Args:
        fields: `(1, 3, ...)` each, in voxels of its own grid.
    """
    shape = moving.shape[2:]
    figure, axes = plt.subplots(3, 1 + len(fields), figsize=(1.9 * (1 + len(fields)), 6.4))
    pair = {"moving": moving, "fixed": fixed}
    for ax, (title, image) in zip(axes[:2, 0], pair.items(), strict=True):
        ax.imshow(middle_slice(image, axis), vmin=0)
        ax.set_title(title)
    axes[2, 0].imshow(middle_slice(fixed - moving, axis), cmap="PuOr", vmin=-0.6, vmax=0.6)
    axes[2, 0].set_title("fixed - moving")
    for column, field in enumerate(fields, start=1):
        full = resize(field.detach(), shape)
        top, middle, bottom = axes[:, column]
        top.imshow(middle_slice(field.norm(dim=1, keepdim=True), axis), cmap="viridis", vmin=0)
        top.set_title("x".join(map(str, field.shape[2:])))
        draw_grid(middle, full, axis=axis)
        middle.set_title(f"longest {float(full.norm(dim=1).max()):.1f} voxels")
        bottom.imshow(middle_slice(warp(moving, full), axis), vmin=0)
        bottom.set_title("warped moving")
    for ax in axes.flat:
        ax.axis("off")
    return figure


def stacked_bars(parts: Mapping[str, Mapping[str, int]], *, unit: float = 1e6) -> Figure:
    """Two counts per name in one bar, `{"used": {name: n}, "never used": {name: n}}`, in millions.

    The first count is filled, the second hatched; the text gives "first of both".
    """
    (first_label, first), (second_label, second) = parts.items()
    figure, ax = plt.subplots(figsize=(7.2, 0.5 * len(first) + 0.9))
    left, right = ([count / unit for count in counts.values()] for counts in (first, second))
    ax.barh(list(first), left, color=BLUE, label=first_label)
    hatched = {"color": "white", "edgecolor": GREY, "hatch": "////"}
    ax.barh(list(first), right, left=left, label=second_label, **hatched)
    longest = max(a + b for a, b in zip(left, right, strict=True))
    for place, name in enumerate(first):
        total = first[name] + second[name]
        text = f"{first[name]:,} of {total:,}"
        ax.text(total / unit + 0.01 * longest, place, text, va="center", fontsize=9)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.35 * longest)
    ax.set_xlabel("millions")
    ax.legend(frameon=False, loc="lower right")
    return figure


def log_bars(groups: Mapping[str, Mapping[str, float]], *, marked: str = "") -> Figure:
    """Bars on a logarithmic axis, one panel per group; names that contain `marked` stand out."""
    figure, axes = plt.subplots(1, len(groups), figsize=(4.4 * len(groups), 3.3), squeeze=False)
    for ax, (title, values) in zip(axes[0], groups.items(), strict=True):
        colors = [ORANGE if marked and marked in name else BLUE for name in values]
        ax.barh(list(values), list(values.values()), color=colors, log=True)
        ax.invert_yaxis()
        ax.set_title(title)
    return figure


def learning_curve(training: pd.DataFrame, *, window: int = 30, column: str = "loss") -> Figure:
    """Loss per step and its running mean."""
    figure, ax = plt.subplots(figsize=(6.4, 3.2))
    ax.plot(
        training["step"], training[column], color=GREY, linewidth=0.4, alpha=0.6, label="per step"
    )
    smooth = training[column].rolling(window, min_periods=1).mean()
    ax.plot(training["step"], smooth, color=BLUE, linewidth=1.6, label=f"mean of {window} steps")
    ax.set_xlabel("optimizer step")
    ax.set_ylabel(column.replace("_", " "))
    ax.legend(frameon=False)
    return figure


def case_dots(
    values: Mapping[str, pd.Series], *, label: str, factor: float = 1.0, paper: Sequence[float] = ()
) -> Figure:
    """One dot per case and method, lines joining the same case; the paper's means as bars."""
    names = list(values)
    figure, ax = plt.subplots(figsize=(1.5 + 1.1 * len(names), 3.6))
    frame = pd.DataFrame(values) * factor
    for case in frame.index:
        ax.plot(range(len(names)), frame.loc[case], color=GREY, linewidth=0.6, alpha=0.6)
    for place, name in enumerate(names):
        ax.plot([place] * len(frame), frame[name], "o", markersize=4, color=BLUE)
        ax.plot([place - 0.2, place + 0.2], [frame[name].mean()] * 2, color=BLUE, linewidth=2)
    for place, mean in enumerate(paper):
        if not np.isnan(mean):
            ax.plot(
                [place - 0.2, place + 0.2], [mean] * 2, color=ORANGE, linewidth=2, linestyle=":"
            )
    ax.set_xticks(range(len(names)), names, rotation=20, ha="right")
    ax.set_ylabel(label)
    return figure


def structure_dots(values: Mapping[str, pd.Series], *, label: str, factor: float = 1.0) -> Figure:
    """One line per structure, easiest on top by the first method; one dot per method."""
    frame = pd.DataFrame(values) * factor
    frame = frame.sort_values(frame.columns[0])
    figure, ax = plt.subplots(figsize=(7, 0.8 + 0.21 * len(frame)))
    places = np.arange(len(frame))
    ax.hlines(places, frame.min(axis=1), frame.max(axis=1), color=GREY, linewidth=0.8, alpha=0.6)
    for marker, name in zip("os^Dvp" * len(frame.columns), frame.columns, strict=False):
        ax.plot(frame[name], places, marker, markersize=5, label=name)
    ax.set_yticks(places, frame.index, fontsize=8)
    ax.set_ylim(-0.7, len(frame) - 0.3)
    ax.set_xlabel(label)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(frameon=False, loc="lower right")
    return figure


def checkerboard(first: Tensor, second: Tensor, tiles: int = 8) -> Tensor:
    """Alternate tiles of two images `(1, 1, *shape)`: edges that continue are aligned."""
    shape = first.shape[2:]
    index = sum(
        (torch.arange(side) * tiles // side).view(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
        for axis, side in enumerate(shape)
    )
    return torch.where(index % 2 == 0, first, second)


def draw_in_world(ax: Axes, pixels: np.ndarray, affine: np.ndarray, **style: object) -> QuadMesh:
    """A slice `(W, H)` where its matrix `(3, 3)` puts its pixels, in mm; turned grids stay turned.

    `style` goes to `pcolormesh`, by default the grey scale from 0.
    """
    edges = np.indices([side + 1 for side in pixels.shape]) - 0.5
    x, y = np.tensordot(affine[:2, :2], edges, axes=1) + affine[:2, 2, None, None]
    drawn = ax.pcolormesh(x, y, pixels, **({"vmin": 0} | style))
    ax.set_aspect("equal")
    return drawn


def run_dots(
    values: Mapping[str, pd.Series | np.ndarray],
    *,
    label: str,
    factor: float = 1.0,
    paper: Sequence[float] = (),
    title: str = "",
) -> Figure:
    """One line per run, one dot per case, our mean as a bar, the paper's mean as a dotted one.

    Args:
        values: the cases of every run; the runs may have different cases.
        factor: from the unit of the values to that of the label.
        paper: one mean per run in the unit of the label, NaN where the paper has none.
    """
    figure, ax = plt.subplots(figsize=(7.2, 1.1 + 0.32 * len(values)))
    for place, cases in enumerate(values.values()):
        shown = factor * np.asarray(cases, dtype=float)
        ax.plot(shown, [place] * len(shown), "o", color=BLUE, alpha=0.4)
        ax.plot([np.nanmean(shown)] * 2, [place - 0.35, place + 0.35], color=BLUE, linewidth=2.5)
    for place, mean in enumerate(paper):
        ax.plot([mean] * 2, [place - 0.4, place + 0.4], ":", color=ORANGE, linewidth=2)
    ax.set_yticks(range(len(values)), list(values), fontsize=8)
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.set(xlabel=label, title=title)
    return figure


def draw_intervals(
    ax: Axes,
    values: Mapping[str, pd.Series],
    *,
    label: str,
    factor: float = 1.0,
    colors: Mapping[str, str] | None = None,
) -> None:
    """One line per run: its cases as dots, mean and 95 % bootstrap interval over cases as a bar.

    Args:
        values: one value per case.
        factor: from the unit of the values to that of the label.
        colors: of some runs; the others are blue.
    """
    for place, (name, cases) in enumerate(values.items()):
        shown = factor * np.asarray(cases, dtype=float)
        color = (colors or {}).get(name, BLUE)
        ax.plot(shown, [place] * len(shown), "o", color=color, alpha=0.25, markersize=3)
        ax.plot(bootstrap_interval(shown), [place] * 2, color=color, linewidth=2.5)
        ax.plot(shown.mean(), place, "|", color=color, markersize=11, markeredgewidth=2)
    ax.set_yticks(range(len(values)), list(values), fontsize=8)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.set_xlabel(label)


def field_gallery(
    planes: Mapping[str, np.ndarray], case: Case | None = None, *, axis: int, index: int
) -> Figure:
    """One plane of several fields, a column each: warped image, residual, labels, pull-back grid.

    The number in a residual is its mean absolute value on the plane, that below the labels the
    share of the labelled voxels on which warped and fixed labels agree; orange voxels differ.

    Args:
        planes: `(3, H, W)` each, the displacement on the plane in voxels.
        case: the pair, with labels; without it there are only the grids.
        axis, index: where the plane lies in the case.
    """
    rows, columns = (1, 0) if case is None else (4, 1)
    first = next(iter(planes.values()))
    height = 1.25 * first.shape[2] / first.shape[1]
    size = (1.25 * (columns + len(planes)), 0.35 + rows * (height + 0.05))
    figure, axes = plt.subplots(rows, columns + len(planes), figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    if case is not None:
        draw_slice(axes[0, 0], case.fixed, axis=axis, index=index)
        axes[0, 0].set_title("fixed", fontsize=8)
    for column, (title, plane) in enumerate(planes.items(), start=columns):
        field = torch.from_numpy(np.asarray(plane, dtype=np.float32))
        inside = [component for component in range(3) if component != axis]
        draw_grid(axes[-1, column], field[inside][None], every=2)
        if case is not None:
            _draw_warped(list(axes[:3, column]), case, field, axis, index)
        axes[0, column].set_title(title, fontsize=8)
    return figure


def _draw_warped(axes: Sequence[Axes], case: Case, plane: Tensor, axis: int, index: int) -> None:
    """The first three rows of `field_gallery` for one field."""
    field = torch.zeros(1, 3, *case.shape)
    field.select(2 + axis, index)[0] = plane
    warped = middle_slice(warp(case.moving, field), axis, index)
    fixed = middle_slice(case.fixed, axis, index)
    labels = middle_slice(warp_labels(case.moving_labels, field), axis, index)
    true = middle_slice(case.fixed_labels, axis, index)
    axes[0].imshow(warped, vmin=0, vmax=fixed.max())
    axes[1].imshow(fixed - warped, cmap="PuOr", vmin=-0.4, vmax=0.4)
    axes[2].imshow(fixed, vmin=0, vmax=fixed.max())
    differ = np.ma.masked_equal(labels != true, False)
    axes[2].imshow(differ, cmap=ListedColormap([ORANGE]), alpha=0.75)
    labelled = (labels > 0) | (true > 0)
    agree = 1 - float(differ.filled(False).sum()) / max(int(labelled.sum()), 1)
    for ax, text in ((axes[1], f"{abs(fixed - warped).mean():.4f}"), (axes[2], f"{agree:.0%}")):
        ax.text(0.5, -0.02, text, transform=ax.transAxes, ha="center", va="top", fontsize=8)


FIGURE5 = "figure5.npz"  # beside a run, written by tools/keep_figure5.py
VIEWS = {2: "axial", 1: "coronal", 0: "sagittal"}


def figure5(planes: Mapping[str, np.ndarray], *, levels: Sequence[int] = (4, 2, 0)) -> Figure:
    """The panels of AD-RegNet's Fig. 5: three views of a pair, of attention and of the Jacobian.

    Args:
        planes: `fixed_<axis>`, `moving_<axis>`, `warped_<axis>`, `spread<level>_<axis>` and
            `jacobian<level>_<axis>`, each ready for `imshow`; the array axes point right, anterior
            and superior.
        levels: which of the five to show, coarse to fine.
    """
    shown = ["fixed", "moving", "warped"]
    shown += [f"{kind}{level}" for kind in ("spread", "jacobian") for level in levels]
    sides = [planes[f"fixed_{axis}"].shape for axis in VIEWS]
    figure, axes = plt.subplots(
        len(VIEWS),
        len(shown),
        figsize=(11, 0.6 + 11 / len(shown) * sum(up / across for up, across in sides)),
        gridspec_kw={"height_ratios": [up / across for up, across in sides]},
    )
    changes = [
        abs(planes[f"{name}_{axis}"] - 1.0) for name in shown[-len(levels) :] for axis in VIEWS
    ]
    span = max(float(np.quantile(np.concatenate([c.ravel() for c in changes]), 0.995)), 0.05)
    jacobian = {"cmap": "RdBu_r", "norm": TwoSlopeNorm(vmin=1 - span, vcenter=1, vmax=1 + span)}
    mappables = {}
    for column, name in enumerate(shown):
        style: dict[str, object] = {"vmin": 0, "vmax": 1}
        if name.startswith("jacobian"):
            style = jacobian
        elif name.startswith("spread"):
            # Each level counts voxels of its own grid: one scale per level.
            values = np.concatenate([planes[f"{name}_{axis}"].ravel() for axis in VIEWS])
            style = {"cmap": "magma", "vmin": 1, "vmax": float(np.quantile(values, 0.995))}
        for row, (axis, view) in enumerate(VIEWS.items()):
            ax = axes[row, column]
            drawn = ax.imshow(planes[f"{name}_{axis}"].astype(np.float32), **style)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if column == 0:
                ax.set_ylabel(view)
        mappables[name] = drawn
        axes[0, column].set_title(_figure5_title(name), fontsize=9)
    for name, drawn in mappables.items():
        if name.startswith("spread"):
            column = shown.index(name)
            bar = figure.colorbar(drawn, ax=axes[:, column], location="bottom", aspect=12, pad=0.01)
            bar.ax.tick_params(labelsize=7)
    last = axes[:, -len(levels) :]
    bar = figure.colorbar(drawn, ax=last, location="bottom", aspect=36, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    return figure


def _figure5_title(name: str) -> str:
    for kind, title in {"spread": "voxels asked,\nlevel", "jacobian": "det J,\nlevel"}.items():
        if name.startswith(kind):
            return f"{title} {name.removeprefix(kind)}"
    return {"warped": "warped\nmoving"}.get(name, name)


def dumbbells(frame: pd.DataFrame, *, label: str, title: str = "", ax: Axes | None = None) -> Axes:
    """One line per row, one marker per column, joined: what changes from one setting to another."""
    ax = plt.gca() if ax is None else ax
    places = np.arange(len(frame))[::-1]
    ax.hlines(places, frame.min(axis=1), frame.max(axis=1), color=GREY, linewidth=1.2, alpha=0.6)
    for marker, color, name in zip(
        "os^D", (BLUE, ORANGE, GREEN, PURPLE), frame.columns, strict=False
    ):
        ax.plot(frame[name], places, marker, color=color, label=name)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(places, frame.index)
    ax.set(xlabel=label, title=title)
    ax.legend(frameon=False, fontsize=8)
    return ax
