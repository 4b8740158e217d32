"""Attention against softmax(Q K^T scale) V, and the released reading of tokens."""

import pytest
import torch

from regnet_lib.nn.attention import (
    GlobalAttention,
    LocalAttention,
    LocalGlobalBlock,
    PositionAttention,
    attend,
    consecutive_tokens,
    local_groups,
    tokens_to_channels,
)


@pytest.mark.parametrize("narrow", [2, 5, 16])
def test_attend_is_softmax_attention(narrow):
    query, key = torch.randn(2, 3, 20, narrow, dtype=torch.float64)
    value = torch.randn(3, 20, 16, dtype=torch.float64)
    weights = torch.softmax(query @ key.transpose(1, 2) * 0.7, dim=-1)
    found = attend(query, key, value, scale=0.7)
    torch.testing.assert_close(found, weights @ value, rtol=0, atol=1e-12)


def test_released_tokens_are_runs_of_one_channel():
    features = torch.arange(2 * 4 * 24).view(2, 4, 2, 3, 4)
    tokens = consecutive_tokens(features.float())
    assert tokens.shape == (2, 24, 4)
    assert tokens[0, 1].tolist() == [4, 5, 6, 7]
    assert tokens[1, 0].tolist() == [96, 97, 98, 99]


def test_released_tokens_are_written_by_voxel():
    tokens = torch.randn(2, 24, 4)
    channels = tokens_to_channels(tokens, (2, 3, 4))
    assert channels.shape == (2, 4, 2, 3, 4)
    assert torch.equal(channels[1, 2, 1, 0, 3], tokens[1, 12 + 3, 2])


def test_position_attention_starts_as_the_identity():
    layer = PositionAttention(16)
    features = torch.randn(1, 16, 3, 4, 5)
    assert torch.equal(layer(features), features)
    layer.gamma.data.fill_(1.0)
    assert not torch.allclose(layer(features), features)


def test_position_attention_commutes_with_a_permutation_of_voxels():
    layer = PositionAttention(8).double()
    layer.gamma.data.fill_(0.5)
    features = torch.randn(1, 8, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(features.flip(2, 4)), layer(features).flip(2, 4))


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((6, 6, 6), 1), ((12, 14, 10), 4), ((18, 22, 18), 27), ((20, 24, 20), 36)],
)
def test_local_groups(shape, groups):
    assert local_groups(shape) == groups


def test_one_group_is_global():
    torch.manual_seed(0)
    layer = LocalAttention(16).eval()
    features = torch.randn(1, 16, 6, 6, 7)
    tokens = layer.projection(layer.attention(consecutive_tokens(features)))
    torch.testing.assert_close(layer(features), tokens_to_channels(tokens, (6, 6, 7)))


def test_local_attention_stays_in_its_group():
    torch.manual_seed(0)
    layer = LocalAttention(8).eval()
    features = torch.randn(1, 8, 12, 6, 6)
    changed = features.clone()
    changed[:, :4] += 1  # the first 4 of 8 channels hold the tokens of the first of two groups
    same = (layer(features) == layer(changed)).flatten(2).all(1)[0]
    assert same.view(2, -1).all(1).tolist() == [False, True]


@pytest.mark.parametrize("layer", [GlobalAttention(16), LocalAttention(16), LocalGlobalBlock(16)])
def test_dropout_acts_in_training_only(layer):
    torch.manual_seed(0)
    features = torch.randn(1, 16, 6, 6, 6)
    assert not torch.equal(layer.train()(features), layer(features))
    assert torch.equal(layer.eval()(features), layer(features))


def test_block_gradients_reach_every_weight():
    layer = LocalGlobalBlock(16)
    layer(torch.randn(1, 16, 6, 6, 6)).square().mean().backward()
    assert all(weights.grad.abs().sum() > 0 for weights in layer.parameters())
