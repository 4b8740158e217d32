"""Adapters from files (or a seed) to cases.

dataset = open_dataset("lpba40", spacing_mm=2)
for case_id in dataset.ids("test"):
    case = dataset.case(case_id)
"""

import os
from typing import Protocol, runtime_checkable

from regnet_lib.data.case import Case
from regnet_lib.data.folders import has_dataset
from regnet_lib.data.lpba40 import LPBA40, write_fake_lpba40
from regnet_lib.data.nifti import BadInputError, Volume, read_volume, write_volume
from regnet_lib.data.phantoms import Phantoms, phantom_pair


@runtime_checkable
class Dataset(Protocol):
    """What training and evaluation need from a dataset."""

    name: str
    label_ids: tuple[int, ...]

    def ids(self, split: str) -> tuple[str, ...]: ...

    def case(self, case_id: str, *, labels: bool = True) -> Case: ...


DATASETS = {"lpba40": LPBA40, "phantom": Phantoms}

# A file that must exist in $REGNET_DATA/<name> for a dataset to count as present.
MARKERS = {"lpba40": "fixed.nii.gz"}


def open_dataset(name: str, root: str | os.PathLike | None = None, **options: object) -> Dataset:
    """A dataset by name; `root` overrides `$REGNET_DATA/<name>`."""
    if name not in DATASETS:
        raise ValueError(f"open_dataset: expected one of {sorted(DATASETS)}, got {name!r}.")
    if name in MARKERS:
        options["root"] = root
    return DATASETS[name](**options)


def available(name: str) -> bool:
    """Whether a dataset can be opened here; phantoms always can."""
    return name not in MARKERS or has_dataset(name, MARKERS[name])


__all__ = [
    "DATASETS",
    "LPBA40",
    "BadInputError",
    "Case",
    "Dataset",
    "Phantoms",
    "Volume",
    "available",
    "open_dataset",
    "phantom_pair",
    "read_volume",
    "write_fake_lpba40",
    "write_volume",
]
