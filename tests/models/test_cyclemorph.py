"""CycleMorph: released sizes and names, and the loss of both networks by hand."""

import pytest
import torch
from behaviour import check_autocast_returns_float32_close_to_it

from regnet_lib.losses import Objective, local_ncc
from regnet_lib.models.cyclemorph import CycleMorph, Generator
from regnet_lib.models.official_weights import load_official_state_dict
from regnet_lib.spatial import warp

SHAPE = (16, 32, 16)


def released_state():
    """Names and shapes of a released generator, as its repository would save them."""
    channels = {"inconv": (2, 16), "downconv1": (16, 32)}
    channels |= {f"downconv{index}": (32, 32) for index in (2, 3, 4)}
    state = {}

    def put(name, *shape):
        state[f"model.{name}.weight"] = torch.randn(*shape, 3, 3, 3)
        state[f"model.{name}.bias"] = torch.randn(shape[0])

    for name, (less, more) in channels.items():
        put(f"{name}.block.block.0", more, less)
    for index, (less, more, outputs) in enumerate(
        [(32, 64, 32), (32, 64, 32), (32, 64, 32), (8, 24, 8)], start=1
    ):
        put(f"upconv{index}.upconv", less, less)
        put(f"upconv{index}.block.block.0", outputs, more)
    put("keepblock.block.0", 8, 32)
    put("outconv.upconv", 3, 8)
    return state


def test_parameter_counts():
    assert sum(weights.numel() for weights in Generator().parameters()) == 361_299
    assert sum(weights.numel() for weights in CycleMorph().parameters()) == 722_598


def test_a_released_generator_loads():
    model, state = CycleMorph(), released_state()
    report = load_official_state_dict(model.there, state)
    assert set(report.loaded) == set(state) and not report.dead
    assert torch.equal(
        model.there.last_up.merge[0].weight, state["model.upconv4.block.block.0.weight"]
    )
    assert torch.equal(model.there.down[3][0].bias, state["model.downconv4.block.block.0.bias"])
    del state["model.keepblock.block.0.bias"]
    with pytest.raises(ValueError, match=r"narrow\.0\.bias"):
        load_official_state_dict(model.there, state)


def test_registration_is_that_of_the_first_network():
    torch.manual_seed(0)
    model = CycleMorph()
    images = torch.rand(2, 1, 1, *SHAPE)
    displacement = model(*images).displacement
    assert torch.equal(displacement, model.there(*images))
    assert 0 < displacement.abs().max() < 1e-3
    with pytest.raises(ValueError, match=r"multiples of 16.*\(16, 32, 32\)"):
        model(*torch.rand(2, 1, 1, 16, 32, 20))


def test_the_loss_by_hand():
    torch.manual_seed(0)
    model = CycleMorph(cycle_weight=0.3, identity_weight=0.7)
    for generator in (model.there, model.back):
        generator.head.weight.data.normal_(std=0.05)
    objective = Objective(window_voxels=3)
    moving, fixed = torch.rand(2, 1, 1, *SHAPE)
    loss, parts = model.training_loss(objective, moving, fixed)
    a, b = model.there(moving, fixed), model.back(fixed, moving)
    like_fixed, like_moving = warp(moving, a), warp(fixed, b)
    again = warp(like_fixed, model.back(like_fixed, like_moving))
    other = warp(like_moving, model.there(like_moving, like_fixed))
    expected = objective(a, moving, fixed)[0] + objective(b, fixed, moving)[0]
    expected = expected + 0.3 * ((again - moving).abs().mean() + (other - fixed).abs().mean())
    for generator, image in ((model.there, fixed), (model.back, moving)):
        expected = expected + 0.7 * local_ncc(warp(image, generator(image, image)), image, 3)
    torch.testing.assert_close(loss, expected)
    assert set(parts) == {"loss", "local_ncc", "diffusion", "cycle", "identity"}
    loss.backward()
    assert all(weights.grad.abs().sum() > 0 for weights in model.parameters())


def test_a_perfect_cycle_costs_nothing():
    """With both networks at rest, images come back exactly, whatever they look like."""
    model = CycleMorph()
    for generator in (model.there, model.back):
        torch.nn.init.zeros_(generator.head.weight)
    moving, fixed = torch.rand(2, 1, 1, *SHAPE)
    _, parts = model.training_loss(Objective(window_voxels=3), moving, fixed)
    assert parts["cycle"] < 1e-6


def test_autocast_returns_float32_close_to_it():
    torch.manual_seed(0)
    model = CycleMorph().eval()
    check_autocast_returns_float32_close_to_it(model, SHAPE, share=0.05)
