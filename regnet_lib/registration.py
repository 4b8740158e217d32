"""One pair, files or arrays in, files and numbers out.

result = register(moving="patient.nii.gz", fixed="atlas.nii.gz", out="result")
result.displacement, result.warped, result.report
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regnet_lib.checkpoint import load_weights
from regnet_lib.data.nifti import (
    BadInputError,
    Volume,
    read_volume,
    require_same_grid,
    write_atomically,
    write_volume,
)
from regnet_lib.losses import Objective, local_ncc
from regnet_lib.machine import choose_device, device_name, versions
from regnet_lib.metrics import dice, hd95
from regnet_lib.models import create_model
from regnet_lib.models.sizes import run_at_valid_size
from regnet_lib.refine import refine
from regnet_lib.spatial import folding_fraction, warp, warp_labels, warp_points
from regnet_lib.spatial.world import save_displacement
from regnet_lib.types import Displacement

Source = str | os.PathLike | np.ndarray | Tensor


@dataclass(frozen=True)
class RegistrationResult:
    """What `register` returns.

    Attributes:
        displacement: `(1, 3, D, H, W)` voxels on the fixed grid.
        warped: the moving image on the fixed grid, `(D, H, W)`, in its own intensities.
        warped_labels: the moving labels on the fixed grid, or None.
        warped_landmarks: the given landmarks of the fixed image, carried to the moving image,
            `(N, 3)` voxels, or None.
        report: settings and metrics, as written to `report.json`.
        affine: voxel -> RAS+ mm of the fixed grid.
    """

    displacement: Displacement
    warped: np.ndarray
    warped_labels: np.ndarray | None
    warped_landmarks: np.ndarray | None
    report: dict[str, object]
    affine: np.ndarray


def register(
    *,
    moving: Source,
    fixed: Source,
    model: str = "gradient_descent",
    weights: str | os.PathLike | None = None,
    device: str = "auto",
    refine_steps: int = 0,
    moving_labels: Source | None = None,
    fixed_labels: Source | None = None,
    landmarks: np.ndarray | Sequence[Sequence[float]] | None = None,
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> RegistrationResult:
    """Register a moving to a fixed volume on the same grid.

    Args:
        moving, fixed: NIfTI paths or arrays `(D, H, W)`.
        model: a name from `MODELS`. Networks need `weights`, or `refine_steps` to be of any use.
        weights: checkpoint or safetensors file of the model.
        device: `auto`, `cpu`, `cuda`.
        refine_steps: iterations of instance optimisation after the model.
        moving_labels, fixed_labels: label maps; with both, overlap is reported.
        landmarks: `(N, 3)` voxel coordinates in the fixed image, 0-based.
        out: folder for displacement.nii.gz (ITK/ANTs/Slicer), warped.nii.gz, warped_labels.nii.gz
            and report.json. It is created; existing results are replaced only with `overwrite`.

    Raises:
        BadInputError: unusable input; nothing has been written.
    """
    folder = _prepare_output(out, overwrite)
    moving_volume, fixed_volume = _volume(moving), _volume(fixed)
    require_same_grid(moving_volume, fixed_volume, _name(moving, "moving"), _name(fixed, "fixed"))
    label_maps = [
        _label_map(source, fixed_volume, name)
        for source, name in ((moving_labels, "moving_labels"), (fixed_labels, "fixed_labels"))
    ]
    network = create_model(model)
    trainable = any(parameter.requires_grad for parameter in network.parameters())
    if weights is not None:
        load_weights(weights, network)
    elif trainable and refine_steps == 0:
        raise BadInputError(
            f"register: the model {model!r} has to be trained: expected weights, got none. Give a "
            "checkpoint, or use a model that needs no training, such as 'gradient_descent'."
        )
    target = choose_device(device)
    network = network.to(target).eval()
    pair = [_scaled(volume, target) for volume in (moving_volume, fixed_volume)]

    started = time.monotonic()
    with torch.no_grad():
        displacement = run_at_valid_size(network, *pair).displacement
    if refine_steps > 0:
        displacement = refine(*pair, Objective(), steps=(refine_steps,), initial=displacement)
    seconds = time.monotonic() - started

    displacement = displacement.float().cpu()
    image = torch.from_numpy(moving_volume.array)[None, None]
    # Outside the moving image continue with its darkest value: 0 for brains, air for CT.
    warped = warp(image, displacement, fill=float(moving_volume.array.min()))[0, 0].numpy()
    warped_labels = None
    if label_maps[0] is not None:
        warped_labels = warp_labels(label_maps[0], displacement)[0, 0].numpy()
    warped_landmarks = None
    if landmarks is not None:
        points = torch.as_tensor(np.asarray(landmarks, dtype=np.float32))
        warped_landmarks = warp_points(points, displacement).numpy()
    report = {
        "model": model,
        "weights": Path(weights).name if weights is not None else None,
        "refine_steps": refine_steps,
        "moving": _name(moving, "array"),
        "fixed": _name(fixed, "array"),
        "shape": list(fixed_volume.array.shape),
        "spacing_mm": [round(size, 6) for size in fixed_volume.spacing_mm],
        "seconds": round(seconds, 3),
        "device": device_name(target),
        "versions": versions(),
        "metrics": _measure(pair, displacement, label_maps, warped_labels, fixed_volume.spacing_mm),
    }
    result = RegistrationResult(
        displacement, warped, warped_labels, warped_landmarks, report, fixed_volume.affine
    )
    if folder is not None:
        _write(folder, result, overwrite)
    return result


OUTPUTS = ("displacement.nii.gz", "warped.nii.gz", "warped_labels.nii.gz", "report.json")


def _prepare_output(out: str | os.PathLike | None, overwrite: bool) -> Path | None:
    """Refuse to replace results before anything is computed."""
    if out is None:
        return None
    folder = Path(out)
    existing = [name for name in OUTPUTS if (folder / name).exists()]
    if existing and not overwrite:
        raise BadInputError(
            f"{folder}: results are already there ({', '.join(existing)}). Choose another folder "
            "or allow overwriting (--overwrite)."
        )
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"{folder}: expected a folder for the results, found a file.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(folder: Path, result: RegistrationResult, overwrite: bool) -> None:
    affine = result.affine
    save_displacement(
        folder / "displacement.nii.gz", result.displacement, affine, overwrite=overwrite
    )
    write_volume(folder / "warped.nii.gz", result.warped, affine, overwrite=overwrite)
    if result.warped_labels is not None:
        write_volume(
            folder / "warped_labels.nii.gz", result.warped_labels, affine, overwrite=overwrite
        )
    text = json.dumps(result.report, indent=1) + "\n"
    write_atomically(
        folder / "report.json", lambda temporary: temporary.write_text(text), overwrite=overwrite
    )


def _volume(source: Source) -> Volume:
    if isinstance(source, str | os.PathLike):
        return read_volume(source)
    array = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source)
    array = array.reshape(array.shape[-3:]) if array.ndim > 3 else array
    if array.ndim != 3 or not np.isfinite(array).all():
        raise BadInputError(
            f"register: expected finite arrays of shape (D, H, W), got shape {array.shape}."
        )
    return Volume(array.astype(np.float32), np.eye(4))


def _label_map(source: Source | None, fixed: Volume, name: str) -> Tensor | None:
    if source is None:
        return None
    if isinstance(source, str | os.PathLike):
        array = read_volume(source, labels=True).array
    else:
        array = np.asarray(source)
        array = array.reshape(array.shape[-3:]) if array.ndim > 3 else array
    if array.shape != fixed.array.shape:
        raise BadInputError(
            f"{_name(source, name)}: expected the shape of the fixed image, {fixed.array.shape}, "
            f"found {array.shape}. Give the label map that belongs to the image."
        )
    return torch.from_numpy(array.astype(np.int64))[None, None]


def _scaled(volume: Volume, device: torch.device) -> Tensor:
    """Intensities mapped to [0, 1], the range that all models here were made for."""
    low, high = float(volume.array.min()), float(volume.array.max())
    if high <= low:
        raise BadInputError(
            f"register: expected an image with contrast, found the constant value {low} everywhere."
        )
    array = (volume.array - low) / (high - low)
    return torch.from_numpy(array)[None, None].to(device)


def _measure(
    pair: list[Tensor],
    displacement: Displacement,
    label_maps: list[Tensor | None],
    warped_labels: np.ndarray | None,
    spacing_mm: tuple[float, ...],
) -> dict[str, object]:
    moving, fixed = (image.cpu() for image in pair)
    lengths = (displacement[0] * torch.tensor(spacing_mm).view(3, 1, 1, 1)).norm(dim=0)
    metrics: dict[str, object] = {
        "local_ncc_loss_before": float(local_ncc(moving, fixed)),
        "local_ncc_loss_after": float(local_ncc(warp(moving, displacement), fixed)),
        "displacement_mean_mm": float(lengths.mean()),
        "displacement_max_mm": float(lengths.max()),
        "folding_fraction_forward": float(folding_fraction(displacement)),
        "folding_fraction_central": float(folding_fraction(displacement, "central")),
    }
    if label_maps[0] is not None and label_maps[1] is not None:
        ids = [label for label in torch.unique(label_maps[1]).tolist() if label != 0]
        before = dice(label_maps[0], label_maps[1], ids)
        after = dice(warped_labels, label_maps[1], ids)
        surface = hd95(warped_labels, label_maps[1], ids, spacing_mm)
        metrics |= {
            "labels": ids,
            "dice_before": float(np.nanmean(before)),
            "dice_after": float(np.nanmean(after)),
            "hd95_after_mm": float(np.nanmean(surface)),
        }
    return metrics


def _name(source: Source | None, otherwise: str) -> str:
    return Path(source).name if isinstance(source, str | os.PathLike) else otherwise
