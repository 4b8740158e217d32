"""Train every learned model for 50 steps, evaluate it, and keep one slice of the field it finds.

    python -m tools.train_zoo                                # all that is missing
    python -m tools.train_zoo modet rdp --max-minutes 10     # some, and no longer

Rows go to `results/zoo.<dataset>.<model>.50steps/<run>/` as `regnet sweep` writes them, and
`field.npz` beside them: the first test pair's displacement on the middle plane of the first axis,
for the pictures of the chapter on the baselines.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from regnet_lib.data import open_dataset
from regnet_lib.data.atomic import write_arrays
from regnet_lib.evaluate import trained_model
from regnet_lib.experiments import TABLES, Experiment
from regnet_lib.models.sizes import run_at_valid_size
from regnet_lib.paths import runs_folder
from regnet_lib.results import read_runs
from regnet_lib.sweep import sweep
from regnet_lib.train import CHECKPOINT

TABLE = "zoo.msd_hippocampus"
FIELD = "field.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="model", help="names in MODELS; default: all")
    parser.add_argument("--max-minutes", type=float, help="stop after this time; resumable")
    arguments = parser.parse_args()
    chosen = [one for one in TABLES[TABLE] if not arguments.models or one.model in arguments.models]
    unknown = set(arguments.models) - {one.model for one in chosen}
    if unknown:
        parser.error(f"expected models of {TABLE}, got {', '.join(sorted(unknown))}")
    names = [one.name for one in chosen]
    sweep(TABLE, only=names, device="cpu", max_minutes=arguments.max_minutes, report=print)
    for experiment in chosen:
        checkpoint = runs_folder() / experiment.name / CHECKPOINT
        if experiment.epochs and checkpoint.exists() and (runs := read_runs(experiment.name)):
            keep_field(experiment, checkpoint, runs[-1].folder / FIELD)


def keep_field(experiment: Experiment, checkpoint: Path, path: Path) -> None:
    """Write the middle sagittal slice of the first test case's field, unless it is there.

    The archive holds `displacement` `(2, H, W)`, the components within the plane in voxels as
    half-precision numbers, and `about`, JSON with the case, the axis and the index of the plane.
    """
    if path.exists():
        return
    dataset = open_dataset(experiment.dataset, **experiment.dataset_options)
    case = dataset.case(dataset.ids("test")[0], labels=False)
    model = trained_model(experiment, checkpoint)
    with torch.no_grad():
        displacement = run_at_valid_size(model, case.moving, case.fixed).displacement
    index = case.shape[0] // 2
    plane = displacement[0, 1:, index].numpy().astype(np.float16)
    about = json.dumps({"case": case.id, "axis": 0, "index": index})
    write_arrays(path, overwrite=True, displacement=plane, about=np.array(about))


if __name__ == "__main__":
    main()
