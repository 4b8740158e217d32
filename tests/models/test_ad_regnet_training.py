"""AD-RegNet in training: learning, checkpointing, autocast and dropout."""

import pytest
import torch

from regnet_lib.data import phantom_pair
from regnet_lib.losses import ADRegNetObjective, Objective
from regnet_lib.models.ad_regnet import ADRegNet

NARROW = (4, 8, 16, 32, 64)
MODES = ("paper", "recommended")


def build(mode="paper", head_std=None, **options):
    torch.manual_seed(0)
    model = ADRegNet(mode, channels=NARROW, **options)
    for level in model.levels.values() if head_std else ():
        torch.nn.init.normal_(level.head.weight, std=head_std)
    return model


def pair():
    case = phantom_pair((32, 32, 32), seed=0)
    return case.moving, case.fixed


def step(model, objective, seed=3):
    """Loss and gradients of one step, with the same random numbers every time."""
    moving, fixed = pair()
    model.zero_grad()
    torch.manual_seed(seed)
    loss, _ = objective(model(moving, fixed).displacement, moving, fixed)
    loss.backward()
    return loss.detach(), [weights.grad.clone() for weights in model.parameters()]


@pytest.mark.parametrize("mode", MODES)
def test_learns_one_pair(mode):
    model, (moving, fixed) = build(mode), pair()
    objective = Objective("mse", diffusion_weight=0.001)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss, parts = objective(model(moving, fixed).displacement, moving, fixed)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(parts["mse"]))
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.parametrize("mode", MODES)
def test_trains_with_its_own_objective(mode):
    loss, gradients = step(build(mode, head_std=0.1), ADRegNetObjective())
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) > 0.95 * len(gradients)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
def test_checkpointing_changes_no_bit(mode, autocast):
    """Dropout included: the second forward pass repeats the random numbers of the first."""
    results = []
    for checkpointing in (False, True):
        model = build(mode, head_std=0.1, dropout=0.3, checkpointing=checkpointing)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            results.append(step(model, Objective("mse")))
    (loss, gradients), (same_loss, same_gradients) = results
    assert torch.equal(loss, same_loss)
    assert all(map(torch.equal, gradients, same_gradients))
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("mode", MODES)
def test_autocast_returns_float32_close_to_it(mode):
    model = build(mode, head_std=0.1).eval()
    with torch.no_grad():
        expected = model(*pair()).displacement
        with torch.autocast("cpu", torch.bfloat16):
            registration = model(*pair(), details=True)
    found = registration.displacement
    assert all(field.dtype == torch.float32 for field in registration.pyramid)
    for name in ("candidates", "gates", "region_weights", "attention_entropy"):
        assert all(value.dtype == torch.float32 for value in registration.extras[name].values())
    longest = expected.abs().max()
    assert longest > 0.2
    assert (found - expected).abs().max() < 0.04 * max(longest, 1)


class TestDropout:
    def test_samples_differ_and_the_mode_returns(self):
        model = build(head_std=0.1, dropout=0.3).eval()
        samples = model.sample(*pair(), samples=3)
        assert samples.shape == (3, 1, 3, 32, 32, 32) and not samples.requires_grad
        assert (samples[0] - samples[1]).abs().max() > 1e-3
        assert not any(module.training for module in model.modules())
        assert torch.equal(model(*pair()).displacement, model(*pair()).displacement)
        model.train().sample(*pair(), samples=1)
        assert all(module.training for module in model.modules())

    def test_samples_repeat_with_the_seed(self):
        model = build(head_std=0.1, dropout=0.3)
        runs = []
        for _ in range(2):
            torch.manual_seed(5)
            runs.append(model.sample(*pair(), samples=2))
        assert torch.equal(*runs)

    def test_without_dropout_there_is_nothing_to_sample(self):
        with pytest.raises(ValueError, match=r"a model with dropout, got dropout=0\.0"):
            build().sample(*pair(), samples=2)
