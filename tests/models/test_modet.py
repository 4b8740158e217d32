"""ModeT against the network of its repository, and its attention against the plain formula."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from pyramid_networks import (
    check_behaviour,
    check_golden,
    check_sizes,
    parameter_count,
    read_golden,
    sides,
    smooth_images,
)

from regnet_lib.models.modet import ModeT, NeighbourAttention

SHAPE = (32, 48, 32)


def test_parameter_counts_are_the_published_ones():
    assert parameter_count(ModeT()) == 1_029_670
    assert parameter_count(ModeT().encoder) == 884_480
    assert parameter_count(ModeT("lganet")) == 3_681_750


def test_unknown_preset(unchecked):
    with pytest.raises(ValueError, match=r"ModeT: .*lganet.*official.*'paper'"):
        ModeT("paper")


@pytest.mark.golden
def test_golden(goldens):
    check_golden(ModeT(), read_golden(goldens, "ModeT"))


def test_sizes():
    check_sizes(ModeT(), multiple=16, least=32)


@pytest.mark.parametrize("preset", ["official", "lganet"])
def test_behaviour(preset):
    torch.manual_seed(0)
    model = ModeT(preset)
    for attention in model.attention.values():  # away from the almost motionless start
        torch.nn.init.normal_(attention.project[0].weight, std=0.2)
    check_behaviour(model, SHAPE)


def test_starts_from_almost_no_motion():
    torch.manual_seed(0)
    registration = ModeT()(*smooth_images(SHAPE))
    assert 0 < registration.displacement.abs().max() < 0.2
    assert sides(registration.pyramid) == [(4, 6, 4), (8, 12, 8), *[(16, 24, 16)] * 2, SHAPE]


def test_no_weights_move_further_than_31_voxels():
    torch.manual_seed(0)
    model = ModeT().eval()
    for attention in model.attention.values():
        torch.nn.init.zeros_(attention.bias)
        attention.bias.data[:, 2, 2, 2] = 100.0  # always the last of the 27 neighbours
    with torch.no_grad():
        displacement = model(*smooth_images((64, 64, 64), batch=1)).displacement
    # the composition reaches 2 (8 + 4 + 2) + 2 + 1 where it does not leave the image
    assert displacement.max() == pytest.approx(31, abs=1e-3)
    assert displacement.abs().max() <= 31 + 1e-3


@pytest.mark.parametrize("offset", [(-1, 0, 1), (1, 1, 0)])
def test_a_dominant_bias_is_the_field(offset):
    attention = NeighbourAttention(4, heads=2, head_features=3, scale=1.0).double()
    torch.nn.init.zeros_(attention.bias)
    with torch.no_grad():
        attention.bias[(1, *(step + 1 for step in offset))] = 100.0
        torch.nn.init.zeros_(attention.project[1].weight)
    fields = attention(*torch.randn(2, 1, 4, 5, 4, 3, dtype=torch.float64))
    expected = torch.zeros(1, 2, 3, 5, 4, 3, dtype=torch.float64)
    expected[:, 1] = torch.tensor(offset).view(3, 1, 1, 1)
    torch.testing.assert_close(fields, expected, rtol=0, atol=1e-10)


def test_attention_is_its_formula():
    torch.manual_seed(0)
    heads, width, scale = 2, 3, 0.7
    attention = NeighbourAttention(4, heads, width, scale).double()
    torch.nn.init.normal_(attention.project[0].weight)
    torch.nn.init.normal_(attention.bias)
    moving, fixed = torch.randn(2, 2, 4, 5, 4, 3, dtype=torch.float64)
    query, key = (attention.project(maps.movedim(1, -1)).movedim(-1, 1) for maps in (fixed, moving))
    padded = F.pad(key, [1] * 6)
    offsets = list(product((-1, 0, 1), repeat=3))
    found = attention(moving, fixed)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = torch.stack(
            [
                scale
                * (
                    query[:, part] * padded[:, part, 1 + i : 6 + i, 1 + j : 5 + j, 1 + k : 4 + k]
                ).sum(dim=1)
                + attention.bias[head, 1 + i, 1 + j, 1 + k]
                for i, j, k in offsets
            ],
            dim=1,
        )
        table = torch.tensor(offsets, dtype=torch.float64)
        expected = torch.einsum("bodhw,oa->badhw", logits.softmax(dim=1), table)
        torch.testing.assert_close(found[:, head], expected, rtol=0, atol=1e-10)
