"""Trainings of seconds, for lessons and tests."""

from regnet_lib.experiments.experiment import Experiment, Optimiser
from regnet_lib.losses import Objective

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
}
