"""Phantoms: the displacement, labels and landmarks they promise are the ones they hold."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from regnet_lib.data import Phantoms, phantom_pair
from regnet_lib.data.phantoms import LABEL_NAMES, smooth_displacement
from regnet_lib.metrics import dice, tre_mm
from regnet_lib.spatial import folding_fraction, warp, warp_labels

SHAPES = [(48, 40), (33, 27), (32, 32, 32), (25, 31, 28)]
NAMES = ["2-D", "2-D odd", "3-D", "3-D odd"]
sizes = pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
kinds = pytest.mark.parametrize("kind", ["brain", "lung"])


class TestShape:
    @sizes
    @kinds
    def test_everything_lies_on_one_grid(self, shape, kind):
        case = phantom_pair(shape, kind=kind, landmarks=10)
        assert case.shape == shape
        for image in (case.moving, case.fixed):
            assert image.shape == (1, 1, *shape) and image.dtype == torch.float32
            assert 0 <= image.min() and image.max() <= 1
        for labels in (case.moving_labels, case.fixed_labels):
            assert labels.shape == (1, 1, *shape) and labels.dtype == torch.int64
        assert case.displacement.shape == (1, len(shape), *shape)
        assert case.fixed_landmarks.shape == case.moving_landmarks.shape == (10, len(shape))

    @sizes
    @kinds
    def test_labels_are_the_named_ones(self, shape, kind):
        case = phantom_pair(shape, kind=kind)
        assert case.label_ids == tuple(LABEL_NAMES[kind])
        for labels in (case.moving_labels, case.fixed_labels):
            assert set(labels.unique().tolist()) <= {0, *case.label_ids}
        # Both halves of the anatomy show up, so that orientation errors cannot hide.
        assert set(case.moving_labels.unique().tolist()) >= {0, 1, 2, 3}

    def test_spacing(self):
        case = phantom_pair((16, 18, 20), spacing_mm=(1.0, 1.5, 2.5))
        assert case.spacing_mm == (1.0, 1.5, 2.5)
        assert phantom_pair((16, 18), spacing_mm=2.0).spacing_mm == (2.0, 2.0)


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize("shape", [(32,), (16, 16, 15), (16, 16, 16, 16), ()])
    def test_shape(self, shape):
        with pytest.raises(ValueError, match="2 or 3 sides of at least 16 voxels"):
            phantom_pair(shape)

    def test_kind(self):
        with pytest.raises(ValueError, match="kind='brain' or 'lung', got 'liver'"):
            phantom_pair((16, 16), kind="liver")

    def test_split(self):
        with pytest.raises(ValueError, match=r"a split of \['train', 'validation', 'test'\]"):
            Phantoms(shape=(16, 16)).ids("dev")

    @pytest.mark.parametrize("case_id", ["lung-1000", "brain", "brain-x", "S02", ""])
    def test_case_of_another_dataset(self, case_id):
        with pytest.raises(ValueError, match="a case named 'brain-<seed>'"):
            Phantoms(shape=(16, 16)).case(case_id)


class TestTruth:
    @sizes
    @kinds
    def test_fixed_is_the_warped_moving_image_by_scipy(self, shape, kind):
        """Without noise the pair is exact; the labels follow the same displacement."""
        case = phantom_pair(shape, kind=kind, noise=0.0)
        where = np.indices(shape) + case.displacement[0].numpy()
        moving = case.moving[0, 0].numpy()
        expected = map_coordinates(moving, where, order=1, mode="nearest")
        np.testing.assert_allclose(case.fixed[0, 0].numpy(), expected, rtol=0, atol=1e-4)
        assert torch.equal(case.fixed_labels, warp_labels(case.moving_labels, case.displacement))

    @kinds
    def test_noise_has_the_size_that_is_asked_for_and_is_independent(self, kind):
        clean = phantom_pair((40, 40, 40), kind=kind, noise=0.0)
        noisy = phantom_pair((40, 40, 40), kind=kind, noise=0.02)
        inside = (clean.moving > 0.1) & (clean.moving < 0.9)
        inside &= (clean.fixed > 0.1) & (clean.fixed < 0.9)  # away from the clamp
        moving_noise = (noisy.moving - clean.moving)[inside]
        fixed_noise = (noisy.fixed - clean.fixed)[inside]
        for noise in (moving_noise, fixed_noise):
            assert noise.std().item() == pytest.approx(0.02, rel=0.05)
            assert noise.mean().item() == pytest.approx(0, abs=1e-3)
        assert abs(np.corrcoef(moving_noise, fixed_noise)[0, 1]) < 0.05

    @sizes
    @kinds
    def test_landmarks_agree_with_the_displacement(self, shape, kind):
        case = phantom_pair(shape, kind=kind)
        errors = tre_mm(
            case.moving_landmarks, case.fixed_landmarks, case.displacement, case.spacing_mm
        )
        np.testing.assert_allclose(errors, 0, atol=1e-4)
        before = tre_mm(
            case.moving_landmarks,
            case.fixed_landmarks,
            torch.zeros_like(case.displacement),
            case.spacing_mm,
        )
        assert before.mean() > 0.3

    @sizes
    @kinds
    def test_landmarks_lie_in_the_anatomy_and_on_the_grid(self, shape, kind):
        case = phantom_pair(shape, kind=kind)
        last = torch.tensor(shape) - 1
        for points in (case.fixed_landmarks, case.moving_landmarks):
            assert len(points) == 32
            assert (points >= 0).all() and (points <= last).all()
        nearest = case.fixed_landmarks.round().long()
        assert (case.fixed_labels[0, 0][tuple(nearest.T)] > 0).all()

    @sizes
    @kinds
    @pytest.mark.parametrize("seed", range(3))
    def test_the_displacement_is_invertible_by_every_count(self, shape, kind, seed):
        case = phantom_pair(shape, seed=seed, kind=kind)
        for difference in ("central", "forward", "digital"):
            assert folding_fraction(case.displacement, difference).item() == 0

    @sizes
    def test_the_longest_vector_is_about_as_long_as_asked(self, shape):
        for voxels in (0.5, 3.0):
            field = smooth_displacement(shape, np.random.default_rng(0), voxels)
            longest = field.norm(dim=1).max().item()
            assert 0.7 * voxels < longest < 1.3 * voxels

    @sizes
    def test_no_point_leaves_the_grid(self, shape):
        field = smooth_displacement(shape, np.random.default_rng(1), 4.0)[0].numpy()
        target = np.indices(shape) + field
        for axis, side in enumerate(shape):
            assert -1e-3 <= target[axis].min() and target[axis].max() <= side - 1 + 1e-3

    @kinds
    def test_zero_displacement_on_request(self, kind):
        case = phantom_pair((24, 26), kind=kind, max_displacement_voxels=0.0, noise=0.0)
        assert case.displacement.abs().max() == 0
        torch.testing.assert_close(case.moving, case.fixed, rtol=0, atol=1e-5)
        assert torch.equal(case.moving_labels, case.fixed_labels)

    def test_lungs_move_most_near_the_diaphragm(self):
        """The end of the last axis; averaged over seeds against the other end."""
        length = sum(
            phantom_pair((32, 32, 32), kind="lung", seed=seed).displacement.norm(dim=1)[0]
            for seed in range(4)
        )
        assert length[8:24, 8:24, 20:26].mean() > 1.5 * length[8:24, 8:24, 6:12].mean()

    @pytest.mark.parametrize("shape", [(48, 40), (32, 32, 32)], ids=["2-D", "3-D"])
    @kinds
    def test_the_true_displacement_registers_the_pair(self, shape, kind):
        """What a perfect method would score, against doing nothing."""
        case = phantom_pair(shape, kind=kind)
        truth = warp_labels(case.moving_labels, case.displacement, "onehot")
        after = np.nanmean(dice(truth, case.fixed_labels, case.label_ids))
        before = np.nanmean(dice(case.moving_labels, case.fixed_labels, case.label_ids))
        assert after > 0.85 and after > before + 0.05
        residual = (warp(case.moving, case.displacement) - case.fixed).square().mean()
        assert residual < 0.3 * (case.moving - case.fixed).square().mean()

    def test_the_image_has_structure_inside_the_tissue(self):
        """Local correlation needs texture: flat labels alone would leave most windows empty."""
        case = phantom_pair((32, 32, 32), noise=0.0)
        matter = (case.moving_labels == 2)[0, 0].numpy()
        image = case.moving[0, 0].numpy()
        detail = image - gaussian_filter(image, 3.0)
        assert detail[matter].std() > 0.01


class TestSeeds:
    @kinds
    def test_the_same_seed_twice(self, kind):
        one, other = (phantom_pair((24, 26), seed=5, kind=kind) for _ in range(2))
        for name in ("moving", "fixed", "displacement", "moving_labels", "fixed_landmarks"):
            assert torch.equal(getattr(one, name), getattr(other, name))

    @kinds
    def test_other_seeds_differ_in_anatomy_and_displacement(self, kind):
        one, other = (phantom_pair((24, 26), seed=seed, kind=kind) for seed in (5, 6))
        assert one.id != other.id
        assert not torch.equal(one.moving_labels, other.moving_labels)
        assert (one.displacement - other.displacement).abs().max() > 0.5

    def test_the_global_generators_are_left_alone(self):
        torch.manual_seed(3), np.random.seed(3)
        expected = torch.rand(2), np.random.random(2)
        torch.manual_seed(3), np.random.seed(3)
        phantom_pair((20, 20))
        assert torch.equal(torch.rand(2), expected[0])
        np.testing.assert_array_equal(np.random.random(2), expected[1])


class TestDataset:
    def test_splits_are_disjoint_and_of_the_size_asked_for(self):
        dataset = Phantoms(shape=(16, 16), train=5, validation=2, test=3)
        splits = [dataset.ids(name) for name in ("train", "validation", "test")]
        assert [len(ids) for ids in splits] == [5, 2, 3]
        assert len({name for ids in splits for name in ids}) == 10

    @kinds
    def test_cases_carry_their_name_and_options(self, kind):
        dataset = Phantoms(shape=(18, 20), kind=kind, spacing_mm=2.0, max_displacement_voxels=1.0)
        for case_id in dataset.ids("test"):
            case = dataset.case(case_id)
            assert case.id == case_id and case.shape == (18, 20)
            assert case.spacing_mm == (2.0, 2.0) and case.label_ids == dataset.label_ids
            assert case.displacement.norm(dim=1).max() < 1.4
            assert torch.equal(dataset.case(case_id).moving, case.moving)
