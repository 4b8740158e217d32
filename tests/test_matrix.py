"""The experiment matrix on Snakemake: one broken cell, the repair, a run with nothing to do."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from regnet_lib.checkpoint import load_weights
from regnet_lib.models import create_model
from regnet_lib.results import read_runs

pytest.importorskip("snakemake", reason="needs Snakemake: pip install -e '.[matrix]'")

ROOT = Path(__file__).resolve().parents[1]
GOOD = "teaching.matrix.voxelmorph1.brain.seed0"
BROKEN = "teaching.matrix.dlir.lung.seed1"


def run_matrix(
    home: Path, *options: str, matrix: str = f"experiments={GOOD},{BROKEN}", path: str = ""
) -> subprocess.CompletedProcess:
    """Snakemake in a project folder of its own; `path` comes before the system's programs."""
    environment = os.environ | {
        "REGNET_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "USER": "reader",
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
    }
    snakefile = ["--snakefile", str(ROOT / "workflow/Snakefile")]
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *snakefile, *options, "--config", matrix],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_broken_cell_stops_no_other_and_a_repair_runs_what_is_missing(tmp_path):
    runs, results = tmp_path / "runs", tmp_path / "results"
    checkpoint = runs / BROKEN / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"half of a file")

    first = run_matrix(tmp_path, "--cores", "2")
    assert first.returncode != 0
    assert "not a complete safetensors file" in (runs / BROKEN / "train.log").read_text()
    assert checkpoint.read_bytes() == b"half of a file"  # Snakemake cleans up its marks alone
    assert not read_runs(BROKEN, root=results) and not (runs / "matrix/selected.csv").exists()
    (good,) = read_runs(GOOD, root=results)
    assert good.info["training"]["step"] == good.info["training"]["steps_planned"] == 8

    checkpoint.unlink()
    second = run_matrix(tmp_path, "--cores", "2")
    assert second.returncode == 0, second.stderr[-3000:]
    assert "rule train" in second.stderr
    assert f"wildcards: experiment={GOOD}" not in second.stderr
    assert len(read_runs(GOOD, root=results)) == len(read_runs(BROKEN, root=results)) == 1
    load_weights(checkpoint, create_model("dlir"))
    means = pd.read_csv(runs / "matrix/selected.csv")
    assert set(means["experiment"]) == {GOOD, BROKEN}
    dice = means[(means["experiment"] == GOOD) & (means["metric"] == "dice")]
    assert dice["mean"].item() == pytest.approx(good.case_means("dice").mean(), rel=1e-5)

    third = run_matrix(tmp_path, "--cores", "2")
    assert third.returncode == 0 and "Nothing to be done" in third.stderr


def test_a_cluster_job_asks_for_a_gpu_memory_and_time(tmp_path):
    """What the SLURM profile submits; a real cluster is not at hand."""
    submission = tmp_path / "submission"
    programs = {"sbatch": f'echo "$@" > "{submission}"; exit 1', "sinfo": "echo 'small gpu*'"}
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    profile = ["--profile", str(ROOT / "workflow/profiles/slurm"), "--retries", "0"]
    done = run_matrix(tmp_path, *profile, matrix=f"experiments={GOOD}", path=str(tmp_path))
    assert done.returncode != 0 and submission.exists(), done.stderr[-3000:]
    asked = submission.read_text()
    for option in ("-p gpu", "-t 240", "--mem 16000", "--cpus-per-task=4", "--gpus=1"):
        assert option in asked


def test_an_unknown_table_is_an_error(tmp_path):
    done = run_matrix(tmp_path, "--cores", "1", matrix="table=lganetpp.table22")
    assert done.returncode != 0 and "lganetpp.table2," in done.stderr
