"""LGANet++ as the paper describes it: equations by hand, switches of Table 1, sizes, learning."""

import pytest
import torch
import torch.nn.functional as F

from regnet_lib.models import create_model
from regnet_lib.models.lganetpp import VARIANTS, LGANetPP, RefinementDecoder
from regnet_lib.nn.attention import (
    GlobalAttention,
    PositionAttention,
    VoxelAttention,
    VoxelBlock,
    VoxelStep,
    join_windows,
    split_windows,
)
from regnet_lib.nn.decomposition import DecompositionExchange
from regnet_lib.spatial import integrate, warp

PAPER = VARIANTS["paper"]
SHAPE = (24, 24, 32)  # level 4: 3 x 3 x 4 voxels, less than a window along every axis

# Table 1: lgam, fifm, msfm; parameters; parameters with the attention blocks of the released class
MODELS = {
    1: ((False, False, False), 3_094_296, 3_094_296),
    2: ((True, False, False), 3_765_550, 3_709_118),
    3: ((True, True, False), 6_465_284, 6_408_852),
    4: ((True, True, True), 6_658_692, 6_602_260),
}
# The combinations that Table 1 does not have.
OTHERS = [(False, False, True), (False, True, False), (False, True, True), (True, False, True)]


def build(lgam=True, fifm=True, msfm=True, **options):
    torch.manual_seed(0)
    return LGANetPP("paper", lgam=lgam, fifm=fifm, msfm=msfm, **options)


def images(shape=SHAPE, batch=1):
    """Smooth random images in [0, 1], moving and fixed."""
    noise = torch.rand(2, batch, 1, *shape, generator=torch.Generator().manual_seed(1))
    smooth = F.avg_pool3d(noise.flatten(0, 1), 5, stride=1, padding=2).view_as(noise)
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def random_map(*shape, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def exact(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def count(module):
    return sum(weights.numel() for weights in module.parameters())


def windows_of(shape, window):
    """Which window every voxel belongs to, `(N,)`."""
    axes = torch.meshgrid(*(torch.arange(side) // window for side in shape), indexing="ij")
    return (axes[0] * 10_000 + axes[1] * 100 + axes[2]).flatten()


# Attention


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7), (1, 2, 9)])
def test_window_attention_is_masked_full_attention(shape):
    torch.manual_seed(0)
    attention = VoxelAttention(8, window=2).double().eval()
    voxels = random_map(2, *shape, 8)
    layers = attention.attention
    tokens = voxels.flatten(1, 3)
    query, key, value = layers.query(tokens), layers.key(tokens), layers.value(tokens)
    scores = query @ key.transpose(1, 2) / 8**0.5  # equation (4), l = C
    place = windows_of(shape, 2)
    scores = scores.masked_fill(place[:, None] != place[None, :], -torch.inf)
    exact(attention(voxels), (scores.softmax(-1) @ value).view(voxels.shape))


def test_a_window_larger_than_the_grid_is_global():
    torch.manual_seed(0)
    local = VoxelAttention(8, window=6).double().eval()
    everywhere = VoxelAttention(8).double().eval()
    everywhere.load_state_dict(local.state_dict())
    voxels = random_map(1, 3, 4, 5, 8)
    exact(local(voxels), everywhere(voxels))


def test_windows_hold_neighbours_and_join_again():
    voxels = random_map(2, 7, 6, 13, 3)
    tokens, present = split_windows(voxels, 6)
    assert tokens.shape == (2 * 2 * 1 * 3, 216, 3)
    assert present.sum() == 2 * 7 * 6 * 13
    assert torch.equal(tokens[0].view(6, 6, 6, 3), voxels[0, :6, :6, :6])
    assert not tokens[~present].any()
    assert torch.equal(join_windows(tokens, (7, 6, 13), 6), voxels)
    assert split_windows(voxels[:, :6, :, :12], 6)[1] is None


def test_work_grows_with_the_number_of_windows_only():
    """Keys per query stay 216 when the grid grows, so the score maps grow like the voxels."""
    scores = [
        split_windows(torch.zeros(1, *shape, 1), 6)[0].shape for shape in [(12,) * 3, (24,) * 3]
    ]
    assert [groups * keys**2 for groups, keys, _ in scores] == [8 * 216**2, 64 * 216**2]


def test_a_voxel_only_sees_its_window():
    torch.manual_seed(0)
    attention = VoxelAttention(4, window=2).double().eval()
    voxels = random_map(1, 4, 4, 4, 4).requires_grad_()
    attention(voxels)[0, 0, 0, 0].sum().backward()
    reached = voxels.grad[0].abs().sum(-1) > 0
    assert reached.sum() == 8 and reached[:2, :2, :2].all()


def test_global_attention_commutes_with_a_permutation_of_voxels():
    torch.manual_seed(0)
    attention = VoxelAttention(16).double().eval()
    released = GlobalAttention(16).double().eval()
    voxels = random_map(1, 3, 4, 5, 16)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))

    def permute(grid):
        return grid.flatten(1, 3)[:, order].view(grid.shape)

    def released_on_voxels(grid):
        return released(grid.movedim(-1, 1)).movedim(1, -1)

    exact(attention(permute(voxels)), permute(attention(voxels)))
    # The tokens of the released attention are not voxels.
    difference = released_on_voxels(permute(voxels)) - permute(released_on_voxels(voxels))
    assert difference.abs().max() > 1e-3


def test_step_and_block_by_hand():
    torch.manual_seed(0)
    block = VoxelBlock(8, window=2).double().eval()
    features = random_map(1, 8, 3, 4, 5)
    voxels = features.movedim(1, -1)
    for step, window in ((block.global_step, None), (block.local_step, 2)):
        norm, attention, _ = step.attention
        second_norm, first, _, second, _ = step.perceptron
        assert attention.window == window
        voxels = voxels + attention(F.layer_norm(voxels, (8,), norm.weight, norm.bias))
        hidden = first(F.layer_norm(voxels, (8,), second_norm.weight, second_norm.bias))
        voxels = voxels + second(hidden.clamp(min=0))
    assert first.out_features == 32
    exact(block(features), voxels.movedim(-1, 1))


def test_position_attention_by_hand():
    torch.manual_seed(0)
    attention = PositionAttention(16, scaled=PAPER.scaled_position_attention).double()
    features = random_map(1, 16, 2, 3, 4)
    assert torch.equal(attention(features), features)  # gamma starts at 0
    torch.nn.init.constant_(attention.gamma, 0.7)
    query, key, value = (
        layer(features).flatten(2) for layer in (attention.query, attention.key, attention.value)
    )
    shares = (query.transpose(1, 2) @ key / (16 / 8) ** 0.5).softmax(-1)  # equation (8), l = C / 8
    attended = (value @ shares.transpose(1, 2)).view(features.shape)
    exact(attention(features), features + 0.7 * attended)


def test_dropout_only_in_training():
    torch.manual_seed(0)
    step = VoxelStep(8, window=2)
    voxels = random_map(1, 4, 4, 4, 8).float()
    assert not torch.equal(step(voxels), step(voxels))
    step.eval()
    assert torch.equal(step(voxels), step(voxels))


def test_options_reach_the_attention_blocks():
    for heads, window in ((None, None), (8, 4)):
        model = build(attention_heads=heads, window_voxels=window)
        for block in model.decoders["4"].blocks:
            local, everywhere = block.local_step.attention[1], block.global_step.attention[1]
            assert local.window == (window or 6) and everywhere.window is None
            for attention in (local.attention, everywhere.attention):
                assert attention.scale == pytest.approx((64 / (heads or 1)) ** -0.5)


# Equation (5)


@pytest.fixture(scope="module")
def decoder():
    """A decoder of 4 channels with fields of about a voxel."""
    torch.manual_seed(0)
    decoder = RefinementDecoder(4, PAPER, exchanges=1).double().eval()
    for layer, gain in ((decoder.head, 0.3), (decoder.exchange.decompose.field[-1], 1.0)):
        torch.nn.init.normal_(layer.weight, std=gain)
    return decoder.requires_grad_(False)


def maps():
    return [random_map(1, 4, 6, 7, 8, seed=seed) for seed in (4, 5, 6)]


def test_equation_5_by_hand(decoder):
    moving, fixed, fused = maps()
    coarser = 0.5 * random_map(1, 3, 6, 7, 8, seed=7)
    warped = warp(decoder.correlate(moving, fixed), coarser)
    field_1, residual_1 = decoder.exchange.decompose(warped)
    field_2, residual_2 = decoder.exchange.decompose(fixed)
    for field in (field_1, field_2):
        assert field.min() < -0.1 and field.max() > 0.1  # no ReLU
    exchanged = warped + warp(residual_1, field_2) + warp(residual_2, field_1)
    own = decoder.head(decoder.residual(decoder.fuse(fused, exchanged, fixed)))
    assert own.abs().max() > 0.1
    expected = (
        own
        + warp(field_1, own, padding="zeros", interpolation="linear")
        + warp(field_2, own, padding="zeros", interpolation="linear")
    )
    exact(decoder(moving, fixed, fused, coarser), expected)


def test_without_a_coarser_field_nothing_is_warped(decoder):
    moving, fixed, fused = maps()
    exact(
        decoder(moving, fixed, fused),
        decoder(moving, fixed, fused, torch.zeros(1, 3, 6, 7, 8, dtype=torch.float64)),
    )


def test_released_exchange_differs():
    torch.manual_seed(0)
    exchange = DecompositionExchange(4, carried_fields=False).double()
    released = DecompositionExchange(4).double()
    released.load_state_dict(exchange.state_dict())
    warped, fixed, _ = maps()
    results = [one(one.decompose(fixed), warped) for one in (exchange, released)]
    exact(results[0][0], results[1][0])  # features are the same, fields are not
    assert (results[0][1] - results[1][1]).abs().max() > 1e-3


# Switches


@pytest.mark.parametrize("number", MODELS)
def test_parameter_counts(number):
    (lgam, fifm, msfm), parameters, released_blocks = MODELS[number]
    model = build(lgam, fifm, msfm)
    assert count(model) == parameters == model.declared_parameters
    if lgam:
        assert count(model.decoders["4"].blocks) == 182_528
        parameters += 2 * 63_048 - 182_528
    assert parameters == released_blocks
    assert list(model.buffers()) == []


def without_gradient(model, moving, fixed):
    """The registration, and the names of parameters with a zero gradient."""
    registration = model(moving, fixed)
    F.mse_loss(warp(moving, registration.displacement), fixed).backward()
    gradients = {name: weights.grad for name, weights in model.named_parameters()}
    assert all(g is None or g.isfinite().all() for g in gradients.values())
    return registration, {n for n, g in gradients.items() if g is None or not g.any()}


@pytest.mark.parametrize("switches", [*(entry[0] for entry in MODELS.values()), *OTHERS])
def test_forward_and_backward_of_every_combination(switches):
    model = build(*switches)
    if switches[0]:
        torch.nn.init.constant_(model.decoders["4"].position_attention.gamma, 0.5)
    registration, without = without_gradient(model, *images())
    assert without == set()
    sides = [tuple(side // 2**level for side in SHAPE) for level in (3, 2, 1, 0)]
    assert [tuple(field.shape[2:]) for field in registration.pyramid] == sides
    assert registration.displacement is registration.pyramid[-1]
    assert registration.displacement.abs().max() < 0.05  # voxels, at initialisation


def test_queries_keys_and_values_of_position_attention_wait_for_gamma():
    _, without = without_gradient(build(fifm=False, msfm=False), *images((16, 16, 24)))
    assert without == {
        f"decoders.4.position_attention.{layer}.{kind}"
        for layer in ("query", "key", "value")
        for kind in ("weight", "bias")
    }


def test_switches_take_modules_away():
    model = build()
    assert [model.decoders[level].exchanges for level in "321"] == [1, 1, 0]
    assert all(decoder.correlate is not None for decoder in model.decoders.values())
    bare = build(False, False, False)
    names = {name.split(".")[2] for name, _ in bare.named_parameters() if "decoders" in name}
    assert names == {"fuse", "head"}


def test_model_1_fuses_the_moving_map_in_place_of_the_fused_one():
    model = build(False, False, False, small_heads=False).eval()
    moving, fixed = images()
    with torch.no_grad():
        moving_4, fixed_4 = model.encoder(moving)[-1], model.encoder(fixed)[-1]
        decoder = model.decoders["4"]
        velocity = decoder.head(decoder.fuse(moving_4, moving_4, fixed_4))
        expected = integrate(velocity, padding="zeros")
        found = model(moving, fixed).pyramid[0]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lgam", False),
        ("fifm", False),
        ("msfm", False),
        ("window_voxels", 4),
        ("small_heads", True),
    ],
)
def test_the_released_network_has_no_switches(option, value):
    with pytest.raises(ValueError, match=rf"'official'.*got {option}={value}.*variant='paper'"):
        create_model("lganetpp", variant="official", **{option: value})


@pytest.mark.parametrize("option", ["window_voxels", "attention_heads"])
def test_options_are_checked(option):
    with pytest.raises(ValueError, match=rf"{option} of at least 1, got 0"):
        LGANetPP("paper", **{option: 0})


def test_heads_start_small_or_not():
    moving, fixed = images()
    with torch.no_grad():
        small = build().eval()(moving, fixed).displacement.abs().max()
        large = build(small_heads=False).eval()(moving, fixed).displacement.abs().max()
    assert small < 0.05 and large > 0.5


# The fused maps


def products(model, moving, fixed):
    """The products of equation (3), fine to coarse."""
    with torch.no_grad():
        pairs = model.encoder(torch.cat([moving, fixed]))
        reduced = [layer(pair) for layer, pair in zip(model.msfm.reduce, pairs, strict=True)]
        return [
            layer(reduced, pair.shape[2:])
            for layer, pair in zip(model.msfm.products, pairs, strict=True)
        ]


def test_products_are_alive_at_initialisation():
    moving, fixed = images()
    for product in products(build(), moving, fixed):
        assert 0.5 < product.abs().median() < 2
        assert product.std() > 0.05  # and they depend on the images
    torch.manual_seed(0)
    for product in products(LGANetPP("official"), moving, fixed):
        assert product.abs().median() < 1e-6


def test_what_weight_decay_must_leave_alone():
    model = build()
    names = model.no_weight_decay()
    assert names == {f"msfm.{name}" for name, _ in model.msfm.named_parameters()}
    assert sum(model.get_parameter(name).numel() for name in names) == 105_808
    assert build(msfm=False).no_weight_decay() == set()
    assert LGANetPP("official").no_weight_decay() == set()


# Sizes, batches, precision, learning


@pytest.mark.parametrize(
    ("shape", "nearest"),
    [
        ((40, 48, 56), (40, 48, 56)),
        ((160, 192, 160), (160, 192, 160)),  # which the released class refuses
        ((144, 176, 144), (144, 176, 144)),
        ((16, 16, 16), (16, 16, 16)),
        ((1, 8, 17), (16, 16, 24)),
        ((104, 105, 103), (104, 112, 104)),
    ],
)
def test_valid_shape(shape, nearest):
    model = build()
    assert model.valid_shape(shape) == nearest
    assert model.valid_shape(nearest) == nearest


@pytest.mark.parametrize("shape", [(16, 16, 16), (40, 48, 56)])
def test_accepted_sizes_run(shape):
    with torch.no_grad():
        displacement = build()(*images(shape)).displacement
    assert displacement.shape == (1, 3, *shape) and displacement.isfinite().all()


def test_errors_name_the_rule_and_the_nearest_size():
    with pytest.raises(ValueError, match=r"multiples of 8, at least 16, got \(8, 20, 24\).*16, 24"):
        build()(*torch.zeros(2, 1, 1, 8, 20, 24))


def test_batch_items_do_not_see_each_other():
    model = build(small_heads=False).eval()
    moving, fixed = images(batch=2)
    with torch.no_grad():
        both = model(moving, fixed).displacement
        alone = [model(moving[i : i + 1], fixed[i : i + 1]).displacement for i in range(2)]
    assert (both[0] - both[1]).abs().max() > 0.1
    torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=5e-3)


def test_autocast_stays_close_to_float32():
    model = build(small_heads=False).eval()
    moving, fixed = images()
    with torch.no_grad():
        expected = model(moving, fixed).displacement
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(moving, fixed).displacement
    assert found.dtype == torch.float32
    difference = (found - expected).abs()
    assert expected.abs().max() > 0.5
    assert difference.mean() < 0.02 and difference.max() < 0.2


def test_it_learns_a_translation():
    """From almost no displacement, at the paper's learning rate."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"), dim=-1)

    def blob(*centre):
        return (-(grid - torch.tensor(centre)).square().sum(-1) / 32).exp()[None, None]

    moving, fixed = blob(12, 11, 12), blob(10.5, 12.5, 12)
    model = build()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(7):
        optimiser.zero_grad()
        loss = F.mse_loss(warp(moving, model(moving, fixed).displacement), fixed)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
