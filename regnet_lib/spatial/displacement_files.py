"""Displacement files of ITK, ANTs, 3D Slicer, FSL and Learn2Reg, written and read back.

A displacement vector in millimetres is affine[:3, :3] @ u. The file that ITK, ANTs and Slicer read
alike is 5-D NIfTI (X, Y, Z, 1, 3) with intent "vector" (1007) in LPS mm; with intent 1006 ITK would
flip the signs back. A 2-D field is (X, Y, 1, 1, 2).

    save_displacement("displacement.nii.gz", displacement, affine, convention="itk")
    displacement, affine = load_displacement("displacement.nii.gz")
"""

import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.contents import require_regular_file
from regnet_lib.data.geometry import LARGEST_COSINE
from regnet_lib.data.nifti import BadInputError, open_nifti, stored_voxels, write_volume
from regnet_lib.spatial.checks import require_displacement
from regnet_lib.types import Displacement

Convention = Literal["itk", "ants", "slicer", "fsl", "voxel"]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])

LPS_MM: tuple[Convention, ...] = ("itk", "ants", "slicer")
TRANSFORM_SUFFIXES = (".h5", ".hdf5", ".tfm")
IMAGE_SUFFIXES = (".mha", ".nrrd")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
# NIfTI intent codes: FSL's own, RAS vectors by the letter of the standard, and ITK's LPS vectors.
FSL_INTENT, RAS_INTENT, LPS_INTENT = 2006, 1006, 1007


def save_displacement(
    path: str | os.PathLike,
    displacement: Displacement,
    affine: np.ndarray,
    convention: Convention = "itk",
    *,
    overwrite: bool = False,
) -> Path:
    """Write one displacement `(1, n, *shape)` (voxels, fixed grid) for other tools.

    Args:
        path: the suffix chooses the container: .nii, .nii.gz for all conventions; for LPS mm also
            .mha, .nrrd (vector images) and .h5, .hdf5, .tfm (ITK displacement field transforms),
            with the extra `io`; for `voxel` also .npz.
        affine: voxel -> RAS+ mm of the fixed grid, `(4, 4)`.
        convention: `itk`, `ants` and `slicer` write the same LPS millimetres. `voxel` writes
            (X, Y, Z, 3) in voxels, the Learn2Reg form. `fsl` writes (X, Y, Z, 3) in FSL's
            millimetres along the array axes, the first one flipped where det(affine) > 0: a
            relative warp for `applywarp`, for a moving image on the fixed grid; axis-aligned 3-D
            grids only.

    A JSON file of the same name says unit, frame, grid and direction in words.
    """
    axes = require_displacement("save_displacement", displacement)
    if displacement.shape[0] != 1:
        raise ValueError(
            "save_displacement: expected one displacement (1, n, *shape), got "
            f"{tuple(displacement.shape)}."
        )
    path = Path(path)
    vectors = np.moveaxis(displacement[0].detach().double().cpu().numpy(), 0, -1)
    if convention in LPS_MM:
        array, unit, frame = _lps_mm(vectors, affine), "mm", "LPS"
        _write_lps(path, array, affine, overwrite=overwrite)
    elif convention == "voxel":
        unit, frame = "voxel", "array axes"
        _write_voxels(path, vectors.astype(np.float32), affine, overwrite=overwrite)
    elif convention == "fsl":
        array, unit, frame = _fsl_mm(path, vectors, affine), "mm", "FSL"
        _require_suffix(path, NIFTI_SUFFIXES, convention)
        write_volume(path, array, affine, intent=FSL_INTENT, overwrite=overwrite)
    else:
        raise ValueError(
            "save_displacement: expected convention='itk', 'ants', 'slicer', 'fsl' or 'voxel', "
            f"got {convention!r}."
        )
    description = {
        "content": "displacement on the fixed grid; maps points of the fixed image to the moving "
        "image",
        "unit": unit,
        "frame": frame,
        "convention": convention,
        "shape": list(vectors.shape[:axes]),
        "affine": np.asarray(affine, dtype=float).tolist(),
    }
    text = json.dumps(description, indent=1) + "\n"
    sidecar = sidecar_path(path)
    write_atomically(sidecar, lambda temporary: temporary.write_text(text), overwrite=overwrite)
    return path


def load_displacement(
    path: str | os.PathLike,
    *,
    convention: Convention | None = None,
    reference: np.ndarray | None = None,
) -> tuple[Displacement, np.ndarray]:
    """Read a displacement file: `(1, n, *shape)` voxels, and the affine of its grid.

    The form decides, never a guess:

    * 5-D with intent "vector" (1007), MetaImage, NRRD and ITK transform files are LPS mm;
    * 5-D with intent "displacement vector" (1006) is RAS mm, as the NIfTI standard says;
    * 4-D with three components is FSL with FSL's intent (2006); else our JSON beside it, or
      `convention`, must say "voxel" or "fsl";
    * .npz holds one array (X, Y, Z, 3) in voxels.

    Args:
        convention: for files that do not say what they are; what they do say must agree.
        reference: affine of the grid, for .npz files without our JSON.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith((*TRANSFORM_SUFFIXES, *IMAGE_SUFFIXES, ".mhd", ".nhdr")):
        vectors, affine = _read_itk_vectors(path)
        found: Convention = "itk"
    elif name.endswith(".npz"):
        vectors, affine, found = _read_npz(path, reference)
    else:
        vectors, affine, found = _read_nifti_vectors(path, convention)
    known = found in LPS_MM and convention in LPS_MM
    if convention is not None and convention != found and not known:
        raise BadInputError(
            f"{path}: expected a displacement of convention {convention!r}, found {found!r}. Leave "
            "the convention out, or give the right file."
        )
    axes = vectors.shape[-1]
    if vectors.ndim != axes + 1 or axes not in (2, 3):
        raise BadInputError(
            f"{path}: expected one vector of 2 or 3 components per voxel, found an array of shape "
            f"{vectors.shape}."
        )
    if not np.isfinite(vectors).all():
        raise BadInputError(
            f"{path}: expected finite displacements, found {int((~np.isfinite(vectors)).sum())} "
            "components that are NaN or infinite. Compute the field again."
        )
    if found in LPS_MM:
        matrix = RAS_TO_LPS[:axes, :axes] @ affine[:axes, :axes]
        vectors = vectors @ np.linalg.inv(matrix).T
    elif found == "fsl":
        vectors = vectors / fsl_scale(path, affine)
    array = np.moveaxis(vectors, -1, 0).astype(np.float32)[None]
    return torch.from_numpy(np.ascontiguousarray(array)), affine


def _lps_mm(vectors: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """`(*shape, n)` voxels to LPS mm, float32."""
    axes = vectors.shape[-1]
    matrix = RAS_TO_LPS[:axes, :axes] @ affine[:axes, :axes]
    return (vectors @ matrix.T).astype(np.float32)


def fsl_scale(path: Path, affine: np.ndarray) -> np.ndarray:
    """Millimetres per voxel along each array axis, with FSL's sign of the first."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = np.abs(affine[:3, :3] / spacing)
    if (np.sort(directions, axis=0)[1] > LARGEST_COSINE).any():
        raise BadInputError(
            f"{path}: expected an axis-aligned grid for a file in FSL's convention, found the "
            f"matrix {affine.round(4).tolist()}. Register on an axis-aligned grid, or use "
            "convention='itk'."
        )
    flip = -1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0
    return spacing * [flip, 1, 1]


def _fsl_mm(path: Path, vectors: np.ndarray, affine: np.ndarray) -> np.ndarray:
    if vectors.shape[-1] != 3:
        raise BadInputError(f"{path}: expected a 3-D displacement for FSL, got a 2-D one.")
    return (vectors * fsl_scale(path, affine)).astype(np.float32)


def _write_lps(path: Path, array: np.ndarray, affine: np.ndarray, *, overwrite: bool) -> None:
    axes = array.shape[-1]
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        stored = array.reshape(*array.shape[:axes], *[1] * (4 - axes), axes)
        write_volume(path, stored, affine, intent="vector", overwrite=overwrite)
        return
    _require_suffix(path, (*NIFTI_SUFFIXES, *IMAGE_SUFFIXES, *TRANSFORM_SUFFIXES), "itk")
    from regnet_lib.data.itk_files import import_simpleitk, itk_image, write_itk

    image = itk_image(array, affine, vector=True)
    if name.endswith(IMAGE_SUFFIXES):
        write_itk(path, image, overwrite=overwrite)
        return
    sitk = import_simpleitk()
    transform = sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))

    def write(temporary: Path) -> None:
        try:
            sitk.WriteTransform(transform, str(temporary))
            stored = sitk.ReadTransform(str(temporary))
        except RuntimeError as error:
            raise OSError(5, str(error).splitlines()[-1], str(temporary)) from error
        if len(stored.GetFixedParameters()) != len(transform.GetFixedParameters()):
            raise OSError(28, "the file is incomplete", str(temporary))

    write_atomically(path, write, overwrite=overwrite)


def _write_voxels(path: Path, array: np.ndarray, affine: np.ndarray, *, overwrite: bool) -> None:
    _require_suffix(path, (*NIFTI_SUFFIXES, ".npz"), "voxel")
    if path.suffix == ".npz":

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.savez_compressed(file, array)

        write_atomically(path, write, overwrite=overwrite)
        return
    write_volume(path, array, affine, overwrite=overwrite)


def _require_suffix(path: Path, suffixes: tuple[str, ...], convention: str) -> None:
    if not path.name.lower().endswith(suffixes):
        raise BadInputError(
            f"{path}: expected a name ending in {', '.join(suffixes)} for a displacement of "
            f"convention {convention!r}."
        )


def _read_itk_vectors(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """LPS mm `(*shape, n)` and the voxel -> RAS+ matrix."""
    from regnet_lib.data.itk_files import import_simpleitk, itk_affine, itk_array, read_vectors

    if not path.name.lower().endswith(TRANSFORM_SUFFIXES):
        array, affine = read_vectors(path)
        return array.astype(np.float64), affine
    require_regular_file(path, "an ITK transform file")
    sitk = import_simpleitk()
    try:
        transform = sitk.ReadTransform(str(path))
        transform = transform.Downcast()
    except RuntimeError as error:
        raise BadInputError(
            f"{path}: cannot be read as an ITK transform ({str(error).splitlines()[-1].strip()}). "
            "Export it again."
        ) from error
    if not isinstance(transform, sitk.DisplacementFieldTransform):
        raise BadInputError(
            f"{path}: expected a displacement field transform, found a {transform.GetName()}. "
            "Convert it to a displacement field on the fixed grid, for example with SimpleITK's "
            "TransformToDisplacementField."
        )
    field = transform.GetDisplacementField()
    return itk_array(field), itk_affine(field)


def _read_npz(
    path: Path, reference: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Convention]:

    require_regular_file(path, "an .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = [archive[key] for key in archive.files]
    except Exception as error:
        raise BadInputError(
            f"{path}: cannot be read as an .npz file of numbers ({error}). Export it again."
        ) from error
    declared = _declared(path).get("affine")
    if reference is None and declared is None:
        raise BadInputError(
            f"{path}: an .npz file does not say where its grid lies. Give reference=affine of the "
            "fixed image."
        )
    if len(arrays) != 1:
        raise BadInputError(f"{path}: expected one array, found {len(arrays)}.")
    affine = reference if reference is not None else np.array(declared)
    return arrays[0].astype(np.float64), np.asarray(affine, dtype=float), "voxel"


def _read_nifti_vectors(
    path: Path, convention: Convention | None
) -> tuple[np.ndarray, np.ndarray, Convention]:
    """Vectors `(*shape, n)` in the unit of the convention that is returned with them."""
    image = open_nifti(path)
    shape = tuple(image.shape)
    affine = np.array(image.affine, dtype=float)
    intent = int(image.header["intent_code"])
    if (
        len(shape) == 5
        and shape[3] == 1
        and shape[4] in (2, 3)
        and (shape[4] == 2) == (shape[2] == 1)
    ):
        array = stored_voxels(path, image).astype(np.float64)
        array = array.reshape(*shape[: shape[4]], shape[4])
        if intent == LPS_INTENT:
            return array, affine, "itk"
        if intent == RAS_INTENT:
            axes = shape[4]
            return array @ RAS_TO_LPS[:axes, :axes], affine, "itk"
    elif len(shape) in (3, 4) and shape[-1] == len(shape) - 1:
        declared = _declared(path).get("convention")
        found = "fsl" if intent == FSL_INTENT else declared or convention
        if found in ("fsl", "voxel"):
            return stored_voxels(path, image).astype(np.float64), affine, found
    raise BadInputError(
        f"{path}: expected a 5-D vector file in LPS mm (X, Y, Z, 1, 3), or a 4-D file with our "
        f"JSON beside it, found shape {shape} and intent code {intent}. If you know what a 4-D "
        "file holds, say convention='voxel' or 'fsl'."
    )


def sidecar_path(path: Path) -> Path:
    """The JSON beside a displacement file: displacement.nii.gz has displacement.json."""
    for suffix in (".nii.gz", ".nii"):
        if path.name.lower().endswith(suffix):
            return path.with_name(path.name[: -len(suffix)] + ".json")
    return path.with_name(path.name + ".json")


def _declared(path: Path) -> dict[str, object]:
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return {}
    try:
        declared = json.loads(sidecar.read_text())
    except (ValueError, OSError) as error:
        raise BadInputError(
            f"{sidecar}: expected the JSON that describes {path.name}, found something else "
            f"({error}). Restore it, or remove it and give the convention."
        ) from error
    return declared if isinstance(declared, dict) else {}
