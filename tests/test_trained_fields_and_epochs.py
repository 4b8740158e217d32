"""What is kept of a training besides its rows: one plane of the field, and the score per epoch."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from regnet_lib import data
from regnet_lib.checkpoint import load_weights
from regnet_lib.data import lpba40, write_fake_lpba40
from regnet_lib.experiments import EXPERIMENTS, TABLES, Optimiser
from regnet_lib.losses import Objective
from regnet_lib.models import create_model
from regnet_lib.models.sizes import run_at_valid_size
from regnet_lib.results import read_runs
from regnet_lib.train import CHECKPOINT, train
from tools.keep_planes import AXIS, PLANE, hardest_case, keep_plane
from tools.score_epochs import SCORES, case_scores, score_epochs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brains") / "lpba40"
    return write_fake_lpba40(folder, shape=(32, 32, 32), train=2, test=2)


@pytest.fixture
def brains(files, monkeypatch):
    """A folder of two training and two test phantoms in the layout of LPBA40."""
    monkeypatch.setattr(lpba40, "TRAIN_IDS", lpba40.TRAIN_IDS[:2])
    monkeypatch.setattr(lpba40, "TEST_IDS", lpba40.TEST_IDS[:2])
    return files


@pytest.fixture
def experiment():
    return replace(
        EXPERIMENTS["lganetpp.table2.pivit.4mm.short"],
        name="trial",
        dataset_options={"spacing_mm": 2},
        objective=Objective(window_voxels=5),
        optimiser=Optimiser(learning_rate=1e-3),
        epochs=2,
        precision="float32",
    )


def test_scoring_every_epoch_changes_no_step(brains, experiment, tmp_path):
    """The training in single steps is the training in one go, and its last score is that of it."""
    score_epochs(experiment, tmp_path / "steps", data=brains)
    whole = train(experiment, data=brains, folder=tmp_path / "whole", device="cpu", progress=False)
    steps, once = (pd.read_csv(tmp_path / one / "train.csv") for one in ("steps", "whole"))
    assert list(steps["cases"]) == list(once["cases"]) and len(steps) == whole.total_steps == 4
    # The cache keeps intensities to within 1e-5, and the first steps of Adam enlarge that.
    np.testing.assert_allclose(steps["loss"], once["loss"], rtol=1e-2)
    scores = pd.read_csv(tmp_path / "steps" / SCORES)
    dataset = data.open_dataset("lpba40", brains, spacing_mm=2)
    assert list(scores["epoch"]) == [1, 1, 2, 2]
    assert set(scores["case"]) == set(dataset.ids("test"))
    last = scores[scores["epoch"] == 2].set_index("case")["dice"]
    again = case_scores(experiment, tmp_path / "steps" / CHECKPOINT, dataset)
    assert again == pytest.approx(dict(last), abs=2e-3)


def test_a_plane_is_that_of_the_field(brains, experiment, tmp_path):
    train(experiment, data=brains, folder=tmp_path, device="cpu", max_minutes=0.0, progress=False)
    keep_plane(experiment, tmp_path / CHECKPOINT, tmp_path / "plane.npz", data=brains)
    dataset = data.open_dataset("lpba40", brains, spacing_mm=2)
    with np.load(tmp_path / "plane.npz") as stored:
        about = json.loads(str(stored["about"]))
        plane, pyramid = stored["displacement"], stored["pyramid"]
    assert about["case"] == hardest_case(dataset) and about["axis"] == AXIS
    case = dataset.case(about["case"])
    assert about["index"] == case.shape[AXIS] // 2

    model = create_model(experiment.model, **experiment.model_options).eval()
    load_weights(tmp_path / CHECKPOINT, model)
    with torch.no_grad():
        field = run_at_valid_size(model, case.moving, case.fixed).displacement[0]
    wanted = field.select(1 + AXIS, about["index"]).numpy()
    np.testing.assert_allclose(plane, wanted, rtol=2e-3, atol=1e-3)
    if len(pyramid):
        np.testing.assert_array_equal(pyramid[-1], plane)


PLANES = [
    run
    for experiment in TABLES["lganetpp.table2"]
    for run in read_runs(experiment.name)
    if (run.folder / PLANE).exists()
]


@pytest.mark.parametrize("run", PLANES, ids=lambda run: run.experiment)
def test_committed_planes_fit_the_run_and_are_small(run):
    """All show one subject on one plane, the one with the lowest Dice before registration."""
    path = run.folder / PLANE
    spacing_mm = run.info["experiment"]["dataset_options"]["spacing_mm"]
    before = read_runs(f"lganetpp.table2.identity.{spacing_mm}mm")[-1].case_means("dice")
    with np.load(path) as stored:
        about = json.loads(str(stored["about"]))
        plane, pyramid = stored["displacement"], stored["pyramid"]
    shape = run.info["evaluation"]["shape"]
    assert about == {"case": before.idxmin(), "axis": AXIS, "index": shape[AXIS] // 2}
    assert plane.shape == (3, *shape[:AXIS]) and np.isfinite(plane).all() and plane.any()
    if len(pyramid):
        np.testing.assert_array_equal(pyramid[-1], plane)
    assert path.stat().st_size < 64_000 * (4 / spacing_mm) ** 2
