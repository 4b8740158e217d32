"""Jacobians against NumPy, SimpleITK and affine algebra; folding on fields made by hand."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from known_fields import (
    NAMES,
    SHAPES,
    affine_field,
    interior,
    near_identity,
    smooth_field,
    voxel_grid,
)

from regnet_lib.spatial import compose, folding_fraction, jacobian_determinant, jacobian_matrix

both = pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
SCHEMES = ["central", "forward", "digital"]


def pushed_voxel(shape, voxels):
    """Zero everywhere, except that the middle voxel is pushed along axis 0."""
    field = torch.zeros(1, len(shape), *shape, dtype=torch.float64)
    middle = tuple(side // 2 for side in shape)
    field[(0, 0, *middle)] = voxels
    return field, middle


class TestShape:
    @both
    def test_central_keeps_the_grid_and_forward_drops_a_plane(self, shape):
        field, axes = smooth_field(shape, 1.0, batch=2), len(shape)
        less = tuple(side - 1 for side in shape)
        assert jacobian_matrix(field).shape == (2, axes, axes, *shape)
        assert jacobian_matrix(field, "forward").shape == (2, axes, axes, *less)
        assert jacobian_determinant(field).shape == (2, 1, *shape)
        assert jacobian_determinant(field, "forward").shape == (2, 1, *less)

    @both
    @pytest.mark.parametrize("difference", SCHEMES)
    def test_one_fraction_per_batch_item(self, shape, difference):
        folding = torch.cat([smooth_field(shape, voxels) for voxels in (0.1, 6.0)])
        fractions = folding_fraction(folding, difference)
        assert fractions.shape == (2,)
        assert fractions[0] == 0 and 0 < fractions[1] < 1


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    def test_unknown_schemes(self):
        field = torch.zeros(1, 2, 4, 5)
        with pytest.raises(ValueError, match="'central' or 'forward', got 'digital'"):
            jacobian_matrix(field, "digital")
        with pytest.raises(ValueError, match="folding_fraction: .* got 'itk'"):
            folding_fraction(field, "itk")

    @pytest.mark.parametrize("function", [jacobian_matrix, jacobian_determinant, folding_fraction])
    def test_wrong_shape_names_the_function(self, function):
        with pytest.raises(ValueError, match=f"{function.__name__}: expected displacement"):
            function(torch.zeros(1, 1, 4, 5))


class TestDeterminant:
    @both
    @pytest.mark.parametrize("difference", ["central", "forward"])
    def test_affine_fields_have_their_matrix_everywhere(self, shape, difference):
        """Exact at the border too, where ITK's zero-flux differences are not."""
        matrix = near_identity(len(shape), 7, 0.3)
        field = affine_field(matrix, shape)
        jacobian = jacobian_matrix(field, difference)
        expected = torch.from_numpy(matrix).view(1, *matrix.shape, *[1] * len(shape))
        torch.testing.assert_close(jacobian, expected.expand_as(jacobian), rtol=0, atol=1e-10)
        determinant = jacobian_determinant(field, difference)
        np.testing.assert_allclose(determinant, np.linalg.det(matrix), rtol=0, atol=1e-10)

    @both
    def test_central_is_numpy_gradient(self, shape):
        field = smooth_field(shape, 2.0)
        position = voxel_grid(shape) + field[0].numpy()
        expected = np.stack([np.stack(np.gradient(part)) for part in position])
        jacobian = jacobian_matrix(field)[0].numpy()
        np.testing.assert_allclose(jacobian, expected, rtol=0, atol=1e-12)
        determinant = np.linalg.det(np.moveaxis(expected, (0, 1), (-2, -1)))
        ours = jacobian_determinant(field)[0, 0].numpy()
        np.testing.assert_allclose(ours, determinant, rtol=0, atol=1e-10)

    @both
    def test_forward_is_numpy_diff(self, shape):
        field = smooth_field(shape, 2.0)
        position = voxel_grid(shape) + field[0].numpy()
        axes = range(len(shape))
        expected = np.zeros((len(shape), len(shape), *[side - 1 for side in shape]))
        for component in axes:
            for axis in axes:
                difference = np.diff(position[component], axis=axis)
                kept = [slice(None) if other == axis else slice(-1) for other in axes]
                expected[component, axis] = difference[tuple(kept)]
        jacobian = jacobian_matrix(field, "forward")[0].numpy()
        np.testing.assert_allclose(jacobian, expected, rtol=0, atol=1e-12)

    @both
    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.97, 1.1, 2.5)], ids=["1 mm", "mm"])
    def test_equals_simpleitk_inside(self, shape, spacing):
        """ITK gets millimetres and spacing, we get voxels: the determinant has no unit."""
        field = smooth_field(shape, 2.0)
        spacing = spacing[: len(shape)]
        vectors = np.moveaxis(field[0].numpy()[::-1], 0, -1) * np.array(spacing)
        image = sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True)
        image.SetSpacing(spacing)
        itk_filter = sitk.DisplacementFieldJacobianDeterminantFilter()
        itk_filter.UseImageSpacingOn()
        expected = torch.from_numpy(sitk.GetArrayFromImage(itk_filter.Execute(image)))[None, None]
        ours = jacobian_determinant(field)
        torch.testing.assert_close(
            interior(ours, 1), interior(expected.double(), 1), rtol=0, atol=1e-6
        )

    @both
    def test_of_a_composition_is_the_product(self, shape):
        a, b = (0.8 * near_identity(len(shape), seed, 0.05) for seed in (8, 9))
        composed = compose(affine_field(a, shape), affine_field(b, shape))
        expected = np.linalg.det(a) * np.linalg.det(b)
        np.testing.assert_allclose(jacobian_determinant(composed), expected, rtol=0, atol=1e-10)

    @both
    def test_a_translation_keeps_the_volume(self, shape):
        field = torch.full((1, len(shape), *shape), 3.25)
        assert torch.equal(jacobian_determinant(field), torch.ones(1, 1, *shape))

    @both
    def test_central_converges_with_second_order(self, shape):
        """u = sin(h k x): halving the wavelength number h quarters the error."""
        errors = []
        for scale in (0.4, 0.2, 0.1):
            phase = torch.from_numpy(scale * voxel_grid(shape)[0])
            field = torch.zeros(1, len(shape), *shape, dtype=torch.float64)
            field[0, 0] = torch.sin(phase) / scale
            error = jacobian_determinant(field)[0, 0] - (1 + torch.cos(phase))
            errors.append(interior(error[None, None], 1).abs().max().item())
        slopes = np.diff(np.log2(errors))
        np.testing.assert_allclose(slopes, -2, atol=0.1)


class TestFolding:
    @both
    @pytest.mark.parametrize("difference", SCHEMES)
    def test_near_identity_affine_maps_do_not_fold(self, shape, difference):
        # The replicated edge mixes zero differences in, which a mild matrix survives.
        field = affine_field(near_identity(len(shape), 7, 0.1), shape)
        assert folding_fraction(field, difference).item() == 0

    @both
    @pytest.mark.parametrize("difference", SCHEMES)
    def test_a_reflection_folds_everywhere(self, shape, difference):
        mirror = np.diag([-1.0] + [1.0] * (len(shape) - 1))
        assert folding_fraction(affine_field(mirror, shape), difference).item() == 1

    @both
    def test_central_does_not_see_the_voxel_that_is_pushed(self, shape):
        """Pushed by 6: central differences give det 1 there and blame the next voxel alone."""
        field, middle = pushed_voxel(shape, 6.0)
        determinant = jacobian_determinant(field)[0, 0]
        after = (middle[0] + 1, *middle[1:])
        before = (middle[0] - 1, *middle[1:])
        assert determinant[middle] == 1
        assert determinant[after] == -2 and determinant[before] == 4
        assert jacobian_determinant(field, "forward")[0, 0][middle] == -5
        voxels, kept = np.prod(shape), np.prod([side - 1 for side in shape])
        assert folding_fraction(field, "central").item() == pytest.approx(1 / voxels, rel=1e-12)
        assert folding_fraction(field, "forward").item() == pytest.approx(1 / kept, rel=1e-12)
        # Forward at the voxel, backward at the next one.
        assert folding_fraction(field, "digital").item() == pytest.approx(2 / voxels, rel=1e-12)

    @both
    def test_central_misses_a_push_of_one_and_a_half_voxels_altogether(self, shape):
        field, _ = pushed_voxel(shape, 1.5)
        assert folding_fraction(field, "central").item() == 0
        assert folding_fraction(field, "digital").item() * np.prod(shape) == pytest.approx(2)

    @both
    def test_a_determinant_of_zero_counts_for_central_and_digital_only(self, shape):
        """TransMorph's `<= 0` against LGANet's `< 0`."""
        flattened = affine_field(np.diag([0.0] + [1.0] * (len(shape) - 1)), shape)
        assert folding_fraction(flattened, "central").item() == 1
        assert folding_fraction(flattened, "digital").item() == 1
        assert folding_fraction(flattened, "forward").item() == 0

    @both
    @pytest.mark.parametrize("difference", ["central", "forward"])
    def test_is_the_share_of_the_determinant(self, shape, difference):
        field = smooth_field(shape, 5.0)
        determinant = jacobian_determinant(field, difference).numpy()
        assert (determinant < 0).any() and not (determinant == 0).any()
        expected = (determinant < 0).mean()
        assert folding_fraction(field, difference).item() == pytest.approx(expected, rel=1e-12)

    @both
    def test_digital_counts_the_folds_of_every_one_sided_scheme(self, shape):
        field = smooth_field(shape, 5.0)
        flips = [()] + [(axis,) for axis in range(len(shape))]
        digital = folding_fraction(field, "digital").item() * np.prod(shape)
        for flipped in flips:
            mirrored = field.flip([axis + 2 for axis in flipped]) if flipped else field.clone()
            for axis in flipped:  # mirrored axes turn forward into backward differences
                mirrored[:, axis] *= -1
            folds = (jacobian_determinant(mirrored, "forward") <= 0).sum().item()
            assert 0 < folds <= digital

    @both
    def test_digital_equals_all_one_sided_determinants_by_numpy(self, shape):
        field = smooth_field(shape, 5.0)
        position = field[0].numpy()
        axes = len(shape)
        folded = np.zeros(shape, dtype=bool)
        for corner in np.ndindex(*[2] * axes):
            matrix = np.zeros((*shape, axes, axes))
            for axis in range(axes):
                padding = [(0, 0)] * (axes + 1)
                padding[axis + 1] = (1, 0) if corner[axis] else (0, 1)
                extended = np.pad(position, padding, mode="edge")
                matrix[..., axis] = np.moveaxis(np.diff(extended, axis=axis + 1), 0, -1)
            folded |= np.linalg.det(matrix + np.eye(axes)) <= 0
        fraction = folding_fraction(field, "digital").item()
        assert fraction == pytest.approx(folded.mean(), rel=1e-12)


class TestGradientsAndDevice:
    @pytest.mark.parametrize("shape", [(4, 3), (3, 4, 3)], ids=NAMES)
    @pytest.mark.parametrize("difference", ["central", "forward"])
    def test_gradcheck(self, shape, difference):
        field = smooth_field(shape, 1.0).requires_grad_()
        assert torch.autograd.gradcheck(lambda u: jacobian_determinant(u, difference), (field,))

    @both
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_differentiated_in_float32(self, shape, dtype):
        field = smooth_field(shape, 2.0).to(dtype)
        determinant = jacobian_determinant(field)
        assert determinant.dtype == torch.float32
        assert torch.equal(determinant, jacobian_determinant(field.float()))

    @both
    def test_runs_where_its_input_is(self, shape):
        field = torch.zeros(2, len(shape), *shape, device="meta")
        for difference in ("central", "forward"):
            assert jacobian_determinant(field, difference).device.type == "meta"
        for difference in SCHEMES:
            assert folding_fraction(field, difference).shape == (2,)
