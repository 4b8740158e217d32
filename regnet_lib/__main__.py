"""The command line: `regnet` or `python -m regnet_lib`.

Exit codes: 0 good, 1 failed, 2 wrong usage, 130 interrupted.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

app = tyro.extras.SubcommandApp()


@app.command
def register(
    moving: Annotated[Positional[Path], arg(metavar="MOVING")],
    fixed: Annotated[Positional[Path], arg(metavar="FIXED")],
    /,
    out: Path,
    model: str = "gradient_descent",
    weights: Path | None = None,
    refine_steps: int = 0,
    moving_labels: Path | None = None,
    fixed_labels: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> int:
    """Register one pair: files in, displacement, warped image and report out.

    Args:
        moving: NIfTI file to deform.
        fixed: NIfTI file that stays, on the same grid.
        out: Folder for displacement.nii.gz (opens in ITK, ANTs, Slicer), warped.nii.gz,
        report.json.
        model: A name from `regnet models`.
        weights: Checkpoint or safetensors file; networks need one.
        refine_steps: Iterations of instance optimisation after the model.
        moving_labels: Label map of the moving image, to be warped along.
        fixed_labels: Label map of the fixed image; with both, overlap is reported.
        device: auto, cpu or cuda.
        overwrite: Replace results that are already in the folder.
    """
    from regnet_lib.registration import register as run

    result = run(
        moving=moving,
        fixed=fixed,
        model=model,
        weights=weights,
        device=device,
        refine_steps=refine_steps,
        moving_labels=moving_labels,
        fixed_labels=fixed_labels,
        out=out,
        overwrite=overwrite,
    )
    for name, value in result.report["metrics"].items():
        if isinstance(value, float):
            print(f"{name:28s} {value:.5f}")
    print(f"{'seconds':28s} {result.report['seconds']:.1f}")
    print(f"wrote {out}")
    return 0


@app.command
def train(
    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT")],
    /,
    data: Path | None = None,
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
        folder=folder,
        device=device,
        epochs=epochs,
        max_minutes=max_minutes,
        resume=resume,
    )
    state = "finished" if result.finished else "stopped; continue with --resume"
    print(f"{state}: step {result.step} of {result.total_steps}, {result.seconds:.0f} s")
    return 0


@app.command
def evaluate(
    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT")],
    /,
    checkpoint: Path | None = None,
    data: Path | None = None,
    results: Path | None = None,
    device: str = "auto",
    split: Literal["test", "train", "validation"] = "test",
) -> int:
    """Evaluate an experiment and add its per-case rows to the results.

    Args:
        experiment: Name of the experiment.
        checkpoint: Weights; default runs/<experiment>/checkpoint.safetensors.
        data: Folder of the dataset; default $REGNET_DATA/<dataset>.
        results: Folder of the results; default results/ of the project.
        device: auto, cpu or cuda.
        split: Cases to evaluate.
    """
    from regnet_lib.evaluate import evaluate as run
    from regnet_lib.experiments import find_experiment
    from regnet_lib.metrics import summarize
    from regnet_lib.results import read_runs

    chosen = find_experiment(experiment)
    folder = run(chosen, checkpoint=checkpoint, data=data, root=results, device=device, split=split)
    latest = read_runs(chosen.name, root=results)[-1]
    for metric in sorted(latest.rows["metric"].unique()):
        summary = summarize(latest.values(metric))
        print(f"{metric:20s} {summary.mean:10.5f} ± {summary.std_cases:.5f}")
    print(f"wrote {folder}")
    return 0


@app.command
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


@app.command
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


@app.command
def models(name: Annotated[Positional[str | None], arg(metavar="NAME")] = None, /) -> int:
    """List the zoo, or describe one model.

    Args:
        name: A model; without it, all of them.
    """
    import inspect

    from regnet_lib.models import MODELS, create_model

    if name is not None:
        model = create_model(name)
        for described in (inspect.getmodule(MODELS[name]), MODELS[name]):
            print(f"{inspect.getdoc(described)}\n")
        print(f"parameters: {_parameters(model):,}")
        return 0
    for key, factory in MODELS.items():
        first = (inspect.getdoc(factory) or "").splitlines()[0]
        print(f"{key:18s} {_parameters(create_model(key)):>12,}  {first}")
    return 0


@app.command
def doctor() -> int:
    """Show versions, devices and data, and run a self-test of a few seconds."""
    from regnet_lib.doctor import examine

    return examine()


def _parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main(arguments: list[str] | None = None) -> int:
    """Run one command; expected failures become one line on stderr."""
    try:
        return app.cli(args=arguments, prog="regnet") or 0
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"regnet: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
