"""Run notebooks in the fast profile and store the outputs of their check cells.

    python -m tools.refresh_notebooks notebooks/02_warping.ipynb

This is how an author accepts new outputs: cells tagged `nbval-check-output` keep what they
printed, everything else is dropped, and the file gets its canonical form. A notebook that fails
stays as it is.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools.canonical_notebooks import canonical_text
from tools.contents import ROOT
from tools.notebook_runs import kernel_environment


def refresh(path: Path, limit_seconds: int = 600) -> bool:
    """Execute one notebook in its folder and rewrite it; true if the file changed."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(canonical_text(before), as_version=4)
    client = NotebookClient(
        notebook,
        timeout=limit_seconds,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    after = canonical_text(json.dumps(notebook))
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def main() -> int:
    """Refresh the named notebooks, or all; 1 at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", type=Path, nargs="*", help="default: notebooks/*.ipynb")
    paths = parser.parse_args().notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    os.environ.update(kernel_environment())
    for path in paths:
        try:
            changed = refresh(path.resolve())
        except CellExecutionError as error:
            print(f"failed: {path}\n{error}")
            return 1
        print(f"{'updated' if changed else 'unchanged'}: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
