"""The benchmark page is written from the committed results, and explains what it misses."""

import json
import math
import re

import pytest

from benchmarks.estimates import ESTIMATES, RESULT, row
from benchmarks.gpu import SMALL, Step, contests, step_row
from benchmarks.measure import CPU, Comparison, describe, measure, timing
from benchmarks.run import GROUPS, RESULTS, WORKLOADS
from tools import benchmark_page

RECORDS = {
    name: json.loads((RESULTS / f"{name}.json").read_text())
    for name in WORKLOADS
    if (RESULTS / f"{name}.json").exists()
}
ROWS = [(name, row) for name, record in RECORDS.items() for row in record["rows"]]


def test_the_page_is_todays(capsys):
    assert benchmark_page.main(["--check"]) == 0, capsys.readouterr().out


def test_every_workload_has_a_section_with_its_results_or_says_how_to_get_them():
    assert {workload.group for workload in WORKLOADS.values()} <= set(GROUPS)
    text = benchmark_page.PAGE.read_text(encoding="utf-8")
    assert all(f"## {group}: {about.title}" in text for group, about in GROUPS.items())
    commands = " ".join(re.findall(r"python -m benchmarks\.run ([\w ]+)`", text)).split()
    assert set(commands) == set(WORKLOADS) - set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_a_missed_target_is_explained(name):
    if any(row["met"] is False for row in RECORDS[name]["rows"]):
        assert WORKLOADS[name].explanation.endswith(".")


@pytest.mark.parametrize(
    ("name", "row"), ROWS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(ROWS)]
)
def test_verdicts_follow_from_the_times(name, row):
    if "ratio" not in row:
        target = row["target_seconds"]
        assert row["met"] == (None if target is None else row["median_seconds"] <= target)
        return
    low, high = row["ratio_range"]
    assert low <= row["ratio"] <= high
    assert row["met"] == (None if row["target"] is None else row["ratio"] >= row["target"])
    ours, other = row["cpu_seconds"]["ours"], row["cpu_seconds"]["other"]
    ratios = [b / a for a, b in zip(ours, other, strict=True)]
    assert min(ratios) == pytest.approx(low, rel=0.02)


def test_an_estimate_is_still_true():
    """Those of two layers; a network takes ten seconds to count."""
    committed = {(one["group"], one["case"]): one for one in json.loads(RESULT.read_text())["rows"]}
    assert set(committed) == {(one.group, one.case) for one in ESTIMATES}
    for estimate in ESTIMATES:
        if estimate.group in ("B4", "B6"):
            found, known = row(estimate), committed[estimate.group, estimate.case]
            for name in ("tflop", "traffic_gb"):
                assert found[name] == pytest.approx(known[name], rel=0.02)


def test_a_measurement_checks_first_and_forms_ratios():
    calls = []
    comparison = Comparison(
        case="a sum",
        ours=lambda: calls.append("ours") or sum(range(20_000)),
        other=lambda: calls.append("other") or sum(range(200_000)),
        other_name="a longer one",
        check=lambda ours, other: f"{other - ours:.0f} more",
        target=1.0,
        rounds=2,
    )
    found = measure(comparison)
    assert calls == ["ours", "other", "ours", "other", "other", "ours"]
    assert found["agreement"].endswith(" more") and found["met"] is True
    assert "met" in describe(found)

    def differ(ours, other):
        raise AssertionError("they differ")

    with pytest.raises(AssertionError, match="they differ"):
        measure(Comparison("", lambda: 1, lambda: 2, "", differ))


def test_a_timing_is_held_to_its_median():
    assert timing("a", [0.1, 0.3, 0.2], 0.2)["met"] is True
    assert timing("a", [0.1, 0.3, 0.25], 0.2)["met"] is False
    assert "no target" in describe(timing("a", [1.0], None, clock="wall"))


def test_a_step_for_the_gpu_runs_here_too():
    step = Step("B9", "voxelmorph2", SMALL, target_seconds=1e-6)
    found = step_row(step, CPU, small=True)
    assert found["met"] is False and found["cpu_seconds"][0] > 0 and found["fits"] is None
    assert set(contests(CPU, small=True)) <= set(WORKLOADS)


def test_exponent_of_a_power():
    points = [(size, 3 * size**1.5) for size in (10, 20, 80)]
    assert math.isclose(benchmark_page.exponent(points), 1.5)
