"""Trainings of seconds, for lessons and tests."""

from regnet_lib.experiments.experiment import Experiment, Optimiser
from regnet_lib.losses import Objective


def _cell(model: str, kind: str, seed: int) -> Experiment:
    """A cell of `teaching.matrix`: eight steps on the smallest phantoms."""
    return Experiment(
        f"teaching.matrix.{model}.{kind}.seed{seed}",
        row=f"{model}, {kind}, seed {seed}",
        model=model,
        dataset="phantom",
        dataset_options={"shape": (16, 16, 16), "kind": kind, "train": 4, "test": 2},
        objective=Objective(window_voxels=3),
        optimiser=Optimiser(learning_rate=1e-3),
        epochs=2,
        seed=seed,
        notes="To try many jobs at once: models x phantoms x seeds, each a training of seconds.",
    )


TABLES = {
    "teaching": (
        Experiment(
            "teaching.phantom.voxelmorph2",
            row="VoxelMorph on phantoms",
            model="voxelmorph2",
            dataset="phantom",
            dataset_options={"shape": (32, 32, 32), "train": 8, "test": 2},
            objective=Objective(window_voxels=5),
            optimiser=Optimiser(learning_rate=1e-3),
            epochs=5,
            notes="A training of seconds, for lessons and tests.",
        ),
    ),
    "teaching.matrix": tuple(
        _cell(model, kind, seed)
        for model in ("voxelmorph1", "voxelmorph2", "dlir")
        for kind in ("brain", "lung")
        for seed in (0, 1)
    ),
}
