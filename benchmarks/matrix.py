"""The experiment matrix: 12 trainings, 12 evaluations and a summary as jobs on two cores.

Every job is a Python process of its own that imports torch, so this measures what the engine and
the command line add to trainings, not the trainings, which are of eight steps. The seconds are CPU
seconds of all processes together, since other programs disturb those little.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import timing
from regnet_lib.experiments import TABLES
from regnet_lib.results import read_runs

ROOT = Path(__file__).resolve().parents[1]
TABLE = "teaching.matrix"
EXPLANATION = (
    "The first run starts 25 processes, and `import torch` takes about 2 s in each, half of the "
    "sum (B16). One process for several cells would share the import, and a cell that crashes "
    "would take the others with it. With nothing to do, Snakemake alone needs less than one CPU "
    "second. The rest is the import of PyTorch and pandas: the workflow asks the library for its "
    "experiments and rows, and a second list of them would save two seconds and go stale."
)
# Half a minute on two cores; a second and a half on one.
TARGET_SECONDS = {"first run": 60.0, "nothing to do": 1.5}


def rows() -> Iterator[dict[str, object]]:
    """One cell of 12 broken; its repair; a run with nothing to do."""
    cells = [experiment.name for experiment in TABLES[TABLE]]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        checkpoint = home / "runs" / cells[-1] / "checkpoint.safetensors"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"half of a file")
        for case in ("first run", "repair", "nothing to do"):
            done, seconds = _run(home)
            complete = sum(bool(read_runs(cell, root=home / "results")) for cell in cells)
            expected = len(cells) - (case == "first run")
            if complete != expected or (done == 0) != (case != "first run"):
                raise RuntimeError(f"{case}: {complete} of {len(cells)} cells, exit code {done}")
            yield _row(case, seconds, complete)
            if case == "first run":
                checkpoint.unlink()


def _run(home: Path) -> tuple[int, float]:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", f"table={TABLE}"]
    command += ["--snakefile", str(ROOT / "workflow/Snakefile")]
    environment = os.environ | {"REGNET_HOME": str(home), "PYTHONPATH": str(ROOT)}
    before = _seconds_of_children()
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    return done.returncode, _seconds_of_children() - before


def _seconds_of_children() -> float:
    used = os.times()
    return used.children_user + used.children_system


def _row(case: str, seconds: float, complete: int) -> dict[str, object]:
    name = f"{case}, {complete} cells complete"
    return timing(name, [seconds], TARGET_SECONDS.get(case))
