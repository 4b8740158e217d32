"""Scaling and squaring against the matrix exponential, and its order of convergence."""

import numpy as np
import pytest
import torch
from known_fields import (
    NAMES,
    SHAPES,
    affine_field,
    interior,
    linear_image,
    near_identity,
    smooth_field,
)
from scipy.linalg import expm

from regnet_lib.spatial import compose, folding_fraction, integrate, warp

both = pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
larger = pytest.mark.parametrize("shape", [(21, 25), (15, 17, 16)], ids=NAMES)


def generator(axes):
    """A matrix whose flow contracts to the centre: no trajectory leaves the grid."""
    return near_identity(axes, 6, 0.03) - 1.25 * np.eye(axes)


class TestErrors:
    @pytest.mark.usefixtures("unchecked")
    def test_a_velocity_is_called_a_velocity(self):
        with pytest.raises(ValueError, match="integrate: expected velocity of shape"):
            integrate(torch.zeros(1, 4, 5, 2))

    def test_negative_steps(self):
        with pytest.raises(ValueError, match="steps >= 0, got -1"):
            integrate(torch.zeros(1, 2, 4, 5), -1)


@larger
def test_affine_velocity_approaches_the_matrix_exponential(shape):
    """v(x) = L (x - c) flows to expm(L)."""
    linear = generator(len(shape))
    velocity = affine_field(linear + np.eye(len(shape)), shape)
    exact = affine_field(expm(linear), shape)
    assert (integrate(velocity, 7) - exact).abs().max() < 5e-3
    assert (integrate(velocity, 12) - exact).abs().max() < 2e-4


@larger
def test_the_error_halves_with_every_squaring(shape):
    linear = generator(len(shape))
    velocity = affine_field(linear + np.eye(len(shape)), shape)
    exact = affine_field(expm(linear), shape)
    steps = np.arange(3, 11)
    errors = [(integrate(velocity, int(t)) - exact).abs().max().item() for t in steps]
    slope = np.polyfit(steps, np.log2(errors), 1)[0]
    assert slope == pytest.approx(-1, abs=0.03)


@both
@pytest.mark.parametrize("steps", [0, 1, 4, 7])
def test_constant_velocity_is_a_translation_with_border(shape, steps):
    velocity = torch.full((1, len(shape), *shape), 1.7, dtype=torch.float64)
    torch.testing.assert_close(integrate(velocity, steps), velocity, rtol=0, atol=1e-12)


@larger
def test_constant_velocity_is_no_translation_with_zeros(shape):
    """What the published networks do: trajectories stop where they leave the grid."""
    velocity = torch.full((1, len(shape), *shape), 1.7, dtype=torch.float64)
    stopped = integrate(velocity, padding="zeros")
    assert (stopped - velocity).abs().max() > 0.5
    torch.testing.assert_close(stopped[(0, 0, *[2] * len(shape))].item(), 1.7, rtol=0, atol=1e-12)


@both
def test_zero_and_no_steps(shape):
    velocity = smooth_field(shape, 2.0)
    assert integrate(torch.zeros_like(velocity)).abs().max() == 0
    assert torch.equal(integrate(velocity, 0), velocity)


@both
def test_half_the_time_twice_is_the_whole_time(shape):
    velocity = smooth_field(shape, 2.0)
    half = integrate(velocity / 2, 6)
    torch.testing.assert_close(compose(half, half), integrate(velocity, 7), rtol=0, atol=1e-12)


@larger
def test_the_negative_velocity_nearly_inverts(shape):
    """Only nearly: the residual is the interpolation error, which steps do not remove."""
    velocity = smooth_field(shape, 2.0, sigma=3.0)
    residual = compose(integrate(velocity), integrate(-velocity))
    assert interior(residual, 4).abs().max() < 0.1
    assert interior(residual, 4).abs().max() > 1e-6


@larger
def test_a_smooth_velocity_does_not_fold_where_its_vectors_alone_would(shape):
    velocity = smooth_field(shape, 6.0, sigma=2.0)
    assert folding_fraction(velocity, "central").item() > 0.01
    assert folding_fraction(integrate(velocity), "central").item() < 1e-3


@both
def test_equals_many_small_warps(shape):
    """Stepping an image through v / 2^t one step at a time; linear images avoid blur."""
    image, _ = linear_image(shape)
    velocity = affine_field(generator(len(shape)) + np.eye(len(shape)), shape)
    stepped = image
    for _ in range(2**4):
        stepped = warp(stepped, velocity / 2**4)
    torch.testing.assert_close(warp(image, integrate(velocity, 4)), stepped, rtol=0, atol=1e-10)


def by_composition(velocity, steps, padding):
    """The plain form of equations (6) and (7)."""
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement, padding=padding)
    return displacement


@both
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_equals_its_plain_form(shape, padding):
    """Values and gradients, of fields that leave the grid too."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        velocity = smooth_field(shape, 4.0, batch=2).to(dtype).requires_grad_()
        results = []
        for integrated in (
            integrate(velocity, 7, padding=padding),
            by_composition(velocity, 7, padding),
        ):
            upstream = torch.linspace(-1, 1, integrated.numel(), dtype=dtype).view_as(integrated)
            results.append((integrated, *torch.autograd.grad(integrated, velocity, upstream)))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@both
def test_keeps_one_field_per_squaring(shape):
    velocity = smooth_field(shape, 2.0).requires_grad_()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        integrate(velocity, 7)
    assert sum(kept.values()) == 7 * velocity.numel() * velocity.element_size()


@pytest.mark.parametrize("shape", [(5, 4), (4, 3, 5)], ids=NAMES)
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_gradcheck(shape, padding):
    velocity = (0.3 + 0.2 * smooth_field(shape, 1.0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: integrate(v, 3, padding=padding), (velocity,))


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_integrated_in_float32(shape, dtype):
    velocity = smooth_field(shape, 2.0).to(dtype)
    displacement = integrate(velocity)
    assert displacement.dtype == torch.float32
    assert torch.equal(displacement, integrate(velocity.float()))


@both
def test_stays_in_float32_under_bfloat16_autocast(shape):
    velocity = smooth_field(shape, 2.0).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        displacement = integrate(velocity)
    assert displacement.dtype == torch.float32
    assert torch.equal(displacement, integrate(velocity))


@both
def test_runs_where_its_input_is(shape):
    velocity = torch.zeros(1, len(shape), *shape, device="meta")
    assert integrate(velocity).device.type == "meta"
