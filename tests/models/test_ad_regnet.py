"""AD-RegNet: parameters to the unit, the switches of Table V, sizes, errors, by-products."""

import pytest
import torch
import torch.nn.functional as F

from regnet_lib.models import create_model
from regnet_lib.models.ad_regnet import ADRegNet
from regnet_lib.models.sizes import run_at_valid_size

NARROW = (4, 8, 16, 32, 64)
SHAPE = (32, 48, 32)
MODES = ("paper", "recommended")
# Row of Table V: switches, parameters.
TABLE_V = {
    "Full Model": ({}, 30_716_956),
    "w/o Bidirectional Cross-Attention": ({"cross_attention": False}, 30_019_575),
    "w/o Regional Adaptive Attention": ({"regional_attention": False}, 30_366_392),
    "w/o Multi-Resolution DVF": ({"multi_resolution": False}, 28_685_893),
    "w/o Both Attention Mechanisms": (
        {"cross_attention": False, "regional_attention": False},
        29_669_011,
    ),
}
# Parameters that no loss can depend on: a softmax does not see a number added to all its scores.
WITHOUT_EFFECT = ("regions.score.bias",)


def build(mode="paper", **options):
    torch.manual_seed(0)
    return ADRegNet(mode, channels=NARROW, **options)


def images(shape=SHAPE, batch=1):
    """Smooth random images in [0, 1], moving and fixed."""
    noise = torch.rand(2, batch, 1, *shape, generator=torch.Generator().manual_seed(1))
    smooth = F.avg_pool3d(noise.flatten(0, 1), 5, stride=1, padding=2).view_as(noise)
    return ((smooth - smooth.min()) / (smooth.max() - smooth.min())).unbind(0)


def count(module):
    return sum(weights.numel() for weights in module.parameters())


def on_meta(*args, **options):
    with torch.device("meta"):
        return ADRegNet(*args, **options)


def enlarge_heads(model, std=0.1):
    """Displacements of some voxels, as after training."""
    for level in model.levels.values():
        torch.nn.init.normal_(level.head.weight, std=std)
    return model


# Parameters


@pytest.mark.parametrize("row", TABLE_V)
def test_parameters_of_table_v(row):
    switches, expected = TABLE_V[row]
    assert count(on_meta(**switches)) == expected


def test_parameters_of_the_parts():
    model = on_meta()
    parts = {
        name: sum(count(getattr(level, name)) for level in model.levels.values())
        for name in ("match", "head")
    }
    optional = {
        name: [getattr(level, name) for level in model.levels.values()]
        for name in ("regions", "fusion")
    }
    for name, modules in optional.items():
        assert [module is None for module in modules] == [True, False, False, False, False]
        parts[name] = sum(map(count, modules[1:]))
    assert count(model.backbone) == 28_674_944
    assert parts == {
        "match": 1_396_741,
        "regions": 350_564,
        "head": 80_367,
        "fusion": 214_340,
    }


def test_without_multi_resolution_unused_attention_is_not_made():
    """With the attention of levels 1 to 4, which nothing would read, it would be 30,424,844."""
    full, single = on_meta(), on_meta(multi_resolution=False)
    assert list(single.levels) == ["0"] and single.levels["0"].fusion is None
    unused = sum(
        count(part)
        for name, level in full.levels.items()
        for part in (level.match, level.regions)
        if name != "0" and part is not None
    )
    assert count(single) + unused == 30_424_844


@pytest.mark.parametrize(
    ("channels", "expected"),
    [((16, 32, 64, 128, 256), 7_760_316), ((8, 16, 32, 64, 128), 1_983_756)],
)
def test_parameters_of_narrow_networks(channels, expected):
    assert count(on_meta(channels=channels)) == expected


def test_recommended_adds_three_channels_per_head():
    assert count(on_meta("recommended")) == 30_716_956 + 5 * 3 * 27 * 3
    assert count(on_meta(composition=True)) == 30_716_956
    assert count(on_meta(coordinates=True)) == count(on_meta("recommended"))


def test_is_in_the_zoo():
    model = create_model("ad_regnet", mode="recommended", channels=NARROW)
    assert isinstance(model, ADRegNet) and model.levels["0"].composition


# Results


@pytest.mark.parametrize("mode", MODES)
def test_pyramid_and_start(mode):
    """From almost no motion between equal images: five composed levels stay below 0.01 voxel.

    In paper mode that holds for any two images; matches mean nothing to its heads yet.
    """
    moving, fixed = images(batch=2)
    registration = build(mode)(moving, fixed if mode == "paper" else moving)
    shapes = [tuple(field.shape) for field in registration.pyramid]
    assert shapes == [(2, 3, *(side // 2**level for side in SHAPE)) for level in (4, 3, 2, 1, 0)]
    assert registration.pyramid[-1] is registration.displacement
    assert 0 < registration.displacement.abs().max() < 0.01
    assert registration.extras == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", TABLE_V)
def test_every_variant_trains_a_step(row, mode):
    switches, _ = TABLE_V[row]
    model, (moving, fixed) = build(mode, **switches), images((32, 32, 32))
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    registration = model(moving, fixed)
    assert registration.displacement.shape == (1, 3, 32, 32, 32)
    assert len(registration.pyramid) == (5 if switches.get("multi_resolution", True) else 0)
    (1e6 * registration.displacement).square().mean().backward()
    missing = [name for name, weights in model.named_parameters() if weights.grad is None]
    assert missing == []
    silent = [name for name, weights in model.named_parameters() if not weights.grad.any()]
    assert all(name.endswith(WITHOUT_EFFECT) for name in silent)
    optimiser.step()
    for name, weights in model.named_parameters():
        assert torch.isfinite(weights).all()
        if name.endswith("weight"):
            assert not torch.equal(weights, before[name])


@pytest.mark.parametrize("mode", MODES)
def test_batch_items_do_not_see_each_other(mode):
    model = enlarge_heads(build(mode)).eval()
    moving, fixed = images((32, 32, 32), batch=2)
    with torch.no_grad():
        together = model(moving, fixed).displacement
        alone = [model(moving[i : i + 1], fixed[i : i + 1]).displacement for i in (0, 1)]
    assert together.abs().max() > 0.3
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_runs_at_other_sizes_with_padding():
    registration = run_at_valid_size(build(), *images((33, 20, 32)))
    assert registration.displacement.shape == (1, 3, 33, 20, 32)


# Options


def test_region_sides_are_voxels_of_the_image():
    def sides(**options):
        return [level.region_side for level in on_meta(**options).levels.values()]

    assert sides() == [None, 2, 4, 8, 16]  # levels 4 to 0
    assert sides(region_voxels=24) == [None, 3, 6, 12, 24]
    assert sides(literal_regions=True) == [None, 16, 16, 16, 16]
    assert sides(regional_attention=False) == [None] * 5


def test_all_levels_share_one_grid_of_regions():
    """32 / 24 and 48 / 24 are not both whole: cut regions are cut on every level alike."""
    model = build(region_voxels=24)
    weights = model(*images(), details=True).extras["region_weights"]
    assert {level: tuple(w.shape[2:]) for level, w in weights.items()} == {
        level: (2, 2, 2) for level in (3, 2, 1, 0)
    }
    whole = build()(*images(), details=True).extras["region_weights"]
    assert {tuple(w.shape[2:]) for w in whole.values()} == {(2, 3, 2)}


def test_literal_regions_are_few_where_maps_are_small():
    weights = build(literal_regions=True)(*images(), details=True).extras["region_weights"]
    grids = {level: tuple(w.shape[2:]) for level, w in weights.items()}
    assert grids == {3: (1, 1, 1), 2: (1, 1, 1), 1: (1, 2, 1), 0: (2, 3, 2)}


def test_reach_of_attention_by_level():
    matches = {name: level.match for name, level in on_meta().levels.items()}
    windows = {name: match.window for name, match in matches.items()}
    assert windows == {"4": None, "3": None, "2": 6, "1": 4, "0": 4}
    pooled = on_meta(fine_attention="pooled").levels
    reach = {name: (level.match.window, level.match.pooling) for name, level in pooled.items()}
    assert reach == {"4": (None, 1), "3": (None, 1), "2": (None, 2), "1": (None, 4), "0": (None, 8)}


def test_pooled_attention_sees_the_whole_image():
    """One changed voxel of the moving features of level 0 reaches everything, or its window."""
    reached = {}
    for option in ("window", "pooled"):
        match = build(fine_attention=option).levels["0"].match
        moving, fixed = torch.randn(2, 1, 4, 16, 8, 8).unbind(0)
        changed = moving.clone()
        changed[0, :, 0, 0, 0] += 100
        difference = match(changed, fixed).features - match(moving, fixed).features
        reached[option] = int((difference.abs().amax(1) > 0).sum())
    assert reached == {"window": 4**3, "pooled": 16 * 8 * 8}


@pytest.mark.parametrize("mode", MODES)
def test_pooled_attention_trains(mode):
    registration = build(mode, fine_attention="pooled")(*images((32, 32, 32)))
    registration.displacement.square().mean().backward()


def test_details_on_request():
    model = build("recommended")
    registration = model(*images(), details=True)
    extras = registration.extras
    assert list(extras) == ["candidates", "gates", "region_weights", "attention_entropy"]
    levels = {name: list(values) for name, values in extras.items()}
    assert levels["candidates"] == levels["attention_entropy"] == [4, 3, 2, 1, 0]
    assert levels["gates"] == levels["region_weights"] == [3, 2, 1, 0]
    for level, gate in extras["gates"].items():
        assert gate.shape == (1, 1, *(side // 2**level for side in SHAPE))
        assert 0 <= gate.min() and gate.max() <= 1
    keys = {4: 2 * 3 * 2, 3: 4 * 6 * 4, 2: 6**3, 1: 4**3, 0: 4**3}
    for level, entropy in extras["attention_entropy"].items():
        assert entropy.shape == (1, 1, *(side // 2**level for side in SHAPE))
        assert 0 < entropy.min() and entropy.max() < torch.tensor(float(keys[level])).log() + 1e-4
    assert not any(value.requires_grad for values in extras.values() for value in values.values())
    plain = model(*images())
    assert torch.equal(plain.displacement, registration.displacement)


def test_details_of_a_variant_hold_what_exists():
    model = build(cross_attention=False, regional_attention=False, multi_resolution=False)
    extras = model(*images(), details=True).extras
    assert {name: list(values) for name, values in extras.items()} == {
        "candidates": [0],
        "gates": [],
        "region_weights": [],
        "attention_entropy": [],
    }


# Sizes and errors


def test_valid_shapes():
    model = on_meta(channels=NARROW)
    assert model.valid_shape((160, 192, 224)) == (160, 192, 224)
    assert model.valid_shape((94, 256, 256)) == (96, 256, 256)
    assert model.valid_shape((1, 16, 33)) == (32, 32, 48)


@pytest.mark.parametrize("shape", [(16, 32, 32), (32, 40, 32)])
def test_other_sizes_are_refused_with_the_nearest_one(shape):
    image = torch.zeros(1, 1, *shape)
    nearest = str(on_meta(channels=NARROW).valid_shape(shape)).replace("(", r"\(")
    with pytest.raises(ValueError, match=f"multiples of 16, at least 32, .*{nearest[:-1]}"):
        build()(image, image)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "best"}, r"mode to be one of \('paper', 'recommended'\), got 'best'"),
        ({"channels": (8, 16, 32)}, r"five levels, .*got \(8, 16, 32\)"),
        ({"channels": (6, 8, 16, 32, 64)}, "multiples of 4"),
        ({"region_voxels": 12}, "multiple of 8.* got 12"),
        ({"region_voxels": 0}, "multiple of 8.* got 0"),
        ({"fine_attention": "dense"}, "fine_attention to be one of"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=f"ADRegNet: expected .*{message}"):
        ADRegNet(**options)


def test_state_holds_no_image_size():
    model, other = build(), build()
    model(*images())
    other.load_state_dict(model.state_dict())
    other(*images((48, 32, 32)))
    assert list(model.buffers()) == []
