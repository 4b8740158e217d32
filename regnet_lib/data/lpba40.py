"""LPBA40: 40 brains with 56 hand-drawn regions, in the layout that the LGANet++ authors publish.

    lpba40/fixed.nii.gz                                      the atlas, subject S01
    lpba40/test/S02.delineation.skullstripped.nii.gz         S02 to S10
    lpba40/train/S11.delineation.skullstripped.nii.gz        S11 to S40
    lpba40/label/S01.delineation.structure.label.nii.gz      S01 to S40

Every subject is registered to the atlas: moving = subject, fixed = S01. The paper's "10 for
testing" are the atlas and nine moving images, hence n = 9 in its Table 2. Images come
skull-stripped, affinely aligned and divided by their maximum; 8 voxels are cropped from every face
(160x192x160 -> 144x176x144), exactly what the authors do.

    dataset = LPBA40(spacing_mm=2)         # looks in $REGNET_DATA/lpba40
    case = dataset.case("S02")             # (1, 1, 72, 88, 72)
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from regnet_lib.data.case import Case
from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.folders import dataset_folder
from regnet_lib.data.nifti import (
    BadInputError,
    Volume,
    read_volume,
    require_same_grid,
    write_volume,
)
from regnet_lib.data.preprocess import crop, end_for_end, halve_image, halve_labels

ATLAS = "S01"
TEST_IDS = tuple(f"S{number:02d}" for number in range(2, 11))
TRAIN_IDS = tuple(f"S{number:02d}" for number in range(11, 41))
LABEL_IDS = (
    *range(21, 35),
    *range(41, 51),
    *range(61, 69),
    *range(81, 93),
    101,
    102,
    121,
    122,
    *range(161, 167),
    181,
    182,
)
CROP_VOXELS = 8


class LPBA40:
    """The adapter; reads each file once and keeps it in memory.

    Args:
        root: folder with the layout above; default `$REGNET_DATA/lpba40`.
        spacing_mm: 1 (as published), 2 or 4: means of 2x2x2 voxels for images, every second voxel
            for labels, after the crop, once or twice.
        cropped: the authors' crop. False keeps the whole field of view and sets `Case.region` to
            the crop, for methods that register whole volumes but are evaluated on the crop (SyN).
        like_ixi: arrays turned end for end along all three axes, so that left, back and down grow
            as in the other brains (`freesurfer.ORIENTATION`): for networks trained on those. The
            headers lie about the first two axes (book/data.md), so no reader can do this for us.
        fixed: a test subject that takes the place of the atlas; it is no moving one then.
    """

    name = "lpba40"
    label_ids = LABEL_IDS
    markers = ("fixed.nii.gz",)

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        spacing_mm: Literal[1, 2, 4] = 1,
        cropped: bool = True,
        like_ixi: bool = False,
        fixed: str = ATLAS,
    ) -> None:
        if spacing_mm not in (1, 2, 4):
            raise ValueError(f"LPBA40: expected spacing_mm=1, 2 or 4, got {spacing_mm!r}.")
        if fixed not in (ATLAS, *TEST_IDS):
            raise ValueError(f"LPBA40: expected fixed={ATLAS!r} or of {TEST_IDS}, got {fixed!r}.")
        self.root = dataset_folder(self.name, root, expected=self.markers)
        self.spacing_mm = spacing_mm
        self.cropped = cropped
        self.like_ixi = like_ixi
        self.fixed = fixed
        self._volumes: dict[tuple[str, bool], Volume] = {}

    def ids(self, split: str) -> tuple[str, ...]:
        """Moving subjects of `train` (S11 to S40) or `test` (S02 to S10)."""
        splits = {"train": TRAIN_IDS, "test": TEST_IDS}
        if split not in splits:
            raise ValueError(f"LPBA40: expected split 'train' or 'test', got {split!r}.")
        return tuple(subject for subject in splits[split] if subject != self.fixed)

    def case(self, case_id: str, *, labels: bool = True) -> Case:
        """Subject `case_id` (moving) and the atlas (fixed); label maps on request."""
        moving, fixed = self._image(case_id), self._image(self.fixed)
        require_same_grid(moving, fixed, self.image_path(case_id), self.image_path(self.fixed))
        region = None
        if not self.cropped:
            margin = CROP_VOXELS // self.spacing_mm
            region = tuple(slice(margin, side - margin) for side in fixed.array.shape)
        return Case(
            id=case_id,
            moving=torch.from_numpy(moving.array)[None, None],
            fixed=torch.from_numpy(fixed.array)[None, None],
            affine=fixed.affine,
            moving_labels=self._labels(case_id) if labels else None,
            fixed_labels=self._labels(self.fixed) if labels else None,
            label_ids=LABEL_IDS,
            region=region,
        )

    def image_path(self, subject: str) -> Path:
        """Where the image of a subject lies."""
        if subject == ATLAS:
            return self.root / "fixed.nii.gz"
        folder = "test" if subject in TEST_IDS else "train"
        return self.root / folder / f"{subject}.delineation.skullstripped.nii.gz"

    def label_path(self, subject: str) -> Path:
        """Where the label map of a subject lies."""
        return self.root / "label" / f"{subject}.delineation.structure.label.nii.gz"

    def _image(self, subject: str) -> Volume:
        return self._load(subject, labels=False)

    def _labels(self, subject: str) -> torch.Tensor:
        volume = self._load(subject, labels=True)
        expected = self._image(ATLAS).array.shape
        if volume.array.shape != expected:
            raise BadInputError(
                f"{self.label_path(subject)}: expected the shape of the images, {expected} after "
                f"cropping, found {volume.array.shape}. Fetch the file again."
            )
        if not np.allclose(volume.affine, self._image(ATLAS).affine, atol=1e-3):
            raise BadInputError(
                f"{self.label_path(subject)}: expected the voxel-to-world matrix of the images, "
                f"found {volume.affine.round(4).tolist()}. Fetch the file again."
            )
        return torch.from_numpy(volume.array.astype(np.int64))[None, None]

    def _load(self, subject: str, *, labels: bool) -> Volume:
        key = (subject, labels)
        if key not in self._volumes:
            path = self.label_path(subject) if labels else self.image_path(subject)
            volume = read_volume(path, labels=labels)
            if self.cropped:
                volume = crop(volume, CROP_VOXELS)
            for _ in range(self.spacing_mm // 2):  # not at all, once, twice
                volume = halve_labels(volume) if labels else halve_image(volume)
            if self.like_ixi:
                volume = end_for_end(volume)
            if labels:  # one byte per voxel in memory
                if volume.array.max() > 255:
                    raise BadInputError(
                        f"{path}: expected LPBA40 labels up to {max(LABEL_IDS)}, found "
                        f"{volume.array.max()}. Fetch the file again."
                    )
                volume = Volume(volume.array.astype(np.uint8), volume.affine)
            self._volumes[key] = volume
        return self._volumes[key]


def write_fake_lpba40(
    root: str | os.PathLike,
    *,
    shape: tuple[int, int, int] = (48, 48, 48),
    train: int = 2,
    test: int = 2,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in the layout and with the label ids of LPBA40, so that tests use the adapter.

    `shape` is the shape after cropping. Only the first `train` and `test` subjects are written.
    """
    root = Path(root)
    for folder in ("train", "test", "label"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    full = tuple(side + 2 * CROP_VOXELS for side in shape)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    codes = np.array([0, *LABEL_IDS[:7]], dtype=np.uint8)
    dataset = LPBA40.__new__(LPBA40)
    dataset.root = root
    for index, subject in enumerate((ATLAS, *TEST_IDS[:test], *TRAIN_IDS[:train])):
        image, labels = fake_subject(full, index)
        write_volume(dataset.image_path(subject), image, affine, overwrite=overwrite)
        write_volume(dataset.label_path(subject), codes[labels], affine, overwrite=overwrite)
    return root
