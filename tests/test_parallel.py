"""Two processes take the step that one takes on the whole batch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from regnet_lib.checkpoint import load_weights
from regnet_lib.data import BadInputError
from regnet_lib.evaluate import evaluate
from regnet_lib.experiments import EXPERIMENTS
from regnet_lib.losses import Objective
from regnet_lib.models import create_model
from regnet_lib.parallel import Team, team
from regnet_lib.results import read_runs
from regnet_lib.train import CHECKPOINT, LOG, train

PAIRS = replace(
    EXPERIMENTS["teaching.phantom.voxelmorph2"],
    dataset_options={"shape": (16, 16, 16), "train": 4, "test": 1},
    objective=Objective(window_voxels=3),
    batch_size=2,
)
EVALUATED = replace(
    PAIRS,
    model="identity",
    epochs=0,
    dataset_options={"shape": (16, 16, 16), "train": 1, "test": 3},
)


def main(folder: str) -> None:
    """What each of the two processes runs."""
    train(PAIRS, folder=Path(folder), epochs=2, progress=False)
    evaluate(EVALUATED, root=Path(folder) / "results", progress=False)
    processes = team(torch.device("cpu"))
    cases = list(range(5))
    assert processes.gather(processes.share(cases)) == cases
    assert processes.any(processes.rank == 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of one process and of two."""
    root = tmp_path_factory.mktemp("parallel")
    train(PAIRS, folder=root / "one", epochs=2, progress=False)
    evaluate(EVALUATED, root=root / "one" / "results", progress=False)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launch, __file__, str(root / "two")], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root / "one", root / "two"


def test_losses_are_those_of_the_whole_batch(runs):
    one, two = (pd.read_csv(folder / LOG) for folder in runs)
    assert one["cases"].tolist() == two["cases"].tolist()
    for column in ("loss", "local_ncc", "diffusion"):
        assert two[column].tolist() == pytest.approx(one[column].tolist(), rel=1e-5, abs=1e-9)


def test_weights_are_those_of_the_whole_batch(runs):
    models = [create_model("voxelmorph2"), create_model("voxelmorph2")]
    for model, folder in zip(models, runs, strict=True):
        load_weights(folder / CHECKPOINT, model)
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=2e-6)


def test_rows_are_those_of_one_process(runs):
    one, two = (read_runs(EVALUATED.name, root=folder / "results")[0].rows for folder in runs)
    one, two = (rows[rows["metric"] != "seconds"].reset_index(drop=True) for rows in (one, two))
    assert one["case"].nunique() == 3
    pd.testing.assert_frame_equal(one, two)


def test_alone_nothing_is_sent():
    processes = Team()
    assert processes.leads and list(processes.share([1, 2])) == [1, 2]
    assert processes.gather([1, 2]) == [1, 2]
    assert processes.average(torch.tensor([3.0])).tolist() == [3.0]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("regnet_lib.train.team", lambda device: Team(size=2, device=device))
    with pytest.raises(BadInputError, match="2 processes can share evenly, got 3"):
        train(replace(PAIRS, batch_size=3), folder=tmp_path, epochs=1, progress=False)


if __name__ == "__main__":
    main(sys.argv[1])
