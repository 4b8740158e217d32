"""VoxelMorph against the networks of the TransMorph repository and of its authors."""

import numpy as np
import pytest
import torch

from regnet_lib.models.official_weights import load_official_state_dict
from regnet_lib.models.voxelmorph import VoxelMorph1, VoxelMorph2
from regnet_lib.spatial import resize, warp


def test_parameter_count_is_the_published_one():
    assert sum(weights.numel() for weights in VoxelMorph2().parameters()) == 301_411


def test_starts_from_almost_no_motion():
    torch.manual_seed(0)
    model = VoxelMorph2()
    displacement = model(*torch.rand(2, 1, 1, 16, 32, 16)).displacement
    assert displacement.shape == (1, 3, 16, 32, 16)
    assert 0 < displacement.abs().max() < 1e-3
    assert not model.head.bias.any()


@pytest.mark.golden
def test_golden(goldens):
    folder = goldens / "voxelmorph2"
    with np.load(folder / "weights.npz") as stored:
        state = {name: torch.from_numpy(stored[name]) for name in stored}
    with np.load(folder / "io.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored}
    model = VoxelMorph2().eval()
    state["spatial_trans.grid"] = torch.zeros(1, 3, 32, 48, 64)
    report = load_official_state_dict(model, state)
    assert report.derived == ("spatial_trans.grid",)
    assert len(report.loaded) == len(state) - 1
    with torch.no_grad():
        registration = model(arrays["in_moving"], arrays["in_fixed"])
    expected = arrays["out_flow"]
    torch.testing.assert_close(registration.displacement, expected, rtol=0, atol=1e-3)
    warped = warp(arrays["in_moving"], registration.displacement)
    torch.testing.assert_close(warped, arrays["out_warped"], rtol=0, atol=1e-4)
    assert registration.pyramid == ()


def test_batch_items_do_not_see_each_other():
    torch.manual_seed(0)
    model = VoxelMorph2().eval()
    moving, fixed = torch.rand(2, 2, 1, 16, 16, 16)
    together = model(moving, fixed).displacement
    alone = torch.cat([model(moving[i : i + 1], fixed[i : i + 1]).displacement for i in (0, 1)])
    assert (together - alone).abs().max() < 1e-4 * alone.abs().max()


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = VoxelMorph2()
    model(*torch.rand(2, 1, 1, 16, 16, 16)).displacement.sum().backward()
    assert all(weights.grad.abs().sum() > 0 for weights in model.parameters())


def test_other_sizes_are_refused_with_the_nearest_one():
    model = VoxelMorph2()
    image = torch.zeros(1, 1, 16, 20, 33)
    with pytest.raises(ValueError, match=r"multiples of 16.*\(16, 20, 33\).*\(16, 32, 48\)"):
        model(image, image)
    assert model.valid_shape((16, 20, 33)) == (16, 32, 48)
    assert VoxelMorph2(encoder=(8, 8), decoder=(8, 8)).valid_shape((5, 4, 9)) == (8, 4, 12)


def test_autocast_returns_float32_close_to_it():
    torch.manual_seed(0)
    model = VoxelMorph2().eval()
    images = torch.rand(2, 1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = model(*images).displacement
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(*images).displacement
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


class TestOfficial:
    """The network of the authors' repository: pooled, a velocity at half resolution."""

    def test_parameter_counts(self):
        counts = {
            (kind, preset): sum(weights.numel() for weights in kind(preset).parameters())
            for kind in (VoxelMorph1, VoxelMorph2)
            for preset in ("transmorph", "official")
        }
        assert list(counts.values()) == [274_387, 276_523, 301_411, 327_331]

    @pytest.mark.golden
    def test_golden(self, goldens):
        folder = goldens / "voxelmorph_official_diffeo"
        with np.load(folder / "weights.npz") as stored:
            state = {name: torch.from_numpy(stored[name]) for name in stored}
        with np.load(folder / "io.npz") as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored}
        model = VoxelMorph2("official").eval()
        report = load_official_state_dict(model, state)
        assert set(report.loaded) == set(state)
        with torch.no_grad():
            registration = model(arrays["in_source"], arrays["in_target"])
        expected = arrays["out_pos_flow"]
        torch.testing.assert_close(registration.displacement, expected, rtol=0, atol=1e-3)
        velocity = registration.extras["velocity"]
        torch.testing.assert_close(velocity, arrays["out_preint_flow"], rtol=0, atol=1e-3)
        warped = warp(arrays["in_source"], registration.displacement)
        torch.testing.assert_close(warped, arrays["out_warped"], rtol=0, atol=1e-4)

    def test_without_integration_the_velocity_is_the_displacement(self):
        torch.manual_seed(0)
        model = VoxelMorph1("official", integration_steps=0)
        registration = model(*torch.rand(2, 1, 1, 16, 16, 16))
        velocity = registration.extras["velocity"]
        torch.testing.assert_close(registration.displacement, resize(velocity, (16, 16, 16)))

    def test_presets_are_checked(self):
        with pytest.raises(ValueError, match=r"VoxelMorph1.*'official'.*got 'pooled'"):
            VoxelMorph1("pooled")
