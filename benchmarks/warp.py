"""Warping, forward and backward: ours against the usual recipe for `grid_sample`, which builds an
identity grid, adds, normalizes and turns the axes; label maps against nearest `grid_sample`; images
without gradients against SciPy and SimpleITK. Then the same recipe on two threads.

Seconds on two threads are those of the thread that is busiest: on a machine with two free cores the
run takes that long, and other programs do not disturb the measurement.
"""

import statistics
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch import Tensor

from benchmarks.measure import CPU, Comparison, installed
from regnet_lib.spatial import warp, warp_labels

SHAPES = ((48, 64, 48), (72, 88, 72), (144, 176, 144))
CHANNELS = (1, 8)
PEERS = ("SimpleITK",)
THREADS = 2
TARGET = 1.8
ROUNDS = 5
EXPLANATION = (
    "On one thread both forms spend nine tenths of their time in PyTorch's kernels for "
    "`grid_sample`: what can be saved there is the grid, and the more channels, the less it counts."
    " On two threads each slab adds into a gradient of the whole image of its own, and the sum of "
    "those costs more the more channels there are."
)

Gradients = tuple[Tensor, Tensor, Tensor]


def comparisons(
    device: torch.device = CPU, shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> list[Comparison]:
    found = []
    for shape in shapes:
        for channels in CHANNELS:
            inputs = [one.to(device) for one in _inputs(shape, channels)]
            found.append(
                Comparison(
                    case=f"warp {_name(shape)}, channels: {channels}, forward and backward",
                    ours=partial(_with_gradients, warp, *inputs),
                    other=partial(_with_gradients, plain_warp, *inputs),
                    other_name="the recipe for grid_sample",
                    check=_same_gradients,
                    target=1.0,
                    growth=("voxels", prod(shape)) if channels == 1 else None,
                )
            )
    image, displacement, _ = inputs
    labels = (7 * image[:, :1]).to(torch.uint8)
    found.append(
        Comparison(
            case=f"warp_labels {_name(shape)}, nearest, uint8",
            ours=partial(warp_labels, labels, displacement),
            other=partial(_plain_nearest, labels, displacement),
            other_name="nearest grid_sample of floats",
            check=_same_labels,
        )
    )
    if device.type == "cpu":
        peers = [("SciPy's map_coordinates", _scipy)]
        peers += [("SimpleITK's resampling", _simpleitk)] if installed("SimpleITK") else []
        for other_name, other in peers:
            found.append(
                Comparison(
                    case=f"warp {_name(shape)}, 1 channel, without gradient",
                    ours=partial(warp, image[:, :1], displacement),
                    other=partial(other, image[:, :1], displacement),
                    other_name=other_name,
                    check=_same_values,
                    rounds=3,
                )
            )
    return found


def rows() -> list[dict[str, object]]:
    """Two threads, ours and the recipe."""
    found = []
    for channels in CHANNELS:
        inputs = _inputs(SHAPES[-1], channels)
        runs = {
            name: partial(_with_gradients, function, *inputs)
            for name, function in (("ours", warp), ("other", plain_warp))
        }
        before = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            agreement = _same_gradients(*(run() for run in runs.values()))
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(ROUNDS):
                for name, run in runs.items():
                    seconds[name].append(_busiest_thread(run))
        finally:
            torch.set_num_threads(before)
        ratios = [b / a for a, b in zip(seconds["ours"], seconds["other"], strict=True)]
        ratio = statistics.median(ratios)
        found.append(
            {
                "case": f"warp {_name(SHAPES[-1])}, channels: {channels}, forward and backward, "
                f"{THREADS} threads",
                "other": f"the recipe for grid_sample, {THREADS} threads",
                "agreement": agreement,
                "clock": "busiest thread",
                "cpu_seconds": {k: [round(v, 4) for v in values] for k, values in seconds.items()},
                "ratio": round(ratio, 3),
                "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
                "peak_mib": {"ours": None, "other": None},
                "target": TARGET,
                "met": ratio >= TARGET,
                "growth": None,
            }
        )
    return found


def plain_warp(image: Tensor, displacement: Tensor) -> Tensor:
    """The recipe of most published networks, with `align_corners=True` at both ends."""
    shape = displacement.shape[2:]
    axes = [torch.arange(side, dtype=image.dtype, device=image.device) for side in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0) + displacement
    for axis, side in enumerate(shape):
        grid[:, axis] = 2 * (grid[:, axis] / (side - 1) - 0.5)
    return F.grid_sample(image, grid.permute(0, 2, 3, 4, 1)[..., [2, 1, 0]], align_corners=True)


def _plain_nearest(labels: Tensor, displacement: Tensor) -> Tensor:
    size = displacement.new_tensor(displacement.shape[2:]).view(1, 3, 1, 1, 1)
    axes = [torch.arange(int(side), device=labels.device) for side in displacement.shape[2:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0) + displacement
    grid = (grid * (2 / (size - 1)) - 1).flip(1).movedim(1, -1)
    found = F.grid_sample(labels.float(), grid, mode="nearest", align_corners=True)
    return found.to(labels.dtype)


def _scipy(image: Tensor, displacement: Tensor) -> Tensor:
    shape = displacement.shape[2:]
    where = np.indices(shape, np.float32) + displacement[0].numpy()
    values = map_coordinates(image[0, 0].numpy(), where, order=1, mode="grid-constant")
    return torch.from_numpy(values)[None, None]


def _simpleitk(image: Tensor, displacement: Tensor) -> Tensor:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    vectors = np.ascontiguousarray(displacement[0].flip(0).movedim(0, -1).numpy(), np.float64)
    transform = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(vectors, isVector=True))
    moving = sitk.GetImageFromArray(image[0, 0].numpy())
    values = sitk.GetArrayFromImage(sitk.Resample(moving, transform, sitk.sitkLinear, 0.0))
    return torch.from_numpy(values)[None, None]


def _with_gradients(
    function: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    displacement: Tensor,
    upstream: Tensor,
) -> Gradients:
    image, displacement = (one.detach().requires_grad_() for one in (image, displacement))
    warped = function(image, displacement)
    return warped.detach(), *torch.autograd.grad(warped, (image, displacement), upstream)


def _inputs(shape: tuple[int, ...], channels: int) -> list[Tensor]:
    """Noise, and vectors of a few voxels that change smoothly."""
    generator = torch.Generator().manual_seed(0)
    coarse = 3 * torch.randn(1, 3, *(side // 16 for side in shape), generator=generator)
    displacement = F.interpolate(coarse, size=shape, mode="trilinear")
    image, upstream = torch.rand(2, 1, channels, *shape, generator=generator)
    return [image, displacement, upstream]


def _busiest_thread(run: Callable[[], object]) -> float:
    """CPU seconds of the thread that had most to do (Linux)."""
    before = _cpu_seconds()
    run()
    return max(seconds - before.get(thread, 0.0) for thread, seconds in _cpu_seconds().items())


def _cpu_seconds() -> dict[str, float]:
    """By thread of this process."""
    threads = Path("/proc/self/task").iterdir()
    return {one.name: int((one / "schedstat").read_text().split()[0]) / 1e9 for one in threads}


def _same_gradients(ours: Gradients, other: Gradients) -> str:
    values = (ours[0] - other[0]).abs().max().item()
    image = ((ours[1] - other[1]).norm() / other[1].norm()).item()
    # The gradient to a vector jumps where it points at the border of two cells: there rounding
    # decides, and the two forms round differently.
    scale = other[2].abs().mean()
    jumps = ((ours[2] - other[2]).abs() > 1e-3 * scale).double().mean().item()
    assert values < 1e-3 and image < 1e-3 and jumps < 1e-3, (values, image, jumps)
    return (
        f"values differ by {values:.1e}, the gradient to the image by {image:.1e} (relative), "
        f"that to the vectors at {100 * jumps:.2g} % of them"
    )


def _same_values(ours: Tensor, other: Tensor) -> str:
    inside = (slice(None), slice(None), *[slice(16, -16)] * 3)  # outside it they differ
    worst = (ours - other)[inside].abs().max().item()
    assert worst < 1e-3, worst
    return f"values differ by {worst:.1e}"


def _same_labels(ours: Tensor, other: Tensor) -> str:
    different = (ours != other).double().mean().item()
    assert different < 1e-5, different
    return f"{different:.1e} of the voxels differ, where two are equally near"


def _name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
