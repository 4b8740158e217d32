"""MIND-SSC against NumPy and SciPy, mutual information against ITK; their invariances."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from regnet_lib.data import phantom_pair
from regnet_lib.losses import mind_ssc, mind_ssc_descriptor, mutual_information
from regnet_lib.spatial import warp

SHAPES = [(13, 15), (9, 11, 10)]
both = pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])
losses = pytest.mark.parametrize("loss", [mind_ssc, mutual_information])


def random_pair(shape, seed=0, batch=1, channels=1):
    """Two correlated random images in about [0, 1], float64."""
    random = np.random.default_rng(seed)
    one = random.random((batch, channels, *shape))
    other = 0.6 * one + 0.4 * random.random(one.shape)
    return torch.from_numpy(one), torch.from_numpy(other)


def plain_mind_ssc(image, radius, dilation):
    """The definition, one channel after the other, for one array."""
    axes = image.ndim
    padded = np.pad(image, dilation, mode="edge")

    def looked_up(offset):
        window = (slice(dilation + o, dilation + o + n) for o, n in zip(offset, image.shape))
        return padded[tuple(window)]

    unit = np.eye(axes, dtype=int) * dilation
    offsets = [sign * row for row in unit for sign in (-1, 1)]
    distances = []
    for i, one in enumerate(offsets):
        for other in offsets[i + 1 :]:
            if ((one - other) ** 2).sum() == 2 * dilation**2:  # not opposite
                square = (looked_up(one) - looked_up(other)) ** 2
                distances.append(uniform_filter(square, 2 * radius + 1, mode="nearest"))
    distance = np.stack(distances)
    distance = distance - distance.min(0)
    noise = distance.mean(0)
    noise = noise.clip(0.001 * noise.mean(), 1000 * noise.mean())
    return np.exp(-distance / noise)


class TestBoth:
    @losses
    @both
    def test_a_scalar_that_is_the_mean_of_the_batch(self, loss, shape):
        warped, fixed = random_pair(shape, batch=2, channels=2)
        parts = [
            loss(warped[b : b + 1, c : c + 1], fixed[b : b + 1, c : c + 1])
            for b in range(2)
            for c in range(2)
        ]
        together = loss(warped, fixed)
        assert together.shape == ()
        torch.testing.assert_close(together, torch.stack(parts).mean(), rtol=0, atol=1e-12)

    @losses
    @pytest.mark.usefixtures("unchecked")
    def test_shapes_must_agree(self, loss):
        with pytest.raises(ValueError, match=rf"{loss.__name__}: .*\(1, 1, 6, 7\) and \(1, 1, 6"):
            loss(torch.zeros(1, 1, 6, 7), torch.zeros(1, 1, 6, 1))

    @losses
    @both
    def test_gain_and_offset_of_either_image_cancel(self, loss, shape):
        warped, fixed = random_pair(shape)
        expected = loss(warped, fixed)
        changed = loss(3 * warped - 7, 0.2 * fixed + 40)
        torch.testing.assert_close(changed, expected, rtol=0, atol=1e-10)

    @losses
    @pytest.mark.parametrize("kind", ["brain", "lung"])
    def test_the_best_shift_of_an_inverted_image_is_none(self, loss, kind):
        """Where mean squared differences would look for the worst match."""
        image = phantom_pair((32, 32, 32), seed=2, kind=kind).moving
        values = []
        for voxels in (-2.0, -1.0, 0.0, 1.0, 2.0):
            displacement = torch.zeros(1, 3, 32, 32, 32)
            displacement[:, 1] = voxels
            warped = warp(1 - image.square(), displacement, padding="border")
            values.append(loss(warped, image).item())
        assert np.argmin(values) == 2

    @losses
    @both
    @pytest.mark.parametrize("constant", ["warped", "fixed", "both"])
    def test_constant_images_give_finite_losses_and_gradients(self, loss, shape, constant):
        warped, fixed = (image.float() for image in random_pair(shape))
        flat = torch.full_like(warped, 0.3)
        warped = warped if constant == "fixed" else flat
        fixed = fixed if constant == "warped" else flat
        warped = warped.clone().requires_grad_()
        value = loss(warped, fixed)
        value.backward()
        assert value.isfinite() and warped.grad.isfinite().all()
        if constant == "both":
            assert value.item() == pytest.approx(0, abs=1e-6)

    @losses
    @both
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_float32(self, loss, shape, dtype):
        images = [image.to(dtype) for image in random_pair(shape)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(*images)
        assert value.dtype == torch.float32
        assert torch.equal(value, loss(*(image.float() for image in images)))

    @losses
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_gpu_equals_cpu(self, loss):
        warped, fixed = (image.float() for image in random_pair((20, 22, 24)))
        on_gpu = loss(warped.cuda(), fixed.cuda()).cpu()
        torch.testing.assert_close(on_gpu, loss(warped, fixed), rtol=1e-3, atol=0)


class TestMindSsc:
    @both
    @pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 2), (0, 1), (3, 3)])
    def test_descriptor_equals_numpy(self, shape, radius, dilation):
        image = random_pair(shape)[0]
        expected = plain_mind_ssc(image[0, 0].numpy(), radius, dilation)
        ours = mind_ssc_descriptor(image, radius, dilation)[0]
        assert ours.shape[0] == {2: 4, 3: 12}[len(shape)]
        # the order of the channels carries no meaning: match each with its nearest
        distance = np.abs(ours.numpy()[:, None] - expected[None]).reshape(*[len(expected)] * 2, -1)
        nearest = distance.max(-1)
        assert nearest.min(1).max() < 1e-10
        assert sorted(nearest.argmin(1)) == list(range(len(expected)))

    @both
    def test_descriptor_lies_between_0_and_1_and_reaches_1(self, shape):
        images = random_pair(shape, batch=2, channels=3)[0]
        descriptor = mind_ssc_descriptor(images)
        channels = 3 * {2: 4, 3: 12}[len(shape)]
        assert descriptor.shape == (2, channels, *shape)
        assert (descriptor >= 0).all()
        best = descriptor.unflatten(1, (3, -1)).amax(2)
        assert torch.equal(best, torch.ones_like(best))

    def test_of_a_flat_image_is_1(self):
        assert torch.equal(
            mind_ssc_descriptor(torch.full((1, 1, 6, 7, 8), 5.0)), torch.ones(1, 12, 6, 7, 8)
        )

    @both
    def test_inverted_grey_values_describe_alike(self, shape):
        image = random_pair(shape)[0]
        torch.testing.assert_close(
            mind_ssc_descriptor(1 - image), mind_ssc_descriptor(image), rtol=0, atol=1e-10
        )

    @both
    def test_gradcheck(self, shape):
        warped, fixed = (image[..., :6, :5] for image in random_pair(shape))
        warped, fixed = warped.clone().requires_grad_(), fixed.clone().requires_grad_()
        assert torch.autograd.gradcheck(mind_ssc, (warped, fixed), fast_mode=True)

    @pytest.mark.parametrize(("radius", "dilation"), [(-1, 1), (1, 0)])
    def test_radius_and_dilation_are_lengths(self, radius, dilation):
        with pytest.raises(ValueError, match=f"got {radius} and {dilation}"):
            mind_ssc_descriptor(torch.rand(1, 1, 5, 5), radius, dilation)


class TestMutualInformation:
    @pytest.mark.parametrize("bins", [16, 32, 64])
    def test_equals_itk(self, bins):
        sitk = pytest.importorskip("SimpleITK")
        case = phantom_pair((20, 24, 22), seed=1)
        warped, fixed = case.moving.double(), 1 - case.fixed.double() ** 2
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(bins)
        method.SetMetricSamplingStrategy(method.NONE)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetInitialTransform(sitk.TranslationTransform(3))
        images = [sitk.GetImageFromArray(image[0, 0].numpy()) for image in (fixed, warped)]
        assert mutual_information(warped, fixed, bins).item() == pytest.approx(
            method.MetricEvaluate(*images), rel=1e-10
        )

    def test_of_independent_images_is_small_and_never_negative(self):
        random = torch.Generator().manual_seed(0)
        one, other = (torch.rand(1, 1, 64, 64, 16, generator=random) for _ in range(2))
        value = mutual_information(one, other).item()
        # the expected bias of a histogram is (bins - 1)^2 / (2 voxels) at most
        assert -(31**2) / (2 * one.numel()) < value < 0

    @both
    def test_of_two_grey_values_is_their_entropy(self, shape):
        """A quarter of the voxels is bright: H = -(1/4 log 1/4 + 3/4 log 3/4), less the splines."""
        fixed = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
        fixed[..., :6, :6] = 1
        entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
        for warped in (fixed, 5 - 3 * fixed):
            assert mutual_information(warped, fixed).item() == pytest.approx(-entropy, abs=1e-12)

    @both
    def test_gradcheck_between_the_extremes(self, shape):
        """The range of values is a constant of the derivative, so its ends do not move here."""
        warped, fixed = random_pair(shape)
        flat = warped.flatten()
        inner = (flat > flat.min()) & (flat < flat.max())

        def loss(values):
            return mutual_information(flat.masked_scatter(inner, values).view_as(warped), fixed, 8)

        values = flat[inner].clone().requires_grad_()
        assert torch.autograd.gradcheck(loss, values, fast_mode=True)

    def test_many_voxels_in_float32(self):
        """Two million counts in one bin: a float32 sum in one go would stop growing."""
        random = np.random.default_rng(0)
        warped = np.where(random.random((128, 128, 128)) < 1e-3, 1.0, 0.0)[None, None]
        fixed = np.where(random.random(warped.shape) < 0.5, warped, 0.0)
        warped, fixed = torch.from_numpy(warped), torch.from_numpy(fixed)
        expected = mutual_information(warped, fixed).item()
        ours = mutual_information(warped.float(), fixed.float()).item()
        assert ours == pytest.approx(expected, rel=1e-4)

    def test_too_few_bins(self):
        with pytest.raises(ValueError, match="at least 5 bins, got 4"):
            mutual_information(torch.rand(1, 1, 5, 5), torch.rand(1, 1, 5, 5), bins=4)
