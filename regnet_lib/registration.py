"""One pair, files or arrays in, files and numbers out.

result = register(moving="patient.nii.gz", fixed="atlas.nii.gz", out="result")
result.displacement, result.warped, result.report
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from regnet_lib.data.landmarks import Columns, Space
from regnet_lib.data.volume import BadInputError
from regnet_lib.inference import infer
from regnet_lib.losses import Objective, Similarity
from regnet_lib.machine import choose_device, device_name, versions
from regnet_lib.models.classical import GradientDescent
from regnet_lib.network_grid import ask_as_trained
from regnet_lib.outputs import Extra, prepare_output, write_outputs
from regnet_lib.pair import (
    Pair,
    Points,
    Prealign,
    Source,
    describe,
    in_world,
    is_path,
    label_map,
    landmark_points,
    require_pairs,
)
from regnet_lib.refine import refine
from regnet_lib.scores import Scored, measure
from regnet_lib.spatial import warp_points
from regnet_lib.spatial.world import after_world_map, warp_from
from regnet_lib.trained import ChosenNetwork, choose_network
from regnet_lib.types import Displacement, Precision


@dataclass(frozen=True)
class RegistrationResult:
    """What `register` returns.

    Attributes:
        displacement: `(1, n, *shape)` voxels on the fixed grid, an affine pre-alignment included.
        warped: the moving image on the fixed grid, `(*shape)`, in its own intensities.
        warped_labels: the moving labels on the fixed grid, or None.
        warped_landmarks: the given landmarks of the fixed image, carried to the moving image,
            `(N, n)` voxels of the moving grid, or None.
        report: settings and metrics, as written to `report.json`.
        affine: voxel -> RAS+ mm of the fixed grid.
        moving_affine: voxel -> RAS+ mm of the moving grid.
    """

    displacement: Displacement
    warped: np.ndarray
    warped_labels: np.ndarray | None
    warped_landmarks: np.ndarray | None
    report: dict[str, object]
    affine: np.ndarray
    moving_affine: np.ndarray


def register(
    *,
    moving: Source,
    fixed: Source,
    model: str | None = None,
    weights: str | os.PathLike | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    refine_steps: int = 0,
    loss: Similarity = "local_ncc",
    prealign: Prealign = "none",
    resample_to: Literal["none", "fixed"] = "none",
    moving_labels: Source | None = None,
    fixed_labels: Source | None = None,
    landmarks: Points | None = None,
    moving_landmarks: Points | None = None,
    landmark_space: Space = "voxel",
    landmark_base: int = 0,
    landmark_axes: Literal["xyz", "zyx"] = "xyz",
    also: Sequence[Extra] = (),
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> RegistrationResult:
    """Register a moving to a fixed image.

    Args:
        moving, fixed: paths of 3-D images (or of two slices), or arrays `(D, H, W)`.
        model: a name from `MODELS`; by default the one that the weights belong to, and
            `gradient_descent` without weights. Networks need `weights`, or `refine_steps` to be of
            any use.
        weights: the name of published weights (`regnet weights list`), or a checkpoint or
            safetensors file. With published weights the images are brought to the voxel size,
            axes and intensities that the network was trained on, and the displacement back to the
            fixed grid; arrays, which have no voxel size, are taken as they are.
        device: `auto`, `cpu`, `cuda`.
        precision: of a network's convolutions; `bfloat16` is faster on recent processors and takes
            less memory. The displacement is float32, and so is everything that is not a network.
        refine_steps: iterations of instance optimisation after the model.
        loss: similarity of the instance optimisation and of `gradient_descent`; `mind_ssc` and
            `mutual_information` compare images of different scanners.
        prealign: `rigid` or `affine` alignment first, by SimpleITK.
        resample_to: `fixed` admits a moving image on another grid of the same world.
        moving_labels, fixed_labels: label maps, each on the grid of its image; with both, overlap
            is reported.
        landmarks: of the fixed image: `(N, n)` voxel coordinates from 0, or a text file.
        moving_landmarks: the corresponding points of the moving image, voxels of its own grid;
            with them the registration error is reported.
        landmark_space, landmark_base, landmark_axes: what the columns of landmark files are, see
            `read_landmarks`.
        also: further displacement files, of `EXTRA_FORMATS`.
        out: folder for displacement.nii.gz (ITK/ANTs/Slicer), warped.nii.gz, jacobian.nii.gz,
            warped_labels.nii.gz, warped_landmarks.csv, report.html and report.json. It is created;
            existing results are replaced only with `overwrite`.

    Raises:
        BadInputError: unusable input; nothing has been written.
    """
    _require_options(refine_steps, loss, prealign, resample_to, precision)
    inputs = (moving, fixed, moving_labels, fixed_labels, landmarks, moving_landmarks, weights)
    folder = prepare_output(out, overwrite, [item for item in inputs if is_path(item)])
    chosen = choose_network(model, weights, untrained=refine_steps > 0)
    if isinstance(chosen.network, GradientDescent) and loss != "local_ncc":
        chosen.network.objective = Objective(similarity=loss)
    target = choose_device(device)

    pair = Pair(moving, fixed, prealign, resample_to, chosen.model)
    label_maps = (
        label_map(moving_labels, pair.moving, "moving_labels", moving),
        label_map(fixed_labels, pair.fixed, "fixed_labels", fixed),
    )
    columns = Columns(landmark_space, landmark_base, landmark_axes)
    fixed_points = landmark_points(landmarks, pair.fixed, "landmarks", columns)
    moving_points = landmark_points(moving_landmarks, pair.moving, "moving_landmarks", columns)
    require_pairs(fixed_points, moving_points)
    if "fsl" in also:
        from regnet_lib.spatial.displacement_files import fsl_scale

        fsl_scale(Path(out or "displacement_fsl.nii.gz"), pair.fixed.affine)

    started = time.monotonic()
    world = pair.align()
    prepared = pair.on_fixed_grid(world)
    on_files = is_path(moving) and is_path(fixed)
    found, notes = _answer(chosen, pair, world, prepared, target, precision, on_files)
    found = _improved(found, *prepared, target, refine_steps, loss)
    displacement = found if pair.still else after_world_map(found, pair.fixed.affine, world)
    seconds = time.monotonic() - started

    warped, warped_labels, warped_points = _carry(pair, displacement, label_maps[0], fixed_points)
    metrics = measure(
        Scored(
            before=pair.on_fixed_grid(np.eye(4)),
            prealigned=None if pair.still else prepared,
            displacement=displacement,
            to_moving=pair.to_moving,
            warped=pair.scaled_to_moving(warped),
            labels=label_maps,
            warped_labels=warped_labels,
            points_mm=in_world(fixed_points, moving_points, warped_points, pair),
            spacing_mm=pair.fixed.spacing_mm,
        )
    )
    report: dict[str, object] = {
        "model": chosen.model,
        "model_options": chosen.options,
        "weights": chosen.weights and Path(chosen.weights).name,
        "weights_sha256": chosen.sha256,
        "precision": precision,
        "refine_steps": refine_steps,
        "loss": loss,
        "prealign": prealign,
        "prealign_matrix_ras_mm": None if pair.still else world.round(8).tolist(),
        "moving": describe(moving, pair.moving),
        "fixed": describe(fixed, pair.fixed),
        "shape": list(pair.fixed.array.shape),
        "spacing_mm": [round(size, 6) for size in pair.fixed.spacing_mm],
        "seconds": round(seconds, 3),
        "device": device_name(target),
        "versions": versions(),
        "notes": [*pair.notes, *notes],
        "metrics": metrics,
    }
    affines = (pair.fixed.affine, pair.moving.affine)
    result = RegistrationResult(
        displacement, warped, warped_labels, warped_points, report, *affines
    )
    if folder is not None:
        write_outputs(folder, result, pair.pictures(warped), also, columns, overwrite=overwrite)
    return result


def _carry(
    pair: Pair,
    displacement: Displacement,
    moving_labels: Tensor | None,
    fixed_points: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Image and labels from the moving to the fixed grid, points from fixed to moving."""
    image = torch.from_numpy(np.ascontiguousarray(pair.moving.array))[None, None]
    # Outside the moving image continue with its darkest value: 0 for brains, air for CT.
    darkest = float(pair.moving.array.min())
    warped = warp_from(image, displacement, pair.to_moving, fill=darkest)[0, 0].numpy()
    labels = points = None
    if moving_labels is not None:
        carried = warp_from(moving_labels, displacement, pair.to_moving, interpolation="nearest")
        labels = carried[0, 0].numpy()
    if fixed_points is not None:
        moved = warp_points(torch.from_numpy(fixed_points), displacement).numpy()
        axes = moved.shape[1]
        points = moved @ pair.to_moving[:axes, :axes].T + pair.to_moving[:axes, 3]
    return warped, labels, points


def _answer(
    chosen: ChosenNetwork,
    pair: Pair,
    world: np.ndarray,
    prepared: tuple[Tensor, Tensor],
    device: torch.device,
    precision: Precision,
    on_files: bool,
) -> tuple[Displacement, list[str]]:
    """The displacement of the model on the fixed grid, and what the user may want to know."""
    network = chosen.network.to(device).eval()

    def ask(moving: Tensor, fixed: Tensor) -> Displacement:
        return infer(network, moving.to(device), fixed.to(device), precision).cpu()

    if chosen.published is None:
        return ask(*prepared), []
    return ask_as_trained(ask, pair, world, chosen.published.images, resample=on_files)


def _improved(
    displacement: Displacement,
    moving: Tensor,
    fixed: Tensor,
    device: torch.device,
    refine_steps: int,
    loss: Similarity,
) -> Displacement:
    """After instance optimisation, if that is asked for."""
    if refine_steps > 0:
        pair = (moving.to(device), fixed.to(device))
        start = displacement.to(device)
        objective = Objective(similarity=loss)
        displacement = refine(*pair, objective, steps=(refine_steps,), initial=start)
        displacement = displacement.float().cpu()
    if not bool(torch.isfinite(displacement).all()):
        raise BadInputError(
            "register: expected a finite displacement, got NaN or infinity from the model. Check "
            "its weights, and that they were trained on images like these."
        )
    return displacement


def _require_options(
    refine_steps: int, loss: str, prealign: str, resample_to: str, precision: str
) -> None:
    if refine_steps < 0:
        raise BadInputError(f"register: expected refine_steps >= 0, got {refine_steps}.")
    choices = (
        ("loss", loss, Similarity.__args__),
        ("prealign", prealign, Prealign.__args__),
        ("resample_to", resample_to, ("none", "fixed")),
        ("precision", precision, Precision.__args__),
    )
    for name, value, allowed in choices:
        if value not in allowed:
            raise BadInputError(
                f"register: expected {name} of {', '.join(allowed)}, got {value!r}."
            )
