"""Bidirectional cross-attention against equations (8) to (12), written out with full score maps."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from regnet_lib.nn.cross_attention import (
    BidirectionalCrossAttention,
    JointFeatures,
    attention_entropy,
    cross_attend,
)
from regnet_lib.spatial import identity_grid

C = 6


def build(channels=C, alpha=None, **options):
    torch.manual_seed(0)
    layer = BidirectionalCrossAttention(channels, **options).double()
    if alpha is not None:
        layer.balance.data.fill_(math.log(alpha / (1 - alpha)))
    return layer


def maps(*shape, channels=C, batch=1, seed=1):
    """A moving and a fixed feature map, float64."""
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, batch, channels, *shape, generator=generator, dtype=torch.float64)
    return pair.unbind(0)


def exact(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def weights_by_hand(layer, moving, fixed, allowed=None):
    """softmax(Q K^T / sqrt(d)) of both directions, `(B, N, N)`: moving asks fixed, fixed moving."""
    moving, fixed = (image.flatten(2).transpose(1, 2) for image in (moving, fixed))
    weights = []
    for asking, asked, own, other in (
        (layer.moving, layer.fixed, moving, fixed),
        (layer.fixed, layer.moving, fixed, moving),
    ):
        query, key = own @ asking.query.weight.T, other @ asked.key.weight.T
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        weights.append(scores.softmax(-1))
    return weights


def attended_by_hand(layer, moving, fixed, alpha, allowed=None):
    to_fixed, to_moving = weights_by_hand(layer, moving, fixed, allowed)
    value_moving = moving.flatten(2).transpose(1, 2) @ layer.moving.value.weight.T
    value_fixed = fixed.flatten(2).transpose(1, 2) @ layer.fixed.value.weight.T
    attended = alpha * to_fixed @ value_fixed + (1 - alpha) * to_moving @ value_moving
    return attended.transpose(1, 2).view_as(fixed)


def same_window(shape, window):
    """Which pairs of voxels lie in one cube, `(N, N)`."""
    cube = identity_grid(shape)[0].flatten(1).long() // window
    return (cube[:, :, None] == cube[:, None, :]).all(0)


def test_parameters_are_four_squares_and_alpha():
    for channels in (32, 64):
        layer = BidirectionalCrossAttention(channels)
        assert sum(w.numel() for w in layer.parameters()) == 4 * channels**2 + 1
    assert BidirectionalCrossAttention(8).moving.query.weight.shape == (16, 8)


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_global_attention_by_hand(alpha):
    layer = build(alpha=alpha)
    moving, fixed = maps(2, 3, 4, batch=2)
    exact(layer(moving, fixed).features, attended_by_hand(layer, moving, fixed, alpha))


def test_alpha_starts_in_the_middle():
    assert torch.sigmoid(BidirectionalCrossAttention(8).balance) == 0.5


@pytest.mark.parametrize("shape", [(4, 4, 6), (3, 5, 4)], ids=["whole", "cut"])
def test_windows_are_a_mask_of_global_attention(shape):
    layer = build(alpha=0.3, window=2)
    moving, fixed = maps(*shape, batch=2)
    expected = attended_by_hand(layer, moving, fixed, 0.3, same_window(shape, 2))
    exact(layer(moving, fixed).features, expected)


def test_pooled_keys_by_hand():
    """Queries of every voxel, keys and values of the means of 2 x 2 x 2 cubes."""
    layer = build(alpha=0.3, pooling=2)
    moving, fixed = maps(2, 4, 4)
    tokens = [image.flatten(2).transpose(1, 2) for image in (moving, fixed)]
    means = [F.avg_pool3d(image, 2).flatten(2).transpose(1, 2) for image in (moving, fixed)]
    attended = []
    for asking, asked, own, other in (
        (layer.moving, layer.fixed, tokens[0], means[1]),
        (layer.fixed, layer.moving, tokens[1], means[0]),
    ):
        scores = asking.query(own) @ asked.key(other).transpose(1, 2) / 4
        attended.append(scores.softmax(-1) @ asked.value(other))
    expected = (0.3 * attended[0] + 0.7 * attended[1]).transpose(1, 2).view_as(fixed)
    exact(layer(moving, fixed).features, expected)


@pytest.mark.usefixtures("unchecked")
def test_window_and_pooling_exclude_each_other():
    with pytest.raises(ValueError, match="a window or pooling, got window=4 and pooling=2"):
        BidirectionalCrossAttention(8, window=4, pooling=2)


@pytest.mark.parametrize(("window", "shape"), [(None, (2, 3, 4)), (2, (4, 3, 5))])
def test_offset_is_the_mean_position_of_what_fixed_voxels_look_at(window, shape):
    layer = build(window=window, coordinates=True)
    moving, fixed = maps(*shape)
    allowed = None if window is None else same_window(shape, window)
    _, to_moving = weights_by_hand(layer, moving, fixed, allowed)
    grid = identity_grid(shape, dtype=torch.float64)
    mean = (to_moving[0] @ grid[0].flatten(1).T).T.view_as(grid)
    found = layer(moving, fixed)
    exact(found.offset, mean - grid)
    exact(found.features, attended_by_hand(layer, moving, fixed, 0.5, allowed))


def test_pooled_offset_of_uniform_attention_points_to_the_middle():
    layer = build(pooling=2, coordinates=True)
    layer.fixed.query.weight.data.zero_()
    grid = identity_grid((4, 4, 4), dtype=torch.float64)
    exact(layer(*maps(4, 4, 4)).offset, 1.5 - grid)


@pytest.mark.parametrize(("window", "shape"), [(None, (2, 3, 4)), (2, (4, 3, 5))])
def test_relative_offset_counts_from_what_the_query_finds_at_home(window, shape):
    layer = build(window=window, coordinates=True, relative=True)
    for projection in (layer.fixed.query, layer.moving.key):  # no longer alike
        torch.nn.init.normal_(projection.weight)
    moving, fixed = maps(*shape)
    allowed = None if window is None else same_window(shape, window)
    places = identity_grid(shape, dtype=torch.float64)[0].flatten(1).T
    away, home = (
        weights_by_hand(layer, asked, fixed, allowed)[1][0] @ places for asked in (moving, fixed)
    )
    expected = (away - home).T.view(1, 3, *shape)
    assert expected.abs().max() > 0.05
    exact(layer(moving, fixed).offset, expected)


@pytest.mark.parametrize("options", [{}, {"window": 2}, {"pooling": 2}])
def test_equal_images_have_no_relative_offset(options):
    moving, _ = maps(4, 4, 4)
    biased = build(coordinates=True, **options)(moving, moving).offset
    found = build(coordinates=True, relative=True, **options)(moving, moving).offset
    assert biased.abs().max() > 0.3
    exact(found, torch.zeros_like(found))


def test_relative_projections_start_alike():
    layer, plain = build(relative=True, coordinates=True), build(coordinates=True)
    weights = [
        projection.weight
        for image in (layer.moving, layer.fixed)
        for projection in (image.query, image.key)
    ]
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    product = (weights[0].T @ weights[0]).float()  # drawn in float32
    torch.testing.assert_close(product, 0.7**2 * torch.eye(C), rtol=0, atol=1e-6)
    assert not torch.equal(plain.moving.query.weight, plain.fixed.key.weight)
    assert sum(w.numel() for w in layer.parameters()) == sum(w.numel() for w in plain.parameters())


def test_attention_finds_a_known_shift():
    """Distinct features, sharp scores: the offset is the shift, where the match exists.

    This is what the fixed side can know and the mean of both sides in equation (12) cannot.
    """
    shape, shift = (3, 6, 4), 2
    layer = build(channels=72, coordinates=True)
    same = torch.eye(72, dtype=torch.float64)
    layer.fixed.query.weight.data = 60 * same[:36]
    layer.moving.key.weight.data = same[:36]
    generator = torch.Generator().manual_seed(0)
    moving = torch.randn(1, 72, *shape, generator=generator, dtype=torch.float64)
    moving = F.normalize(moving[:, :36], dim=1).repeat(1, 2, 1, 1, 1)
    fixed = moving.roll(-shift, 3)  # fixed(x) = moving(x + shift)
    offset = layer(moving, fixed).offset[:, :, :, : shape[1] - shift]
    expected = torch.tensor([0.0, shift, 0.0]).view(1, 3, 1, 1, 1).expand_as(offset)
    assert (offset - expected).abs().max() < 0.1


def test_images_swap_roles_with_their_projections():
    layer, swapped = build(alpha=0.3), build(alpha=0.7)
    swapped.moving.load_state_dict(layer.fixed.state_dict())
    swapped.fixed.load_state_dict(layer.moving.state_dict())
    moving, fixed = maps(2, 3, 4)
    exact(layer(moving, fixed).features, swapped(fixed, moving).features)


def test_batch_items_do_not_see_each_other():
    for options in ({}, {"window": 2, "coordinates": True}, {"pooling": 2}):
        layer = build(**options)
        moving, fixed = maps(4, 2, 6, batch=2)
        together = layer(moving, fixed)
        alone = [layer(moving[i : i + 1], fixed[i : i + 1]) for i in range(2)]
        exact(together.features, torch.cat([one.features for one in alone]))
        if together.offset is not None:
            exact(together.offset, torch.cat([one.offset for one in alone]))


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_the_layout_of_groups_does_not_matter(rows):
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 6, 5, 3, generator=generator, dtype=torch.float64)
    value = torch.randn(6, 5, 7, generator=generator, dtype=torch.float64)
    present = torch.rand(6, 5, generator=generator) < 0.7
    present[:, 0] = True
    scores = (query @ key.transpose(1, 2) / math.sqrt(3)).masked_fill(~present[:, None], -torch.inf)
    exact(cross_attend(query, key, value, present, rows), scores.softmax(-1) @ value)


class TestEntropy:
    @pytest.mark.parametrize("window", [None, 2])
    def test_by_hand(self, window):
        layer = build(window=window)
        shape = (4, 2, 5)
        moving, fixed = maps(*shape)
        allowed = None if window is None else same_window(shape, window)
        weights = weights_by_hand(layer, moving, fixed, allowed)[1]
        expected = torch.special.entr(weights).sum(-1).view(1, 1, *shape)
        found = layer(moving, fixed, entropy=True).entropy
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        assert layer(moving, fixed).entropy is None

    def test_extremes(self):
        key = 100 * torch.eye(8)[None]
        assert attention_entropy(key, key)[0, 0] < 1e-6
        alike = attention_entropy(torch.zeros(1, 3, 8), key)
        torch.testing.assert_close(alike, torch.full((1, 3), math.log(8)))

    @pytest.mark.parametrize("at_once", [1, 7, 40, 2**24])
    def test_parts_give_the_whole(self, monkeypatch, at_once):
        torch.manual_seed(0)
        query, key = torch.randn(3, 5, 4), torch.randn(3, 6, 4)
        expected = attention_entropy(query, key)
        monkeypatch.setattr("regnet_lib.nn.cross_attention.SCORES_AT_ONCE", at_once)
        torch.testing.assert_close(attention_entropy(query, key), expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"window": 2}, {"window": 2, "coordinates": True}, {"pooling": 2, "coordinates": True}],
    ids=str,
)
def test_gradcheck(options):
    layer = build(channels=2, alpha=0.4, **options)
    moving, fixed = (image.requires_grad_() for image in maps(3, 2, 2, channels=2))

    def both(moving, fixed, balance):
        found = torch.func.functional_call(layer, {"balance": balance}, (moving, fixed))
        return found.features if found.offset is None else (found.features, found.offset)

    assert torch.autograd.gradcheck(both, (moving, fixed, layer.balance))


def kept_bytes(layer, *shape):
    """Bytes of distinct storages that the backward pass keeps."""
    sizes = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    moving, fixed = torch.randn(2, 1, 32, *shape, requires_grad=True).unbind(0)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        result = layer(moving, fixed).features.sum()
    assert result.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("coordinates", [False, True], ids=["plain", "coordinates"])
@pytest.mark.parametrize("window", [4, None], ids=["window", "global"])
def test_memory_grows_with_the_voxels_not_with_their_square(window, coordinates):
    torch.manual_seed(0)
    layer = BidirectionalCrossAttention(32, window=window, coordinates=coordinates)
    shapes = [(4, 8, 8), (8, 8, 8), (8, 16, 8), (16, 16, 8)]
    constant = sum(weights.numel() * 4 for weights in layer.parameters())
    per_voxel = [(kept_bytes(layer, *shape) - constant) / math.prod(shape) for shape in shapes]
    assert max(per_voxel) < 1.02 * min(per_voxel)
    # A score matrix alone would keep 2 * 4 bytes per key and voxel: 16 KiB at the last size.
    assert max(per_voxel) < 4096


@pytest.mark.parametrize("coordinates", [False, True])
def test_autocast_stays_close(coordinates):
    """Positions run in float32: bfloat16 knows a coordinate of 100 to half a voxel only."""
    torch.manual_seed(0)
    layer = BidirectionalCrossAttention(16, window=4, coordinates=coordinates)
    moving, fixed = torch.randn(2, 1, 16, 8, 4, 8).unbind(0)
    expected = layer(moving, fixed)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(moving.bfloat16(), fixed.bfloat16())
    assert (found.features - expected.features).abs().max() < 0.02
    if coordinates:
        assert found.offset.dtype == torch.float32
        assert (found.offset - expected.offset).abs().max() < 0.02


def test_joint_features_are_a_matrix_per_voxel():
    torch.manual_seed(0)
    layer = JointFeatures(C).double()
    assert sum(w.numel() for w in layer.parameters()) == 2 * C**2 + C
    moving, fixed = maps(2, 3, 4)
    matrix = layer.weight.flatten(1)
    expected = torch.einsum("oi,bidhw->bodhw", matrix, torch.cat([moving, fixed], 1))
    found = layer(moving, fixed)
    exact(found.features, expected + layer.bias.view(1, -1, 1, 1, 1))
    assert found.offset is None and found.entropy is None
