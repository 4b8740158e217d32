"""A table of the book: the paper's cells joined with ours, as a function of committed files.

    table = build_table("lganetpp.table2")
    print(render(table, "md"))      # md, html, latex

Every cell of ours is the mean of the case means over the rows of one run ± the deviation that the
caption names, in the unit the paper prints. A run at the paper's budget on the paper's data stands
in the line of the paper's numbers and has a verdict, which looks at the first metric only:

* reproduced: the paper's mean lies inside our 95 % bootstrap interval over cases;
* close: within 1 percentage point (0.01 of a fraction or a coefficient, 0.2 mm);
* differs: neither.

Any other run has a line of its own, without a difference to the paper:

* reduced budget: resolution or training length differ from the paper's on purpose;
* other data: the images are not the paper's.

A line without a run is `missing`, with the command that makes it, or `not rerun (quoted)`, and
`paper/quoted.csv` says why.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from regnet_lib.metrics import bootstrap_interval, summarize
from regnet_lib.paper import (
    PAPER_TABLES,
    SHOWN,
    SPREADS,
    UNITS,
    PaperTable,
    paper_cells,
    quoted_rows,
)
from regnet_lib.results import Run
from regnet_lib.table_formats import RunLink, Table, render
from regnet_lib.table_lines import Line, count_cases, lines_of, links, missing_commands

__all__ = ["RunLink", "Table", "build_table", "render", "row_verdict", "verdict_of"]

# The metrics whose difference is shown, besides the first of a table.
COMPARED = ("dice", "hd95", "tre_mm")


def build_table(name: str, *, cases: bool = True) -> Table:
    """Join the paper's cells with the latest run of every experiment of the table.

    Args:
        name: a key of `PAPER_TABLES`.
        cases: also a line per case where the paper prints cases (AD-RegNet Tables I and II).
    """
    cells = paper_cells(name)
    description = PAPER_TABLES[name]
    printed_units = cells.drop_duplicates("metric").set_index("metric")["unit"]
    units = {metric: printed_units[metric] for metric in description.metrics}
    shown_cases = list(cells["case"].unique()) if cases else [""]
    lines, joined = lines_of(name), []
    for line in lines:
        beside = cells[cells["row"] == line.row] if line.beside_paper else cells[:0]
        # Other data have other cases, whatever their numbers.
        for case in shown_cases if line.beside_paper else [""]:
            printed = beside[beside["case"] == case].set_index("metric")
            first, *others = _measurements(line.run, case, printed, units, description.spread)
            shown = {("", "method"): line.row, ("", "case"): case or "all"}
            shown |= {("", "our run"): line.label, **first}
            shown["", "verdict"] = "" if case else _verdict(line, printed, units)
            shown["", "n"] = str(count_cases(line.run)) if line.run and not case else ""
            for columns in others:
                shown |= columns
            joined.append(shown)
    frame = pd.DataFrame(joined)
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    if shown_cases == [""]:
        frame = frame.drop(columns=[("", "case")])
    return Table(
        name,
        _caption(name, description, len(shown_cases) > 1),
        frame,
        tuple(link for line in lines for link in links(line)),
        missing_commands(name),
    )


def row_verdict(name: str, row: str, metric: str) -> tuple[str, tuple[RunLink, ...]]:
    """Verdict on one printed mean, and every run of ours in that row.

    Args:
        name: a key of `PAPER_TABLES`.
        row, metric: as in its cells.
    """
    cells = paper_cells(name)
    printed = cells[(cells["row"] == row) & (cells["case"] == "")].set_index("metric")
    if metric not in printed.index:
        raise ValueError(f"row_verdict: {name} prints no {metric} for {row!r}.")
    lines = [line for line in lines_of(name) if line.row == row]
    first, (value, unit) = lines[0], printed.loc[metric, ["value", "unit"]]
    verdict = first.state
    if first.run is not None:
        verdict = verdict_of(first.run, metric, float(value), str(unit)) or "missing"
    return verdict, tuple(link for line in lines for link in links(line))


def _measurements(
    run: Run | None, case: str, printed: pd.DataFrame, units: Mapping[str, str], spread: str
) -> list[dict[tuple[str, str], str]]:
    """The columns paper, ours and Δ, metric by metric."""
    columns = []
    for metric, unit in units.items():
        shown, (factor, decimals, _) = SHOWN[metric], UNITS[unit]
        decimals = shown.decimals or decimals
        heading = shown.heading if unit == "1" else f"{shown.heading} ({unit})"
        paper = printed.loc[metric] if metric in printed.index else None
        values = factor * _values(run, metric, case) if run else None
        line = {(heading, "paper"): _as_printed(paper) if paper is not None else ""}
        line[heading, "ours"] = _measured(values, decimals, spread) if run else ""
        if metric in COMPARED or metric == next(iter(units)):
            both = paper is not None and values is not None and not np.isnan(values).all()
            delta = summarize(values).mean - float(paper["value"]) if both else None
            line[heading, "Δ"] = f"{delta:+z.{decimals}f}" if both else ""
        columns.append(line)
    return columns


def _values(run: Run, metric: str, case: str) -> np.ndarray:
    """Values `(cases, structures)` of a metric; of one case where it has a number."""
    if not case:
        return run.values(metric)
    rows = run.rows[run.rows["metric"] == metric]
    # The papers number their cases; the identifiers of a dataset end with that number.
    numbers = rows["case"].str.extract(r"(\d+)$")[0].astype(float)
    values = rows[numbers == float(case)]["value"].to_numpy()
    return values[None] if values.size else np.full((1, 1), np.nan)


def _verdict(line: Line, printed: pd.DataFrame, units: Mapping[str, str]) -> str:
    metric, unit = next(iter(units.items()))
    if line.state != "comparable":
        return line.state
    if metric not in printed.index:
        return ""
    return verdict_of(line.run, metric, float(printed.loc[metric, "value"]), unit)


def verdict_of(run: Run, metric: str, paper: float, unit: str) -> str:
    """Verdict on one printed mean, in its unit, by the case means of a run at the same budget."""
    cases = UNITS[unit].factor * run.case_means(metric).dropna().to_numpy()
    if not cases.size:
        return ""
    low, high = bootstrap_interval(cases)
    if low <= paper <= high:
        return "reproduced"
    return "close" if abs(cases.mean() - paper) <= UNITS[unit].close else "differs"


def _caption(name: str, description: PaperTable, by_case: bool) -> str:
    shown = [SHOWN[metric] for metric in description.metrics]
    own = "; in the line of one case, of its own values" if by_case else ""
    parts = [
        f"{description.title}.",
        f"Mean ± population standard deviation {SPREADS[description.spread]}{own}.",
        "Δ = ours - paper.",
    ]
    for direction in ("higher", "lower"):
        headings = [metric.heading for metric in shown if metric.better == direction]
        parts += [f"{direction.capitalize()} is better: {', '.join(headings)}."] * bool(headings)
    parts += [metric.convention for metric in shown if metric.convention]
    quoted = quoted_rows()
    reasons = list(quoted[quoted["table"] == name]["reason"].unique())
    parts += [f"Quoted: {'; '.join(reasons)}."] * bool(reasons)
    return " ".join(parts)


def _as_printed(cell: pd.Series) -> str:
    return f"{cell['value']} ± {cell['std']}" if cell["std"] else cell["value"]


def _measured(values: np.ndarray, decimals: int, spread: str) -> str:
    summary = summarize(values)
    if np.isnan(summary.mean):
        return "n/a"
    mean = f"{summary.mean:.{decimals}f}"
    if values.size == 1:
        return mean
    over_all_values = spread == "pooled" or len(values) == 1
    deviation = summary.std_pooled if over_all_values else summary.std_cases
    return f"{mean} ± {deviation:.{decimals}f}"
