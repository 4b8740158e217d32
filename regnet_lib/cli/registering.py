"""`regnet register` and `regnet register-pairs`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg


@dataclass(frozen=True)
class Settings:
    """How to register; the same for one pair and for many.

    Attributes:
        model: A name from `regnet models`; by default that of the weights, or gradient_descent.
        weights: A name from `regnet weights list`, or a checkpoint; networks need one.
        refine_steps: Iterations of instance optimization after the model.
        loss: What instance optimization and gradient_descent compare images by.
        prealign: Turn and shift the moving image first (rigid), or also scale and shear it.
        resample_to: "fixed" admits a moving image on another grid of the same world.
        landmark_space: What landmark files count: voxels, or millimetres in RAS or LPS.
        landmark_base: Number of the first voxel in landmark files, 0 or 1.
        landmark_axes: Order of the columns of landmark files.
        also: Further displacement files beside displacement.nii.gz.
        device: auto, cpu or cuda.
        precision: Of a network's convolutions; bfloat16 is faster on recent processors.
        overwrite: Replace results that are already in the folder.
    """

    model: str | None = None
    weights: str | None = None
    refine_steps: int = 0
    loss: Literal["local_ncc", "global_ncc", "mse", "mind_ssc", "mutual_information"] = "local_ncc"
    prealign: Literal["none", "rigid", "affine"] = "none"
    resample_to: Literal["none", "fixed"] = "none"
    landmark_space: Literal["voxel", "ras", "lps"] = "voxel"
    landmark_base: Literal[0, 1] = 0
    landmark_axes: Literal["xyz", "zyx"] = "xyz"
    also: tuple[Literal["h5", "tfm", "mha", "nrrd", "voxel", "fsl"], ...] = ()
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    overwrite: bool = False


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
    from regnet_lib.machine import keep_freed_memory
    from regnet_lib.registration import register as run

    keep_freed_memory()
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
    from regnet_lib.machine import keep_freed_memory

    keep_freed_memory()

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
