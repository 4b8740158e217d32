"""Local correlation against its definition."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from regnet_lib.nn.correlation import CorrelationResidual, local_correlation


def by_definition(first, second, radius=1):
    """A mean of products per offset, first axis slowest, zeros outside."""
    shape = first.shape[2:]
    padded = F.pad(second, [radius] * 6)
    channels = []
    for start in product(range(2 * radius + 1), repeat=3):
        window = [slice(a, a + side) for a, side in zip(start, shape, strict=True)]
        channels.append((first * padded[(..., *window)]).mean(1))
    return torch.stack(channels, dim=1)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_values(radius):
    first, second = torch.randn(2, 2, 5, 4, 6, 3, dtype=torch.float64)
    found = local_correlation(first, second, radius)
    assert found.shape == (2, (2 * radius + 1) ** 3, 4, 6, 3)
    torch.testing.assert_close(found, by_definition(first, second, radius), rtol=0, atol=1e-12)


def test_a_shift_is_found_in_its_channel():
    second = torch.zeros(1, 1, 5, 5, 5)
    second[0, 0, 3, 1, 2] = 1
    first = torch.zeros(1, 1, 5, 5, 5)
    first[0, 0, 2, 2, 2] = 1
    found = local_correlation(first, second)
    # the offset (+1, -1, 0) is number (1 + 1) * 9 + (-1 + 1) * 3 + (0 + 1)
    assert torch.nonzero(found).tolist() == [[0, 19, 2, 2, 2]]


def test_gradients():
    first, second = torch.randn(2, 1, 3, 3, 4, 2, dtype=torch.float64).requires_grad_().unbind(0)
    assert torch.autograd.gradcheck(local_correlation, (first, second))


@pytest.mark.parametrize("which", [0, 1])
def test_gradient_of_one_map_only(which):
    maps = list(torch.randn(2, 1, 3, 3, 4, 2, dtype=torch.float64))
    maps[which].requires_grad_()
    weights = torch.randn(1, 27, 3, 4, 2, dtype=torch.float64)
    (found,) = torch.autograd.grad((local_correlation(*maps) * weights).sum(), maps[which])
    (expected,) = torch.autograd.grad((by_definition(*maps) * weights).sum(), maps[which])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_half_precision_is_computed_in_float32():
    first, second = torch.randn(2, 1, 8, 4, 4, 4).bfloat16()
    found = local_correlation(first, second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, by_definition(first.float(), second.float()))


def test_residual_keeps_the_moving_features():
    layer = CorrelationResidual(8)
    moving, fixed = torch.randn(2, 1, 8, 4, 5, 6)
    difference = layer(moving, fixed) - moving
    torch.testing.assert_close(difference, layer.conv(by_definition(moving, fixed)))


def test_errors():
    with pytest.raises(ValueError, match="radius of at least 0, got -1"):
        local_correlation(torch.zeros(1, 1, 3, 3, 3), torch.zeros(1, 1, 3, 3, 3), -1)


def test_memory_format_changes_nothing():
    first, second = torch.randn(2, 1, 4, 5, 6, 3).requires_grad_().unbind(0)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        found = local_correlation(*(one.to(memory_format=layout) for one in (first, second)))
        upstream = torch.linspace(-1, 1, found.numel()).view_as(found).to(memory_format=layout)
        results.append((found, *torch.autograd.grad(found, (first, second), upstream)))
    assert all(map(torch.equal, *results))
