"""Learn2Reg Abdomen MR-CT, Table 5 of LGANet++: two modalities of one abdomen, four organs.

    abdomen_ctmr/imagesTr/AbdomenMRCT_0001_0000.nii.gz     MR of the eight pairs, 192x160x192
    abdomen_ctmr/imagesTr/AbdomenMRCT_0001_0001.nii.gz     their CT, in Hounsfield units
    abdomen_ctmr/imagesTr/AbdomenMRCT_1001_0001.nii.gz     unpaired scans have numbers above 1000
    abdomen_ctmr/labelsTr/AbdomenMRCT_0001_0000.nii.gz     1 liver, 2 spleen, 3 and 4 kidneys

Moving = CT, fixed = MR. The authors' slices 24 to 167 are kept (192x160x144 voxels). CT is clipped
to 800 HU on both sides; both are scaled so that the darkest voxel is 0 and the brightest 1. (The
authors' script standardises MR to mean 0 and deviation 1 before that, which changes nothing.)

The pairs 3 to 8 are tested. The paper trains on 90 random pairs of one CT and one MR each, without
saying which: ours are the pairs 1 and 2 and random pairs of the unpaired scans, drawn without
repetition from a seed. CT and MR of those are different people, seen on one grid.

    dataset = AbdomenCTMR()                     # looks in $REGNET_DATA/abdomen_ctmr
    case = dataset.case("AbdomenMRCT_0003")     # (1, 1, 192, 160, 144)
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.nifti import Volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import keep_slices, to_min_max

STRUCTURES = {1: "Liver", 2: "Spleen", 3: "Right-Kidney", 4: "Left-Kidney"}
TRAIN_PAIRS = tuple(f"AbdomenMRCT_{number:04d}" for number in (1, 2))
TEST_IDS = tuple(f"AbdomenMRCT_{number:04d}" for number in range(3, 9))
SLICES = (24, 168)
CT_LIMIT_HU = 800.0
_MR, _CT = "0000", "0001"


class AbdomenCTMR(SubjectPairs):
    """The adapter.

    Args:
        root: folder with the layout above; default `$REGNET_DATA/abdomen_ctmr`.
        crop: `lganetpp`, the authors' slices, or None, all of them.
        training_pairs: how many pairs `train` holds, fewer if there are not enough scans.
        seed: which unpaired scans form pairs.
    """

    name = "abdomen_ctmr"
    label_ids = tuple(STRUCTURES)
    markers = ("imagesTr/AbdomenMRCT_0001_0000.nii.gz",)
    largest_label = max(STRUCTURES)

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        crop: Literal["lganetpp"] | None = "lganetpp",
        training_pairs: int = 90,
        seed: int = 0,
    ) -> None:
        if crop not in ("lganetpp", None):
            raise ValueError(f"AbdomenCTMR: expected crop='lganetpp' or None, got {crop!r}.")
        if training_pairs < len(TRAIN_PAIRS):
            raise ValueError(
                f"AbdomenCTMR: expected training_pairs of at least {len(TRAIN_PAIRS)}, got "
                f"{training_pairs}."
            )
        super().__init__(root)
        self.crop = crop
        unpaired = _random_pairs(
            self._unpaired(_CT), self._unpaired(_MR), training_pairs - len(TRAIN_PAIRS), seed
        )
        self._pairs = {name: (f"{name}_{_CT}", f"{name}_{_MR}") for name in TRAIN_PAIRS + TEST_IDS}
        self._pairs |= unpaired
        self._train = (*TRAIN_PAIRS, *unpaired)

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """`train`, unpaired scans included, and `test`, the pairs 3 to 8."""
        return {"train": self._train, "test": TEST_IDS}

    def pair(self, case_id: str) -> tuple[str, str]:
        """CT and MR."""
        return self._pairs.get(case_id, (f"{case_id}_{_CT}", f"{case_id}_{_MR}"))

    def image_path(self, subject: str) -> Path:
        """Where a scan lies."""
        return self.root / "imagesTr" / f"{subject}.nii.gz"

    def label_path(self, subject: str) -> Path:
        """Where the organs of a scan lie."""
        return self.root / "labelsTr" / f"{subject}.nii.gz"

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """The authors' slices; intensities in [0, 1]."""
        if _number(path.name) > 1000:
            # Two people have no world in common: the origin is the middle of the grid.
            volume = Volume(volume.array, _centred(volume))
        if self.crop:
            volume = keep_slices(volume, *SLICES, path)
        if labels:
            return volume
        if path.name.endswith(f"_{_CT}.nii.gz"):
            clipped = np.clip(volume.array, -CT_LIMIT_HU, CT_LIMIT_HU)
            volume = Volume(clipped, volume.affine)
        return to_min_max(volume, path)

    def _unpaired(self, modality: str) -> list[str]:
        found = (self.root / "imagesTr").glob(f"AbdomenMRCT_[0-9][0-9][0-9][0-9]_{modality}.nii.gz")
        names = sorted(path.name.removesuffix(".nii.gz") for path in found)
        return [name for name in names if _number(name) > 1000]


def _random_pairs(
    ct: list[str], mr: list[str], count: int, seed: int
) -> dict[str, tuple[str, str]]:
    """Distinct pairs of the lists, under names like `AbdomenMRCT_1003-1061`."""
    possible = len(ct) * len(mr)
    random = np.random.default_rng(seed)
    chosen = sorted(random.choice(possible, min(count, possible), replace=False).tolist())
    pairs = [(ct[index // len(mr)], mr[index % len(mr)]) for index in chosen]
    return {f"AbdomenMRCT_{_number(a):04d}-{_number(b):04d}": (a, b) for a, b in pairs}


def _number(name: str) -> int:
    match = re.match(r"AbdomenMRCT_(\d+)_", name)
    return int(match[1]) if match else 0


def _centred(volume: Volume) -> np.ndarray:
    affine = np.diag([*volume.spacing_mm, 1.0])
    affine[:3, 3] = -(np.array(volume.array.shape) - 1) / 2 * volume.spacing_mm
    return affine


def write_fake_abdomen_ctmr(
    root: str | os.PathLike,
    *,
    shape: tuple[int, int, int] = (32, 32, 168),
    pairs: int = 3,
    unpaired: int = 2,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in the layout of `AbdomenCTMR`: `pairs` pairs, `unpaired` CT and MR each.

    `shape` is the shape on disk; the crop needs 168 slices. CT and MR of a pair differ in
    contrast and in place.
    """
    root = Path(root)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    organs = np.array([0, 1, 1, 2, 2, 3, 4, 4], dtype=np.uint8)
    subjects = [
        f"AbdomenMRCT_{number:04d}_{scan}" for number in range(1, 1 + pairs) for scan in (_MR, _CT)
    ]
    subjects += [f"AbdomenMRCT_{1001 + number}_{_CT}" for number in range(unpaired)]
    subjects += [f"AbdomenMRCT_{1051 + number}_{_MR}" for number in range(unpaired)]
    for index, subject in enumerate(subjects):
        image, labels = fake_subject(shape, index)
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        if _number(subject) > 1000:
            affine[:3, 3] = index  # every unpaired scan has a world of its own
        is_ct = subject.endswith(_CT)
        stored = 1400 * image - 1000 if is_ct else 900 * np.sqrt(image)
        name = f"{subject}.nii.gz"
        write_volume(root / "imagesTr" / name, stored.astype(np.int16), affine, overwrite=overwrite)
        write_volume(root / "labelsTr" / name, organs[labels], affine, overwrite=overwrite)
    return root
