"""From per-case values to the "mean ± std" of a table, with the standard deviation named.

Three standard deviations circulate for the same values (cases x structures), and they differ by a
factor of four on LPBA40:

* pooled: over all values (AD-RegNet Table III, the TransMorph IXI tables);
* of the case means (the LGANet++ tables);
* of the structure means.

All are population deviations (ddof 0), as NumPy's default and the published code.

    summary = summarize(values)   # (cases, structures)
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Mean over case means, the three deviations, and what was counted."""

    mean: float
    std_pooled: float
    std_cases: float
    std_structures: float
    cases: int
    missing: int


def summarize(values: np.ndarray) -> Summary:
    """Summarise `(cases, structures)` or `(cases,)` values; NaN means missing and is counted.

    The mean is the mean of the case means, so that a case with missing structures weighs as much
    as any other.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"summarize: expected values (cases, structures), got {values.shape}.")
    missing = np.isnan(values)
    case_means = _means(values, axis=1)
    structure_means = _means(values, axis=0)
    present = values[~missing]
    if present.size == 0:
        nan = float("nan")
        return Summary(nan, nan, nan, nan, len(values), int(missing.sum()))
    return Summary(
        mean=float(np.nanmean(case_means)),
        std_pooled=float(present.std()),
        std_cases=float(np.nanstd(case_means)),
        std_structures=float(np.nanstd(structure_means)),
        cases=len(values),
        missing=int(missing.sum()),
    )


def _means(values: np.ndarray, axis: int) -> np.ndarray:
    """Means along an axis without NaN; NaN (and no warning) where nothing is left."""
    count = (~np.isnan(values)).sum(axis)
    total = np.nansum(values, axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
