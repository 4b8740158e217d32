"""A table of the book: the paper's cells joined with ours, as a function of committed files.

    table = build_table("lganetpp.table2")
    print(render(table, "md"))      # md, html, latex

Every cell of ours is mean ± standard deviation of the case means (the convention of the LGANet++
tables) over the rows of one run. The verdict looks at the first metric only:

* reproduced: the paper's mean lies inside our 95 % bootstrap interval over cases;
* close: within 1 percentage point (or 0.2 mm);
* differs: neither;
* reduced budget: resolution or training length differ from the paper's on purpose;
* not rerun (quoted): no run of ours yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from regnet_lib.data import BadInputError
from regnet_lib.experiments import TABLES, Experiment
from regnet_lib.metrics import Summary, summarize
from regnet_lib.paths import paper_folder
from regnet_lib.results import Run, read_runs

Format = Literal["md", "html", "latex"]

# metric -> heading, factor from stored unit to printed unit, decimals
SHOWN = {
    "dice": ("DSC (%)", 100.0, 2),
    "hd95": ("HD95 (mm)", 1.0, 2),
    "recall": ("Recall (%)", 100.0, 2),
    "precision": ("Precision (%)", 100.0, 2),
    "folding_forward": ("NJD (%)", 100.0, 4),
}
CLOSE = {"%": 1.0, "mm": 0.2}


@dataclass(frozen=True)
class PaperTable:
    """Which file a table comes from, and how it is described."""

    file: str
    title: str
    metrics: tuple[str, ...]


PAPER_TABLES = {
    "lganetpp.table2": PaperTable(
        "lganetpp_table2.csv",
        "LGANet++ Table 2: LPBA40, nine test subjects onto the atlas, 56 labels",
        ("dice", "hd95", "folding_forward", "recall", "precision"),
    ),
}


@dataclass(frozen=True)
class Table:
    """A joined table: `frame` has one line per method and run, columns (group, heading)."""

    name: str
    caption: str
    frame: pd.DataFrame


def paper_cells(name: str) -> pd.DataFrame:
    """The cells of a paper's table as printed (texts): row, metric, unit, value, std, starred."""
    path = paper_folder() / PAPER_TABLES[name].file
    if not path.exists():
        raise BadInputError(
            f"{path}: the paper's table does not exist. Set REGNET_HOME to a checkout of the "
            "repository."
        )
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def build_table(name: str) -> Table:
    """Join the paper's cells with the latest run of every experiment of the table."""
    if name not in PAPER_TABLES:
        raise ValueError(f"build_table: expected one of {sorted(PAPER_TABLES)}, got {name!r}.")
    description = PAPER_TABLES[name]
    cells = paper_cells(name)
    lines = []
    for row, experiments in _experiments_by_row(name, cells).items():
        runs = [(experiment, read_runs(experiment.name)) for experiment in experiments]
        shown = [(experiment, found[-1]) for experiment, found in runs if found]
        printed = cells[cells["row"] == row].set_index("metric")
        if not shown:
            lines.append(_line(row, None, None, printed, description.metrics))
        lines += [_line(row, *pair, printed, description.metrics) for pair in shown]
    frame = pd.DataFrame(lines)
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    return Table(name, _caption(description), frame)


def render(table: Table, format: Format = "md") -> str:
    """Markdown, HTML or LaTeX text of a table."""
    if format == "html":
        body = table.frame.to_html(index=False, border=0, classes="rg-table", justify="unset")
        return f'<div class="rg-wide">{body}</div>\n<p class="rg-caption">{table.caption}</p>'
    flat = _flat(table.frame)
    if format == "latex":
        style = flat.style.hide(axis="index")
        escaped = table.caption.replace("%", r"\%").replace("±", r"$\pm$")
        text = style.to_latex(caption=escaped, hrules=True).replace("±", r"$\pm$")
        return text.replace("%)", r"\%)").replace("Δ", r"$\Delta$")
    if format == "md":
        header = "| " + " | ".join(flat.columns) + " |"
        rule = "|" + "|".join(" --- " for _ in flat.columns) + "|"
        rows = ["| " + " | ".join(map(str, row)) + " |" for row in flat.itertuples(index=False)]
        return "\n".join([header, rule, *rows, "", table.caption])
    raise ValueError(f"render: expected format 'md', 'html' or 'latex', got {format!r}.")


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over cases; deterministic."""
    values = np.asarray(values, dtype=float)
    random = np.random.default_rng(0)
    means = values[random.integers(0, len(values), (resamples, len(values)))].mean(1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _experiments_by_row(name: str, cells: pd.DataFrame) -> dict[str, list[Experiment]]:
    """Rows in the paper's order, preceded by rows that only we have."""
    rows: dict[str, list[Experiment]] = {}
    for experiment in TABLES[name]:
        if experiment.row not in set(cells["row"]):
            rows.setdefault(experiment.row, [])
    for row in cells["row"].unique():
        rows[row] = []
    for experiment in TABLES[name]:
        rows[experiment.row].append(experiment)
    return rows


def _line(
    row: str,
    experiment: Experiment | None,
    run: Run | None,
    printed: pd.DataFrame,
    metrics: Sequence[str],
) -> dict[tuple[str, str], str]:
    line = {("", "method"): row, ("", "our run"): _budget(experiment, run)}
    line["", "n"] = str(run.info["evaluation"]["cases"]) if run else ""
    for metric in metrics:
        heading, factor, decimals = SHOWN[metric]
        paper = printed.loc[metric] if metric in printed.index else None
        ours = summarize(run.values(metric)) if run else None
        line[heading, "paper"] = _as_printed(paper) if paper is not None else ""
        line[heading, "ours"] = _measured(ours, factor, decimals) if ours else ""
        if metric == metrics[0] or metric == "hd95":
            both = paper is not None and ours is not None
            delta = factor * ours.mean - float(paper["value"]) if both else None
            line[heading, "Δ"] = f"{delta:+.{decimals}f}" if delta is not None else ""
    line["", "verdict"] = _verdict(experiment, run, printed, metrics[0])
    return line


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
    experiment: Experiment | None, run: Run | None, printed: pd.DataFrame, metric: str
) -> str:
    if metric not in printed.index:
        return ""
    if run is None:
        return "not rerun (quoted)"
    training = run.info["training"]
    stopped_early = training is not None and training["epochs_planned"] < experiment.epochs
    if not experiment.faithful or stopped_early:
        return "reduced budget"
    _, factor, _ = SHOWN[metric]
    paper, unit = float(printed.loc[metric, "value"]), printed.loc[metric, "unit"]
    cases = factor * run.case_means(metric).to_numpy()
    low, high = bootstrap_interval(cases)
    if low <= paper <= high:
        return "reproduced"
    return "close" if abs(cases.mean() - paper) <= CLOSE[unit] else "differs"


def _caption(description: PaperTable) -> str:
    return (
        f"{description.title}. Mean ± population standard deviation of the case means. "
        "Δ = ours - paper. HD95: 95th percentile of both directions pooled. NJD: forward "
        "differences, det < 0. Labels warped with the nearest neighbor."
    )


def _as_printed(cell: pd.Series) -> str:
    return f"{cell['value']} ± {cell['std']}" if cell["std"] else cell["value"]


def _measured(ours: Summary, factor: float, decimals: int) -> str:
    if np.isnan(ours.mean):
        return "n/a"
    return f"{factor * ours.mean:.{decimals}f} ± {factor * ours.std_cases:.{decimals}f}"


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    flat = frame.copy()
    flat.columns = [f"{group}: {name}" if group else name for group, name in frame.columns]
    return flat
