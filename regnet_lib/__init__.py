"""Deformable 3-D image registration, rebuilt from two papers and every method they compare with.

The names below load on first use, so that `import regnet_lib` stays quick.

    >>> import regnet_lib as rn
    >>> model = rn.create_model("voxelmorph2")
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "MODELS": "models",
    "create_model": "models",
    "load_official_state_dict": "models.official_weights",
    "register": "registration",
    "RegistrationResult": "registration",
    "Registration": "types",
    "Case": "data.case",
    "DATASETS": "data",
    "EXPERIMENTS": "experiments",
    "TABLES": "experiments",
    "warp": "spatial",
    "warp_labels": "spatial",
    "warp_points": "spatial",
}
_SUBPACKAGES = ("spatial", "losses", "metrics", "models", "data", "figures", "tables")

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_SUBPACKAGES])
