"""Similarity losses against a dense convolution in float64, gradients included."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation

from regnet_lib import metrics
from regnet_lib.losses import global_ncc, local_ncc, mse, window_sum

SHAPES = [(13, 15), (9, 11, 10)]
both = pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])
forms = pytest.mark.parametrize("squared", [True, False], ids=["squared", "signed"])


def image_pair(shape, seed=0, batch=1, channels=1):
    """Two correlated random images in about [0, 1], float64."""
    random = np.random.default_rng(seed)
    one = random.random((batch, channels, *shape))
    other = 0.6 * one + 0.4 * random.random(one.shape)
    return torch.from_numpy(one), torch.from_numpy(other)


def dense_local_ncc(warped, fixed, window, squared):
    """The published formula, word for word: five dense box convolutions, float64 autograd."""
    axes = warped.ndim - 2
    convolve = {2: F.conv2d, 3: F.conv3d}[axes]
    box = torch.ones(1, 1, *[window] * axes, dtype=torch.float64)

    def box_sum(values):
        values = values.flatten(0, 1)[:, None]  # (B, C, *dims) -> (B * C, 1, *dims)
        return convolve(values, box, padding=window // 2)

    i, j = warped.double(), fixed.double()
    size = window**axes
    sum_i, sum_j = box_sum(i), box_sum(j)
    cross = box_sum(i * j) - sum_i * sum_j / size
    variance_i = box_sum(i * i) - sum_i**2 / size
    variance_j = box_sum(j * j) - sum_j**2 / size
    product = variance_i * variance_j + 1e-5
    return 1 - (cross**2 / product if squared else cross / product.sqrt()).mean()


class TestShape:
    @both
    def test_scalars(self, shape):
        warped, fixed = image_pair(shape, batch=2, channels=3)
        for loss in (mse(warped, fixed), local_ncc(warped, fixed, 5)):
            assert loss.shape == () and loss.dtype == torch.float64

    @both
    def test_the_batch_is_the_mean_of_its_items(self, shape):
        warped, fixed = image_pair(shape, batch=2, channels=2)
        parts = [
            local_ncc(warped[b : b + 1, c : c + 1], fixed[b : b + 1, c : c + 1], 5)
            for b in range(2)
            for c in range(2)
        ]
        torch.testing.assert_close(
            local_ncc(warped, fixed, 5), torch.stack(parts).mean(), rtol=0, atol=1e-12
        )


class TestErrors:
    @pytest.mark.parametrize("window", [0, 4, -3])
    def test_the_window_is_odd_and_positive(self, window):
        warped, fixed = image_pair((6, 7))
        with pytest.raises(ValueError, match=f"odd window of at least 1 voxel, got {window}"):
            local_ncc(warped, fixed, window)

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("loss", [mse, local_ncc])
    def test_shapes_must_agree(self, loss):
        """Broadcasting would return a number that means nothing."""
        with pytest.raises(
            ValueError, match=rf"{loss.__name__}: .*\(1, 1, 6, 7\) and \(1, 1, 6, 1\)"
        ):
            loss(torch.zeros(1, 1, 6, 7), torch.zeros(1, 1, 6, 1))


class TestWindowSum:
    @both
    @pytest.mark.parametrize("window", range(1, 13))
    def test_equals_brute_force(self, shape, window):
        """Whole numbers: the sums are exact, so the comparison is too."""
        if window > min(shape):
            shape = tuple(side + window for side in shape)
        values = np.random.default_rng(window).integers(-50, 50, (2, *shape)).astype(float)
        axes = tuple(range(1, len(shape) + 1))
        windows = np.lib.stride_tricks.sliding_window_view(values, (window,) * len(shape), axes)
        expected = windows.sum(tuple(range(-len(shape), 0)))
        ours = window_sum(torch.from_numpy(values), window, len(shape)).numpy()
        np.testing.assert_array_equal(ours, expected)

    def test_only_the_last_axes_are_summed(self):
        values = torch.arange(24.0).view(2, 3, 4)
        expected = values[..., :-1] + values[..., 1:]
        assert torch.equal(window_sum(values, 2, 1), expected)


class TestMse:
    @both
    def test_equals_numpy(self, shape):
        warped, fixed = image_pair(shape, batch=2)
        expected = ((warped.numpy() - fixed.numpy()) ** 2).mean()
        assert mse(warped, fixed).item() == pytest.approx(expected, rel=1e-12)
        assert mse(warped, warped).item() == 0


class TestLocalNcc:
    @both
    @forms
    @pytest.mark.parametrize("window", [1, 3, 5, 9])
    def test_value_and_both_gradients_equal_the_dense_form(self, shape, window, squared):
        images = [image.requires_grad_() for image in image_pair(shape, channels=2)]
        reference = [image.detach().clone().requires_grad_() for image in images]
        loss = local_ncc(*images, window, squared)
        expected = dense_local_ncc(*reference, window, squared)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
        (3 * loss).backward()
        (3 * expected).backward()
        for ours, theirs in zip(images, reference, strict=True):
            scale = theirs.grad.abs().max().item()
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-9 * max(scale, 1))

    @both
    @forms
    def test_float32_equals_float64(self, shape, squared):
        images = [image.float().requires_grad_() for image in image_pair(shape)]
        reference = [image.detach().double().requires_grad_() for image in images]
        loss, expected = local_ncc(*images, 9, squared), dense_local_ncc(*reference, 9, squared)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        loss.backward()
        expected.backward()
        for ours, theirs in zip(images, reference, strict=True):
            scale = theirs.grad.abs().max().item()
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=1e-3 * scale)

    @both
    @forms
    def test_only_the_gradient_that_is_asked_for(self, shape, squared):
        """The fixed image of a training never needs one."""
        warped, fixed = image_pair(shape)
        warped.requires_grad_()
        local_ncc(warped, fixed, 5, squared).backward()
        both_wanted = [warped.detach().clone().requires_grad_(), fixed.clone().requires_grad_()]
        local_ncc(*both_wanted, 5, squared).backward()
        assert torch.equal(warped.grad, both_wanted[0].grad) and fixed.grad is None

    @pytest.mark.parametrize("shape", [(5, 6), (4, 5, 3)], ids=["2-D", "3-D"])
    @forms
    @pytest.mark.parametrize("window", [3, 5])
    def test_gradcheck(self, shape, squared, window):
        images = tuple(image.requires_grad_() for image in image_pair(shape))
        assert torch.autograd.gradcheck(lambda a, b: local_ncc(a, b, window, squared), images)

    @both
    @forms
    @pytest.mark.parametrize("offset", [10.0, 100.0])
    def test_float32_survives_intensities_far_from_zero(self, shape, squared, offset):
        """Naive sums of squares lose the variance of [100, 101] images in float32."""
        images = [image.float() + offset for image in image_pair(shape)]
        expected = dense_local_ncc(*images, 5, squared).item()
        assert local_ncc(*images, 5, squared).item() == pytest.approx(expected, abs=1e-4)

    @forms
    @pytest.mark.parametrize("offset", [10.0, 100.0])
    def test_an_offset_does_not_change_the_interior(self, squared, offset):
        """The gradient two windows away from the faces depends on interior windows only."""
        warped, fixed = (image.float() for image in image_pair((16, 17, 15)))
        gradients = []
        for shift in (0.0, offset):
            moved = (warped + shift).requires_grad_()
            local_ncc(moved, fixed + shift, 5, squared).backward()
            gradients.append(moved.grad[:, :, 5:-5, 5:-5, 5:-5])
        scale = gradients[0].abs().max().item()
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-3 * scale)

    @both
    @forms
    def test_is_symmetric(self, shape, squared):
        warped, fixed = image_pair(shape)
        one, other = local_ncc(warped, fixed, 5, squared), local_ncc(fixed, warped, 5, squared)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)

    @both
    @pytest.mark.parametrize("seed", range(5))
    def test_bounds(self, shape, seed):
        """By Cauchy and Schwarz: [0, 1] squared, [0, 2] signed."""
        random = np.random.default_rng(seed)
        images = [torch.from_numpy(random.normal(0, 4, (1, 1, *shape))).float() for _ in range(2)]
        images[1] = images[1] if seed else -images[0]
        assert -1e-5 <= local_ncc(*images, 3).item() <= 1
        assert -1e-5 <= local_ncc(*images, 3, squared=False).item() <= 2 + 1e-5

    @both
    def test_of_a_textured_image_with_itself_and_its_negative(self, shape):
        image = 10 * image_pair(shape)[0].float()
        assert local_ncc(image, image, 5).item() == pytest.approx(0, abs=1e-4)
        assert local_ncc(image, -image, 5).item() == pytest.approx(0, abs=1e-4)
        assert local_ncc(image, image, 5, squared=False).item() == pytest.approx(0, abs=1e-4)
        assert local_ncc(image, -image, 5, squared=False).item() == pytest.approx(2, abs=1e-4)

    @both
    def test_background_windows_count_as_zero(self, shape):
        """Self-loss = 1 - share of the windows that touch texture."""
        image = torch.zeros(1, 1, *shape)
        patch = (slice(3, 7),) * len(shape)
        image[(0, 0, *patch)] = 10 * (1 + image_pair((4,) * len(shape))[0][0, 0].float())
        textured = np.zeros(shape, dtype=bool)
        textured[patch] = True
        touched = binary_dilation(textured, np.ones((3,) * len(shape), dtype=bool))
        assert 0 < touched.mean() < 0.8
        loss = local_ncc(image, image, 3).item()
        assert loss == pytest.approx(1 - touched.mean(), abs=1e-3)

    @both
    def test_gain_of_either_sign(self, shape):
        warped, fixed = (10 * image for image in image_pair(shape))
        assert local_ncc(-3 * warped, fixed, 5).item() == pytest.approx(
            local_ncc(warped, fixed, 5).item(), abs=1e-6
        )
        signed = local_ncc(warped, fixed, 5, squared=False).item()
        assert local_ncc(-3 * warped, fixed, 5, squared=False).item() == pytest.approx(
            2 - signed, abs=1e-6
        )

    @both
    @forms
    @pytest.mark.parametrize(
        "degenerate",
        [
            lambda image: torch.zeros_like(image),
            lambda image: torch.full_like(image, 0.7),
            lambda image: 65535 * image,
            lambda image: 1e6 * image,
            lambda image: 1e-6 * image,
            lambda image: 1e-20 * image,
            lambda image: (image == image.max()).float(),
            lambda image: 1e4 + image,
        ],
        ids=["zero", "constant", "16 bit", "huge", "tiny", "tinier", "one voxel", "far away"],
    )
    def test_degenerate_images_give_finite_losses_and_gradients(self, shape, squared, degenerate):
        textured = image_pair(shape)[0].float()
        image = degenerate(textured)
        for one, other in ((image, textured), (textured, image), (image, image.clone())):
            one, other = one.clone().requires_grad_(), other.clone().requires_grad_()
            loss = local_ncc(one, other, 5, squared)
            loss.backward()
            assert -1e-3 <= loss.item() <= 2.001
            assert one.grad.isfinite().all() and other.grad.isfinite().all()

    @both
    @forms
    @pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
    @pytest.mark.parametrize("other", ["texture", "plateaus"])
    def test_plateaus_far_from_the_mean_do_not_correlate_with_rounding(
        self, shape, squared, scale, other
    ):
        """Air at -1000 HU, or a background of 0: flat windows whose sums of squares are large.

        Integer intensities: the float64 reference has no rounding of its own.
        """
        half = torch.zeros(1, 1, *shape)
        half[..., : shape[-1] // 2] = 1
        texture = (16 * image_pair(shape)[1]).round().float() / 16
        second = texture if other == "texture" else half.roll(2, -1)
        images = [(scale * image).requires_grad_() for image in (half, second)]
        reference = [image.detach().double().requires_grad_() for image in images]
        loss, expected = local_ncc(*images, 5, squared), dense_local_ncc(*reference, 5, squared)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        loss.backward()
        expected.backward()
        for ours, theirs in zip(images, reference, strict=True):
            largest = theirs.grad.abs().max().item()
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=1e-4 * largest)

    @both
    def test_an_image_smaller_than_the_window(self, shape):
        images = image_pair((3,) * len(shape))
        expected = dense_local_ncc(*images, 9, True)
        torch.testing.assert_close(local_ncc(*images, 9), expected, rtol=0, atol=1e-10)


class TestPrecisionAndDevice:
    @both
    @forms
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_float32(self, shape, squared, dtype):
        images = [image.to(dtype).requires_grad_() for image in image_pair(shape)]
        rounded = [image.detach().float().requires_grad_() for image in images]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = local_ncc(*images, 9, squared)
        expected = local_ncc(*rounded, 9, squared)
        assert loss.dtype == torch.float32 and torch.equal(loss, expected)
        loss.backward()
        expected.backward()
        for ours, theirs in zip(images, rounded, strict=True):
            assert ours.grad.dtype == dtype
            torch.testing.assert_close(ours.grad, theirs.grad.to(dtype))

    @both
    def test_inputs_are_left_alone(self, shape):
        warped, fixed = image_pair(shape)
        before = warped.clone(), fixed.clone()
        local_ncc(warped, fixed, 5)
        assert torch.equal(warped, before[0]) and torch.equal(fixed, before[1])

    @both
    def test_runs_where_its_inputs_are(self, shape):
        warped = torch.zeros(1, 1, *shape, device="meta", requires_grad=True)
        loss = local_ncc(warped, torch.zeros(1, 1, *shape, device="meta"))
        loss.backward()
        assert loss.device.type == "meta" and warped.grad.shape == warped.shape

    @both
    @forms
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_gpu_equals_cpu(self, shape, squared):
        warped, fixed = (image.float() for image in image_pair(shape))
        on_gpu = local_ncc(warped.cuda(), fixed.cuda(), 9, squared).cpu()
        torch.testing.assert_close(on_gpu, local_ncc(warped, fixed, 9, squared), rtol=1e-3, atol=0)


class TestGlobalNcc:
    @both
    def test_is_one_minus_the_metric(self, shape):
        warped, fixed = image_pair(shape)
        expected = 1 - metrics.ncc(warped, fixed)
        loss = global_ncc(warped, fixed)
        assert loss.shape == () and loss.item() == pytest.approx(expected, abs=1e-12)
        assert loss.item() == pytest.approx(
            1 - np.corrcoef(warped.flatten(), fixed.flatten())[0, 1], abs=1e-12
        )

    @both
    def test_extremes_and_invariance(self, shape):
        warped, fixed = image_pair(shape)
        assert global_ncc(warped, warped).item() == pytest.approx(0, abs=1e-12)
        assert global_ncc(warped, -warped).item() == pytest.approx(2, abs=1e-12)
        scaled = global_ncc(3 * warped - 800, 0.1 * fixed + 7)
        torch.testing.assert_close(scaled, global_ncc(warped, fixed), rtol=0, atol=1e-9)

    @both
    def test_the_batch_is_the_mean_of_its_items(self, shape):
        warped, fixed = image_pair(shape, batch=2, channels=2)
        parts = [
            global_ncc(warped[b : b + 1, c : c + 1], fixed[b : b + 1, c : c + 1])
            for b in range(2)
            for c in range(2)
        ]
        torch.testing.assert_close(global_ncc(warped, fixed), torch.stack(parts).mean())

    @pytest.mark.parametrize("value", [0.0, 0.3, -1000.0])
    def test_a_constant_image_counts_one_without_a_gradient(self, value):
        texture = torch.rand(1, 1, 9, 8, 7, requires_grad=True)
        constant = torch.full((1, 1, 9, 8, 7), value, requires_grad=True)
        loss = global_ncc(constant, texture)
        loss.backward()
        assert loss.item() == 1
        assert not constant.grad.any() and not texture.grad.any()

    def test_faint_texture_is_texture(self):
        warped, fixed = image_pair((9, 8, 7))
        faint = global_ncc(1 + 1e-3 * warped.float(), fixed.float())
        assert faint.item() == pytest.approx(global_ncc(warped, fixed).item(), rel=1e-3)

    @pytest.mark.parametrize("shape", [(5, 4), (3, 4, 3)], ids=["2-D", "3-D"])
    def test_gradcheck(self, shape):
        images = [image.requires_grad_() for image in image_pair(shape, batch=2)]
        assert torch.autograd.gradcheck(global_ncc, images)

    def test_half_precision_is_computed_in_float32(self):
        a, b = (image.bfloat16() for image in image_pair((9, 8, 7)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = global_ncc(a, b)
        assert loss.dtype == torch.float32 and torch.equal(loss, global_ncc(a.float(), b.float()))

    @pytest.mark.usefixtures("unchecked")
    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match="global_ncc: .*one shape"):
            global_ncc(torch.zeros(1, 1, 6, 7), torch.zeros(1, 1, 6, 1))


def test_weak_texture_of_a_dark_background_counts():
    """A tenth of a grey level on a nearly black background beside a bright object, in float32."""
    generator = torch.Generator().manual_seed(0)
    moving, fixed = 1e-4 * torch.rand(2, 1, 1, 24, 24, 24, generator=generator)
    fixed[..., :8, :] = moving[..., :8, :] = 1.0
    fixed = 1000 * fixed
    exact = local_ncc(moving.double(), fixed.double(), 5)
    torch.testing.assert_close(local_ncc(moving, fixed, 5).double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("window", [5, 9])
def test_golden_of_the_transmorph_repository(goldens, window):
    with np.load(goldens / "transmorph_losses" / "io.npz") as stored:
        a, b = (torch.from_numpy(stored[f"in_{name}"]) for name in "ab")
        expected = torch.from_numpy(stored[f"out_NCC_vxm_win{window}"])
    torch.testing.assert_close(local_ncc(a, b, window) - 1, expected, rtol=1e-6, atol=1e-6)
