"""One pair registered, on one thread: LGANet++ and our ConvexAdam against the programs that people
use instead; and trained networks asked in bfloat16 against the same ones asked in float32.

A brain of LPBA40 at 2 mm where the data are, else a phantom. The network has not been trained for
this: its row is about seconds. What iterates has its Dice beside the time. Settings of the others
are their defaults: SyN of DIPY with local correlation, SyNOnly of ANTs with mutual information,
ConvexAdam of its authors; 50 iterations of SimpleITK's diffeomorphic demons.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import CPU, Comparison, installed, peak_mib, timing
from regnet_lib.data import Case, available, open_dataset, phantom_pair
from regnet_lib.inference import infer
from regnet_lib.machine import keep_freed_memory
from regnet_lib.metrics import overlap_counts
from regnet_lib.models import create_model
from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.nn.blocks import channels_innermost
from regnet_lib.spatial import warp_labels
from regnet_lib.trained import choose_network
from regnet_lib.types import Displacement, Precision
from regnet_lib.weights import published_weights

SHAPE = (72, 88, 72)
FULL_SHAPE = (144, 176, 144)
PEERS = ("dipy", "ants", "SimpleITK", "convexAdam")
TARGET_SECONDS = 15.0
# Of the mean Dice, between both precisions of one trained network.
DICE_POINTS = 0.2
EXPLANATION = (
    "At 144x176x144 a registration is 31 CPU seconds; in a profile 65 % of them are oneDNN's "
    "convolutions in bfloat16, 9 % the sampling of warps, 9 % conversions between both precisions. "
    "The system's memory was another bound: 3.8 million page faults for maps that are freed and "
    "allocated again cost 10 CPU seconds, one core at a time, and made it 27 s. `regnet register` "
    "and `regnet evaluate` therefore keep freed memory; huge pages instead gave 22 s."
)


def comparisons(device: torch.device = CPU, shape: tuple[int, ...] = SHAPE) -> list[Comparison]:
    case, source = _case(shape)
    network = _network(device)
    images = case.moving.to(device), case.fixed.to(device)
    name = "x".join(map(str, case.fixed.shape[2:]))
    ours = partial(infer, network, *images, "bfloat16")
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


def precision_comparisons() -> list[Comparison]:
    """Both precisions of `infer`: an untrained LGANet++, and the book's networks for brains."""
    case, source = _case(SHAPE)
    network, name = _network(CPU), "x".join(map(str, case.fixed.shape[2:]))
    found = [
        Comparison(
            case=f"LGANet++ {name}, bfloat16, {source}",
            ours=partial(infer, network, case.moving, case.fixed, "bfloat16"),
            other=partial(infer, network, case.moving, case.fixed),
            other_name="the same in float32",
            check=_close,
            rounds=2,
        ),
    ]
    for card in published_weights().values():
        if card.dataset != "lpba40" or not available("lpba40"):
            continue
        dataset = open_dataset("lpba40", **card.dataset_options)
        cases = [dataset.case(one) for one in dataset.ids("test")]
        trained = choose_network(None, card.name).network.eval()
        spacing = f"{card.images.spacing_mm[0]:g} mm"
        found.append(
            Comparison(
                case=f"{card.model}, trained, {len(cases)} brains of LPBA40 at {spacing}, bfloat16",
                ours=partial(_registered, trained, cases, "bfloat16"),
                other=partial(_registered, trained, cases, "float32"),
                other_name="the same in float32",
                check=partial(_same_dice, cases),
                rounds=2,
            )
        )
    return found


def rows() -> Iterator[dict[str, object]]:
    """A brain of 144x176x144 on two threads, in wall seconds, as `regnet register` runs it."""
    keep_freed_memory()
    network = _network(CPU)
    images = torch.rand(2, 1, 1, *FULL_SHAPE, generator=torch.Generator().manual_seed(0)).unbind()
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    try:
        for precision in ("bfloat16", "float32"):
            yield _row(network, images, precision)
    finally:
        torch.set_num_threads(threads)


def _row(
    network: LGANetPP, images: tuple[Tensor, Tensor], precision: Precision
) -> dict[str, object]:
    _, peak = peak_mib(partial(infer, network, *images, precision))
    start = time.perf_counter()
    infer(network, *images, precision)
    seconds = time.perf_counter() - start
    case = (
        f"LGANet++ {'x'.join(map(str, FULL_SHAPE))}, {precision}, {torch.get_num_threads()} threads"
    )
    target = TARGET_SECONDS if precision == "bfloat16" else None
    return timing(case, [seconds], target, clock="wall") | {"peak_mib": peak}


def _registered(network: nn.Module, cases: Sequence[Case], precision: Precision) -> list[Tensor]:
    return [infer(network, case.moving, case.fixed, precision) for case in cases]


def _network(device: torch.device) -> LGANetPP:
    torch.manual_seed(0)
    return channels_innermost(LGANetPP().eval().to(device))


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


def _close(ours: Displacement, other: Displacement) -> str:
    difference = (ours - other).norm(dim=1)
    assert difference.mean() < 0.05, difference.mean()
    return (
        f"displacement differs by {difference.mean().item():.1e} voxel in the mean and "
        f"{difference.max().item():.1e} at most"
    )


def _same_dice(cases: Sequence[Case], ours: list[Tensor], other: list[Tensor]) -> str:
    ours_dice, other_dice = (
        100 * statistics.mean(dice_after(*pair) for pair in zip(cases, fields, strict=True))
        for fields in (ours, other)
    )
    assert abs(ours_dice - other_dice) < DICE_POINTS, (ours_dice, other_dice)
    distance = _close(torch.cat(ours), torch.cat(other))
    return f"mean Dice {ours_dice:.2f} % against {other_dice:.2f} %; {distance}"
