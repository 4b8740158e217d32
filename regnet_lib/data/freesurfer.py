"""Brains processed by FreeSurfer: their label tables, and the frame of the cases.

Two tables are in use. The neurite collections number 35 structures from 1 (`SEG35`). The
TransMorph collections carry FreeSurfer's own numbers (`ASEG_IDS`), which their loader replaces by
positions in that list; 30 of these are evaluated, averaged to 17 structures (`STRUCTURES`).

    volume = reorient(read_volume(path), ORIENTATION)
    volume = aligned_brain(volume, path, labels=False, spacing_mm=2)
"""

from pathlib import Path

from regnet_lib.data.nifti import Volume
from regnet_lib.data.preprocess import shrink_image, shrink_labels, to_unit_range

# Array axes grow to the left, to the back and down: the folder of the LGANet++ scripts is called
# IXI-400-LPI. One frame for all sets, so that a network trained on one can be tested on another.
ORIENTATION = "LPI"

_PAIRED = (
    "Cerebral-White-Matter",
    "Cerebral-Cortex",
    "Lateral-Ventricle",
    "Inf-Lat-Vent",
    "Cerebellum-White-Matter",
    "Cerebellum-Cortex",
    "Thalamus",
    "Caudate",
    "Putamen",
    "Pallidum",
)
_PAIRED_LATER = ("Accumbens", "VentralDC", "Vessel", "Choroid-Plexus")

# Label -> name, of aligned_seg35 (seg35_labels.txt) and of aligned_seg4.
SEG35 = dict(
    enumerate(
        (
            *(f"Left-{name}" for name in _PAIRED),
            "3rd-Ventricle",
            "4th-Ventricle",
            "Brain-Stem",
            "Left-Hippocampus",
            "Left-Amygdala",
            *(f"Left-{name}" for name in _PAIRED_LATER),
            *(f"Right-{name}" for name in (*_PAIRED, "Hippocampus", "Amygdala", *_PAIRED_LATER)),
        ),
        start=1,
    )
)
SEG4 = {1: "Cortex", 2: "Subcortical-Gray-Matter", 3: "White-Matter", 4: "CSF"}

# The 30 of LGANet++ (precision and recall of its IXI script): without both vessels, both choroid
# plexuses and the left inferior lateral ventricle, with the right one.
SEG35_30 = (*range(1, 4), *range(5, 18), *range(20, 34))

# FreeSurfer numbers in the TransMorph collections; what counts there is the position in this list.
ASEG_IDS = (
    *(0, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 24, 26, 28, 30, 31),
    *(41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60, 62, 63),
    *(72, 77, 80, 85, 251, 252, 253, 254, 255),
)

# The 17 structures of the TransMorph tables -> positions in ASEG_IDS, left before right. Published
# means average the two Dice values of a pair first, then the 17.
STRUCTURES: dict[str, tuple[int, ...]] = {
    "Brain-Stem": (13,),
    "Thalamus": (7, 27),
    "Cerebellum-Cortex": (6, 26),
    "Cerebral-White-Matter": (1, 21),
    "Cerebellum-White-Matter": (5, 25),
    "Putamen": (9, 29),
    "VentralDC": (18, 34),
    "Pallidum": (10, 30),
    "Caudate": (8, 28),
    "Lateral-Ventricle": (3, 23),
    "Hippocampus": (14, 31),
    "3rd-Ventricle": (11,),
    "4th-Ventricle": (12,),
    "Amygdala": (15, 32),
    "Cerebral-Cortex": (2, 22),
    "CSF": (16,),
    "Choroid-Plexus": (20, 36),
}
ASEG_30 = tuple(sorted(position for pair in STRUCTURES.values() for position in pair))


def aligned_brain(volume: Volume, path: Path, *, labels: bool, spacing_mm: int) -> Volume:
    """A brain of a neurite collection as the LGANet++ scripts hand it to the network.

    Intensities in [0, 1], and at `spacing_mm=2` halved the way they do it (image linear between
    the outermost centres, labels every second voxel). Turn it to `ORIENTATION` first.
    """
    if not labels:
        volume = to_unit_range(volume, path)
    if spacing_mm == 1:
        return volume
    return shrink_labels(volume) if labels else shrink_image(volume)
