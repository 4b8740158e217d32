"""The files of a registration: refused before anything is computed, or written completely.

`report.json` comes last: a folder that has it is complete.

    folder = prepare_output("result", overwrite=False, inputs=["moving.nii.gz", "fixed.nii.gz"])
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from regnet_lib.data.landmarks import Columns, write_landmarks
from regnet_lib.data.nifti import write_volume
from regnet_lib.data.volume import BadInputError
from regnet_lib.report import render_report
from regnet_lib.spatial import jacobian_determinant
from regnet_lib.spatial.world import save_displacement

if TYPE_CHECKING:
    from regnet_lib.registration import RegistrationResult

Extra = Literal["h5", "tfm", "mha", "nrrd", "voxel", "fsl"]

# Name of the displacement file and convention of `save_displacement`.
EXTRA_FORMATS = {
    "h5": ("displacement.h5", "itk"),
    "tfm": ("displacement.tfm", "itk"),
    "mha": ("displacement.mha", "itk"),
    "nrrd": ("displacement.nrrd", "itk"),
    "voxel": ("displacement_voxel.nii.gz", "voxel"),
    "fsl": ("displacement_fsl.nii.gz", "fsl"),
}
OUTPUTS = (
    "displacement.nii.gz",
    "displacement.json",
    *(name for name, _ in EXTRA_FORMATS.values()),
    *(f"displacement.{suffix}.json" for suffix in ("h5", "tfm", "mha", "nrrd")),
    "displacement_voxel.json",
    "displacement_fsl.json",
    "warped.nii.gz",
    "jacobian.nii.gz",
    "warped_labels.nii.gz",
    "warped_landmarks.csv",
    "report.html",
    "report.json",
)


def prepare_output(
    out: str | os.PathLike | None, overwrite: bool, inputs: Sequence[str | os.PathLike]
) -> Path | None:
    """Refuse to replace results or inputs, and folders that cannot be written to.

    Nothing is made: the folder comes with the first result.
    """
    if out is None:
        return None
    folder = Path(out)
    existing = [folder / name for name in OUTPUTS if (folder / name).exists()]
    for path in existing:
        for given in inputs:
            if os.path.exists(given) and os.path.samefile(path, given):
                raise BadInputError(
                    f"{path}: expected a folder whose results replace no input, but this file is "
                    f"the input {given}. Choose another folder."
                )
    if existing and not overwrite:
        names = ", ".join(path.name for path in existing[:3])
        raise BadInputError(
            f"{folder}: results are already there ({names}). Choose another folder or allow "
            "overwriting (--overwrite)."
        )
    ancestor = folder
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise BadInputError(
            f"{folder}: expected a folder for the results, found that {ancestor} is a file. "
            "Choose another folder."
        )
    try:
        with tempfile.TemporaryFile(dir=ancestor):
            pass
    except OSError as error:
        raise BadInputError(
            f"{folder}: expected a folder that can be written to, but {ancestor} refuses new files "
            f"({error.strerror}). Choose another folder."
        ) from error
    return folder


def write_outputs(
    folder: Path,
    result: "RegistrationResult",
    pictures: Mapping[str, np.ndarray],
    also: Sequence[Extra],
    columns: Columns,
    *,
    overwrite: bool,
) -> None:
    """All files of a registration.

    Args:
        pictures: fixed, moving and warped `(*shape)` on the fixed grid, for the page.
        also: further displacement files.
        columns: of the landmark file.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        names = _write_all(staging, result, pictures, also, columns)
        # Everything is complete: only now old results give way, and the report comes last.
        for name in [old for old in OUTPUTS if old not in names] if overwrite else []:
            (folder / name).unlink(missing_ok=True)
        (folder / "report.json").unlink(missing_ok=True)
        for name in names:
            os.replace(staging / name, folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # not empty: it has the results
            if new:
                folder.rmdir()


def _write_all(
    folder: Path,
    result: "RegistrationResult",
    pictures: Mapping[str, np.ndarray],
    also: Sequence[Extra],
    columns: Columns,
) -> list[str]:
    """All files into an empty folder; their names, `report.json` last."""
    affine = result.affine
    save_displacement(folder / "displacement.nii.gz", result.displacement, affine)
    for extra in dict.fromkeys(also):
        name, convention = EXTRA_FORMATS[extra]
        save_displacement(folder / name, result.displacement, affine, convention)
    determinant = jacobian_determinant(result.displacement)
    determinant = determinant.reshape(result.warped.shape).numpy().astype(np.float32)
    volumes = {
        "warped.nii.gz": result.warped,
        "jacobian.nii.gz": determinant,
        "warped_labels.nii.gz": result.warped_labels,
    }
    for name, array in volumes.items():
        if array is not None:
            write_volume(folder / name, array, affine)
    if result.warped_landmarks is not None:
        write_landmarks(
            folder / "warped_landmarks.csv",
            result.warped_landmarks,
            result.moving_affine,
            **vars(columns),
        )
    names = sorted(path.name for path in folder.iterdir())
    report = result.report | {"files": [*names, "report.html", "report.json"]}
    page = render_report(report, {**pictures, "jacobian": determinant}, result.displacement, affine)
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name in ("report.html", "report.json"):
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    return report["files"]
