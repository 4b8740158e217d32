"""What LGANet++ costs at the size of an LPBA40 brain, and that checkpointing changes nothing else.

The limits hold on every machine: they are counted, not timed.
"""

import pytest
import torch

from regnet_lib.losses import Objective
from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.profile import account

GIB = 2**30
FULL_SIZE = (144, 176, 144)


def test_training_step_at_full_size():
    cost = account(LGANetPP(), FULL_SIZE)
    # 14.3 TFLOP and 21.0 GiB for the plain transcription of the released network
    assert cost.flops < 11.3e12
    assert cost.peak_bytes < 12.5 * GIB


def test_training_step_with_checkpointing_at_full_size():
    cost = account(LGANetPP(checkpointing=True), FULL_SIZE)
    assert cost.peak_bytes < 6 * GIB
    assert cost.flops < 13.3e12


def test_inference_at_full_size():
    assert account(LGANetPP(), FULL_SIZE, training=False).peak_bytes < 2.2 * GIB


@pytest.mark.parametrize(
    ("options", "shape", "autocast"),
    [
        ({}, (16, 24, 16), False),
        ({"fifm": False, "lgam": False}, (16, 24, 16), False),
        ({"folding_free": True, "msfm": False}, (16, 24, 16), False),
        # PyTorch's bfloat16 convolutions differ from run to run where level 4 has 2x3x2 voxels.
        ({}, (32, 32, 32), True),
    ],
)
def test_checkpointing_is_bit_equal_with_dropout(options, shape, autocast):
    torch.manual_seed(0)
    models = [LGANetPP("paper", checkpointing=wanted, **options) for wanted in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    moving, fixed = torch.rand(2, 1, 1, *shape).unbind()
    results = []
    for model in models:
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            displacement = model.train()(moving, fixed).displacement
        loss, _ = Objective()(displacement, moving, fixed)
        loss.backward()
        gradients = [weights.grad for weights in model.parameters()]
        # what comes next draws the same numbers too
        results.append([displacement, loss, *gradients, torch.rand(1)])
    assert all(map(torch.equal, *results))


def test_checkpointing_keeps_the_parameters():
    names = [LGANetPP(checkpointing=wanted).state_dict().keys() for wanted in (False, True)]
    assert names[0] == names[1]


def test_autocast_moves_no_voxel_far():
    """Heads, grids, the MSFM product, correlation and statistics stay in float32."""
    torch.manual_seed(0)
    model = LGANetPP("paper", small_heads=False).eval().to(memory_format=torch.channels_last_3d)
    moving, fixed = torch.rand(2, 1, 1, 32, 32, 32).unbind()
    with torch.no_grad():
        expected = model(moving, fixed)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(moving, fixed)
    assert expected.displacement.abs().max() > 0.5
    for one, other in zip(found.pyramid, expected.pyramid, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.1
