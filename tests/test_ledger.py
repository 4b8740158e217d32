"""The ledger of claims: every reference exists, and the written verdicts are today's."""

import re
from pathlib import Path

import pytest

from regnet_lib.experiments import EXPERIMENTS, TABLES
from regnet_lib.paper import PAPER_TABLES, paper_cells, quoted_rows
from regnet_lib.results import read_runs
from tools import ledger_page

ROOT = Path(__file__).resolve().parents[1]
CLAIMS = ledger_page.read_claims()
KINDS = {"arithmetic", "rerun", "rows", "test", "counterexample", "undecidable"}
FILE = re.compile(
    r"(?:tests|paper|book|notebooks|regnet_lib)/[\w/.]+\.(?:py|csv|md|ipynb)(?:::\w+)?"
)


def of(*kinds):
    chosen = [claim for claim in CLAIMS if claim.kind in kinds]
    return pytest.mark.parametrize("claim", chosen, ids=[claim.id for claim in chosen])


def test_lines_are_complete_and_numbered():
    assert len(CLAIMS) >= 60
    for paper, letter in (("ad_regnet", "A"), ("lganetpp", "L")):
        ids = [claim.id for claim in CLAIMS if claim.paper == paper]
        assert ids == [f"{letter}{number:03d}" for number in range(1, len(ids) + 1)]
    for claim in CLAIMS:
        assert claim.paper in ledger_page.PAPERS and claim.kind in KINDS, claim.id
        assert claim.location and claim.check and claim.claim.endswith("."), claim.id
    assert len({(claim.paper, claim.claim) for claim in CLAIMS}) == len(CLAIMS)


def test_every_table_is_rerun_by_some_claim():
    tables = {ledger_page.table_row_metric(claim)[0] for claim in CLAIMS if claim.kind == "rerun"}
    assert tables == set(PAPER_TABLES)


@of("rerun")
def test_a_rerun_is_a_printed_cell_with_an_experiment_or_quoted(claim):
    table, row, metric = ledger_page.table_row_metric(claim)
    cells = paper_cells(table)
    assert ((cells["row"] == row) & (cells["metric"] == metric) & (cells["case"] == "")).sum() == 1
    quoted = quoted_rows()
    listed = ((quoted["table"] == table) & (quoted["row"] == row)).any()
    assert listed != any(experiment.row == row for experiment in TABLES.get(table, ()))


@of("test", "counterexample")
def test_a_test_exists(claim):
    path, name = claim.check.split("::")
    assert re.search(rf"^\s*def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


@of("rows")
def test_rows_exist(claim):
    names = re.findall(r'"((?:ad_regnet|lganetpp)\.[^"]+)"', claim.check)
    assert names and all(name in EXPERIMENTS and read_runs(name) for name in names)


@of(*KINDS)
def test_files_named_in_passing_exist(claim):
    for reference in FILE.findall(f"{claim.check} {claim.note}"):
        path, _, name = reference.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text


def test_the_page_has_todays_verdicts(capsys):
    written = ledger_page.verdicts_on(ledger_page.PAGE.read_text(encoding="utf-8"))
    assert set(written) == {claim.id for claim in CLAIMS}
    assert set(written.values()) <= set(ledger_page.VERDICTS)
    assert ledger_page.main(["--check"]) == 0, (
        f"run: python -m tools.ledger_page\n{capsys.readouterr().out}"
    )


def test_the_page_loads_nothing_and_counts_its_lines():
    text = ledger_page.PAGE.read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|img|link)|!\[", text)
    written = list(ledger_page.verdicts_on(text).values())
    for verdict, *numbers in re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \|", text, re.MULTILINE):
        wanted = len(written) if verdict == "all" else written.count(verdict)
        assert sum(map(int, numbers)) == wanted


def test_an_expression_says_yes_or_no_in_the_vocabulary():
    cell = 'printed("lganetpp.table2", "SyN", "dice")'
    assert ledger_page.evaluate(f"{cell} == 70.03") and not ledger_page.evaluate(f"{cell} == 70")
    with pytest.raises(TypeError, match="yes or no, got 70.03"):
        ledger_page.evaluate(cell)
    with pytest.raises(NameError):
        ledger_page.evaluate("open('x') is None")


def test_vocabulary_by_hand():
    table, own = "ad_regnet.table1", "AD-RegNet (Ours)"
    assert ledger_page.rows(table)[0] == "Before" and ledger_page.metrics(table) == ("tre_mm",)
    assert ledger_page.cases(table, own)[10] == 1.49
    assert ledger_page.cases(table, own, "std")[8] == 2.40
    assert ledger_page.places(table, own).to_dict() == {
        **{1: 3, 2: 1, 3: 2, 4: 1, 5: 1, 6: 2, 7: 1, 8: 2, 9: 1, 10: 1}
    }
    two_sided, one_sided, normal = ledger_page.p_values(table, "De Vos", own)
    assert (two_sided, one_sided) == (2 / 2**10, 1 / 2**10) and round(normal, 4) == 0.0051
    assert ledger_page.smallest_p(9) == 2 / 2**9
    assert ledger_page.smallest_p(9, one_sided=True) == 1 / 2**9
    lung = "lganetpp.table6"
    assert ledger_page.gain(lung, "LGANet++ (Ours)", "RDP") == pytest.approx(100 * 0.69 / 96.92)
    assert ledger_page.stars(lung, "precision") == 1
    assert ledger_page.above_jensen(lung) == ["RDP", "LGANet (Ours)", "LGANet++ (Ours)"]
    assert ledger_page.column(lung, "dice", column="std")["RDP"] == 1.51
    assert ledger_page.structures("lganetpp.table2.identity") == 56
    assert round(100 * ledger_page.ours("lganetpp.table2.identity", "dice"), 2) == 54.81
