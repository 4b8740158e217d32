"""A joined table as Markdown, HTML or LaTeX.

    print(render(build_table("lganetpp.table2"), "html"))

All three carry the same cells, the caption, the runs behind the cells with links, and the commands
that make what is missing. The HTML sorts by a click on a heading, with nothing loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Literal

import pandas as pd

Format = Literal["md", "html", "latex"]
RUNS_URL = "https://github.com/regnet-book/regnet-book/tree/main/"
RUN = ("", "our run")

# Empty cells stay last, numbers are compared as numbers; `this` is the table.
_SORT = """
const button = event.target.closest('thead button');
if (button) {
  const head = button.closest('th'), up = head.ariaSort !== 'ascending', body = this.tBodies[0];
  const text = row => row.cells[head.cellIndex].textContent.trim();
  const number = row => parseFloat(text(row).replace('<', ''));
  const order = (a, b) => Number.isFinite(number(a) - number(b))
    ? number(a) - number(b) : text(a).localeCompare(text(b));
  const compare = (a, b) => !text(a) - !text(b) || (up ? order(a, b) : order(b, a));
  body.append(...[...body.rows].sort(compare));
  this.querySelectorAll('th').forEach(th => th.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
}
"""
_STYLE = """
.rg-wide { overflow-x: auto; }
.rg-table { border-collapse: collapse; }
.rg-table th, .rg-table td { padding: .25rem .5rem; text-align: right; white-space: nowrap; }
.rg-table th:first-child, .rg-table td:first-child { text-align: left; }
.rg-table thead tr:first-child th { border-bottom: 1px solid; text-align: left; }
.rg-table tbody td:first-child { min-width: 8.5rem; white-space: normal !important; }
.rg-table small { font-size: .85em; }
.rg-table button { all: unset; cursor: pointer; }
.rg-table button:focus-visible { outline: 2px solid currentColor; }
.rg-table th[aria-sort=ascending] button::after { content: " \\25B2"; }
.rg-table th[aria-sort=descending] button::after { content: " \\25BC"; }
.rg-runs li, .rg-runs pre { overflow-wrap: anywhere; white-space: normal; }
.rg-runs pre { white-space: pre-wrap; }
"""
_LATEX = {
    "\\": r"\textbackslash{}",
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"},
    **{"±": r"$\pm$", "Δ": r"$\Delta$", "≤": r"$\le$", "²": "$^2$"},
}


@dataclass(frozen=True)
class RunLink:
    """A run behind a line of a table: what it was, and its folder below the repository's root."""

    text: str
    path: str

    @property
    def url(self) -> str:
        return RUNS_URL + self.path


@dataclass(frozen=True)
class Table:
    """A joined table.

    Attributes:
        name: as in `PAPER_TABLES`.
        caption: data, conventions, direction of every metric.
        frame: one line per method, run and case; columns (group, heading), all texts.
        runs: the runs in the frame.
        missing: commands that make the lines that have no run.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    runs: tuple[RunLink, ...] = ()
    missing: tuple[str, ...] = ()


def render(table: Table, format: Format = "md") -> str:
    """Markdown, HTML or LaTeX text of a table."""
    if format == "md":
        return _markdown(table)
    if format == "html":
        return _html(table)
    if format == "latex":
        return _latex(table)
    raise ValueError(f"render: expected format 'md', 'html' or 'latex', got {format!r}.")


def _markdown(table: Table) -> str:
    headings = _flat(table.frame)
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in _rows(table.frame)]
    lines += ["", table.caption]
    if table.runs:
        lines += ["", "Runs:", "", *(f"* [{run.text}]({run.url})" for run in table.runs)]
    if table.missing:
        lines += ["", "Missing, and the commands that make it:", ""]
        lines += ["```console", *(f"$ {command}" for command in table.missing), "```"]
    return "\n".join(lines)


def _html(table: Table) -> str:
    """The run stands in small type below its method, so that a phone shows both and a metric."""
    columns = [column for column in table.frame.columns if column != RUN]
    groups = [(group, len(list(found))) for group, found in groupby(group for group, _ in columns)]
    upper = "".join(
        f'<th scope="colgroup" colspan="{width}">{escape(group)}</th>'
        if group
        else f'<td colspan="{width}"></td>'
        for group, width in groups
    )
    lower = "".join(
        f'<th scope="col"><button type="button">{escape(heading)}</button></th>'
        for _, heading in columns
    )
    body = []
    for line in table.frame.to_dict("records"):
        first, *others = (escape(str(line[column])) for column in columns)
        if line.get(RUN):
            first += f"<br><small>{escape(line[RUN])}</small>"
        body.append("".join(f"<td>{cell}</td>" for cell in (first, *others)))
    parts = [
        f"<style>{_STYLE}</style>",
        f'<div class="rg-wide" tabindex="0" role="region" aria-label="{escape(table.name)}">',
        f'<table class="rg-table" onclick="{escape(_SORT)}">',
        f"<thead><tr>{upper}</tr><tr>{lower}</tr></thead>",
        "<tbody>" + "\n".join(f"<tr>{cells}</tr>" for cells in body) + "</tbody>",
        f'</table></div>\n<p class="rg-caption">{escape(table.caption)}</p>',
    ]
    if table.runs:
        items = (f'<li><a href="{run.url}">{escape(run.text)}</a></li>' for run in table.runs)
        parts.append(_details(f"{len(table.runs)} runs", f"<ul>{''.join(items)}</ul>"))
    if table.missing:
        commands = escape("\n".join(table.missing))
        title = f"What is missing: {len(table.missing)} commands"
        parts.append(_details(title, f"<pre>{commands}</pre>"))
    return "\n".join(parts)


def _details(title: str, content: str) -> str:
    return f'<details class="rg-runs"><summary>{title}</summary>{content}</details>'


def _latex(table: Table) -> str:
    headings = _flat(table.frame)
    lines = [r"\begin{table}", rf"\caption{{{_escaped(table.caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(_escaped, headings)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_escaped, row)) + r" \\" for row in _rows(table.frame)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.runs:
        lines += [r"\par\footnotesize Runs:"]
        lines += [rf"{_escaped(run.text)} (\texttt{{{_escaped(run.path)}}});" for run in table.runs]
    # A comment holds the commands: they belong to whoever completes the table, not to its reader.
    lines += [f"% missing: {command}" for command in table.missing]
    return "\n".join([*lines, r"\end{table}"])


def _flat(frame: pd.DataFrame) -> list[str]:
    return [f"{group}: {heading}" if group else heading for group, heading in frame.columns]


def _rows(frame: pd.DataFrame) -> Sequence[tuple[str, ...]]:
    return list(frame.itertuples(index=False, name=None))


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in str(text))
