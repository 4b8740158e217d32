"""LGANet against a plain transcription of the released algebra, its parameters and its sizes."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regnet_lib.models.lganet import CHANNELS, LGANet
from regnet_lib.models.official_weights import load_official_state_dict
from regnet_lib.nn.attention import (
    GlobalAttention,
    LocalAttention,
    LocalGlobalBlock,
    PositionAttention,
)
from regnet_lib.nn.blocks import FeaturePyramid, PairedResidual
from regnet_lib.nn.decomposition import Decomposition
from regnet_lib.nn.fusion import ChannelWiseFusion

OFFICIAL_CLASS = "LGANet"
SHAPE = (96, 112, 96)
SMALL = (32, 48, 32)

# Where each unit sits: official prefix, our prefix.
PLACES = {
    "encoder": ("encoder.", "encoder."),
    "pam": ("deblock5.pa.", "decoders.5.position_attention."),
    "gsa": ("deblock5.swin.1.attn.lsa.", "decoders.5.blocks.1.global_attention."),
    "lsa": ("deblock5.swin.1.attn.gsa.", "decoders.5.blocks.1.local_attention."),
    "lga": ("deblock5.swin.0.attn.", "decoders.5.blocks.0."),
    "resnet": ("deblock4.resnet.", "decoders.4.residual."),
    "fifm": ("deblock2.de.", "decoders.2.decompose."),
    "nff": ("deblock1.nff.", "decoders.1.fuse."),
}


def close(found, expected, atol=1e-4, rtol=1e-4):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def parameter_count(module):
    return sum(weights.numel() for weights in module.parameters())


@pytest.fixture(scope="module")
def declared(lganet_folder) -> dict[str, dict]:
    """Official name -> shape, sum, used."""
    return json.loads((lganet_folder / "parameters.json").read_text())[OFFICIAL_CLASS]


@pytest.fixture(scope="module")
def official(recipe, declared) -> dict[str, torch.Tensor]:
    """A complete official state_dict; the never-used parameters are broadcast zeros."""
    state = {}
    for name, entry in declared.items():
        shape = tuple(entry["shape"])
        if entry["used"]:
            state[name] = torch.from_numpy(recipe.value(OFFICIAL_CLASS, name, shape))
        else:
            state[name] = torch.zeros(1).expand(shape)
    return state


@pytest.fixture(scope="module")
def model(official) -> LGANet:
    network = LGANet().eval()
    load_official_state_dict(network, official)
    return network


@pytest.fixture(scope="module")
def weightless() -> LGANet:
    """For counts and size rules: parameters with shapes and no values."""
    with torch.device("meta"):
        return LGANet()


@pytest.fixture(scope="module")
def stored(lganet_folder) -> dict[str, torch.Tensor]:
    """Arrays of the released network's own run, with batch axes; empty without that file."""
    path = lganet_folder / "lganet_96x112x96.npz"
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name])[None] for name in arrays}


@pytest.fixture(scope="module")
def registration(model, stored):
    """One run in evaluation mode at the size of the goldens."""
    if stored:
        moving, fixed = stored["moving"][None], stored["fixed"][None]
    else:
        moving, fixed = smooth_images(SHAPE)
    with torch.no_grad():
        return model(moving, fixed)


def smooth_images(shape, batch=1):
    coarse = [max(side // 8, 2) for side in shape]
    noise = torch.rand(2 * batch, 1, *coarse, generator=torch.Generator().manual_seed(3))
    return F.interpolate(noise, size=shape, mode="trilinear", align_corners=True).split(batch)


@pytest.fixture
def any_size(monkeypatch):
    """Only the count of local groups forbids small images; with one group they run quickly."""
    monkeypatch.setattr("regnet_lib.nn.attention.local_groups", lambda shape: 1)
    monkeypatch.setattr(LGANet, "valid_shape", lambda self, shape: tuple(shape))


@pytest.mark.golden
def test_released_fields_of_all_levels(registration, stored):
    if not stored:
        pytest.skip("lganet_96x112x96.npz is not among the goldens")
    for name, field in zip(
        ("flow5", "flow4", "flow3", "flow2", "flow"), registration.pyramid, strict=True
    ):
        close(field, stored[name], rtol=0, atol=5e-3)
    for level, velocity in zip((5, 4, 3, 2, 1), registration.extras["velocities"], strict=True):
        close(velocity, stored[f"raw{level}"], rtol=0, atol=5e-3)


@pytest.mark.golden
def test_pyramid(registration):
    sides = [tuple(side // 2**level for side in SHAPE) for level in (4, 3, 2, 1, 0)]
    for fields in (registration.pyramid, registration.extras["velocities"]):
        assert [tuple(field.shape) for field in fields] == [(1, 3, *shape) for shape in sides]
        assert all(field.dtype == torch.float32 and field.isfinite().all() for field in fields)
    assert registration.displacement is registration.pyramid[-1]
    assert registration.displacement.std() > 0.5


@pytest.mark.golden
def test_pyramid_follows_from_the_velocities(registration):
    fields = plain_pyramid(registration.extras["velocities"])
    for found, expected in zip(registration.pyramid, fields, strict=True):
        close(found, expected, rtol=0, atol=2e-3)


@pytest.mark.golden
def test_plain_transcription_of_the_whole_network(model, any_size):
    images = [image.double() for image in smooth_images(SMALL)]
    try:
        with torch.no_grad():
            found = model.double()(*images)
            velocities = plain_velocities(model, *images)
    finally:
        model.float()
    assert all(velocity.std() > 0.05 for velocity in velocities)
    for one, other in zip(found.extras["velocities"], velocities, strict=True):
        close(one, other, rtol=0, atol=1e-8)
    close(found.displacement, plain_pyramid(velocities)[-1], rtol=0, atol=1e-8)


@pytest.mark.golden
def test_plain_transcription_with_two_local_groups(model):
    moving, fixed = torch.randn(2, 1, 128, 6, 7, 12, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        close(
            model.decoders["5"](moving, fixed),
            plain_coarsest(model.decoders["5"], moving, fixed, groups=2),
        )


@pytest.mark.golden
def test_every_parameter_gets_a_gradient(model, any_size):
    model.zero_grad()
    model(*smooth_images(SMALL)).displacement.square().mean().backward()
    without = [
        name
        for name, weights in model.named_parameters()
        if weights.grad is None or not weights.grad.any()
    ]
    model.zero_grad()
    assert without == []


@pytest.mark.golden
def test_batch_items_do_not_see_each_other(model, any_size):
    moving, fixed = smooth_images(SMALL, batch=2)
    with torch.no_grad():
        both = model(moving, fixed).displacement
        alone = model(moving[1:], fixed[1:]).displacement
    close(both[1:], alone, rtol=0, atol=5e-3)
    assert (both[0] - both[1]).abs().max() > 1


def test_parameter_counts(weightless):
    network = weightless
    assert parameter_count(network.encoder) == 1_473_216
    assert {level: parameter_count(part) for level, part in network.decoders.items()} == {
        "5": 12_724_868,
        "4": 15_654_537,
        "3": 3_922_249,
        "2": 984_873,
        "1": 113_214,
    }
    assert parameter_count(network) == 34_872_957
    assert list(network.buffers()) == []


@pytest.mark.golden
def test_declared_and_used_parameters_of_the_released_class(declared):
    sizes = {name: torch.Size(entry["shape"]).numel() for name, entry in declared.items()}
    assert sum(sizes.values()) == LGANet.declared_parameters == 66_454_287
    assert sum(size for name, size in sizes.items() if declared[name]["used"]) == 34_872_957


@pytest.mark.golden
def test_every_official_key_is_loaded_or_dead(model, official, declared):
    used = {name for name, entry in declared.items() if entry["used"]}
    keys = LGANet.official_keys
    assert {name for name in declared if not keys.is_dead(name)} == used
    names = {keys.rename(name): name for name in used}
    ours = model.state_dict()
    assert len(names) == len(used) and names.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(value, official[names[name]]), name

    grids = {"spatial_transformer.grid": torch.zeros(1, 3, 4, 4, 4)}
    report = load_official_state_dict(model, {**official, **grids})
    assert set(report.loaded) == used
    assert set(report.dead) == declared.keys() - used
    assert report.derived == tuple(grids)


@pytest.fixture(scope="module")
def arrays(lganet_folder):
    with np.load(lganet_folder / "units.npz") as units:
        wanted = ("encoder.", "pam.", "gsa.", "lsa_", "lga.", "resnet.", "fifm.", "nff.")
        return {name: torch.from_numpy(units[name]) for name in units if name.startswith(wanted)}


@pytest.fixture(scope="module")
def build(lganet_folder, recipe):
    """Fill a module with the golden weights of a unit, through the key map of the whole network."""
    shapes = json.loads((lganet_folder / "units.json").read_text())["params"]

    def fill(unit, module):
        prefix, ours = PLACES[unit]
        values = {}
        for name, shape in shapes[unit].items():
            renamed = LGANet.official_keys.rename(prefix + name)
            assert renamed.startswith(ours), (name, renamed)
            value = recipe.value(f"unit/{unit}", name, tuple(shape))
            values[renamed.removeprefix(ours)] = torch.from_numpy(value)
        module.load_state_dict(values)
        return module.eval().requires_grad_(False)

    return fill


@pytest.mark.golden
@pytest.mark.parametrize(
    ("unit", "case", "module"),
    [
        ("pam", "pam", lambda: PositionAttention(16)),
        ("gsa", "gsa", lambda: GlobalAttention(64)),
        ("lsa", "lsa_a", lambda: LocalAttention(64)),
        ("lsa", "lsa_b", lambda: LocalAttention(64)),
        ("lga", "lga", lambda: LocalGlobalBlock(64)),
        ("resnet", "resnet", lambda: PairedResidual(12)),
    ],
)
def test_released_units(build, arrays, unit, case, module):
    close(build(unit, module())(arrays[f"{case}.x"]), arrays[f"{case}.out"], atol=2e-4)


@pytest.mark.golden
def test_released_encoder(build, arrays):
    features = build("encoder", FeaturePyramid(CHANNELS[:4]))(arrays["encoder.x"])
    for level, found in enumerate(features, start=1):
        close(found, arrays[f"encoder.out{level}"])


@pytest.mark.golden
def test_released_decomposition_and_fusion(build, arrays):
    parts = build("fifm", Decomposition(8))(arrays["fifm.x"])
    close(parts.field, arrays["fifm.flow"])
    close(parts.residual, arrays["fifm.M"])
    fuse = build("nff", ChannelWiseFusion(8))
    close(fuse(*(arrays[f"nff.x{index}"] for index in range(3))), arrays["nff.out"])


@pytest.mark.parametrize(
    ("shape", "nearest"),
    [
        ((48, 48, 48), (96, 96, 96)),
        ((48, 64, 48), (96, 96, 96)),
        ((48, 64, 96), (96, 96, 96)),
        ((96, 96, 96), (96, 96, 96)),
        ((96, 112, 80), (96, 112, 96)),  # IXI and OASIS as the released LGANet++ sees them
        ((96, 112, 96), (96, 112, 96)),
        ((128, 128, 128), (128, 128, 128)),
        ((144, 176, 144), (144, 176, 144)),  # LPBA40
        ((144, 160, 192), (144, 160, 192)),
        ((96, 192, 192), (96, 192, 192)),
        ((160, 192, 160), (160, 192, 160)),
        ((160, 192, 224), (160, 192, 224)),
        ((104, 104, 104), (112, 112, 112)),
        ((208, 208, 208), (208, 208, 256)),  # 8 groups, and 8 divides 13 x 13 x 16 first
    ],
)
def test_nearest_valid_shape(weightless, shape, nearest):
    assert weightless.valid_shape(shape) == nearest
    assert weightless.valid_shape(nearest) == nearest


@pytest.mark.parametrize("side", range(8, 264, 8))
def test_valid_cubes_follow_from_the_group_rule(weightless, side):
    cells = side // 16
    groups = (cells // 6) ** 3
    valid = side % 16 == 0 and groups > 0 and cells**3 % groups == 0
    assert (weightless.valid_shape((side,) * 3) == (side,) * 3) == valid


def test_errors_name_the_rule_and_the_nearest_size(weightless):
    small = torch.zeros(1, 1, 96, 112, 80)
    with pytest.raises(
        ValueError, match=r"LGANet: .*multiples of 16.*\(96, 112, 80\).*\(96, 112, 96\)"
    ):
        weightless(small, small)


# The released algebra written down layer by layer, with PyTorch's own functions alone.


def plain_warp(image, displacement):
    shape = displacement.shape[2:]
    axes = [torch.arange(side, dtype=displacement.dtype) for side in shape]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement
    normalised = [2 * positions[:, axis] / (shape[axis] - 1) - 1 for axis in (2, 1, 0)]
    return F.grid_sample(image, torch.stack(normalised, dim=-1), align_corners=True)


def plain_pyramid(velocities):
    """Composed field of every level, coarse to fine."""
    fields = []
    for velocity in velocities:
        field = velocity / 2**7
        for _ in range(7):
            field = field + plain_warp(field, field)
        if fields:
            field = field + plain_warp(plain_double(fields[-1]), field)
        fields.append(field)
    return fields


def plain_double(field):
    return F.interpolate(2 * field, scale_factor=2, mode="trilinear", align_corners=True)


def plain_velocities(network, moving, fixed):
    """Decoder outputs of all levels, coarse to fine."""
    moving_levels, fixed_levels = network.encoder(moving), network.encoder(fixed)
    velocities = [
        plain_coarsest(network.decoders["5"], moving_levels[4], fixed_levels[4], groups=1)
    ]
    for level in (4, 3, 2, 1):
        coarser = plain_double(plain_pyramid(velocities)[-1])
        maps = moving_levels[level - 1], fixed_levels[level - 1]
        velocities.append(plain_refining(network.decoders[str(level)], *maps, coarser, level))
    return velocities


def plain_coarsest(decoder, moving, fixed, groups):
    features = decoder.merge[0](torch.cat([moving, fixed], dim=1))
    features = F.leaky_relu(F.instance_norm(features), 0.1)
    attention = decoder.position_attention
    query, key, value = (
        layer(features).flatten(2) for layer in (attention.query, attention.key, attention.value)
    )
    weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
    attended = (value @ weights.transpose(1, 2)).view(features.shape)
    features = plain_residual(decoder.residual, features + attention.gamma * attended)
    for block in decoder.blocks:
        for _ in range(2):
            features = plain_attention(block, block.global_attention, features, 1)
            features = plain_attention(block, block.local_attention, features, groups)
    return F.conv3d(features, decoder.head.weight, decoder.head.bias, padding=1)


def plain_attention(block, layer, features, groups):
    batch, channels = features.shape[:2]
    tokens = block.norm(features.movedim(1, -1)).movedim(-1, 1).reshape(batch, groups, -1, channels)
    query, key, value = (
        tokens @ part.weight.T
        for part in (layer.attention.query, layer.attention.key, layer.attention.value)
    )
    weights = torch.softmax(query @ key.transpose(-2, -1) * 32**-0.5, dim=-1)
    tokens = layer.projection((weights @ value).view(batch, -1, channels))
    return features + block.feed_forward(tokens.transpose(1, 2).reshape(features.shape))


def plain_residual(layer, features):
    first, second, third, fourth, fifth = (
        part for part in layer.modules() if isinstance(part, torch.nn.Conv3d)
    )
    features = F.relu(second(first(features)))
    return features + F.relu(fifth(fourth(F.relu(third(features)))))


def plain_refining(decoder, moving, fixed, coarser, level):
    warped = plain_warp(moving, coarser)
    fields = 0
    if level > 1:
        fixed_field, fixed_residual = plain_parts(decoder.decompose, fixed)
        own_field, own_residual = plain_parts(decoder.decompose, warped)
        warped = (
            warped + plain_warp(fixed_residual, own_field) + plain_warp(own_residual, fixed_field)
        )
        fields = fixed_field + own_field
    features = plain_residual(decoder.residual, plain_fusion(decoder.fuse, moving, warped, fixed))
    return F.conv3d(features, decoder.head.weight, decoder.head.bias, padding=1) + fields


def plain_parts(layer, features):
    """Field and residual of a decomposition, every convolution by itself."""
    one, two, three, four, five, six = (
        part for part in layer.trunk if isinstance(part, torch.nn.Conv3d)
    )
    features = F.relu(two(F.instance_norm(one(features))))
    features = F.relu(four(F.instance_norm(three(features))))
    features = F.relu(six(five(features)))
    return tuple(F.relu(last(first(features))) for first, last in (layer.field, layer.residual))


def plain_fusion(layer, *maps):
    merged = torch.cat(maps, dim=1)
    for part in layer.merge:
        merged = F.leaky_relu(F.instance_norm(part[0](merged)), 0.1)
    weights = torch.softmax(layer.weigh(merged), dim=1)
    merged = torch.cat([one * weights[:, i : i + 1] for i, one in enumerate(maps)], dim=1)
    first, _, second = layer.gate
    pooled = (F.adaptive_avg_pool3d(merged, 1), F.adaptive_max_pool3d(merged, 1))
    gate = sum(F.relu(part.flatten(1) @ first.weight.T) @ second.weight.T for part in pooled)
    return merged * torch.sigmoid(gate)[:, :, None, None, None]
