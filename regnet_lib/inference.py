"""A network that is asked for a displacement, not trained.

displacement = infer(network.eval(), moving, fixed, "bfloat16")
"""

import torch
from torch import nn

from regnet_lib.models.sizes import run_at_valid_size
from regnet_lib.nn.blocks import channels_innermost
from regnet_lib.types import Displacement, Image, Precision


def infer(
    network: nn.Module, moving: Image, fixed: Image, precision: Precision = "float32"
) -> Displacement:
    """The displacement of a model in float32, on the device of the images, without gradients.

    A network's weights are laid out with the channels innermost, in place.

    Args:
        network: in evaluation mode, on the device of the images.
        moving, fixed: `(B, 1, D, H, W)` of any size.
        precision: of the convolutions and attention of a network; `bfloat16` is autocast, with
            displacements and warps in float32. Methods without weights always take float32.
    """
    learned = any(True for _ in network.parameters())
    channels_innermost(network)
    half = torch.autocast(
        moving.device.type, torch.bfloat16, enabled=learned and precision == "bfloat16"
    )
    # Iterative methods take gradients inside, which inference mode would forbid for good.
    with torch.inference_mode(learned), torch.no_grad(), half:
        displacement = run_at_valid_size(network, moving, fixed).displacement.float()
    # An ordinary tensor again, so that instance optimization can start from it.
    return displacement.clone() if displacement.is_inference() else displacement
