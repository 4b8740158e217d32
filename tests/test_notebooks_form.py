"""The written form of the chapters; what they compute is checked by running them."""

import json
import re
from pathlib import Path

import pytest

from tools.canonical_notebooks import CHECKED, canonical_text
from tools.contents import documents

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_CELLS, MAX_CELL_LINES, MAX_WORDS = 40, 30, 2_500
MARKUP = re.compile(r"<[^>]*>")  # drawings are not prose
MACHINE_PATH = re.compile(r"(?:/home/|/Users/|/root/|/work/|/tmp/|/content/|[A-Z]:\\\\)")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _source(cell: dict) -> str:
    return "".join(cell["source"])


def _tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_contents_lists_every_notebook():
    listed = {name for name in documents(ROOT) if name.startswith("notebooks/")}
    assert {f"notebooks/{path.stem}" for path in NOTEBOOKS} == listed


def test_notebook_is_canonical(path):
    text = path.read_text(encoding="utf-8")
    assert text == canonical_text(text), "run: python -m tools.canonical_notebooks"


def test_notebook_begins_with_a_title(cells):
    titled = [cell for cell in cells if cell["cell_type"] == "markdown"]
    assert any(line.startswith("# ") for line in _source(titled[0]).splitlines())


def test_parameters_are_the_fast_profile(cells):
    parameters = [cell for cell in cells if "parameters" in _tags(cell)]
    assert len(parameters) == 1
    values: dict[str, object] = {}
    exec(_source(parameters[0]), {}, values)
    assert values == {"fast": True, "seed": 0}


def test_a_check_cell_has_stored_output(cells):
    checked = [cell for cell in cells if CHECKED in _tags(cell)]
    assert checked, f"no cell is tagged {CHECKED}"
    for cell in checked:
        assert cell["outputs"], f"run: python -m tools.refresh_notebooks (cell {cell['id']})"


def test_notebook_is_short_enough(cells):
    assert len(cells) <= MAX_CELLS
    for cell in cells:
        if cell["cell_type"] == "code":
            assert len(_source(cell).splitlines()) <= MAX_CELL_LINES, cell["id"]
    prose = [_source(cell) for cell in cells if cell["cell_type"] == "markdown"]
    words = sum(len(MARKUP.sub(" ", text).split()) for text in prose)
    assert words <= MAX_WORDS


def test_notebook_knows_no_machine(path):
    found = MACHINE_PATH.findall(path.read_text(encoding="utf-8"))
    assert not found
