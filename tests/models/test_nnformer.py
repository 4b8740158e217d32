"""nnFormer: repaired, and with the errors of the released code as its description lists them."""

import pytest
import torch
from torch import nn

from regnet_lib.models.nnformer import NNFormer, ReleasedSwinBlock, released_index
from regnet_lib.models.official_weights import load_official_state_dict
from regnet_lib.nn.transformer import SwinBlock, relative_index

DEPTHS = (2, 2, 4, 2)


def tiny(compat: bool = False) -> NNFormer:
    torch.manual_seed(0)
    return NNFormer(compat=compat, channels=8, window=(2, 2, 2) if compat else (3, 3, 3))


def test_parameter_count_is_the_published_one():
    with torch.device("meta"):
        model, compat = NNFormer(), NNFormer(compat=True)
    count = sum(weights.numel() for weights in model.parameters())
    assert count == sum(weights.numel() for weights in compat.parameters()) == 34_415_851
    table, expansions = 96 * 40 * 48 * 56, (192 + 384) * 16 * 4**3 + 2 * 16
    assert count + table + expansions == NNFormer.declared_parameters


@pytest.mark.parametrize("compat", [False, True])
def test_starts_from_almost_no_motion_and_trains_every_parameter(compat):
    model = tiny(compat).eval()  # no stochastic depth, which leaves out whole blocks
    side = 64 if compat else 32
    displacement = model(*torch.rand(2, 1, 1, side, 64, side)).displacement
    assert displacement.shape == (1, 3, side, 64, side)
    assert 0 < displacement.abs().max() < 1e-2
    displacement.square().sum().backward()
    for key, weights in model.named_parameters():
        # At a map of one window, shifted by half of it, every voxel is alone with its own offset,
        # whose bias moves no attention.
        if compat and key == "encoder.stages.3.blocks.1.attention.bias_table":
            continue
        assert weights.grad is not None and weights.grad.abs().sum() > 0, key


def test_joining_is_the_inverse_of_cutting():
    """With attention that changes nothing, a repaired block gives its input back; the other not."""
    for window, shape in (((2, 3, 4), (4, 6, 8)), ((5, 6, 7), (5, 6, 7))):
        for shifted in (False, True):
            torch.manual_seed(0)
            voxels = torch.randn(2, *shape, 4)
            block = SwinBlock(4, 2, window, shifted)
            released = ReleasedSwinBlock(4, 2, window, shifted)
            for one in (block, released):
                one.attention = KeepTokens()
            assert torch.equal(block.attend_in_windows(voxels), voxels)
            shuffled = released.attend_in_windows(voxels)
            assert not torch.equal(shuffled, voxels)
            assert torch.equal(shuffled.flatten().sort().values, voxels.flatten().sort().values)


class KeepTokens(nn.Module):
    """Attention that returns its tokens."""

    def forward(self, tokens, regions=None):
        return tokens


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 2)])
def test_released_joining_is_the_described_one(shift):
    """Axes in the order 0, 1, 3, 5, 2, 4, 6, 7, then a roll of an array (B, D, H, W C)."""
    torch.manual_seed(0)
    (x, y, z), (d, h, w) = window, counts = (2, 3, 4), (3, 2, 1)
    shape = [side * count for side, count in zip(window, counts, strict=True)]
    tokens = torch.randn(2 * d * h * w, x * y * z, 5)
    expected = tokens.view(2, d, h, w, x, y, z, 5).permute(0, 1, 3, 5, 2, 4, 6, 7)
    expected = expected.reshape(2, shape[0], shape[1], -1)
    for axis, step in enumerate(shift, start=1):
        expected = torch.roll(expected, step, dims=axis)
    block = ReleasedSwinBlock(5, 1, window, any(shift))
    found = block.join(tokens, shape, window, shift)
    assert torch.equal(found, expected.reshape(2, *shape, 5))


def test_released_offsets_share_rows():
    window = (5, 6, 7)
    index = released_index(window)
    offsets = 9 * 11 * 13
    assert len(relative_index(window).unique()) == offsets
    # 17 and 11 rows per step along the first two axes: 0 to 8 * 17 + 10 * 11 + 12.
    assert index.min() == 0 and index.max() == 258
    assert len(index.unique()) == 259 < offsets
    assert torch.equal(index.diagonal().unique(), torch.tensor([4 * 17 + 5 * 11 + 6]))
    assert torch.equal(ReleasedSwinBlock(8, 2, window).attention.bias_index, index)
    assert torch.equal(SwinBlock(8, 2, window).attention.bias_index, relative_index(window))


def test_both_versions_take_the_same_weights_and_differ():
    repaired, compat = NNFormer(channels=8, window=(2, 2, 2)).eval(), tiny(True).eval()
    nn.init.normal_(compat.head.weight, std=0.1)
    repaired.load_state_dict(compat.state_dict())
    images = torch.rand(2, 1, 1, 64, 64, 64)
    with torch.no_grad():
        difference = repaired(*images).displacement - compat(*images).displacement
    assert difference.abs().max() > 0.01


def test_other_sizes_are_refused_with_the_nearest_one():
    image = torch.zeros(1, 1, 32, 40, 65)
    with pytest.raises(ValueError, match=r"32, 32 and 32.*\(32, 40, 65\).*\(32, 64, 96\)"):
        tiny()(image, image)
    with pytest.raises(ValueError, match=r"64, 64 and 64.*\(32, 40, 65\).*\(64, 64, 128\)"):
        tiny(True)(image, image)
    with torch.device("meta"):
        assert NNFormer(compat=True).valid_shape((161, 100, 224)) == (320, 192, 224)


def test_batch_items_do_not_see_each_other():
    for compat in (False, True):
        model = tiny(compat).eval()
        moving, fixed = torch.rand(2, 2, 1, 64, 64, 64)[..., slice(64 if compat else 32)]
        with torch.no_grad():
            together = model(moving, fixed).displacement
            pairs = zip(moving.split(1), fixed.split(1), strict=True)
            alone = torch.cat([model(*pair).displacement for pair in pairs])
        assert (together - alone).abs().max() < 1e-4 * alone.abs().max()


@pytest.mark.parametrize("compat", [False, True])
def test_autocast_returns_float32_close_to_it(compat):
    model = tiny(compat).eval()
    images = torch.rand(2, 1, 1, 64, 64, 64)
    with torch.no_grad():
        expected = model(*images).displacement
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(*images).displacement
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def official_names() -> list[str]:
    """Keys of a checkpoint of the released class, with the module names of its upstream code."""
    both = ("weight", "bias")
    block = [f"{layer}.{kind}" for layer in ("norm1", "norm2", "attn.qkv") for kind in both]
    block += [f"{layer}.{kind}" for layer in ("attn.proj", "mlp.fc1", "mlp.fc2") for kind in both]
    block += ["attn.relative_position_bias_table", "attn.relative_position_index"]
    names = [
        f"model_down.patch_embed.{layer}.{kind}" for layer in ("proj", "norm") for kind in both
    ]
    names += ["model_down.absolute_pos_embed"]
    for stage, depth in enumerate(DEPTHS):
        start = f"model_down.layers.{stage}"
        names += [f"{start}.blocks.{number}.{name}" for number in range(depth) for name in block]
        names += [f"model_down.norm{stage}.{kind}" for kind in both]
        if stage < 3:
            names += [f"{start}.downsample.{name}" for name in ("reduction.weight", "norm.weight")]
            names += [f"{start}.downsample.norm.bias"]
    for level, depth in enumerate((2, 4, 2)):
        start = f"encoder.layers.{level}"
        names += [f"{start}.blocks.{number}.{name}" for number in range(depth) for name in block]
        names += [f"{start}.Upsample.{layer}.{kind}" for layer in ("norm", "up") for kind in both]
    names += [f"final.{number}.up.{kind}" for number in range(3) for kind in both]
    return [*names, "reg_head.0.weight", "reg_head.0.bias", "spatial_trans.grid"]


def test_official_layout_round_trip():
    original, model = tiny(), tiny()
    for weights in original.parameters():
        nn.init.normal_(weights)
    ours = original.state_dict()
    official = {
        name: ours.get(original.official_keys.rename(name), torch.zeros(1))
        for name in official_names()
    }
    report = load_official_state_dict(model, official)
    assert len(report.loaded) == len(ours)
    assert len(report.dead) == 5 and len(report.derived) == 10 + 8 + 1
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in ours.items())
