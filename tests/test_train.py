"""The training loop: it learns, stops, survives a kill, and refuses what it cannot do."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from regnet_lib.batches import Batches
from regnet_lib.checkpoint import load_weights, save_weights
from regnet_lib.data import BadInputError, Phantoms
from regnet_lib.experiments import (
    EXPERIMENTS,
    LinearDecay,
    PolynomialDecay,
    StepDecay,
    find_experiment,
)
from regnet_lib.losses import Objective
from regnet_lib.models import create_model
from regnet_lib.parallel import Team
from regnet_lib.train import CHECKPOINT, LOG, train
from regnet_lib.training_log import TrainingDivergedError

SMALL = replace(
    EXPERIMENTS["teaching.phantom.voxelmorph2"],
    dataset_options={"shape": (16, 16, 16), "train": 3, "test": 1},
    objective=Objective(window_voxels=3),
)


def losses(folder):
    return pd.read_csv(folder / LOG)["loss"].tolist()


def test_the_loss_falls(tmp_path):
    experiment = replace(SMALL, dataset_options={"shape": (16, 16, 16), "train": 1})
    result = train(experiment, folder=tmp_path, epochs=40, progress=False)
    curve = losses(tmp_path)
    assert result.finished and len(curve) == 40
    assert sum(curve[-5:]) / 5 < 0.95 * curve[0]


def test_resuming_is_bit_identical(tmp_path):
    train(SMALL, folder=tmp_path / "once", epochs=4, progress=False)
    first = train(SMALL, folder=tmp_path / "twice", epochs=4, max_minutes=1e-9, progress=False)
    assert first.step == 1 and not first.finished
    second = train(SMALL, folder=tmp_path / "twice", epochs=4, resume=True, progress=False)
    assert second.finished
    assert losses(tmp_path / "once") == losses(tmp_path / "twice")
    weights = [create_model("voxelmorph2") for _ in range(2)]
    for model, name in zip(weights, ("once", "twice"), strict=True):
        load_weights(tmp_path / name / CHECKPOINT, model)
    for one, two in zip(*(model.parameters() for model in weights), strict=True):
        assert torch.equal(one, two)


def test_a_killed_process_resumes_to_the_same_losses(tmp_path):
    script = (
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from dataclasses import replace\n"
        "from regnet_lib.experiments import EXPERIMENTS\n"
        "from regnet_lib.losses import Objective\n"
        "from regnet_lib.train import train\n"
        "SMALL = replace(EXPERIMENTS['teaching.phantom.voxelmorph2'],\n"
        "    dataset_options={'shape': (16, 16, 16), 'train': 3, 'test': 1},\n"
        "    objective=Objective(window_voxels=3))\n"
        f"train(SMALL, folder=Path({str(tmp_path / 'killed')!r}), epochs=20, progress=False,"
        " checkpoint_seconds=0.5)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines_before = (tmp_path / "killed" / LOG).read_text().splitlines()
    assert 2 <= len(lines_before) <= 61
    train(SMALL, folder=tmp_path / "killed", epochs=20, resume=True, progress=False)
    train(SMALL, folder=tmp_path / "whole", epochs=20, progress=False)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".partial-*.csv"))


def test_bfloat16_keeps_displacement_loss_and_weights_in_float32(tmp_path):
    losses_of = {}
    for precision in ("float32", "bfloat16"):
        experiment = replace(SMALL, precision=precision)
        train(experiment, folder=tmp_path / precision, epochs=4, progress=False)
        losses_of[precision] = losses(tmp_path / precision)
    model = create_model("voxelmorph2")
    load_weights(tmp_path / "bfloat16" / CHECKPOINT, model)
    assert all(weights.dtype == torch.float32 for weights in model.parameters())
    # Close, but not the same: the network really ran in the other precision.
    assert losses_of["bfloat16"] == pytest.approx(losses_of["float32"], rel=2e-3)
    assert losses_of["bfloat16"] != losses_of["float32"]


def test_a_model_may_train_on_a_loss_of_its_own(tmp_path):
    experiment = replace(SMALL, model="cyclemorph")
    train(experiment, folder=tmp_path, epochs=1, progress=False)
    log = pd.read_csv(tmp_path / LOG)
    assert {"loss", "local_ncc", "diffusion", "cycle", "identity"} <= set(log.columns)
    assert len(log) == 3


def test_an_existing_run_is_not_touched(tmp_path):
    train(SMALL, folder=tmp_path, epochs=1, progress=False)
    before = (tmp_path / LOG).read_bytes()
    with pytest.raises(BadInputError, match="--resume"):
        train(SMALL, folder=tmp_path, epochs=1, progress=False)
    assert (tmp_path / LOG).read_bytes() == before


def test_resuming_with_other_settings_is_refused(tmp_path):
    train(SMALL, folder=tmp_path, epochs=2, max_minutes=1e-9, progress=False)
    other = replace(SMALL, seed=5)
    with pytest.raises(BadInputError, match="seed"):
        train(other, folder=tmp_path, epochs=2, resume=True, progress=False)


def test_a_non_finite_loss_names_step_case_and_terms(tmp_path, monkeypatch):
    def broken(self, displacement, moving, fixed):
        loss = displacement.sum() * float("nan")
        return loss, {"loss": loss.detach(), "local_ncc": loss.detach()}

    monkeypatch.setattr(Objective, "__call__", broken)
    with pytest.raises(TrainingDivergedError, match=r"step 1 .*brain-100\d.*local_ncc = nan"):
        train(SMALL, folder=tmp_path, epochs=1, progress=False)
    assert not (tmp_path / CHECKPOINT).exists()


class OnDevice(torch.Tensor):
    """A loss whose value the host has to wait for, as it has on a GPU; counts how often it does."""

    reads = 0
    WAITING = (
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.Tensor.cpu,
        torch.Tensor.numpy,
        torch.Tensor.__float__,
        torch.Tensor.__bool__,
        torch.Tensor.__format__,
    )

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.reads += function in cls.WAITING
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.fixture
def like_a_gpu(monkeypatch):
    """Losses are read five steps at a time, and every read is counted."""
    compute = Objective.__call__

    def watched(self, displacement, moving, fixed):
        loss, parts = compute(self, displacement, moving, fixed)
        return loss, {name: part.as_subclass(OnDevice) for name, part in parts.items()}

    monkeypatch.setattr(Objective, "__call__", watched)
    monkeypatch.setattr("regnet_lib.train.steps_per_read", lambda device: 5)
    OnDevice.reads = 0


def test_steps_do_not_wait_for_the_loss_and_the_log_is_the_same(tmp_path, monkeypatch, request):
    """12 steps, read after steps 5 and 10 and for the last checkpoint."""
    train(SMALL, folder=tmp_path / "at once", epochs=4, progress=False)
    request.getfixturevalue("like_a_gpu")
    train(SMALL, folder=tmp_path / "together", epochs=4, progress=False)
    assert OnDevice.reads == 3
    logs = [pd.read_csv(tmp_path / name / LOG) for name in ("at once", "together")]
    without_time = [log.drop(columns="seconds") for log in logs]
    pd.testing.assert_frame_equal(*without_time)
    assert logs[1]["seconds"].is_monotonic_increasing


@pytest.mark.usefixtures("like_a_gpu")
def test_a_crash_between_two_reads_loses_no_line(tmp_path, monkeypatch):
    train(SMALL, folder=tmp_path / "once", epochs=4, progress=False)
    load = Batches.load

    def broken(self, step):
        if step == 7:
            raise OSError("the disk is gone")
        return load(self, step)

    monkeypatch.setattr(Batches, "load", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        train(SMALL, folder=tmp_path / "crashed", epochs=4, progress=False)
    assert losses(tmp_path / "crashed") == losses(tmp_path / "once")[:7]
    monkeypatch.setattr(Batches, "load", load)
    train(SMALL, folder=tmp_path / "crashed", epochs=4, resume=True, progress=False)
    assert losses(tmp_path / "crashed") == losses(tmp_path / "once")


@pytest.mark.usefixtures("like_a_gpu")
def test_weights_behind_a_diverged_loss_are_not_saved(tmp_path, monkeypatch):
    """The loss of step 8 is NaN, which is noticed after step 10; no line hides it."""
    compute, calls = Objective.__call__, []

    def broken(self, displacement, moving, fixed):
        loss, parts = compute(self, displacement, moving, fixed)
        calls.append(loss)
        factor = float("nan") if len(calls) == 8 else 1.0
        return loss * factor, {name: part * factor for name, part in parts.items()}

    monkeypatch.setattr(Objective, "__call__", broken)
    with pytest.raises(TrainingDivergedError, match=r"step 8 .*local_ncc = nan"):
        train(SMALL, folder=tmp_path, epochs=4, progress=False)
    assert len(calls) == 10 and len(losses(tmp_path)) == 7
    assert not (tmp_path / CHECKPOINT).exists()


def test_the_next_batch_is_read_while_a_step_computes(tmp_path):
    """And only the next: a whole data set need not fit into memory."""
    experiment, read = replace(SMALL, batch_size=1), []
    batches = Batches(Phantoms(**SMALL.dataset_options), experiment, 2, Team())
    load = batches.load

    def noted(step):
        read.append(step)
        return load(step)

    batches.load = noted
    coming = batches.ahead(2)
    seen = [next(coming)]
    deadline = time.monotonic() + 10
    while len(read) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read == [2, 3]
    seen += coming
    assert read == [2, 3, 4, 5] and list(batches.ahead(6)) == []
    for step, batch in enumerate(seen, start=2):
        expected = load(step)
        assert batch.ids == expected.ids and batch.epoch == expected.epoch == step // 3
        assert torch.equal(batch.moving, expected.moving)


def test_models_without_parameters_cannot_be_trained(tmp_path):
    with pytest.raises(BadInputError, match="no parameters"):
        train(replace(SMALL, model="identity"), folder=tmp_path, progress=False)
    with pytest.raises(BadInputError, match="at least 1 epoch"):
        train(replace(SMALL, epochs=0), folder=tmp_path, progress=False)


def test_training_on_files_in_the_layout_of_lpba40(tmp_path, fake_lpba40):
    experiment = replace(EXPERIMENTS["lganetpp.table2.voxelmorph2.2mm"], dataset_options={})
    monkey = replace(experiment, optimiser=replace(experiment.optimiser, decay=None))
    dataset_ids = ("S11", "S12")
    import regnet_lib.data.lpba40 as lpba40

    original, lpba40.TRAIN_IDS = lpba40.TRAIN_IDS, dataset_ids
    try:
        result = train(monkey, data=fake_lpba40, folder=tmp_path, epochs=1, progress=False)
    finally:
        lpba40.TRAIN_IDS = original
    assert result.step == 2
    assert set(pd.read_csv(tmp_path / LOG)["cases"]) == set(dataset_ids)


def test_foreign_weights_give_one_clear_error(tmp_path):
    save_weights(tmp_path / "vxm.safetensors", create_model("voxelmorph2"))
    with pytest.raises(BadInputError, match="do not belong to LGANetPP"):
        load_weights(tmp_path / "vxm.safetensors", create_model("lganetpp", variant="official"))
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x04junk")
    with pytest.raises(BadInputError, match="safetensors"):
        load_weights(tmp_path / "pickle.pth", create_model("voxelmorph2"))
    with pytest.raises(BadInputError, match="does not exist"):
        load_weights(tmp_path / "none.safetensors", create_model("voxelmorph2"))


def test_half_precision_weights_round_trip(tmp_path):
    model, other = create_model("voxelmorph2"), create_model("voxelmorph2")
    save_weights(tmp_path / "w.safetensors", model)
    load_weights(tmp_path / "w.safetensors", other)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.half().float(), two)


def test_the_papers_learning_rate_schedule():
    paper = LinearDecay(200, 300, 0.01)
    assert [paper.factor(epoch) for epoch in (0, 200, 300)] == pytest.approx([1, 1, 0.01])
    assert paper.factor(250) == pytest.approx(0.505)
    released = LinearDecay(50, 310, 0.0)
    assert 1e-4 * released.factor(100) == pytest.approx(8.08e-5, rel=1e-3)
    assert 1e-4 * released.factor(300) == pytest.approx(3.85e-6, rel=1e-2)


def test_step_and_polynomial_decay():
    assert [StepDecay(20).factor(epoch) for epoch in (0, 19, 20, 199)] == [1, 1, 0.5, 0.5**9]
    assert PolynomialDecay(500).factor(0) == 1
    assert PolynomialDecay(500).factor(250) == pytest.approx(0.5**0.9)
    assert PolynomialDecay(500).factor(500) == 0


def test_every_experiment_builds_its_model():
    """Without memory for its weights."""
    seen = set()
    for experiment in EXPERIMENTS.values():
        options = str(sorted(experiment.model_options.items()))
        if (experiment.model, options) in seen:
            continue
        seen.add((experiment.model, options))
        with torch.device("meta"):
            model = create_model(experiment.model, **experiment.model_options)
        trained = any(weights.requires_grad for weights in model.parameters())
        assert trained == (experiment.epochs > 0 or bool(experiment.weights_of)), experiment.name


def test_unknown_experiments_list_the_near_ones():
    with pytest.raises(ValueError, match="lganetpp.table2.identity"):
        find_experiment("lganetpp.table2.idenity")
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name and experiment.notes
