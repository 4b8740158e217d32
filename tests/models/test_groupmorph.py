"""GroupMorph against the network of its repository."""

import pytest
import torch
from pyramid_networks import (
    check_behaviour,
    check_golden,
    check_sizes,
    parameter_count,
    read_golden,
    sides,
    smooth_images,
)

from regnet_lib.losses import diffusion
from regnet_lib.models.groupmorph import ContextFusion, GroupMorph

SHAPE = (16, 24, 16)


def tables(model: GroupMorph) -> int:
    return sum(fusion.position.numel() for fusion in model.fusions)


@pytest.mark.parametrize(
    ("preset", "used", "unreached", "positions"),
    [("official", 1_373_660, 69_216, 2_365_440), ("lganet", 1_208_668, 290_528, 2_257_920)],
)
def test_parameter_counts_are_the_published_ones(preset, used, unreached, positions):
    model = GroupMorph(preset, shape=(96, 112, 80))
    assert tables(model) == positions
    assert parameter_count(model) - positions == used
    declared = {"official": 1_442_876, "lganet": 1_499_196}
    assert used + unreached == declared[preset]


def test_training_shapes_of_the_presets():
    with torch.device("meta"):
        model = GroupMorph("lganet")
        assert tuple(GroupMorph().fusions[2].position.shape[2:]) == (80, 96, 96)
    assert parameter_count(model) + 290_528 == 11_079_228


def test_errors(unchecked):
    with pytest.raises(ValueError, match=r"GroupMorph: .*lganet.*official.*'paper'"):
        GroupMorph("paper")
    with pytest.raises(ValueError, match=r"GroupMorph: .*multiples of 8.*\(20, 24, 16\)"):
        GroupMorph(shape=(20, 24, 16))


@pytest.mark.golden
def test_golden(goldens):
    golden = read_golden(goldens, "GroupMorph_g222")
    model = GroupMorph("lganet", shape=(32, 48, 40), compat=True)
    check_golden(model, golden, zoomed=True)
    with torch.no_grad():
        registration = model(golden.inputs["moving"], golden.inputs["fixed"])
    smoothness = sum(diffusion(residual) for residual in registration.extras["residuals"])
    torch.testing.assert_close(smoothness, golden.outputs["smooth"], rtol=0, atol=1e-4)


@pytest.mark.golden
def test_stages_without_groups_are_dead(goldens):
    state = read_golden(goldens, "GroupMorph_g222").state
    keys = GroupMorph("lganet", shape=SHAPE).official_keys
    dead = {name for name in state if keys.is_dead(name)}
    assert len(dead) == 12 and all(".conv3." in name or ".conv4." in name for name in dead)
    keys = GroupMorph("official", shape=SHAPE).official_keys
    assert not any(name.startswith("groupflow8") for name in state if keys.is_dead(name))


def test_sizes():
    check_sizes(GroupMorph("lganet", shape=SHAPE), multiple=8, least=16)


@pytest.mark.parametrize("preset", ["official", "lganet"])
def test_behaviour(preset):
    torch.manual_seed(0)
    check_behaviour(GroupMorph(preset, shape=SHAPE), SHAPE)


def test_other_sizes_interpolate_the_positional_tables():
    torch.manual_seed(0)
    model = GroupMorph("lganet", shape=SHAPE).eval()
    images = smooth_images((24, 16, 16), batch=1)
    with torch.no_grad():
        registration = model(*images)
        assert sides(registration.pyramid) == [(3, 2, 2), (6, 4, 4), (12, 8, 8), (24, 16, 16)]
        for fusion in model.fusions:
            torch.nn.init.ones_(fusion.position)
        constant = model(*images).displacement
        other = GroupMorph("lganet", shape=(24, 16, 16)).eval()
        state = {
            name: value for name, value in model.state_dict().items() if "position" not in name
        }
        other.load_state_dict(state, strict=False)
        for fusion in other.fusions:
            torch.nn.init.ones_(fusion.position)
        torch.testing.assert_close(other(*images).displacement, constant)
    assert not torch.equal(constant, registration.displacement)


def test_pairs_of_contexts():
    assert ContextFusion(2, 4, 2, (2, 2, 2)).pairs == [(0, 1), (2, 3)]
    assert ContextFusion(2, 2, 2, (2, 2, 2)).pairs == [(0, 1), (1, 0)]
    assert ContextFusion(2, 2, 1, (2, 2, 2)).pairs == [(0, 1)]


def test_compat_zooms_where_nothing_moves():
    torch.manual_seed(0)
    model = GroupMorph("lganet", shape=SHAPE).eval()
    for estimator in model.estimators:
        torch.nn.init.zeros_(estimator.head.weight)
        torch.nn.init.zeros_(estimator.head.bias)
    image, _ = smooth_images(SHAPE, batch=1)
    features = []
    model.finest.register_forward_hook(lambda _, inputs, __: features.append(inputs[0]))
    with torch.no_grad():
        model(image, image)
        model.compat = True
        model(image, image)
    moving, fixed = features[0][:, :8], features[0][:, 8:16]
    torch.testing.assert_close(moving, fixed)
    zoomed, fixed = features[1][:, :8], features[1][:, 8:16]
    assert (zoomed - fixed).abs().max() > 0.1
