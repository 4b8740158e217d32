"""The zoo: every method under one name and one interface.

model = create_model("voxelmorph2")
registration = model(moving, fixed)     # (B, 1, D, H, W) twice -> Registration
"""

from difflib import get_close_matches

from torch import nn

from regnet_lib.models.classical import GradientDescent, SyN
from regnet_lib.models.identity import Identity
from regnet_lib.models.lganet import LGANet
from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.models.voxelmorph import VoxelMorph2

MODELS = {
    "identity": Identity,
    "gradient_descent": GradientDescent,
    "syn": SyN,
    "voxelmorph2": VoxelMorph2,
    "lganet": LGANet,
    "lganetpp": LGANetPP,
}


def create_model(name: str, **options: object) -> nn.Module:
    """A model by name; an unknown name lists the near ones.

    Raises:
        ValueError: no such model.
        TypeError: an option that the model does not have.
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=3, cutoff=0.4) or sorted(MODELS)
        raise ValueError(
            f"create_model: expected the name of a model, got {name!r}. Near: {', '.join(near)}."
        )
    return MODELS[name](**options)


__all__ = [
    "MODELS",
    "GradientDescent",
    "Identity",
    "LGANet",
    "LGANetPP",
    "SyN",
    "VoxelMorph2",
    "create_model",
]
