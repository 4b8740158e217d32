"""Cases in, tidy rows out.

    folder = evaluate(EXPERIMENTS["lganetpp.table2.identity"])   # results/<experiment>/<run>/

Per structure: dice, precision, recall (fractions), hd95, assd (mm). Per landmark, numbered from 1:
tre_mm, and tre_moving_mm for a prealigned pair (see `Case`). Per case, where there are landmarks:
tre_snapped_mm, their mean error with moved points rounded to whole voxels, and how many lie outside
the grid. Per case: ncc, mse and ssim of the warped and the fixed image; mean, standard
deviation and minimum of the Jacobian determinant; the three folding fractions; the local
correlation loss; seconds of the registration alone. `PROTOCOL`
names the convention of each. Labels are warped with the nearest neighbour, and through the
half-voxel zoom where the experiment's objective uses it: a field trained one way has to be
evaluated the same way.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from regnet_lib import machine
from regnet_lib.checkpoint import load_weights
from regnet_lib.data import BadInputError, Case, landmarks_outside, open_dataset
from regnet_lib.experiments import Experiment
from regnet_lib.inference import infer
from regnet_lib.losses import local_ncc
from regnet_lib.metrics import jacobian_statistics, mse, ncc, ssim
from regnet_lib.metrics.landmarks import tre_mm
from regnet_lib.metrics.overlap import overlap_counts
from regnet_lib.metrics.surface import assd_of, hd95_of, surface_distances_mm
from regnet_lib.models import create_model
from regnet_lib.parallel import team
from regnet_lib.paths import results_folder, runs_folder
from regnet_lib.refine import refine
from regnet_lib.results import COLUMNS, WHOLE, new_run_id, write_run
from regnet_lib.spatial import (
    folding_fraction,
    half_voxel_zoom,
    identity_grid,
    warp,
    warp_labels,
    warp_points,
)
from regnet_lib.train import CHECKPOINT, LOG
from regnet_lib.types import Displacement, Precision

PROTOCOL = {
    "label_warp": "nearest",
    "absent_labels": "nan",
    "hd95": "pooled 95th percentile (medpy)",
    "tre_mm": "continuous positions, all landmarks; outside the grid the nearest displacement",
    "tre_snapped_mm": "mean over landmarks, moved points rounded to whole voxels (DIR-Lab's tool)",
    "tre_moving_mm": "the same errors as lengths in the moving scan, before its affine alignment",
    "ncc, mse": "whole image or the case's region, warped against fixed (AD-RegNet eqs. 20, 21)",
    "ssim": "AD-RegNet eq. 22 with global means and variances; L = 1, C1 = 0.01^2, C2 = 0.03^2",
    "jacobian": "det of I + grad u; central differences (np.gradient), all voxels; std with ddof 0",
    "folding": "forward (det < 0, cropped), central (np.gradient, det <= 0), digital (8 corners)",
}


def checkpoint_of(experiment: Experiment) -> Path:
    """Where the weights of an experiment lie after training: its own, or those it borrows."""
    return runs_folder() / (experiment.weights_of or experiment.name) / CHECKPOINT


def trained_model(experiment: Experiment, checkpoint: str | Path) -> nn.Module:
    """The model of an experiment with the weights of a checkpoint, ready to register."""
    model = create_model(experiment.model, **experiment.model_options).eval()
    load_weights(checkpoint, model)
    return model


def evaluate(
    experiment: Experiment,
    *,
    checkpoint: str | Path | None = None,
    data: str | Path | None = None,
    root: Path | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    split: str = "test",
    progress: bool = True,
) -> Path:
    """Evaluate the model of an experiment on a split and write a run folder.

    Args:
        checkpoint: weights; default `runs/<experiment>/checkpoint.safetensors` for trained models,
            with the name of the experiment that `weights_of` names, if it does.
        data: folder of the dataset; default `$REGNET_DATA/<dataset>`.
        precision: of a network's convolutions in the evaluation, whatever it was trained in.
        root: folder of the results; default `results/`.
    """
    import json

    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    processes = team(machine.choose_device(device))
    target = processes.device
    dataset = open_dataset(experiment.dataset, data, **experiment.dataset_options)
    model = create_model(experiment.model, **experiment.model_options)
    training: dict[str, object] | None = None
    log = None
    if experiment.epochs > 0 or experiment.weights_of:
        source = experiment.weights_of or experiment.name
        path = Path(checkpoint or checkpoint_of(experiment))
        if not path.exists():
            raise BadInputError(
                f"{path}: no checkpoint of {source}. Train it first (regnet train {source}), or "
                "give one (--checkpoint)."
            )
        metadata = load_weights(path, model)
        training = {**json.loads(metadata.get("progress", "{}"))}
        trained = json.loads(metadata.get("settings", "{}"))
        training |= {f"{unit}_planned": trained.get(unit) for unit in ("epochs", "steps")}
        training["file"] = path.name
        log = path.parent / LOG
    model = model.to(target).eval()
    run_id = new_run_id(experiment.name, created, target.type, experiment.seed, root=root)
    run_id = processes.gather([run_id])[0]  # one folder for all

    ids = processes.share(dataset.ids(split))
    shown = progress and processes.leads
    measured: list[tuple[float, list[tuple[str, str, str, float, str]]]] = []
    for case_id in tqdm(ids, desc=experiment.name, disable=not shown):
        case = dataset.case(case_id)
        displacement, spent = _timed(model, case, target, experiment, precision)
        found = measure(case, displacement, zoomed=experiment.objective.zoomed)
        measured.append((spent, [*found, (case.id, WHOLE, "seconds", spent, "s")]))
    measured = processes.gather(measured)
    seconds = [spent for spent, _ in measured]
    records = [record for _, found in measured for record in found]
    rows = pd.DataFrame(records, columns=["case", "structure", "metric", "value", "unit"])
    rows = rows.assign(
        experiment=experiment.name, run_id=run_id, dataset=experiment.dataset, split=split
    )[list(COLUMNS)]
    info = {
        "run_id": run_id,
        "created": created,
        "commit": machine.commit(),
        "device": machine.device_name(target),
        "versions": machine.versions(),
        "experiment": experiment.as_dict(),
        "training": training,
        "evaluation": {
            "split": split,
            "precision": precision,
            "cases": len(seconds),
            "shape": list(case.shape),
            "spacing_mm": [round(size, 4) for size in case.spacing_mm],
            "seconds_per_case": round(float(np.mean(seconds)), 3),
            "peak_memory_mib": round(machine.peak_memory_mib(target)),
            "protocol": PROTOCOL,
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    if processes.leads:
        write_run(rows, info, root=root, log=log)
    processes.wait()
    return (root or results_folder()) / experiment.name / run_id


def measure(
    case: Case, displacement: Displacement, *, zoomed: bool = False
) -> list[tuple[str, str, str, float, str]]:
    """All metrics of one registered case: (case, structure, metric, value, unit)."""
    region = (..., *(case.region or (slice(None),) * len(case.shape)))
    records = []
    if case.moving_labels is not None and case.fixed_labels is not None:
        warped = warp_labels(case.moving_labels, displacement, zoomed=zoomed)[region]
        records += _label_records(case, warped, case.fixed_labels[region])
    if case.moving_landmarks is not None and case.fixed_landmarks is not None:
        records += _landmark_records(case, displacement, zoomed=zoomed)
    image, fixed = warp(case.moving, displacement, zoomed=zoomed)[region], case.fixed[region]
    jacobian = jacobian_statistics(displacement[region])
    whole = {
        "local_ncc_loss": (float(local_ncc(image, fixed)), "1"),
        "ncc": (ncc(image, fixed), "1"),
        "mse": (mse(image, fixed), "1"),
        # Every adapter hands out intensities in [0, 1].
        "ssim": (ssim(image, fixed, data_range=1.0), "1"),
        "jacobian_mean": (float(jacobian.mean[0]), "1"),
        "jacobian_std": (float(jacobian.std[0]), "1"),
        "jacobian_minimum": (float(jacobian.minimum[0]), "1"),
        **{
            f"folding_{name}": (float(folding_fraction(displacement[region], name)), "fraction")
            for name in ("forward", "central", "digital")
        },
    }
    records += [(case.id, WHOLE, name, value, unit) for name, (value, unit) in whole.items()]
    return records


def _label_records(
    case: Case, warped: torch.Tensor, fixed: torch.Tensor
) -> list[tuple[str, str, str, float, str]]:
    counts = overlap_counts(warped, fixed, case.label_ids)
    distances = surface_distances_mm(warped, fixed, case.label_ids, case.spacing_mm)
    columns = {
        ("dice", "fraction"): counts.dice(),
        ("precision", "fraction"): counts.precision(),
        ("recall", "fraction"): counts.recall(),
        ("hd95", "mm"): [hd95_of(pair) for pair in distances],
        ("assd", "mm"): [assd_of(pair) for pair in distances],
    }
    return [
        (case.id, str(label), metric, float(value), unit)
        for (metric, unit), values in columns.items()
        for label, value in zip(case.label_ids, values, strict=True)
    ]


def _landmark_records(
    case: Case, displacement: Displacement, *, zoomed: bool
) -> list[tuple[str, str, str, float, str]]:
    """One error per landmark. A landmark outside the grid gets the nearest displacement."""
    if zoomed:  # where the zoomed warp looks, as an ordinary displacement
        grid = identity_grid(case.shape)
        displacement = half_voxel_zoom(grid + displacement, case.shape) - grid
    last = torch.tensor(case.shape) - 1.0
    inside = case.fixed_landmarks.clamp(min=torch.zeros_like(last), max=last)
    moving = case.moving_landmarks - (case.fixed_landmarks - inside)
    errors = tre_mm(moving, inside, displacement, case.spacing_mm)
    found = {"tre_mm": errors}
    if case.moving_affine is not None:
        difference = (warp_points(inside, displacement) - moving).double().numpy()
        found["tre_moving_mm"] = np.linalg.norm(difference @ case.moving_affine[:3, :3].T, axis=1)
    snapped = tre_mm(moving, inside, displacement, case.spacing_mm, snap=True)
    whole = {
        "tre_snapped_mm": (float(snapped.mean()), "mm"),
        "landmarks_outside": (float(landmarks_outside(case)), "1"),
    }
    return [
        *(
            (case.id, str(number), metric, float(error), "mm")
            for metric, values in found.items()
            for number, error in enumerate(values, start=1)
        ),
        *((case.id, WHOLE, metric, value, unit) for metric, (value, unit) in whole.items()),
    ]


def _timed(
    model: nn.Module,
    case: Case,
    device: torch.device,
    experiment: Experiment,
    precision: Precision,
) -> tuple[Displacement, float]:
    """The displacement on the CPU and the seconds of the registration, transfers included."""
    started = time.perf_counter()
    moving, fixed = case.moving.to(device), case.fixed.to(device)
    displacement = infer(model, moving, fixed, precision)
    if experiment.refine_steps:
        displacement = refine(
            moving,
            fixed,
            experiment.objective,
            steps=(experiment.refine_steps,),
            initial=displacement,
        )
    return displacement.cpu(), time.perf_counter() - started
