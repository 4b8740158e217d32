"""Our runs beside each other, case by case.

    runs = latest_runs("lganetpp.table2")
    print(render(comparison_table(runs, "dice"), "md"))

Only runs over the same cases (two or more) at the same resolution are compared, and only their case
means enter: one value per case is what Wilcoxon's test takes as independent.
"""

from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from regnet_lib.experiments import TABLES
from regnet_lib.metrics import holm, wilcoxon
from regnet_lib.paper import SHOWN
from regnet_lib.results import Run
from regnet_lib.table_formats import Table
from regnet_lib.table_lines import latest, run_label

# Unit of the rows: factor, decimals and unit of a shown difference.
_SHOWN_UNITS = {"fraction": (100.0, 2, "points"), "mm": (1.0, 2, "mm"), "1": (1.0, 4, "")}


def latest_runs(*tables: str) -> dict[str, Run]:
    """The latest run of every experiment of these tables that has one, by a title for plots.

    Args:
        tables: keys of `TABLES`.
    """
    found: dict[str, tuple[str, Run]] = {}
    for table in tables:
        for experiment, run in latest(TABLES.get(table, ())):
            if experiment.name not in found:
                label = run_label(table, experiment, run).removesuffix(", CPU")
                title = f"{experiment.row.removesuffix(' (Ours)')}, {label}"
                found[experiment.name] = (title, run)
    titles = [title for title, _ in found.values()]
    return {
        title if titles.count(title) == 1 else f"{title} ({name})": run
        for name, (title, run) in found.items()
    }


def compare_runs(runs: Mapping[str, Run], metric: str, *, reference: str = "") -> pd.DataFrame:
    """Wilcoxon's signed-rank test between every two runs over the same cases at one resolution.

    Args:
        reference: title of a run; then only the pairs of this run, as the first, with each other
            one. Fewer questions leave more to Holm's adjustment.

    Returns:
        One line per pair: first, second, n, difference (mean over cases of first - second, unit of
        the rows), larger (cases in which the first is), p (two-sided, exact for few cases), p_holm
        (adjusted over all lines), smallest_p (what n cases can reach at best).
    """
    if reference and reference not in runs:
        raise ValueError(f"compare_runs: expected one of {list(runs)}, got {reference!r}.")
    others = [title for title in runs if title != reference]
    pairs = [(reference, other) for other in others] if reference else combinations(runs, 2)
    lines = []
    for first, second in pairs:
        a, b = runs[first], runs[second]
        left, right = (run.case_means(metric).dropna() for run in (a, b))
        if len(left) < 2 or _data(a) != _data(b) or not left.index.equals(right.index):
            continue
        test = wilcoxon(left.to_numpy(), right.to_numpy())
        difference = left - right
        found = (len(left), float(difference.mean()), int((difference > 0).sum()), test.p)
        lines.append((first, second, *found, test.smallest_p))
    columns = ["first", "second", "n", "difference", "larger", "p", "smallest_p"]
    frame = pd.DataFrame(lines, columns=columns)
    frame.insert(6, "p_holm", holm(frame["p"].to_numpy(dtype=float)))
    return frame


def comparison_table(runs: Mapping[str, Run], metric: str, *, reference: str = "") -> Table:
    """`compare_runs` as a table of the book; fractions in percentage points."""
    measured = [run.rows[run.rows["metric"] == metric]["unit"] for run in runs.values()]
    units = {unit.iat[0] for unit in measured if len(unit)}
    factor, decimals, unit = _SHOWN_UNITS[units.pop()] if units else (1.0, 2, "")
    heading = SHOWN[metric].heading
    found = compare_runs(runs, metric, reference=reference)
    lines = [
        {
            ("", "first and second"): f"{line.first} and {line.second}",
            ("", "n"): str(line.n),
            (heading, f"difference ({unit})" if unit else "difference"): (
                f"{factor * line.difference:+.{decimals}f}"
            ),
            (heading, "first larger"): f"{line.larger} of {line.n}",
            ("Wilcoxon", "p"): f"{line.p:.2g}",
            ("Wilcoxon", "p (Holm)"): f"{line.p_holm:.2g}",
            ("Wilcoxon", "smallest p"): f"{line.smallest_p:.2g}",
        }
        for line in found.itertuples()
    ]
    frame = pd.DataFrame(lines)
    if lines:
        frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    which = f"{reference} against each other run" if reference else "Every two runs"
    caption = (
        f"{which} of ours over the same cases at one resolution: {heading}, mean of first "
        f"- second. Wilcoxon's signed-rank test over case means, two-sided, exact up to 20 cases; "
        f"Holm's adjustment over the {len(lines)} lines; the smallest p is what n cases can reach."
    )
    return Table(f"comparison.{metric}", caption, frame)


def _data(run: Run) -> tuple[str, tuple[float, ...]]:
    """Labels and landmarks at different resolutions answer different questions."""
    return str(run.info["experiment"]["dataset"]), tuple(run.info["evaluation"]["spacing_mm"])
