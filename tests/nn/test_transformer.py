"""Windowed attention, patches and the Swin encoder against what their papers say."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regnet_lib.nn.blocks import Conv3d
from regnet_lib.nn.skip_decoder import SkipUp
from regnet_lib.nn.transformer import (
    CORNERS,
    PatchMerging,
    StochasticDepth,
    SwinBlock,
    SwinEncoder,
    WindowAttention,
    depth_rates,
    relative_index,
    shifted_regions,
)


def by_hand(attention: WindowAttention, tokens: torch.Tensor, apart: torch.Tensor) -> torch.Tensor:
    """softmax(Q K^T / sqrt(l) + B) V for one window, one head and one query at a time.

    Args:
        tokens: `(N, C)`.
        apart: `(N, N)`, pairs that do not see each other.
    """
    count, channels = tokens.shape
    width = channels // attention.heads
    query, key, value = attention.qkv(tokens).view(count, 3, attention.heads, width).unbind(1)
    outputs = torch.zeros_like(value)
    for head, i in product(range(attention.heads), range(count)):
        scores = (key[:, head] @ query[i, head]) / width**0.5
        if attention.bias_table is not None:
            scores = scores + attention.bias_table[attention.bias_index[i, :count], head]
        weights = scores.masked_fill(apart[i], -torch.inf).softmax(0)
        outputs[i, head] = weights @ value[:, head]
    return attention.projection(outputs.flatten(1))


def influence(block: SwinBlock, shape: tuple[int, int, int], place: tuple[int, int, int]):
    """Where the output changes when one voxel of the input changes, as a boolean map."""
    torch.manual_seed(0)
    voxels = torch.randn(1, *shape, 8, dtype=torch.float64)
    changed = voxels.clone()
    # One channel alone: the layer normalisation hides a change of all.
    changed[0, *place, 0] += 1.0
    with torch.no_grad():
        return (block(voxels) - block(changed)).abs().amax(-1)[0] > 1e-12


def lively(module: nn.Module) -> nn.Module:
    """Random biases and tables, so that each of them counts; float64, evaluation mode."""
    torch.manual_seed(1)
    for weights in module.parameters():
        if weights.ndim < 2 or min(weights.shape) < 3:
            nn.init.normal_(weights)
    return module.double().eval()


def test_every_offset_of_a_window_has_its_own_row():
    window = (2, 3, 4)
    index = relative_index(window)
    places = list(product(*(range(side) for side in window)))
    rows: dict[tuple[int, ...], set[int]] = {}
    for i, j in product(range(24), repeat=2):
        offset = tuple(a - b for a, b in zip(places[i], places[j], strict=True))
        rows.setdefault(offset, set()).add(int(index[i, j]))
    assert all(len(numbers) == 1 for numbers in rows.values())
    assert sorted(number for (number,) in rows.values()) == list(range(3 * 5 * 7))
    # The last axis is the fastest.
    assert index[0, 1] + 1 == index[0, 0] == index[1, 0] - 1


@pytest.mark.parametrize("positions", [True, False])
def test_window_attention_is_its_formula(positions):
    attention = lively(WindowAttention(8, 2, (1, 2, 3), qkv_bias=True, positions=positions))
    tokens = torch.randn(4, 6, 8, dtype=torch.float64)
    none = torch.zeros(6, 6, dtype=torch.bool)
    expected = torch.stack([by_hand(attention, window, none) for window in tokens])
    torch.testing.assert_close(attention(tokens), expected, rtol=0, atol=1e-10)
    # Two windows per image, two images: regions repeat along the batch.
    regions = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 5]])
    apart = [one[:, None] != one for one in regions] * 2
    expected = torch.stack([by_hand(attention, *pair) for pair in zip(tokens, apart, strict=True)])
    torch.testing.assert_close(attention(tokens, regions), expected, rtol=0, atol=1e-10)


def test_fewer_tokens_take_the_first_rows_of_the_index():
    attention = lively(WindowAttention(8, 2, (2, 2, 2)))
    tokens = torch.randn(1, 5, 8, dtype=torch.float64)
    expected = by_hand(attention, tokens[0], torch.zeros(5, 5, dtype=torch.bool))
    torch.testing.assert_close(attention(tokens)[0], expected, rtol=0, atol=1e-10)


def test_a_voxel_reaches_its_window_and_no_other():
    block = lively(SwinBlock(8, 2, (2, 3, 4)))
    reached = influence(block, (4, 6, 8), (2, 4, 3))
    expected = torch.zeros(4, 6, 8, dtype=torch.bool)
    expected[2:4, 3:6, 0:4] = True
    assert torch.equal(reached, expected)


def test_shifted_windows_lie_half_a_window_further_on_and_do_not_wrap():
    block = lively(SwinBlock(8, 2, (2, 3, 4), shifted=True))
    # Windows begin at 1, 1 and 2 along the axes of 2, 3 and 4 voxels.
    reached = influence(block, (4, 6, 8), (2, 4, 3))
    expected = torch.zeros(4, 6, 8, dtype=torch.bool)
    expected[1:3, 4:6, 2:6] = True
    # Along the axis of 6, the last two planes share a window with the wrapped first one.
    assert torch.equal(reached, expected)
    reached = influence(block, (4, 6, 8), (0, 0, 0))
    expected = torch.zeros(4, 6, 8, dtype=torch.bool)
    expected[0, 0, :2] = True
    assert torch.equal(reached, expected)


def test_regions_part_what_has_wrapped_around():
    regions = shifted_regions((4, 2, 2), (2, 2, 2), (1, 0, 1), torch.device("cpu"))
    assert regions.shape == (2, 8)
    assert regions[0].tolist() == [0, 1, 0, 1] * 2  # the last plane of the third axis
    assert regions[1].tolist() == [0, 1, 0, 1, 4, 5, 4, 5]


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_that_do_not_divide_the_map_are_filled_with_zeros(shifted):
    """Zeros behind the layer normalisation, which are attended to."""
    block = lively(SwinBlock(8, 2, (2, 2, 2), shifted=shifted))
    block.attention_norm, block.perceptron[3] = nn.Identity(), nn.Identity()
    block.perceptron_norm, block.perceptron = nn.Identity(), nn.Identity()
    voxels = torch.randn(2, 3, 4, 1, 8, dtype=torch.float64)
    filled = F.pad(voxels, (0, 0, 0, 1, 0, 0, 0, 1))
    expected = block.attend_in_windows(filled)[:, :3, :, :1]
    found = block.attend_in_windows(voxels)
    assert found.shape == voxels.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_clipped_windows_neither_exceed_the_map_nor_shift_within_it():
    block = SwinBlock(8, 2, (4, 4, 4), shifted=True, clipped=True)
    small = lively(block)
    reached = influence(small, (2, 6, 4), (1, 3, 3))
    expected = torch.zeros(2, 6, 4, dtype=torch.bool)
    expected[:, 2:6] = True  # only the axis of 6 exceeds the window and is shifted, by 2
    assert torch.equal(reached, expected)
    unshifted = SwinBlock(8, 2, (4, 4, 4), shifted=False, clipped=True).double().eval()
    unshifted.load_state_dict(small.state_dict())
    voxels = torch.randn(1, 3, 4, 2, 8, dtype=torch.float64)
    assert torch.equal(small(voxels), unshifted(voxels))


def test_patch_merging_stacks_the_corners_in_the_published_order():
    merge = PatchMerging(1)
    merge.norm = nn.Identity()
    merge.reduction = nn.Identity()
    voxels = torch.zeros(1, 2, 2, 4, 1)
    for number, (d, h, w) in enumerate(CORNERS):
        voxels[0, d, h, w] = number
    merged = merge(voxels)
    assert merged.shape == (1, 1, 1, 2, 8)
    assert merged[0, 0, 0, 0].tolist() == list(range(8))
    assert CORNERS[:5] == ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0))
    assert CORNERS[5:] == ((0, 1, 1), (1, 0, 1), (1, 1, 1))


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = StochasticDepth(0.25)
    branch = torch.ones(4000, 1, 1, 2, 1)
    dropped = layer(branch)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped[..., 0, :], dropped[..., 1, :])
    assert dropped.mean() == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(branch), branch)
    assert torch.equal(StochasticDepth(0.0)(branch), branch)


def test_depth_rates_rise_linearly_over_all_blocks():
    rates = depth_rates(0.3, (2, 2, 4, 2))
    assert [len(stage) for stage in rates] == [2, 2, 4, 2]
    flat = [rate for stage in rates for rate in stage]
    assert flat == pytest.approx([0.3 * number / 9 for number in range(10)])
    assert depth_rates(0.3, (1,)) == [[0.0]]


def test_encoder_shapes_and_scales():
    encoder = SwinEncoder(2, 4, (1, 2), (1, 2), (2, 2, 2)).eval()
    images = torch.rand(1, 2, 16, 8, 24)
    fine, coarse = encoder(images)
    assert fine.shape == (1, 4, 4, 2, 6)
    assert coarse.shape == (1, 8, 2, 1, 3)
    (only,) = SwinEncoder(2, 4, (1, 2), (1, 2), (2, 2, 2), skips=False).eval()(images)
    assert only.shape == coarse.shape
    shifts = [block.shifted for stage in encoder.stages for block in stage.blocks]
    assert shifts == [False, False, True]


def test_skip_up_doubles_and_joins():
    up = SkipUp(3, 2, 5)
    assert up(torch.rand(1, 3, 2, 3, 4), torch.rand(1, 2, 4, 6, 8)).shape == (1, 5, 4, 6, 8)
    assert SkipUp(3, 0, 5)(torch.rand(1, 3, 2, 3, 4)).shape == (1, 5, 4, 6, 8)
    kinds = [type(layer) for layer in SkipUp(3, 0, 5, batch_norm=True)[0]]
    assert kinds == [Conv3d, nn.BatchNorm3d, nn.ReLU]


def test_autocast_stays_close():
    torch.manual_seed(0)
    block = SwinBlock(16, 2, (2, 3, 4), shifted=True).eval()
    voxels = torch.randn(1, 4, 6, 8, 16)
    with torch.no_grad():
        expected = block(voxels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = block(voxels)
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
