"""The papers' tables as printed, and how their metrics are headed, scaled and read.

    cells = paper_cells("ad_regnet.table1")     # one line per printed cell, all texts

The cells lie in `paper/<paper>_table<n>.csv`; where they come from is said in `paper/sources.md`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from regnet_lib.data import BadInputError
from regnet_lib.paths import paper_folder


class Unit(NamedTuple):
    """A printed unit: factor from the stored one, decimals of ours, and what is called close."""

    factor: float
    decimals: int
    close: float


class Shown(NamedTuple):
    """How a metric is headed, which direction is better, and the convention of our values."""

    heading: str
    better: Literal["higher", "lower", "neither"]
    convention: str = ""
    decimals: int | None = None  # where the unit's own are too few


UNITS = {"%": Unit(100.0, 2, 1.0), "mm": Unit(1.0, 2, 0.2), "1": Unit(1.0, 3, 0.01)}
SHOWN = {
    "tre_mm": Shown("TRE", "lower", "TRE: landmarks at continuous positions."),
    "dice": Shown("DSC", "higher", "Labels warped with the nearest neighbor."),
    "hd95": Shown("HD95", "lower", "HD95: 95th percentile of both directions pooled."),
    "ncc": Shown("NCC", "higher", "NCC: whole image, equation (20)."),
    "mse": Shown("MSE", "lower", "MSE: intensities in [0, 1]."),
    "ssim": Shown("SSIM", "higher", "SSIM: equation (22) with global means and variances."),
    "recall": Shown("Recall", "higher"),
    "precision": Shown("Precision", "higher"),
    "jacobian_mean": Shown("Mean Jacobian", "neither", "Jacobian: central differences."),
    "folding_forward": Shown("NJD", "lower", "NJD: forward differences, det < 0.", 4),
    "folding_central": Shown("NJD", "lower", "NJD: central differences, det ≤ 0.", 4),
}
SPREADS = {
    "cases": "of the case means",
    "pooled": "of all values pooled (cases and structures or landmarks)",
}


@dataclass(frozen=True)
class PaperTable:
    """How a table of a paper is described.

    Attributes:
        title: paper, number, data.
        metrics: the measured columns, the one of the verdict first.
        spread: the standard deviation that fits the paper's, a key of `SPREADS`.
    """

    title: str
    metrics: tuple[str, ...]
    spread: Literal["cases", "pooled"] = "cases"


_OVERLAP = ("dice", "hd95", "folding_forward", "recall", "precision")
_INTENSITY = ("ncc", "mse", "ssim")
PAPER_TABLES = {
    "ad_regnet.table1": PaperTable(
        "AD-RegNet Table I: DIR-Lab 4DCT, ten cases of 300 landmarks", ("tre_mm",), "pooled"
    ),
    "ad_regnet.table2": PaperTable(
        "AD-RegNet Table II: DIR-Lab 4DCT, image metrics per case",
        (*_INTENSITY, "folding_central"),
    ),
    "ad_regnet.table3": PaperTable(
        "AD-RegNet Table III: IXI, atlas to patient; the paper quotes the other methods",
        ("dice", "folding_central"),
        "pooled",
    ),
    "ad_regnet.table4": PaperTable(
        "AD-RegNet Table IV: IXI, all metrics",
        ("dice", *_INTENSITY, "jacobian_mean", "folding_central"),
    ),
    "ad_regnet.table5": PaperTable(
        "AD-RegNet Table V: DIR-Lab 4DCT, ablation (one component left out, or both attentions)",
        ("tre_mm", *_INTENSITY, "folding_central"),
    ),
    "lganetpp.table1": PaperTable(
        "LGANet++ Table 1: LPBA40, ablation, n = 9. Model 1: no module; 2: LGAM; 3: LGAM, FIFM; "
        "4: LGAM, FIFM, MSFM",
        ("dice", "hd95"),
    ),
    "lganetpp.table2": PaperTable(
        "LGANet++ Table 2: LPBA40, nine test subjects onto the atlas, 56 labels", _OVERLAP
    ),
    "lganetpp.table3": PaperTable("LGANet++ Table 3: IXI, n = 114", _OVERLAP),
    "lganetpp.table4": PaperTable(
        "LGANet++ Table 4: OASIS, n = 413, models trained on IXI", _OVERLAP
    ),
    "lganetpp.table5": PaperTable("LGANet++ Table 5: Abdomen CT-MR, n = 6", _OVERLAP),
    "lganetpp.table6": PaperTable(
        "LGANet++ Table 6: Lung CT, n = 10",
        ("dice", "hd95", "tre_mm", "folding_forward", "recall", "precision"),
    ),
}


def paper_cells(name: str) -> pd.DataFrame:
    """The cells of a paper's table as printed: row, case, metric, unit, value, std, starred.

    All are texts; `case` is empty where the cell stands for all test cases.
    """
    if name not in PAPER_TABLES:
        raise ValueError(f"expected a table, one of {', '.join(PAPER_TABLES)}; got {name!r}.")
    return _read_paper(f"{name.replace('.', '_')}.csv")


def quoted_rows() -> pd.DataFrame:
    """The rows of the papers that have no experiment (texts): table, row, reason."""
    return _read_paper("quoted.csv")


def _read_paper(file: str) -> pd.DataFrame:
    path = paper_folder() / file
    if not path.exists():
        raise BadInputError(
            f"{path}: the paper's table does not exist. Set REGNET_HOME to a checkout of the "
            "repository."
        )
    return pd.read_csv(path, dtype=str, keep_default_na=False)
