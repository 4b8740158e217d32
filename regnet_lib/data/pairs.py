"""What the adapters of real data share: subjects on disk, registered in pairs.

An adapter says where files lie and how they are prepared; this class pairs them, checks that the
two volumes and their label maps share one grid, and keeps what it has read, labels in one byte per
voxel. The smallest adapter:

    class Mine(SubjectPairs):
        name = "mine"                      # $REGNET_DATA/mine
        label_ids = (1, 2)                 # what tables list
        markers = ("atlas.nii.gz",)        # a file that says: the data are here
        largest_label = 2

        def splits(self): return {"train": ("a", "b"), "test": ("c",)}
        def pair(self, case_id): return case_id, "atlas"          # moving, fixed
        def image_path(self, subject): return self.root / f"{subject}.nii.gz"
        def label_path(self, subject): return self.root / f"{subject}_labels.nii.gz"
        def prepare(self, volume, path, *, labels): return volume
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from regnet_lib.data.case import Case
from regnet_lib.data.folders import dataset_folder
from regnet_lib.data.nifti import BadInputError, Volume, read_volume, require_same_grid


class SubjectPairs:
    """Base of an adapter.

    Attributes:
        name: of the dataset and of its folder in `$REGNET_DATA`.
        label_ids: the labels to evaluate, in the order of every table.
        markers: files below the folder, one per layout; one of them must be there.
        largest_label: a label map with larger values is another kind of map, and refused.
        kept_mib: what is read is kept in memory up to this size; the rest is read again each time.
    """

    name = ""
    label_ids: tuple[int, ...] = ()
    markers: tuple[str, ...] = ()
    largest_label = 255
    kept_mib = 4096

    def __init__(self, root: str | os.PathLike | None = None) -> None:
        self.root = dataset_folder(self.name, root, expected=self.markers)
        self._kept: dict[tuple[str, bool], Volume] = {}
        self._kept_bytes = 0

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the cases, by split."""
        raise NotImplementedError

    def pair(self, case_id: str) -> tuple[str, str]:
        """The moving and the fixed subject of a case."""
        raise NotImplementedError

    def image_path(self, subject: str) -> Path:
        """Where the image of a subject lies."""
        raise NotImplementedError

    def label_path(self, subject: str) -> Path:
        """Where the label map of a subject lies."""
        raise NotImplementedError

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """From the volume on disk to the one that is registered; `path` is for error texts."""
        return volume

    def ids(self, split: str) -> tuple[str, ...]:
        """Names of the cases of a split."""
        splits = self.splits()
        if split not in splits:
            raise ValueError(
                f"{self.name}: expected a split of {', '.join(map(repr, splits))}, got {split!r}."
            )
        return splits[split]

    def case(self, case_id: str, *, labels: bool = True) -> Case:
        """The pair of that name; label maps on request."""
        moving_subject, fixed_subject = self.pair(case_id)
        moving, fixed = self._volume(moving_subject), self._volume(fixed_subject)
        require_same_grid(
            moving, fixed, self.image_path(moving_subject), self.image_path(fixed_subject)
        )
        return Case(
            id=case_id,
            moving=torch.from_numpy(moving.array)[None, None],
            fixed=torch.from_numpy(fixed.array)[None, None],
            affine=fixed.affine,
            moving_labels=self._labels(moving_subject, fixed) if labels else None,
            fixed_labels=self._labels(fixed_subject, fixed) if labels else None,
            label_ids=self.label_ids,
        )

    def read_image(self, subject: str) -> Volume:
        """The prepared image, float32; overridden where files are no NIfTI."""
        path = self.image_path(subject)
        return self.prepare(read_volume(path), path, labels=False)

    def read_labels(self, subject: str) -> Volume:
        """The prepared label map, whole numbers."""
        path = self.label_path(subject)
        return self.prepare(read_volume(path, labels=True), path, labels=True)

    def _labels(self, subject: str, image: Volume) -> torch.Tensor:
        volume = self._volume(subject, labels=True)
        path = self.label_path(subject)
        if volume.array.shape != image.array.shape:
            raise BadInputError(
                f"{path}: expected the shape of the images, {image.array.shape} once prepared, "
                f"found {volume.array.shape}. Fetch the file again."
            )
        if not np.allclose(volume.affine, image.affine, atol=1e-3):
            raise BadInputError(
                f"{path}: expected the voxel-to-world matrix of the images, "
                f"{image.affine.round(4).tolist()}, found {volume.affine.round(4).tolist()}. Fetch "
                "the file again."
            )
        return torch.from_numpy(volume.array.astype(np.int64))[None, None]

    def _volume(self, subject: str, *, labels: bool = False) -> Volume:
        key = (subject, labels)
        if key in self._kept:
            return self._kept[key]
        volume = self._compact_labels(subject) if labels else self.read_image(subject)
        if self._kept_bytes + volume.array.nbytes <= self.kept_mib * 2**20:
            self._kept[key] = volume
            self._kept_bytes += volume.array.nbytes
        return volume

    def _compact_labels(self, subject: str) -> Volume:
        """One byte per voxel in memory."""
        volume = self.read_labels(subject)
        if volume.array.max() > self.largest_label:
            raise BadInputError(
                f"{self.label_path(subject)}: expected {self.name} labels up to "
                f"{self.largest_label}, found {volume.array.max()}. Fetch the file again, and look "
                "whether it is the right kind of label map."
            )
        return Volume(volume.array.astype(np.uint8), volume.affine)
