"""One command for all benchmarks.

    python -m benchmarks.run                  # all, a quarter of an hour
    python -m benchmarks.run local_ncc hd95   # some
    python -m benchmarks.gpu                  # the same contests on a GPU
    python -m tools.benchmark_page            # the page of the book

Every workload first checks that the contenders compute the same thing, then times them in turn on
one thread, prints the ratio with its range, and writes benchmarks/results/<name>.json. Programs to
compare with are optional: `pip install 'regnet_lib[peers]'`.
"""

import os

# Before NumPy, torch and ITK start their thread pools.
os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS="1",
)

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
from collections.abc import Callable, Iterable, Iterator, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from importlib.metadata import PackageNotFoundError, version  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from benchmarks import (  # noqa: E402
    ad_regnet,
    attention,
    cold_start,
    correlation,
    evaluation,
    import_time,
    inference,
    jacobian,
    lganetpp,
    loading,
    local_ncc,
    matrix,
    measure,
    modet,
    norm,
    overlap,
    reading,
    training_step,
    two_processes,
    velocity,
    voxelmorph,
    warp,
)
from regnet_lib.machine import processor  # noqa: E402

Row = dict[str, object]
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("regnet_lib", "torch", "numpy", "scipy", "scikit-learn", "MedPy", "surface-distance"),
    *("monai", "neurite", "voxelmorph", "SimpleITK", "antspyx", "dipy", "convexAdam"),
)


@dataclass(frozen=True)
class Workload:
    """One file of results, and what the page says about it.

    Attributes:
        name: of the file, and on the command line.
        group: key of `GROUPS`.
        comparisons: contests against other programs.
        rows: what is held to seconds, or measured in processes of its own.
        peers: modules that some contests need; those are left out without them.
        explanation: of the targets that are missed, from a profile.
    """

    name: str
    group: str
    comparisons: Callable[[], Sequence[measure.Comparison]] | None = None
    rows: Callable[[], Iterable[Row]] | None = None
    peers: Sequence[str] = ()
    explanation: str = ""


@dataclass(frozen=True)
class Group:
    """One section of the page: what is measured, and the targets for a CPU and for an H200."""

    title: str
    cpu: str
    h200: str


GROUPS = {
    "B1": Group(
        "Local NCC",
        "at least 25 times dense conv3d and 1.5 times neurite, at most 5 volumes kept",
        "at least 15 times dense conv3d, at most 5 volumes kept",
    ),
    "B2": Group(
        "Warping",
        "at least 1.8 times grid_sample on two threads, forward and backward",
        "at least 1.5 times, forward and backward",
    ),
    "B3": Group(
        "Scaling and squaring",
        "at least 1.4 times, at most 8 fields kept",
        "at least 2 times, at most 8 fields kept",
    ),
    "B4": Group(
        "Correlation with 27 neighbours", "at least 2.5 times, bit-equal", "at least 10 times"
    ),
    "B5": Group(
        "Instance normalization and activation",
        "at least 1.3 times (compiled)",
        "at least 2 times, one map kept",
    ),
    "B6": Group("Attention", "at least 1.7 times written-out scores", "at least 3 times"),
    "B7": Group(
        "LGANet++, training step",
        "at least 1.4 times the plain transcription in float32, 2.5 times in bfloat16",
        "at most 100 ms in bfloat16 at 144x176x144; at most 14 GiB in float32",
    ),
    "B8": Group(
        "AD-RegNet, training step",
        "at least 1.3 times the plain form",
        "at most 130 ms in bfloat16 at 160x192x224, at most 12 GiB",
    ),
    "B9": Group(
        "Baselines, training step",
        "no slower than other implementations of the same network",
        "VoxelMorph-2 at most 20 ms, TransMorph at most 50 ms at 160x192x224",
    ),
    "B10": Group(
        "One pair registered",
        "LGANet++ at most 15 s on two cores at 144x176x144",
        "at most 35 ms, and 0.3 s with its files",
    ),
    "B11": Group(
        "Metrics",
        "at least 30 times MedPy for HD95 and ASSD, 1,000 times scikit-learn, equal values",
        "at most 30 ms per subject",
    ),
    "B12": Group("Jacobian and folding", "at least 3 times NumPy", "at least 10 times NumPy"),
    "B13": Group(
        "Reading and loading",
        "a cached epoch at least 5 times faster; a checked read at most 1.3 times nibabel's",
        "at most 1 % of a training step",
    ),
    "B14": Group("Two processes", "at least 1.8 times, equal weights", "at least 0.97 per GPU"),
    "B15": Group(
        "Experiment matrix", "12 cells in at most 30 s, nothing to do in at most 1.5 s", "the same"
    ),
    "B16": Group("Cold start", "import at most 0.1 s, first figure at most 0.7 s", "the same"),
    "B17": Group(
        "Training to a given quality",
        "none: 9,000 steps of LGANet++ take days",
        "LPBA40, 9,000 steps in at most 15 minutes, mean Dice within 0.2 points of the plain form",
    ),
}

_WORKLOADS = (
    Workload(
        "local_ncc",
        "B1",
        local_ncc.comparisons,
        peers=local_ncc.PEERS,
        explanation=local_ncc.EXPLANATION,
    ),
    Workload(
        "warp",
        "B2",
        warp.comparisons,
        warp.rows,
        peers=warp.PEERS,
        explanation=warp.EXPLANATION,
    ),
    Workload("velocity", "B3", velocity.comparisons, explanation=velocity.EXPLANATION),
    Workload("correlation", "B4", correlation.comparisons, explanation=correlation.EXPLANATION),
    Workload("norm", "B5", norm.comparisons, explanation=norm.EXPLANATION),
    Workload("attention", "B6", attention.comparisons, explanation=attention.EXPLANATION),
    Workload("lganetpp", "B7", lganetpp.comparisons, explanation=lganetpp.EXPLANATION),
    Workload(
        "checkpointing",
        "B7",
        lganetpp.checkpointing_comparisons,
        explanation=lganetpp.CHECKPOINTING_EXPLANATION,
    ),
    Workload("training_step", "B7", training_step.comparisons),
    Workload("ad_regnet", "B8", ad_regnet.comparisons, explanation=ad_regnet.EXPLANATION),
    Workload(
        "voxelmorph",
        "B9",
        voxelmorph.comparisons,
        peers=voxelmorph.PEERS,
        explanation=voxelmorph.EXPLANATION,
    ),
    Workload("modet", "B9", modet.comparisons, explanation=modet.EXPLANATION),
    Workload(
        "inference",
        "B10",
        inference.comparisons,
        peers=inference.PEERS,
        explanation=inference.EXPLANATION,
    ),
    Workload("precision", "B10", inference.precision_comparisons),
    Workload(
        "full_size",
        "B10",
        rows=inference.rows,
        explanation=inference.EXPLANATION,
    ),
    Workload(
        "hd95",
        "B11",
        overlap.hd95_comparisons,
        peers=("medpy",),
        explanation=overlap.HD95_EXPLANATION,
    ),
    Workload(
        "surfaces",
        "B11",
        overlap.surface_comparisons,
        peers=("surface_distance", "monai"),
    ),
    Workload(
        "overlap",
        "B11",
        overlap.overlap_comparisons,
        peers=("sklearn",),
        explanation=overlap.EXPLANATION,
    ),
    Workload("evaluation", "B11", rows=evaluation.rows),
    Workload(
        "jacobian",
        "B12",
        jacobian.comparisons,
        peers=jacobian.PEERS,
        explanation=jacobian.EXPLANATION,
    ),
    Workload(
        "loading",
        "B13",
        loading.comparisons,
        peers=loading.PEERS,
        explanation=loading.EXPLANATION,
    ),
    Workload("reading", "B13", reading.comparisons, explanation=reading.EXPLANATION),
    Workload("ddp", "B14", rows=two_processes.rows, explanation=two_processes.EXPLANATION),
    Workload(
        "matrix", "B15", rows=matrix.rows, peers=("snakemake",), explanation=matrix.EXPLANATION
    ),
    Workload("import", "B16", rows=import_time.rows),
    Workload(
        "cold_start",
        "B16",
        rows=cold_start.rows,
        peers=cold_start.PEERS,
        explanation=cold_start.EXPLANATION,
    ),
)
WORKLOADS = {workload.name: workload for workload in _WORKLOADS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"from {', '.join(WORKLOADS)}; default: all"
    )
    names = parser.parse_args().names or list(WORKLOADS)
    unknown = sorted(set(names) - set(WORKLOADS))
    if unknown:
        parser.error(f"expected names from {', '.join(WORKLOADS)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    for name in names:
        rows: list[Row] = []
        for row in run(WORKLOADS[name]):
            rows.append(row)
            write(name, rows, missing(WORKLOADS[name]))  # a run that is cut off keeps what it has


def run(workload: Workload) -> Iterator[Row]:
    """Measure one workload and print a line per case."""
    for peer in missing(workload):
        print(f"{workload.name}: {peer} is not installed, its contests are skipped", flush=True)
    if workload.comparisons is not None:
        for comparison in workload.comparisons():
            row = measure.measure(comparison)
            print(measure.describe(row), flush=True)
            yield row
    if workload.rows is not None:
        for row in workload.rows():
            print(measure.describe(row), flush=True)
            yield row


def missing(workload: Workload) -> list[str]:
    """Programs to compare with that are not installed."""
    return [peer for peer in workload.peers if not measure.installed(peer)]


def write(name: str, rows: list[Row], skipped: list[str]) -> None:
    RESULTS.mkdir(exist_ok=True)
    record = {"name": name, "environment": environment(), "skipped": skipped, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def environment() -> dict[str, object]:
    """What the numbers depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"cpu": processor(), "cores": os.cpu_count(), "threads": 1, "versions": versions}


if __name__ == "__main__":
    main()
