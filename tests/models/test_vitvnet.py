"""ViT-V-Net against the network of the TransMorph repository."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from behaviour import (
    check_autocast_returns_float32_close_to_it,
    check_batch_items_do_not_see_each_other,
)

from regnet_lib.models.official_weights import load_official_state_dict
from regnet_lib.models.vitvnet import PatchTokens, SelfAttention, ViTVNet
from regnet_lib.spatial import resample

# That of the goldens: 1/8 patches of 1/4 maps, so three doublings instead of five.
SMALL = {
    "encoder": (8, 16, 16),
    "patch": 2,
    "channels": 48,
    "blocks": 2,
    "heads": 4,
    "hidden": 96,
    "entry": 32,
    "decoder": (24, 16, 8),
}


def small(shape=(16, 32, 16)) -> ViTVNet:
    torch.manual_seed(0)
    return ViTVNet(shape, **SMALL)


def test_parameter_count_is_the_published_one():
    with torch.device("meta"):
        model = ViTVNet()
    assert sum(weights.numel() for weights in model.parameters()) == 31_560_079
    assert model.embed.code.shape == (1, 5 * 6 * 7, 252)


def test_attention_is_its_formula():
    torch.manual_seed(0)
    attention = SelfAttention(6, heads=2).double()
    tokens = torch.randn(2, 5, 6, dtype=torch.float64)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        query, key, value = (
            layer(tokens)[..., part] for layer in (attention.query, attention.key, attention.value)
        )
        heads.append((query @ key.mT / 3**0.5).softmax(-1) @ value)
    expected = attention.projection(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(tokens), expected, rtol=0, atol=1e-10)


def test_positions_follow_the_grid():
    embed = PatchTokens(1, 4, patch=2, grid=(2, 3, 2), dropout=0.0)
    with torch.no_grad():
        embed.code.copy_(torch.randn(1, 12, 4))
        embed.projection.weight.zero_()
        embed.projection.bias.zero_()
    tokens, shape = embed(torch.rand(1, 1, 4, 6, 4))
    assert tuple(shape) == (2, 3, 2) and torch.equal(tokens, embed.code)
    tokens, shape = embed(torch.rand(2, 1, 8, 6, 10))
    assert tuple(shape) == (4, 3, 5)
    stored = embed.code.mT.view(1, 4, 2, 3, 2)
    expected = resample(stored, (4, 3, 5)).flatten(2).mT.expand(2, -1, -1)
    torch.testing.assert_close(tokens, expected)


def test_starts_from_almost_no_motion_and_trains_every_parameter():
    model = small()
    displacement = model(*torch.rand(2, 1, 1, 16, 32, 16)).displacement
    assert displacement.shape == (1, 3, 16, 32, 16)
    assert 0 < displacement.abs().max() < 1e-2
    displacement.square().sum().backward()
    for key, weights in model.named_parameters():
        assert weights.grad is not None and weights.grad.abs().sum() > 0, key
    assert not model.head.bias.any() and not model.embed.code.any()


def test_skip_connections_below_a_quarter_are_pooled():
    torch.manual_seed(0)
    options = SMALL | {"patch": 8, "decoder": (12, 10, 8, 8, 6), "channels": 12, "hidden": 12}
    model = ViTVNet((32, 32, 64), **options).eval()
    seen = []
    for up in model.decoder:
        up.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    model(*torch.rand(2, 1, 1, 32, 32, 64))
    sizes = [skip.shape[2:] for skip in seen]
    assert sizes == [(2, 2, 4), (4, 4, 8), (8, 8, 16), (16, 16, 32), (32, 32, 64)]
    assert torch.equal(seen[1], F.max_pool3d(seen[2], 2))
    assert torch.equal(seen[0], F.max_pool3d(seen[2], 4))


def test_other_sizes_are_refused_with_the_nearest_one():
    image = torch.zeros(1, 1, 8, 12, 17)
    with pytest.raises(ValueError, match=r"multiples of 8.*\(8, 12, 17\).*\(8, 16, 24\)"):
        small()(image, image)
    with torch.device("meta"):
        assert ViTVNet().valid_shape((160, 161, 31)) == (160, 192, 32)
    with pytest.raises(ValueError, match=r"multiples of 4 patch = 8, got 3 and \(16, 20, 16\)"):
        small((16, 20, 16))


def test_other_sizes_than_the_stored_one_run():
    model = small().eval()
    assert model(*torch.rand(2, 1, 1, 24, 16, 8)).displacement.shape == (1, 3, 24, 16, 8)


def test_batch_items_do_not_see_each_other():
    model = small().eval()  # batch normalisation mixes them in training
    check_batch_items_do_not_see_each_other(model, (16, 32, 16))


def test_autocast_returns_float32_close_to_it():
    model = small().eval()
    check_autocast_returns_float32_close_to_it(model, (16, 32, 16))


@pytest.fixture(scope="module")
def folder(goldens):
    return goldens / "vitvnet_small"


@pytest.fixture(scope="module")
def official_state(folder):
    with np.load(folder / "weights.npz") as stored:
        return {name: torch.from_numpy(np.asarray(stored[name])) for name in stored}


@pytest.mark.golden
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden(folder, official_state, dtype):
    model = small((32, 64, 64)).eval()
    state = dict(official_state)
    state["spatial_trans.grid"] = torch.zeros(1, 3, 32, 64, 64)
    report = load_official_state_dict(model, state)
    assert report.derived == ("spatial_trans.grid",)
    assert len(report.loaded) == len(official_state)
    model = model.to(dtype)
    with np.load(folder / "io.npz") as stored:
        moving, fixed, expected = (
            torch.from_numpy(stored[name]).to(dtype)
            for name in ("in_moving", "in_fixed", "out_flow")
        )
    with torch.no_grad():
        displacement = model(moving, fixed).displacement
    torch.testing.assert_close(displacement, expected, rtol=0, atol=1e-4)


@pytest.mark.golden
def test_official_layout_round_trip(official_state):
    original, model = small((32, 64, 64)), small((32, 64, 64))
    for weights in original.parameters():
        torch.nn.init.normal_(weights)
    ours = original.state_dict()
    official = {key: ours[original.official_keys.rename(key)] for key in official_state}
    load_official_state_dict(model, official)
    assert len(official) == len(ours)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in ours.items())
