"""Prostate MR and ultrasound with landmark masks: real pairs of two modalities, tiny.

    prostate_mr_us/train/moving_images/case000000.nii.gz    MR, 64x64x60 bytes
    prostate_mr_us/train/moving_labels/case000000.nii.gz    masks; the first is the gland
    prostate_mr_us/train/fixed_images/case000000.nii.gz     ultrasound, 44x59x41 bytes
    prostate_mr_us/train/fixed_labels/case000000.nii.gz     the same masks in the same order
    prostate_mr_us/test/...                                 25 pairs to train on, 2 to test

Test data of DeepReg (Apache-2.0), coarse on purpose. Both scans are padded with zeros around their
centres to 64x64x64: nothing says how they lie to each other, so a pair starts aligned by the
centres of its boxes. The files say 0.4 mm per voxel, with which a gland has about 1 ml, a thirtieth
of a real one: millimetres here are nominal.

Label 1 is the gland. The other masks mark small places of less than 300 voxels, such as cysts; they
may overlap the gland, so their centres of mass become the landmarks of a case.

    case = ProstateMRUS().case("case000025")       # (1, 1, 64, 64, 64)
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from regnet_lib.data.case import Case
from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.nifti import BadInputError, Volume, read_masks, read_volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import pad_to, to_unit_range
from regnet_lib.types import Points

SHAPE = (64, 64, 64)


class ProstateMRUS(SubjectPairs):
    """The adapter; subjects are called `moving/case000000` and `fixed/case000000`.

    Args:
        root: folder with the layout above; default `$REGNET_DATA/prostate_mr_us`.
        test: number of pairs to test, the last ones by number; default those in the folder `test`,
            which are 2, too few for a mean.
    """

    name = "prostate_mr_us"
    label_ids = (1,)
    markers = ("train/moving_images/case000000.nii.gz",)
    largest_label = 1

    def __init__(self, root: str | os.PathLike | None = None, *, test: int | None = None) -> None:
        super().__init__(root)
        self._folders = {
            split: tuple(
                sorted(
                    path.name.removesuffix(".nii.gz")
                    for path in (self.root / split / "moving_images").glob("case*.nii.gz")
                )
            )
            for split in ("train", "test")
        }
        names = sorted(self._folders["train"] + self._folders["test"])
        if test is not None and not 0 < test <= len(names):
            raise ValueError(f"ProstateMRUS: expected test from 1 to {len(names)}, got {test}.")
        self._splits = (
            self._folders
            if test is None
            else {"train": tuple(names[:-test]), "test": tuple(names[-test:])}
        )
        self._landmarks: dict[str, tuple[Points, Points] | None] = {}

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """`train` and `test`, as the folders have it or by number."""
        return self._splits

    def pair(self, case_id: str) -> tuple[str, str]:
        """MR and ultrasound of a patient."""
        return f"moving/{case_id}", f"fixed/{case_id}"

    def image_path(self, subject: str) -> Path:
        """Where a scan lies."""
        return self._path("images", subject)

    def label_path(self, subject: str) -> Path:
        """Where the masks of a scan lie."""
        return self._path("labels", subject)

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """Intensities in [0, 1], padded around the centre."""
        if any(side > limit for side, limit in zip(volume.array.shape, SHAPE, strict=True)):
            raise BadInputError(
                f"{path}: expected at most {SHAPE} voxels, found {volume.array.shape}. Fetch it "
                "again."
            )
        padded = pad_to(volume if labels else to_unit_range(volume, path), SHAPE)
        affine = padded.affine.copy()
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
        return Volume(np.ascontiguousarray(padded.array), affine)

    def read_labels(self, subject: str) -> Volume:
        """The gland."""
        return self.masks(subject)[0]

    def masks(self, subject: str) -> tuple[Volume, ...]:
        """All masks of a scan, padded, the gland first."""
        path = self.label_path(subject)
        masks = read_masks(path)
        # Padding would hide masks that belong to another scan.
        shape = read_volume(self.image_path(subject)).array.shape
        if masks[0].array.shape != shape:
            raise BadInputError(
                f"{path}: expected the shape of its image, {shape}, found "
                f"{masks[0].array.shape}. Fetch it again."
            )
        if not all(mask.array.any() for mask in masks):
            raise BadInputError(f"{path}: expected masks with voxels, found an empty one.")
        return tuple(self.prepare(mask, path, labels=True) for mask in masks)

    def case(self, case_id: str, *, labels: bool = True) -> Case:
        """The pair, with the centres of the masks behind the first as landmarks."""
        case = super().case(case_id, labels=labels)
        if case_id not in self._landmarks:
            self._landmarks[case_id] = self._centres(case_id)
        if self._landmarks[case_id] is None:
            return case
        moving, fixed = self._landmarks[case_id]
        return replace(case, moving_landmarks=moving, fixed_landmarks=fixed)

    def _centres(self, case_id: str) -> tuple[Points, Points] | None:
        moving, fixed = (self.masks(subject)[1:] for subject in self.pair(case_id))
        if len(moving) != len(fixed):
            raise BadInputError(
                f"{self.label_path(f'moving/{case_id}')}: expected as many masks as in "
                f"{self.label_path(f'fixed/{case_id}')}, {len(fixed) + 1}, found "
                f"{len(moving) + 1}. Fetch both again."
            )
        if not fixed:
            return None
        return _centres_of_mass(moving), _centres_of_mass(fixed)

    def _path(self, kind: str, subject: str) -> Path:
        scan, _, case_id = subject.partition("/")
        split = "test" if case_id in self._folders["test"] else "train"
        return self.root / split / f"{scan}_{kind}" / f"{case_id}.nii.gz"


def _centres_of_mass(masks: tuple[Volume, ...]) -> Points:
    centres = [np.argwhere(mask.array > 0).mean(axis=0) for mask in masks]
    return torch.from_numpy(np.array(centres, dtype=np.float32))


def write_fake_prostate_mr_us(
    root: str | os.PathLike, *, train: int = 3, test: int = 1, overwrite: bool = False
) -> Path:
    """Write phantoms in the layout of `ProstateMRUS`.

    Every third case has the gland only, as a 3-D file; the others have two more masks.
    """
    root = Path(root)
    affine = np.diag([0.4, 0.4, 0.4, 1.0])
    affine[:3, 3] = 0.4
    for index in range(train + test):
        split = "train" if index < train else "test"
        name = f"case{index:06d}.nii.gz"
        for scan, shape, person in (
            ("moving", (40, 40, 36), 2 * index),
            ("fixed", (32, 38, 30), 1),
        ):
            image, labels = fake_subject(shape, person)
            masks = np.stack([labels > 0, labels == 3, labels == 4], axis=-1).astype(np.uint8)
            if index % 3 == 2:
                masks = masks[..., 0]
            stored = (255 * (image if scan == "moving" else np.sqrt(image))).round()
            for kind, array in (("images", stored.astype(np.uint8)), ("labels", masks)):
                folder = root / split / f"{scan}_{kind}"
                folder.mkdir(parents=True, exist_ok=True)
                write_volume(folder / name, array, affine, overwrite=overwrite)
    return root
