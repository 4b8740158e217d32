"""The experiments of LGANet++'s Tables 1 and 2, their comparison, and their pictures."""

from collections import Counter
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from regnet_lib import figures
from regnet_lib.comparisons import compare_runs, latest_runs
from regnet_lib.data import phantom_pair
from regnet_lib.experiments import EXPERIMENTS, TABLES
from regnet_lib.experiments.experiment import at_spacing
from regnet_lib.experiments.lganetpp import BASELINES, OFFICIAL, PAPER, SELECTION
from regnet_lib.metrics import bootstrap_interval, holm
from regnet_lib.models import create_model

matplotlib.use("Agg")
SHORT = [one for one in TABLES["lganetpp.table2"] if one.epochs == 10]


def test_names_are_unique():
    assert max(Counter(one.name for one in TABLES["lganetpp.table2"]).values()) == 1


@pytest.mark.parametrize("spacing", [2, 4])
def test_all_trainings_at_one_resolution_have_one_budget(spacing):
    """Steps, rate, precision and data agree; only network, options and zoom differ."""
    chosen = [one for one in SHORT if one.dataset_options["spacing_mm"] == spacing]
    compared = {method.row for method in (*BASELINES, OFFICIAL, PAPER)}
    if spacing == 4:
        assert {one.row for one in chosen} == compared
        chosen += [one for one in TABLES["lganetpp.table1"] if one.epochs == 10]
    for one in chosen:
        assert not one.faithful
        assert (one.precision, one.batch_size, one.seed) == ("bfloat16", 1, 0)
        assert one.optimiser == chosen[0].optimiser
        assert one.dataset_options == chosen[0].dataset_options
        assert (one.objective.similarity, one.objective.diffusion_weight) == ("local_ncc", 1.0)


def test_a_model_that_is_told_a_shape_is_told_a_valid_one():
    for one in TABLES["lganetpp.table2"]:
        if "shape" in one.model_options:
            with torch.device("meta"):
                model = create_model(one.model, **one.model_options)
            shape = one.model_options["shape"]
            assert model.valid_shape(shape) == tuple(shape)
    full = EXPERIMENTS["lganetpp.table2.groupmorph"]
    coarse = at_spacing(full, 4, (144, 176, 144))
    assert coarse.model_options["shape"] == (40, 48, 40)  # 36, 44, 36, padded by the model
    assert full.model_options["shape"] == (144, 176, 144)
    assert "36x44x36" in coarse.notes


def test_the_training_scored_by_epoch_differs_in_length_only():
    short = EXPERIMENTS["lganetpp.table2.pivit.4mm.short"]
    assert (SELECTION.model, SELECTION.optimiser) == (short.model, short.optimiser)
    assert SELECTION.dataset_options == short.dataset_options
    assert SELECTION.epochs > short.epochs and not SELECTION.faithful


def test_a_reference_asks_fewer_questions():
    runs = {
        title: run
        for title, run in latest_runs("lganetpp.table2").items()
        if run.info["evaluation"]["spacing_mm"][0] == 2
    }
    reference = next(title for title in runs if "identity.2mm" in runs[title].experiment)
    some, every = compare_runs(runs, "dice", reference=reference), compare_runs(runs, "dice")
    assert set(some["first"]) == {reference} and set(some["second"]) == set(runs) - {reference}
    assert len(every) == len(runs) * (len(runs) - 1) // 2 > len(some)
    both = some.merge(every, on=["first", "second"], suffixes=("", "_every"))
    assert len(both) and (both["p"] == both["p_every"]).all()
    assert (both["p_holm"] <= both["p_holm_every"]).all()
    np.testing.assert_array_equal(some["p_holm"], holm(some["p"].to_numpy()))
    with pytest.raises(ValueError, match="got 'none'"):
        compare_runs(runs, "dice", reference="none")


def test_the_gallery_writes_residual_and_agreement_below_the_images():
    case = phantom_pair((32, 32, 32))
    index = case.shape[2] // 2
    planes = {
        "zero": np.zeros((3, 32, 32), np.float16),
        "true": case.displacement[0, ..., index].numpy(),
    }
    figure = figures.field_gallery(planes, case, axis=2, index=index)
    axes = np.array(figure.axes).reshape(4, 3)
    residual, agreement = (
        [float(ax.texts[0].get_text().rstrip("%")) for ax in row[1:]] for row in axes[1:3]
    )
    expected = (case.fixed - case.moving)[0, 0, :, :, index].abs().mean()
    assert residual[0] == pytest.approx(float(expected), abs=1e-4)
    assert residual[1] < 0.5 * residual[0] and agreement[1] > agreement[0]
    assert len(figures.field_gallery(planes, axis=2, index=index).axes) == 2  # grids only


def test_seeds_differ_in_the_seed_only():
    for one in TABLES["lganetpp.seeds"]:
        first = EXPERIMENTS[one.name.rpartition(".")[0]]
        assert replace(one, name=first.name, seed=first.seed) == first != one


def test_intervals_are_drawn_where_they_are():
    cases = {"a": pd.Series([0.5, 0.6, 0.7]), "b": pd.Series([0.2, 0.2, 0.2])}
    _, ax = figures.plt.subplots()
    figures.draw_intervals(ax, cases, label="Dice (%)", factor=100.0, colors={"b": "red"})
    bars = [line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
    np.testing.assert_allclose(bars[0].get_xdata(), bootstrap_interval([50.0, 60.0, 70.0]))
    np.testing.assert_allclose(bars[1].get_xdata(), 20.0)
    assert (bars[0].get_color(), bars[1].get_color()) == (figures.BLUE, "red")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first one on top
