"""Evaluation of up to 56 labels at 144x176x144: surface distances against MedPy, MONAI and
surface-distance, each by its own definition, and overlap against masks and scikit-learn.

The others are slow: they measure four of the labels, and their seconds are scaled.
"""

import os
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks.measure import Comparison, installed
from regnet_lib.metrics import assd, hd95, overlap_counts

SHAPE = (144, 176, 144)
LABELS = 56
MEASURED = 4
SPACING_MM = (1.0, 1.0, 1.0)
# Labels of a growing evaluation.
COUNTS = (7, 28)
PEERS = ("medpy", "sklearn", "surface_distance", "monai")
EXPLANATION = ""


def hd95_comparisons() -> list[Comparison]:
    warped, fixed, all_ids, source = label_pair()
    found = []
    for count in (*COUNTS, len(all_ids)):
        ids = all_ids[:: len(all_ids) // count][:count]
        found.append(
            Comparison(
                case=f"hd95 of {len(ids)} labels, {source}",
                ours=partial(_ours_hd95, warped, fixed, ids),
                other=partial(_medpy_hd95, warped, fixed, _some(ids)),
                other_name=_scaled("MedPy on the full volume"),
                check=_equal_distances,
                target=25.0,
                rounds=3,
                share=MEASURED / len(ids),
                growth=("labels", len(ids)),
            )
        )
    return found


def surface_comparisons() -> list[Comparison]:
    """Every label, against each program by its own definition."""
    warped, fixed, ids, source = label_pair()
    contests = [("medpy", "assd", _ours_assd, _medpy_assd, "MedPy", 30.0)]
    if installed("surface_distance"):
        ours = partial(_ours_hd95, convention="area")
        contests.append(("area", "hd95", ours, _surface_distance, "surface-distance", None))
    if installed("monai"):
        ours = partial(_ours_hd95, convention="max")
        contests.append(("max", "hd95", ours, _monai_hd95, "MONAI", None))
    return [
        Comparison(
            case=f"{metric} ({definition}) of {len(ids)} labels, {source}",
            ours=partial(ours, warped, fixed, ids),
            other=partial(other, warped, fixed, _some(ids)),
            other_name=_scaled(name),
            check=_equal_distances,
            target=target,
            rounds=2,
            share=MEASURED / len(ids),
        )
        for definition, metric, ours, other, name, target in contests
    ]


def _some(ids: tuple[int, ...]) -> tuple[int, ...]:
    return ids[:: len(ids) // MEASURED][:MEASURED]


def _scaled(name: str) -> str:
    return f"{name} ({MEASURED} labels, scaled)"


def overlap_comparisons() -> list[Comparison]:
    warped, fixed, ids, source = label_pair()
    return [
        Comparison(
            case=f"dice, precision and recall of {len(ids)} labels, {source}",
            ours=partial(_ours_overlap, warped, fixed, ids),
            other=partial(_masks_overlap, warped, fixed, ids),
            other_name="NumPy, one pair of masks per label",
            check=_equal_overlap,
        ),
        Comparison(
            case=f"dice of {len(ids)} labels, {source}",
            ours=partial(_ours_dice, warped, fixed, ids),
            other=partial(_sklearn_dice, warped, fixed, _some(ids)),
            other_name=_scaled("scikit-learn's F1, one label at a time"),
            check=_equal_scores,
            target=50.0,
            rounds=3,
            share=MEASURED / len(ids),
        ),
    ]


@cache
def label_pair() -> tuple[np.ndarray, np.ndarray, tuple[int, ...], str]:
    """Two label maps: LPBA40 S02 and S01 where the data are, else blobs that tile a ball."""
    if "REGNET_DATA" in os.environ and (Path(os.environ["REGNET_DATA"]) / "lpba40").exists():
        from regnet_lib.data.lpba40 import LPBA40

        case = LPBA40().case("S02")
        maps = (case.moving_labels, case.fixed_labels)
        return *(labels[0, 0].numpy() for labels in maps), case.label_ids, "LPBA40 S02 on S01"
    from scipy.spatial import cKDTree

    random = np.random.default_rng(0)
    grid = np.indices(SHAPE).reshape(3, -1).T
    radius = np.linalg.norm((grid - np.array(SHAPE) / 2) / (np.array(SHAPE) / 2.4), axis=1)
    centres = grid[radius < 1][random.integers((radius < 1).sum(), size=LABELS)].astype(float)
    maps = []
    for shift in (0.0, 2.5):
        moved = centres + random.normal(scale=shift + 1e-9, size=centres.shape)
        labels = np.where(radius < 1, cKDTree(moved).query(grid)[1] + 1, 0)
        maps.append(labels.reshape(SHAPE).astype(np.int64))
    return maps[0], maps[1], tuple(range(1, LABELS + 1)), "144x176x144 blobs"


def _ours_hd95(
    warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...], convention: str = "medpy"
) -> dict[int, float]:
    values = hd95(warped, fixed, ids, SPACING_MM, convention=convention)
    return dict(zip(ids, values, strict=True))


def _ours_assd(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> dict[int, float]:
    return dict(zip(ids, assd(warped, fixed, ids, SPACING_MM), strict=True))


def _medpy_assd(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> dict[int, float]:
    from medpy.metric.binary import assd as medpy_assd

    return {label: medpy_assd(warped == label, fixed == label, SPACING_MM) for label in ids}


def _surface_distance(
    warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]
) -> dict[int, float]:
    from surface_distance import compute_robust_hausdorff, compute_surface_distances

    found = {}
    for label in ids:
        distances = compute_surface_distances(fixed == label, warped == label, SPACING_MM)
        found[label] = compute_robust_hausdorff(distances, 95)
    return found


def _monai_hd95(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> dict[int, float]:
    import torch
    from monai.metrics import compute_hausdorff_distance

    maps = [torch.stack([torch.from_numpy(one == i) for i in ids])[None] for one in (warped, fixed)]
    values = compute_hausdorff_distance(
        *maps, include_background=True, percentile=95, spacing=SPACING_MM
    )
    return dict(zip(ids, values[0].tolist(), strict=True))


def _medpy_hd95(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> dict[int, float]:
    from medpy.metric.binary import hd95 as medpy_hd95

    return {label: medpy_hd95(warped == label, fixed == label, SPACING_MM) for label in ids}


def _equal_distances(ours: dict[int, float], other: dict[int, float]) -> str:
    worst = max(abs(ours[label] - value) for label, value in other.items())
    # Others compute in float32.
    assert worst < 1e-4, worst
    return f"largest difference {worst:.1e} mm over {len(other)} labels"


def _equal_scores(ours: dict[int, float], other: dict[int, float]) -> str:
    worst = max(abs(ours[label] - value) for label, value in other.items())
    assert worst < 1e-12, worst
    return f"largest difference {worst:.1e} over {len(other)} labels"


def _ours_overlap(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    counts = overlap_counts(warped, fixed, ids)
    return np.stack([counts.dice(), counts.precision(), counts.recall()])


def _masks_overlap(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    rows = []
    for label in ids:
        a, b = warped == label, fixed == label
        both, size_a, size_b = (a & b).sum(), a.sum(), b.sum()
        rows.append((2 * both / (size_a + size_b), both / size_a, both / size_b))
    return np.array(rows).T


def _ours_dice(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> dict[int, float]:
    return dict(zip(ids, overlap_counts(warped, fixed, ids).dice(), strict=True))


def _sklearn_dice(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> dict[int, float]:
    from sklearn.metrics import f1_score

    return {label: f1_score((fixed == label).ravel(), (warped == label).ravel()) for label in ids}


def _equal_overlap(ours: np.ndarray, other: np.ndarray) -> str:
    worst = np.abs(ours - other).max()
    assert worst < 1e-12, worst
    return f"largest difference {worst:.1e}"
