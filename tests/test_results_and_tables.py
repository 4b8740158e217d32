"""From an evaluated experiment to rows on disk to a table, and the committed rows themselves."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from regnet_lib.__main__ import main
from regnet_lib.data import BadInputError
from regnet_lib.evaluate import evaluate
from regnet_lib.experiments import EXPERIMENTS, TABLES
from regnet_lib.metrics import summarize
from regnet_lib.paths import results_folder
from regnet_lib.results import COLUMNS, read_runs, write_run
from regnet_lib.tables import (
    PAPER_TABLES,
    SHOWN,
    bootstrap_interval,
    build_table,
    paper_cells,
    render,
)

METRICS = {"dice", "precision", "recall", "hd95", "assd", "local_ncc_loss", "seconds"}


@pytest.fixture(scope="module")
def phantom_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    experiment = replace(
        EXPERIMENTS["lganetpp.table2.identity"],
        name="phantom.identity",
        dataset="phantom",
        dataset_options={"shape": (24, 24, 24), "test": 2},
    )
    evaluate(experiment, root=root, progress=False)
    return root, experiment


def test_rows_are_tidy(phantom_run):
    root, experiment = phantom_run
    run = read_runs(experiment.name, root=root)[0]
    assert tuple(run.rows.columns) == COLUMNS
    assert METRICS <= set(run.rows["metric"])
    assert run.values("dice").shape == (2, 7)
    assert run.values("folding_forward").shape == (2, 1)
    assert run.info["evaluation"]["cases"] == 2
    assert run.info["experiment"]["name"] == experiment.name
    assert run.case_means("dice").between(0.2, 0.99).all()


def test_runs_are_append_only(phantom_run):
    root, experiment = phantom_run
    run = read_runs(experiment.name, root=root)[0]
    with pytest.raises(BadInputError, match="append-only"):
        write_run(run.rows, run.info, root=root)
    evaluate(experiment, root=root, progress=False)
    runs = read_runs(experiment.name, root=root)
    assert len(runs) == 2 and runs[0].run_id != runs[1].run_id
    first, second = (run.rows[run.rows["metric"] != "seconds"]["value"] for run in runs)
    np.testing.assert_array_equal(first, second)


def test_evaluating_without_a_checkpoint_says_what_to_do(tmp_path, fake_lpba40):
    with pytest.raises(BadInputError, match="regnet train"):
        evaluate(
            EXPERIMENTS["lganetpp.table2.voxelmorph2"],
            checkpoint=tmp_path / "none.safetensors",
            data=fake_lpba40,
            root=tmp_path,
        )


def test_paper_table_has_every_cell():
    cells = paper_cells("lganetpp.table2")
    assert len(cells) == 11 * 5
    assert cells["row"].nunique() == 11
    assert not cells["value"].eq("").any()
    best = cells[cells["metric"] == "dice"].assign(value=lambda c: c["value"].astype(float))
    assert best.loc[best["value"].idxmax(), "row"] == "LGANet++ (Ours)"
    starred = cells[cells["row"].isin(["LGANet (Ours)", "LGANet++ (Ours)"])]["starred"]
    assert set(starred) == {"0"}


@pytest.mark.parametrize("name", sorted(PAPER_TABLES))
@pytest.mark.parametrize("format", ["md", "html", "latex"])
def test_tables_render(name, format):
    table = build_table(name)
    text = render(table, format)
    for row in paper_cells(name)["row"].unique():
        assert row in text
    assert "nan" not in text.lower().replace("lganet", "")


def test_every_experiment_of_a_table_belongs_to_one_of_its_rows():
    for name, description in PAPER_TABLES.items():
        rows = set(paper_cells(name)["row"])
        extra = {experiment.row for experiment in TABLES.get(name, ())} - rows
        assert extra <= {"Initial", "Gradient descent"}, description.title


def test_the_verdict_follows_the_rows(tmp_path, monkeypatch):
    """Rows that equal the paper's mean are `reproduced`; a few points away they are not."""
    import regnet_lib.results as results

    monkeypatch.setattr(results, "results_folder", lambda: tmp_path)
    experiment = EXPERIMENTS["lganetpp.table2.syn"]
    for offset, verdict in ((0.0, "reproduced"), (0.008, "close"), (-0.05, "differs")):
        _write_fake_run(tmp_path, experiment, 0.7003 + offset)
        frame = build_table("lganetpp.table2").frame
        line = frame[frame[("", "method")] == "SyN"].iloc[0]
        assert line["", "verdict"] == verdict
        assert line["DSC (%)", "Δ"] == f"{100 * offset:+.2f}"


def test_lines_of_cases_find_their_case_and_pool_the_landmarks(tmp_path, monkeypatch):
    """Case 1 is not case 10; ± of all cases is over landmarks, as in AD-RegNet Table I."""
    import regnet_lib.results as results

    monkeypatch.setattr(results, "results_folder", lambda: tmp_path)
    name = "ad_regnet.table1"
    experiment = replace(
        EXPERIMENTS["lganetpp.table2.identity"], name="identity", row="Before", dataset="dirlab"
    )
    monkeypatch.setitem(TABLES, name, (experiment,))
    cells = paper_cells(name)
    before = cells[(cells["row"] == "Before") & (cells["case"] != "")].set_index("case")["value"]
    errors = {f"case{case}": float(value) for case, value in before.items()}
    rows = pd.DataFrame(
        [
            (experiment.name, "one", "dirlab", "test", case, landmark, "tre_mm", error + add, "mm")
            for case, error in errors.items()
            for landmark, add in (("1", -1.0), ("2", 1.0))
        ],
        columns=list(COLUMNS),
    )
    _write_run(tmp_path, experiment, rows, 10)
    frame = build_table(name).frame.droplevel(0, axis=1)
    lines = frame[frame["method"] == "Before"].set_index("case")
    for case, value in before.items():
        assert lines.loc[case, "ours"] == f"{float(value):.2f} ± 1.00"
        assert lines.loc[case, "Δ"] == "+0.00"
    everything = np.array([[error - 1, error + 1] for error in errors.values()])
    assert lines.loc["all", "ours"] == f"{everything.mean():.2f} ± {everything.std():.2f}"
    assert lines.loc["all", "n"] == "10" and lines.loc["1", "n"] == ""
    assert lines.loc["all", "verdict"] == "reproduced" and lines.loc["1", "verdict"] == ""
    short = build_table(name, cases=False).frame
    assert len(short) == cells["row"].nunique() and ("", "case") not in short


def test_a_printed_fraction_is_compared_with_a_fraction(tmp_path, monkeypatch):
    """AD-RegNet prints DSC 0.645, LGANet++ 64.5 %: the same stored value serves both."""
    import regnet_lib.results as results

    monkeypatch.setattr(results, "results_folder", lambda: tmp_path)
    experiment = replace(EXPERIMENTS["lganetpp.table2.syn"], name="syn", dataset="ixi")
    monkeypatch.setitem(TABLES, "ad_regnet.table3", (experiment,))
    for mean, verdict in ((0.645, "reproduced"), (0.653, "close"), (0.70, "differs")):
        _write_fake_run(tmp_path, experiment, mean)
        frame = build_table("ad_regnet.table3").frame
        line = frame[frame[("", "method")] == "SyN"].iloc[0]
        assert line["", "verdict"] == verdict
        assert line["DSC", "ours"].startswith(f"{mean:.3f} ± ")
        assert line["DSC", "Δ"] == f"{mean - 0.645:+.3f}"
        assert line["NJD (%)", "paper"] == "<0.0001" and line["NJD (%)", "ours"] == "n/a"


def test_an_unknown_table_lists_the_known_ones(capsys):
    with pytest.raises(ValueError, match="ad_regnet.table5.*lganetpp.table1.*got 'table9'"):
        build_table("table9")
    assert main(["table", "table9"]) == 1
    message = capsys.readouterr().err
    assert "ad_regnet.table1" in message and "lganetpp.table6" in message


def test_captions_name_direction_and_conventions():
    for name, description in PAPER_TABLES.items():
        caption = build_table(name, cases=False).caption
        higher, lower = caption.split("Lower is better: ")
        for metric in description.metrics:
            shown = SHOWN[metric]
            assert shown.convention in caption
            assert (f"{shown.heading}," in lower or f"{shown.heading}." in lower) == (
                shown.better == "lower"
            )
            assert (shown.heading in higher.rpartition("Higher is better: ")[2]) == (
                shown.better == "higher"
            )


def _write_fake_run(root, experiment, mean):
    created = f"2026-01-01T00:00:{len(read_runs(experiment.name, root=root)):02d}Z"
    cases = {f"S{index:02d}": mean + 0.001 * (index - 6) for index in range(2, 11)}
    rows = pd.DataFrame(
        [
            (experiment.name, created, "lpba40", "test", case, "21", "dice", value, "fraction")
            for case, value in cases.items()
        ],
        columns=list(COLUMNS),
    )
    _write_run(root, experiment, rows, 9, created)


def _write_run(root, experiment, rows, cases, created="2026-01-01T00:00:00Z"):
    info = {
        "run_id": created.replace(":", ""),
        "created": created,
        "device": "test, 1 thread",
        "experiment": experiment.as_dict(),
        "training": None,
        "evaluation": {"cases": cases, "spacing_mm": [1.0, 1.0, 1.0]},
    }
    write_run(rows, info, root=root)


def test_bootstrap_interval_contains_the_mean_and_shrinks():
    random = np.random.default_rng(1)
    few, many = random.normal(5, 1, 9), random.normal(5, 1, 900)
    low, high = bootstrap_interval(few)
    assert low < few.mean() < high
    narrow = bootstrap_interval(many)
    assert narrow[1] - narrow[0] < 0.3 * (high - low)
    assert bootstrap_interval(few) == (low, high)


def committed_runs():
    return [run for name in EXPERIMENTS for run in read_runs(name, root=results_folder())]


@pytest.mark.parametrize("run", committed_runs(), ids=lambda run: f"{run.experiment}/{run.run_id}")
def test_committed_runs_are_complete_and_plausible(run):
    rows = run.rows
    assert tuple(rows.columns) == COLUMNS
    assert set(rows["experiment"]) == {run.experiment} and set(rows["run_id"]) == {run.run_id}
    assert rows["case"].nunique() == run.info["evaluation"]["cases"]
    assert not rows.duplicated(["case", "structure", "metric"]).any()
    fractions = rows[rows["unit"] == "fraction"]["value"].dropna()
    assert fractions.between(0, 1).all()
    assert run.info["commit"] and run.info["device"] and run.info["versions"]["torch"]
    text = (run.folder / "run.json").read_text()
    assert "/root" not in text and "/home" not in text and "/work" not in text


@pytest.mark.parametrize("run", committed_runs(), ids=lambda run: f"{run.experiment}/{run.run_id}")
def test_committed_rows_obey_the_jensen_bound(run):
    """Dice is a concave harmonic mean of precision and recall: mean Dice <= 2PR / (P + R)."""
    values = {name: run.values(name) for name in ("dice", "precision", "recall")}
    dice, precision, recall = (summarize(values[name]).mean for name in values)
    assert dice <= 2 * precision * recall / (precision + recall) + 1e-6


def test_identity_on_real_data_equals_the_known_values():
    """Dice 54.81 ± 4.08, HD95 7.12 ± 0.76, recall 57.40, precision 53.87 over 56 labels, n = 9."""
    runs = read_runs("lganetpp.table2.identity", root=results_folder())
    assert runs, "the identity row is missing"
    summary = {name: summarize(runs[-1].values(name)) for name in ("dice", "hd95")}
    assert 100 * summary["dice"].mean == pytest.approx(54.81, abs=0.005)
    assert 100 * summary["dice"].std_cases == pytest.approx(4.08, abs=0.005)
    assert summary["hd95"].mean == pytest.approx(7.124, abs=0.001)
    assert summary["hd95"].std_cases == pytest.approx(0.764, abs=0.001)
    assert 100 * summarize(runs[-1].values("recall")).mean == pytest.approx(57.40, abs=0.005)
    assert 100 * summarize(runs[-1].values("precision")).mean == pytest.approx(53.87, abs=0.005)
