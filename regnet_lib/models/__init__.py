"""The zoo: every method under one name and one interface.

model = create_model("voxelmorph2")
registration = model(moving, fixed)     # (B, 1, D, H, W) twice -> Registration
"""

from difflib import get_close_matches

from torch import nn

from regnet_lib.models.ad_regnet import ADRegNet
from regnet_lib.models.classical import GradientDescent, SyN
from regnet_lib.models.convexadam import ConvexAdam
from regnet_lib.models.corrmlp import CorrMLP
from regnet_lib.models.cyclemorph import CycleMorph
from regnet_lib.models.deeds import Deeds
from regnet_lib.models.dlir import DLIR
from regnet_lib.models.eoir import EOIR
from regnet_lib.models.eppenhof import Eppenhof
from regnet_lib.models.fang_fcn import FangFCN
from regnet_lib.models.groupmorph import GroupMorph
from regnet_lib.models.identity import Identity
from regnet_lib.models.lganet import LGANet
from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.models.llnet import (
    LLNet,
    llnet_diff_small,
    llnet_large,
    llnet_small,
    llnet_tiny,
)
from regnet_lib.models.mjcnn import MJCNN
from regnet_lib.models.mlvirnet import MLVIRNet
from regnet_lib.models.modet import ModeT
from regnet_lib.models.nnformer import NNFormer
from regnet_lib.models.pcnet import PCNet
from regnet_lib.models.pivit import PIViT
from regnet_lib.models.prnetpp import PRNetPP
from regnet_lib.models.rdp import RDP
from regnet_lib.models.transmorph import TransMorph, transmorph_tiny
from regnet_lib.models.vitvnet import ViTVNet
from regnet_lib.models.voxelmorph import VoxelMorph1, VoxelMorph2

MODELS = {
    "identity": Identity,
    "gradient_descent": GradientDescent,
    "syn": SyN,
    "deeds": Deeds,
    "convexadam": ConvexAdam,
    "voxelmorph1": VoxelMorph1,
    "voxelmorph2": VoxelMorph2,
    "cyclemorph": CycleMorph,
    "vitvnet": ViTVNet,
    "nnformer": NNFormer,
    "transmorph_tiny": transmorph_tiny,
    "transmorph": TransMorph,
    "llnet_tiny": llnet_tiny,
    "llnet_small": llnet_small,
    "llnet_large": llnet_large,
    "llnet_diff_small": llnet_diff_small,
    "dlir": DLIR,
    "eppenhof": Eppenhof,
    "fang_fcn": FangFCN,
    "mlvirnet": MLVIRNet,
    "mjcnn": MJCNN,
    "pivit": PIViT,
    "prnetpp": PRNetPP,
    "pcnet": PCNet,
    "modet": ModeT,
    "corrmlp": CorrMLP,
    "groupmorph": GroupMorph,
    "rdp": RDP,
    "eoir": EOIR,
    "ad_regnet": ADRegNet,
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
    "DLIR",
    "EOIR",
    "MJCNN",
    "MODELS",
    "RDP",
    "ADRegNet",
    "ConvexAdam",
    "CorrMLP",
    "CycleMorph",
    "Deeds",
    "Eppenhof",
    "FangFCN",
    "GradientDescent",
    "GroupMorph",
    "Identity",
    "LGANet",
    "LGANetPP",
    "LLNet",
    "MLVIRNet",
    "ModeT",
    "NNFormer",
    "PCNet",
    "PIViT",
    "PRNetPP",
    "SyN",
    "TransMorph",
    "ViTVNet",
    "VoxelMorph1",
    "VoxelMorph2",
    "create_model",
]
