"""Keep the planes of AD-RegNet's Fig. 5 that a trained network finds, beside its latest run.

    python -m tools.keep_figure5 ad_regnet.table1.ad_regnet.elastix.6mm

`figure5.npz` in the run's folder holds, in half precision, the middle planes across the three axes
of one test case, by names such as `fixed_2` (the number is that of the axis that the plane cuts).
The array axes of the image have to run along those of the body:

* `fixed`, `moving`, `warped`: intensities;
* `spread4` to `spread0`: coarse to fine, exp(entropy) of attention, the number of voxels of the
  level's grid that a voxel looks at;
* `jacobian4` to `jacobian0`: coarse to fine, the determinant of the level's displacement at the
  size of the image;
* `about`, JSON with experiment, case and voxel size.

It contains images: keep it for data whose licence lets them be passed on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regnet_lib.data import open_dataset
from regnet_lib.data.atomic import write_arrays
from regnet_lib.evaluate import checkpoint_of, trained_model
from regnet_lib.experiments import Experiment, find_experiment
from regnet_lib.figures import FIGURE5, middle_slice
from regnet_lib.models.sizes import crop_padding, pad_to_valid_size
from regnet_lib.results import read_runs
from regnet_lib.spatial import jacobian_determinant, resize, warp
from regnet_lib.uncertainty import attention_spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="of AD-RegNet, with a checkpoint and a committed run")
    parser.add_argument("--case", help="a test case; by default the first one")
    options = parser.parse_args()
    experiment = find_experiment(options.experiment)
    path = read_runs(experiment.name)[-1].folder / FIGURE5
    keep_planes(experiment, checkpoint_of(experiment), path, case_id=options.case)


def keep_planes(
    experiment: Experiment,
    checkpoint: Path,
    path: Path,
    *,
    case_id: str | None = None,
    data: Path | None = None,
) -> None:
    """Register one test case and write the planes to `path`.

    Args:
        data: folder of the dataset; default `$REGNET_DATA/<dataset>`.
    """
    dataset = open_dataset(experiment.dataset, data, **experiment.dataset_options)
    case = dataset.case(case_id or dataset.ids("test")[0], labels=False)
    model = trained_model(experiment, checkpoint)
    moving, fixed, before = pad_to_valid_size(model, case.moving, case.fixed)
    with torch.no_grad():
        found = model(moving, fixed, details=True)
    shape = fixed.shape[2:]
    volumes = {"fixed": fixed, "moving": moving, "warped": warp(moving, found.displacement)}
    spread = attention_spread(found.extras["attention_entropy"], shape)
    volumes |= {f"spread{level}": values for level, values in spread.items()}
    for level, field in zip(sorted(spread, reverse=True), found.pyramid, strict=True):
        volumes[f"jacobian{level}"] = jacobian_determinant(resize(field, shape))
    # Drawn with the axes to the right, anterior and superior, whatever the grid.
    reversed_axes = [2 + axis for axis in range(3) if case.affine[axis, axis] < 0]

    def planes(volume: Tensor) -> list[np.ndarray]:
        volume = crop_padding(volume, before, case.shape).flip(reversed_axes)
        return [middle_slice(volume, axis).astype(np.float16) for axis in range(3)]

    arrays = {
        f"{name}_{axis}": plane
        for name, volume in volumes.items()
        for axis, plane in enumerate(planes(volume))
    }
    about = {
        "experiment": experiment.name,
        "case": case.id,
        "spacing_mm": [round(side, 4) for side in case.spacing_mm],
    }
    write_arrays(path, overwrite=True, about=np.array(json.dumps(about)), **arrays)


if __name__ == "__main__":
    main()
