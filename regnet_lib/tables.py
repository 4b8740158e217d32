"""A table of the book: the paper's cells joined with ours, as a function of committed files.

    table = build_table("lganetpp.table2")
    print(render(table, "md"))      # md, html, latex

Every cell of ours is the mean of the case means over the rows of one run ± the deviation that the
caption names, in the unit the paper prints. The verdict looks at the first metric only:

* reproduced: the paper's mean lies inside our 95 % bootstrap interval over cases;
* close: within 1 percentage point (0.01 of a fraction or a coefficient, 0.2 mm);
* differs: neither;
* reduced budget: resolution or training length differ from the paper's on purpose;
* not rerun (quoted): no run of ours yet; `paper/quoted.csv` says why where none is planned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from regnet_lib.experiments import EXPERIMENTS, TABLES, Experiment
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
from regnet_lib.results import Run, read_runs

Format = Literal["md", "html", "latex"]
# The metrics whose difference is shown, besides the first of a table.
COMPARED = ("dice", "hd95", "tre_mm")
_LATEX = {"%": r"\%", "±": r"$\pm$", "Δ": r"$\Delta$", "≤": r"$\le$", "<": "$<$"}


@dataclass(frozen=True)
class Table:
    """A joined table: `frame` has one line per method, run and case, columns (group, heading)."""

    name: str
    caption: str
    frame: pd.DataFrame


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
    lines = []
    for row, experiments in _experiments_by_row(name, cells).items():
        found = [(experiment, read_runs(experiment.name)) for experiment in experiments]
        latest = [(experiment, runs[-1]) for experiment, runs in found if runs]
        for experiment, run in latest or [(None, None)]:
            for case in shown_cases:
                chosen = cells[(cells["row"] == row) & (cells["case"] == case)]
                printed = chosen.set_index("metric")
                line = {("", "method"): row, ("", "case"): case or "all"}
                line["", "our run"] = _budget(experiment, run)
                line["", "n"] = str(run.info["evaluation"]["cases"]) if run and not case else ""
                line["", "verdict"] = "" if case else _verdict(experiment, run, printed, units)
                line |= _measurements(run, case, printed, units, description.spread)
                lines.append(line)
    frame = pd.DataFrame(lines)
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    if shown_cases == [""]:
        frame = frame.drop(columns=[("", "case")])
    return Table(name, _caption(name, description, len(shown_cases) > 1), frame)


def render(table: Table, format: Format = "md") -> str:
    """Markdown, HTML or LaTeX text of a table."""
    if format == "html":
        body = table.frame.to_html(index=False, border=0, classes="rg-table", justify="unset")
        return f'<div class="rg-wide">{body}</div>\n<p class="rg-caption">{table.caption}</p>'
    flat = table.frame.copy()
    flat.columns = [f"{group}: {name}" if group else name for group, name in flat.columns]
    if format == "latex":
        text = flat.style.hide(axis="index").to_latex(caption=table.caption, hrules=True)
        for symbol, command in _LATEX.items():
            text = text.replace(symbol, command)
        return text
    if format == "md":
        header = "| " + " | ".join(flat.columns) + " |"
        rule = "|" + "|".join(" --- " for _ in flat.columns) + "|"
        rows = ["| " + " | ".join(map(str, row)) + " |" for row in flat.itertuples(index=False)]
        return "\n".join([header, rule, *rows, "", table.caption])
    raise ValueError(f"render: expected format 'md', 'html' or 'latex', got {format!r}.")


def _experiments_by_row(name: str, cells: pd.DataFrame) -> dict[str, list[Experiment]]:
    """Rows in the paper's order, preceded by rows that only we have."""
    experiments = TABLES.get(name, ())
    printed = list(cells["row"].unique())
    ours = [experiment.row for experiment in experiments if experiment.row not in printed]
    rows: dict[str, list[Experiment]] = {row: [] for row in (*ours, *printed)}
    for experiment in experiments:
        rows[experiment.row].append(experiment)
    return rows


def _measurements(
    run: Run | None, case: str, printed: pd.DataFrame, units: Mapping[str, str], spread: str
) -> dict[tuple[str, str], str]:
    """The columns paper, ours and Δ of every metric."""
    line = {}
    for metric, unit in units.items():
        shown, (factor, decimals, _) = SHOWN[metric], UNITS[unit]
        decimals = shown.decimals or decimals
        heading = shown.heading if unit == "1" else f"{shown.heading} ({unit})"
        paper = printed.loc[metric] if metric in printed.index else None
        values = factor * _values(run, metric, case) if run else None
        line[heading, "paper"] = _as_printed(paper) if paper is not None else ""
        line[heading, "ours"] = _measured(values, decimals, spread) if run else ""
        if metric in COMPARED or metric == next(iter(units)):
            both = paper is not None and values is not None and not np.isnan(values).all()
            delta = summarize(values).mean - float(paper["value"]) if both else None
            line[heading, "Δ"] = f"{delta:+z.{decimals}f}" if both else ""
    return line


def _values(run: Run, metric: str, case: str) -> np.ndarray:
    """Values `(cases, structures)` of a metric; of one case where it has a number."""
    if not case:
        return run.values(metric)
    rows = run.rows[run.rows["metric"] == metric]
    # The papers number their cases; the identifiers of a dataset end with that number.
    numbers = rows["case"].str.extract(r"(\d+)$")[0].astype(float)
    values = rows[numbers == float(case)]["value"].to_numpy()
    return values[None] if values.size else np.full((1, 1), np.nan)


def _budget(experiment: Experiment | None, run: Run | None) -> str:
    """Resolution, steps and device of a run in a few words."""
    if experiment is None or run is None:
        return ""
    evaluation, training = run.info["evaluation"], run.info["training"]
    parts = [f"{evaluation['spacing_mm'][0]:g} mm"]
    if training:
        parts.append(f"{training['step']} steps")
    parts.append("CPU" if "thread" in str(run.info["device"]) else str(run.info["device"]))
    return ", ".join(parts)


def _verdict(
    experiment: Experiment | None, run: Run | None, printed: pd.DataFrame, units: Mapping[str, str]
) -> str:
    metric, unit = next(iter(units.items()))
    if metric not in printed.index:
        return ""
    if run is None:
        return "not rerun (quoted)"
    training = run.info["training"]
    trained = EXPERIMENTS[experiment.weights_of] if experiment.weights_of else experiment
    stopped_early = training is not None and (
        (training.get("epochs_planned") or 0) < trained.epochs
        or training["step"] < (training.get("steps_planned") or 0)
    )
    if not experiment.faithful or stopped_early:
        return "reduced budget"
    paper = float(printed.loc[metric, "value"])
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
    pooled = spread == "pooled" or len(values) == 1
    deviation = summary.std_pooled if pooled else summary.std_cases
    return f"{mean} ± {deviation:.{decimals}f}"
