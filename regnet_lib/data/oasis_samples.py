"""Two brains of OASIS with full-resolution labels, small enough to fetch with two repositories.

    oasis_samples/sub05_t1.nii.gz      the test scan of voxelmorph, 160x192x224 voxels of 1 mm
    oasis_samples/sub05_aseg.nii.gz    its FreeSurfer labels
    oasis_samples/sub06_t1.nii.gz      subject 1 of the Learn2Reg tutorial of 2019
    oasis_samples/sub06_aseg.nii.gz

One case: moving = sub05, fixed = sub06; with `both_ways` the reverse, too, named sub06. Labels keep
FreeSurfer's numbers. Which of the structures other sets have, too: `shared_structures`.

    case = OASISSamples(spacing_mm=2).case("sub05")    # (1, 1, 80, 112, 96)
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.freesurfer import ASEG_30, ASEG_IDS, ORIENTATION, aligned_brain
from regnet_lib.data.nifti import Volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import end_for_end, halve_image, halve_labels, reorient

SUBJECTS = ("sub05", "sub06")


class OASISSamples(SubjectPairs):
    """The adapter.

    Args:
        root: folder with the files above; default `$REGNET_DATA/oasis_samples`.
        spacing_mm: 1, the volumes on disk; 2, halved as those of `OASIS`; or 4, halved once more
            (means of 2x2x2 voxels, every second label voxel).
        both_ways: two cases, each brain onto the other.
        like_lpba40: arrays reversed along all three axes, so that the head stands as that of
            `LPBA40` does: for networks trained there. Halving comes after it and keeps other label
            voxels than without, so the Dice before registration differs a little, too.
    """

    name = "oasis_samples"
    label_ids = tuple(ASEG_IDS[position] for position in ASEG_30)
    markers = ("sub05_t1.nii.gz",)

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        spacing_mm: Literal[1, 2, 4] = 1,
        both_ways: bool = False,
        like_lpba40: bool = False,
    ) -> None:
        if spacing_mm not in (1, 2, 4):
            raise ValueError(f"OASISSamples: expected spacing_mm=1, 2 or 4, got {spacing_mm!r}.")
        super().__init__(root)
        self.spacing_mm = spacing_mm
        self.both_ways = both_ways
        self.like_lpba40 = like_lpba40

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """One case, in `test`, or two."""
        return {"test": SUBJECTS if self.both_ways else SUBJECTS[:1]}

    def pair(self, case_id: str) -> tuple[str, str]:
        """The subject and the other one."""
        return case_id, next(other for other in SUBJECTS if other != case_id)

    def image_path(self, subject: str) -> Path:
        """Where the image of a subject lies."""
        return self.root / f"{subject}_t1.nii.gz"

    def label_path(self, subject: str) -> Path:
        """Where the label map of a subject lies."""
        return self.root / f"{subject}_aseg.nii.gz"

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """LPI, intensities in [0, 1], perhaps halved."""
        volume = reorient(volume, ORIENTATION)
        if self.like_lpba40:
            volume = end_for_end(volume)
        fine = min(self.spacing_mm, 2)
        volume = aligned_brain(volume, path, labels=labels, spacing_mm=fine)
        if self.spacing_mm < 4:
            return volume
        return halve_labels(volume) if labels else halve_image(volume)


def write_fake_oasis_samples(
    root: str | os.PathLike,
    *,
    shape: tuple[int, int, int] = (48, 48, 48),
    overwrite: bool = False,
) -> Path:
    """Write two phantoms in the layout of `OASISSamples`, images as bytes."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    affine = np.array([[-1.0, 0, 0, 80], [0, 0, 1, -112], [0, -1, 0, 96], [0, 0, 0, 1]])
    codes = np.array([0, 3, 2, 4, 43, 12, 51, 16], dtype=np.uint8)
    for index, name in enumerate(SUBJECTS):
        image, labels = fake_subject(shape, index)
        stored = (255 * image).round().astype(np.uint8)
        write_volume(root / f"{name}_t1.nii.gz", stored, affine, overwrite=overwrite)
        write_volume(root / f"{name}_aseg.nii.gz", codes[labels], affine, overwrite=overwrite)
    return root
