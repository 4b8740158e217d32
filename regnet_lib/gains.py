"""What a registration adds to no registration, case by case: comparable across data sets.

A Dice of 0.7 means one thing on one set of labels and another on the next. The difference to the
Dice of the same cases before registration is the part that the method is responsible for.

    before, run = (read_runs(name)[-1] for name in ("lganetpp.table3.hh.identity.4mm", ...))
    gain = gain_of(run, before)            # one value per case, a fraction
    gain_table({"SyN": gain})              # mean, interval, cases, p
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from regnet_lib.metrics import bootstrap_interval, holm, wilcoxon
from regnet_lib.results import Run, read_runs

Structures = Mapping[str, tuple[int, ...]]


def run_of(name: str) -> Run | None:
    """The latest run of an experiment, or of its shortened training; None where there is none."""
    for full in (name, f"{name}.short"):
        if found := read_runs(full):
            return found[-1]
    return None


def dice_by_structure(run: Run, structures: Structures) -> pd.DataFrame:
    """Dice, cases x structures: the mean over the labels of each structure."""
    structure = {str(label): key for key, labels in structures.items() for label in labels}
    rows = run.rows[(run.rows["metric"] == "dice") & run.rows["structure"].isin(structure)]
    return rows.groupby(["case", rows["structure"].map(structure)])["value"].mean().unstack()


def gain_of(run: Run, before: Run, structures: Structures | None = None) -> pd.Series:
    """Dice after minus before registration, a fraction per case.

    Args:
        before: the run of the identity on the same data.
        structures: name -> labels, each structure counts once; default all labels, each once.
    """
    values = [
        one.case_means("dice")
        if structures is None
        else dice_by_structure(one, structures).mean(axis=1)
        for one in (run, before)
    ]
    if not values[0].index.equals(values[1].index):
        raise ValueError(
            f"gain_of: expected the cases of {before.experiment}, {list(values[1].index)}, got "
            f"{list(values[0].index)} of {run.experiment}. Compare runs on the same data."
        )
    return values[0] - values[1]


def gains(
    prefix: str,
    methods: Mapping[str, str],
    structures: Structures | None = None,
    *,
    suffix: str = "",
    before: str = "",
) -> dict[str, pd.Series]:
    """`gain_of` every method that has a run, by title.

    Args:
        prefix, suffix: a method's experiment is `<prefix>.<method><suffix>`, perhaps `.short`.
        methods: title -> method.
        before: experiment of the identity; default `<prefix>.identity<suffix>`.
    """
    identity = run_of(before or f"{prefix}.identity{suffix}")
    if identity is None:
        return {}
    runs = {title: run_of(f"{prefix}.{method}{suffix}") for title, method in methods.items()}
    return {title: gain_of(run, identity, structures) for title, run in runs.items() if run}


def gain_table(found: Mapping[str, pd.Series]) -> pd.DataFrame:
    """One line per method, largest mean gain first.

    Returns:
        Columns: method; gain, from and to, in percentage points, the mean with its 95 % bootstrap
        interval over cases; better, the cases that gain; n; p (Holm), of Wilcoxon's test against no
        gain, adjusted over the lines.
    """
    lines = []
    for title, gain in found.items():
        values = gain.to_numpy(dtype=float)
        low, high = bootstrap_interval(values)
        p = wilcoxon(values, np.zeros(len(values))).p
        points = (100 * float(values.mean()), 100 * low, 100 * high)
        lines.append((title, *points, int((values > 0).sum()), len(values), p))
    columns = ["method", "gain", "from", "to", "better", "n", "p (Holm)"]
    frame = pd.DataFrame(lines, columns=columns)
    frame["p (Holm)"] = holm(frame["p (Holm)"].to_numpy(dtype=float))
    return frame.sort_values("gain", ascending=False, ignore_index=True)
