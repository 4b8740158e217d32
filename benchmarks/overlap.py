"""Evaluation of 56 labels at 144x176x144: HD95 against MedPy, overlap against masks and
scikit-learn, and all metrics of a case together."""

import os
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks.measure import Comparison
from regnet_lib.metrics import hd95, overlap_counts

SHAPE = (144, 176, 144)
LABELS = 56
MEASURED = 4
SPACING_MM = (1.0, 1.0, 1.0)


def hd95_comparisons() -> list[Comparison]:
    warped, fixed, ids, source = label_pair()
    some = ids[:: len(ids) // MEASURED][:MEASURED]
    return [
        Comparison(
            case=f"hd95 of {len(ids)} labels, {source}",
            ours=partial(_ours_hd95, warped, fixed, ids),
            other=partial(_medpy_hd95, warped, fixed, some),
            other_name=f"MedPy on the full volume ({MEASURED} labels, scaled)",
            check=_equal_distances,
            target=25.0,
            rounds=3,
            share=MEASURED / len(ids),
        )
    ]


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
            other=partial(_sklearn_dice, warped, fixed, ids[:: len(ids) // MEASURED][:MEASURED]),
            other_name=f"scikit-learn's F1, one label at a time ({MEASURED} labels, scaled)",
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


def _ours_hd95(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> dict[int, float]:
    return dict(zip(ids, hd95(warped, fixed, ids, SPACING_MM), strict=True))


def _medpy_hd95(warped: np.ndarray, fixed: np.ndarray, ids: tuple[int, ...]) -> dict[int, float]:
    from medpy.metric.binary import hd95 as medpy_hd95

    return {label: medpy_hd95(warped == label, fixed == label, SPACING_MM) for label in ids}


def _equal_distances(ours: dict[int, float], other: dict[int, float]) -> str:
    worst = max(abs(ours[label] - value) for label, value in other.items())
    assert worst < 1e-9, worst
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
