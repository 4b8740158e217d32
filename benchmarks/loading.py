"""One epoch of images: from a cache against the `.nii.gz` files of the set, and against the cache
on disk of MONAI.

Real volumes where `$REGNET_DATA` has them, else phantoms in the layout of LPBA40. Each round opens
the set anew, so that nothing is left in memory; the cache has been written before.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Comparison, installed
from regnet_lib.data import available, open_dataset, write_fake_lpba40
from regnet_lib.data.cache import CachedDataset

TARGET = 5.0
SETS = {"lpba40": 8, "ixi_hh_2mm": 24}
PEERS = ("monai",)
EXPLANATION = ""
_KEPT: list[tempfile.TemporaryDirectory] = []  # until the program ends


def comparisons() -> list[Comparison]:
    """One contest per set on this machine."""
    here = {name: None for name in SETS if available(name)}
    if not here:
        here = {"lpba40": write_fake_lpba40(_folder() / "lpba40", shape=(96, 96, 96), train=8)}
    return [one for name, root in here.items() for one in _of_set(name, root, SETS[name])]


def _of_set(name: str, root: Path | None, count: int) -> list[Comparison]:
    cache = _folder()

    def epoch(wrap: Callable, cases: int = count) -> list[Tensor]:
        dataset = wrap(open_dataset(name, root))
        read = (dataset.case(case_id, labels=False) for case_id in dataset.ids("train")[:cases])
        return [image for case in read for image in (case.moving, case.fixed)]

    from_cache = partial(epoch, lambda dataset: CachedDataset(dataset, cache))
    images = from_cache()  # writes it
    shape = "x".join(map(str, images[0].shape[2:]))
    real = "phantoms" if root else "real"
    contests = [(partial(epoch, lambda dataset: dataset), ".nii.gz", TARGET)]
    if installed("monai"):
        from_monai = partial(_monai_epoch, name, root, count, _folder())
        from_monai()  # writes it
        contests.append((from_monai, "MONAI's PersistentDataset", None))
    return [
        Comparison(
            case=f"{name} ({real}), {count} cases, {shape}",
            ours=from_cache,
            other=other,
            other_name=other_name,
            check=_agree,
            target=target,
            rounds=3,
        )
        for other, other_name, target in contests
    ]


def _monai_epoch(name: str, root: Path | None, count: int, folder: Path) -> list[Tensor]:
    """The same images, read by the same adapter and kept on disk by MONAI."""
    from monai.data import PersistentDataset

    dataset = open_dataset(name, root)

    def read(case_id: str) -> list[Tensor]:
        case = dataset.case(case_id, labels=False)
        return [case.moving, case.fixed]

    cached = PersistentDataset(dataset.ids("train")[:count], read, cache_dir=folder)
    return [image for images in cached for image in images]


def _agree(ours: list[Tensor], other: list[Tensor]) -> str:
    worst = max(float((a - b).abs().max()) for a, b in zip(ours, other, strict=True))
    assert worst <= 1e-5, worst
    assert all(a.dtype == torch.float32 for a in ours)
    return f"largest difference {worst:.1e}"


def _folder() -> Path:
    _KEPT.append(tempfile.TemporaryDirectory(prefix="regnet-loading-"))
    return Path(_KEPT[-1].name)
