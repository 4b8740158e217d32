"""One command for all benchmarks.

    python -m benchmarks.run                  # all
    python -m benchmarks.run local_ncc hd95   # some

Every workload first checks that the contenders compute the same thing, then times them in turn on
one thread, prints the ratio with its range, and writes benchmarks/results/<name>.json.
"""

import os

# Before NumPy and torch start their thread pools.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
from collections.abc import Callable  # noqa: E402
from importlib.metadata import PackageNotFoundError, version  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from benchmarks import (  # noqa: E402
    evaluation,
    import_time,
    lganetpp,
    loading,
    local_ncc,
    measure,
    modet,
    overlap,
    reading,
)
from regnet_lib.machine import processor  # noqa: E402

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("regnet_lib", "torch", "numpy", "scipy", "scikit-learn", "MedPy")
CONTESTS: dict[str, Callable[[], list[measure.Comparison]]] = {
    "local_ncc": local_ncc.comparisons,
    "hd95": overlap.hd95_comparisons,
    "overlap": overlap.overlap_comparisons,
    "lganetpp": lganetpp.comparisons,
    "modet": modet.comparisons,
    "loading": loading.comparisons,
    "reading": reading.comparisons,
}
# Held to seconds instead of to another program.
TIMINGS = {"import": import_time, "evaluation": evaluation}
NAMES = (*CONTESTS, *TIMINGS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"from {', '.join(NAMES)}")
    names = parser.parse_args().names or NAMES
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"expected names from {', '.join(NAMES)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    for name in names:
        write(name, run(name))


def run(name: str) -> list[dict[str, object]]:
    """Measure one workload and print a line per case."""
    rows = []
    if name in TIMINGS:
        rows = TIMINGS[name].rows()
        for row in rows:
            print(TIMINGS[name].describe(row), flush=True)
        return rows
    for comparison in CONTESTS[name]():
        rows.append(measure.measure(comparison))
        print(measure.describe(rows[-1]), flush=True)
    return rows


def write(name: str, rows: list[dict[str, object]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    record = {"name": name, "environment": environment(), "rows": rows}
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
