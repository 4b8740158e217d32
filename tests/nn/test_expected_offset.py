"""The expected offset of neighbour attention against its definition."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from regnet_lib.nn import expected_offset as module
from regnet_lib.nn.expected_offset import OFFSETS, expected_offset

SHAPE = (5, 4, 3)


def by_definition(query, key, bias):
    """One voxel and one neighbour after the other."""
    padded = F.pad(key, [1] * 6)
    result = query.new_zeros(query.shape[0], 3, *query.shape[2:])
    for group in range(query.shape[0]):
        for x, y, z in product(*map(range, query.shape[2:])):
            logits = [
                query[group, :, x, y, z] @ padded[group, :, x + 1 + i, y + 1 + j, z + 1 + k]
                + bias[group, number]
                for number, (i, j, k) in enumerate(OFFSETS)
            ]
            weights = torch.stack(logits).softmax(0)
            result[group, :, x, y, z] = weights @ query.new_tensor(OFFSETS)
    return result


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    query, key = torch.randn(2, 2, 3, *SHAPE, dtype=torch.float64)
    return query, key, torch.randn(2, 27, dtype=torch.float64)


@pytest.mark.parametrize("voxels", [7, 10_000])  # many short runs, or all voxels at once
def test_is_its_definition(inputs, monkeypatch, voxels):
    monkeypatch.setattr(module, "RUN_VOXELS", voxels)
    found = expected_offset(*inputs)
    torch.testing.assert_close(found, by_definition(*inputs), rtol=0, atol=1e-10)


def test_gradients(inputs, monkeypatch):
    monkeypatch.setattr(module, "RUN_VOXELS", 50)
    leaves = [one[:1, ..., :3, :2, :2].clone() for one in inputs[:2]] + [inputs[2][:1].clone()]
    leaves = [one.requires_grad_() for one in leaves]
    assert torch.autograd.gradcheck(expected_offset, leaves)


def test_moves_by_at_most_one_voxel(inputs):
    query, key, bias = inputs
    assert expected_offset(100 * query, key, bias).abs().max() <= 1 + 1e-12


def test_finds_a_shift_of_one_voxel():
    torch.manual_seed(0)
    key = 10 * F.normalize(torch.randn(1, 32, 6, 6, 6), dim=1)
    query = key.roll(-1, 3)  # what is at y + 1 in the key is at y in the query
    inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    found = expected_offset(query, key, torch.zeros(1, 27))[inner]
    expected = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1, 1).expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_float32_under_autocast_and_from_bfloat16(inputs):
    query, key, bias = (one.float() for one in inputs)
    expected = expected_offset(query, key, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(expected_offset(query, key, bias), expected)
    low = expected_offset(query.bfloat16(), key.bfloat16(), bias)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, expected, rtol=0, atol=0.1)


def test_different_shapes_are_refused(unchecked, inputs):
    query, key, bias = inputs
    with pytest.raises(ValueError, match=r"one shape.*Resample"):
        expected_offset(query, key[..., :2], bias)
