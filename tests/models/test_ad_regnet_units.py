"""AD-RegNet equation by equation: U-Net, candidate, gate and blend, written out by hand.

Here are (4) to (7) and (13) to (15); (8) to (12) are in `tests/nn/test_cross_attention.py`, the
regions in `tests/nn/test_regions.py`, and (16) to (19) in `tests/losses/test_objective.py` with
their terms beside it.
"""

import pytest
import torch
import torch.nn.functional as F

from regnet_lib.models.ad_regnet import ADRegNet, Level
from regnet_lib.nn.cross_attention import BidirectionalCrossAttention, JointFeatures
from regnet_lib.nn.feature_unet import ConvPair, FeatureUNet
from regnet_lib.nn.synthesis import GatedFusion
from regnet_lib.spatial import compose, resize, warp


def random_map(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def exact(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def randomise(module, std=0.3):
    """Values that matter everywhere, also where the initial ones are zero."""
    torch.manual_seed(2)
    for weights in module.parameters():
        torch.nn.init.normal_(weights, std=std)
    return module.double()


# Backbone, equations (4) to (7)


def conv_pair_by_hand(pair, features):
    for index in (0, 3):
        convolution, norm = pair[index], pair[index + 1]
        features = F.conv3d(features, convolution.weight, convolution.bias, padding=1)
        mean = features.mean((2, 3, 4), keepdim=True)
        variance = (features - mean).square().mean((2, 3, 4), keepdim=True)
        features = (features - mean) / (variance + 1e-5).sqrt()
        shape = (1, -1, 1, 1, 1)
        features = features * norm.weight.view(shape) + norm.bias.view(shape)
        features = torch.where(features < 0, 0.2 * features, features)
    return features


def test_conv_pair_by_hand():
    pair, features = randomise(ConvPair(3, 4)), random_map(2, 3, 4, 3, 5)
    exact(pair(features), conv_pair_by_hand(pair, features))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_conv_pair_learns_the_same_under_autocast(depth):
    """The weight gradients of two slices were garbage in bfloat16, and not the same twice."""
    torch.manual_seed(0)
    pair, features = ConvPair(16, 16), torch.randn(2, 16, depth, 2, 3)
    gradients = []
    for enabled in (False, True, True):
        pair.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            result = pair(features)
        result.float()[:, :4].sum().backward()
        gradients.append([layer.weight.grad.clone() for layer in (pair[0], pair[3])])
    for expected, found, again in zip(*gradients, strict=True):
        assert torch.equal(found, again)
        # Relative to the longest: the sum over a normalised map is nearly constant.
        assert (found - expected).abs().max() < 0.3 * expected.abs().max()


def test_unet_by_hand():
    unet, image = randomise(FeatureUNet((2, 3, 4))), random_map(1, 1, 8, 12, 8)
    encoded = [conv_pair_by_hand(unet.encoder[0], image)]
    for level in (1, 2):
        down = unet.down[level - 1]
        assert down.kernel_size == (2, 2, 2)
        coarse = F.conv3d(encoded[-1], down.weight, down.bias, stride=2)
        encoded.append(conv_pair_by_hand(unet.encoder[level], coarse))
    decoded = [encoded[2]]  # at the bottom D = E
    for level in (1, 0):
        up = unet.up[level]
        enlarged = F.conv_transpose3d(decoded[0], up.weight, up.bias, stride=2)
        joint = torch.cat([enlarged, encoded[level]], dim=1)
        decoded.insert(0, conv_pair_by_hand(unet.decoder[level], joint))
    found = unet(image)
    assert [tuple(features.shape) for features in found] == [
        (1, 2, 8, 12, 8),
        (1, 3, 4, 6, 4),
        (1, 4, 2, 3, 2),
    ]
    for features, expected in zip(found, decoded, strict=True):
        exact(features, expected)


def test_both_images_share_the_backbone():
    """One batch of two images gives what two passes give."""
    unet, pair = randomise(FeatureUNet((2, 3))), random_map(2, 1, 4, 4, 6)
    for both, one, other in zip(unet(pair), unet(pair[:1]), unet(pair[1:]), strict=True):
        exact(both, torch.cat([one, other]))


def test_unet_gradcheck():
    unet, image = randomise(FeatureUNet((2, 3))), random_map(1, 1, 4, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda image: tuple(unet(image)), (image,))


# Fusion, equation (15)


@pytest.mark.parametrize("modulated", [False, True])
def test_gated_fusion_by_hand(modulated):
    fusion = randomise(GatedFusion(4))
    features, modulation = random_map(2, 4, 3, 4, 5), random_map(2, 1, 3, 4, 5).sigmoid()
    candidate, coarser = random_map(2, 2, 3, 3, 4, 5, seed=3).unbind(0)
    first, _ = fusion.weigh[0]
    hidden = F.conv3d(torch.cat([features, coarser], 1), first.weight, first.bias, padding=1)
    hidden = torch.where(hidden < 0, 0.2 * hidden, hidden)
    second = fusion.weigh[1]
    gate = torch.sigmoid(F.conv3d(hidden, second.weight, second.bias, padding=1))
    gate = gate * modulation if modulated else gate
    field, found = fusion(features, candidate, coarser, modulation if modulated else None)
    exact(found, gate)
    exact(field, gate * candidate + (1 - gate) * coarser)


def test_the_gate_chooses_between_both_fields():
    """Where W is high the fusion favors the level's own field, where it is low the coarser one."""
    fusion = GatedFusion(4).double()
    torch.nn.init.zeros_(fusion.weigh[1].weight)
    features = random_map(1, 4, 2, 3, 2)
    candidate, coarser = random_map(2, 1, 3, 2, 3, 2, seed=3).unbind(0)
    for bias, expected in ((50.0, candidate), (-50.0, coarser), (0.0, (candidate + coarser) / 2)):
        torch.nn.init.constant_(fusion.weigh[1].bias, bias)
        exact(fusion(features, candidate, coarser)[0], expected)


def test_gated_fusion_gradcheck():
    fusion = randomise(GatedFusion(1))
    inputs = [random_map(1, 1, 2, 3, 2), random_map(1, 3, 2, 3, 2, seed=3)]
    inputs += [random_map(1, 3, 2, 3, 2, seed=4), random_map(1, 1, 2, 3, 2, seed=5).sigmoid()]
    assert torch.autograd.gradcheck(fusion, [one.requires_grad_() for one in inputs])


# One level, equations (12) to (15)


def build_level(composition, coordinates, fused=True):
    torch.manual_seed(0)
    match = BidirectionalCrossAttention(4, window=2, coordinates=coordinates)
    level = Level(4, match, 2, fused, composition).double()
    torch.nn.init.normal_(level.head.weight, std=0.1)
    torch.nn.init.normal_(level.head.bias, std=0.1)
    return level


@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("composition", [False, True])
def test_level_by_hand(composition, coordinates):
    level = build_level(composition, coordinates)
    moving, fixed = random_map(2, 1, 4, 4, 6, 4).unbind(0)
    coarse = 0.5 * random_map(1, 3, 2, 3, 2, seed=3)
    found = level(moving, fixed, coarse)
    coarser = resize(coarse, (4, 6, 4))
    matched = level.match(warp(moving, coarser) if composition else moving, fixed)
    features, modulation, weights = level.regions(matched.features, 2)
    seen = torch.cat([features, matched.offset], dim=1) if coordinates else features
    candidate = F.conv3d(seen, level.head.weight, level.head.bias, padding=1)
    if composition:
        candidate = compose(coarser, candidate)
    field, gate = level.fusion(features, candidate, coarser, modulation)
    exact(found.candidate, candidate)
    exact(found.gate, gate)
    exact(found.displacement, field)
    exact(found.region_weights, weights)


def test_recommended_head_starts_as_the_mean_offset_of_its_neighbours():
    torch.manual_seed(0)
    match = BidirectionalCrossAttention(4, window=2, coordinates=True, relative=True)
    level = Level(4, match, None, fused=False, composition=True, feature_scale=0.25).double()
    moving, fixed = random_map(2, 1, 4, 4, 6, 4).unbind(0)
    offset = level.match(moving, fixed).offset
    assert offset.abs().max() > 0.1
    torch.testing.assert_close(
        level(moving, fixed).candidate, 1.5 * F.avg_pool3d(offset, 3, 1, 1), rtol=0, atol=1e-3
    )


def test_feature_scale_leaves_the_offset_alone():
    torch.manual_seed(0)
    match = BidirectionalCrossAttention(4, window=2, coordinates=True, relative=True)
    level = Level(4, match, None, fused=False, composition=True, feature_scale=0.25).double()
    torch.nn.init.normal_(level.head.weight)
    moving, fixed = random_map(2, 1, 4, 4, 6, 4).unbind(0)
    matched = level.match(moving, fixed)
    seen = torch.cat([0.25 * matched.features, matched.offset], dim=1)
    expected = F.conv3d(seen, level.head.weight, level.head.bias, padding=1)
    exact(level(moving, fixed).candidate, expected)


def test_features_count_less_on_coarser_levels_in_recommended_mode_alone():
    for mode, base in (("recommended", 4.0), ("paper", 1.0)):
        model = ADRegNet(mode, channels=(4, 8, 16, 32, 64))
        scales = {int(name): level.feature_scale for name, level in model.levels.items()}
        assert scales == {level: base**-level for level in range(5)}


def test_recommended_mode_leaves_equal_images_where_they_are():
    """Up to the 1e-5 of the heads' other weights."""
    torch.manual_seed(0)
    model = ADRegNet("recommended", channels=(4, 8, 16, 32, 64)).eval()
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert model(image, image).displacement.abs().max() < 1e-2
        assert model(image, image.flip(2)).displacement.abs().max() > 0.1


def test_coarsest_level_is_its_candidate():
    level = build_level(composition=True, coordinates=True, fused=False)
    moving, fixed = random_map(2, 1, 4, 4, 6, 4).unbind(0)
    found = level(moving, fixed)
    assert found.gate is None and torch.equal(found.displacement, found.candidate)


def test_a_coarser_field_doubles_on_its_way_up():
    """Voxels of level l are half as long as those of level l + 1."""
    level = build_level(composition=False, coordinates=False)
    torch.nn.init.constant_(level.fusion.weigh[1].bias, -50)
    torch.nn.init.zeros_(level.fusion.weigh[1].weight)
    moving, fixed = random_map(2, 1, 4, 4, 6, 4).unbind(0)
    coarse = torch.ones(1, 3, 2, 3, 2, dtype=torch.float64)
    exact(level(moving, fixed, coarse).displacement, torch.full((1, 3, 4, 6, 4), 2.0).double())


@pytest.mark.parametrize("composition", [False, True])
def test_level_gradcheck(composition):
    torch.manual_seed(0)
    level = Level(4, JointFeatures(4), 2, True, composition).double()
    torch.nn.init.normal_(level.head.weight, std=0.05)
    moving, fixed = random_map(2, 1, 4, 2, 4, 2).unbind(0)
    coarse = 0.3 + 0.1 * random_map(1, 3, 2, 2, 2, seed=3).sigmoid()
    level.fusion.requires_grad_(False)

    def run(moving, fixed, coarse):
        coarse = F.interpolate(coarse, size=(2, 2, 2), mode="nearest")
        return level(moving, fixed, coarse).displacement

    inputs = [one.requires_grad_() for one in (moving, fixed, coarse)]
    assert torch.autograd.gradcheck(run, inputs)


# The whole network


@pytest.mark.parametrize("mode", ["paper", "recommended"])
def test_pyramid_follows_equation_15(mode):
    torch.manual_seed(0)
    model = ADRegNet(mode, channels=(4, 8, 16, 32, 64))
    for level in model.levels.values():
        torch.nn.init.normal_(level.head.weight, std=0.02)
    moving, fixed = torch.rand(2, 1, 1, 32, 32, 48).unbind(0)
    registration = model(moving, fixed, details=True)
    candidates, gates = registration.extras["candidates"], registration.extras["gates"]
    assert torch.equal(registration.pyramid[0], candidates[4])
    for level, coarse, field in zip(
        (3, 2, 1, 0), registration.pyramid, registration.pyramid[1:], strict=False
    ):
        coarser = resize(coarse, field.shape[2:])
        blended = gates[level] * candidates[level] + (1 - gates[level]) * coarser
        torch.testing.assert_close(field, blended)
    assert registration.displacement.abs().max() > 0.1
