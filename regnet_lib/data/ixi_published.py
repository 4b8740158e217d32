"""Published rows: Dice of 18 methods on the 115 test subjects of the TransMorph IXI benchmark.

The TransMorph repository (junyuchen245/TransMorph_Transformer_for_Medical_Image_Registration, MIT
licence, commit 6357a1d, IXI/Results) hands out what most papers average away: one line per
subject, 46 Dice values and the fraction of voxels with det J <= 0. These are measurements of
others, kept apart from the runs in results/.

    transmorph_ixi_results/TransMorph_ncc_1_diffusion_1.csv    one file per method, unchanged
    ...                                                        line 1: a title; line 2: 46 names

The tables of that benchmark average 17 structures, left and right merged first (`structures`); the
mean over the 30 labels behind them (`labels`) is another number. Labels were warped as linear
memberships; before September 2022 with the nearest neighbor, which gave about 0.006 less.

    rows = read_ixi_published("TransMorph")     # from $REGNET_DATA/transmorph_ixi_results
    summarize(rows.structures())                # 0.753 ± 0.126 over all values
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from regnet_lib.data.folders import dataset_folder, has_dataset
from regnet_lib.data.freesurfer import ASEG_30, ASEG_IDS, STRUCTURES
from regnet_lib.data.nifti import BadInputError

FOLDER = "transmorph_ixi_results"
CASES = 115


class PublishedLine(NamedTuple):
    """A line of the benchmark's own table: the file of its rows, means and deviations as printed.

    Dice is a fraction, folding a percentage of voxels, "" where the table prints "-" or "<0.0001".
    """

    file: str
    dice: str
    dice_std: str
    folding: str = ""
    folding_std: str = ""


# IXI/TransMorph_on_IXI.md of the repository, "Quantitative Results".
PUBLISHED = {
    "Affine": PublishedLine("affine", "0.386", "0.195"),
    "SyN": PublishedLine("ants_IXI", "0.645", "0.152"),
    "NiftyReg": PublishedLine("NiftyReg_IXI", "0.645", "0.167", "0.020", "0.046"),
    "LDDMM": PublishedLine("lddmm_IXI", "0.680", "0.135"),
    "deedsBCV": PublishedLine("deedsBCV_IXI", "0.733", "0.126", "0.147", "0.050"),
    "VoxelMorph-1": PublishedLine("Vxm_1_ncc_1_diffusion_1", "0.729", "0.129", "1.590", "0.339"),
    "VoxelMorph-2": PublishedLine("Vxm_2_ncc_1_diffusion_1", "0.732", "0.123", "1.522", "0.336"),
    "VoxelMorph-diff": PublishedLine("VxmDiff", "0.580", "0.165"),
    "CycleMorph": PublishedLine("CycleMorph", "0.737", "0.123", "1.719", "0.382"),
    "MIDIR": PublishedLine("MIDIR_ncc_1_diffusion_1", "0.742", "0.128"),
    "ViT-V-Net": PublishedLine("ViTVNet_ncc_1_diffusion_1", "0.734", "0.124", "1.609", "0.319"),
    "CoTr": PublishedLine("CoTr_ncc_1_diffusion_1", "0.735", "0.135", "1.298", "0.343"),
    "PVT": PublishedLine("PVT_ncc_1_diffusion_1", "0.727", "0.128", "1.858", "0.314"),
    "nnFormer": PublishedLine("nnFormer_ncc_1_diffusion_1", "0.747", "0.135", "1.595", "0.358"),
    "TransMorph": PublishedLine("TransMorph_ncc_1_diffusion_1", "0.753", "0.123", "1.579", "0.328"),
    "TransMorph-Bayes": PublishedLine(
        "TransMorphBayes_ncc_1_diffusion_1", "0.754", "0.124", "1.560", "0.333"
    ),
    "TransMorph-bspl": PublishedLine("TransMorphBSpline_ncc_1_diffusion_1", "0.761", "0.122"),
    "TransMorph-diff": PublishedLine("TransMorphDiff", "0.594", "0.163"),
}


@dataclass(frozen=True)
class PublishedRows:
    """What one method reached, subject by subject.

    Attributes:
        method: a key of `PUBLISHED`.
        cases: names of the subjects, in the same order for every method.
        dice: `(cases, 46)` fractions, in the order of `ASEG_IDS`.
        folding: `(cases,)` fraction of voxels with det J <= 0, central differences.
    """

    method: str
    cases: tuple[str, ...]
    dice: np.ndarray
    folding: np.ndarray

    def structures(self) -> np.ndarray:
        """Dice `(cases, 17)`, left and right averaged, in the order of `STRUCTURES`."""
        pairs = [self.dice[:, list(pair)].mean(1) for pair in STRUCTURES.values()]
        return np.stack(pairs, axis=1)

    def labels(self) -> np.ndarray:
        """Dice `(cases, 30)` of the labels behind the 17 structures, each on its own."""
        return self.dice[:, list(ASEG_30)]


def ixi_published_available() -> bool:
    """Whether `$REGNET_DATA` holds the published rows."""
    return has_dataset(FOLDER, [_file("TransMorph")])


def read_ixi_published(method: str, root: str | os.PathLike | None = None) -> PublishedRows:
    """The published rows of one method.

    Args:
        method: a key of `PUBLISHED`.
        root: folder with the files; default `$REGNET_DATA/transmorph_ixi_results`.
    """
    if method not in PUBLISHED:
        raise ValueError(f"read_ixi_published: expected one of {list(PUBLISHED)}, got {method!r}.")
    path = dataset_folder(FOLDER, root, expected=[_file(method)]) / _file(method)
    with path.open(newline="", encoding="utf-8") as file:
        _title, names, *lines = list(csv.reader(file)) or [[], []]
    # One file lacks the name of the last column, folding.
    if not names[1:2] == ["Unknown"] or len(names) < 1 + len(ASEG_IDS):
        raise BadInputError(f"{path}: line 2 does not name {len(ASEG_IDS)} labels.")
    width = 2 + len(ASEG_IDS)
    if not lines or any(len(line) != width for line in lines):
        raise BadInputError(f"{path}: expected lines of {width} columns: name, Dice, folding.")
    try:
        values = np.array([[float(cell) for cell in line[1:]] for line in lines])
    except ValueError as error:
        raise BadInputError(f"{path}: {error}. Download the file again.") from None
    if not ((values >= 0) & (values <= 1)).all():
        raise BadInputError(f"{path}: expected fractions between 0 and 1. Download the file again.")
    return PublishedRows(method, tuple(line[0] for line in lines), values[:, :-1], values[:, -1])


def write_fake_ixi_published(
    root: str | os.PathLike, *, methods: Sequence[str] = tuple(PUBLISHED), cases: int = 12
) -> Path:
    """Write random rows in the layout of the published ones; subjects are harder or easier."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    hard = random.normal(0, 0.03, (cases, 1)) + random.normal(0, 0.1, len(ASEG_IDS))
    for method in methods:
        noise = random.normal(0, 0.02, hard.shape)
        dice = np.clip(float(PUBLISHED[method].dice) + hard + noise, 0, 1)
        folding = random.uniform(0, 0.02, cases)
        with (root / _file(method)).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([method, *[""] * (1 + len(ASEG_IDS))])
            writer.writerow(["", "Unknown", *map(str, ASEG_IDS[1:]), "non_jec"])
            for case in range(cases):
                writer.writerow([f"p_{case}", *dice[case], folding[case]])
    return root


def _file(method: str) -> str:
    return f"{PUBLISHED[method].file}.csv"
