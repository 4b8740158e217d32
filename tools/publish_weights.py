"""Publish the weights of a training: `weights/<experiment>.safetensors` and its card.

    python -m tools.publish_weights lganetpp.table2.pivit.2mm.short

The checkpoint must be the one that the committed run has tested, its test cases must be at hand,
and half precision must not change their mean by more than `TOLERANCES`.
"""

import argparse
import datetime
import json
import tempfile
from pathlib import Path

from safetensors import safe_open

from regnet_lib.checkpoint import load_weights, save_weights
from regnet_lib.data import BadInputError, open_dataset
from regnet_lib.data.lungs import WINDOW_HU
from regnet_lib.evaluate import evaluate
from regnet_lib.experiments import Experiment, find_experiment
from regnet_lib.models import create_model
from regnet_lib.paths import runs_folder, weights_folder
from regnet_lib.results import Run, read_runs
from regnet_lib.train import CHECKPOINT
from regnet_lib.weights import (
    FORMAT,
    SUFFIX,
    PublishedWeights,
    TrainedImages,
    describe_weights,
    digest,
    mean_of_cases,
)

# Largest change of the mean over the test cases: 0.05 points of Dice, 0.05 mm of landmark error.
TOLERANCES = {"tre_mm": 0.05, "dice": 0.0005}
MANY = 40 * 2**20  # bytes of all weights together; the repository shall stay small

# What no header says. LPBA40's files turn the anatomy by 180 degrees (book/data.md), so the axes
# of its arrays are stated here: networks learn anatomy, not headers.
_BRAINS = "skull-stripped T1-weighted brains, affinely aligned"
WHAT = {
    "lpba40": _BRAINS,
    "ixi": _BRAINS,
    "ixi_hh_2mm": _BRAINS,
    "msd_hippocampus": "crops of T1-weighted brains around one hippocampus",
    "lung_semireal": "CT of the right lung, breathed in and out, nothing else in view",
    "phantom": "computed phantoms",
}
AXES = {"lpba40": "RAS"}
WINDOWS = {"lung_semireal": WINDOW_HU}


def main(arguments: list[str] | None = None) -> int:
    """Publish the named trainings and print their cards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="+", metavar="experiment")
    parser.add_argument("--runs", type=Path, help="folder of the trainings; default: runs/")
    given = parser.parse_args(arguments)
    for name in given.experiments:
        published = publish(find_experiment(name), runs=given.runs)
        print(f"{published.path}")
        for heading, text in describe_weights(published).items():
            print(f"  {heading:11s} {text}")
    total = sum(path.stat().st_size for path in weights_folder().glob(f"*{SUFFIX}"))
    print(f"{total / 2**20:.1f} MiB of at most {MANY / 2**20:.0f} MiB")
    return 0 if total <= MANY else 1


def publish(experiment: Experiment, *, runs: Path | None = None) -> PublishedWeights:
    """Write weights and card, after both have been checked.

    Args:
        runs: folder of the trainings; default `runs/`.

    Raises:
        BadInputError: no run has tested this checkpoint, or half precision changes its results.
    """
    checkpoint = (runs or runs_folder()) / experiment.name / CHECKPOINT
    folder = weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if experiment.objective.zoomed:
        raise BadInputError(
            f"{experiment.name}: expected fields for the ordinary warp, found a training with the "
            "half-voxel zoom of the released code. Publish the variant without it."
        )
    if experiment.dataset not in WHAT:
        raise BadInputError(
            f"{experiment.name}: expected images that this file describes, found those of "
            f"{experiment.dataset!r}. Say in WHAT what they show."
        )
    network = create_model(experiment.model, **experiment.model_options)
    metadata = load_weights(checkpoint, network)
    progress = json.loads(metadata["progress"])
    settings = json.loads(metadata["settings"])
    run = _tested_by(experiment, progress)
    metric = next(name for name in TOLERANCES if name in set(run.rows["metric"]))
    path = folder / f"{experiment.name}{SUFFIX}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as place:
        half = Path(place) / path.name
        save_weights(half, network, metadata={**metadata, "format": FORMAT})
        score = _score(experiment, half, Path(place), metric)
        changed = abs(score - mean_of_cases(run, metric))
        if not changed <= TOLERANCES[metric]:
            raise BadInputError(
                f"{experiment.name}: expected float16 to change {metric} by at most "
                f"{TOLERANCES[metric]}, found {changed:.6f} (run {run.run_id})."
            )
        half.replace(path)
    published = PublishedWeights(
        name=experiment.name,
        model=experiment.model,
        model_options=settings["model_options"],
        dataset=experiment.dataset,
        dataset_options=settings["dataset_options"],
        images=_images(experiment),
        parameters=_numbers(path),
        sha256=digest(path),
        steps=progress["step"],
        steps_planned=settings["steps"],
        precision=settings["precision"],
        device=str(run.info["device"]),
        seconds=round(progress["seconds"], 1),
        run=f"{experiment.name}/{run.run_id}",
        metric=metric,
        score_float16=score,
        created=datetime.date.today().isoformat(),
    )
    published.write()
    return published


def _tested_by(experiment: Experiment, progress: dict) -> Run:
    """The latest committed run of exactly this training."""
    for run in reversed(read_runs(experiment.name)):
        training = run.info["training"] or {}
        if all(training.get(key) == progress[key] for key in ("step", "seconds")):
            return run
    raise BadInputError(
        f"{experiment.name}: expected a committed run that has tested this checkpoint (step "
        f"{progress['step']}, {progress['seconds']:.1f} s of training), found none. Evaluate it "
        f"first: regnet evaluate {experiment.name}"
    )


def _score(experiment: Experiment, weights: Path, place: Path, metric: str) -> float:
    """The mean over the test cases with the weights in a file."""
    evaluate(experiment, checkpoint=weights, root=place, device="cpu", progress=False)
    return mean_of_cases(read_runs(experiment.name, root=place)[-1], metric)


def _images(experiment: Experiment) -> TrainedImages:
    from nibabel.orientations import aff2axcodes

    dataset = open_dataset(experiment.dataset, **experiment.dataset_options)
    case = dataset.case(dataset.ids("test")[0], labels=False)
    return TrainedImages(
        WHAT[experiment.dataset],
        tuple(round(size, 4) for size in case.spacing_mm),
        AXES.get(experiment.dataset, "".join(aff2axcodes(case.affine))),
        case.shape,
        WINDOWS.get(experiment.dataset),
    )


def _numbers(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())


if __name__ == "__main__":
    raise SystemExit(main())
