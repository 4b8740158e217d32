"""IXI as LGANet++ and RDP use it (LGANet++ Table 3): the copy that FreeSurfer's server offers.

    ixi/IXI002-Guys-0828/aligned_norm.nii.gz       the atlas; skull-stripped, affinely aligned
    ixi/IXI002-Guys-0828/aligned_seg35.nii.gz      its label map, 35 structures
    ixi/IXI012-HH-1211/...                         576 folders in all

Every subject is registered to the atlas: moving = subject, fixed = IXI002-Guys-0828. On disk
160x192x224 voxels of 1 mm (LIA); here turned to LPI and halved, 80x112x96 voxels of 2 mm, which is
the 96x112x80 of the paper read backwards (SimpleITK counts axes from the other end).

Which of the 576 are the paper's 403, 58 and 115 is not published. Ours follow from the names by
`splits.split_by_hash`; the atlas counts as one of the 115, so 114 are tested, the paper's n.

    dataset = IXI()                               # looks in $REGNET_DATA/ixi
    case = dataset.case(dataset.ids("test")[0])   # (1, 1, 80, 112, 96)
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.freesurfer import ORIENTATION, SEG35, SEG35_30, aligned_brain
from regnet_lib.data.nifti import Volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import reorient
from regnet_lib.data.splits import split_by_hash

ATLAS = "IXI002-Guys-0828"
IMAGE, LABELS = "aligned_norm.nii.gz", "aligned_seg35.nii.gz"

# Paper, section 3.1.1: 576 = 403 + 58 + 115. The atlas is one of the 115.
ALL, VALIDATION, TEST = 576, 58, 115


class IXI(SubjectPairs):
    """The adapter.

    Args:
        root: folder with the layout above; default `$REGNET_DATA/ixi`.
        spacing_mm: 2, the authors' halved volumes, or 1, the volumes on disk.
        structures: 30, the paper's number and the list of its script for precision and recall,
            or 35, all of them.
    """

    name = "ixi"
    markers = (f"{ATLAS}/{IMAGE}",)
    largest_label = max(SEG35)

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        spacing_mm: Literal[1, 2] = 2,
        structures: Literal[30, 35] = 30,
    ) -> None:
        if spacing_mm not in (1, 2):
            raise ValueError(f"IXI: expected spacing_mm=1 or 2, got {spacing_mm!r}.")
        if structures not in (30, 35):
            raise ValueError(f"IXI: expected structures=30 or 35, got {structures!r}.")
        super().__init__(root)
        self.spacing_mm = spacing_mm
        self.label_ids = SEG35_30 if structures == 30 else tuple(SEG35)
        subjects = (path.parent.name for path in self.root.glob(f"IXI*/{IMAGE}"))
        self._splits = split_subjects(sorted(set(subjects) - {ATLAS}))

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """Moving subjects of `train`, `validation` and `test`; never the atlas."""
        return self._splits

    def pair(self, case_id: str) -> tuple[str, str]:
        """The subject and the atlas."""
        return case_id, ATLAS

    def image_path(self, subject: str) -> Path:
        """Where the image of a subject lies."""
        return self.root / subject / IMAGE

    def label_path(self, subject: str) -> Path:
        """Where the label map of a subject lies."""
        return self.root / subject / LABELS

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """LPI, intensities in [0, 1], halved."""
        volume = reorient(volume, ORIENTATION)
        return aligned_brain(volume, path, labels=labels, spacing_mm=self.spacing_mm)


def split_subjects(subjects: list[str]) -> dict[str, tuple[str, ...]]:
    """The split of all subjects but the atlas: 403, 58 and 114 of 575, other numbers in proportion.

    The split follows from the set of names, so leave no folder out: with another set some subjects
    change sides.
    """
    count = len(subjects) + 1
    return split_by_hash(
        subjects,
        validation=round(count * VALIDATION / ALL),
        test=max(round(count * TEST / ALL) - 1, 0),
    )


def write_fake_ixi(
    root: str | os.PathLike,
    *,
    shape: tuple[int, int, int] = (48, 48, 48),
    subjects: int = 8,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in the layout of `IXI`, the atlas and `subjects` others.

    `shape` is the shape on disk (LIA), twice that of the cases.
    """
    root = Path(root)
    codes = np.array([0, 1, 2, 3, 7, 9, 13, 20], dtype=np.uint8)
    affine = np.array([[-1.0, 0, 0, 80], [0, 0, 1, -112], [0, -1, 0, 96], [0, 0, 0, 1]])
    names = [ATLAS, *(f"IXI{number:03d}-HH-{number + 1199}" for number in range(12, 12 + subjects))]
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        image, labels = fake_subject(shape, index)
        write_volume(root / name / IMAGE, image, affine, overwrite=overwrite)
        write_volume(root / name / LABELS, codes[labels], affine, overwrite=overwrite)
    return root
