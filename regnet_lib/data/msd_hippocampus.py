"""Hippocampus crops of the Medical Segmentation Decathlon (task 4): real pairs, small and quick.

The official layout, 260 crops with labels 1 (anterior) and 2 (posterior):

    msd_hippocampus/imagesTr/hippocampus_001.nii.gz    about 35x50x36 voxels of 1 mm, RAS
    msd_hippocampus/labelsTr/hippocampus_001.nii.gz

or one file with some of them, already padded: `vol` and `seg` (N, 48, 64, 48) bytes, `ids` (N,):

    msd_hippocampus/hippocampus_48x64x48.npz

Intensities end at their 99.9th percentile, which becomes 1. Crops are padded with zeros around
their centre to 48x64x48, whose middle is the origin of the world: where the crop lay in the head
is forgotten, so a pair starts aligned by the centres of its boxes.

The names alone decide who trains and who is tested (`splits.split_by_hash`, a tenth for
validation, a fifth for testing). Within a split every subject is registered to the next one, the
last to the first, in the order of the names: each is moving once and fixed once.

    dataset = Hippocampus()              # looks in $REGNET_DATA/msd_hippocampus
    case = dataset.case(dataset.ids("test")[0])        # (1, 1, 48, 64, 48)
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from regnet_lib.data.atomic import write_arrays
from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.nifti import BadInputError, Volume, read_volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import pad_to, reorient, to_unit_range
from regnet_lib.data.splits import split_by_hash

SHAPE = (48, 64, 48)
PACKED = "hippocampus_48x64x48.npz"


class Hippocampus(SubjectPairs):
    """The adapter; reads the packed file if it is there, else the official layout.

    Args:
        root: folder with one of the layouts above; default `$REGNET_DATA/msd_hippocampus`.
        train: use only so many subjects for training, the first ones; all of them if None.
    """

    name = "msd_hippocampus"
    label_ids = (1, 2)
    markers = (PACKED, "imagesTr/hippocampus_001.nii.gz")
    largest_label = 2

    def __init__(self, root: str | os.PathLike | None = None, *, train: int | None = None) -> None:
        super().__init__(root)
        self._packed: dict[str, tuple[np.ndarray, np.ndarray]] | None = None
        if (self.root / PACKED).exists():
            self._packed = _unpack(self.root / PACKED)
            subjects = list(self._packed)
        else:
            found = (self.root / "imagesTr").glob("hippocampus_*.nii.gz")
            subjects = [path.name.removesuffix(".nii.gz") for path in found]
        count = len(subjects)
        self._splits = split_by_hash(
            subjects, validation=round(0.1 * count), test=round(0.2 * count)
        )
        self._splits["train"] = self._splits["train"][:train]
        self._next = {
            subject: names[(index + 1) % len(names)]
            for names in self._splits.values()
            for index, subject in enumerate(names)
        }

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """Moving subjects of `train`, `validation` and `test`."""
        return self._splits

    def pair(self, case_id: str) -> tuple[str, str]:
        """The subject and the next one of its split."""
        if case_id not in self._next:
            raise BadInputError(
                f"{self.root}: expected one of {len(self._next)} subjects, got {case_id!r}. Take a "
                "name from ids(split)."
            )
        return case_id, self._next[case_id]

    def image_path(self, subject: str) -> Path:
        """Where the image of a subject lies."""
        if self._packed is not None:
            return self.root / PACKED
        return self.root / "imagesTr" / f"{subject}.nii.gz"

    def label_path(self, subject: str) -> Path:
        """Where the label map of a subject lies."""
        if self._packed is not None:
            return self.root / PACKED
        return self.root / "labelsTr" / f"{subject}.nii.gz"

    def read_image(self, subject: str) -> Volume:
        """The padded image, float32 in [0, 1]."""
        if self._packed is None:
            return super().read_image(subject)
        array = self._packed[subject][0].astype(np.float32)
        return to_unit_range(Volume(array, _centred(np.eye(4))), self.image_path(subject))

    def read_labels(self, subject: str) -> Volume:
        """The padded label map."""
        if self._packed is None:
            # Padding would hide a map that belongs to another crop.
            image, path = read_volume(self.image_path(subject)), self.label_path(subject)
            labels = read_volume(path, labels=True)
            if labels.array.shape != image.array.shape:
                raise BadInputError(
                    f"{path}: expected the shape of its image, {image.array.shape}, found "
                    f"{labels.array.shape}. Fetch it again."
                )
            return self.prepare(labels, path, labels=True)
        return Volume(self._packed[subject][1], _centred(np.eye(4)))

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """RAS, intensities in [0, 1], padded around the centre."""
        volume = reorient(volume, "RAS")
        if not labels:
            top = float(np.percentile(volume.array, 99.9))
            if volume.array.min() < 0 or top <= 0:
                raise BadInputError(
                    f"{path}: expected intensities from 0 up, found {volume.array.min():g} to "
                    f"{volume.array.max():g}. Fetch it again."
                )
            volume = Volume(np.minimum(volume.array / top, 1).astype(np.float32), volume.affine)
        if any(side > limit for side, limit in zip(volume.array.shape, SHAPE, strict=True)):
            raise BadInputError(
                f"{path}: expected a crop of at most {SHAPE} voxels, found {volume.array.shape}. "
                "Some copies of the set have a few larger files; leave those out."
            )
        padded = pad_to(volume, SHAPE)
        return Volume(padded.array, _centred(padded.affine))


def _centred(affine: np.ndarray) -> np.ndarray:
    """The same axes, with the origin of the world in the middle of the grid."""
    moved = affine.copy()
    moved[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return moved


def _unpack(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Image and label map by subject, as bytes."""
    try:
        with np.load(path, allow_pickle=False) as packed:
            images, labels, ids = packed["vol"], packed["seg"], packed["ids"]
    except Exception as error:  # a foreign or damaged archive can fail in many ways
        raise BadInputError(
            f"{path}: expected an .npz file with vol, seg and ids, found a damaged or foreign one "
            f"({error or type(error).__name__}). Fetch it again."
        ) from error
    shape = (len(ids), *SHAPE)
    if (
        images.shape != shape
        or labels.shape != shape
        or {images.dtype, labels.dtype} != {np.dtype(np.uint8)}
    ):
        raise BadInputError(
            f"{path}: expected vol and seg of shape {shape} in bytes, found {images.dtype} "
            f"{images.shape} and {labels.dtype} {labels.shape}. Fetch it again."
        )
    pairs = zip(images, labels, strict=True)
    return {str(name): pair for name, pair in zip(ids, pairs, strict=True)}


def write_fake_hippocampus(
    root: str | os.PathLike, *, subjects: int = 10, packed: bool = False, overwrite: bool = False
) -> Path:
    """Write phantoms in the official layout of `Hippocampus`, or `packed` into one file."""
    root = Path(root)
    numbers = [1, *range(3, 2 + subjects)]  # as in the official set, where 002 is for testing
    codes = np.array([0, 0, 0, 1, 1, 2, 2, 2], dtype=np.uint8)
    images, maps = [], []
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, number in enumerate(numbers):
        shape = SHAPE if packed else (33 + index % 3, 48 + index % 2, 34)
        image, labels = fake_subject(shape, index)
        if packed:
            images.append((255 * image).round().astype(np.uint8))
            maps.append(codes[labels])
            continue
        name = f"hippocampus_{number:03d}.nii.gz"
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        affine[:3, 3] = 1  # as the official files have it, whatever the subject
        write_volume(root / "imagesTr" / name, 1000 * image, affine, overwrite=overwrite)
        write_volume(root / "labelsTr" / name, codes[labels], affine, overwrite=overwrite)
    if packed:
        ids = np.array([f"hippocampus_{number:03d}" for number in numbers])
        content = {"vol": np.stack(images), "seg": np.stack(maps), "ids": ids}
        write_arrays(root / PACKED, overwrite=overwrite, **content)
    return root
