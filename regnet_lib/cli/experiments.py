"""`regnet train`, `evaluate`, `sweep` and `table`: the rows of the papers' tables."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def train(
    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT")],
    /,
    data: Path | None = None,
    cache: Path | None = None,
    folder: Path | None = None,
    device: str = "auto",
    epochs: int | None = None,
    max_minutes: float | None = None,
    resume: bool = False,
) -> int:
    """Train one row of one table; stops cleanly and resumes where it stopped.

    Args:
        experiment: Name of the experiment; an unknown name lists the near ones.
        data: Folder of the dataset; default $REGNET_DATA/<dataset>.
        cache: Folder for prepared volumes, so that later epochs and runs load faster.
        folder: Where the run is written; default runs/<experiment>.
        device: auto, cpu or cuda.
        epochs: Another number of epochs than the experiment's.
        max_minutes: Stop after this time, with a checkpoint.
        resume: Continue from the checkpoint in the folder.
    """
    from regnet_lib.experiments import find_experiment
    from regnet_lib.train import train as run

    result = run(
        find_experiment(experiment),
        data=data,
        cache=cache,
        folder=folder,
        device=device,
        epochs=epochs,
        max_minutes=max_minutes,
        resume=resume,
    )
    state = "finished" if result.finished else "stopped; continue with --resume"
    print(f"{state}: step {result.step} of {result.total_steps}, {result.seconds:.0f} s")
    return 0


def evaluate(
    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT")],
    /,
    checkpoint: Path | None = None,
    data: Path | None = None,
    results: Path | None = None,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    split: Literal["test", "train", "validation"] = "test",
) -> int:
    """Evaluate an experiment and add its per-case rows to the results.

    Args:
        experiment: Name of the experiment.
        checkpoint: Weights; default runs/<experiment>/checkpoint.safetensors.
        data: Folder of the dataset; default $REGNET_DATA/<dataset>.
        results: Folder of the results; default results/ of the project.
        device: auto, cpu or cuda.
        precision: Of a network's convolutions; the results say which it was.
        split: Cases to evaluate.
    """
    from regnet_lib.evaluate import evaluate as run
    from regnet_lib.experiments import find_experiment
    from regnet_lib.machine import keep_freed_memory
    from regnet_lib.metrics import summarize
    from regnet_lib.results import read_runs

    keep_freed_memory()
    chosen = find_experiment(experiment)
    folder = run(
        chosen,
        checkpoint=checkpoint,
        data=data,
        root=results,
        device=device,
        precision=precision,
        split=split,
    )
    latest = read_runs(chosen.name, root=results)[-1]
    for metric in sorted(latest.rows["metric"].unique()):
        summary = summarize(latest.values(metric))
        print(f"{metric:20s} {summary.mean:10.5f} ± {summary.std_cases:.5f}")
    print(f"wrote {folder}")
    return 0


def sweep(
    table: Annotated[Positional[str], arg(metavar="TABLE")],
    /,
    only: tuple[str, ...] = (),
    data: Path | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
) -> int:
    """Train and evaluate what a table still lacks, cheapest first; resumable.

    Args:
        table: For example lganetpp.table2.
        only: Experiments to consider; all of the table by default.
        data: Folder of the dataset; default $REGNET_DATA/<dataset>.
        device: auto, cpu or cuda.
        max_minutes: Stop after this time; the same command goes on later.
    """
    from regnet_lib.sweep import sweep as run

    run(table, only=only, data=data, device=device, max_minutes=max_minutes, report=print)
    return 0


def table(
    name: Annotated[Positional[str], arg(metavar="TABLE")],
    /,
    format: Literal["md", "html", "latex"] = "md",
) -> int:
    """Print a table of the papers joined with our rows.

    Args:
        name: For example lganetpp.table2.
        format: md, html or latex.
    """
    from regnet_lib.tables import build_table, render

    print(render(build_table(name), format))
    return 0
