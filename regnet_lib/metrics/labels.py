"""Label maps as the metrics see them: NumPy arrays, checked once."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

LabelMap = Tensor | np.ndarray


def as_pair(
    function: str, warped_labels: LabelMap, fixed_labels: LabelMap
) -> tuple[np.ndarray, np.ndarray]:
    """Two label maps of one shape without batch and channel axes, or a clear error."""
    maps = []
    for name, labels in (("warped_labels", warped_labels), ("fixed_labels", fixed_labels)):
        array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(
                f"{function}: expected integer {name}, got {array.dtype}. Convert with "
                "labels.astype(int) if the values are whole numbers."
            )
        if array.ndim == 4 and array.shape[:2] == (1, 1):
            array = array.reshape(array.shape[-2:])  # (1, 1, H, W) -> (H, W)
        elif array.ndim > 3 and array.shape[:-3] == (1,) * (array.ndim - 3):
            array = array.reshape(array.shape[-3:])  # (1, 1, D, H, W) -> (D, H, W)
        maps.append(array)
    if maps[0].shape != maps[1].shape or maps[0].ndim not in (2, 3):
        raise ValueError(
            f"{function}: expected two label maps of one shape (D, H, W), got "
            f"{tuple(warped_labels.shape)} and {tuple(fixed_labels.shape)}. Evaluate one case at "
            "a time."
        )
    return maps[0], maps[1]


def require_distinct(function: str, ids: Sequence[int]) -> None:
    """Published label lists repeat ids; a histogram would give all voxels to the last of them."""
    repeated = sorted({int(label) for label in ids if list(ids).count(label) > 1})
    if repeated:
        raise ValueError(
            f"{function}: expected every id once, got {repeated} more than once. Remove "
            "the copies; to weight a label twice, repeat its value in the result."
        )


def to_index(labels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Replace every label by its position in `ids`, and by `len(ids)` where it is none of them."""
    known = np.asarray(ids, dtype=np.int64)
    if known.size == 0:
        return np.zeros(labels.shape, dtype=np.int64)
    if labels.size and labels.min() >= 0 and labels.max() < 2**16:
        largest = int(labels.max())
        table = np.full(largest + 1, len(known))
        occurs = (known >= 0) & (known <= largest)
        table[known[occurs]] = np.flatnonzero(occurs)
        return table[labels]
    order = np.argsort(known)
    place = np.searchsorted(known, labels, sorter=order).clip(max=len(known) - 1)
    index = order[place]
    return np.where(known[index] == labels, index, len(known))
