"""From an evaluated experiment to rows on disk to a table, and the committed rows themselves."""

import re
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from regnet_lib.__main__ import main
from regnet_lib.comparisons import compare_runs, comparison_table, latest_runs
from regnet_lib.data import BadInputError, phantom_pair
from regnet_lib.evaluate import PROTOCOL, evaluate, measure
from regnet_lib.experiments import EXPERIMENTS, TABLES
from regnet_lib.metrics import bootstrap_interval, ncc, ssim, summarize
from regnet_lib.paper import PAPER_TABLES, SHOWN, paper_cells, quoted_rows
from regnet_lib.paths import results_folder
from regnet_lib.results import COLUMNS, read_runs, write_run
from regnet_lib.spatial import identity_grid, warp
from regnet_lib.tables import build_table, render, row_verdict

# The tables of the committed rows do not change during a test run.
committed_table = cache(build_table)
# Rows that only we have: what a network has to beat.
EXTRA_ROWS = {
    *("Initial", "Before", "Gradient descent", "ConvexAdam", "deeds", "SyN"),
    *("VoxelMorph", "AD-RegNet", "AD-RegNet (Ours)"),  # on data that a paper lacks
}
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


def test_every_printed_column_is_recorded(phantom_run):
    """All metrics of the eleven tables, without TRE, which needs landmarks."""
    root, experiment = phantom_run
    run = read_runs(experiment.name, root=root)[0]
    assert set(SHOWN) - {"tre_mm"} <= set(run.rows["metric"])
    named = " ".join(PROTOCOL) + " ".join(PROTOCOL.values())
    for word in ("ncc", "mse", "ssim", "hd95", "tre_mm", "jacobian", "folding", "label_warp"):
        assert word in named


def test_every_printed_cell_can_be_filled():
    """Each measured cell of the eleven tables has a metric that a case with landmarks yields."""
    case = phantom_pair((20, 22, 24), seed=1, landmarks=4)
    recorded = {metric for _, _, metric, _, _ in measure(case, case.displacement)}
    printed = {metric for name in PAPER_TABLES for metric in paper_cells(name)["metric"]}
    assert printed - recorded == {"landmarks", "lgam", "fifm", "msfm"}  # no measurements
    assert set(SHOWN) <= recorded


def test_image_metrics_are_those_of_the_warped_image():
    case = phantom_pair((20, 22, 24), seed=1)
    values = {metric: value for _, _, metric, value, _ in measure(case, case.displacement)}
    image = warp(case.moving, case.displacement)
    assert values["ncc"] == ncc(image, case.fixed)
    assert values["mse"] == pytest.approx(float(((image - case.fixed) ** 2).mean()), rel=1e-6)
    assert values["ssim"] == ssim(image, case.fixed, data_range=1.0)
    before = {metric: value for _, _, metric, value, _ in measure(case, 0 * case.displacement)}
    assert values["ncc"] > before["ncc"] and values["mse"] < before["mse"]


def test_jacobian_of_a_scaling():
    """x -> 1.1 x has determinant 1.1^3 everywhere."""
    case = phantom_pair((20, 22, 24), seed=1)
    displacement = 0.1 * identity_grid(case.shape)
    values = {metric: value for _, _, metric, value, _ in measure(case, displacement)}
    assert values["jacobian_mean"] == pytest.approx(1.331, rel=1e-5)
    assert values["jacobian_minimum"] == pytest.approx(1.331, rel=1e-5)
    assert values["jacobian_std"] < 1e-5
    torch.manual_seed(0)
    folded = {m: v for _, _, m, v, _ in measure(case, 3 * torch.randn(1, 3, *case.shape))}
    assert folded["jacobian_minimum"] < 0 < folded["folding_central"]


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
    text = render(committed_table(name), format)
    for row in paper_cells(name)["row"].unique():
        assert row in text
    assert "nan" not in text.lower().replace("lganet", "")


def test_every_experiment_of_a_table_belongs_to_one_of_its_rows():
    for name, description in PAPER_TABLES.items():
        rows = set(paper_cells(name)["row"])
        # "VoxelMorph, MIND" is a variant of the row before the comma
        extra = {experiment.row.partition(", ")[0] for experiment in TABLES.get(name, ())} - rows
        assert extra <= EXTRA_ROWS, description.title


def test_the_verdict_follows_the_rows(tmp_path, monkeypatch):
    """Rows that equal the paper's mean are `reproduced`; a few points away they are not."""
    _results_in(tmp_path, monkeypatch)
    experiment = EXPERIMENTS["lganetpp.table2.syn"]
    for offset, verdict in ((0.0, "reproduced"), (0.008, "close"), (-0.05, "differs")):
        _write_fake_run(tmp_path, experiment, 0.7003 + offset)
        frame = build_table("lganetpp.table2").frame
        line = frame[frame[("", "method")] == "SyN"].iloc[0]
        assert line["", "verdict"] == verdict
        assert line["DSC (%)", "Δ"] == f"{100 * offset:+.2f}"


def test_lines_of_cases_find_their_case_and_pool_the_landmarks(tmp_path, monkeypatch):
    """Case 1 is not case 10; ± of all cases is over landmarks, as in AD-RegNet Table I."""
    _results_in(tmp_path, monkeypatch)
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
    _results_in(tmp_path, monkeypatch)
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
        caption = committed_table(name).caption
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


def test_a_run_of_another_budget_has_a_line_of_its_own(tmp_path, monkeypatch):
    """A short run equal to the paper's mean gets neither a verdict on it nor a difference."""
    _results_in(tmp_path, monkeypatch)
    name = "lganetpp.table2"
    short = EXPERIMENTS["lganetpp.table2.voxelmorph2.2mm.short"]
    _write_fake_run(tmp_path, short, 0.6614)
    frame = build_table(name).frame
    lines = frame[frame["", "method"] == "VoxelMorph"]
    assert list(lines["", "verdict"]) == ["missing", "reduced budget"]
    assert list(lines["DSC (%)", "paper"]) == ["66.14 ± 2.55", ""]
    assert lines["DSC (%)", "ours"].iloc[1].startswith("66.14 ± ")
    assert list(lines["DSC (%)", "Δ"]) == ["", ""]
    assert lines["", "our run"].iloc[1] == "1 mm, CPU"  # as written in the run, not in its name
    _write_fake_run(tmp_path, EXPERIMENTS["lganetpp.table2.voxelmorph2"], 0.6614)
    frame = build_table(name).frame
    lines = frame[frame["", "method"] == "VoxelMorph"]
    assert list(lines["", "verdict"]) == ["reproduced", "reduced budget"]


def test_a_run_on_other_images_is_never_compared(tmp_path, monkeypatch):
    _results_in(tmp_path, monkeypatch)
    other = next(one for one in TABLES["lganetpp.table3"] if one.dataset == "ixi_hh_2mm")
    _write_fake_run(tmp_path, other, 0.5)
    frame = build_table("lganetpp.table3").frame
    line = frame[frame["", "our run"] != ""].iloc[0]
    assert line["", "verdict"] == "other data" and line["DSC (%)", "Δ"] == ""
    assert line["", "our run"] == "ixi_hh_2mm, 1 mm, CPU"


def test_a_training_that_stopped_early_is_no_reproduction(tmp_path, monkeypatch):
    _results_in(tmp_path, monkeypatch)
    experiment = EXPERIMENTS["lganetpp.table2.rdp"]
    for steps, verdict in ((500, "reduced budget"), (9000, "reproduced")):
        training = {"step": steps, "steps_planned": 9000, "epochs_planned": 300}
        _write_fake_run(tmp_path, experiment, 0.7287, training=training)
        frame = build_table("lganetpp.table2").frame
        line = frame[(frame["", "method"] == "RDP") & (frame["", "our run"] != "")].iloc[0]
        assert line["", "verdict"] == verdict
        assert f"{steps} steps" in line["", "our run"]


def test_folds_are_one_run_once_all_are_there(tmp_path, monkeypatch):
    _results_in(tmp_path, monkeypatch)
    name = "ad_regnet.table5"
    folds = tuple(
        replace(
            EXPERIMENTS["lganetpp.table2.identity"],
            name=f"crossed.fold{fold}",
            row="Full Model",
            dataset="dirlab",
        )
        for fold in (1, 2)
    )
    monkeypatch.setitem(TABLES, name, folds)
    for number, (fold, verdict) in enumerate(zip(folds, ("reduced budget", "reproduced"))):
        rows = [
            (fold.name, "one", "dirlab", "test", f"case{case}", "1", "tre_mm", 1.51 + shift, "mm")
            for case, shift in ((2 * number + 1, -0.1), (2 * number + 2, 0.1))
        ]
        _write_run(tmp_path, fold, pd.DataFrame(rows, columns=list(COLUMNS)), 2)
        table = build_table(name)
        lines = table.frame[table.frame["", "method"] == "Full Model"]
        line = lines[lines["", "our run"] != ""].iloc[0]
        assert line["", "verdict"] == verdict and line["", "n"] == str(2 * number + 2)
        assert line["TRE (mm)", "ours"] == "1.51 ± 0.10"
        assert f"{number + 1} of 2 folds" in line["", "our run"]
        assert [link.path.split("/")[1] for link in table.runs] == [
            one.name for one in folds[: number + 1]
        ]


@pytest.mark.parametrize("name", sorted(PAPER_TABLES))
def test_every_row_has_a_verdict_and_what_is_missing_has_a_command(name):
    table = committed_table(name)
    quoted = set(quoted_rows().query("table == @name")["row"])
    lines = table.frame.droplevel(0, axis=1)
    lines = lines[lines["case"] == "all"] if "case" in lines.columns else lines
    for row in paper_cells(name)["row"].unique():
        first = lines[lines["method"] == row].iloc[0]
        assert first["verdict"]
        assert (first["verdict"] == "not rerun (quoted)") == (row in quoted)
        assert (first["verdict"] in ("missing", "not rerun (quoted)")) == (first["our run"] == "")
        assert first["n"].isdigit() == (first["our run"] != "")
        if first["verdict"] == "missing":
            wanted = [one.name for one in TABLES[name] if one.row == row and one.faithful]
            stem = wanted[0].partition(".fold")[0]
            assert any(stem in command for command in table.missing)
    for format in ("md", "html", "latex"):
        text = render(table, format)
        assert all(command.split(" && ")[-1] in text for command in table.missing)


def test_the_commands_are_commands():
    for name in PAPER_TABLES:
        for command in committed_table(name).missing:
            loop = re.fullmatch(r"for fold in ([1-5 ]+); do (.+); done", command)
            folds = [loop[2].replace("$fold", fold) for fold in loop[1].split()] if loop else []
            for part in (part for one in folds or [command] for part in one.split(" && ")):
                program, word, experiment = part.split()
                assert (program, word in ("train", "evaluate")) == ("regnet", True)
                assert experiment in EXPERIMENTS


def test_links_lead_to_committed_runs():
    links = [link for name in PAPER_TABLES for link in committed_table(name).runs]
    assert links
    for link in links:
        assert (results_folder().parent / link.path / "rows.csv").exists()
        assert link.url.endswith(link.path) and "thread" in link.text or "NVIDIA" in link.text


def test_html_loads_nothing():
    text = render(committed_table("lganetpp.table2"), "html")
    assert not re.search(r"<script|<link|src=|@import|url\(", text)


def test_html_sorts_by_a_click_on_a_heading():
    """Numbers as numbers, empty cells last in both directions."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.set_content(render(committed_table("lganetpp.table2"), "html"))
        for direction in (1, -1):
            page.get_by_role("button", name="paper").first.click()
            shown = page.locator("tbody tr td:nth-child(2)").all_inner_texts()
            values = [float(text.split()[0]) for text in shown if text]
            assert len(values) == 11 and values == sorted(values)[::direction]
            assert all(shown[:11]) and not any(shown[11:])
        wide = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert wide <= 390


def test_latex_is_escaped():
    text = render(committed_table("lganetpp.table2"), "latex")
    assert r"DSC (\%)" in text and r"gradient\_descent" in text and r"$\pm$" in text
    body = text[: text.index("% missing")]
    assert not re.search(r"(?<!\\)[%_#]", body)


def test_pairs_of_runs_are_compared_at_one_resolution_only(tmp_path):
    names = ("identity", "syn", "gradient_descent")
    for place, name in enumerate(names):
        experiment = EXPERIMENTS[f"lganetpp.table2.{name}"]
        _write_fake_run(tmp_path, experiment, 0.5 + 0.1 * place)
    coarse = EXPERIMENTS["lganetpp.table2.identity.2mm"]
    _write_fake_run(tmp_path, coarse, 0.5, spacing_mm=2.0)
    chosen = [f"lganetpp.table2.{name}" for name in names] + [coarse.name]
    runs = {name: read_runs(name, root=tmp_path)[-1] for name in chosen}
    found = compare_runs(runs, "dice")
    assert len(found) == 3 and coarse.name not in set(found["first"]) | set(found["second"])
    assert set(found["n"]) == {9} and set(found["larger"]) == {0}
    np.testing.assert_allclose(found["difference"], [-0.1, -0.2, -0.1], atol=1e-9)
    np.testing.assert_allclose(found[["p", "smallest_p"]], 2 / 2**9)
    np.testing.assert_allclose(found["p_holm"], 3 * 2 / 2**9)
    assert compare_runs({}, "dice").empty and compare_runs(runs, "tre_mm").empty
    text = render(comparison_table(runs, "dice"), "md")
    assert "| -10.00 | 0 of 9 | 0.0039 | 0.012 | 0.0039 |" in text
    assert "over the 3 lines" in text and "difference (points)" in text


def test_titles_of_runs_are_unique_and_say_what_was_run():
    for name in PAPER_TABLES:
        runs = latest_runs(name)
        assert len(runs) == sum(bool(read_runs(one.name)) for one in TABLES.get(name, ()))
    assert latest_runs("lganetpp.table2")["SyN, 1 mm"].experiment == "lganetpp.table2.syn"
    both = latest_runs("lganetpp.table1", "lganetpp.table2")
    assert len({run.experiment for run in both.values()}) == len(both)


def test_a_row_has_a_verdict_per_metric(tmp_path, monkeypatch):
    _results_in(tmp_path, monkeypatch)
    name = "lganetpp.table2"
    assert row_verdict(name, "SyN", "dice") == ("missing", ())
    assert row_verdict("ad_regnet.table3", "SyN", "dice") == ("missing", ())
    with pytest.raises(ValueError, match="prints no tre_mm"):
        row_verdict(name, "SyN", "tre_mm")
    _write_fake_run(tmp_path, EXPERIMENTS["lganetpp.table2.syn"], 0.7003)
    verdict, (link,) = row_verdict(name, "SyN", "dice")
    assert verdict == "reproduced" and link.path.startswith("results/lganetpp.table2.syn/")
    assert row_verdict(name, "SyN", "hd95")[0] == "missing"  # that run has no surface distances
    short = EXPERIMENTS["lganetpp.table2.voxelmorph2.2mm.short"]
    _write_fake_run(tmp_path, short, 0.6614)
    verdict, links = row_verdict(name, "VoxelMorph", "dice")
    assert verdict == "missing" and len(links) == 1


def _results_in(folder, monkeypatch):
    import regnet_lib.results as results

    monkeypatch.setattr(results, "results_folder", lambda: folder)


def _write_fake_run(root, experiment, mean, training=None, spacing_mm=1.0):
    created = f"2026-01-01T00:00:{len(read_runs(experiment.name, root=root)):02d}Z"
    cases = {f"S{index:02d}": mean + 0.001 * (index - 6) for index in range(2, 11)}
    rows = pd.DataFrame(
        [
            (experiment.name, created, "lpba40", "test", case, "21", "dice", value, "fraction")
            for case, value in cases.items()
        ],
        columns=list(COLUMNS),
    )
    _write_run(root, experiment, rows, 9, created, training, spacing_mm)


def _write_run(
    root, experiment, rows, cases, created="2026-01-01T00:00:00Z", training=None, spacing_mm=1.0
):
    info = {
        "run_id": created.replace(":", ""),
        "created": created,
        "device": "test, 1 thread",
        "experiment": experiment.as_dict(),
        "training": training,
        "evaluation": {"cases": cases, "spacing_mm": [spacing_mm] * 3},
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
    if "dice" not in set(run.rows["metric"]):
        pytest.skip("landmarks only")
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
