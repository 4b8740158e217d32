"""Composition, change of grid and inversion, against both warps, SimpleITK and affine algebra."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from known_fields import (
    NAMES,
    SHAPES,
    affine_field,
    interior,
    inward_field,
    linear_image,
    near_identity,
    smooth_field,
    voxel_grid,
)

from regnet_lib.spatial import compose, invert, resize, warp

both = pytest.mark.parametrize("shape", SHAPES, ids=NAMES)


def constant_field(shape, voxels):
    field = torch.tensor(voxels, dtype=torch.float64).view(1, -1, *[1] * len(shape))
    return field.expand(1, len(shape), *shape).clone()


def itk_transform(displacement):
    """The field as an ITK transform on a unit grid (components and axes in reverse order)."""
    vectors = np.moveaxis(displacement[0].numpy()[::-1], 0, -1)
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True)
    return sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    def test_compose_names_the_field_that_is_wrong(self):
        good, bad = torch.zeros(1, 2, 4, 5), torch.zeros(1, 3, 4, 5)
        with pytest.raises(ValueError, match="compose: expected outer of shape"):
            compose(bad, good)
        with pytest.raises(ValueError, match="compose: expected inner of shape"):
            compose(good, bad)

    def test_compose_wants_one_grid_and_names_the_way_out(self):
        with pytest.raises(ValueError, match="Resample one of the two .*spatial.resize"):
            compose(torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 8, 10))

    @pytest.mark.parametrize("target", [(8,), (8, 10, 3), (8, 1)])
    def test_resize_refuses_other_shapes(self, target):
        with pytest.raises(ValueError, match="resize: expected 2 sizes of at least 2"):
            resize(torch.zeros(1, 2, 4, 5), target)

    def test_invert_refuses_what_is_no_displacement(self):
        with pytest.raises(ValueError, match="invert: expected displacement"):
            invert(torch.zeros(1, 1, 4, 5))


class TestCompose:
    @both
    def test_equals_both_warps_on_a_linear_image(self, shape):
        """Linear interpolation of a linear image is exact, so nothing blurs the comparison."""
        image, _ = linear_image(shape)
        outer, inner = inward_field(shape, 2.0, seed=1), inward_field(shape, 2.5, seed=2)
        twice = warp(warp(image, outer), inner)
        torch.testing.assert_close(warp(image, compose(outer, inner)), twice, rtol=0, atol=1e-10)

    @both
    def test_the_order_matters(self, shape):
        image, _ = linear_image(shape)
        outer, inner = inward_field(shape, 2.0, seed=1), inward_field(shape, 2.5, seed=2)
        other_order = warp(warp(image, inner), outer)
        assert (warp(image, compose(outer, inner)) - other_order).abs().max() > 0.05

    @both
    def test_equals_simpleitk_composite_transform(self, shape):
        """sitk.CompositeTransform([first, second]) maps a point to first(second(point))."""
        outer, inner = inward_field(shape, 2.0, seed=1), inward_field(shape, 2.5, seed=2)
        composite = sitk.CompositeTransform([itk_transform(outer), itk_transform(inner)])
        composed = compose(outer, inner)[0].numpy()
        for index in np.random.default_rng(0).integers(0, shape, size=(50, len(shape))):
            itk_point = composite.TransformPoint([float(i) for i in index[::-1]])
            ours = index + composed[(slice(None), *index)]
            np.testing.assert_allclose(ours, itk_point[::-1], rtol=0, atol=1e-9)

    @both
    def test_zero_is_neutral_on_both_sides(self, shape):
        field = smooth_field(shape, 2.0)
        zero = torch.zeros_like(field)
        torch.testing.assert_close(compose(field, zero), field, rtol=0, atol=1e-12)
        assert torch.equal(compose(zero, field), field)

    @both
    def test_translations_add_with_border_and_not_with_zeros(self, shape):
        one, two = [1.5, -2.0, 0.5][: len(shape)], [-0.7, 1.0, 2.2][: len(shape)]
        outer, inner = constant_field(shape, one), constant_field(shape, two)
        both_steps = constant_field(shape, [a + b for a, b in zip(one, two, strict=True)])
        torch.testing.assert_close(compose(outer, inner), both_steps, rtol=0, atol=1e-12)
        assert (compose(outer, inner, padding="zeros") - both_steps).abs().max() > 0.6

    @both
    def test_affine_maps_multiply_and_associate(self, shape):
        """Inward maps keep every position on the grid, where an affine field is exactly linear."""
        axes = len(shape)
        a, b, c = (0.8 * near_identity(axes, seed, 0.03) for seed in range(3))
        fields = [affine_field(matrix, shape) for matrix in (a, b, c)]
        torch.testing.assert_close(
            compose(fields[0], fields[1]), affine_field(a @ b, shape), rtol=0, atol=1e-10
        )
        left = compose(compose(fields[0], fields[1]), fields[2])
        right = compose(fields[0], compose(fields[1], fields[2]))
        torch.testing.assert_close(left, right, rtol=0, atol=1e-10)
        torch.testing.assert_close(left, affine_field(a @ b @ c, shape), rtol=0, atol=1e-10)


class TestResize:
    @both
    @pytest.mark.parametrize("ratio", ["size", "corner"])
    def test_each_component_takes_the_factor_of_its_own_axis(self, shape, ratio):
        vector = [1.0, -2.0, 3.0][: len(shape)]
        target = (2 * shape[0], 3 * shape[1], shape[-1] + 5)[: len(shape)]
        resized = resize(constant_field(shape, vector), target, ratio=ratio)
        less = int(ratio == "corner")
        expected = [
            v * (n - less) / (o - less) for v, n, o in zip(vector, target, shape, strict=True)
        ]
        torch.testing.assert_close(resized, constant_field(target, expected), rtol=1e-12, atol=0)

    @both
    def test_doubling_doubles_by_default(self, shape):
        """LGANet++ equation (9): twice the grid, twice the vectors."""
        target = tuple(2 * side for side in shape)
        resized = resize(constant_field(shape, [1.25] * len(shape)), target)
        torch.testing.assert_close(
            resized, constant_field(target, [2.5] * len(shape)), rtol=1e-12, atol=0
        )

    @both
    def test_corner_is_exact_on_linear_fields(self, shape):
        """x -> A x on one grid is x -> S A S^-1 x on the other, S the corner-to-corner factors."""
        matrix = near_identity(len(shape), 4)
        target = tuple(2 * side + 1 for side in shape)
        scale = np.diag([(n - 1) / (o - 1) for n, o in zip(target, shape, strict=True)])
        expected = affine_field(scale @ matrix @ np.linalg.inv(scale), target)
        resized = resize(affine_field(matrix, shape), target, ratio="corner")
        torch.testing.assert_close(resized, expected, rtol=0, atol=1e-10)
        by_size = resize(affine_field(matrix, shape), target)
        assert (by_size - expected).abs().max() > 1e-3

    @both
    def test_there_and_back_on_aligned_grids(self, shape):
        """With 2 n - 1 voxels every old voxel centre is a new one."""
        field = smooth_field(shape, 2.0)
        finer = resize(field, [2 * side - 1 for side in shape], ratio="corner")
        torch.testing.assert_close(resize(finer, shape, ratio="corner"), field, rtol=0, atol=1e-10)

    @both
    def test_same_shape_changes_nothing(self, shape):
        field = smooth_field(shape, 2.0)
        assert torch.equal(resize(field, shape), field)


class TestInvert:
    @both
    def test_inverse_of_an_affine_field(self, shape):
        """Expanding maps have inverses that stay on the grid, where the field is exactly linear."""
        matrix = 1.25 * near_identity(len(shape), 5, 0.03)
        inverse = invert(affine_field(matrix, shape), iterations=100, tolerance_voxels=1e-12)
        expected = affine_field(np.linalg.inv(matrix), shape)
        torch.testing.assert_close(inverse, expected, rtol=0, atol=1e-9)

    @both
    def test_tolerance_ends_the_iteration(self, shape):
        matrix = 1.25 * near_identity(len(shape), 5, 0.03)
        field, expected = affine_field(matrix, shape), affine_field(np.linalg.inv(matrix), shape)
        errors = [
            (invert(field, tolerance_voxels=tolerance) - expected).abs().max().item()
            for tolerance in (1e-1, 1e-3, 1e-6)
        ]
        assert errors[0] > errors[1] > errors[2]
        assert all(error < bound for error, bound in zip(errors, (1e-1, 1e-3, 1e-6), strict=True))

    @pytest.mark.parametrize("shape", [(24, 28), (16, 18, 17)], ids=NAMES)
    def test_composes_to_zero_away_from_the_border(self, shape):
        field = smooth_field(shape, 1.5, sigma=3.0)
        inverse = invert(field, tolerance_voxels=1e-9)
        assert compose(field, inverse).abs().max() < 1e-8
        # The other order interpolates the inverse, a second-order error in the voxel size.
        assert interior(compose(inverse, field), 3).abs().max() < 0.05

    @both
    def test_zero(self, shape):
        zero = torch.zeros(1, len(shape), *shape)
        assert invert(zero).abs().max() == 0


class TestGradientsAndDevice:
    @pytest.mark.parametrize("shape", [(5, 4), (4, 3, 5)], ids=NAMES)
    def test_compose_and_resize_gradcheck(self, shape):
        outer = smooth_field(shape, 1.0, seed=1).requires_grad_()
        inner = (0.3 + 0.2 * smooth_field(shape, 1.0, seed=2)).requires_grad_()
        assert torch.autograd.gradcheck(compose, (outer, inner))
        target = tuple(side + 3 for side in shape)
        assert torch.autograd.gradcheck(lambda u: resize(u, target), (outer,))

    @both
    def test_compose_stays_in_float32_under_bfloat16_autocast(self, shape):
        outer, inner = smooth_field(shape, 1.0, 1).float(), smooth_field(shape, 1.0, 2).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            composed = compose(outer, inner)
        assert composed.dtype == torch.float32
        assert torch.equal(composed, compose(outer, inner))

    @both
    def test_run_where_their_inputs_are(self, shape):
        field = torch.zeros(2, len(shape), *shape, device="meta")
        assert compose(field, field).device.type == "meta"
        assert resize(field, [side + 1 for side in shape]).device.type == "meta"

    @both
    def test_inputs_are_left_alone(self, shape):
        outer, inner = smooth_field(shape, 1.0, 1), smooth_field(shape, 1.0, 2)
        before = outer.clone(), inner.clone()
        compose(outer, inner), invert(outer), resize(outer, voxel_grid(shape).shape[1:])
        assert torch.equal(outer, before[0]) and torch.equal(inner, before[1])
