"""The rows on brains that anyone can have: their budgets, and whose weights they test."""

from dataclasses import replace

import pytest
import torch

from regnet_lib.data import DATASETS, write_fake_ixi_hh_2mm, write_fake_oasis_samples
from regnet_lib.evaluate import evaluate
from regnet_lib.experiments import EXPERIMENTS, brains
from regnet_lib.experiments.brains import LOSSES, TABLE3, TABLE4, TABLE5
from regnet_lib.paper import paper_cells
from regnet_lib.results import Run, read_runs
from regnet_lib.table_lines import run_label
from regnet_lib.train import train

ROWS = [row for table in brains.TABLES.values() for row in table]


def test_none_is_compared_with_the_paper():
    assert ROWS and not any(row.faithful for row in ROWS)


@pytest.mark.parametrize("table", ["lganetpp.table3", "lganetpp.table4", "lganetpp.table5"])
def test_learned_rows_carry_the_papers_names(table):
    printed = {*paper_cells(table)["row"]}
    learned = {
        row.row.split(",")[0] for row in brains.TABLES[table] if row.epochs or row.weights_of
    }
    assert learned - {"AD-RegNet"} <= printed


def test_every_network_of_lganetpp_has_the_same_budget():
    trained = [row for row in TABLE3 if row.epochs and row.model != "ad_regnet"]
    assert len(trained) == 8
    budgets = {(row.epochs, row.batch_size, row.optimiser, row.precision) for row in trained}
    assert len(budgets) == 1


@pytest.mark.parametrize("row", [row for row in ROWS if row.weights_of], ids=lambda row: row.name)
def test_weights_fit_the_model(row):
    trained = EXPERIMENTS[row.weights_of]
    assert trained.epochs > 0 and row.epochs == 0
    assert (row.model, row.model_options) == (trained.model, trained.model_options)
    assert row.objective == trained.objective


def test_external_rows_differ_in_their_data_alone():
    external = [row for row in TABLE4 if row.weights_of]
    assert {row.dataset for row in external} == {"oasis_samples", "lpba40", "ixi_hh_2mm"}
    for row in external:
        trained = EXPERIMENTS[row.weights_of]
        if "fixed" in row.dataset_options:
            assert row.dataset_options == {**trained.dataset_options, "fixed": "S02"}
        else:
            assert trained.dataset != row.dataset


def test_every_loss_is_one_that_trains():
    torch.manual_seed(0)
    moving, fixed = torch.rand(2, 1, 1, 12, 12, 12)
    for _, objective in LOSSES.values():
        displacement = torch.zeros(1, 3, 12, 12, 12, requires_grad=True)
        loss, _ = objective(displacement, moving, fixed)
        loss.backward()
        assert torch.isfinite(displacement.grad).all() and displacement.grad.abs().sum() > 0


def test_no_loss_minds_an_inversion():
    """What the squared local correlation cannot follow in T2-like images is their bright rim."""
    torch.manual_seed(0)
    moving, fixed = torch.randn(2, 1, 1, 12, 12, 12)
    for _, objective in LOSSES.values():
        alike, inverted, other = (
            float(objective.similarity_of(image, fixed)) for image in (fixed, -fixed, moving)
        )
        assert other > alike + 0.05
        assert inverted == pytest.approx(alike, abs=0.05)


def test_trained_on_one_set_and_tested_on_another(tmp_path):
    """The chain of Table 4 with its own rows, on phantoms in the folders of both sets."""
    external = next(row for row in TABLE4 if row.name == "lganetpp.table4.samples.voxelmorph2.4mm")
    trained = replace(EXPERIMENTS[external.weights_of], epochs=1)
    ixi = write_fake_ixi_hh_2mm(tmp_path / "ixi", shape=(32, 32, 32), train=2)
    oasis = write_fake_oasis_samples(tmp_path / "oasis", shape=(64, 64, 64))
    folder = tmp_path / "run"
    result = train(trained, data=ixi, folder=folder, device="cpu", progress=False)
    assert result.finished and result.total_steps == 2
    evaluate(
        external,
        checkpoint=folder / "checkpoint.safetensors",
        data=oasis,
        root=tmp_path / "results",
        device="cpu",
        progress=False,
    )
    (run,) = read_runs(external.name, root=tmp_path / "results")
    assert list(run.case_means("dice").index) == ["sub05", "sub06"]
    assert run.info["training"]["step"] == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("table4.from_lpba40.hh.pivit.4mm", "ixi_hh_2mm, 4 mm, 300 steps on lpba40"),
        ("table4.other_fixed.pivit.4mm", "lpba40, onto S02, 4 mm, 300 steps on lpba40"),
        ("table5.t2like.identity.4mm", "ixi_hh_2mm, t2-like moving images, 4 mm"),
    ],
)
def test_a_label_says_what_was_trained_where(tmp_path, name, words):
    experiment = EXPERIMENTS[f"lganetpp.{name}"]
    info = {
        "experiment": experiment.as_dict(),
        "evaluation": {"spacing_mm": [4.0, 4.0, 4.0]},
        "training": {"step": 300} if experiment.weights_of else None,
        "device": "1 thread",
    }
    table = ".".join(experiment.name.split(".")[:2])
    assert run_label(table, experiment, Run(tmp_path, info)) == f"{words}, CPU"


def test_a_run_of_one_paper_is_a_row_of_the_other():
    named = {row.name: row.row for row in brains.TABLES["ad_regnet.table3"]}
    assert {*named} < {row.name for row in TABLE3}
    assert {*named.values()} <= {"Initial", *paper_cells("ad_regnet.table3")["row"]}
    assert EXPERIMENTS["lganetpp.table3.hh.voxelmorph2.4mm.short"].row == "VoxelMorph"


def test_cross_modal_rows_name_their_loss():
    trained = [row for row in TABLE5 if row.epochs]
    for row in trained:
        suffix = row.row.partition(",")[2]
        assert suffix in {text.removeprefix(",") for text, _ in LOSSES.values()}
        assert row.objective in [objective for _, objective in LOSSES.values()]
    assert {row.dataset for row in TABLE5} == {"ixi_hh_2mm", "prostate_mr_us"} <= {*DATASETS}
