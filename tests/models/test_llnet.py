"""LL-Net against the network of its repository."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from behaviour import (
    check_autocast_returns_float32_close_to_it,
    check_batch_items_do_not_see_each_other,
)

from regnet_lib.losses import local_ncc
from regnet_lib.models import create_model
from regnet_lib.models.llnet import LargeKernelGate, LLNet, ProductGate, halve, voxels_of
from regnet_lib.models.official_weights import load_official_state_dict
from regnet_lib.spatial import warp

COUNTS = {
    "llnet_tiny": 170_157,
    "llnet_small": 602_925,
    "llnet_diff_small": 602_925,
    "llnet_large": 1_247_677,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_published_one(name):
    assert sum(weights.numel() for weights in create_model(name).parameters()) == COUNTS[name]


def test_other_published_widths_and_kernels():
    counts = {(4, 5): 56_477, (16, 5): 569_165, (8, 7): 187_037, (24, 5): 1_197_037}
    for (channels, kernel), count in counts.items():
        model = LLNet(channels, kernel)
        assert sum(weights.numel() for weights in model.parameters()) == count
    assert create_model("llnet_large", kernel=5).start[0].kernel_size == (5, 5, 5)


def test_gates_are_their_formulas():
    torch.manual_seed(0)
    features = torch.randn(1, 3, 4, 8, 6, dtype=torch.float64)
    gate = LargeKernelGate(3, kernel=5).double()
    pooled = F.avg_pool3d(features, 2) + F.max_pool3d(features, 2)
    assert torch.equal(halve(features), pooled)
    wide = torch.zeros_like(pooled)
    for layer in gate.wide:
        for channel in range(3):
            kernel = layer.weight[channel : channel + 1]
            padding = [side // 2 for side in kernel.shape[2:]]
            alone = F.conv3d(pooled[:, channel : channel + 1], kernel, padding=padding)
            wide[:, channel : channel + 1] += alone + layer.bias[channel]
    sides = sorted(layer.kernel_size for layer in gate.wide)
    assert sides == [(3, 3, 3), (3, 3, 5), (3, 5, 3), (5, 3, 3)]
    up = F.interpolate(wide, scale_factor=2, mode="trilinear")
    expected = features * torch.sigmoid(gate.mix(gate.local(features) + up))
    torch.testing.assert_close(gate(features), expected, rtol=0, atol=1e-10)
    gate = ProductGate(3).double()
    expected = features * torch.sigmoid(gate.mix(gate.channel(features) * gate.local(features)))
    torch.testing.assert_close(gate(features), expected, rtol=0, atol=1e-10)


def test_one_normalised_unit_is_half_the_distance_of_the_outermost_voxels():
    field = torch.ones(1, 3, 3, 5, 9)
    assert voxels_of(field)[0, :, 0, 0, 0].tolist() == [1, 2, 4]


def test_starts_from_almost_no_motion_and_trains_every_parameter():
    torch.manual_seed(0)
    model = LLNet(4, 5)
    displacement = model(*torch.rand(2, 1, 1, 32, 64, 32)).displacement
    assert displacement.shape == (1, 3, 32, 64, 32)
    assert 0 < displacement.abs().max() < 0.05
    displacement.square().sum().backward()
    for key, weights in model.named_parameters():
        assert weights.grad is not None and weights.grad.abs().sum() > 0, key


def test_no_component_exceeds_half_of_its_axis():
    torch.manual_seed(0)
    model = LLNet(4, 5)
    torch.nn.init.constant_(model.head.bias, 1e6)
    displacement = model(*torch.rand(2, 1, 1, 32, 64, 32)).displacement
    largest = displacement.abs().amax((0, 2, 3, 4))
    torch.testing.assert_close(largest, torch.tensor([15.5, 31.5, 15.5]), rtol=1e-4, atol=0)


def test_the_diffeomorphic_network_integrates_its_velocity():
    torch.manual_seed(0)
    model, plain = LLNet(4, 5, diffeomorphic=True), LLNet(4, 5)
    plain.load_state_dict(model.state_dict())
    for network in (model, plain):
        # A constant velocity is its own integral.
        torch.nn.init.zeros_(network.head.weight)
        network.head.bias.data = torch.tensor([0.5, -0.25, 0.1])
    images = torch.rand(2, 1, 1, 32, 32, 32)
    registration = model(*images)
    velocity = plain(*images).displacement
    assert torch.equal(registration.extras["velocity"], velocity)
    torch.testing.assert_close(registration.displacement, velocity, rtol=0, atol=1e-4)
    assert plain(*images).extras == {}


def test_other_sizes_are_refused_with_the_nearest_one():
    image = torch.zeros(1, 1, 32, 40, 65)
    with pytest.raises(ValueError, match=r"multiples of 32.*\(32, 40, 65\).*\(32, 64, 96\)"):
        LLNet(4, 5)(image, image)


def test_batch_items_do_not_see_each_other():
    torch.manual_seed(0)
    model = LLNet(4, 5)
    check_batch_items_do_not_see_each_other(model, (32, 32, 32))


@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_autocast_returns_float32_close_to_it(diffeomorphic):
    torch.manual_seed(0)
    model = LLNet(4, 5, diffeomorphic)
    check_autocast_returns_float32_close_to_it(model, (32, 32, 32))


@pytest.fixture(scope="module")
def folder(goldens):
    return goldens / "llnet_tiny_c8_l5"


@pytest.fixture(scope="module")
def official_state(folder):
    with np.load(folder / "weights.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


@pytest.fixture(scope="module")
def golden(folder):
    with np.load(folder / "io.npz") as stored:
        return {name: torch.from_numpy(np.asarray(stored[name])) for name in stored}


@pytest.mark.golden
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("diffeomorphic", "name", "tolerance_voxels"),
    [(False, "out_flow_norm", 1e-3), (True, "out_flow_norm_diffeo", 3e-3)],
)
def test_golden(official_state, golden, dtype, diffeomorphic, name, tolerance_voxels):
    """Fields of up to 28 voxels, whose integration magnifies rounding: hence two tolerances."""
    model = LLNet(8, 5, diffeomorphic)
    report = load_official_state_dict(model, official_state)
    assert len(report.loaded) == len(official_state)
    model = model.to(dtype)
    with torch.no_grad():
        registration = model(*(golden[name].to(dtype) for name in ("in_moving", "in_fixed")))
    expected = voxels_of(golden[name].to(dtype))
    torch.testing.assert_close(registration.displacement, expected, rtol=0, atol=tolerance_voxels)


@pytest.mark.golden
def test_golden_warped_image_and_losses(folder, golden):
    recorded = json.loads((folder / "meta.json").read_text())["outputs"]
    for suffix in ("", "_diffeo"):
        displacement = voxels_of(golden[f"out_flow_norm{suffix}"])
        warped = warp(golden["in_moving"], displacement)
        values = recorded[f"warped{suffix}"]
        assert warped.mean() == pytest.approx(values["mean"], abs=1e-5)
        assert warped.std(correction=0) == pytest.approx(values["std"], abs=1e-5)
    warped = warp(golden["in_moving"], voxels_of(golden["out_flow_norm"]))
    loss = local_ncc(warped.double(), golden["in_fixed"].double()) - 1
    assert loss == pytest.approx(golden["out_loss_ncc"].item(), abs=1e-6)


@pytest.mark.golden
def test_the_published_smoothness_scales_by_the_axis_of_the_derivative(golden):
    """The model card says so: S / 2 of the axis along which the difference is taken."""
    normalised = golden["out_flow_norm"]
    terms = [
        (normalised.diff(dim=axis) * normalised.shape[axis] / 2).square().mean()
        for axis in (2, 3, 4)
    ]
    found = torch.stack(terms).mean()
    torch.testing.assert_close(found, golden["out_loss_smooth"], rtol=1e-5, atol=0)


@pytest.mark.golden
def test_official_layout_round_trip(official_state):
    original, model = LLNet(8, 5), LLNet(8, 5)
    ours = original.state_dict()
    official = {key: ours[original.official_keys.rename(key)] for key in official_state}
    load_official_state_dict(model, official)
    assert len(official) == len(ours)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in ours.items())
