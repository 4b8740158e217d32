"""Where real data lie: `$REGNET_DATA` is a folder with one sub-folder per dataset.

root = dataset_folder("lpba40", expected=("fixed.nii.gz",))
"""

import os
from collections.abc import Sequence
from pathlib import Path

from regnet_lib.data.nifti import BadInputError

VARIABLE = "REGNET_DATA"


def dataset_folder(
    name: str, root: str | os.PathLike | None = None, *, expected: Sequence[str]
) -> Path:
    """Folder of a dataset: `root` if given, else `$REGNET_DATA/<name>`.

    Args:
        expected: files that mark the dataset, one per layout in which it is published; at least
            one of them must exist.
    """
    if root is None:
        if not os.environ.get(VARIABLE):
            raise BadInputError(
                f"{name}: the environment variable {VARIABLE} is not set. Point it to a folder "
                f"with one sub-folder per dataset (here {name}/), or use the dataset 'phantom'."
            )
        root = Path(os.environ[VARIABLE]) / name
    root = Path(root)
    if not _holds_one(root, expected):
        wanted = " or ".join(str(root / marker) for marker in expected)
        raise BadInputError(
            f"{name}: expected {wanted}, which does not exist. The layout is described in the "
            "module of regnet_lib.data that reads it and on the book's data page."
        )
    return root


def has_dataset(name: str, expected: Sequence[str]) -> bool:
    """Whether `$REGNET_DATA/<name>` holds a file that marks the dataset."""
    base = os.environ.get(VARIABLE)
    return bool(base) and _holds_one(Path(base) / name, expected)


def _holds_one(root: Path, expected: Sequence[str]) -> bool:
    return any((root / marker).exists() for marker in expected)
