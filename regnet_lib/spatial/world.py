"""From voxels to the world: millimetre frames, and displacement files that other tools open.

nibabel's affines map voxels to RAS+ millimetres; ITK, ANTs and Slicer think in LPS, so the first
two components change sign. A displacement vector in millimetres is affine[:3, :3] @ u. The file
that ITK, ANTs and Slicer read alike is 5-D NIfTI (X, Y, Z, 1, 3) with intent "vector" (1007) in
LPS mm; with intent 1006 ITK would flip the signs back.

    save_displacement("displacement.nii.gz", displacement, affine, convention="itk")
    displacement = load_displacement("displacement.nii.gz")
"""

import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from regnet_lib.data.nifti import BadInputError, write_atomically, write_volume
from regnet_lib.types import Displacement

Convention = Literal["itk", "ants", "voxel"]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def ras_to_lps(points_mm: np.ndarray) -> np.ndarray:
    """Flip the first two of three world coordinates, `(..., 3)`; its own inverse."""
    return np.asarray(points_mm, dtype=float) @ RAS_TO_LPS


def voxel_to_world(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Voxel coordinates `(N, 3)` to RAS+ millimetres."""
    return np.asarray(points, dtype=float) @ affine[:3, :3].T + affine[:3, 3]


def world_to_voxel(points_mm: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """RAS+ millimetres `(N, 3)` to voxel coordinates."""
    return voxel_to_world(points_mm, np.linalg.inv(affine))


def save_displacement(
    path: str | os.PathLike,
    displacement: Displacement,
    affine: np.ndarray,
    convention: Convention = "itk",
    *,
    overwrite: bool = False,
) -> Path:
    """Write one displacement `(1, 3, D, H, W)` (voxels, fixed grid) for other tools.

    Args:
        affine: voxel -> RAS+ mm of the fixed grid.
        convention: `itk` and `ants` write the same 5-D LPS millimetre file, which Slicer reads too;
            `voxel` writes (X, Y, Z, 3) in voxels, the Learn2Reg form.

    A JSON file of the same name says unit, frame and direction in words.
    """
    if displacement.shape[:2] != (1, 3) or displacement.ndim != 5:
        raise ValueError(
            "save_displacement: expected one 3-D displacement (1, 3, D, H, W), got "
            f"{tuple(displacement.shape)}."
        )
    vectors = np.moveaxis(displacement[0].detach().cpu().numpy(), 0, -1)  # (D, H, W, 3)
    if convention in ("itk", "ants"):
        matrix = RAS_TO_LPS @ affine[:3, :3]
        array = (vectors @ matrix.T).astype(np.float32)[:, :, :, None, :]
        unit, frame = "mm", "LPS"
    elif convention == "voxel":
        array, unit, frame = vectors.astype(np.float32), "voxel", "array axes"
    else:
        raise ValueError(
            f"save_displacement: expected convention='itk', 'ants' or 'voxel', got {convention!r}."
        )
    path = Path(path)
    intent = "vector" if unit == "mm" else "none"
    write_volume(path, array, affine, intent=intent, overwrite=overwrite)
    description = {
        "content": "displacement on the fixed grid; maps points of the fixed image to the moving "
        "image",
        "unit": unit,
        "frame": frame,
        "convention": convention,
        "shape": list(vectors.shape[:3]),
    }
    text = json.dumps(description, indent=1) + "\n"
    sidecar = _sidecar(path)
    write_atomically(sidecar, lambda temporary: temporary.write_text(text), overwrite=overwrite)
    return path


def load_displacement(path: str | os.PathLike) -> tuple[Displacement, np.ndarray]:
    """Read a file of `save_displacement`, ANTs or ITK: `(1, 3, D, H, W)` voxels, and its affine.

    The form decides, never a guess: 5-D with intent "vector" is LPS mm; 4-D with three components
    needs our JSON file beside it, which says voxels.
    """
    import nibabel

    path = Path(path)
    if not path.is_file():
        raise BadInputError(f"{path}: the file does not exist. Check the path.")
    try:
        image = nibabel.load(path)
        array = np.asarray(image.dataobj, dtype=np.float64)
    except Exception as error:
        raise BadInputError(
            f"{path}: cannot be read as NIfTI ({error}). Export it again."
        ) from error
    intent = image.header.get_intent()[0]
    if array.ndim == 5 and array.shape[3:] == (1, 3) and intent == "vector":
        matrix = np.linalg.inv(RAS_TO_LPS @ image.affine[:3, :3])
        vectors = array[:, :, :, 0, :] @ matrix.T
    elif array.ndim == 4 and array.shape[3] == 3 and _declared_unit(path) == "voxel":
        vectors = array
    else:
        raise BadInputError(
            f"{path}: expected a 5-D vector file in LPS mm (X, Y, Z, 1, 3), or a 4-D file with "
            f"our JSON beside it, found shape {array.shape} and intent {intent!r}."
        )
    tensor = torch.from_numpy(np.moveaxis(vectors, -1, 0).astype(np.float32)[None].copy())
    return tensor, np.asarray(image.affine)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def _declared_unit(path: Path) -> str | None:
    sidecar = _sidecar(path)
    return json.loads(sidecar.read_text()).get("unit") if sidecar.is_file() else None
