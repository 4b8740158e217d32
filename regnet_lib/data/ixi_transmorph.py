"""IXI as the TransMorph authors publish it, the set of AD-RegNet's Tables III and IV.

    ixi_transmorph/atlas.pkl                  the moving image of every pair
    ixi_transmorph/Train/subject_1.pkl        403 subjects (the numbers have gaps)
    ixi_transmorph/Val/subject_2.pkl          58
    ixi_transmorph/Test/subject_3.pkl         115

Each file is the pickle of (image, label map), 160x192x224 voxels of 1 mm, the image in [0, 1], the
map with FreeSurfer's numbers. Read by a reader that runs no code (`pickles.py`). Atlas to patient:
moving = atlas, fixed = subject, the other way round than `IXI`. The files carry no voxel-to-world
matrix: the world of these cases is the array itself, 1 mm per voxel.

    dataset = IXITransMorph()            # looks in $REGNET_DATA/ixi_transmorph
    case = dataset.case("Test/subject_3")              # (1, 1, 160, 192, 224)
"""

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.freesurfer import ASEG_30, ASEG_IDS, STRUCTURES
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.pickles import read_pickled_arrays
from regnet_lib.data.preprocess import to_unit_range
from regnet_lib.data.volume import BadInputError, Volume

ATLAS = "atlas"
FOLDERS = {"train": "Train", "validation": "Val", "test": "Test"}


class IXITransMorph(SubjectPairs):
    """The adapter.

    Args:
        root: folder with the layout above (the archive's `IXI_data`); default
            `$REGNET_DATA/ixi_transmorph`.
        merged: False: labels are positions in `freesurfer.ASEG_IDS`, 30 of them evaluated. The
            published means average left and right afterwards, by `freesurfer.STRUCTURES`. True:
            17 labels, 1 to 17 in the order of that table, left and right joined in the map; the
            Dice of a joined pair is not the mean of the two.
    """

    name = "ixi_transmorph"
    markers = ("atlas.pkl",)

    def __init__(self, root: str | os.PathLike | None = None, *, merged: bool = False) -> None:
        super().__init__(root)
        self.merged = merged
        self.label_ids = tuple(range(1, 1 + len(STRUCTURES))) if merged else ASEG_30
        self._codes = _code_of_position(merged)

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """Fixed subjects of `train`, `validation` and `test`, the authors' folders, by number."""
        splits = {}
        for split, folder in FOLDERS.items():
            names = (path.stem for path in (self.root / folder).glob("subject_*.pkl"))
            numbered = sorted(names, key=lambda name: int(re.sub(r"\D", "", name) or 0))
            splits[split] = tuple(f"{folder}/{name}" for name in numbered)
        return splits

    def pair(self, case_id: str) -> tuple[str, str]:
        """The atlas and the subject."""
        return ATLAS, case_id

    def image_path(self, subject: str) -> Path:
        """Where image and label map of a subject lie."""
        return self.root / f"{subject}.pkl"

    def label_path(self, subject: str) -> Path:
        """Where image and label map of a subject lie."""
        return self.image_path(subject)

    def read_image(self, subject: str) -> Volume:
        """The image, float32 in [0, 1]."""
        path = self.image_path(subject)
        array, _ = self._read(path)
        if not np.isfinite(array).all():
            raise BadInputError(f"{path}: expected finite voxels, found NaN or infinity.")
        array = np.ascontiguousarray(array, dtype=np.float32)
        return to_unit_range(Volume(array, np.eye(4)), path)

    def read_labels(self, subject: str) -> Volume:
        """The label map; FreeSurfer numbers outside the table become background, as theirs do."""
        path = self.label_path(subject)
        _, array = self._read(path)
        whole = array.astype(np.int64)
        if not (whole == array).all() or whole.min() < 0:
            raise BadInputError(
                f"{path}: expected whole numbers from 0 on in the label map, found fractions or "
                "negative ones. Fetch it again."
            )
        code = np.zeros(max(int(whole.max()), *ASEG_IDS) + 1, dtype=np.uint8)
        code[list(ASEG_IDS)] = self._codes
        labels = code[whole]
        if not labels.any():
            raise BadInputError(
                f"{path}: expected FreeSurfer labels (2, 3, 4, ...), found none of them but "
                f"{np.unique(whole)[:8].tolist()}. Fetch it again."
            )
        return Volume(labels, np.eye(4))

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        image, labels = read_pickled_arrays(path, count=2)
        if image.ndim != 3 or labels.shape != image.shape or min(image.shape) < 2:
            raise BadInputError(
                f"{path}: expected an image and a label map of one 3-D shape, found "
                f"{image.shape} and {labels.shape}. Fetch it again."
            )
        return image, labels


def _code_of_position(merged: bool) -> np.ndarray:
    """Label for each position in `ASEG_IDS`: the position, or the number of its structure."""
    if not merged:
        return np.arange(len(ASEG_IDS), dtype=np.uint8)
    codes = np.zeros(len(ASEG_IDS), dtype=np.uint8)
    for number, positions in enumerate(STRUCTURES.values(), start=1):
        codes[list(positions)] = number
    return codes


def write_fake_ixi_transmorph(
    root: str | os.PathLike,
    *,
    shape: tuple[int, int, int] = (32, 32, 32),
    train: int = 2,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in the layout of `IXITransMorph`: the atlas, `train` subjects, 1 + 1 more."""
    root = Path(root)
    aseg = np.array([0, 3, 2, 4, 43, 12, 51, 16], dtype=np.int16)
    names = [ATLAS, "Test/subject_3", "Val/subject_2"]
    names += [f"Train/subject_{number}" for number in range(9, 9 + train)]
    for index, name in enumerate(names):
        image, labels = fake_subject(shape, index)
        content = (image, aseg[labels])
        path = root / f"{name}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = pickle.dumps(content, protocol=4)
        write_atomically(path, lambda file, data=data: file.write_bytes(data), overwrite=overwrite)
    return root
