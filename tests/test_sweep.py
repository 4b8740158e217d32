"""A sweep completes a table in pieces."""

from dataclasses import replace

import pytest

from regnet_lib.experiments import EXPERIMENTS, TABLES
from regnet_lib.losses import Objective
from regnet_lib.results import read_runs
from regnet_lib.sweep import sweep


@pytest.fixture
def small_table(monkeypatch):
    phantoms = {"shape": (16, 16, 16), "train": 2, "test": 1}
    trained = replace(
        EXPERIMENTS["teaching.phantom.voxelmorph2"],
        name="small.trained",
        dataset_options=phantoms,
        objective=Objective(window_voxels=3),
        epochs=2,
    )
    plain = replace(trained, name="small.identity", model="identity", epochs=0)
    monkeypatch.setitem(TABLES, "small", (trained, plain))


def test_a_sweep_goes_on_where_it_stopped(small_table, tmp_path):
    folders = {"runs": tmp_path / "runs", "results": tmp_path / "results"}
    lines = []
    first = sweep("small", max_minutes=1e-6, report=lines.append, **folders)
    # The identity comes first because it needs no training.
    assert list(first) == ["small.identity", "small.trained"]
    assert first["small.identity"] in ("evaluated", "waiting")
    assert first["small.trained"] == "waiting" and len(lines) == 2
    second = sweep("small", **folders)
    assert second["small.trained"] == "evaluated"
    assert set(sweep("small", **folders).values()) == {"present"}
    run = read_runs("small.trained", root=folders["results"])[0]
    assert run.info["training"]["step"] == 4 and len(run.training) == 4


def test_the_weights_of_another_experiment_are_evaluated_on_other_data(
    small_table, monkeypatch, tmp_path
):
    trained, _ = TABLES["small"]
    other = {**trained.dataset_options, "test": 2}
    external = replace(
        trained,
        name="small.external",
        dataset_options=other,
        epochs=0,
        weights_of="small.trained",
    )
    monkeypatch.setitem(TABLES, "external", (external,))
    folders = {"runs": tmp_path / "runs", "results": tmp_path / "results"}
    assert sweep("external", **folders) == {"small.external": "needs small.trained"}
    sweep("small", only=["small.trained"], **folders)
    assert sweep("external", **folders) == {"small.external": "evaluated"}
    run = read_runs("small.external", root=folders["results"])[0]
    assert run.info["evaluation"]["cases"] == 2
    # What the weights have seen is that of the other experiment.
    assert run.info["training"]["step"] == run.info["training"]["steps_planned"] == 4


def test_without_data_a_sweep_says_so(monkeypatch, tmp_path):
    monkeypatch.delenv("REGNET_DATA", raising=False)
    outcome = sweep("lganetpp.table2", runs=tmp_path, results=tmp_path)
    assert set(outcome.values()) == {"no data"}


def test_an_unknown_table_is_an_error():
    with pytest.raises(ValueError, match=r"lganetpp\.table2"):
        sweep("lganetpp.table22")
