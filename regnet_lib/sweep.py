"""Everything a table still lacks, cheapest first: train what needs training, then evaluate.

    report = sweep("lganetpp.table2", max_minutes=25)

The state is on disk, so a sweep can be stopped at any time: finished rows are in `results/`,
unfinished trainings have a checkpoint in `runs/` and go on from there.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from regnet_lib.data import available, open_dataset
from regnet_lib.evaluate import evaluate
from regnet_lib.experiments import TABLES, Experiment
from regnet_lib.paths import runs_folder
from regnet_lib.results import read_runs
from regnet_lib.train import CHECKPOINT, train


def sweep(
    table: str,
    *,
    only: Sequence[str] = (),
    data: Path | None = None,
    runs: Path | None = None,
    results: Path | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Complete a table as far as time allows.

    Args:
        table: a name of `TABLES`.
        only: experiments to consider; all of the table by default.
        data: folder of the dataset; default `$REGNET_DATA/<dataset>`.
        runs, results: where checkpoints and rows go; default `runs/` and `results/`.
        max_minutes: start nothing new after this time, and stop a training at it.
        report: called with one line per experiment.

    Returns:
        One word per experiment: `present`, `evaluated`, `unfinished`, `waiting` (no time left),
        `no data`, or `needs <experiment>` where the weights of another one are still missing.
    """
    if table not in TABLES:
        raise ValueError(f"sweep: expected one of {sorted(TABLES)}, got {table!r}.")
    chosen = [one for one in TABLES[table] if not only or one.name in only]
    started = time.monotonic()
    outcome: dict[str, str] = {}
    for experiment in sorted(chosen, key=lambda one: _cost(one, data)):
        left = math.inf
        if max_minutes is not None:
            left = max_minutes - (time.monotonic() - started) / 60
        if read_runs(experiment.name, root=results):
            outcome[experiment.name] = "present"
        elif data is None and not available(experiment.dataset):
            outcome[experiment.name] = "no data"
        elif left <= 0:
            outcome[experiment.name] = "waiting"
        else:
            folder = (runs or runs_folder()) / (experiment.weights_of or experiment.name)
            outcome[experiment.name] = _complete(
                experiment, folder, data=data, results=results, device=device, minutes=left
            )
        report(f"{outcome[experiment.name]:12s} {experiment.name}")
    return outcome


def _complete(
    experiment: Experiment,
    folder: Path,
    *,
    data: Path | None,
    results: Path | None,
    device: str,
    minutes: float,
) -> str:
    if experiment.epochs > 0:
        training = train(
            experiment,
            data=data,
            folder=folder,
            device=device,
            max_minutes=None if math.isinf(minutes) else minutes,
            resume=True,
        )
        if not training.finished:
            return "unfinished"
    elif experiment.weights_of and not (folder / CHECKPOINT).exists():
        return f"needs {experiment.weights_of}"
    evaluate(experiment, checkpoint=folder / CHECKPOINT, data=data, root=results, device=device)
    return "evaluated"


def _cost(experiment: Experiment, data: Path | None) -> float:
    """Voxels to be trained on; without the data the order does not matter."""
    if experiment.epochs == 0 or (data is None and not available(experiment.dataset)):
        return 0.0
    dataset = open_dataset(experiment.dataset, data, **experiment.dataset_options)
    train_ids = dataset.ids("train")
    voxels = math.prod(dataset.case(train_ids[0], labels=False).shape)
    return float(experiment.epochs * len(train_ids) * voxels)
