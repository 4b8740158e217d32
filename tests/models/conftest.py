"""The released LGANet++ with the weights and inputs of its goldens, built once per module."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.models.official_weights import load_official_state_dict

OFFICIAL_CLASS = "LGANetPlusPlus"


@pytest.fixture(scope="session")
def lganet_folder(goldens: Path) -> Path:
    return goldens / "lganet"


@pytest.fixture(scope="session")
def recipe(lganet_folder: Path) -> ModuleType:
    """Official parameter name -> golden value."""
    spec = importlib.util.spec_from_file_location("lganet_recipe", lganet_folder / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def official_parameters(lganet_folder: Path) -> dict[str, dict]:
    """Official name -> shape, sum, used."""
    return json.loads((lganet_folder / "parameters.json").read_text())[OFFICIAL_CLASS]


@pytest.fixture(scope="session")
def official_state(recipe, official_parameters) -> dict[str, torch.Tensor]:
    """A complete official state_dict; the never-used parameters are broadcast zeros."""
    state = {}
    for name, entry in official_parameters.items():
        shape = tuple(entry["shape"])
        if entry["used"]:
            state[name] = torch.from_numpy(recipe.value(OFFICIAL_CLASS, name, shape))
        else:
            state[name] = torch.zeros(1).expand(shape)
    return state


@pytest.fixture(scope="session")
def golden(lganet_folder: Path) -> dict[str, torch.Tensor]:
    """Arrays of the 48x48x48 case, with batch axes."""
    with np.load(lganet_folder / "lganetpp_48x48x48.npz") as arrays:
        result = {name: torch.from_numpy(arrays[name])[None] for name in arrays}
    for name in ("moving", "fixed", "warped_ac_false"):
        result[name] = result[name][None]
    for name in (name for name in result if "label" in name):
        result[name] = result[name][None].long()
    return result


@pytest.fixture(scope="session")
def golden_values(lganet_folder: Path) -> dict:
    """Scalars of the 48x48x48 case."""
    return json.loads((lganet_folder / "lganetpp_48x48x48.json").read_text())


@pytest.fixture(scope="module")
def released(official_state) -> LGANetPP:
    """The released network with the golden weights, in evaluation mode."""
    model = LGANetPP().eval()
    load_official_state_dict(model, official_state)
    return model
