"""Where real data lie: `$REGNET_DATA` is a folder with one sub-folder per dataset.

root = dataset_folder("lpba40", expected="fixed.nii.gz")
"""

import os
from pathlib import Path

from regnet_lib.data.nifti import BadInputError

VARIABLE = "REGNET_DATA"


def dataset_folder(name: str, root: str | os.PathLike | None = None, *, expected: str) -> Path:
    """Folder of a dataset: `root` if given, else `$REGNET_DATA/<name>`; must hold `expected`."""
    if root is None:
        if not os.environ.get(VARIABLE):
            raise BadInputError(
                f"{name}: the environment variable {VARIABLE} is not set. Point it to a folder "
                f"with one sub-folder per dataset (here {name}/), or use the dataset 'phantom'."
            )
        root = Path(os.environ[VARIABLE]) / name
    root = Path(root)
    if not (root / expected).exists():
        raise BadInputError(
            f"{name}: expected {root / expected}, which does not exist. The layout is described in "
            f"regnet_lib.data.{name} and on the book's data page."
        )
    return root


def has_dataset(name: str, expected: str) -> bool:
    """Whether `$REGNET_DATA/<name>` holds the file that marks the dataset."""
    base = os.environ.get(VARIABLE)
    return bool(base) and (Path(base) / name / expected).exists()
