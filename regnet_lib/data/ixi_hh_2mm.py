"""125 brains of IXI, all from Hammersmith Hospital, at 2 mm: a stand-in for `IXI` that is small.

    ixi_hh_2mm/split.json                              atlas, train (70), val (18), test (36)
    ixi_hh_2mm/images/IXI128-HH-1470.nii.gz            80x112x96 bytes, skull-stripped, aligned
    ixi_hh_2mm/labels_voi30/IXI128-HH-1470.nii.gz      30 structures

The scans are public (IXI, CC BY-SA 3.0), the labels come from the NiChart project's automatic
segmentation, so Dice differs from that on FreeSurfer's labels. Moving = subject, fixed =
IXI128-HH-1470; RAS on disk, turned to LPI like the other brains. Which of the structures other
sets have, too: `shared_structures`.

Two options make experiments that a CPU can run, and that two scanners would ask for:

* `spacing_mm=4` halves the volumes again, images by means of 2x2x2 voxels, labels by taking every
  second voxel: 40x56x48;
* `moving_contrast="t2"` repaints the moving images with `T2_LIKE`, so that fluid is bright and
  white matter dark, as in a T2-weighted scan. The rule reads intensities alone, never a label: no
  boundary appears that was not there, and one that was invisible stays so. A real T2 scan also has
  other noise, other artefacts and another shape of the brain; this is the easier problem.

    dataset = IXIHammersmith()           # looks in $REGNET_DATA/ixi_hh_2mm
    case = dataset.case(dataset.ids("test")[0])        # (1, 1, 80, 112, 96)
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.freesurfer import ORIENTATION
from regnet_lib.data.nifti import BadInputError, Volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import (
    end_for_end,
    halve_image,
    halve_labels,
    reorient,
    to_unit_range,
)

ATLAS = "IXI128-HH-1470"

# T1 intensity -> T2-like intensity, linear in between. In these scans fluid lies near 0.3, cortex
# near 0.56 and white matter near 0.77 (medians); the rise at the left is the edge of the head.
T2_LIKE = ((0.0, 0.0), (0.15, 0.95), (0.30, 1.0), (0.56, 0.6), (0.77, 0.35), (1.0, 0.15))

# Label -> name, the 30 structures of TransMorph with the accumbens for the choroid plexus, which
# the segmentation does not have. CSF is the fluid in the folds.
STRUCTURES = dict(
    enumerate(
        (
            "Brain-Stem",
            *(
                f"{side}-{name}"
                for name in (
                    "Thalamus",
                    "Cerebellum-Cortex",
                    "Cerebral-White-Matter",
                    "Cerebellum-White-Matter",
                    "Putamen",
                    "VentralDC",
                    "Pallidum",
                    "Caudate",
                    "Lateral-Ventricle",
                    "Hippocampus",
                )
                for side in ("Left", "Right")
            ),
            "3rd-Ventricle",
            "4th-Ventricle",
            "Left-Amygdala",
            "Right-Amygdala",
            "Left-Cerebral-Cortex",
            "Right-Cerebral-Cortex",
            "CSF",
            "Left-Accumbens-area",
            "Right-Accumbens-area",
        ),
        start=1,
    )
)


class IXIHammersmith(SubjectPairs):
    """The adapter.

    Args:
        root: folder with the layout above; default `$REGNET_DATA/ixi_hh_2mm`.
        spacing_mm: 2, the volumes on disk, or 4, halved.
        moving_contrast: `t1` as scanned, or `t2`, see above.
        like_lpba40: arrays reversed along all three axes, so that the head stands as that of
            `LPBA40` does: for networks trained there. Halving comes after it and keeps other label
            voxels than without, so the Dice before registration differs a little, too.
    """

    name = "ixi_hh_2mm"
    label_ids = tuple(STRUCTURES)
    markers = ("split.json",)
    largest_label = max(STRUCTURES)

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        spacing_mm: Literal[2, 4] = 2,
        moving_contrast: Literal["t1", "t2"] = "t1",
        like_lpba40: bool = False,
    ) -> None:
        if spacing_mm not in (2, 4):
            raise ValueError(f"IXIHammersmith: expected spacing_mm=2 or 4, got {spacing_mm!r}.")
        if moving_contrast not in ("t1", "t2"):
            raise ValueError(
                f"IXIHammersmith: expected moving_contrast='t1' or 't2', got {moving_contrast!r}."
            )
        super().__init__(root)
        self.spacing_mm = spacing_mm
        self.moving_contrast = moving_contrast
        self.like_lpba40 = like_lpba40
        path = self.root / "split.json"
        try:
            lists = json.loads(path.read_text())
            self._splits = {
                split: tuple(map(str, lists[key]))
                for split, key in (("train", "train"), ("validation", "val"), ("test", "test"))
            }
            atlas = lists["atlas"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInputError(
                f"{path}: expected JSON with atlas, train, val and test, found something else "
                f"({error!r}). Fetch it again."
            ) from error
        if atlas != ATLAS:
            raise BadInputError(f"{path}: expected the atlas {ATLAS}, found {atlas!r}.")

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """Moving subjects of `train`, `validation` and `test`, as the file lists them."""
        return self._splits

    def pair(self, case_id: str) -> tuple[str, str]:
        """The subject and the atlas."""
        return case_id, ATLAS

    def image_path(self, subject: str) -> Path:
        """Where the image of a subject lies."""
        return self.root / "images" / f"{subject}.nii.gz"

    def label_path(self, subject: str) -> Path:
        """Where the label map of a subject lies."""
        return self.root / "labels_voi30" / f"{subject}.nii.gz"

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """LPI or reversed, intensities in [0, 1], perhaps halved."""
        volume = reorient(volume, ORIENTATION)
        if self.like_lpba40:
            volume = end_for_end(volume)
        if not labels:
            volume = to_unit_range(volume, path)
        if self.spacing_mm == 2:
            return volume
        return halve_labels(volume) if labels else halve_image(volume)

    def read_image(self, subject: str) -> Volume:
        """The prepared image; that of a moving subject in the contrast asked for."""
        volume = super().read_image(subject)
        if self.moving_contrast == "t1" or subject == ATLAS:
            return volume
        return Volume(t2_like(volume.array), volume.affine)


def t2_like(image: np.ndarray) -> np.ndarray:
    """A T1-weighted image in [0, 1] in the contrast of `T2_LIKE`, float32; background stays 0."""
    t1, t2 = zip(*T2_LIKE, strict=True)
    return np.interp(image, t1, t2).astype(np.float32)


def write_fake_ixi_hh_2mm(
    root: str | os.PathLike,
    *,
    shape: tuple[int, int, int] = (32, 32, 32),
    train: int = 4,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in the layout of `IXIHammersmith`: the atlas, `train` subjects, 1 + 1 more."""
    root = Path(root)
    for folder in ("images", "labels_voi30"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [ATLAS, *(f"IXI{number:03d}-HH-{number + 1199}" for number in range(12, 14 + train))]
    codes = np.array([0, 26, 6, 18, 19, 10, 11, 1], dtype=np.uint8)
    affine = np.array([[2.0, 0, 0, -79], [0, 2, 0, -129], [0, 0, 2, -89], [0, 0, 0, 1]])
    for index, name in enumerate(names):
        image, labels = fake_subject(shape, index)
        stored = (255 * image).round().astype(np.uint8)
        file = f"{name}.nii.gz"
        write_volume(root / "images" / file, stored, affine, overwrite=overwrite)
        write_volume(root / "labels_voi30" / file, codes[labels], affine, overwrite=overwrite)
    lists = {"atlas": ATLAS, "train": names[3:], "val": [names[1]], "test": [names[2]]}
    (root / "split.json").write_text(json.dumps(lists, indent=1) + "\n")
    return root
