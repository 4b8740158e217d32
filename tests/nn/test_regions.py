"""Regional adaptive attention: weights by hand, regions in their places."""

import math

import pytest
import torch
import torch.nn.functional as F

from regnet_lib.nn.regions import RegionalAttention

C = 8


def build(channels=C, heads=4):
    torch.manual_seed(0)
    return RegionalAttention(channels, heads).double()


def features_of(*shape, channels=C, batch=1):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *shape, generator=generator, dtype=torch.float64)


def regions_of(shape, side):
    """Slices of the cubes, in the order of the grid of regions."""
    starts = [range(0, size, side) for size in shape]
    return [
        (..., slice(d, d + side), slice(h, h + side), slice(w, w + side))
        for d in starts[0]
        for h in starts[1]
        for w in starts[2]
    ]


def weights_by_hand(layer, features, side):
    """Means of the cubes, multi-head self-attention, a score, softmax: `(B, regions)`."""
    heads, channels = layer.attention.num_heads, features.shape[1]
    means = [features[region].mean((2, 3, 4)) for region in regions_of(features.shape[2:], side)]
    tokens = torch.stack(means, dim=1)
    projected = F.linear(tokens, layer.attention.in_proj_weight, layer.attention.in_proj_bias)
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1)
    )
    scores = query @ key.transpose(2, 3) / math.sqrt(channels / heads)
    context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    return layer.score(layer.attention.out_proj(context)).squeeze(-1).softmax(1)


def test_parameters():
    count = sum(weights.numel() for weights in RegionalAttention(32).parameters())
    assert count == 4 * 32**2 + 4 * 32 + 33


@pytest.mark.parametrize(
    ("shape", "side"), [((4, 6, 4), 2), ((5, 4, 7), 3), ((2, 3, 2), 1), ((4, 4, 4), 16)]
)
def test_by_hand(shape, side):
    layer, features = build(), features_of(*shape, batch=2)
    layer.score.weight.data *= 20  # far from uniform
    found = layer(features, side)
    weights = weights_by_hand(layer, features, side)
    regions = regions_of(shape, side)
    torch.testing.assert_close(found.weights.flatten(1), weights, rtol=1e-10, atol=1e-12)
    assert found.weights.shape[2:] == tuple(-(-size // side) for size in shape)
    for item in range(2):
        for weight, region in zip(weights[item], regions, strict=True):
            gain = len(regions) * weight
            torch.testing.assert_close(found.features[item][region], gain * features[item][region])
            relative = found.modulation[item][region] - weight / weights[item].max()
            assert relative.abs().max() < 1e-12


def test_invariants():
    layer, features = build(), features_of(6, 4, 4, batch=2)
    found = layer(features, 2)
    torch.testing.assert_close(found.weights.sum((1, 2, 3, 4)), torch.ones(2).double())
    # Regions of one size: the gains n w have a mean of 1.
    gains = (found.features / features)[:, 0]
    torch.testing.assert_close(gains.mean((1, 2, 3)), torch.ones(2).double())
    assert found.modulation.min() > 0
    torch.testing.assert_close(found.modulation.amax((1, 2, 3, 4)), torch.ones(2).double())


def test_equal_regions_change_nothing():
    tile = features_of(2, 2, 2)
    features = tile.repeat(1, 1, 3, 2, 2)
    found = build()(features, 2)
    torch.testing.assert_close(found.features, features)
    torch.testing.assert_close(found.modulation, torch.ones_like(found.modulation))


def test_the_printed_sum_would_be_one_region():
    """F' = sum w_i R_i as printed: the weighted regions, added instead of put back."""
    features, side = features_of(4, 4, 4), 2
    found = build()(features, side)
    regions = regions_of((4, 4, 4), side)
    printed = sum(
        weight * features[region]
        for weight, region in zip(found.weights.flatten(), regions, strict=True)
    )
    assert printed.shape == (1, C, 2, 2, 2)
    put_back = sum(found.features[region] for region in regions) / len(regions)
    torch.testing.assert_close(put_back, printed)


def test_regions_that_swap_places_swap_weights():
    layer, features = build(), features_of(4, 2, 2)
    swapped = torch.cat([features[:, :, 2:], features[:, :, :2]], dim=2)
    one, other = layer(features, 2).weights, layer(swapped, 2).weights
    torch.testing.assert_close(one.flip(2), other)


def test_gradcheck():
    layer, features = build(2, heads=1), features_of(3, 2, 2, channels=2).requires_grad_()
    layer.score.weight.data *= 5

    def weighted(features, score):
        found = torch.func.functional_call(layer, {"score.weight": score}, (features, 2))
        return found.features, found.modulation, found.weights

    assert torch.autograd.gradcheck(weighted, (features, layer.score.weight))


def test_the_bias_of_the_score_cannot_matter():
    """A softmax does not see a number added to all scores."""
    layer, features = build(), features_of(4, 4, 4)
    layer(features, 2).features.square().sum().backward()
    assert layer.score.weight.grad.abs().max() > 1e-6
    assert layer.score.bias.grad.abs().max() < 1e-12


def test_autocast_keeps_float32_weights_and_narrow_features():
    torch.manual_seed(0)
    layer, features = RegionalAttention(8), torch.randn(1, 8, 4, 4, 4)
    expected = layer(features, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(features.bfloat16(), 2)
    assert found.weights.dtype == found.modulation.dtype == torch.float32
    assert found.features.dtype == torch.bfloat16
    torch.testing.assert_close(found.weights, expected.weights, rtol=0.02, atol=0)
