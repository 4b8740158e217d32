"""Keep one plane of the field that a trained network finds, beside its latest run, for pictures.

    python -m tools.keep_planes lganetpp.table2.pivit.4mm.short lganetpp.table2.modet.4mm.short

`plane.npz` in the run's folder holds, in half precision and in voxels of the image's grid, on the
middle plane of the third axis (axial, for LPBA40):

* `displacement` `(3, D, H)`;
* `pyramid` `(levels, 3, D, H)`, the fields of all levels, coarse to fine, each resized to the
  image's grid; empty for a network without levels;
* `about`, JSON with the case, the axis and the index of the plane.

The case is the test case with the lowest Dice before registration, whatever a network makes of it.
A plane holds no image, so that it can be given away.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regnet_lib.data import Dataset, open_dataset
from regnet_lib.data.atomic import write_arrays
from regnet_lib.evaluate import checkpoint_of, trained_model
from regnet_lib.experiments import Experiment, find_experiment
from regnet_lib.metrics import dice
from regnet_lib.models import create_model
from regnet_lib.models.sizes import crop_padding, pad_to_valid_size
from regnet_lib.results import read_runs
from regnet_lib.spatial import resize

PLANE = "plane.npz"
AXIS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="+", help="names of experiments with a checkpoint")
    for name in parser.parse_args().experiments:
        experiment = find_experiment(name)
        keep_plane(experiment, checkpoint_of(experiment), read_runs(name)[-1].folder / PLANE)


def keep_plane(
    experiment: Experiment, checkpoint: Path, path: Path, *, data: Path | None = None
) -> None:
    """Write the plane of the hardest test case's fields to `path`.

    Args:
        data: folder of the dataset; default `$REGNET_DATA/<dataset>`.
    """
    dataset = open_dataset(experiment.dataset, data, **experiment.dataset_options)
    case = dataset.case(hardest_case(dataset), labels=False)
    if checkpoint.exists() or experiment.epochs:
        model = trained_model(experiment, checkpoint)
    else:
        model = create_model(experiment.model, **experiment.model_options).eval()
    with torch.no_grad():
        moving, fixed, before = pad_to_valid_size(model, case.moving, case.fixed)
        registration = model(moving, fixed)
    index = case.shape[AXIS] // 2

    def plane(field: Tensor) -> np.ndarray:
        full = crop_padding(resize(field.float(), moving.shape[2:]), before, case.shape)[0]
        return full.select(1 + AXIS, index).numpy().astype(np.float16)

    about = {"case": case.id, "axis": AXIS, "index": index}
    write_arrays(
        path,
        overwrite=True,
        displacement=plane(registration.displacement),
        pyramid=np.array([plane(field) for field in registration.pyramid], np.float16),
        about=np.array(json.dumps(about)),
    )


def hardest_case(dataset: Dataset) -> str:
    """The test case with the lowest mean Dice before registration."""

    def overlap(case_id: str) -> float:
        case = dataset.case(case_id)
        return float(np.nanmean(dice(case.moving_labels, case.fixed_labels, case.label_ids)))

    return min(dataset.ids("test"), key=overlap)


if __name__ == "__main__":
    main()
