"""The tools that build and check the book, on small invented inputs."""

import json
import re
from pathlib import Path

import pytest

from tools.canonical_notebooks import canonical, canonical_text, main
from tools.check_html import problems, report
from tools.contents import documents, missing
from tools.notebook_runs import describe_failure, for_page, title_of
from tools.reference_page import markdown, reference, signature
from tools.status_page import status_tables

ROOT = Path(__file__).resolve().parents[1]

GOOD = '<a href="b.html#here">b</a><img src="p.png"><a href="https://example.org">out</a>'


@pytest.fixture
def site(tmp_path) -> Path:
    (tmp_path / "p.png").write_bytes(b"")
    (tmp_path / "b.html").write_text('<p id="here">b</p><a href="#here">up</a>')
    (tmp_path / "a.html").write_text(GOOD)
    return tmp_path


def test_sound_site_has_no_problems(site):
    assert problems(site) == []
    assert report(site) == 0


@pytest.mark.parametrize(
    ("addition", "finding"),
    [
        ('<a href="c.html">c</a>', "missing file: c.html"),
        ('<a href="b.html#there">b</a>', "missing anchor: b.html#there"),
        ('<script src="https://cdn.example.org/x.js"></script>', "loads from another host"),
        ('<link rel="stylesheet" href="//cdn.example.org/x.css">', "loads from another host"),
        ('<p style="background:url(https://example.org/x.png)">', "loads from another host"),
        ('<svg><image href="https://example.org/x.png"/></svg>', "loads from another host"),
    ],
)
def test_page_checker_finds(site, addition, finding):
    (site / "a.html").write_text(GOOD + addition)
    (found,) = problems(site)
    assert found.startswith("a.html: ") and finding in found
    assert report(site) == 1


def test_page_checker_reads_style_sheets(site):
    (site / "x.css").write_text('@import "https://example.org/font.css"; p{background:url(p.png)}')
    (found,) = problems(site)
    assert found == "x.css: loads from another host: https://example.org/font.css"


def test_page_checker_accepts_names_of_other_hosts_and_skips_templates(site):
    (site / "a.html").write_text(GOOD + '<link rel="canonical" href="https://example.org/a">')
    (site / "_static").mkdir()
    (site / "_static" / "template.html").write_text('<a href="nowhere.html">x</a>')
    assert problems(site) == []


def test_empty_site_fails(tmp_path):
    assert report(tmp_path) == 1


def _cell(source: str, *tags: str, **more: object) -> dict:
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, **more}


def _stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


@pytest.fixture
def untidy() -> dict:
    """A notebook as an editor leaves it."""
    printed = [_stream("1\n"), _stream("2\n"), _stream("w", "stderr")]
    executed = {"execution_count": 9, "outputs": printed}
    result = {
        "output_type": "execute_result",
        "execution_count": 7,
        "data": {"text/plain": "3\n4"},
        "metadata": {"machine": "mine"},
    }
    checked = _cell("print(1)\nprint(2)\n\n", "nbval-check-output", id="twice", **executed)
    checked["metadata"]["papermill"] = {"duration": 3.2}
    return {
        "nbformat": 4,
        "nbformat_minor": 4,
        "metadata": {"widgets": {}, "kernelspec": {"name": "mine"}},
        "cells": [
            {"cell_type": "markdown", "metadata": {"collapsed": True}, "source": ["# T\n", "x"]},
            _cell("fast = True", "parameters", id="twice", **executed),
            checked,
            _cell("3", "nbval-check-output", execution_count=7, outputs=[result]),
        ],
    }


def test_canonical_form(untidy):
    document = canonical(untidy)
    title, parameters, checked, last = document["cells"]
    assert document["nbformat_minor"] == 5
    assert document["metadata"]["kernelspec"]["name"] == "python3"
    assert title == {
        "cell_type": "markdown",
        "id": "cell-01",
        "metadata": {},
        "source": ["# T\n", "x"],
    }
    assert parameters["outputs"] == [] and parameters["execution_count"] is None
    assert checked["metadata"] == {"tags": ["nbval-check-output"]}
    assert checked["source"] == ["print(1)\n", "print(2)"]
    assert checked["execution_count"] == 1
    assert checked["outputs"] == [
        {"name": "stdout", "output_type": "stream", "text": ["1\n", "2\n"]}
    ]
    assert last["execution_count"] == last["outputs"][0]["execution_count"] == 2
    assert last["outputs"][0]["metadata"] == {}
    identifiers = [cell["id"] for cell in document["cells"]]
    assert identifiers == ["cell-01", "twice", "cell-02", "cell-03"]


def test_canonical_form_is_valid_and_stays(untidy):
    nbformat = pytest.importorskip("nbformat")
    text = canonical_text(json.dumps(untidy))
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert canonical_text(text) == text
    assert text.endswith("}\n")


def test_canonical_command(untidy, tmp_path, capsys):
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps(untidy))
    assert main(["--check", str(path)]) == 1
    assert json.loads(path.read_text()) == untidy
    assert main([str(path)]) == 0
    assert main(["--check", str(path)]) == 0
    assert "rewritten" in capsys.readouterr().out


def test_canonical_refuses_old_notebooks():
    with pytest.raises(ValueError, match="expected a notebook of nbformat 4, got 3"):
        canonical({"nbformat": 3, "cells": []})


def test_contents_lists_documents_and_what_is_missing(tmp_path):
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nparts:\n- caption: A\n  chapters:\n"
        "  - file: notebooks/one\n    sections:\n    - file: notebooks/two\n"
    )
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# I")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "two.ipynb").write_text("{}")
    assert documents(tmp_path) == ["book/index", "notebooks/one", "notebooks/two"]
    assert missing(tmp_path) == ["notebooks/one"]


def test_executed_copy_loses_what_papermill_added(untidy):
    untidy["metadata"]["papermill"] = {}
    untidy["cells"].insert(2, _cell("fast = False", "injected-parameters"))
    page = for_page(untidy)
    assert len(page["cells"]) == 4
    assert "papermill" not in json.dumps(page)
    assert title_of(page) == "T"


def test_failure_names_cell_and_error():
    error = {"output_type": "error", "traceback": ["\x1b[31mValueError\x1b[0m: expected 3"]}
    document = {"cells": [_cell("good()", outputs=[]), _cell("bad()", outputs=[error])]}
    assert describe_failure(document) == "bad()\n\nValueError: expected 3"


def test_status_page_lists_chapters_and_runs(tmp_path):
    record = {
        "date": "2026-01-02",
        "fast": True,
        "jobs": 2,
        "machine": {
            "device": "a processor",
            "cores": 2,
            "memory_gb": 8,
            "versions": {"python": "3.11", "torch": "2.13"},
        },
        "runs": [{"notebook": "notebooks/one", "status": "ok", "seconds": 12.4, "peak_mb": 700}],
    }
    text = status_tables(record, tmp_path)
    assert "| [](../notebooks/one) | ok | 12 | 700 |" in text
    assert "Result runs" not in text
    run = tmp_path / "an.experiment" / "a-run"
    run.mkdir(parents=True)
    evaluation = {"seconds_per_case": 1.239, "peak_memory_mib": 512.0}
    (run / "run.json").write_text(json.dumps({"device": "a GPU", "evaluation": evaluation}))
    assert "| an.experiment | a-run | a GPU | 1.24 | 512 |" in status_tables(record, tmp_path)


@pytest.mark.parametrize(
    "name", ["README.md", "book/conventions.md", "book/data.md", "book/weights.md"]
)
def test_python_in_prose_runs(name, monkeypatch):
    """The examples of a page run from top to bottom; those on data skip where there are none."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)
    assert blocks
    values: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), values)
    if name == "README.md":
        assert values["before"] < 0.65 and values["after"] > 0.9


def test_reference_has_every_public_function():
    text = reference()
    for name in ("register", "integrate", "save_displacement", "local_ncc", "hd95", "read_volume"):
        assert f"### `{name}`" in text
    assert text.count("### `warp`") == 1  # not at the top level again
    for prefix in ("typing.Literal", "jaxtyping.Float", "pathlib.Path"):
        assert prefix not in text


def test_docstring_sections_become_lists():
    found = markdown("What, if a < b.\n\nArgs:\n    a, b: first\n        and more.\n    c: `x<y`.")
    assert found == ("What, if a &lt; b.\n\nArgs\n: `a`, `b`: first and more.\n\n: `c`: `x<y`.\n")


def test_long_signatures_have_one_argument_per_line():
    def quick(first: int, *, second: str = "a") -> float: ...

    def long(
        an_argument_with_a_long_name: int, *, another_argument: tuple[int, ...] = (1, 2, 3)
    ) -> float: ...

    assert signature("quick", quick) == 'quick(first: int, *, second: str = "a") -> float'
    assert signature("long", long).splitlines() == [
        "long(",
        "    an_argument_with_a_long_name: int,",
        "    *,",
        "    another_argument: tuple[int, ...] = (1, 2, 3),",
        ") -> float",
    ]
