"""Many pairs from a CSV file: each into a folder of its own, and one table about all of them.

A pair that fails is named, with the reason, and the next one goes on.

    outcomes = register_pairs("pairs.csv", "results", model="convexadam")
"""

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.contents import require_regular_file
from regnet_lib.data.volume import BadInputError
from regnet_lib.outputs import prepare_output
from regnet_lib.registration import register

REQUIRED = ("moving", "fixed")
OPTIONAL = ("name", "moving_labels", "fixed_labels", "landmarks", "moving_landmarks")
SUMMARY = "summary.csv"


@dataclass(frozen=True)
class Outcome:
    """What became of one pair: `registered`, `kept` from an earlier run, or `failed`."""

    name: str
    status: str
    seconds: float | None = None
    error: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


def register_pairs(
    pairs: str | os.PathLike,
    out: str | os.PathLike,
    *,
    skip_finished: bool = False,
    overwrite: bool = False,
    report: Callable[[Outcome], object] | None = None,
    **settings: object,
) -> list[Outcome]:
    """Register every pair of a CSV file.

    Args:
        pairs: a heading with `moving` and `fixed`, and optionally `name`, `moving_labels`,
            `fixed_labels`, `landmarks`, `moving_landmarks`; then one pair per line. Relative paths
            start at the folder of the file. Without `name` pairs are called pair-001, ...
        out: folder for one folder per pair and `summary.csv`.
        skip_finished: keep the pairs whose folder has a report.json.
        overwrite: replace results that are already there.
        report: called after each pair.
        settings: of `register`, the same for all pairs.

    Raises:
        BadInputError: the list itself cannot be used; nothing has been written.
    """
    rows = read_pairs_list(pairs)
    out = Path(out)
    prepare_output(out, True, [pairs])
    summary = out / SUMMARY
    if summary.exists() and not (overwrite or skip_finished):
        raise BadInputError(
            f"{summary}: the results of a batch are already there. Choose another folder, keep "
            "what is finished (--skip-finished), or replace it (--overwrite)."
        )
    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for row in rows:
        files = {key: value for key, value in row.items() if key != "name"}
        folder = out / row["name"]
        if skip_finished and (folder / "report.json").is_file():
            outcome = Outcome(row["name"], "kept")
        else:
            # what was left half-way is begun anew
            outcome = _one(row["name"], files, folder, overwrite or skip_finished, settings)
        outcomes.append(outcome)
        _write_summary(summary, outcomes)
        if report is not None:
            report(outcome)
    return outcomes


def read_pairs_list(path: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of the CSV file, with a name each and paths from the folder of the file."""
    path = Path(path)
    require_regular_file(path, "a CSV file of pairs")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{path}: expected a CSV file of pairs, found a binary file. Save the table as CSV."
        ) from error
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or []]
    unknown = [name for name in columns if name not in (*REQUIRED, *OPTIONAL)]
    missing = [name for name in REQUIRED if name not in columns]
    if unknown or missing or len(set(columns)) < len(columns):
        raise BadInputError(
            f"{path}: expected a heading with {', '.join(REQUIRED)} and any of "
            f"{', '.join(OPTIONAL)}, found {', '.join(columns) or 'nothing'}. Correct the first "
            "line; columns are separated by commas."
        )
    reader.fieldnames = columns
    rows = [_row(path, reader.line_num, row, number) for number, row in enumerate(reader, start=1)]
    if not rows:
        raise BadInputError(f"{path}: expected at least one pair, found only the heading.")
    names = [row["name"] for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInputError(
            f"{path}: expected a different name for every pair, found {', '.join(twice[:3])} more "
            "than once. Each pair gets a folder of its name."
        )
    return rows


def _row(
    path: Path, line: int, row: Mapping[str | None, str | None], number: int
) -> dict[str, str]:
    if None in row or None in row.values():
        raise BadInputError(
            f"{path}: expected as many values as columns, found another number in line {line}. "
            "Quote names that contain commas."
        )
    values = {key: value.strip() for key, value in row.items() if value.strip()}
    for key in REQUIRED:
        if key not in values:
            raise BadInputError(f"{path}: expected a {key} image in line {line}, found none.")
    name = values.pop("name", f"pair-{number:03d}")
    if Path(name).name != name or name.startswith("."):
        raise BadInputError(
            f"{path}: expected names that can be names of folders, found {name!r} in line {line}. "
            "Leave out slashes and leading dots."
        )
    return {"name": name} | {key: str(path.parent / value) for key, value in values.items()}


def _one(
    name: str,
    files: Mapping[str, str],
    folder: Path,
    overwrite: bool,
    settings: Mapping[str, object],
) -> Outcome:
    try:
        result = register(**files, **settings, out=folder, overwrite=overwrite)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, MemoryError) as error:
        return Outcome(name, "failed", error=" ".join(str(error).split()) or type(error).__name__)
    numbers = {
        key: value for key, value in result.report["metrics"].items() if isinstance(value, float)
    }
    return Outcome(name, "registered", result.report["seconds"], metrics=numbers)


def _write_summary(path: Path, outcomes: list[Outcome]) -> None:
    """Rewritten after each pair, so that a long batch can be watched, and stopped."""
    metrics = list(dict.fromkeys(key for outcome in outcomes for key in outcome.metrics))

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "status", "seconds", *metrics, "error"])
            for outcome in outcomes:
                numbers = [outcome.metrics.get(key, "") for key in metrics]
                seconds = "" if outcome.seconds is None else outcome.seconds
                writer.writerow([outcome.name, outcome.status, seconds, *numbers, outcome.error])

    write_atomically(path, write, overwrite=True)
