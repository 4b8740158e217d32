"""The tables of the status page: what every chapter and every result run cost, and where.

The machine and the date of the build stand above the table: seconds without them say little.
"""

import json
from pathlib import Path


def status_tables(record: dict, results: Path) -> str:
    """Markdown for the end of `book/status.md`.

    Args:
        record: the content of `_build/notebooks.json`.
        results: folder of committed runs, `results/<experiment>/<run>/run.json`.
    """
    return "\n\n".join([_chapters(record), *_runs(results)]) + "\n"


def _chapters(record: dict) -> str:
    rows = [
        f"| [](../{run['notebook']}) | {run['status']} | {run['seconds']:.0f} | {run['peak_mb']} |"
        for run in record["runs"]
    ]
    if not rows:
        return "## Chapters\n\nThe notebooks were not run for this build."
    machine = record["machine"]
    where = f"{machine['device']}; {machine['cores']} cores, {machine['memory_gb']} GB"
    versions = machine["versions"]
    return "\n".join(
        [
            "## Chapters",
            "",
            f"{'Fast' if record['fast'] else 'Full'} profile on {record['date']}, "
            f"{record['jobs']} notebooks at a time, on {where}; "
            f"Python {versions['python']}, PyTorch {versions['torch']}.",
            "",
            "| chapter | run | seconds | peak memory (MB) |",
            "|:--|:--|--:|--:|",
            *rows,
        ]
    )


def _runs(results: Path) -> list[str]:
    rows = []
    for path in sorted(results.glob("*/*/run.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        evaluation = run["evaluation"]
        cells = [path.parts[-3], path.parts[-2], run["device"]]
        cells += [f"{evaluation['seconds_per_case']:.2f}", f"{evaluation['peak_memory_mib']:.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    if not rows:
        return []
    head = [
        "| experiment | run | device | seconds per case | peak memory (MiB) |",
        "|:--|:--|:--|--:|--:|",
    ]
    # Scrolls sideways on a phone; wrapped cells would make every line five lines tall.
    return ["\n".join(["## Result runs", "", ":::{div} rg-table", *head, *rows, ":::"])]
