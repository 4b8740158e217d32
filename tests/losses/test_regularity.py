"""The diffusion penalty on fields whose derivatives are known."""

import numpy as np
import pytest
import torch

from regnet_lib.losses import diffusion

SHAPES = [(9, 12), (6, 8, 7)]
both = pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])


def linear_field(gradient, shape):
    """u_i = sum_j gradient[i, j] x_j as `(1, n, *shape)`."""
    return torch.from_numpy(np.tensordot(gradient, np.indices(shape).astype(float), 1))[None]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", [(1, 1, 4, 5), (3, 4, 5), (1, 4, 5, 6, 3)])
def test_refuses_what_is_no_displacement(wrong):
    with pytest.raises(ValueError, match="diffusion: expected displacement of shape"):
        diffusion(torch.zeros(wrong))


@both
def test_linear_field(shape):
    """Every difference is constant: the mean of the squared gradient's entries."""
    gradient = np.random.default_rng(0).normal(size=(len(shape),) * 2)
    loss = diffusion(linear_field(gradient, shape))
    assert loss.shape == ()
    assert loss.item() == pytest.approx((gradient**2).mean(), rel=1e-12)


@both
def test_quadratic_field(shape):
    """u_0 = x_0^2 has the forward differences 1, 3, 5, ...; all other entries vanish."""
    axes, side = len(shape), shape[0]
    field = torch.zeros(1, axes, *shape, dtype=torch.float64)
    field[0, 0] = torch.from_numpy(np.indices(shape)[0] ** 2)
    squares = [(2 * k + 1) ** 2 for k in range(side - 1)]
    expected = sum(squares) / len(squares) / axes**2
    assert diffusion(field).item() == pytest.approx(expected, rel=1e-12)


@both
def test_every_axis_weighs_the_same_whatever_its_length(shape):
    """The mean per axis comes first: a long axis has more differences but no more weight."""
    for axis in range(len(shape)):
        gradient = np.zeros((len(shape),) * 2)
        gradient[0, axis] = 3.0
        loss = diffusion(linear_field(gradient, shape)).item()
        assert loss == pytest.approx(9 / len(shape) ** 2, rel=1e-12)


@both
def test_equals_numpy_on_a_batch_of_noise(shape):
    field = np.random.default_rng(1).normal(size=(3, len(shape), *shape))
    expected = np.mean([(np.diff(field, axis=2 + axis) ** 2).mean() for axis in range(len(shape))])
    assert diffusion(torch.from_numpy(field)).item() == pytest.approx(expected, rel=1e-12)


@both
def test_translations_are_free_and_amplitude_counts_squared(shape):
    noise = torch.from_numpy(np.random.default_rng(2).normal(size=(1, len(shape), *shape)))
    assert diffusion(torch.full_like(noise, 5.0)).item() == 0
    assert diffusion(noise + 7).item() == pytest.approx(diffusion(noise).item(), rel=1e-12)
    assert diffusion(3 * noise).item() == pytest.approx(9 * diffusion(noise).item(), rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)], ids=["2-D", "3-D"])
def test_gradcheck(shape):
    random = np.random.default_rng(3)
    field = torch.from_numpy(random.normal(size=(2, len(shape), *shape))).requires_grad_()
    assert torch.autograd.gradcheck(diffusion, (field,))


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(shape, dtype):
    field = torch.from_numpy(np.random.default_rng(4).normal(size=(1, len(shape), *shape))).to(
        dtype
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = diffusion(field)
    assert loss.dtype == torch.float32 and torch.equal(loss, diffusion(field.float()))


@both
def test_runs_where_its_input_is(shape):
    assert diffusion(torch.zeros(1, len(shape), *shape, device="meta")).device.type == "meta"
