"""The option `folding_free` of LGANet++: one integration of the summed velocities per level."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from regnet_lib.models import create_model
from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.spatial import compose, folding_fraction, integrate, resize, warp

SHAPE = (24, 32, 24)
SMALL = (16, 16, 24)


class Says(nn.Module):
    """A decoder that gives a fixed velocity."""

    def __init__(self, velocity):
        super().__init__()
        self.velocity = velocity

    def forward(self, moving, fixed, fused, coarser=None):
        return self.velocity


def build(**options):
    torch.manual_seed(0)
    return LGANetPP("paper", **options)


@pytest.fixture(scope="module")
def networks():
    """Without and with the option, in double precision; their decoders are replaced."""
    bare = {"lgam": False, "fifm": False, "msfm": False}
    return {free: build(folding_free=free, **bare).double().eval() for free in (False, True)}


def register(networks, folding_free, velocities):
    """What the network's pyramid makes of given velocities, levels 4 to 1."""
    model = networks[folding_free]
    for level, velocity in zip("4321", velocities, strict=True):
        model.decoders[level] = Says(velocity)
    images = torch.zeros(2, 1, 1, *SHAPE, dtype=torch.float64)
    return model(*images)


def velocities(longest, blurs=2, seed=0, drift=0.0):
    """Smooth random velocities, levels 4 to 1; the longest vector of each is given, in voxels."""
    generator = torch.Generator().manual_seed(seed)
    fields = []
    for level in (3, 2, 1, 0):
        shape = [side // 2**level for side in SHAPE]
        field = torch.randn(1, 3, *shape, generator=generator, dtype=torch.float64)
        for _ in range(blurs):
            field = F.avg_pool3d(F.pad(field, (1,) * 6, mode="replicate"), 3, stride=1)
        fields.append(longest * field / field.norm(dim=1).max() + drift)
    return fields


def steepest(field):
    """The largest 1-norm of a difference between neighbours."""
    return max(float(field.diff(dim=axis).abs().sum(1).max()) for axis in (2, 3, 4))


def digital(displacement):
    return float(folding_fraction(displacement, "digital"))


def test_runs_and_keeps_the_shapes():
    model = build(folding_free=True)
    moving, fixed = torch.rand(2, 2, 1, *SMALL, generator=torch.Generator().manual_seed(1))
    registration = model(moving, fixed)
    sides = [tuple(side // 2**level for side in SMALL) for level in (3, 2, 1, 0)]
    assert [tuple(field.shape) for field in registration.pyramid] == [(2, 3, *s) for s in sides]
    assert registration.displacement is registration.pyramid[-1]
    assert len(registration.extras["velocities"]) == 4
    assert "velocity" not in build()(moving, fixed).extras


def test_parameters_are_the_same():
    plain, free = build().state_dict(), build(folding_free=True).state_dict()
    assert plain.keys() == free.keys()
    assert all(torch.equal(plain[name], free[name]) for name in plain)
    assert sum(weights.numel() for weights in free.values()) == 6_658_692


def test_the_released_network_has_no_such_option():
    with pytest.raises(ValueError, match=r"'official'.*got folding_free=True.*variant='paper'"):
        create_model("lganetpp", variant="official", folding_free=True)


def test_field_is_the_integral_of_the_summed_velocities(networks):
    given = velocities(1.5)
    registration = register(networks, True, given)
    total = given[0]
    for velocity, field in zip(given[1:], registration.pyramid[1:], strict=True):
        total = resize(total, velocity.shape[2:]) + velocity
        assert torch.equal(field, integrate(total, 7, padding="border"))
    assert torch.equal(registration.extras["velocity"], total)


def test_the_option_starts_at_equation_9(networks):
    """At the coarsest level there is nothing to compose: only the padding differs."""
    given = velocities(1.0)
    first = register(networks, True, given).pyramid[0]
    assert torch.equal(first, integrate(given[0], padding="border"))


def test_difference_to_the_composition_is_of_second_order(networks):
    given = velocities(1.0)
    sizes = 0.5 ** np.arange(5, 9)
    gaps = []
    for size in sizes:
        scaled = [float(size) * velocity for velocity in given]
        one, other = (register(networks, free, scaled).displacement for free in (False, True))
        gaps.append(float((one - other).abs().max()))
    assert np.polyfit(np.log(sizes), np.log(gaps), 1)[0] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("longest", [1.5, 2.5])
def test_large_velocities_fold_less(networks, longest, seed):
    given = velocities(longest, seed=seed)
    composed, free = (register(networks, on, given).displacement for on in (False, True))
    assert digital(composed) > 2e-3
    assert digital(free) < 0.05 * digital(composed)
    assert free.norm(dim=1).max() > 0.8 * composed.norm(dim=1).max()  # and it moves as far


@pytest.mark.parametrize("seed", [0, 1])
def test_no_fold_below_a_steepness_of_ln_2(networks, seed):
    """The bound of the docstring, with noise for velocities and a drift out of the grid."""
    given = velocities(1.0, blurs=0, seed=seed)
    total = steepest(register(networks, True, given).extras["velocity"])
    given = [math.log(2) / total * velocity + 2.0 for velocity in given]
    registration = register(networks, True, given)
    reached = steepest(registration.extras["velocity"])
    assert reached == pytest.approx(math.log(2), rel=1e-9)
    displacement = registration.displacement
    assert displacement.norm(dim=1).max() > 20
    assert steepest(displacement) <= (1 + reached / 2**7) ** (2**7) - 1
    assert digital(displacement) == 0
    assert digital(register(networks, False, given).displacement) > 0.01


def test_a_level_can_take_back_what_a_coarser_one_said(networks):
    given = velocities(2.0)[:2]
    finer = [torch.zeros(1, 3, *(s // n for s in SHAPE), dtype=torch.float64) for n in (2, 1)]
    given = [given[0], -resize(given[0], given[1].shape[2:]), *finer]
    assert register(networks, True, given).displacement.abs().max() < 1e-12
    assert register(networks, False, given).displacement.abs().max() > 0.1


def test_negative_velocity_approximates_the_inverse(networks):
    registration = register(networks, True, velocities(0.7, blurs=3))
    displacement = registration.displacement
    inverse = integrate(-registration.extras["velocity"])
    there_and_back = compose(displacement, inverse)
    inner = (slice(None), slice(None), *[slice(6, -6)] * 3)
    assert displacement[inner].norm(dim=1).max() > 2
    assert there_and_back[inner].norm(dim=1).max() < 0.1


def test_gradient_reaches_every_parameter_and_every_level():
    model = build(folding_free=True)
    nn.init.constant_(model.decoders["4"].position_attention.gamma, 0.5)
    moving, fixed = torch.rand(2, 1, 1, *SMALL, generator=torch.Generator().manual_seed(2))
    registration = model(moving, fixed)
    F.mse_loss(warp(moving, registration.displacement), fixed).backward()
    gradients = {name: weights.grad for name, weights in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients.values())


def test_gradient_is_the_derivative(networks):
    given = [velocity.requires_grad_() for velocity in velocities(1.0)]
    weights = velocities(1.0, seed=5)[-1]

    def value(fields):
        return (register(networks, True, fields).displacement * weights).sum()

    gradients = torch.autograd.grad(value(given), given)
    directions = velocities(1.0, seed=6)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (
            value([v + sign * step * d for v, d in zip(given, directions, strict=True)])
            for sign in (1, -1)
        )
    assert slope == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-3)


class Samplings(TorchDispatchMode):
    """Counts the samplings of volumes."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "grid_sampler" in func.name()
        return func(*args, **(kwargs or {}))


def test_it_costs_one_warp_per_level_less():
    counts = []
    for free in (False, True):
        model = build(folding_free=free).eval()
        images = torch.zeros(2, 1, 1, *SMALL)
        with torch.no_grad(), Samplings() as samplings:
            model(*images)
        counts.append(samplings.count)
    assert counts[0] - counts[1] == 3
