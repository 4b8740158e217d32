"""Dice, precision and recall against sets counted by hand, SimpleITK and MedPy."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from label_maps import IDS, blob_pair
from medpy.metric.binary import dc
from medpy.metric.binary import precision as medpy_precision
from medpy.metric.binary import recall as medpy_recall

from regnet_lib.metrics import dice, overlap_counts, precision, recall

SHAPES = [(20, 24), (10, 12, 11)]
both = pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])
METRICS = [dice, precision, recall]

# Label 1: 3 voxels in the warped map, 4 in the fixed map, 2 in both; label 2: 2, 1 and 1.
WARPED = np.array([[1, 1, 1, 0], [2, 2, 0, 0]])
FIXED = np.array([[0, 1, 1, 1], [0, 2, 1, 0]])


class TestShape:
    @both
    def test_one_value_per_id_in_the_order_of_the_ids(self, shape):
        warped, fixed = blob_pair(shape)
        for metric in METRICS:
            values = metric(warped, fixed, IDS)
            assert values.shape == (3,) and values.dtype == np.float64
            np.testing.assert_array_equal(metric(warped, fixed, IDS[::-1]), values[::-1])

    @both
    def test_tensors_with_batch_and_channel_are_accepted(self, shape):
        warped, fixed = blob_pair(shape)
        tensors = [torch.from_numpy(labels)[None, None] for labels in (warped, fixed)]
        for metric in METRICS:
            np.testing.assert_array_equal(metric(*tensors, IDS), metric(warped, fixed, IDS))

    @both
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint16])
    def test_the_integer_type_does_not_matter(self, shape, dtype):
        warped, fixed = blob_pair(shape)
        values = dice(warped.astype(dtype), fixed.astype(dtype), IDS)
        np.testing.assert_array_equal(values, dice(warped, fixed, IDS))

    def test_no_ids_give_no_values(self):
        for metric in METRICS:
            assert metric(WARPED, FIXED, []).shape == (0,)


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    def test_float_labels(self):
        with pytest.raises(TypeError, match=r"expected integer fixed_labels, got float64.*astype"):
            dice(WARPED, FIXED.astype(float), [1])
        with pytest.raises(TypeError, match="expected integer warped_labels, got float32"):
            dice(torch.from_numpy(WARPED).float(), FIXED, [1])

    def test_other_shapes(self):
        with pytest.raises(ValueError, match=r"of one shape .*\(2, 4\) and \(4, 2\)"):
            dice(WARPED, FIXED.T, [1])

    def test_more_than_one_case(self):
        batch = np.zeros((2, 1, 4, 4, 4), dtype=int)
        with pytest.raises(ValueError, match="Evaluate one case at a time"):
            dice(batch, batch, [1])

    def test_repeated_ids(self):
        """The released IXI list holds 22 twice: counting it once would shift every other value."""
        with pytest.raises(ValueError, match=r"every id once, got \[22\]"):
            dice(WARPED, FIXED, [21, 22, 22, 23])

    def test_unknown_policy(self):
        with pytest.raises(
            ValueError, match="absent to be one of .*'nan'.*'released'.*, got 'one'"
        ):
            dice(WARPED, FIXED, [1], absent="one")


class TestValues:
    def test_by_hand(self):
        counts = overlap_counts(WARPED, FIXED, [1, 2])
        assert counts.both.tolist() == [2, 1]
        assert counts.warped.tolist() == [3, 2]
        assert counts.fixed.tolist() == [4, 1]
        np.testing.assert_allclose(dice(WARPED, FIXED, [1, 2]), [4 / 7, 2 / 3], rtol=1e-15)
        np.testing.assert_allclose(precision(WARPED, FIXED, [1, 2]), [2 / 3, 1 / 2], rtol=1e-15)
        np.testing.assert_allclose(recall(WARPED, FIXED, [1, 2]), [2 / 4, 1 / 1], rtol=1e-15)

    def test_background_can_be_asked_for(self):
        assert overlap_counts(WARPED, FIXED, [0]).both.tolist() == [1]
        np.testing.assert_allclose(dice(WARPED, FIXED, [0]), [2 / 6], rtol=1e-15)

    @both
    @pytest.mark.parametrize("seed", range(3))
    def test_equal_simpleitk_and_medpy(self, shape, seed):
        warped, fixed = blob_pair(shape, seed)
        measures = sitk.LabelOverlapMeasuresImageFilter()
        measures.Execute(*[sitk.GetImageFromArray(labels) for labels in (fixed, warped)])
        expected = [measures.GetDiceCoefficient(label) for label in IDS]
        np.testing.assert_allclose(dice(warped, fixed, IDS), expected, rtol=1e-12)
        masks = [(warped == label, fixed == label) for label in IDS]
        for metric, oracle in ((dice, dc), (precision, medpy_precision), (recall, medpy_recall)):
            expected = [oracle(*pair) for pair in masks]
            np.testing.assert_allclose(metric(warped, fixed, IDS), expected, rtol=1e-12)

    def test_labels_beyond_the_lookup_table(self):
        """Negative or huge ids take the other branch of the lookup and must count the same."""
        for names in ([-7, 3], [2**40, 5], [70000, 1]):
            rename = np.array([0, *names])
            values = dice(rename[WARPED], rename[FIXED], names)
            np.testing.assert_array_equal(values, dice(WARPED, FIXED, [1, 2]))

    def test_ids_that_no_map_could_hold_are_absent(self):
        values = dice(WARPED, FIXED, [-1, 1, 10**12, 2])
        np.testing.assert_array_equal(np.isnan(values), [True, False, True, False])
        np.testing.assert_array_equal(values[[1, 3]], dice(WARPED, FIXED, [1, 2]))


class TestAbsentLabels:
    # Label 1 is in both maps, 2 only in the warped map, 3 only in the fixed map, 4 in neither.
    WARPED = np.array([[1, 1, 2], [0, 0, 2]])
    FIXED = np.array([[1, 1, 3], [3, 0, 0]])
    IDS = (1, 2, 3, 4)

    @pytest.mark.parametrize("metric", METRICS)
    def test_absent_from_both_is_nan_and_from_one_is_zero(self, metric):
        values = metric(self.WARPED, self.FIXED, self.IDS)
        np.testing.assert_array_equal(values, [1, 0, 0, np.nan])

    @pytest.mark.parametrize("metric, empty", [(dice, 1), (precision, 0), (recall, 0)])
    def test_the_released_policy(self, metric, empty):
        values = metric(self.WARPED, self.FIXED, self.IDS, absent="released")
        np.testing.assert_array_equal(values, [1, 0, 0, empty])

    POLICIES = {
        "nan": [1, 0, 0, np.nan],
        "fixed": [1, np.nan, 0, np.nan],
        "zero": [1, 0, 0, 0],
        "released": [1, 0, 0, 1],
    }

    @pytest.mark.parametrize("absent", POLICIES)
    def test_dice_under_each_policy(self, absent):
        values = dice(self.WARPED, self.FIXED, self.IDS, absent=absent)
        np.testing.assert_array_equal(values, self.POLICIES[absent])

    def test_the_mean_depends_on_the_policy(self):
        """One pair of maps, four published means."""
        means = {
            absent: np.nanmean(dice(self.WARPED, self.FIXED, self.IDS, absent=absent))
            for absent in self.POLICIES
        }
        assert means == {"nan": pytest.approx(1 / 3), "fixed": 0.5, "zero": 0.25, "released": 0.5}

    @both
    def test_labels_of_both_maps_score_the_same_under_all(self, shape):
        warped, fixed = blob_pair(shape)
        for metric in METRICS:
            for absent in (*self.POLICIES, "learn2reg"):
                values = metric(warped, fixed, IDS, absent=absent, moving_labels=warped)
                np.testing.assert_array_equal(values, metric(warped, fixed, IDS))

    @pytest.mark.parametrize("metric", METRICS)
    def test_learn2reg_tells_a_lost_label_from_one_that_never_was(self, metric):
        """Label 3 was in the moving map and is 0; without it there, it does not count."""
        lost, never = self.WARPED.copy(), self.WARPED
        lost[1, 0] = 3
        for moving, expected in ((lost, [1, np.nan, 0, np.nan]), (never, [1, *[np.nan] * 3])):
            values = metric(
                self.WARPED, self.FIXED, self.IDS, absent="learn2reg", moving_labels=moving
            )
            np.testing.assert_array_equal(values, expected)

    def test_zero_is_scikit_learns(self):
        from sklearn.metrics import f1_score

        expected = f1_score(
            self.FIXED.ravel(), self.WARPED.ravel(), labels=self.IDS, average=None, zero_division=0
        )
        np.testing.assert_allclose(
            dice(self.WARPED, self.FIXED, self.IDS, absent="zero"), expected, rtol=1e-15
        )

    @pytest.mark.usefixtures("unchecked")
    def test_learn2reg_needs_the_moving_map(self):
        with pytest.raises(ValueError, match="expected moving_labels for absent='learn2reg'"):
            dice(self.WARPED, self.FIXED, self.IDS, absent="learn2reg")
        with pytest.raises(ValueError, match="of one shape"):
            dice(self.WARPED, self.FIXED, self.IDS, "learn2reg", self.FIXED.T)


class TestProperties:
    @both
    def test_dice_is_symmetric_and_precision_is_recall_the_other_way(self, shape):
        warped, fixed = blob_pair(shape)
        np.testing.assert_array_equal(dice(warped, fixed, IDS), dice(fixed, warped, IDS))
        np.testing.assert_array_equal(precision(warped, fixed, IDS), recall(fixed, warped, IDS))

    @both
    def test_of_a_map_with_itself_are_one(self, shape):
        _, fixed = blob_pair(shape)
        for metric in METRICS:
            np.testing.assert_array_equal(metric(fixed, fixed, IDS), 1)

    @both
    def test_renaming_permutes(self, shape):
        warped, fixed = blob_pair(shape)
        rename = np.array([0, 5, 1, 0, 0, 2])
        values = dice(rename[warped], rename[fixed], [5, 1, 2])
        np.testing.assert_array_equal(values, dice(warped, fixed, [1, 2, 5]))

    @pytest.mark.parametrize("seed", range(20))
    def test_mean_dice_stays_below_the_harmonic_mean_of_mean_precision_and_recall(self, seed):
        """Jensen: the harmonic mean is concave, so no table may exceed 2 P R / (P + R)."""
        random = np.random.default_rng(seed)
        warped, fixed = random.integers(0, 6, (2, 8, 9, 7))
        warped = np.where(random.random(warped.shape) < random.random(), fixed, warped)
        ids = range(1, 6)
        p, r = precision(warped, fixed, ids).mean(), recall(warped, fixed, ids).mean()
        assert dice(warped, fixed, ids).mean() <= 2 * p * r / (p + r) + 1e-12
