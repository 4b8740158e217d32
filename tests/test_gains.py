"""Gains over no registration, from rows written by hand."""

import numpy as np
import pandas as pd
import pytest

from regnet_lib.gains import dice_by_structure, gain_of, gain_table, gains, run_of
from regnet_lib.results import COLUMNS, read_runs, write_run

CASES = ("a", "b", "c")
STRUCTURES = {"Hippocampus": (1, 2), "Brain-Stem": (3,)}


def written(root, name, values, cases=CASES):
    """A run with Dice `(cases, labels)`; labels count from 1."""
    rows = pd.DataFrame(
        [
            (name, "run", "set", "test", case, str(label), "dice", value, "fraction")
            for case, line in zip(cases, values, strict=True)
            for label, value in enumerate(line, start=1)
        ],
        columns=COLUMNS,
    )
    info = {"run_id": "run", "created": "2026-01-01T00:00:00Z", "experiment": {"name": name}}
    write_run(rows, info, root=root)
    return read_runs(name, root=root)[-1]


@pytest.fixture
def runs(tmp_path):
    before = np.full((3, 4), 0.5)
    after = before + np.array([[0.1, 0.3, 0.2, 0.9], [0.0, 0.2, -0.1, 0.9], [0.1, 0.1, 0.3, 0.9]])
    return written(tmp_path, "t.identity", before), written(tmp_path, "t.network.short", after)


def test_a_structure_is_the_mean_of_its_labels(runs):
    table = dice_by_structure(runs[1], STRUCTURES)
    assert list(table.index) == list(CASES) and set(table.columns) == set(STRUCTURES)
    np.testing.assert_allclose(table["Hippocampus"], [0.7, 0.6, 0.6])
    np.testing.assert_allclose(table["Brain-Stem"], [0.7, 0.4, 0.8])


def test_structures_count_once_and_others_not_at_all(runs):
    before, after = runs
    np.testing.assert_allclose(gain_of(after, before, STRUCTURES), [0.2, 0.0, 0.2], atol=1e-9)
    np.testing.assert_allclose(gain_of(after, before), [0.375, 0.25, 0.35])


def test_other_cases_are_refused(runs, tmp_path):
    other = written(tmp_path, "t.other", [[0.1]], cases=("z",))
    with pytest.raises(ValueError, match=r"expected the cases of t.identity, \['a', 'b', 'c'\]"):
        gain_of(other, runs[0])


def test_missing_runs_are_left_out(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("regnet_lib.gains.read_runs", lambda name: read_runs(name, root=tmp_path))
    assert run_of("t.network").experiment == "t.network.short" and run_of("t.none") is None
    found = gains("t", {"Network": "network", "None": "none"}, STRUCTURES)
    assert list(found) == ["Network"]
    assert gains("u", {"Network": "network"}) == {}
    elsewhere = gains("t.network", {"Same": "short"}, before="t.identity")
    pd.testing.assert_series_equal(elsewhere["Same"], gain_of(*reversed(runs)))


def test_table(runs):
    before, after = runs
    down = -gain_of(after, before)
    table = gain_table({"Down": down, "Up": gain_of(after, before)})
    assert list(table["method"]) == ["Up", "Down"]
    up = table.iloc[0]
    assert up["gain"] == pytest.approx(32.5) and (up["better"], up["n"]) == (3, 3)
    assert up["from"] <= up["gain"] <= up["to"]
    # three of three: 2 / 2^3, twice that after Holm for two lines
    np.testing.assert_allclose(table["p (Holm)"], 0.5)


def test_table_of_nothing():
    assert gain_table({}).empty
