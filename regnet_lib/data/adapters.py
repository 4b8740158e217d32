"""Every adapter, and the way to one by its name; `regnet_lib.data` hands out what stands here.

Adapters give tensors and therefore import torch, which takes longer than reading a volume.
"""

# ruff: noqa: F401
import os
from typing import Protocol, runtime_checkable

from regnet_lib.data.abdomen_ctmr import AbdomenCTMR, write_fake_abdomen_ctmr
from regnet_lib.data.case import Case
from regnet_lib.data.dirlab import DIRLab, write_fake_dirlab
from regnet_lib.data.dirlab_phantom import DIRLabPhantom
from regnet_lib.data.elastix_lung_ct import ElastixLungCT, write_fake_elastix_lung_ct
from regnet_lib.data.folders import has_dataset
from regnet_lib.data.ixi import IXI, write_fake_ixi
from regnet_lib.data.ixi_hh_2mm import IXIHammersmith, write_fake_ixi_hh_2mm
from regnet_lib.data.ixi_transmorph import IXITransMorph, write_fake_ixi_transmorph
from regnet_lib.data.landmarks import landmarks_outside
from regnet_lib.data.lpba40 import LPBA40, write_fake_lpba40
from regnet_lib.data.lung_ct import LungCT, write_fake_lung_ct
from regnet_lib.data.lung_semireal import LungSemireal, write_fake_lung_semireal
from regnet_lib.data.msd_hippocampus import Hippocampus, write_fake_hippocampus
from regnet_lib.data.oasis import OASIS, write_fake_oasis
from regnet_lib.data.oasis_samples import OASISSamples, write_fake_oasis_samples
from regnet_lib.data.phantoms import Phantoms, phantom_pair
from regnet_lib.data.prostate_mr_us import ProstateMRUS, write_fake_prostate_mr_us


@runtime_checkable
class Dataset(Protocol):
    """What training and evaluation need from a dataset."""

    name: str
    label_ids: tuple[int, ...]

    def ids(self, split: str) -> tuple[str, ...]: ...

    def case(self, case_id: str, *, labels: bool = True) -> Case: ...


# By the name of its folder. A new adapter is a class here (see pairs.py for the smallest one).
DATASETS = {
    adapter.name: adapter
    for adapter in (
        AbdomenCTMR,
        DIRLab,
        DIRLabPhantom,
        ElastixLungCT,
        Hippocampus,
        IXI,
        IXIHammersmith,
        IXITransMorph,
        LPBA40,
        LungCT,
        LungSemireal,
        OASIS,
        OASISSamples,
        Phantoms,
        ProstateMRUS,
    )
}

# Files of which one must exist in $REGNET_DATA/<name> for a dataset to count as present. Phantoms
# need none, and `lung_semireal` has no folder: it is made from two others.
MARKERS = {
    name: adapter.markers
    for name, adapter in DATASETS.items()
    if hasattr(adapter, "markers") and adapter is not DIRLabPhantom
}


def open_dataset(name: str, root: str | os.PathLike | None = None, **options: object) -> Dataset:
    """A dataset by name; `root` overrides `$REGNET_DATA/<name>`."""
    if name not in DATASETS:
        raise ValueError(f"open_dataset: expected one of {sorted(DATASETS)}, got {name!r}.")
    if DATASETS[name] is not Phantoms:
        options["root"] = root
    return DATASETS[name](**options)


def available(name: str) -> bool:
    """Whether a dataset can be opened here; phantoms always can."""
    if name == LungSemireal.name:
        return all(has_dataset(*part) for part in LungSemireal.made_from.items())
    return name not in MARKERS or has_dataset(name, MARKERS[name])
