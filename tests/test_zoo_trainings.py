"""The 50-step trainings: the experiments, the committed rows, and the script on phantoms."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from regnet_lib.data import write_fake_hippocampus
from regnet_lib.experiments import TABLES
from regnet_lib.experiments.zoo import EPOCHS, LEARNED, STEPS, TRAINING_PAIRS
from regnet_lib.losses import Objective
from regnet_lib.models import MODELS, create_model
from regnet_lib.results import read_runs
from tools.train_zoo import FIELD, TABLE, keep_field

TRAINED = [experiment for experiment in TABLES[TABLE] if experiment.epochs]
COMMITTED = [experiment for experiment in TRAINED if read_runs(experiment.name)]


def test_every_learned_model_has_an_experiment():
    with torch.device("meta"):
        learned = {name for name in MODELS if list(create_model(name).parameters())}
    assert set(LEARNED) == learned == {experiment.model for experiment in TRAINED}


def test_no_training_is_missing():
    missing = {one.model for one in TRAINED} - {one.model for one in COMMITTED}
    assert not missing


@pytest.mark.parametrize("experiment", COMMITTED, ids=lambda one: one.model)
def test_the_committed_loss_falls(experiment):
    run = read_runs(experiment.name)[-1]
    loss = run.training["loss"].to_numpy()
    assert len(loss) == STEPS and np.isfinite(loss).all()
    first, last = run.training.head(TRAINING_PAIRS), run.training.tail(TRAINING_PAIRS)
    assert set(first["cases"]) == set(last["cases"])
    assert last["loss"].mean() < first["loss"].mean()
    assert run.case_means("dice").index.size == 12
    assert run.info["experiment"]["model_options"] == json.loads(
        json.dumps(dict(experiment.model_options))
    )


@pytest.mark.parametrize("experiment", COMMITTED, ids=lambda one: one.model)
def test_a_slice_of_the_field_is_committed(experiment):
    path = read_runs(experiment.name)[-1].folder / FIELD
    assert path.stat().st_size < 16_000
    with np.load(path) as stored:
        assert stored["displacement"].shape == (2, 64, 48)
        assert np.isfinite(stored["displacement"]).all() and stored["displacement"].any()
        assert json.loads(str(stored["about"]))["axis"] == 0


def test_a_training_on_fake_crops(tmp_path, monkeypatch):
    from regnet_lib.train import CHECKPOINT, train

    write_fake_hippocampus(tmp_path / "msd_hippocampus", subjects=10)
    monkeypatch.setenv("REGNET_DATA", str(tmp_path))
    experiment = replace(
        next(one for one in TRAINED if one.model == "pivit"),
        dataset_options={"train": 2},
        objective=Objective(window_voxels=3),
        epochs=1,
    )
    result = train(experiment, folder=tmp_path / "run", progress=False)
    assert result.step == 2
    keep_field(experiment, tmp_path / "run" / CHECKPOINT, tmp_path / FIELD)
    with np.load(tmp_path / FIELD) as stored:
        assert stored["displacement"].dtype == np.float16


def test_fewer_training_subjects(tmp_path):
    from regnet_lib.data import open_dataset

    root = write_fake_hippocampus(tmp_path, subjects=10)
    every, few = (open_dataset("msd_hippocampus", root, train=train) for train in (None, 3))
    assert few.ids("train") == every.ids("train")[:3]
    assert few.ids("test") == every.ids("test")
    # the last of them is registered to the first, not to one that was left out
    assert few.pair(few.ids("train")[-1])[1] == few.ids("train")[0]
    assert EPOCHS * TRAINING_PAIRS == STEPS
