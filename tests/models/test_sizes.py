"""Which sizes a model takes, and running it on the others."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from regnet_lib.models.identity import Identity
from regnet_lib.models.sizes import require_valid_images, run_at_valid_size
from regnet_lib.models.voxelmorph import VoxelMorph2
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Registration


class Recorder(nn.Module):
    """Wants multiples of 8; its displacement is its (padded) moving image, three times."""

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return next_multiple(shape, 8)

    def forward(self, moving, fixed) -> Registration:
        self.seen = (moving, fixed)
        displacement = moving.expand(-1, 3, -1, -1, -1)
        coarse = displacement[..., ::2, ::2, ::2]
        return Registration(displacement, (coarse, displacement), {"seen": moving})


def test_next_multiple():
    assert next_multiple((1, 16, 17), 16) == (16, 16, 32)


def test_crops_exactly_what_was_padded():
    model = Recorder()
    moving, fixed = torch.rand(2, 2, 1, 13, 16, 9)
    registration = run_at_valid_size(model, moving, fixed)
    assert torch.equal(registration.displacement, moving.expand(-1, 3, -1, -1, -1))
    assert [part.shape for part in registration.pyramid] == [(2, 3, 13, 16, 9)]
    assert registration.pyramid[-1] is registration.displacement
    assert registration.extras == {}


def test_padding_is_zero_and_symmetric():
    model = Recorder()
    run_at_valid_size(model, torch.ones(1, 1, 13, 16, 9), torch.ones(1, 1, 13, 16, 9))
    for seen in model.seen:
        assert seen.shape == (1, 1, 16, 16, 16)
        assert seen.sum() == 13 * 16 * 9
        assert seen[0, 0, 1:14, :, 3:12].min() == 1


def test_valid_sizes_pass_untouched():
    model = Recorder()
    moving, fixed = torch.rand(2, 1, 1, 8, 16, 8)
    registration = run_at_valid_size(model, moving, fixed)
    assert model.seen[0] is moving
    assert len(registration.pyramid) == 2 and "seen" in registration.extras


def test_models_without_a_rule_run_as_they_are():
    class Anything(nn.Module):
        def forward(self, moving, fixed) -> Registration:
            return Registration(torch.zeros(1, 3, *moving.shape[2:]))

    image = torch.rand(1, 1, 5, 6, 7)
    registration = run_at_valid_size(Anything(), image, image)
    assert registration.displacement.shape == (1, 3, 5, 6, 7)
    assert registration.pyramid == ()


def test_gradients_reach_images_and_weights():
    torch.manual_seed(0)
    model = VoxelMorph2()
    moving = torch.rand(1, 1, 17, 12, 20, requires_grad=True)
    fixed = torch.rand(1, 1, 17, 12, 20)
    displacement = run_at_valid_size(model, moving, fixed).displacement
    assert displacement.shape == (1, 3, 17, 12, 20)
    displacement.square().mean().backward()
    assert moving.grad.abs().sum() > 0
    assert model.unet.down[0][0].weight.grad.abs().sum() > 0


def test_identity_takes_every_size():
    registration = Identity()(torch.rand(2, 1, 5, 6, 7), torch.rand(2, 1, 5, 6, 7))
    assert registration.displacement.shape == (2, 3, 5, 6, 7)
    assert not registration.displacement.any()
    assert Identity().valid_shape((5, 6, 7)) == (5, 6, 7)
    assert list(Identity().parameters()) == []


@pytest.mark.parametrize(
    ("moving", "fixed", "error", "message"),
    [
        (torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8), ValueError, "batch and channel axes"),
        (torch.zeros(1, 2, 8, 8, 8), torch.zeros(1, 2, 8, 8, 8), ValueError, r"\(B, 1, D, H, W\)"),
        (torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 16), ValueError, "of one shape"),
        (torch.zeros(1, 1, 8, 8, 9), torch.zeros(1, 1, 8, 8, 9), ValueError, r"8.*\(8, 8, 16\)"),
        (
            torch.zeros(1, 1, 8, 8, 8).int(),
            torch.zeros(1, 1, 8, 8, 8).int(),
            TypeError,
            r"image.float\(\)",
        ),
    ],
)
def test_errors_say_what_to_do(moving, fixed, error, message):
    with pytest.raises(error, match=message):
        require_valid_images(
            "Net", moving, fixed, lambda shape: next_multiple(shape, 8), "multiples of 8"
        )
