"""Convolutional blocks, fusion, decomposition and heads."""

import pytest
import torch
from torch import nn

from regnet_lib.nn.blocks import (
    Conv3d,
    ConvNormActivation,
    FeaturePyramid,
    InstanceNormActivation,
    LinearPair,
    PairedResidual,
    channels_innermost,
)
from regnet_lib.nn.decomposition import Decomposition, DecompositionExchange
from regnet_lib.nn.fusion import ChannelWiseFusion, MultiScaleFusion, ScaleProduct, _Product
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.spatial import integrate, warp

SMALLER_THAN_THE_KERNEL = [
    (3, 1, (2, 2, 2)),
    (3, 1, (2, 8, 8)),
    (3, 2, (1, 1, 1)),
    (3, 2, (4, 1, 4)),
    (5, 1, (4, 4, 4)),
]


@pytest.mark.parametrize("kernel, stride, size", SMALLER_THAN_THE_KERNEL)
def test_small_maps_have_true_weight_gradients_under_autocast(kernel, stride, size):
    """PyTorch's own bfloat16 gradients are uninitialised memory there: mostly NaN or infinite."""
    torch.manual_seed(0)
    layers = {
        "convolution": Conv3d(16, 16, kernel, stride=stride, padding=kernel // 2),
        "pair": LinearPair(16, 8, 16),
    }
    for name, layer in layers.items():
        features, gradients = torch.randn(2, 16, *size), []
        for enabled in (False, True):
            layer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                result = layer(features)
            result.float().square().sum().backward()
            gradients.append(next(layer.parameters()).grad.clone())
        expected, found = gradients
        assert (found - expected).norm() < 0.02 * expected.norm(), name


def test_linear_pair_equals_its_two_layers():
    torch.manual_seed(0)
    pair = LinearPair(4, 6, 3).double()
    features = torch.randn(2, 4, 5, 4, 3, dtype=torch.float64)
    outputs = (pair(features), nn.Sequential.forward(pair, features))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    weights = list(pair.parameters())
    gradients = [torch.autograd.grad(output.square().sum(), weights) for output in outputs]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_feature_pyramid_halves_and_widens():
    torch.manual_seed(0)
    features = FeaturePyramid((4, 8, 12))(torch.rand(2, 1, 8, 16, 12))
    assert [tuple(level.shape) for level in features] == [
        (2, 4, 8, 16, 12),
        (2, 8, 4, 8, 6),
        (2, 12, 2, 4, 3),
    ]


def test_channels_innermost_changes_the_layout_alone():
    torch.manual_seed(0)
    network = nn.Sequential(Conv3d(2, 4, 3, padding=1), ConvNormActivation(4, 3)).double()
    features = torch.randn(1, 2, 6, 5, 4, dtype=torch.float64)
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    expected = network(features)
    assert channels_innermost(network) is network
    for weights in (network[0].weight, network[1][0].weight):
        assert weights.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(network(features), expected, rtol=0, atol=1e-12)
    assert all(torch.equal(weights, before[name]) for name, weights in network.state_dict().items())


def test_normalisation_sees_one_image_at_a_time():
    torch.manual_seed(0)
    block = ConvNormActivation(1, 4)
    images = torch.rand(2, 1, 6, 6, 6) * torch.tensor([1.0, 100.0]).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(block(images)[:1], block(images[:1]))


@pytest.mark.parametrize("slope", [0.1, 1.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_normalisation_in_one_step_equals_its_two_layers(slope, layout):
    torch.manual_seed(0)
    features = 3 + 5 * torch.randn(2, 4, 5, 4, 3, dtype=torch.float64)
    features = features.to(memory_format=layout).requires_grad_()
    found = InstanceNormActivation(slope)(features)
    expected = nn.functional.leaky_relu(nn.functional.instance_norm(features), slope)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=layout)
    upstream = torch.randn_like(found)
    gradients = [torch.autograd.grad(one, features, upstream)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 2])
def test_normalisation_is_the_same_in_both_memory_formats(batch):
    """Also for maps far from zero, and for gradients that come in the other format."""
    torch.manual_seed(0)
    block = InstanceNormActivation(0.1)
    features = 100 + torch.randn(batch, 6, 12, 10, 8)
    upstream = torch.randn_like(features)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        inputs = features.to(memory_format=layout).requires_grad_()
        found = block(inputs)
        assert found.is_contiguous(memory_format=layout)
        (gradient,) = torch.autograd.grad(found, inputs, upstream)
        results.append((found, gradient))
    expected = nn.functional.leaky_relu(nn.functional.instance_norm(features.double()), 0.1)
    for (found, gradient), limit in zip(results, (1e-4, 2e-5), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=limit, atol=limit)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-3, atol=1e-4)


def test_gradients_of_the_normalisation_in_channels_last_memory():
    torch.manual_seed(0)
    features = torch.randn(2, 2, 3, 2, 4, dtype=torch.float64)
    features = features.to(memory_format=torch.channels_last_3d).requires_grad_()
    assert torch.autograd.gradcheck(InstanceNormActivation(0.1), (features,))


def test_statistics_stay_in_float32_for_bfloat16_features():
    torch.manual_seed(0)
    features = (2 + torch.randn(1, 4, 16, 16, 16)).bfloat16()
    found = InstanceNormActivation()(features)
    expected = nn.functional.instance_norm(features.double())
    assert found.dtype == torch.bfloat16
    # half a unit in the last place of the result; statistics in bfloat16 are off by 4e-3 of it
    error = (found - expected).abs() / expected.abs().clamp(min=1)
    assert error.max() <= 2**-8 * 1.01 and error.mean() < 1.5e-3


def test_slope_of_zero_is_refused():
    with pytest.raises(ValueError, match="slope above 0, got 0.0"):
        InstanceNormActivation(0.0)


def test_paired_residual_is_not_negative_at_its_entry():
    torch.manual_seed(0)
    block = PairedResidual(4)
    assert block(torch.randn(1, 4, 5, 5, 5)).min() >= 0


@pytest.mark.parametrize("std", [1e-5, None])
def test_head_is_float32_under_autocast(std):
    torch.manual_seed(0)
    head = DisplacementHead(8, std)
    features = torch.randn(1, 8, 4, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(features)
    torch.testing.assert_close(found, head(features), rtol=0, atol=0)
    assert (found.abs().max() < 1e-2) == (std is not None)


def test_scale_product_of_constants():
    product = ScaleProduct(2, 3)
    for index, layer in enumerate((*product.fixed, *product.moving), start=1):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, index)
    pairs = [torch.rand(2, 3, 8, 8, 8), torch.rand(2, 3, 4, 4, 4)]
    assert product(pairs, (4, 4, 4)).unique().tolist() == [24.0]


def test_gradients_of_the_product():
    factors = torch.randn(8, 2, 3, dtype=torch.float64)
    factors[2, 0, 0] = 0
    factors = [factor.requires_grad_() for factor in factors.unbind()]
    assert torch.autograd.gradcheck(_Product.apply, factors)


def test_head_runs_without_values():
    head = DisplacementHead(8).to("meta")
    assert head(torch.empty(1, 8, 4, 4, 4, device="meta")).shape == (1, 3, 4, 4, 4)


def test_scale_product_shows_larger_maps_their_block_means():
    torch.manual_seed(0)
    product = ScaleProduct(2, 1)
    fine, coarse = torch.rand(2, 1, 8, 8, 8), torch.rand(2, 1, 4, 4, 4)
    block = fine.view(2, 1, 4, 2, 4, 2, 4, 2)
    means = block.mean((3, 5, 7))
    found = product([fine, coarse], (4, 4, 4))
    torch.testing.assert_close(found, product([means, coarse], (4, 4, 4)))


def test_multi_scale_fusion_has_the_channels_of_each_level():
    torch.manual_seed(0)
    fusion = MultiScaleFusion((8, 16, 32, 64))
    assert sum(weights.numel() for weights in fusion.parameters()) == 105_808
    pairs = [torch.rand(4, 8 * 2**k, 16 // 2**k, 8 // 2**k, 8 // 2**k) for k in range(3)]
    fused = MultiScaleFusion((8, 16, 32))(pairs)
    assert [level.shape[1] for level in fused] == [8, 16, 32]
    assert [level.shape[0] for level in fused] == [2, 2, 2]


def test_channel_wise_fusion_weighs_and_gates():
    torch.manual_seed(0)
    fuse = ChannelWiseFusion(4)
    maps = torch.rand(3, 1, 4, 4, 4, 4).unbind(0)
    weights = fuse.weigh(fuse.merge(torch.cat(maps, dim=1))).softmax(dim=1)
    weighed = torch.cat([maps[k] * weights[:, k : k + 1] for k in range(3)], dim=1)
    pooled = (weighed.flatten(2).mean(2), weighed.flatten(2).max(2).values)
    gate = torch.sigmoid(sum(fuse.gate(values) for values in pooled))
    torch.testing.assert_close(fuse(*maps), weighed * gate.view(1, 12, 1, 1, 1))


@pytest.mark.parametrize("positive", [True, False])
def test_sign_of_decomposed_fields(positive):
    torch.manual_seed(0)
    parts = Decomposition(4, positive)(torch.randn(1, 4, 6, 6, 6))
    assert parts.field.shape == (1, 3, 6, 6, 6) and parts.residual.shape == (1, 4, 6, 6, 6)
    assert (parts.field.min() >= 0) == positive
    assert parts.residual.min() >= 0


def test_exchange_equals_its_four_warps():
    torch.manual_seed(0)
    exchange = DecompositionExchange(4, positive_field=False).double()
    fixed, warped = torch.randn(2, 1, 4, 6, 7, 5, dtype=torch.float64)
    theirs, own = exchange.decompose(fixed), exchange.decompose(warped)
    found, displacement = exchange(theirs, warped)
    expected = warped + warp(theirs.residual, own.field) + warp(own.residual, theirs.field)
    velocity = warp(theirs.field, own.field) + warp(own.field, theirs.field)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    expected = integrate(velocity, padding="zeros")
    torch.testing.assert_close(displacement, expected, rtol=0, atol=1e-12)
