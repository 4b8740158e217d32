"""125 brains of IXI, all from Hammersmith Hospital, at 2 mm: a stand-in for `IXI` that is small.

    ixi_hh_2mm/split.json                              atlas, train (70), val (18), test (36)
    ixi_hh_2mm/images/IXI128-HH-1470.nii.gz            80x112x96 bytes, skull-stripped, aligned
    ixi_hh_2mm/labels_voi30/IXI128-HH-1470.nii.gz      30 structures

The scans are public (IXI, CC BY-SA 3.0), the labels come from the NiChart project's automatic
segmentation, so Dice differs from that on FreeSurfer's labels. Moving = subject, fixed =
IXI128-HH-1470; RAS on disk, turned to LPI like the other brains.

    dataset = IXIHammersmith()           # looks in $REGNET_DATA/ixi_hh_2mm
    case = dataset.case(dataset.ids("test")[0])        # (1, 1, 80, 112, 96)
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from regnet_lib.data.fakes import fake_subject
from regnet_lib.data.freesurfer import ORIENTATION
from regnet_lib.data.nifti import BadInputError, Volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import reorient, to_unit_range

ATLAS = "IXI128-HH-1470"

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
    """

    name = "ixi_hh_2mm"
    label_ids = tuple(STRUCTURES)
    markers = ("split.json",)
    largest_label = max(STRUCTURES)

    def __init__(self, root: str | os.PathLike | None = None) -> None:
        super().__init__(root)
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
        """LPI, intensities in [0, 1]."""
        volume = reorient(volume, ORIENTATION)
        return volume if labels else to_unit_range(volume, path)


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
