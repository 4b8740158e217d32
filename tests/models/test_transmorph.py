"""TransMorph against the network of its repository."""

import json
from math import cos, sin

import numpy as np
import pytest
import torch
from behaviour import (
    check_autocast_returns_float32_close_to_it,
    check_batch_items_do_not_see_each_other,
)

from regnet_lib.losses import diffusion, local_ncc
from regnet_lib.models import create_model, transmorph
from regnet_lib.models.official_weights import load_official_state_dict
from regnet_lib.models.transmorph import (
    PRESETS,
    Configuration,
    LearnedPosition,
    SinusoidalPosition,
    TransMorph,
)
from regnet_lib.spatial import warp

# Scalars that the published configurations declare, and those that they never use.
DECLARED = {
    "tiny": (244_527, 0),
    "small": (11_757_195, 0),
    "base": (46_771_251, 0),
    "large": (108_343_907, 0),
    "no_convolution_skips": (46_702_131, 3_456),
    "no_transformer_skips": (41_545_779, 1_344),
    "no_skips": (41_476_659, 4_800),
    "no_relative_positions": (46_771_251, 82_368),
    "learned_positions": (63_630_387, 0),
    "sinusoidal_positions": (46_771_251, 0),
}
SMALL = Configuration(channels=16, window=(3, 4, 5))
TINY = Configuration(channels=8, window=(3, 3, 3))
VARIANTS = {
    "complete": {},
    "no_convolution_skips": {"convolution_skips": False},
    "no_transformer_skips": {"transformer_skips": False},
    "no_relative_positions": {"relative_positions": False},
    "learned_positions": {"absolute_positions": "learned"},
    "sinusoidal_positions": {"absolute_positions": "sinusoidal"},
}


def variant(name: str, **options) -> TransMorph:
    torch.manual_seed(0)
    return TransMorph(Configuration(channels=8, window=(3, 3, 3), **VARIANTS[name], **options))


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_count_is_the_published_one(preset):
    with torch.device("meta"):
        model = TransMorph(preset)
    declared, unused = DECLARED[preset]
    assert sum(weights.numel() for weights in model.parameters()) == declared - unused
    assert f"{declared - unused:,}" in transmorph.__doc__


def test_presets_by_name():
    assert sum(weights.numel() for weights in create_model("transmorph_tiny").parameters()) == (
        244_527
    )
    with pytest.raises(ValueError, match="preset to be one of tiny, small, base.*got 'huge'"):
        TransMorph("huge")


@pytest.mark.parametrize("name", VARIANTS)
def test_starts_from_almost_no_motion_and_trains_every_parameter(name):
    model = variant(name).eval()  # no stochastic depth, which leaves out whole blocks
    displacement = model(*torch.rand(2, 1, 1, 32, 64, 32)).displacement
    assert displacement.shape == (1, 3, 32, 64, 32)
    assert 0 < displacement.abs().max() < 1e-2
    displacement.square().sum().backward()
    for key, weights in model.named_parameters():
        assert weights.grad is not None and weights.grad.abs().sum() > 0, key


def test_stochastic_depth_belongs_to_training():
    model = variant("complete", depth_rate=0.9)
    images = torch.rand(2, 1, 1, 32, 32, 32)
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.equal(model(*images).displacement, model(*images).displacement)
        model.eval()
        assert torch.equal(model(*images).displacement, model(*images).displacement)


def test_sinusoidal_codes_are_their_formula():
    # 8 channels: 4 per axis, of which the last 4 of 12 are cut off.
    codes = SinusoidalPosition()(torch.zeros(1, 3, 4, 5, 8))[0]
    for z, y, x in ((0, 0, 0), (2, 1, 4), (1, 3, 2)):
        expected = []
        for place in (z, y, x):
            angles = [place * 10_000 ** (-k / 4) for k in (0, 2)]
            expected += [sin(angle) for angle in angles] + [cos(angle) for angle in angles]
        torch.testing.assert_close(codes[z, y, x], torch.tensor(expected[:8]), rtol=0, atol=1e-6)


def test_learned_codes_are_resampled():
    position = LearnedPosition(2, side=4)
    with torch.no_grad():
        position.table.copy_(torch.randn(1, 2, 4, 4, 4))
    voxels = torch.zeros(1, 4, 4, 4, 2)
    assert torch.equal(position(voxels)[0].movedim(-1, 0), position.table[0])
    with torch.no_grad():
        position.table.fill_(3.0)
    assert torch.allclose(position(torch.zeros(1, 2, 6, 3, 2)), torch.tensor(3.0))


def test_other_sizes_are_refused_with_the_nearest_one():
    model = TransMorph(TINY)
    image = torch.zeros(1, 1, 32, 40, 65)
    with pytest.raises(ValueError, match=r"multiples of 32.*\(32, 40, 65\).*\(32, 64, 96\)"):
        model(image, image)


def test_batch_items_do_not_see_each_other():
    model = variant("complete").eval()
    check_batch_items_do_not_see_each_other(model, (32, 64, 32))


def test_autocast_returns_float32_close_to_it():
    model = variant("complete").eval()
    check_autocast_returns_float32_close_to_it(model, (32, 32, 32))


@pytest.fixture(scope="module")
def folder(goldens):
    return goldens / "transmorph_e16"


@pytest.fixture(scope="module")
def official_state(folder):
    with np.load(folder / "weights.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


@pytest.fixture(scope="module")
def golden(folder):
    with np.load(folder / "io.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


@pytest.mark.golden
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden(official_state, golden, dtype):
    """Windows of 3x4x5 on maps of 8x16x16 to 1x2x2: padding, shifts and masks at all stages."""
    model = TransMorph(SMALL).eval()
    state = dict(official_state)
    state["spatial_trans.grid"] = torch.zeros(1, 3, 32, 64, 64)
    state["transformer.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(60, 60)
    report = load_official_state_dict(model, state)
    assert len(report.loaded) == len(official_state) and len(report.derived) == 2
    model = model.to(dtype)
    images = [golden[name].to(dtype) for name in ("in_moving", "in_fixed")]
    with torch.no_grad():
        registration = model(*images)
        stages = model.encoder(torch.cat(images, dim=1))
    for number, features in enumerate(stages):
        expected = golden[f"out_swin_out{number}"].to(dtype)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-4)
    expected = golden["out_flow"].to(dtype)
    torch.testing.assert_close(registration.displacement, expected, rtol=0, atol=1e-4)
    assert registration.pyramid == ()


@pytest.mark.golden
def test_golden_warped_image(folder, golden):
    """The official warp is ours: mean and spread of its warped image are recorded."""
    recorded = json.loads((folder / "meta.json").read_text())["outputs"]["warped"]
    warped = warp(golden["in_moving"], golden["out_flow"])
    assert warped.mean() == pytest.approx(recorded["mean"], abs=1e-6)
    assert warped.std(correction=0) == pytest.approx(recorded["std"], abs=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "dead"),
    [
        ("complete", 0),
        ("no_convolution_skips", 2),
        ("no_transformer_skips", 6),
        ("no_relative_positions", 10),
        ("learned_positions", 0),
    ],
)
def test_official_layout_round_trip(official_state, name, dead):
    """A model's state under official names, with what the official code declares and never uses."""
    original, model = variant(name), variant(name)
    for weights in original.parameters():
        torch.nn.init.normal_(weights)
    ours = original.state_dict()
    official = {key: ours.get(original.official_keys.rename(key)) for key in official_state}
    for key, value in official.items():
        official[key] = torch.zeros(1) if value is None else value
    if name == "learned_positions":
        official["transformer.absolute_pos_embed"] = ours["encoder.position.table"]
    report = load_official_state_dict(model, official)
    assert len(report.dead) == dead
    assert len(report.loaded) == len(ours)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in ours.items())


@pytest.mark.golden
def test_losses_of_the_published_training(goldens):
    with np.load(goldens / "transmorph_losses" / "io.npz") as stored:
        arrays = {name: torch.from_numpy(np.asarray(stored[name])) for name in stored}
    for window in (5, 9):
        loss = local_ncc(arrays["in_a"].double(), arrays["in_b"].double(), window=window) - 1
        assert loss == pytest.approx(arrays[f"out_NCC_vxm_win{window}"].item(), abs=1e-6)
    smoothness = diffusion(arrays["in_flow"])
    torch.testing.assert_close(smoothness, arrays["out_Grad3d_l2"], rtol=0, atol=1e-5)
