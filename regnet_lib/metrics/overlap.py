"""Overlap of label maps: Dice, precision and recall of all labels from one joint histogram.

The fixed map is the truth, the warped map the prediction (LGANet++ equations 13, 16, 17). What a
label scores that is not in every map differs between programs, and `absent` names the choice:

| `absent`    | in neither map | not in fixed | not in warped | as                           |
|:------------|:---------------|:-------------|:--------------|:-----------------------------|
| `nan`       | NaN            | 0            | 0             | this book, MedPy             |
| `fixed`     | NaN            | NaN          | 0             | MONAI's default              |
| `learn2reg` | NaN            | NaN          | 0             | Learn2Reg, see below         |
| `zero`      | 0              | 0            | 0             | scikit-learn, TransMorph     |
| `released`  | 1 (P, R: 0)    | 0            | 0             | the released code of LGANet  |

`learn2reg` looks at the moving map before warping: NaN where it or the fixed map lacks the label, 0
where warping has lost it. It needs `moving_labels`.

    scores = dice(warped_labels, fixed_labels, ids=[1, 2, 3])   # (3,), fractions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from regnet_lib.metrics.labels import LabelMap, as_pair, require_distinct, to_index

Absent = Literal["nan", "fixed", "learn2reg", "zero", "released"]


@dataclass(frozen=True)
class OverlapCounts:
    """Voxels per id: in both maps, in the warped map, in the fixed map, in the moving map."""

    both: np.ndarray
    warped: np.ndarray
    fixed: np.ndarray
    moving: np.ndarray | None = None

    def dice(self, absent: Absent = "nan") -> np.ndarray:
        return _ratio(2 * self.both, self.warped + self.fixed, self, absent, empty=1.0)

    def precision(self, absent: Absent = "nan") -> np.ndarray:
        return _ratio(self.both, self.warped, self, absent, empty=0.0)

    def recall(self, absent: Absent = "nan") -> np.ndarray:
        return _ratio(self.both, self.fixed, self, absent, empty=0.0)


def overlap_counts(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    moving_labels: LabelMap | None = None,
) -> OverlapCounts:
    """Joint histogram of two label maps `(D, H, W)` or `(1, 1, D, H, W)`, reduced to `ids`.

    Args:
        moving_labels: the map before warping, for `absent="learn2reg"`; counted if given.
    """
    warped, fixed = as_pair("overlap_counts", warped_labels, fixed_labels)
    require_distinct("overlap_counts", ids)
    labels = len(ids)
    joint = to_index(warped, ids) * (labels + 1) + to_index(fixed, ids)
    table = np.bincount(joint.ravel(), minlength=(labels + 1) ** 2).reshape(labels + 1, -1)
    moving = None
    if moving_labels is not None:
        before, _ = as_pair("overlap_counts", moving_labels, fixed_labels)
        moving = np.bincount(to_index(before, ids).ravel(), minlength=labels + 1)[:labels]
    return OverlapCounts(
        table.diagonal()[:labels].copy(), table.sum(1)[:labels], table.sum(0)[:labels], moving
    )


def dice(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    absent: Absent = "nan",
    moving_labels: LabelMap | None = None,
) -> np.ndarray:
    """Dice similarity coefficient per id, 2|A and B| / (|A| + |B|), as fractions `(len(ids),)`."""
    return overlap_counts(warped_labels, fixed_labels, ids, moving_labels).dice(absent)


def precision(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    absent: Absent = "nan",
    moving_labels: LabelMap | None = None,
) -> np.ndarray:
    """Share of the warped label's voxels that carry the label in the fixed map, per id."""
    return overlap_counts(warped_labels, fixed_labels, ids, moving_labels).precision(absent)


def recall(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    absent: Absent = "nan",
    moving_labels: LabelMap | None = None,
) -> np.ndarray:
    """Share of the fixed label's voxels that the warped label covers, per id."""
    return overlap_counts(warped_labels, fixed_labels, ids, moving_labels).recall(absent)


def _ratio(
    numerator: np.ndarray,
    denominator: np.ndarray,
    counts: OverlapCounts,
    absent: Absent,
    empty: float,
) -> np.ndarray:
    if absent not in get_args(Absent):
        raise ValueError(f"expected absent to be one of {get_args(Absent)}, got {absent!r}.")
    result = np.zeros(len(denominator))
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    nowhere = (counts.warped == 0) & (counts.fixed == 0)
    if absent == "nan":
        result[nowhere] = np.nan
    elif absent == "released":
        result[nowhere] = empty
    elif absent == "fixed":
        result[counts.fixed == 0] = np.nan
    elif absent == "learn2reg":
        if counts.moving is None:
            raise ValueError(
                "expected moving_labels for absent='learn2reg', got None. Give the label map "
                "before warping: what it lacks is left out, what warping lost scores 0."
            )
        result[(counts.fixed == 0) | (counts.moving == 0)] = np.nan
    return result
