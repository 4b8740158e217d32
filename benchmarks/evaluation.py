"""All metrics of one registered case, 56 labels at 144x176x144, in CPU seconds on one thread.

The first row is what the tables of the two papers print: Dice, precision, recall, HD95, ASSD, NCC,
MSE, SSIM, mean Jacobian determinant and folding by one difference scheme. The second is all that
`regnet evaluate` stores for a case: it also warps image and labels, and adds local NCC, the spread
and minimum of the determinant, and folding by all three schemes.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.measure import timing
from benchmarks.overlap import SHAPE, SPACING_MM, label_pair
from regnet_lib import metrics
from regnet_lib.data import Case
from regnet_lib.data.phantoms import smooth_displacement
from regnet_lib.evaluate import measure
from regnet_lib.metrics.surface import assd_of, hd95_of
from regnet_lib.spatial import folding_fraction
from regnet_lib.types import Displacement

TARGET_SECONDS = 2.0
ROUNDS = 5


def rows() -> list[dict[str, object]]:
    """CPU seconds per set of metrics; the first set is held to the target."""
    warped, fixed, ids, source = label_pair()
    random = np.random.default_rng(0)
    displacement = smooth_displacement(SHAPE, random, 4.0)
    moving_image, fixed_image = torch.from_numpy(random.random((2, 1, 1, *SHAPE), np.float32))
    maps = [torch.from_numpy(labels)[None, None] for labels in (warped, fixed)]
    case = Case(
        id=source,
        moving=moving_image,
        fixed=fixed_image,
        affine=np.diag([*SPACING_MM, 1.0]),
        moving_labels=maps[0],
        fixed_labels=maps[1],
        label_ids=ids,
    )
    sets = (
        ("the metrics of both papers' tables", lambda: _tables(case, displacement), TARGET_SECONDS),
        ("all that regnet evaluate stores", lambda: measure(case, displacement), None),
    )
    return [
        _timed(f"{name}, {len(ids)} labels, {source}", run, target) for name, run, target in sets
    ]


def _tables(case: Case, displacement: Displacement) -> dict[str, float]:
    """What the tables print, as means over labels; the moving label map plays the warped one."""
    counts = metrics.overlap_counts(case.moving_labels, case.fixed_labels, case.label_ids)
    distances = metrics.surface_distances_mm(
        case.moving_labels, case.fixed_labels, case.label_ids, case.spacing_mm
    )
    return {
        "dice": float(np.nanmean(counts.dice())),
        "precision": float(np.nanmean(counts.precision())),
        "recall": float(np.nanmean(counts.recall())),
        "hd95": float(np.nanmean([hd95_of(pair) for pair in distances])),
        "assd": float(np.nanmean([assd_of(pair) for pair in distances])),
        "ncc": metrics.ncc(case.moving, case.fixed),
        "mse": metrics.mse(case.moving, case.fixed),
        "ssim": metrics.ssim(case.moving, case.fixed, data_range=1.0),
        "jacobian_mean": float(metrics.jacobian_statistics(displacement).mean[0]),
        "folding_forward": float(folding_fraction(displacement, "forward")[0]),
    }


def _timed(case: str, run: Callable[[], object], target: float | None) -> dict[str, object]:
    run()  # warms caches up
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return timing(case, seconds, target)
