"""OASIS, the external test of LGANet++ (Table 4), in either of its two published layouts.

Learn2Reg (160x224x192; the copy of the LGANet++ authors):

    oasis/imagesTr/OASIS_0414_0000.nii.gz          OASIS_0001 to OASIS_0414
    oasis/labelsTr/OASIS_0414_0000.nii.gz

neurite, the same subjects in the same order (160x192x224 in LIA, turned to LPI here):

    oasis/OASIS_OAS1_0457_MR1/aligned_norm.nii.gz  414 folders from OASIS_OAS1_0001_MR1 on
    oasis/OASIS_OAS1_0457_MR1/aligned_seg35.nii.gz
    oasis/OASIS_OAS1_0457_MR1/aligned_seg4.nii.gz  four tissues

Every subject is registered to the last one: fixed = OASIS_0414, hence the paper's n = 413. No one
trains on this set here, so `test` is the only split.

    dataset = OASIS()                    # looks in $REGNET_DATA/oasis
    case = dataset.case("OASIS_0001")    # (1, 1, 80, 112, 96)
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.freesurfer import ORIENTATION, SEG4, SEG35, aligned_brain
from regnet_lib.data.nifti import BadInputError, Volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import reorient

Layout = Literal["learn2reg", "neurite"]
Segmentation = Literal["seg35", "seg4"]

ATLASES: dict[Layout, str] = {"learn2reg": "OASIS_0414", "neurite": "OASIS_OAS1_0457_MR1"}
IMAGES: dict[Layout, str] = {
    "learn2reg": "imagesTr/{}_0000.nii.gz",
    "neurite": "{}/aligned_norm.nii.gz",
}
LABEL_MAPS: dict[Layout, str] = {
    "learn2reg": "labelsTr/{}_0000.nii.gz",
    "neurite": "{}/aligned_{segmentation}.nii.gz",
}
_SUBJECTS: dict[Layout, str] = {"learn2reg": "OASIS_????", "neurite": "OASIS_OAS1_????_MR?"}


class OASIS(SubjectPairs):
    """The adapter; the layout is found by the file of the atlas.

    Args:
        root: folder with one of the layouts above; default `$REGNET_DATA/oasis`.
        spacing_mm: 2, the authors' halved volumes, or 1, the volumes on disk.
        segmentation: `seg35`, 35 structures, or `seg4`, four tissues (neurite layout only).
    """

    name = "oasis"
    markers = tuple(IMAGES[layout].format(atlas) for layout, atlas in ATLASES.items())

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        spacing_mm: Literal[1, 2] = 2,
        segmentation: Segmentation = "seg35",
    ) -> None:
        if spacing_mm not in (1, 2):
            raise ValueError(f"OASIS: expected spacing_mm=1 or 2, got {spacing_mm!r}.")
        if segmentation not in ("seg35", "seg4"):
            raise ValueError(
                f"OASIS: expected segmentation='seg35' or 'seg4', got {segmentation!r}."
            )
        super().__init__(root)
        self.spacing_mm = spacing_mm
        self.segmentation = segmentation
        self.layout: Layout = "neurite"
        if (self.root / self.markers[0]).exists():
            self.layout = "learn2reg"
        if self.layout == "learn2reg" and segmentation == "seg4":
            raise BadInputError(
                f"{self.root}: expected the neurite layout for segmentation='seg4', found that of "
                "Learn2Reg, which has the 35 structures only. Choose segmentation='seg35'."
            )
        self.label_ids = tuple(SEG35 if segmentation == "seg35" else SEG4)
        self.largest_label = max(self.label_ids)

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """All subjects but the atlas, as `test`."""
        prefix, suffix = IMAGES[self.layout].split("{}")
        found = self.root.glob(f"{prefix}{_SUBJECTS[self.layout]}{suffix}")
        names = {str(path.relative_to(self.root).as_posix()) for path in found}
        subjects = {name.removeprefix(prefix).removesuffix(suffix) for name in names}
        return {"test": tuple(sorted(subjects - {ATLASES[self.layout]}))}

    def pair(self, case_id: str) -> tuple[str, str]:
        """The subject and the atlas."""
        return case_id, ATLASES[self.layout]

    def image_path(self, subject: str) -> Path:
        """Where the image of a subject lies."""
        return self.root / IMAGES[self.layout].format(subject)

    def label_path(self, subject: str) -> Path:
        """Where the label map of a subject lies."""
        name = LABEL_MAPS[self.layout].format(subject, segmentation=self.segmentation)
        return self.root / name

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """LPI, intensities in [0, 1], halved.

        Files of Learn2Reg are not turned: the authors use them as they are, and bring IXI to LPI.
        """
        if self.layout == "neurite":
            volume = reorient(volume, ORIENTATION)
        return aligned_brain(volume, path, labels=labels, spacing_mm=self.spacing_mm)


def write_fake_oasis(
    root: str | os.PathLike,
    layout: Layout,
    *,
    shape: tuple[int, int, int] = (48, 48, 48),
    subjects: int = 2,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in one of the layouts of `OASIS`, the atlas and `subjects` others.

    `shape` is the shape on disk, twice that of the cases.
    """
    root = Path(root)
    codes = np.array([0, 2, 1, 3, 22, 9, 28, 13], dtype=np.uint8)
    tissues = np.array([0, 1, 3, 4, 4, 2, 2, 2], dtype=np.uint8)
    learn2reg = layout == "learn2reg"
    affine = (
        np.diag([-1.0, -1.0, -1.0, 1.0])
        if learn2reg
        else np.array([[-1.0, 0, 0, 80], [0, 0, 1, -112], [0, -1, 0, 96], [0, 0, 0, 1]])
    )
    pattern = "OASIS_{:04d}" if learn2reg else "OASIS_OAS1_{:04d}_MR1"
    names = [ATLASES[layout], *(pattern.format(number) for number in range(1, 1 + subjects))]
    for index, name in enumerate(names):
        image, labels = fake_subject(shape, index)
        files = {IMAGES[layout].format(name): image}
        files[LABEL_MAPS[layout].format(name, segmentation="seg35")] = codes[labels]
        if not learn2reg:
            files[LABEL_MAPS[layout].format(name, segmentation="seg4")] = tissues[labels]
        for relative, array in files.items():
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            write_volume(root / relative, array, affine, overwrite=overwrite)
    return root
