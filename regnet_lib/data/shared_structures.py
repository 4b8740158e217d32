"""Structures that several labelled sets of brains have in common, with their labels in each.

A network is trained with one set of labels in mind and tested on another: a fair comparison takes
the structures that both have. Left and right count as one; a structure's Dice is the mean of its
labels'. Names follow FreeSurfer.

* `ixi_hh_2mm` and `oasis_samples` share 28 labels in 16 structures: all but the accumbens, which
  only the first has, and the choroid plexus, which only the second has. CSF is not the same in
  both, the fluid in the folds against the fluid around the ventricles, so it is left out: 27 labels
  in 15 structures.
* `lpba40` has seven of these labels in four structures: its cerebellum is one piece.

The borders of a structure follow the tool or the hand that drew it. So scores of two sets differ
even where the registration is equally good; compare what a method gains over the identity.

    structures = shared_structures("ixi_hh_2mm", "oasis_samples")
    structures["Hippocampus"]["oasis_samples"]       # (17, 53)
"""

from regnet_lib.data.freesurfer import ASEG_IDS
from regnet_lib.data.freesurfer import STRUCTURES as POSITIONS
from regnet_lib.data.ixi_hh_2mm import STRUCTURES as HAMMERSMITH

# "165 hippocampus (left), 166 (right)" and so on; the brainstem has no sides.
_LPBA40 = {
    "Brain-Stem": (182,),
    "Caudate": (161, 162),
    "Putamen": (163, 164),
    "Hippocampus": (165, 166),
}
_OTHER_MEANING = ("CSF",)


def _by_structure(names: dict[int, str]) -> dict[str, tuple[int, ...]]:
    """Labels by name, sides joined."""
    found: dict[str, tuple[int, ...]] = {}
    for label, name in names.items():
        structure = name.removeprefix("Left-").removeprefix("Right-")
        found[structure] = (*found.get(structure, ()), label)
    return found


LABELS: dict[str, dict[str, tuple[int, ...]]] = {
    "ixi_hh_2mm": _by_structure(HAMMERSMITH),
    "oasis_samples": {
        structure: tuple(ASEG_IDS[position] for position in positions)
        for structure, positions in POSITIONS.items()
    },
    "lpba40": _LPBA40,
}


def shared_structures(*datasets: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Structure -> dataset -> labels, of the structures that all of these sets have.

    Raises:
        ValueError: a set without a table here.
    """
    for name in datasets:
        if name not in LABELS:
            raise ValueError(f"shared_structures: expected of {sorted(LABELS)}, got {name!r}.")
    return {
        structure: {name: LABELS[name][structure] for name in datasets}
        for structure in LABELS[datasets[0]]
        if structure not in _OTHER_MEANING and all(structure in LABELS[name] for name in datasets)
    }
