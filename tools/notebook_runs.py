"""Running notebooks with papermill, measured.

Each notebook of the table of contents is executed in a process of its own and written to the
staging folder; the source stays as it is. The memory is that of the whole process tree, kernel
included, because a chapter that fits a laptop is a promise of the book.

    runs = run_all(ROOT, staged, fast=True, jobs=2, limit_seconds=600)   # list[NotebookRun]
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from tools.contents import notebooks

POLL_SECONDS = 0.2
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class NotebookRun:
    """What one execution of a notebook cost and whether it ended well."""

    notebook: str
    title: str
    status: str  # "ok" or "failed"
    seconds: float
    peak_mb: int
    failure: str = ""  # the failing cell and its traceback


def kernel_environment() -> dict[str, str]:
    """Environment of a run: the kernel `python3` is this interpreter, with one thread."""
    kernels = str(Path(sys.prefix) / "share" / "jupyter")
    others = os.environ.get("JUPYTER_PATH")
    return {
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "JUPYTER_PATH": os.pathsep.join([kernels, others] if others else [kernels]),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def run_all(
    root: Path, staged: Path, *, fast: bool, jobs: int, limit_seconds: int
) -> list[NotebookRun]:
    """Execute every notebook of the table of contents into `staged`, `jobs` at a time."""
    run = partial(_run, root, staged, fast=fast, limit_seconds=limit_seconds)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, notebooks(root)))


def _run(
    root: Path, staged: Path, notebook: Path, *, fast: bool, limit_seconds: int
) -> NotebookRun:
    source, target = root / notebook, staged / notebook
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", str(source), str(target)]
    command += ["-k", "python3", "--cwd", str(source.parent), "-p", "fast", str(fast)]
    command += ["--execution-timeout", str(limit_seconds), "--request-save-on-cell-execute"]
    command += ["--no-progress-bar", "--log-level", "WARNING"]
    start, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=kernel_environment())
        while process.poll() is None:
            peak = max(peak, _tree_bytes(process.pid))
            time.sleep(POLL_SECONDS)
        log.seek(0)
        said = log.read()
    seconds = round(time.monotonic() - start, 1)
    document = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"cells": []}
    failure = ""
    if process.returncode:
        failure = describe_failure(document) or said[-3000:]
    else:
        target.write_text(json.dumps(for_page(document), indent=1), encoding="utf-8")
    return NotebookRun(
        notebook=notebook.with_suffix("").as_posix(),
        title=title_of(document) or notebook.stem,
        status="failed" if process.returncode else "ok",
        seconds=seconds,
        peak_mb=round(peak / 2**20),
        failure=failure,
    )


def for_page(document: dict) -> dict:
    """The executed notebook without what papermill added to it."""
    document["metadata"].pop("papermill", None)
    document["cells"] = [
        cell
        for cell in document["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    for cell in document["cells"]:
        cell["metadata"].pop("papermill", None)
    return document


def describe_failure(document: dict) -> str:
    """Source and traceback of the last cell that raised, or an empty string."""
    for cell in reversed(document["cells"]):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                traceback = _ANSI.sub("", "\n".join(output["traceback"]))
                return f"{''.join(cell['source'])}\n\n{traceback}"
    return ""


def title_of(document: dict) -> str:
    """The first heading of a notebook."""
    for cell in document["cells"]:
        for line in "".join(cell["source"]).splitlines():
            if cell["cell_type"] == "markdown" and line.startswith("# "):
                return line[2:].strip()
    return ""


def _tree_bytes(pid: int) -> int:
    """Resident memory of a process and its children; 0 once it has gone."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        return sum(process.memory_info().rss for process in family)
    except psutil.Error:
        return 0
