"""Equation (19) of AD-RegNet in training, and its five folds, rehearsed on phantoms."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from regnet_lib.data import BadInputError, DIRLab, Phantoms, write_fake_dirlab
from regnet_lib.data.dirlab import FAKE_GEOMETRY, FOLDS
from regnet_lib.evaluate import evaluate
from regnet_lib.experiments import EXPERIMENTS, TABLES, LevellingDecay, PolynomialDecay
from regnet_lib.losses import ADRegNetObjective, Landmarks, Objective, landmark_distance
from regnet_lib.results import read_runs
from regnet_lib.train import CHECKPOINT, LOG, train

TINY = (4, 4, 4, 4, 8)
SMALL = replace(
    EXPERIMENTS["teaching.phantom.voxelmorph2"],
    dataset_options={"shape": (16, 16, 16), "train": 1, "test": 1},
    objective=ADRegNetObjective(),
)


def curve(folder):
    return pd.read_csv(folder / LOG)


def test_the_landmarks_of_the_case_reach_the_loss(tmp_path):
    """VoxelMorph begins with almost no motion: the first value is the error before registration."""
    train(SMALL, folder=tmp_path, epochs=1, progress=False)
    case = Phantoms(shape=(16, 16, 16), train=1).case("brain-1000")
    expected = landmark_distance(
        torch.zeros(1, 3, 16, 16, 16),
        Landmarks(case.moving_landmarks, case.fixed_landmarks, case.spacing_mm),
    )
    assert curve(tmp_path)["landmark_mm"][0] == pytest.approx(float(expected), rel=1e-3)


def test_landmarks_alone_can_be_learned(tmp_path):
    objective = ADRegNetObjective(similarity_weight=0.0, regularity_weight=0.0)
    train(replace(SMALL, objective=objective), folder=tmp_path, epochs=30, progress=False)
    errors = curve(tmp_path)["landmark_mm"]
    assert errors.iloc[-1] < 0.8 * errors[0]


@pytest.mark.parametrize("objective", [Objective(), ADRegNetObjective(landmark_weight=0.0)])
def test_without_a_weight_they_are_not_read(tmp_path, objective):
    train(replace(SMALL, objective=objective), folder=tmp_path, epochs=1, progress=False)
    assert "landmark_mm" not in curve(tmp_path).columns


def test_batches_of_pairs_with_landmarks_are_refused(tmp_path):
    options = {"shape": (16, 16, 16), "train": 2, "test": 1}
    experiment = replace(SMALL, dataset_options=options, batch_size=2)
    with pytest.raises(BadInputError, match=r"expected a batch of one pair.*got 2.*batch_size=1"):
        train(experiment, folder=tmp_path, epochs=1, progress=False)


def test_five_folds_test_each_case_once_and_never_train_on_it(tmp_path):
    folds = [e for e in TABLES["ad_regnet.table1"] if ".ad_regnet.fold" in e.name]
    assert [e.dataset_options["fold"] for e in folds] == list(range(1, FOLDS + 1))
    (tmp_path / "Case1Pack").mkdir()
    tested = []
    for experiment in folds:
        dataset = DIRLab(tmp_path, **experiment.dataset_options)
        ids = {split: set(dataset.ids(split)) for split in ("train", "validation", "test")}
        assert (len(ids["train"]), len(ids["validation"]), len(ids["test"])) == (7, 1, 2)
        assert len(set.union(*ids.values())) == 10
        assert experiment.objective.uses_landmarks and experiment.faithful
        tested += ids["test"]
    assert sorted(tested) == sorted(f"case{number}" for number in range(1, 11))


def test_the_leaky_setting_is_labelled_and_trains_on_its_test(tmp_path):
    leaky = EXPERIMENTS["ad_regnet.table1.ad_regnet.leaky"]
    (tmp_path / "Case1Pack").mkdir()
    dataset = DIRLab(tmp_path, **leaky.dataset_options)
    assert dataset.ids("train") == dataset.ids("test") and len(dataset.ids("test")) == 10
    assert not leaky.faithful and leaky.notes.startswith("LEAKY")
    with pytest.raises(ValueError, match="expected fold=None with leaky=True, got 2"):
        DIRLab(tmp_path, fold=2, leaky=True)


def test_a_fold_from_training_to_rows(tmp_path):
    """Two steps on phantoms in the layout of DIR-Lab: fold 3 tests case 8 and trains on 1, 2, 6."""
    root = write_fake_dirlab(tmp_path / "dirlab")
    official = EXPERIMENTS["ad_regnet.table1.ad_regnet.fold3"]
    options = {"spacing_mm": 2, "geometry": FAKE_GEOMETRY}
    experiment = replace(
        official,
        model_options={**official.model_options, "channels": TINY},
        dataset_options={**official.dataset_options, **options},
    )
    done = train(
        experiment, data=root, folder=tmp_path / "run", epochs=1, max_minutes=1.0, progress=False
    )
    log = curve(tmp_path / "run")
    assert done.step >= 2 and (log["landmark_mm"] > 0).all()
    trained = set(" ".join(log["cases"]).split())
    assert trained == set(DIRLab(root, **experiment.dataset_options).ids("train"))
    assert "case8" not in trained
    evaluate(
        experiment,
        checkpoint=tmp_path / "run" / CHECKPOINT,
        data=root,
        root=tmp_path / "results",
        progress=False,
    )
    (run,) = read_runs(experiment.name, root=tmp_path / "results")
    assert run.values("tre_mm").shape == (1, 300)
    assert list(run.case_means("tre_mm").index) == ["case8"]


def test_every_variant_of_table_five_differs_by_its_switches_alone():
    by_row = {}
    for experiment in TABLES["ad_regnet.table5"]:
        by_row.setdefault(experiment.row, []).append(experiment)
    (before,) = by_row.pop("Before")
    assert before.model == "identity" and len(by_row) == 5
    for experiments in by_row.values():
        folds = [e for e in experiments if e.dataset == "dirlab"]
        short = [e for e in experiments if e.dataset == "lung_semireal"]
        assert len(folds) == FOLDS and len(short) == 1
        switches = {name: value for name, value in folds[0].model_options.items() if name != "mode"}
        assert switches == {
            name: value
            for name, value in short[0].model_options.items()
            if name not in ("mode", "channels")
        }
    budgets = {(e.epochs, e.optimiser, e.objective) for e in by_row["Full Model"][-1:]}
    for experiments in by_row.values():
        assert {(e.epochs, e.optimiser, e.objective) for e in experiments[-1:]} == budgets


def test_levelling_decay_is_the_polynomial_one_down_to_its_least_factor():
    decay, falling = LevellingDecay(4, least_factor=0.3), PolynomialDecay(4)
    assert [decay.factor(epoch) for epoch in range(3)] == [falling.factor(e) for e in range(3)]
    assert [decay.factor(epoch) for epoch in (3, 4, 9)] == [0.3] * 3
