"""One pair registered, on one thread: LGANet++ and our ConvexAdam against the programs that people
use instead.

A brain of LPBA40 at 2 mm where the data are, else a phantom. The network has not been trained for
this: its row is about seconds. What iterates has its Dice beside the time. Settings of the others
are their defaults: SyN of DIPY with local correlation, SyNOnly of ANTs with mutual information,
ConvexAdam of its authors; 50 iterations of SimpleITK's diffeomorphic demons.
"""

import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import CPU, Comparison, installed, timing
from regnet_lib.data import Case, available, open_dataset, phantom_pair
from regnet_lib.metrics import overlap_counts
from regnet_lib.models import create_model
from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.spatial import warp_labels
from regnet_lib.types import Displacement

SHAPE = (72, 88, 72)
FULL_SHAPE = (144, 176, 144)
PEERS = ("dipy", "ants", "SimpleITK", "convexAdam")
TARGET_SECONDS = 15.0
EXPLANATION = ""


def comparisons(device: torch.device = CPU, shape: tuple[int, ...] = SHAPE) -> list[Comparison]:
    case, source = _case(shape)
    network = _network(device)
    images = case.moving.to(device), case.fixed.to(device)
    name = "x".join(map(str, case.fixed.shape[2:]))
    ours = partial(forward, network, images)
    found = [
        Comparison(
            case=f"LGANet++ {name}, bfloat16, channels last, {source}",
            ours=ours,
            other=partial(register, case),
            other_name=other_name,
            check=partial(_dice_beside, case),
            rounds=1,
        )
        for other_name, register in _programs().items()
    ]
    if installed("convexAdam"):
        model = create_model("convexadam")
        found.append(
            Comparison(
                case=f"our ConvexAdam {name}, {source}",
                ours=lambda: model(*images).displacement,
                other=partial(_authors_convexadam, case),
                other_name="ConvexAdam of its authors",
                check=partial(_same_quality, case),
                target=1.0,
                rounds=1,
            )
        )
    return found


def rows() -> list[dict[str, object]]:
    """A brain of 144x176x144 on two threads, in wall seconds."""
    network = _network(CPU)
    images = torch.rand(2, 1, 1, *FULL_SHAPE, generator=torch.Generator().manual_seed(0)).unbind()
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    seconds = []
    try:
        for _ in range(2):
            start = time.perf_counter()
            forward(network, images)
            seconds.append(time.perf_counter() - start)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)
    name = "x".join(map(str, FULL_SHAPE))
    case = f"LGANet++ {name}, bfloat16, channels last, {used} threads"
    return [timing(case, seconds[1:], TARGET_SECONDS, clock="wall")]


@torch.inference_mode()
def forward(network: LGANetPP, images: tuple[Tensor, Tensor]) -> Displacement:
    """A registration in bfloat16."""
    with torch.autocast(images[0].device.type, torch.bfloat16):
        return network(*images).displacement


def _network(device: torch.device) -> LGANetPP:
    torch.manual_seed(0)
    return LGANetPP().eval().to(device, memory_format=torch.channels_last_3d)


def _case(shape: tuple[int, ...]) -> tuple[Case, str]:
    if available("lpba40") and shape == SHAPE:
        return open_dataset("lpba40", spacing_mm=2).case("S02"), "LPBA40 S02 at 2 mm"
    return phantom_pair(shape, seed=0), "phantom"


def _programs() -> dict[str, Callable[[Case], Displacement]]:
    known = {
        "dipy": ("DIPY's SyN", _dipy_syn),
        "ants": ("antspyx's SyNOnly", _ants_syn_only),
        "SimpleITK": ("SimpleITK's demons", _demons),
        "convexAdam": ("ConvexAdam of its authors", _authors_convexadam),
    }
    return dict(entry for package, entry in known.items() if installed(package))


def _array(image: Tensor) -> np.ndarray:
    return image[0, 0].numpy().astype(np.float32)


def _field(vectors: np.ndarray) -> Displacement:
    """Components last -> `(1, 3, D, H, W)`."""
    return torch.from_numpy(np.moveaxis(vectors, -1, 0)[None].astype(np.float32))


def _dipy_syn(case: Case) -> Displacement:
    return create_model("syn", engine="dipy")(case.moving, case.fixed).displacement


def _ants_syn_only(case: Case) -> Displacement:
    import ants

    fixed, moving = ants.from_numpy(_array(case.fixed)), ants.from_numpy(_array(case.moving))
    result = ants.registration(fixed, moving, type_of_transform="SyNOnly")
    warps = [path for path in result["fwdtransforms"] if path.endswith(".nii.gz")]
    return _field(ants.image_read(warps[0]).numpy())


def _demons(case: Case) -> Displacement:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    demons = SimpleITK.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfIterations(50)
    demons.SetStandardDeviations(1.0)
    images = (SimpleITK.GetImageFromArray(_array(one)) for one in (case.fixed, case.moving))
    vectors = SimpleITK.GetArrayFromImage(demons.Execute(*images))
    return _field(vectors[..., ::-1])  # x, y, z -> the order of the axes


def _authors_convexadam(case: Case) -> Displacement:
    from convexAdam.convex_adam_MIND import convex_adam_pt

    vectors = convex_adam_pt(case.fixed[0, 0], case.moving[0, 0], dtype=torch.float32, device=CPU)
    return _field(vectors)


def dice_after(case: Case, displacement: Displacement) -> float:
    """Mean Dice of the labels of a case after warping them."""
    warped = warp_labels(case.moving_labels, displacement.float().cpu())
    return float(np.nanmean(overlap_counts(warped, case.fixed_labels, case.label_ids).dice()))


def _dice_beside(case: Case, ours: Displacement, other: Displacement) -> str:
    assert ours.shape == other.shape and ours.isfinite().all()
    before = dice_after(case, torch.zeros_like(other))
    after = dice_after(case, other)
    assert after > before, (before, after)
    return f"the network is untrained; the other raises Dice from {before:.3f} to {after:.3f}"


def _same_quality(case: Case, ours: Displacement, other: Displacement) -> str:
    scores = [dice_after(case, field) for field in (ours, other)]
    assert abs(scores[0] - scores[1]) < 0.01, scores
    distance = (ours - other).norm(dim=1).median().item()
    return f"Dice {scores[0]:.4f} against {scores[1]:.4f}, median distance {distance:.2f} voxel"
