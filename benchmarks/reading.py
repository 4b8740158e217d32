"""Reading and checking a volume against nibabel's own read, which checks neither header nor voxels.

The file has 160 x 192 x 160 voxels, the size of an OASIS or IXI brain: a phantom-like image with
noise, stored compressed as 16-bit integers (what scanners and data sets use) and as float32.
"""

import tempfile
from functools import partial
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.measure import Comparison
from regnet_lib.data import read_volume

SHAPE = (160, 192, 160)
# `measure` gives other / ours; at most 1.3 times nibabel's time is at least 1 / 1.3.
TARGET = 1 / 1.3
EXPLANATION = ""
FOLDER = tempfile.TemporaryDirectory(prefix="regnet-reading-")


def comparisons() -> list[Comparison]:
    return [
        Comparison(
            case=f"read {'x'.join(map(str, SHAPE))} {name}",
            ours=partial(_ours, path),
            other=partial(_nibabel, path),
            other_name="nibabel's get_fdata",
            check=_equal,
            target=TARGET,
            rounds=7,
        )
        for name, path in _files().items()
    ]


def _files() -> dict[str, Path]:
    random = np.random.default_rng(0)
    distance = sum(
        ((index - (side - 1) / 2) / (0.4 * side)) ** 2
        for index, side in zip(np.indices(SHAPE, dtype=np.float32, sparse=True), SHAPE, strict=True)
    )
    image = np.where(distance < 1, 600 + 200 * np.cos(9 * distance), 0)
    image = image + np.where(distance < 1, 30 * random.standard_normal(SHAPE), 0)
    folder = Path(FOLDER.name)
    files = {}
    for name, dtype, suffix in (
        ("int16, .nii.gz", np.int16, "nii.gz"),
        ("float32, .nii.gz", np.float32, "nii.gz"),
        ("int16, .nii", np.int16, "nii"),
    ):
        path = folder / f"{np.dtype(dtype).name}.{suffix}"
        nibabel.save(nibabel.Nifti1Image(image.astype(dtype), np.diag([1.0, 1, 1, 1])), path)
        files[name] = path
    return files


def _ours(path: Path) -> np.ndarray:
    return read_volume(path).array


def _nibabel(path: Path) -> np.ndarray:
    return nibabel.load(path).get_fdata(dtype=np.float32, caching="unchanged")


def _equal(ours: np.ndarray, other: np.ndarray) -> str:
    np.testing.assert_array_equal(ours, other)
    return "equal"
