"""Run every notebook, then build the HTML book.

    python -m tools.build_book                    # fast profile, two notebooks at a time
    python -m tools.build_book --full             # the long run: real data, GPU
    python -m tools.build_book --only html        # the pages again, from the last executed copies

Executed copies lie in `_build/src`, which mirrors the tree, so that links and the Colab button
point at the sources. Cost and outcome of each notebook are in `_build/notebooks.json`. The command
fails if a notebook fails, if Sphinx warns, or if a page has a dead link or loads anything from
another host.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil

from regnet_lib.machine import choose_device, device_name, versions
from tools.browser_files import copy_mathjax
from tools.check_html import report
from tools.contents import ROOT, missing
from tools.ledger_page import page as ledger_page
from tools.notebook_runs import NotebookRun, kernel_environment, run_all
from tools.reference_page import reference
from tools.status_page import status_tables
from tools.weights_page import weights_page


def main() -> int:
    """Parse the command line; 0 when the book is complete and sound."""
    arguments = _arguments()
    build = arguments.root / "_build"
    staged, record_path = build / "src", build / "notebooks.json"
    if arguments.only != "html":
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        runs = run_all(
            arguments.root,
            staged,
            fast=not arguments.full,
            jobs=arguments.jobs,
            limit_seconds=arguments.limit_seconds,
        )
        record = _record(runs, fast=not arguments.full, jobs=arguments.jobs)
        record_path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(table_of(runs))
        if any(run.status != "ok" for run in runs):
            return 1
    if arguments.only == "notebooks":
        return 0
    if not record_path.exists():
        print("build_book: no executed notebooks yet. Run `make notebooks` first.")
        return 1
    stage(arguments.root, staged, json.loads(record_path.read_text(encoding="utf-8")))
    return _build_html(arguments.root, staged)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="run the notebooks with fast=False")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time")
    parser.add_argument("--limit-seconds", type=int, default=600, help="longest time of one cell")
    parser.add_argument("--only", choices=["notebooks", "html"], help="one half of the work")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args()


def stage(root: Path, staged: Path, record: dict) -> None:
    """Complete the staging folder: prose, configuration, browser files and generated pages."""
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(root / name, staged)
    shutil.copytree(root / "book", staged / "book", dirs_exist_ok=True)
    copy_mathjax(staged / "book" / "_static" / "vendor")
    generated = {
        "status.md": status_tables(record, root / "results"),
        "reference.md": reference(),
        "weights.md": weights_page(),
    }
    for name, text in generated.items():
        with (staged / "book" / name).open("a", encoding="utf-8") as page:
            page.write("\n" + text)
    (staged / "book" / "ledger.md").write_text(ledger_page(), encoding="utf-8")
    for document in missing(root):
        # A chapter may be announced before it is written; links to it already work.
        print(f"build_book: {document} is in _toc.yml but not in the tree: announced as to come")
        page = staged / f"{document}.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"# {page.stem}\n\nThis chapter is still to come.\n", encoding="utf-8")


def table_of(runs: list[NotebookRun]) -> str:
    """One line per notebook, and the failing cell of those that failed."""
    lines = []
    for run in runs:
        lines.append(f"{run.status:<7}{run.notebook:<44}{run.seconds:>7.1f} s{run.peak_mb:>7} MB")
        if run.failure:
            lines += ["-" * 70, run.failure, "-" * 70]
    return "\n".join(lines) if lines else "no notebooks to run"


def _record(runs: list[NotebookRun], *, fast: bool, jobs: int) -> dict:
    return {
        "date": datetime.date.today().isoformat(),
        "fast": fast,
        "jobs": jobs,
        "machine": _machine(),
        "runs": [asdict(run) for run in runs],
    }


def _machine() -> dict[str, str | int | dict[str, str]]:
    return {
        "device": device_name(choose_device()),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "versions": versions(),
    }


def _build_html(root: Path, staged: Path) -> int:
    """Sphinx with warnings as errors, then the checks of the pages."""
    command = [str(Path(sys.executable).parent / "jupyter-book"), "build", str(staged)]
    command += ["--path-output", str(root), "--all", "-W", "-n", "--keep-going", "-q"]
    failed = subprocess.call(command, env=kernel_environment())
    pages = root / "_build" / "html"
    broken = report(pages) if pages.exists() else 1
    if failed:
        print(f"build_book: Sphinx ended with {failed}; its warnings are above.")
    else:
        print(f"the book: {pages / 'index.html'}")
    return 1 if failed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
