"""Overlap of label maps: Dice, precision and recall of all labels from one joint histogram.

The fixed map is the truth, the warped map the prediction (LGANet++ equations 13, 16, 17). A label
that neither map contains has no overlap to measure: the default is NaN, so that it cannot lift or
lower a mean; `absent="released"` gives what the released LGANet code gives (Dice 1, the others 0).
A label present in only one of the maps scores 0.

    scores = dice(warped_labels, fixed_labels, ids=[1, 2, 3])   # (3,), fractions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from regnet_lib.metrics.labels import LabelMap, as_pair, require_distinct, to_index

Absent = Literal["nan", "released"]


@dataclass(frozen=True)
class OverlapCounts:
    """Voxels per id: in both maps, in the warped map, in the fixed map."""

    both: np.ndarray
    warped: np.ndarray
    fixed: np.ndarray

    def dice(self, absent: Absent = "nan") -> np.ndarray:
        return _ratio(2 * self.both, self.warped + self.fixed, self, absent, empty=1.0)

    def precision(self, absent: Absent = "nan") -> np.ndarray:
        return _ratio(self.both, self.warped, self, absent, empty=0.0)

    def recall(self, absent: Absent = "nan") -> np.ndarray:
        return _ratio(self.both, self.fixed, self, absent, empty=0.0)


def overlap_counts(
    warped_labels: LabelMap, fixed_labels: LabelMap, ids: Sequence[int]
) -> OverlapCounts:
    """Joint histogram of two label maps `(D, H, W)` or `(1, 1, D, H, W)`, reduced to `ids`."""
    warped, fixed = as_pair("overlap_counts", warped_labels, fixed_labels)
    require_distinct("overlap_counts", ids)
    labels = len(ids)
    joint = to_index(warped, ids) * (labels + 1) + to_index(fixed, ids)
    table = np.bincount(joint.ravel(), minlength=(labels + 1) ** 2).reshape(labels + 1, -1)
    return OverlapCounts(
        table.diagonal()[:labels].copy(), table.sum(1)[:labels], table.sum(0)[:labels]
    )


def dice(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    absent: Absent = "nan",
) -> np.ndarray:
    """Dice similarity coefficient per id, 2|A and B| / (|A| + |B|), as fractions `(len(ids),)`."""
    return overlap_counts(warped_labels, fixed_labels, ids).dice(absent)


def precision(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    absent: Absent = "nan",
) -> np.ndarray:
    """Share of the warped label's voxels that carry the label in the fixed map, per id."""
    return overlap_counts(warped_labels, fixed_labels, ids).precision(absent)


def recall(
    warped_labels: LabelMap,
    fixed_labels: LabelMap,
    ids: Sequence[int],
    absent: Absent = "nan",
) -> np.ndarray:
    """Share of the fixed label's voxels that the warped label covers, per id."""
    return overlap_counts(warped_labels, fixed_labels, ids).recall(absent)


def _ratio(
    numerator: np.ndarray,
    denominator: np.ndarray,
    counts: OverlapCounts,
    absent: Absent,
    empty: float,
) -> np.ndarray:
    if absent not in ("nan", "released"):
        raise ValueError(f"expected absent='nan' or 'released', got {absent!r}.")
    result = np.zeros(len(denominator))
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    nowhere = (counts.warped == 0) & (counts.fixed == 0)
    result[nowhere] = np.nan if absent == "nan" else empty
    return result
