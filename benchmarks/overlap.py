"""Evaluation of up to 56 labels at 144x176x144: surface distances against MedPy, MONAI and
surface-distance, each by its own definition, and overlap against masks and scikit-learn.

MedPy and scikit-learn are used as the published evaluations use them: one call per label and
metric. They are slow, so that they measure four of the labels, and their seconds are scaled.
"""

import os
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks.measure import Comparison, installed
from regnet_lib.metrics import hd95, overlap_counts
from regnet_lib.metrics.surface import assd_of, hd95_of, surface_distances_mm

SHAPE = (144, 176, 144)
LABELS = 56
MEASURED = 4
SPACING_MM = (1.0, 1.0, 1.0)
# Labels of a growing evaluation.
COUNTS = (7, 28)
EXPLANATION = ""
HD95_EXPLANATION = ""


def hd95_comparisons() -> list[Comparison]:
    warped, fixed, all_ids, source = label_pair()
    found = []
    for count in (*COUNTS, len(all_ids)):
        ids = all_ids[:: len(all_ids) // count][:count]
        found.append(
            Comparison(
                case=f"hd95 and assd of {len(ids)} labels, {source}",
                ours=partial(_ours_surfaces, warped, fixed, ids),
                other=partial(_medpy, warped, fixed, _some(ids)),
                other_name=_scaled("MedPy on the full volume"),
                check=_equal_distances,
                target=30.0,
                rounds=3,
                share=MEASURED / len(ids),
                growth=("labels", len(ids)),
            )
        )
    return found


def surface_comparisons() -> list[Comparison]:
    """The other definitions of HD95, each against the program that it comes from."""
    warped, fixed, ids, source = label_pair()
    contests = []
    if installed("surface_distance"):
        contests.append(("area", _surface_distance, "surface-distance"))
    if installed("monai"):
        contests.append(("max", _monai_hd95, "MONAI"))
    return [
        Comparison(
            case=f"hd95 ({definition}) of {len(ids)} labels, {source}",
            ours=partial(_ours_hd95, warped, fixed, ids, definition),
            other=partial(other, warped, fixed, _some(ids)),
            other_name=_scaled(name),
            check=_equal_distances,
            rounds=2,
            share=MEASURED / len(ids),
        )
        for definition, other, name in contests
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
            case=f"dice, precision and recall of {len(ids)} labels, {source}",
            ours=partial(_ours_overlap, warped, fixed, ids),
            other=partial(_sklearn, warped, fixed, ids),
            other_name=_scaled("scikit-learn, a call per label and score"),
            check=_equal_overlap,
            target=1000.0,
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
    warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...], convention: str
) -> dict[int, float]:
    values = hd95(warped, fixed, ids, SPACING_MM, convention=convention)
    return dict(zip(ids, values, strict=True))


def _ours_surfaces(
    warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]
) -> dict[int, tuple[float, float]]:
    found = surface_distances_mm(warped, fixed, ids, SPACING_MM)
    return {label: (hd95_of(one), assd_of(one)) for label, one in zip(ids, found, strict=True)}


def _medpy(
    warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]
) -> dict[int, tuple[float, float]]:
    from medpy.metric import binary

    return {
        label: tuple(
            metric(warped == label, fixed == label, SPACING_MM)
            for metric in (binary.hd95, binary.assd)
        )
        for label in ids
    }


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


def _equal_distances(ours: dict[int, object], other: dict[int, object]) -> str:
    worst = max(float(np.abs(np.subtract(ours[label], other[label])).max()) for label in other)
    # Others compute in float32.
    assert worst < 1e-4, worst
    return f"largest difference {worst:.1e} mm over {len(other)} labels"


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


def _sklearn(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    """Some of the columns; the others are NaN."""
    from sklearn.metrics import f1_score, precision_score, recall_score

    scores = np.full((3, len(ids)), np.nan)
    for label in _some(ids):
        masks = (fixed == label).ravel(), (warped == label).ravel()
        scores[:, ids.index(label)] = [
            score(*masks) for score in (f1_score, precision_score, recall_score)
        ]
    return scores


def _equal_overlap(ours: np.ndarray, other: np.ndarray) -> str:
    worst = np.nanmax(np.abs(ours - other))
    assert worst < 1e-12, worst
    return f"largest difference {worst:.1e}"
