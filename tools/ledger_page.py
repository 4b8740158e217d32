"""The ledger: every claim of both papers, with a verdict that is computed where it can be.

    python -m tools.ledger_page            # write book/ledger.md
    python -m tools.ledger_page --check    # only say whether a verdict changed

`paper/ledger.csv` holds the claims in our words: id, paper, location, claim, kind, check, note. The
kind says what `check` is and how a verdict follows:

    arithmetic      expression on the printed tables     consistent, inconsistent
    rerun           table / row / metric                 the verdict of that table line
    rows            expression on our rows               reproduced, differs
    test            a test that shows it                 confirmed
    counterexample  a test that shows the contrary       contradicted
    undecidable     the reason                           cannot be decided
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from regnet_lib.metrics import jensen_bound, wilcoxon
from regnet_lib.metrics import summarize as summarize_values
from regnet_lib.paper import PAPER_TABLES, SHOWN, paper_cells
from regnet_lib.paths import paper_folder
from regnet_lib.results import read_runs
from regnet_lib.table_formats import RUNS_URL, RunLink
from regnet_lib.tables import row_verdict
from tools.contents import ROOT

PAGE = ROOT / "book" / "ledger.md"
PAPERS = {"ad_regnet": "AD-RegNet", "lganetpp": "LGANet++"}
# Three rounded numbers of two decimals can pass the bound by so many points.
ROUNDING = 0.011
VERDICTS = {
    "reproduced": "our mean agrees: the printed one lies in its 95 % bootstrap interval over cases",
    "close": "outside, but within 1 percentage point or 0.2 mm",
    "differs": "neither",
    "missing": "an experiment exists, a run at the paper's budget does not yet",
    "not rerun (quoted)": "no experiment: `paper/quoted.csv` says why",
    "confirmed": "a test shows it, on the network or the data as we understand them",
    "contradicted": "a test shows the contrary",
    "consistent": "follows from the printed tables, whether or not these come out again",
    "inconsistent": "does not follow from the printed tables",
    "cannot be decided": "what would be needed is not stated or not published",
}


@dataclass(frozen=True)
class Claim:
    """One line of `paper/ledger.csv`."""

    id: str
    paper: str
    location: str
    claim: str
    kind: str
    check: str
    note: str


def read_claims(path: Path | None = None) -> list[Claim]:
    """The claims in the order of the file."""
    frame = pd.read_csv(path or paper_folder() / "ledger.csv", dtype=str, keep_default_na=False)
    return [Claim(*row) for row in frame.itertuples(index=False)]


def verdict_of_claim(claim: Claim) -> tuple[str, tuple[RunLink, ...]]:
    """Verdict, a key of `VERDICTS`, and the runs that it looked at."""
    fixed = {
        "test": "confirmed",
        "counterexample": "contradicted",
        "undecidable": "cannot be decided",
    }
    if claim.kind in fixed:
        return fixed[claim.kind], ()
    if claim.kind == "rerun":
        return row_verdict(*table_row_metric(claim))
    words = {"arithmetic": ("consistent", "inconsistent"), "rows": ("reproduced", "differs")}
    if claim.kind not in words:
        raise ValueError(f"{claim.id}: expected a kind of claim, got {claim.kind!r}.")
    return words[claim.kind][0 if evaluate(claim.check) else 1], ()


def table_row_metric(claim: Claim) -> tuple[str, str, str]:
    """The cell that a claim of kind `rerun` names."""
    table, row, metric = claim.check.split(" / ")
    return table, row, metric


def evaluate(expression: str) -> bool:
    """Value of an expression in the vocabulary below; anything but yes or no is an error."""
    value = eval(expression, {"__builtins__": {}, **VOCABULARY})
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"expected yes or no, got {value!r} from: {expression}")
    return bool(value)


def cells(table: str, case: str = "", column: str = "value") -> pd.DataFrame:
    """Printed numbers, rows x metrics; a bound such as `<0.0001` is NaN."""
    found = paper_cells(table)
    found = found[(found["case"] == case) & found["metric"].isin(SHOWN)]
    numbers = found.assign(number=pd.to_numeric(found[column], errors="coerce"))
    return numbers.pivot(index="row", columns="metric", values="number").reindex(rows(table))


def rows(table: str) -> list[str]:
    """Methods in the paper's order."""
    return list(paper_cells(table)["row"].unique())


def metrics(table: str) -> tuple[str, ...]:
    """Measured columns."""
    return PAPER_TABLES[table].metrics


def column(table: str, metric: str, case: str = "", *, column: str = "value") -> pd.Series:
    """One metric of all methods."""
    return cells(table, case, column)[metric]


def printed(table: str, row: str, metric: str, column: str = "value") -> float:
    """One printed number."""
    return float(cells(table, column=column).loc[row, metric])


def cases(table: str, row: str, column: str = "value", *, metric: str = "") -> pd.Series:
    """One method in the numbered cases; the table's first metric by default."""
    found = paper_cells(table)
    metric = metric or metrics(table)[0]
    found = found[(found["row"] == row) & (found["case"] != "") & (found["metric"] == metric)]
    return pd.Series(found[column].astype(float).to_numpy(), index=found["case"].astype(int))


def places(table: str, row: str) -> pd.Series:
    """Rank of a method in every case, 1 for the lowest value."""
    methods = {method: cases(table, method) for method in rows(table)}
    return pd.DataFrame(methods).rank(axis=1)[row]


def gain(table: str, row: str, other: str, metric: str = "dice") -> float:
    """Relative difference of two printed means, in percent of the other."""
    return 100 * (printed(table, row, metric) / printed(table, other, metric) - 1)


def p_values(table: str, row: str, other: str) -> list[float]:
    """Wilcoxon's test on printed case means: exact two-sided and one-sided, normal two-sided."""
    a, b = cases(table, row).to_numpy(), cases(table, other).to_numpy()
    return [
        wilcoxon(a, b, method="exact").p,
        wilcoxon(a, b, "greater", method="exact").p,
        wilcoxon(a, b, method="normal").p,
    ]


def smallest_p(pairs: int, one_sided: bool = False) -> float:
    """What Wilcoxon's exact test of so many pairs can reach at best."""
    differences = np.arange(1.0, pairs + 1)
    side = "greater" if one_sided else "two-sided"
    return wilcoxon(differences, np.zeros(pairs), side, method="exact").p


def starred(table: str, row: str, metric: str) -> bool:
    """Whether a cell is marked as significantly different from the paper's own method."""
    found = paper_cells(table)
    chosen = found[(found["row"] == row) & (found["metric"] == metric) & (found["case"] == "")]
    return chosen["starred"].item() == "1"


def stars(table: str, metric: str) -> int:
    """Number of marked cells of a column."""
    return sum(starred(table, row, metric) for row in cells(table)[metric].dropna().index)


def above_jensen(table: str) -> list[str]:
    """Methods whose mean Dice exceeds 2PR / (P + R) of the means by more than rounding."""
    complete = cells(table).dropna(subset=["dice", "precision", "recall"])
    bound = jensen_bound(complete["precision"].to_numpy(), complete["recall"].to_numpy())
    return list(complete.index[complete["dice"] > bound + ROUNDING])


def ours(experiment: str, metric: str) -> float:
    """Mean of the case means of our latest run, in the unit of the rows."""
    return summarize_values(read_runs(experiment)[-1].values(metric)).mean


def structures(experiment: str) -> int:
    """Number of labels in our latest run."""
    return read_runs(experiment)[-1].values("dice").shape[1]


VOCABULARY = {
    function.__name__: function
    for function in (
        *(abs, all, any, len, list, max, min, round, set),
        *(above_jensen, cases, column, gain, metrics, ours, p_values, places, printed, rows),
        *(smallest_p, starred, stars, structures),
    )
}


def page() -> str:
    """The text of `book/ledger.md`."""
    found = [(claim, *verdict_of_claim(claim)) for claim in read_claims()]
    parts = [_INTRODUCTION, _counts([(claim.paper, verdict) for claim, verdict, _ in found])]
    for paper, name in PAPERS.items():
        lines = [f"## {name}", "", "| verdict | claim |", "|:--|:--|"]
        for claim, verdict, runs in found:
            if claim.paper == paper:
                cell = _claim_cell(claim, runs)
                lines.append(f"| {claim.id}<br>**{verdict}** | {cell} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """(ledger)=
# The ledger of claims

<!-- Written by `python -m tools.ledger_page` from paper/ledger.csv; change that file. -->

Every claim of both papers that a reader may want to rely on, in our words, with the place where it
stands and a verdict. Nothing here is an opinion on a method: most lines only ask whether a sentence
follows from the paper's own tables, and most do. Where two numbers of a paper cannot both be right,
a note says which reading fits. Verdicts about reruns come from the committed rows
({ref}`reproducing-verdicts`), those about arithmetic from the transcribed tables in `paper/`. The
expressions are evaluated when this page is written, in the vocabulary of `tools/ledger_page.py`.

If you are an author of one of the papers and can explain a line, please open an issue: your
explanation will be added."""


def _counts(verdicts: list[tuple[str, str]]) -> str:
    lines, meanings = ["| verdict | AD-RegNet | LGANet++ |", "|:--|--:|--:|"], []
    for verdict, meaning in VERDICTS.items():
        numbers = [verdicts.count((paper, verdict)) for paper in PAPERS]
        if any(numbers):
            lines.append(f"| {verdict} | {numbers[0]} | {numbers[1]} |")
            meanings.append(f"* **{verdict}**: {meaning};")
    totals = [sum(paper == name for name, _ in verdicts) for paper in PAPERS]
    meanings[-1] = meanings[-1].replace(";", ".")
    return "\n".join([*lines, f"| all | {totals[0]} | {totals[1]} |", "", *meanings])


def _claim_cell(claim: Claim, runs: tuple[RunLink, ...]) -> str:
    """Claim, place, check and note of one line; short enough for a phone."""
    check = f"`{claim.check}`"
    if claim.kind == "rerun":
        check = "; ".join([check, *(f"[{run.text}]({run.url})" for run in runs)])
    elif claim.kind in ("test", "counterexample"):
        path, name = claim.check.split("::")
        check = f"[`{name}`]({RUNS_URL.replace('/tree/', '/blob/')}{path})"
    elif claim.kind == "undecidable":
        check = f"{_sentence(claim.check)}."
    parts = [f"{claim.claim} *{_sentence(claim.location)}*", claim.note, f"<small>{check}</small>"]
    if claim.kind == "undecidable":
        parts = [parts[0], check, claim.note]
    return "<br>".join(part for part in parts if part).replace("|", r"\|")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def verdicts_on(text: str) -> dict[str, str]:
    """Verdicts by id as a written page has them."""
    return dict(re.findall(r"^\| ([AL]\d{3})<br>\*\*([^*]+)\*\* \|", text, flags=re.MULTILINE))


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or compare its verdicts with today's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    if not parser.parse_args(arguments).check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    written = verdicts_on(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    today = verdicts_on(page())
    changed = {name for name in written | today if written.get(name) != today.get(name)}
    for name in sorted(changed):
        print(f"{name}: {written.get(name)} on the page, {today.get(name)} by the rows")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
