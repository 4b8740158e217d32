"""Penalties on fields whose derivatives are known."""

import numpy as np
import pytest
import torch

from regnet_lib.losses import bending, diffusion, negative_jacobian

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


def quadratic_field(coefficients, shape):
    """u_c = sum_ij coefficients[c, i, j] x_i x_j / 2 as `(1, n, *shape)`."""
    x = np.indices(shape).astype(float)
    field = np.einsum("cij,i...,j...->c...", coefficients, x, x) / 2
    return torch.from_numpy(field)[None]


class TestBending:
    @both
    def test_quadratic_field(self, shape):
        """All second derivatives are constant and central differences exact."""
        axes = len(shape)
        half = np.random.default_rng(0).normal(size=(axes,) * 3)
        coefficients = half + half.transpose(0, 2, 1)  # symmetric: the second derivatives
        expected = (coefficients**2).sum() / axes  # the mean over components of the sum over ij
        found = bending(quadratic_field(coefficients, shape))
        assert found.shape == () and found.item() == pytest.approx(expected, rel=1e-9)

    @both
    def test_affine_fields_are_free(self, shape):
        gradient = np.random.default_rng(0).normal(size=(len(shape),) * 2)
        assert bending(linear_field(gradient, shape) + 5).item() < 1e-24

    @both
    def test_equals_numpy_on_a_batch_of_noise(self, shape):
        """Mixed derivatives are np.gradient twice: both are central differences inside."""
        axes = len(shape)
        field = np.random.default_rng(1).normal(size=(3, axes, *shape))
        inside = (..., *[slice(1, -1)] * axes)
        expected = 0.0
        for i in range(axes):
            expected += (np.diff(field, 2, axis=2 + i) ** 2)[
                (..., *[slice(None) if j == i else slice(1, -1) for j in range(axes)])
            ].mean()
            for j in range(axes):
                if i != j:
                    mixed = np.gradient(np.gradient(field, axis=2 + i), axis=2 + j)
                    expected += (mixed[inside] ** 2).mean()
        assert bending(torch.from_numpy(field)).item() == pytest.approx(expected, rel=1e-12)

    def test_second_order_on_a_sine(self):
        """Halving the step quarters the error: u = sin(x) has the mean squared u'' of sin^2."""
        errors = []
        for size in (24, 48):
            step = np.pi / size
            x = (np.arange(size + 1)) * step
            field = torch.zeros(1, 2, size + 1, 4, dtype=torch.float64)
            field[0, 0] = torch.from_numpy(np.sin(x))[:, None]
            energy = bending(field).item() * 2 / step**4
            errors.append(abs(energy - (np.sin(x[1:-1]) ** 2).mean()))
        assert 3.5 < errors[0] / errors[1] < 4.5

    @pytest.mark.parametrize("shape", [(4, 3), (3, 4, 3)], ids=["2-D", "3-D"])
    def test_gradcheck(self, shape):
        random = np.random.default_rng(3)
        field = torch.from_numpy(random.normal(size=(2, len(shape), *shape))).requires_grad_()
        assert torch.autograd.gradcheck(bending, (field,))

    def test_needs_three_voxels(self):
        with pytest.raises(ValueError, match="at least 3 voxels"):
            bending(torch.zeros(1, 3, 4, 2, 4))

    def test_half_precision_is_computed_in_float32(self):
        field = torch.randn(1, 3, 5, 5, 5).bfloat16()
        loss = bending(field)
        assert loss.dtype == torch.float32 and torch.equal(loss, bending(field.float()))


class TestNegativeJacobian:
    @both
    @pytest.mark.parametrize("difference", ["central", "forward"])
    def test_mirror_by_hand(self, shape, difference):
        """u_0 = (s - 1) x_0 scales axis 0 by s: det = s everywhere, a fold of depth -s if s < 0."""
        for scale, expected in ((-0.7, 0.7), (0.3, 0.0), (1.0, 0.0)):
            gradient = np.zeros((len(shape),) * 2)
            gradient[0, 0] = scale - 1
            found = negative_jacobian(linear_field(gradient, shape), difference)
            assert found.shape == () and found.item() == pytest.approx(expected, abs=1e-12)

    def test_equals_numpy(self):
        field = 2 * np.random.default_rng(1).normal(size=(3, 6, 8, 7))
        jacobian = np.stack([np.stack(np.gradient(component)) for component in field])
        jacobian = np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3)
        determinant = np.linalg.det(jacobian)
        expected = np.maximum(-determinant, 0).mean()
        found = negative_jacobian(torch.from_numpy(field)[None]).item()
        assert found == pytest.approx(expected, rel=1e-9) and expected > 0.1

    def test_gradcheck(self):
        random = np.random.default_rng(3)
        field = torch.from_numpy(2 * random.normal(size=(2, 3, 3, 4, 3))).requires_grad_()
        assert negative_jacobian(field) > 0.1
        assert torch.autograd.gradcheck(negative_jacobian, (field,))

    def test_descent_unfolds(self):
        torch.manual_seed(0)
        field = torch.randn(1, 3, 6, 6, 6).requires_grad_()
        optimiser = torch.optim.Adam([field], lr=0.1)
        before = negative_jacobian(field).item()
        for _ in range(40):
            optimiser.zero_grad()
            negative_jacobian(field).backward()
            optimiser.step()
        assert negative_jacobian(field).item() < 0.05 * before

    def test_a_fold_with_two_mirrored_axes_is_missed(self):
        """det = (-1)(-1) = 1: the determinant alone does not see a rotation by 180 degrees."""
        gradient = np.diag([-2.0, -2.0, 0.0])
        assert negative_jacobian(linear_field(gradient, (5, 5, 5))).item() == 0
