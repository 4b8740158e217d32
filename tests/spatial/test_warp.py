"""Warping of images, label maps and points, against SciPy, SimpleITK and hand-derived cases."""

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
    noise_image,
    scipy_warp,
    smooth_field,
    voxel_grid,
)
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from regnet_lib.spatial import (
    half_voxel_zoom,
    identity_grid,
    sample,
    warp,
    warp_labels,
    warp_points,
)
from regnet_lib.spatial.grid import LEAST_VOXELS, _slabs

both = pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
SCIPY_MODE = {"zeros": "grid-constant", "border": "nearest"}


def label_map(shape, seed=0, dtype=torch.int64):
    """Random labels out of 0, 3, 7 and 200."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.choice([0, 3, 7, 200], (1, 1, *shape))).to(dtype)


def shift_field(shape, voxels):
    """The same displacement everywhere."""
    field = torch.tensor(voxels, dtype=torch.float64).view(1, -1, *[1] * len(shape))
    return field.expand(1, len(shape), *shape).clone()


class TestShape:
    @both
    @pytest.mark.parametrize("interpolation", ["linear", "nearest"])
    def test_batches_and_channels_come_back(self, shape, interpolation):
        image = noise_image(shape, batch=2, channels=3)
        field = smooth_field(shape, 1.5, batch=2)
        assert warp(image, field, interpolation=interpolation).shape == image.shape

    @both
    def test_a_single_field_serves_a_batch_of_images(self, shape):
        image, field = noise_image(shape, batch=3), smooth_field(shape, 1.5)
        torch.testing.assert_close(warp(image, field), warp(image, field.repeat_interleave(3, 0)))

    @both
    def test_a_single_image_serves_a_batch_of_fields(self, shape):
        image, field = noise_image(shape), smooth_field(shape, 1.5, batch=3)
        torch.testing.assert_close(warp(image, field), warp(image.repeat_interleave(3, 0), field))

    @both
    def test_a_batch_equals_its_items(self, shape):
        image, field = noise_image(shape, batch=2, channels=2), smooth_field(shape, 2.0, batch=2)
        together = warp(image, field)
        for item in range(2):
            alone = warp(image[item : item + 1], field[item : item + 1])
            torch.testing.assert_close(together[item], alone[0], rtol=0, atol=1e-14)


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    def test_component_axis_at_the_end_is_explained(self):
        with pytest.raises(ValueError, match=r"warp: expected displacement .*movedim\(-1, 1\)"):
            warp(torch.zeros(1, 1, 4, 5, 6), torch.zeros(1, 4, 5, 6, 3))

    def test_missing_batch_axis_is_explained(self):
        with pytest.raises(ValueError, match=r"got \(3, 4, 5, 6\).*field\[None\]"):
            warp(torch.zeros(1, 1, 4, 5, 6), torch.zeros(3, 4, 5, 6))

    def test_single_slices_are_sent_to_the_2d_form(self):
        with pytest.raises(ValueError, match="2-D form"):
            warp(torch.zeros(1, 1, 1, 5, 6), torch.zeros(1, 3, 1, 5, 6))

    def test_integer_displacement_is_refused(self):
        with pytest.raises(TypeError, match="warp: expected displacement of a floating type"):
            warp(torch.zeros(1, 1, 4, 5), torch.zeros(1, 2, 4, 5, dtype=torch.int64))

    def test_another_grid_is_refused_with_both_shapes(self):
        with pytest.raises(
            ValueError, match=r"warp: expected image of shape .* got \(1, 1, 4, 6\)"
        ):
            warp(torch.zeros(1, 1, 4, 6), torch.zeros(1, 2, 4, 5))

    def test_unequal_batches_are_refused(self):
        with pytest.raises(ValueError, match=r"equal batch sizes \(or 1\), got 2 .* 3"):
            warp(torch.zeros(2, 1, 4, 5), torch.zeros(3, 2, 4, 5))

    def test_float_labels_are_refused(self):
        with pytest.raises(TypeError, match=r"warp_labels: .*labels\.round\(\)\.long\(\)"):
            warp_labels(torch.zeros(1, 1, 4, 5), torch.zeros(1, 2, 4, 5))

    def test_unknown_label_warp_is_refused(self):
        labels = torch.zeros(1, 1, 4, 5, dtype=torch.int64)
        with pytest.raises(ValueError, match="how='nearest' or 'onehot', got 'linear'"):
            warp_labels(labels, torch.zeros(1, 2, 4, 5), "linear")

    @pytest.mark.parametrize("point", [[-0.1, 2.0], [4.0, 2.0], [3.0, 4.01]])
    def test_points_outside_the_grid_are_refused(self, point):
        points = torch.tensor([[1.0, 1.0], point])
        with pytest.raises(ValueError, match=r"grid 0\.\.\[3, 4\], got 1 of 2 outside"):
            warp_points(points, torch.zeros(1, 2, 4, 5))

    def test_points_of_another_dimension_are_refused(self):
        with pytest.raises(ValueError, match=r"warp_points: expected points of shape \(N, 2\)"):
            warp_points(torch.zeros(4, 3), torch.zeros(1, 2, 4, 5))

    def test_points_want_one_displacement(self):
        with pytest.raises(ValueError, match="one displacement"):
            warp_points(torch.zeros(4, 2), torch.zeros(2, 2, 4, 5))


class TestImages:
    @both
    @pytest.mark.parametrize("padding", ["zeros", "border"])
    def test_equals_scipy_also_outside_the_grid(self, shape, padding):
        image = noise_image(shape, batch=2, channels=2)
        field = smooth_field(shape, 4.0, batch=2)  # reaches several voxels beyond the faces
        warped = warp(image, field, padding=padding).numpy()
        expected = scipy_warp(image, field, SCIPY_MODE[padding])
        np.testing.assert_allclose(warped, expected, rtol=0, atol=1e-12)

    @both
    @pytest.mark.parametrize("padding", ["zeros", "border"])
    def test_float32_stays_within_pytorch_tolerance_of_scipy(self, shape, padding):
        image, field = noise_image(shape), smooth_field(shape, 2.0)
        warped = warp(image.float(), field.float(), padding=padding)
        assert warped.dtype == torch.float32
        expected = scipy_warp(image, field, SCIPY_MODE[padding])
        np.testing.assert_allclose(warped.numpy(), expected, rtol=1.3e-6, atol=1e-5)

    @both
    @pytest.mark.parametrize("padding", ["zeros", "border"])
    def test_nearest_equals_scipy_off_the_ties(self, shape, padding):
        image, field = noise_image(shape, channels=2), smooth_field(shape, 3.0)
        distance_to_tie = ((voxel_grid(shape) + field[0].numpy()) % 1 - 0.5).__abs__().min()
        assert distance_to_tie > 1e-9
        warped = warp(image, field, interpolation="nearest", padding=padding).numpy()
        expected = scipy_warp(image, field, SCIPY_MODE[padding], order=0)
        np.testing.assert_array_equal(warped, expected)

    @both
    def test_equals_simpleitk_on_a_rotated_anisotropic_grid(self, shape):
        """ITK displaces in millimetres: Direction @ diag(spacing) @ u, axes reversed."""
        axes = len(shape)
        spacing = np.array([0.97, 1.1, 2.5])[:axes]
        turn = Rotation.from_euler("zyx", [20, -35, 50], degrees=True).as_matrix()
        if axes == 2:
            turn = Rotation.from_euler("z", 25, degrees=True).as_matrix()[:2, :2]
        image, field = noise_image(shape), inward_field(shape, 2.0)
        to_world = turn @ np.diag(spacing)
        in_itk_order = field[0].numpy()[::-1]
        vectors = np.moveaxis(np.tensordot(to_world, in_itk_order, 1), 0, -1)
        moving = sitk.GetImageFromArray(image[0, 0].numpy())
        world_field = sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True)
        for itk_image in (moving, world_field):
            itk_image.SetSpacing(spacing)
            itk_image.SetDirection(turn.ravel())
            itk_image.SetOrigin([3.0, -8.0, 11.0][:axes])
        transform = sitk.DisplacementFieldTransform(sitk.Cast(world_field, sitk.sitkVectorFloat64))
        expected = sitk.GetArrayFromImage(sitk.Resample(moving, transform, sitk.sitkLinear, 0.0))
        np.testing.assert_allclose(warp(image, field)[0, 0].numpy(), expected, rtol=0, atol=1e-10)

    @both
    @pytest.mark.parametrize("interpolation", ["linear", "nearest"])
    def test_zero_displacement_is_the_identity(self, shape, interpolation):
        image = noise_image(shape).float()
        zero = torch.zeros(1, len(shape), *shape)
        warped = warp(image, zero, interpolation=interpolation)
        tolerance = 0 if interpolation == "nearest" else 1e-5
        torch.testing.assert_close(warped, image, rtol=0, atol=tolerance)

    @both
    def test_linear_images_are_exact_under_any_field_that_stays_inside(self, shape):
        image, gradient = linear_image(shape)
        field = inward_field(shape, 3.0)
        expected = image[0, 0].numpy() + np.tensordot(gradient, field[0].numpy(), 1)
        np.testing.assert_allclose(warp(image, field)[0, 0].numpy(), expected, rtol=0, atol=1e-10)

    @both
    def test_fill_takes_the_place_of_zero_outside(self, shape):
        image = noise_image(shape)
        away = shift_field(shape, [float(2 * side) for side in shape])
        assert warp(image, away, fill=-1000.0).unique().tolist() == [-1000.0]
        air = torch.full_like(image, -1000.0)
        partly = smooth_field(shape, 4.0)
        torch.testing.assert_close(warp(air, partly, fill=-1000.0), air, rtol=0, atol=1e-9)

    @both
    def test_fill_does_not_touch_the_inside(self, shape):
        image, field = noise_image(shape), inward_field(shape, 2.0)
        torch.testing.assert_close(warp(image, field, fill=-7.0), warp(image, field))

    @both
    def test_zoomed_samples_at_the_zoomed_coordinates(self, shape):
        image, field = noise_image(shape), smooth_field(shape, 1.0)
        coordinates = half_voxel_zoom(identity_grid(shape, dtype=torch.float64) + field, shape)
        zoomed = warp(image, field, zoomed=True)
        torch.testing.assert_close(zoomed, sample(image, coordinates), rtol=0, atol=1e-14)
        assert (zoomed - warp(image, field)).abs().max() > 0.05


class TestLabels:
    @both
    @pytest.mark.parametrize("how", ["nearest", "onehot"])
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
    def test_zero_displacement_keeps_every_voxel_and_the_type(self, shape, how, dtype):
        labels = label_map(shape, dtype=dtype)
        warped = warp_labels(labels, torch.zeros(1, len(shape), *shape), how)
        assert warped.dtype == dtype
        assert torch.equal(warped, labels)

    @both
    @pytest.mark.parametrize("how", ["nearest", "onehot"])
    def test_integer_shift_moves_labels_and_brings_in_background(self, shape, how):
        labels = label_map(shape) + 1
        field = shift_field(shape, [0.0] * (len(shape) - 1) + [2.0])
        expected = torch.cat([labels[..., 2:], torch.zeros_like(labels[..., :2])], -1)
        assert torch.equal(warp_labels(labels, field, how), expected)

    @both
    @pytest.mark.parametrize("how", ["nearest", "onehot"])
    def test_no_new_labels(self, shape, how):
        labels = label_map(shape)
        warped = warp_labels(labels, smooth_field(shape, 3.0), how)
        assert set(warped.unique().tolist()) <= {0, 3, 7, 200}

    @both
    def test_nearest_equals_scipy(self, shape):
        labels, field = label_map(shape), smooth_field(shape, 3.0)
        expected = scipy_warp(labels, field, "grid-constant", order=0)
        np.testing.assert_array_equal(warp_labels(labels, field).numpy(), expected)

    @both
    def test_onehot_is_the_largest_interpolated_membership(self, shape):
        labels, field = label_map(shape), smooth_field(shape, 3.0)
        ids = [0, 3, 7, 200]
        where = voxel_grid(shape) + field[0].numpy()
        memberships = [
            map_coordinates(
                (labels[0, 0].numpy() == label).astype(float), where, order=1, mode="grid-constant"
            )
            for label in ids
        ]
        expected = np.array(ids)[np.argmax(memberships, axis=0)]
        np.testing.assert_array_equal(warp_labels(labels, field, "onehot")[0, 0].numpy(), expected)

    @both
    def test_the_two_protocols_differ(self, shape):
        labels, field = label_map(shape), smooth_field(shape, 3.0)
        assert not torch.equal(warp_labels(labels, field), warp_labels(labels, field, "onehot"))

    @both
    def test_one_displacement_serves_a_batch_of_label_maps(self, shape):
        labels = torch.cat([label_map(shape, seed) for seed in range(3)])
        field = smooth_field(shape, 2.0)
        for how in ("nearest", "onehot"):
            together = warp_labels(labels, field, how)
            for item in range(3):
                assert torch.equal(
                    together[item : item + 1], warp_labels(labels[item][None], field, how)
                )


class TestPoints:
    @both
    def test_equal_the_interpolated_field(self, shape):
        field = smooth_field(shape, 2.0)
        points = np.random.default_rng(1).uniform(0, np.array(shape) - 1, (20, len(shape)))
        expected = points + np.stack(
            [map_coordinates(part, points.T, order=1) for part in field[0].numpy()], axis=1
        )
        moved = warp_points(torch.from_numpy(points), field)
        np.testing.assert_allclose(moved.numpy(), expected, rtol=0, atol=1e-12)

    @both
    def test_the_corners_count_as_inside(self, shape):
        corners = torch.tensor([[0.0] * len(shape), [side - 1.0 for side in shape]])
        field = smooth_field(shape, 1.0).float()
        ends = torch.stack([field[(0, slice(None), *[end] * len(shape))] for end in (0, -1)])
        torch.testing.assert_close(warp_points(corners, field), corners + ends)

    @both
    def test_no_points_give_no_points(self, shape):
        moved = warp_points(torch.zeros(0, len(shape)), torch.zeros(1, len(shape), *shape))
        assert moved.shape == (0, len(shape))

    @pytest.mark.parametrize("shape", [(40, 48), (24, 30, 28)], ids=NAMES)
    def test_points_and_images_agree_on_the_direction(self, shape):
        """A blob drawn around x + u(x) in the moving image appears around x after warping."""
        field = 0.5 * affine_field(near_identity(len(shape), 3), shape) + shift_field(
            shape, [2.0, -3.0, 1.5][: len(shape)]
        )
        fixed_point = torch.tensor([[side / 2 for side in shape]], dtype=torch.float64)
        moving_point = warp_points(fixed_point, field)
        assert (moving_point - fixed_point).norm() > 1.5
        offset = voxel_grid(shape) - moving_point.numpy().reshape(-1, *[1] * len(shape))
        blob = torch.from_numpy(np.exp(-(offset**2).sum(0) / (2 * 2.0**2)))[None, None]
        warped = warp(blob, field)[0, 0].numpy()
        centre = (voxel_grid(shape) * warped).reshape(len(shape), -1).sum(1) / warped.sum()
        np.testing.assert_allclose(centre, fixed_point[0].numpy(), atol=0.05)


class TestGradients:
    @pytest.mark.parametrize("shape", [(5, 6), (4, 5, 3)], ids=NAMES)
    @pytest.mark.parametrize("padding", ["zeros", "border"])
    def test_image_and_displacement(self, shape, padding):
        image = noise_image(shape, channels=2).requires_grad_()
        # Linear interpolation has a kink at every voxel; 0.3 keeps all positions between voxels.
        field = (0.3 + 0.2 * smooth_field(shape, 1.0)).requires_grad_()
        assert torch.autograd.gradcheck(lambda a, b: warp(a, b, padding=padding), (image, field))

    @both
    def test_points_pass_gradients_to_the_field(self, shape):
        field = smooth_field(shape, 1.0).requires_grad_()
        points = torch.tensor([[side / 2 + 0.25 for side in shape]], dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda u: warp_points(points, u), (field,))

    @both
    def test_linear_image_passes_its_gradient_to_the_displacement(self, shape):
        image, gradient = linear_image(shape)
        field = (0.3 + 0.2 * smooth_field(shape, 1.0)).requires_grad_()
        interior(warp(image, field), 1).sum().backward()
        received = interior(field.grad, 1)[0].flatten(1).T
        np.testing.assert_allclose(
            received.numpy(), np.tile(gradient, (len(received), 1)), atol=1e-10
        )


class TestPrecisionAndDevice:
    @both
    def test_stays_in_float32_under_bfloat16_autocast(self, shape):
        image, field = noise_image(shape).float(), smooth_field(shape, 2.0).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            warped = warp(image, field)
        assert warped.dtype == torch.float32
        assert torch.equal(warped, warp(image, field))

    @both
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_inputs_are_sampled_in_float32(self, shape, dtype):
        image, field = noise_image(shape).to(dtype), smooth_field(shape, 2.0).to(dtype)
        warped = warp(image, field)
        assert warped.dtype == torch.float32
        assert torch.equal(warped, warp(image.float(), field.float()))

    @both
    def test_runs_where_its_inputs_are(self, shape):
        """Tensors of the meta device meet no tensor of another device on the way."""
        image = torch.zeros(2, 1, *shape, device="meta")
        field = torch.zeros(2, len(shape), *shape, device="meta")
        for interpolation in ("linear", "nearest"):
            warped = warp(image, field, interpolation=interpolation)
            assert warped.device.type == "meta" and warped.shape == image.shape

    @both
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_gpu_equals_cpu(self, shape):
        image, field = noise_image(shape).float(), smooth_field(shape, 2.0).float()
        torch.testing.assert_close(warp(image.cuda(), field.cuda()).cpu(), warp(image, field))
        labels = label_map(shape)
        for how in ("nearest", "onehot"):
            on_gpu = warp_labels(labels.cuda(), field.cuda(), how).cpu()
            assert torch.equal(on_gpu, warp_labels(labels, field, how))


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5)])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_warp_equals_sampling_at_its_coordinates(shape, padding):
    """The warp forms its grid again in the backward pass; values and gradients stay the same."""
    torch.manual_seed(0)
    axes = len(shape)
    image = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    displacement = 2 * torch.randn(1, axes, *shape, dtype=torch.float64)
    displacement.requires_grad_()
    coordinates = identity_grid(shape, dtype=torch.float64) + displacement
    results = []
    for warped in (
        warp(image, displacement, padding=padding),
        sample(image, coordinates, padding=padding),
    ):
        upstream = torch.linspace(-1, 1, warped.numel(), dtype=torch.float64).view_as(warped)
        results.append((warped, *torch.autograd.grad(warped, (image, displacement), upstream)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_warp_keeps_the_memory_format_of_features():
    features = torch.randn(1, 4, 5, 6, 7).to(memory_format=torch.channels_last_3d)
    warped = warp(features, torch.rand(1, 3, 5, 6, 7))
    assert warped.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.fixture
def threads():
    """Sets the number of threads; one again at the end."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(24, 30, 28), (25, 27, 29)], ids=["even", "odd"])
def test_slabs_on_several_threads_change_nothing(threads, shape, channels):
    """Values and gradients to vectors bit for bit, sums over slabs to within rounding."""
    assert np.prod(shape) >= LEAST_VOXELS
    image = noise_image(shape, channels=channels).float().requires_grad_()
    displacement = smooth_field(shape, 4.0).float().requires_grad_()
    results, slabs = [], []
    for count in (1, 2, 3, 16):
        threads(count)
        slabs.append(_slabs(displacement.movedim(1, -1)))
        warped = warp(image, displacement)
        upstream = torch.linspace(-1, 1, warped.numel()).view_as(warped)
        results.append((warped, *torch.autograd.grad(warped, (image, displacement), upstream)))
        (alone,) = torch.autograd.grad(warp(image.detach(), displacement), displacement, upstream)
        assert torch.equal(alone, results[-1][2])
    assert slabs == ([1, 2, 3, 4] if shape[0] == 24 else [1, 1, 3, 3])
    for found in results[1:]:
        assert torch.equal(found[0], results[0][0]) and torch.equal(found[2], results[0][2])
        torch.testing.assert_close(found[1], results[0][1], rtol=1.3e-6, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 24, 30, 28), (1, 8, 8, 8), (1, 160, 160)])
def test_batches_small_volumes_and_slices_are_not_cut(threads, shape):
    threads(4)
    batch, *grid = shape
    assert _slabs(torch.zeros(batch, *grid, len(grid))) == 1
    assert _slabs(torch.zeros(1, 24, 30, 28, 3, device="meta")) == 1
