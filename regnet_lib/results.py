"""The one store of numbers: tidy rows per run, and where each run came from.

results/<experiment>/<run>/rows.csv    one line per case, structure and metric
results/<experiment>/<run>/run.json    experiment, commit, versions, device, seconds, memory
results/<experiment>/<run>/train.csv   the learning curve, where there was a training

runs = read_runs("lganetpp.table2.identity")
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.volume import BadInputError
from regnet_lib.paths import results_folder

COLUMNS = (
    "experiment",
    "run_id",
    "dataset",
    "split",
    "case",
    "structure",
    "metric",
    "value",
    "unit",
)
# Structure of values that belong to a whole case.
WHOLE = "all"


@dataclass(frozen=True)
class Run:
    """One committed run, or several that test the folds of one data set (`pooled`)."""

    folder: Path
    info: dict[str, object]
    folds: tuple["Run", ...] = ()

    @property
    def experiment(self) -> str:
        return str(self.info["experiment"]["name"])

    @property
    def run_id(self) -> str:
        return str(self.info["run_id"])

    @cached_property
    def rows(self) -> pd.DataFrame:
        """All rows of the run, columns `COLUMNS`."""
        if self.folds:
            return pd.concat([fold.rows for fold in self.folds], ignore_index=True)
        return pd.read_csv(self.folder / "rows.csv", dtype={"structure": str, "case": str})

    @cached_property
    def training(self) -> pd.DataFrame | None:
        """The learning curve, or None."""
        path = self.folder / "train.csv"
        return pd.read_csv(path) if path.exists() else None

    def values(self, metric: str) -> np.ndarray:
        """Values of a metric, `(cases, structures)`, in the order of the rows."""
        rows = self.rows[self.rows["metric"] == metric]
        if rows.empty:
            return np.full((1, 1), np.nan)
        table = rows.pivot(index="case", columns="structure", values="value")
        return table.to_numpy()

    def case_means(self, metric: str) -> pd.Series:
        """Mean over structures per case, indexed by case."""
        rows = self.rows[self.rows["metric"] == metric]
        return rows.groupby("case", sort=True)["value"].mean()


def pooled(folds: Sequence[Run]) -> Run:
    """The runs of a cross-validation as one: every case is tested in exactly one of them."""
    first = folds[0]
    cases = sum(int(fold.info["evaluation"]["cases"]) for fold in folds)
    evaluation = {**first.info["evaluation"], "cases": cases}
    return Run(first.folder, {**first.info, "evaluation": evaluation}, tuple(folds))


def write_run(
    rows: pd.DataFrame,
    info: dict[str, object],
    *,
    root: Path | None = None,
    log: Path | None = None,
) -> Path:
    """Write a new run folder; an existing one is never touched."""
    import shutil

    folder = (root or results_folder()) / str(info["experiment"]["name"]) / str(info["run_id"])
    if (folder / "rows.csv").exists():
        raise BadInputError(
            f"{folder}: the run exists. Runs are append-only; choose another run id."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if log is not None and log.exists():
        shutil.copyfile(log, folder / "train.csv")
    text = json.dumps(info, indent=1) + "\n"
    write_atomically(
        folder / "run.json", lambda temporary: temporary.write_text(text), overwrite=True
    )
    # rows.csv last: a folder without it is an unfinished run and is not read.
    write_atomically(
        folder / "rows.csv",
        lambda temporary: rows.to_csv(
            temporary, index=False, columns=list(COLUMNS), float_format="%.6g", lineterminator="\n"
        ),
    )
    return folder


def read_runs(experiment: str, *, root: Path | None = None) -> list[Run]:
    """All complete runs of an experiment, oldest first."""
    base = (root or results_folder()) / experiment
    runs = []
    for path in sorted(base.glob("*/rows.csv")):
        info = json.loads((path.parent / "run.json").read_text())
        runs.append(Run(path.parent, info))
    return sorted(runs, key=lambda run: str(run.info["created"]))


def new_run_id(
    experiment: str, created: str, device: str, seed: int, *, root: Path | None = None
) -> str:
    """`20261121-cpu-seed0`, with a counter where that name is taken."""
    base = f"{created[:10].replace('-', '')}-{device}-seed{seed}"
    folder = (root or results_folder()) / experiment
    name, count = base, 1
    while (folder / name / "rows.csv").exists():
        count += 1
        name = f"{base}-{count}"
    return name
