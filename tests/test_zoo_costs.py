"""The committed costs of the zoo: complete, and no larger than those of the official code."""

import json

import pytest

from benchmarks.zoo import OFFICIAL, RESULT, VARIANTS, count, official_rows, option_text
from regnet_lib.experiments.zoo import LEARNED
from regnet_lib.models import create_model

ROWS = json.loads(RESULT.read_text())["rows"]
BY_KEY = {(row["model"], row["options"]): row for row in ROWS}
MEMORY_TOLERANCE = 1.05


def test_every_learned_model_has_a_row():
    expected = {(name, "") for name in LEARNED}
    expected |= {(name, option_text(options)) for name, options in VARIANTS}
    assert set(BY_KEY) == expected


def test_every_official_figure_belongs_to_a_row():
    lines = OFFICIAL.read_text().splitlines()
    found = sum(len(official_rows(*key)) for key in BY_KEY)
    assert found == len(lines) - 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']} {row['options']}".strip())
def test_counted_memory_is_not_larger_than_the_official_one(row):
    known = official_rows(row["model"], row["options"])
    for official in known:
        counted = row["counted"][official["shape"]]
        if official["quantity"] == "saved":
            assert counted["saved_mib"] / 1024 <= MEMORY_TOLERANCE * float(official["value"])
        if official["quantity"] == "step_rss":
            assert counted["step_mib"] <= MEMORY_TOLERANCE * float(official["value"])
    if row["step"] is not None:
        assert row["step"]["seconds"] > row["forward"]["seconds"] > 0


def test_corrmlp_trains_within_six_gibibytes():
    assert BY_KEY["corrmlp", ""]["counted"]["96x112x80"]["step_mib"] <= 6 * 1024


@pytest.mark.parametrize("name", ["voxelmorph2", "cyclemorph"])
def test_the_committed_count_is_still_true(name):
    """Memory is proportional to voxels, so a small size tells what the large one keeps."""
    committed = BY_KEY[name, ""]["counted"]["96x112x80"]
    small, ratio = count(create_model(name), (48, 64, 80)), 3.5
    assert small["gflop"] * ratio == pytest.approx(committed["gflop"], rel=0.02)
    assert small["saved_mib"] * ratio == pytest.approx(committed["saved_mib"], rel=0.05)
