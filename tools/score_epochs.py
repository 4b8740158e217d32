"""Train an experiment, score the test cases after every epoch, and keep the scores with the run.

    python -m tools.score_epochs lganetpp.table2.pivit.4mm.20epochs

The released train_LPBA40.py of LGANet++ calls the epoch with the best Dice on the test subjects its
best model. What does that gain? `epochs.csv` in the run's folder answers, one line per epoch and
case: epoch (counted from 1), case, dice (mean over structures, labels warped with the nearest
neighbour). The training itself is that of `regnet train` and sees no test case; the rows of the run
are those of its last epoch. Stopped, it goes on where it was.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import torch

from regnet_lib.data import Dataset, open_dataset
from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.cache import CachedDataset
from regnet_lib.evaluate import evaluate, trained_model
from regnet_lib.experiments import Experiment, find_experiment
from regnet_lib.metrics import dice
from regnet_lib.models.sizes import run_at_valid_size
from regnet_lib.paths import runs_folder
from regnet_lib.spatial import warp_labels
from regnet_lib.train import CHECKPOINT, train

SCORES = "epochs.csv"
HEADER = ("epoch", "case", "dice")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="name of an experiment that trains")
    experiment = find_experiment(parser.parse_args().experiment)
    folder = runs_folder() / experiment.name
    score_epochs(experiment, folder)
    results = evaluate(experiment, checkpoint=folder / CHECKPOINT)
    (results / SCORES).write_text((folder / SCORES).read_text())


def score_epochs(experiment: Experiment, folder: Path, *, data: Path | None = None) -> None:
    """Train to the end in `folder` and write its `epochs.csv`.

    Args:
        data: folder of the dataset; default `$REGNET_DATA/<dataset>`.
    """
    scores = folder / SCORES
    with tempfile.TemporaryDirectory() as cache:
        dataset = CachedDataset(
            open_dataset(experiment.dataset, data, **experiment.dataset_options), cache
        )
        finished = False
        while not finished:
            # No time at all means one step and a checkpoint; the cache makes that cheap.
            result = train(
                experiment,
                data=data,
                cache=cache,
                folder=folder,
                device="cpu",
                max_minutes=0.0,
                resume=True,
                progress=False,
            )
            finished = result.finished
            epoch, rest = divmod(result.step, result.total_steps // experiment.epochs)
            if rest == 0:
                _append(scores, epoch, case_scores(experiment, folder / CHECKPOINT, dataset))


def case_scores(experiment: Experiment, checkpoint: Path, dataset: Dataset) -> dict[str, float]:
    """Mean Dice over the structures of every test case, with the weights of a checkpoint."""
    model = trained_model(experiment, checkpoint)
    found = {}
    for case_id in dataset.ids("test"):
        case = dataset.case(case_id)
        with torch.no_grad():
            displacement = run_at_valid_size(model, case.moving, case.fixed).displacement
        zoomed = experiment.objective.zoomed
        warped = warp_labels(case.moving_labels, displacement.float(), zoomed=zoomed)
        found[case_id] = float(np.nanmean(dice(warped, case.fixed_labels, case.label_ids)))
    return found


def _append(path: Path, epoch: int, scores: dict[str, float]) -> None:
    """Add an epoch, once: after a stop the last one may be scored again."""
    lines = list(csv.reader(path.open(newline=""))) if path.exists() else [list(HEADER)]
    kept = [line for line in lines if line[0] != str(epoch)]
    kept += [[str(epoch), case, f"{score:.6g}"] for case, score in scores.items()]
    text = "".join(",".join(line) + "\n" for line in kept)
    write_atomically(path, lambda temporary: temporary.write_text(text), overwrite=True)


if __name__ == "__main__":
    main()
