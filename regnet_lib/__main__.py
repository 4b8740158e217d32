"""The command line: `regnet` or `python -m regnet_lib`.

Exit codes: 0 good, 1 failed, 2 wrong usage, 130 interrupted.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

app = tyro.extras.SubcommandApp()


@dataclass(frozen=True)
class Settings:
    """How to register; the same for one pair and for many.

    Attributes:
        model: A name from `regnet models`.
        weights: Checkpoint or safetensors file; networks need one.
        refine_steps: Iterations of instance optimization after the model.
        loss: What instance optimization and gradient_descent compare images by.
        prealign: Turn and shift the moving image first (rigid), or also scale and shear it.
        resample_to: "fixed" admits a moving image on another grid of the same world.
        landmark_space: What landmark files count: voxels, or millimetres in RAS or LPS.
        landmark_base: Number of the first voxel in landmark files, 0 or 1.
        landmark_axes: Order of the columns of landmark files.
        also: Further displacement files beside displacement.nii.gz.
        device: auto, cpu or cuda.
        overwrite: Replace results that are already in the folder.
    """

    model: str = "gradient_descent"
    weights: Path | None = None
    refine_steps: int = 0
    loss: Literal["local_ncc", "global_ncc", "mse", "mind_ssc", "mutual_information"] = "local_ncc"
    prealign: Literal["none", "rigid", "affine"] = "none"
    resample_to: Literal["none", "fixed"] = "none"
    landmark_space: Literal["voxel", "ras", "lps"] = "voxel"
    landmark_base: Literal[0, 1] = 0
    landmark_axes: Literal["xyz", "zyx"] = "xyz"
    also: tuple[Literal["h5", "tfm", "mha", "nrrd", "voxel", "fsl"], ...] = ()
    device: str = "auto"
    overwrite: bool = False


@app.command
def register(
    moving: Annotated[Positional[Path], arg(metavar="MOVING")],
    fixed: Annotated[Positional[Path], arg(metavar="FIXED")],
    /,
    out: Path,
    moving_labels: Path | None = None,
    fixed_labels: Path | None = None,
    landmarks: Path | None = None,
    moving_landmarks: Path | None = None,
    settings: OmitArgPrefixes[Settings] = Settings(),
) -> int:
    """Register one pair: files in, displacement, warped image and report out.

    Args:
        moving: Image to deform: NIfTI, .mha, .mhd or .nrrd; or a slice, also .png.
        fixed: Image that stays.
        out: Folder for the displacement (opens in ITK, ANTs, Slicer), images and report.html.
        moving_labels: Label map of the moving image, to be warped along.
        fixed_labels: Label map of the fixed image; with both, overlap is reported.
        landmarks: Text file of points of the fixed image, to be carried to the moving image.
        moving_landmarks: The same points in the moving image; with both, the error is reported.
    """
    from regnet_lib.registration import register as run

    result = run(
        moving=moving,
        fixed=fixed,
        moving_labels=moving_labels,
        fixed_labels=fixed_labels,
        landmarks=landmarks,
        moving_landmarks=moving_landmarks,
        out=out,
        **vars(settings),
    )
    for note in result.report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    for name, value in result.report["metrics"].items():
        if isinstance(value, float):
            print(f"{name:28s} {value:.5f}")
    print(f"{'seconds':28s} {result.report['seconds']:.1f}")
    print(f"wrote {out}; look at {out / 'report.html'}")
    return 0


@app.command
def register_pairs(
    pairs: Annotated[Positional[Path], arg(metavar="PAIRS")],
    /,
    out: Path,
    skip_finished: bool = False,
    settings: OmitArgPrefixes[Settings] = Settings(),
) -> int:
    """Register all pairs of a CSV file; a pair that fails does not stop the others.

    Args:
        pairs: CSV file with the columns moving and fixed, and optionally name, moving_labels,
            fixed_labels, landmarks, moving_landmarks. Paths start at the folder of the file.
        out: Folder for one folder per pair, and summary.csv.
        skip_finished: Keep the pairs that an earlier run has finished.
    """
    from regnet_lib.batch import register_pairs as run

    def show(outcome) -> None:
        if outcome.status == "failed":
            print(f"{outcome.name}: failed: {outcome.error}", file=sys.stderr)
        else:
            seconds = "" if outcome.seconds is None else f" in {outcome.seconds:.1f} s"
            print(f"{outcome.name}: {outcome.status}{seconds}", flush=True)

    outcomes = run(pairs, out, skip_finished=skip_finished, report=show, **vars(settings))
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    print(f"{len(outcomes) - failed} of {len(outcomes)} pairs done; wrote {out / 'summary.csv'}")
    return 1 if failed else 0


@app.command
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
    from regnet_lib.models.cards import model_card, smallest_sides

    if name is not None:
        model = create_model(name)
        for described in (inspect.getmodule(MODELS[name]), MODELS[name]):
            print(f"{inspect.getdoc(described)}\n")
        print(f"parameters: {_parameters(model):,}")
        return 0
    print(f"{'name':18s} {'parameters':>12s}  {'sides':12s} licence of the original")
    for key in MODELS:
        sides = smallest_sides(key)
        rule = "see card" if sides is None else "x{}, >= {}".format(*sides)
        licence = model_card(key).fields["licence"]
        print(f"{key:18s} {_parameters(create_model(key)):>12,}  {rule:12s} {licence}")
    return 0


data = tyro.extras.SubcommandApp()
app.command(data, name="data", help="List, check and fetch datasets.")


@data.command(name="list")
def data_list(name: Annotated[Positional[str | None], arg(metavar="NAME")] = None, /) -> int:
    """Say what each dataset is, where it comes from, its licence, and whether it is here.

    Args:
        name: A dataset, with instructions to get it; without it, a line for all of them.
    """
    from regnet_lib.data import MARKERS, available
    from regnet_lib.data.catalogue import CATALOGUE, find_entry, instructions

    if name is not None:
        entry = find_entry(name)
        print(instructions(entry, f"$REGNET_DATA/{name}"))
        for archive in entry.archives:
            address = archive.urls[0] if archive.urls else "on request"
            print(f"archive: {archive.name}, {address}, {archive.digest}")
        return 0
    for entry in CATALOGUE.values():
        here = "here" if available(entry.name) else "not here"
        how = "regnet data fetch" if entry.fetchable else "by hand: regnet data list NAME"
        print(f"{entry.name} ({here}): {entry.what}")
        print(f"  for      {entry.used_by}\n  from     {entry.origin}")
        print(f"  licence  {entry.licence}")
        if entry.registration:
            print(f"  you      {entry.registration}")
        if entry.name in MARKERS:
            print(f"  get it   {how}")
    return 0


@data.command(name="check")
def data_check(folder: Annotated[Positional[Path], arg(metavar="DIR")], /) -> int:
    """Say which datasets a folder holds, and what is missing or broken; reads every file.

    Args:
        folder: A dataset, or a folder of datasets.
    """
    from regnet_lib.data.check import check_folder

    findings = check_folder(folder, report=print)
    for finding in findings:
        for split, (found, expected) in finding.counts.items():
            wanted = "" if expected is None else f" of {expected}"
            print(f"{finding.name}: {split:10s} {found}{wanted} cases")
        print(f"{finding.name}: {'complete' if finding.complete else 'INCOMPLETE OR BROKEN'}")
    return 0 if all(finding.complete for finding in findings) else 1


@data.command(name="fetch")
def data_fetch(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    /,
    root: Path | None = None,
    archives: Path | None = None,
    accept_terms: bool = False,
    keep_archives: bool = False,
) -> int:
    """Download a dataset, verify it and unpack it; goes on where it was interrupted.

    Args:
        name: A dataset; those that cannot be downloaded get instructions.
        root: Folder of all datasets; default $REGNET_DATA.
        archives: Folder with archives that you have already.
        accept_terms: You have read and accept the owner's terms.
        keep_archives: Leave the downloaded archives in .archives.
    """
    import os

    from regnet_lib.data.catalogue import find_entry, instructions
    from regnet_lib.data.fetch import fetch

    entry = find_entry(name)
    if archives is None and not entry.fetchable:
        print(instructions(entry, f"$REGNET_DATA/{name}"))
        return 1
    root = root or (Path(os.environ["REGNET_DATA"]) if os.environ.get("REGNET_DATA") else None)
    if root is None:
        raise ValueError("expected a folder: set REGNET_DATA, or give --root.")
    folder = fetch(
        name,
        root,
        archives=archives,
        accept_terms=accept_terms,
        keep_archives=keep_archives,
        report=print,
    )
    print(f"wrote {folder}; look with: regnet data check {folder}")
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
        print(f"regnet: {_sentence(error)}", file=sys.stderr)
        return 1
    except MemoryError:
        print(
            "regnet: expected enough memory for these images, found too little. Use smaller ones, "
            "or a machine with more memory.",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        # A fault of ours: no traceback, but all that a report of it needs.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        print(
            f"regnet: unexpected {type(error).__name__} at {where}: {_sentence(error)}. This is a "
            "fault of the program; please report it with the command you used.",
            file=sys.stderr,
        )
        return 1


def _sentence(error: BaseException) -> str:
    """The message on one line; the name of the file first, if it is the system's message."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
