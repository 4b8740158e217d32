"""How well two images lie on each other before and after a registration, for its report.

metrics = measure(Scored(before=(moving, fixed), displacement=displacement, ...))
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regnet_lib.losses import local_ncc
from regnet_lib.metrics import dice, hd95, mse, ncc
from regnet_lib.spatial import folding_fraction, jacobian_determinant
from regnet_lib.spatial.world import warp_from
from regnet_lib.types import Displacement

Metrics = dict[str, object]


@dataclass(frozen=True)
class Scored:
    """What the metrics are computed from.

    Attributes:
        before: moving and fixed `(1, 1, *shape)` on the fixed grid, in [0, 1].
        prealigned: the same after the affine pre-alignment, or None.
        warped: `(1, 1, *shape)`, after the registration.
        displacement: `(1, n, *shape)` voxels of the fixed grid.
        to_moving: `(4, 4)` from voxels of the fixed to voxels of the moving grid.
        labels: moving and fixed label maps, `(1, 1, ...)`, each on its own grid, or None.
        warped_labels: `(*shape)`.
        points_mm: fixed, moving and warped landmarks `(N, n)` in the world, or None.
        spacing_mm: of the fixed grid.
    """

    before: tuple[Tensor, Tensor]
    prealigned: tuple[Tensor, Tensor] | None
    warped: Tensor
    displacement: Displacement
    to_moving: np.ndarray
    labels: tuple[Tensor | None, Tensor | None]
    warped_labels: np.ndarray | None
    points_mm: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    spacing_mm: tuple[float, ...]


def measure(scored: Scored) -> Metrics:
    """All metrics by name; each name says its unit, or that it is a fraction or a loss."""
    metrics = _of_images(scored) | _of_displacement(scored.displacement, scored.spacing_mm)
    moving_labels, fixed_labels = scored.labels
    if moving_labels is not None and fixed_labels is not None:
        metrics |= _of_labels(scored, moving_labels, fixed_labels)
    if scored.points_mm is not None:
        metrics |= _of_points(*scored.points_mm)
    # JSON has no NaN: a correlation with a constant image does not exist
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value
        for name, value in metrics.items()
    }


def _of_images(scored: Scored) -> Metrics:
    fixed = scored.before[1]
    stages = {"before": scored.before[0], "after": scored.warped}
    if scored.prealigned is not None:
        stages = {"before": scored.before[0], "prealigned": scored.prealigned[0]} | stages
    metrics: Metrics = {}
    for stage, image in stages.items():
        metrics[f"local_ncc_loss_{stage}"] = float(local_ncc(image, fixed))
        metrics[f"ncc_{stage}"] = ncc(image, fixed)
        metrics[f"mse_{stage}"] = mse(image, fixed)
    return metrics


def _of_displacement(displacement: Displacement, spacing_mm: tuple[float, ...]) -> Metrics:
    axes = len(spacing_mm)
    spacing = torch.tensor(spacing_mm).view(axes, *[1] * axes)
    lengths = (displacement[0] * spacing).norm(dim=0)
    determinant = jacobian_determinant(displacement)
    return {
        "displacement_mean_mm": float(lengths.mean()),
        "displacement_max_mm": float(lengths.max()),
        "folding_fraction_forward": float(folding_fraction(displacement)),
        "folding_fraction_central": float((determinant <= 0).double().mean()),
        "jacobian_min": float(determinant.min()),
        "jacobian_max": float(determinant.max()),
        "jacobian_std": float(determinant.std()),
    }


def _of_labels(scored: Scored, moving: Tensor, fixed: Tensor) -> Metrics:
    """Overlap of the labels of the fixed map; a label that the moving map lacks has none."""
    ids = [label for label in torch.unique(fixed).tolist() if label != 0]
    still = torch.zeros_like(scored.displacement)
    before = warp_from(moving, still, scored.to_moving, interpolation="nearest")
    after = dice(scored.warped_labels, fixed, ids)
    metrics: Metrics = {
        "labels": ids,
        "dice_before": _mean(dice(before, fixed, ids)),
        "dice_after": _mean(after),
        "dice_after_by_label": {
            str(label): None if np.isnan(value) else float(value)
            for label, value in zip(ids, after, strict=True)
        },
    }
    surface = hd95(scored.warped_labels, fixed, ids, scored.spacing_mm)
    return metrics | {"hd95_after_mm": _mean(surface)}


def _of_points(fixed: np.ndarray, moving: np.ndarray, warped: np.ndarray) -> Metrics:
    before = np.linalg.norm(fixed - moving, axis=1)
    after = np.linalg.norm(warped - moving, axis=1)
    return {
        "landmarks": len(fixed),
        "tre_before_mm": float(before.mean()),
        "tre_after_mm": float(after.mean()),
        "tre_after_max_mm": float(after.max()),
    }


def _mean(values: np.ndarray) -> float:
    """The mean of those that exist."""
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
