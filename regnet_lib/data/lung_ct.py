"""Learn2Reg Lung CT, Table 6 of LGANet++: 30 people, breathed in and breathed out.

The layout since 2021, `Tr` for 0001 to 0020 and `Ts` for 0021 to 0030 (192x192x208 voxels of
1.75x1.25x1.75 mm):

    lung_ct/imagesTr/LungCT_0001_0000.nii.gz       0000 breathed out, 0001 breathed in
    lung_ct/masksTr/LungCT_0001_0000.nii.gz        1 = lung
    lung_ct/keypointsTr/LungCT_0001_0000.csv       automatic correspondences
    lung_ct/landmarksTr/LungCT_0001_0000.csv       manual ones, where they are published

and that of 2020, training cases only. Its key points are not read: their frame is unchecked.

    lung_ct/scans/case_001_exp.nii.gz              and case_001_insp.nii.gz
    lung_ct/lungMasks/case_001_exp.nii.gz

Lists of points hold one voxel x,y,z per line, counted from 0; row i corresponds between the files.

    dataset = LungCT()                       # looks in $REGNET_DATA/lung_ct
    case = dataset.case("LungCT_0021")       # (1, 1, 192, 192, 96)
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from regnet_lib.data.case import Case
from regnet_lib.data.landmarks import on_grid, read_pairs, require_inside
from regnet_lib.data.lungs import fake_lungs
from regnet_lib.data.nifti import BadInputError, Volume, read_volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import keep_slices, to_min_max
from regnet_lib.types import Points

Layout = Literal["2021", "2020"]
Breath = Literal["exhale", "inhale"]
Kind = Literal["landmarks", "keypoints"]

TRAIN_IDS = tuple(f"LungCT_{number:04d}" for number in range(1, 21))
TEST_IDS = tuple(f"LungCT_{number:04d}" for number in range(21, 31))
# LGANet++ keeps these slices: 192x192x208 -> 192x192x96. The ends of the lungs are cut off.
SLICES = (44, 140)
_SCANS: dict[Breath, str] = {"exhale": "0000", "inhale": "0001"}
_FIRST_MASKS = ("masksTr/LungCT_0001_0000.nii.gz", "lungMasks/case_001_exp.nii.gz")


class LungCT(SubjectPairs):
    """The adapter; the layout is found by the first scan.

    Args:
        root: folder with one of the layouts above; default `$REGNET_DATA/lung_ct`.
        crop: `lganetpp`, the authors' slices, or None, all of them.
        images: `scans`, or `masks` to register the lung masks: for copies without the scans.
        fixed: which scan is fixed; Learn2Reg registers the inhaled scan to the exhaled one.
        points: what becomes the landmarks of a case, where the file is there.
        split: `lganetpp`, 20 to train on and 10 to test; or `learn2reg`, which validates on the
            first three, those with manual landmarks, and trains on 17.
    """

    name = "lung_ct"
    label_ids = (1,)
    markers = ("imagesTr/LungCT_0001_0000.nii.gz", "scans/case_001_exp.nii.gz")
    largest_label = 1

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        crop: Literal["lganetpp"] | None = "lganetpp",
        images: Literal["scans", "masks"] = "scans",
        fixed: Breath = "exhale",
        points: Kind = "landmarks",
        split: Literal["lganetpp", "learn2reg"] = "lganetpp",
    ) -> None:
        chosen = {"crop": crop, "images": images, "fixed": fixed, "points": points, "split": split}
        _require_options(chosen)
        if images == "masks":
            self.markers = _FIRST_MASKS
        super().__init__(root)
        self.layout: Layout = "2021" if (self.root / self.markers[0]).exists() else "2020"
        self.crop, self.images, self.fixed, self.points = crop, images, fixed, points
        self._validation = TRAIN_IDS[:3] if split == "learn2reg" else ()
        self._landmarks: dict[str, tuple[Points, Points] | None] = {}

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """People by split; `test` exists in the layout of 2021 only."""
        train = tuple(name for name in TRAIN_IDS if name not in self._validation)
        splits = {"train": train}
        if self._validation:
            splits["validation"] = self._validation
        return splits | ({"test": TEST_IDS} if self.layout == "2021" else {})

    def pair(self, case_id: str) -> tuple[str, str]:
        """The two scans of a person."""
        if case_id not in TRAIN_IDS + TEST_IDS:
            raise BadInputError(
                f"{self.root}: expected one of {TRAIN_IDS[0]} to {TEST_IDS[-1]}, got {case_id!r}. "
                "Take a name from ids(split)."
            )
        fixed = _SCANS[self.fixed]
        moving = "0001" if fixed == "0000" else "0000"
        return f"{case_id}_{moving}", f"{case_id}_{fixed}"

    def image_path(self, subject: str) -> Path:
        """Where a scan lies, or its mask with `images="masks"`."""
        return self._path("images" if self.images == "scans" else "masks", subject)

    def label_path(self, subject: str) -> Path:
        """Where the lung mask of a scan lies."""
        return self._path("masks", subject)

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """The authors' slices, then the intensities of the scan from 0 to 1."""
        if self.crop:
            volume = keep_slices(volume, *SLICES, path)
        return volume if labels else to_min_max(volume, path)

    def case(self, case_id: str, *, labels: bool = True) -> Case:
        """The pair with its landmarks; those that the crop leaves outside stay in the list."""
        case = super().case(case_id, labels=labels)
        if case_id not in self._landmarks:
            self._landmarks[case_id] = self._read_landmarks(case)
        if self._landmarks[case_id] is None:
            return case
        moving, fixed = self._landmarks[case_id]
        return replace(case, moving_landmarks=moving, fixed_landmarks=fixed)

    def _read_landmarks(self, case: Case) -> tuple[Points, Points] | None:
        subjects = self.pair(case.id)
        paths = [self.points_path(subject) for subject in subjects]
        if self.layout == "2020" or not any(path.exists() for path in paths):
            return None
        scan = read_volume(self.image_path(subjects[1]))
        points = read_pairs(*paths)
        for path, listed in zip(paths, points, strict=True):
            require_inside(listed, scan.array.shape, path)
        moving, fixed = (on_grid(listed, scan.affine, case.affine) for listed in points)
        return moving, fixed

    def points_path(self, subject: str) -> Path:
        """Where the points of a scan lie, in the layout of 2021."""
        stage = "Ts" if subject.rpartition("_")[0] in TEST_IDS else "Tr"
        return self.root / f"{self.points}{stage}" / f"{subject}.csv"

    def _path(self, kind: Literal["images", "masks"], subject: str) -> Path:
        case_id, _, scan = subject.rpartition("_")
        if self.layout == "2020":
            folder = "scans" if kind == "images" else "lungMasks"
            breath = "exp" if scan == "0000" else "insp"
            return self.root / folder / f"case_{case_id[-3:]}_{breath}.nii.gz"
        stage = "Ts" if case_id in TEST_IDS else "Tr"
        return self.root / f"{kind}{stage}" / f"{subject}.nii.gz"


def _require_options(chosen: Mapping[str, str | None]) -> None:
    known: dict[str, tuple[str | None, ...]] = {
        "crop": ("lganetpp", None),
        "images": ("scans", "masks"),
        "fixed": ("exhale", "inhale"),
        "points": ("landmarks", "keypoints"),
        "split": ("lganetpp", "learn2reg"),
    }
    for option, value in chosen.items():
        if value not in known[option]:
            raise ValueError(
                f"LungCT: expected {option}={' or '.join(map(repr, known[option]))}, got {value!r}."
            )


def write_fake_lung_ct(
    root: str | os.PathLike,
    layout: Layout = "2021",
    *,
    shape: tuple[int, int, int] = (32, 32, 150),
    train: int = 2,
    test: int = 1,
    scans: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in one of the layouts of `LungCT`; `scans=False` leaves out the images.

    `shape` is the shape on disk; the crop needs 140 slices. The first `train` and `test` people
    are written. Moving phantom = inhaled scan.
    """
    root = Path(root)
    dataset = LungCT.__new__(LungCT)
    dataset.root, dataset.layout = root, layout
    affine = np.diag([1.75, 1.25, 1.75, 1.0])
    for seed, case_id in enumerate((*TRAIN_IDS[:train], *TEST_IDS[: test * (layout == "2021")])):
        fake = fake_lungs(shape, seed)
        for scan, image, mask, points in (
            ("0000", fake.fixed, fake.fixed_mask, fake.phantom.fixed_landmarks),
            ("0001", fake.moving, fake.moving_mask, fake.phantom.moving_landmarks),
        ):
            subject = f"{case_id}_{scan}"
            volumes = {dataset._path("masks", subject): mask}
            if scans:
                volumes[dataset._path("images", subject)] = image
            for path, array in volumes.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_volume(path, array, affine, overwrite=overwrite)
            if layout == "2020":
                continue
            for kind in ("landmarks", "keypoints"):
                dataset.points = kind
                path = dataset.points_path(subject)
                path.parent.mkdir(exist_ok=True)
                np.savetxt(path, points.numpy(), fmt="%.3f", delimiter=",")
    return root
