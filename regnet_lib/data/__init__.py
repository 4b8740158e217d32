"""Adapters from files (or a seed) to cases.

dataset = open_dataset("lpba40", spacing_mm=2)
for case_id in dataset.ids("test"):
    case = dataset.case(case_id)
"""

from importlib import import_module

from regnet_lib.data.nifti import BadInputError, Volume, read_volume, write_volume

__all__ = [
    "DATASETS",
    "IXI",
    "LPBA40",
    "MARKERS",
    "OASIS",
    "AbdomenCTMR",
    "BadInputError",
    "Case",
    "DIRLab",
    "DIRLabPhantom",
    "Dataset",
    "ElastixLungCT",
    "Hippocampus",
    "IXIHammersmith",
    "IXITransMorph",
    "LungCT",
    "LungSemireal",
    "OASISSamples",
    "Phantoms",
    "ProstateMRUS",
    "Volume",
    "available",
    "landmarks_outside",
    "open_dataset",
    "phantom_pair",
    "read_volume",
    "write_fake_abdomen_ctmr",
    "write_fake_dirlab",
    "write_fake_elastix_lung_ct",
    "write_fake_hippocampus",
    "write_fake_ixi",
    "write_fake_ixi_hh_2mm",
    "write_fake_ixi_transmorph",
    "write_fake_lpba40",
    "write_fake_lung_ct",
    "write_fake_lung_semireal",
    "write_fake_oasis",
    "write_fake_oasis_samples",
    "write_fake_prostate_mr_us",
    "write_volume",
]


def __getattr__(name: str):
    """The rest loads on first use, so that reading a volume does not wait for torch."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.adapters"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
