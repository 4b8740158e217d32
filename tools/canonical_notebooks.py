"""One written form for every notebook, so that changes read well and nothing stale is stored.

    python -m tools.canonical_notebooks            # rewrite notebooks/*.ipynb
    python -m tools.canonical_notebooks --check    # list those that differ; exit code 1

The form: nbformat 4.5; every cell has an identifier that stays; cell metadata holds `tags` alone;
outputs are stored only in cells tagged `nbval-check-output`, with a running execution count,
because nbval silently skips a cell without one; kernel `python3`; sorted keys; a newline at the
end.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.contents import ROOT

CHECKED = "nbval-check-output"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_IDENTIFIER = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def canonical(document: dict) -> dict:
    """The canonical form of a notebook; applying it twice changes nothing."""
    if document.get("nbformat") != 4:
        raise ValueError(
            f"canonical: expected a notebook of nbformat 4, got {document.get('nbformat')}. "
            "Open and save it in a current JupyterLab first."
        )
    cells = []
    taken = set()
    checked = 0
    for cell in document["cells"]:
        identifier = cell.get("id", "")
        if not _IDENTIFIER.fullmatch(identifier) or identifier in taken:
            identifier = _free_identifier(document, taken)
        taken.add(identifier)
        tags = list(dict.fromkeys(cell["metadata"].get("tags", [])))
        fresh = {
            "cell_type": cell["cell_type"],
            "id": identifier,
            "metadata": {"tags": tags} if tags else {},
            "source": _lines(_text(cell["source"]).rstrip()),
        }
        if cell.get("attachments"):
            fresh["attachments"] = cell["attachments"]
        if cell["cell_type"] == "code":
            outputs = _outputs(cell.get("outputs", [])) if CHECKED in tags else []
            checked += bool(outputs)
            fresh["execution_count"] = checked if outputs else None
            fresh["outputs"] = [_numbered(output, checked) for output in outputs]
        cells.append(fresh)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def canonical_text(text: str) -> str:
    """The canonical text of a notebook file."""
    document = canonical(json.loads(text))
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check; 1 if a checked notebook differs from its canonical form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, report differences")
    parser.add_argument("notebooks", type=Path, nargs="*", help="default: notebooks/*.ipynb")
    options = parser.parse_args(arguments)
    differing = []
    for path in options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        fresh = canonical_text(text)
        if fresh != text:
            differing.append(path)
            if not options.check:
                path.write_text(fresh, encoding="utf-8")
    for path in differing:
        print(f"{'not canonical' if options.check else 'rewritten'}: {path}")
    return 1 if options.check and differing else 0


def _free_identifier(document: dict, taken: set[str]) -> str:
    """The first `cell-NN` that no cell of the notebook bears."""
    borne = taken | {cell.get("id") for cell in document["cells"]}
    number = 1
    while f"cell-{number:02d}" in borne:
        number += 1
    return f"cell-{number:02d}"


def _outputs(outputs: list[dict]) -> list[dict]:
    """Outputs as stored: prints of one stream in one piece, no metadata, nothing of stderr."""
    kept: list[dict] = []
    for output in outputs:
        if output["output_type"] == "stream":
            if output["name"] == "stderr":
                continue
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] = _lines(_text(kept[-1]["text"]) + _text(output["text"]))
            else:
                text = _lines(_text(output["text"]))
                kept.append({"name": "stdout", "output_type": "stream", "text": text})
        elif output["output_type"] in ("display_data", "execute_result"):
            data = {
                kind: _lines(_text(value)) if kind.startswith("text/") else value
                for kind, value in output["data"].items()
            }
            kept.append({"data": data, "metadata": {}, "output_type": output["output_type"]})
        else:
            kept.append(dict(output))
    return kept


def _numbered(output: dict, count: int) -> dict:
    if output["output_type"] == "execute_result":
        return {**output, "execution_count": count}
    return output


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    sys.exit(main())
