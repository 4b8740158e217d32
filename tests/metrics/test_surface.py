"""Surface distances against MedPy, SciPy's distance transform and shapes solved by hand."""

import numpy as np
import pytest
import torch
from label_maps import IDS, blob_pair
from medpy.metric.binary import assd as medpy_assd
from medpy.metric.binary import hd95 as medpy_hd95
from scipy.ndimage import binary_erosion, distance_transform_edt

from regnet_lib.metrics import assd, hd95, surface_distances_mm
from regnet_lib.metrics.surface import hd95_of

CASES = [((24, 30), (0.97, 2.5)), ((14, 16, 15), (2.5, 0.97, 1.2))]
both = pytest.mark.parametrize("shape, spacing", CASES, ids=["2-D", "3-D"])


def directed_distances(one, other, spacing):
    """From every border voxel of `one` to the border of `other`, by erosion and EDT."""
    borders = [mask & ~binary_erosion(mask) for mask in (one, other)]
    return distance_transform_edt(~borders[1], sampling=spacing)[borders[0]]


def boxes(shape, *corners):
    """Label 1 in the box between two corners of each `(start, stop)`."""
    labels = np.zeros(shape, dtype=int)
    for start, stop in corners:
        labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return labels


class TestShape:
    @both
    def test_values_per_id_and_tensors(self, shape, spacing):
        warped, fixed = blob_pair(shape)
        tensors = [torch.from_numpy(labels)[None, None] for labels in (warped, fixed)]
        for metric in (hd95, assd):
            values = metric(warped, fixed, IDS, spacing)
            assert values.shape == (3,)
            np.testing.assert_array_equal(metric(*tensors, IDS, spacing), values)
            reverse = metric(warped, fixed, IDS[::-1], spacing)
            np.testing.assert_array_equal(reverse, values[::-1])

    def test_no_ids_give_no_values(self):
        labels = boxes((6, 6), ((1, 1), (4, 4)))
        assert hd95(labels, labels, [], (1.0, 1.0)).shape == (0,)


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -2.0)])
    def test_spacing(self, spacing):
        labels = boxes((6, 6), ((1, 1), (4, 4)))
        with pytest.raises(ValueError, match="expected 2 positive spacings in mm"):
            hd95(labels, labels, [1], spacing)

    def test_convention(self):
        labels = boxes((6, 6), ((1, 1), (4, 4)))
        with pytest.raises(ValueError, match="'medpy', 'max', 'area'.*got 'mean'"):
            hd95(labels, labels, [1], (1.0, 1.0), convention="mean")
        pair = surface_distances_mm(labels, labels, [1], (1.0, 1.0))[0]
        with pytest.raises(ValueError, match=r"hd95\(..., convention='area'\)"):
            hd95_of(pair, "area")

    def test_float_labels_and_repeated_ids(self):
        labels = boxes((6, 6), ((1, 1), (4, 4)))
        with pytest.raises(TypeError, match="expected integer warped_labels"):
            hd95(labels.astype(float), labels, [1], (1.0, 1.0))
        with pytest.raises(ValueError, match=r"every id once, got \[1\]"):
            hd95(labels, labels, [1, 1], (1.0, 1.0))


class TestOracles:
    @both
    @pytest.mark.parametrize("seed", range(4))
    def test_equal_medpy(self, shape, spacing, seed):
        warped, fixed = blob_pair(shape, seed)
        edge = np.concatenate(
            [np.take(fixed, end, axis).ravel() for end in (0, -1) for axis in (0, 1)]
        )
        assert set(IDS) <= set(edge.tolist())  # the blobs do reach the border of the volume
        masks = [(warped == label, fixed == label) for label in IDS]
        for metric, oracle in ((hd95, medpy_hd95), (assd, medpy_assd)):
            expected = [oracle(*pair, voxelspacing=spacing) for pair in masks]
            ours = metric(warped, fixed, IDS, spacing)
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)

    @both
    def test_max_convention_and_the_distances_themselves_equal_scipy(self, shape, spacing):
        warped, fixed = blob_pair(shape)
        pairs = surface_distances_mm(warped, fixed, IDS, spacing)
        values = hd95(warped, fixed, IDS, spacing, convention="max")
        for label, (there, back), value in zip(IDS, pairs, values, strict=True):
            a, b = warped == label, fixed == label
            expected = directed_distances(a, b, spacing), directed_distances(b, a, spacing)
            np.testing.assert_allclose(np.sort(there), np.sort(expected[0]), rtol=0, atol=1e-9)
            np.testing.assert_allclose(np.sort(back), np.sort(expected[1]), rtol=0, atol=1e-9)
            larger = max(np.percentile(direction, 95) for direction in expected)
            assert value == pytest.approx(larger, abs=1e-9)

    @both
    def test_background_as_a_label(self, shape, spacing):
        """Asked for explicitly, label 0 is measured like any other."""
        warped, fixed = blob_pair(shape)
        expected = medpy_hd95(warped == 0, fixed == 0, voxelspacing=spacing)
        assert hd95(warped, fixed, [0], spacing)[0] == pytest.approx(expected, abs=1e-9)
        np.testing.assert_array_equal(
            hd95(warped, fixed, [0, *IDS], spacing)[1:], hd95(warped, fixed, IDS, spacing)
        )


class TestByHand:
    def test_single_voxels(self):
        """Two voxels 3, 4 and 0 steps apart: 3 x 2 mm and 4 x 2 mm make 10 mm."""
        one, other = np.zeros((2, 8, 9, 5), dtype=int)
        one[1, 2, 2] = other[4, 6, 2] = 1
        for convention in ("medpy", "max"):
            value = hd95(one, other, [1], (2.0, 2.0, 7.0), convention=convention)[0]
            assert value == pytest.approx(10, abs=1e-12)
        assert assd(one, other, [1], (2.0, 2.0, 7.0))[0] == pytest.approx(10, abs=1e-12)

    def test_a_slab_moved_by_two_voxels(self):
        """Planes without any other neighbour: every distance is the shift."""
        one = boxes((12, 5), ((3, 0), (4, 5)))
        other = boxes((12, 5), ((5, 0), (6, 5)))
        assert hd95(one, other, [1], (1.5, 1.0))[0] == pytest.approx(3, abs=1e-12)
        assert assd(one, other, [1], (1.5, 1.0))[0] == pytest.approx(3, abs=1e-12)

    def test_the_face_of_the_volume_is_surface(self):
        """A map full of one label has its surface on the faces; the inside has none."""
        full = np.ones((5, 6), dtype=int)
        there, back = surface_distances_mm(full, full, [1], (1.0, 1.0))[0]
        assert len(there) == len(back) == 5 * 6 - 3 * 4
        assert there.max() == 0

    def test_the_two_conventions_differ(self):
        """3 distances of 0 and one of 8 from the warped side; only zeros from the fixed side.

        Pooled: 95th percentile of six zeros and an 8 (0.95 x 6 = position 5.7, so 0.7 x 8).
        Directed: three zeros and an 8 (0.95 x 3 = position 2.85, so 0.85 x 8).
        """
        fixed = np.zeros((2, 14), dtype=int)
        fixed[0, 1:4] = 1
        warped = fixed.copy()
        warped[0, 11] = 1
        assert hd95(warped, fixed, [1], (1.0, 1.0))[0] == pytest.approx(0.7 * 8, abs=1e-12)
        value = hd95(warped, fixed, [1], (1.0, 1.0), convention="max")[0]
        assert value == pytest.approx(0.85 * 8, abs=1e-12)
        assert assd(warped, fixed, [1], (1.0, 1.0))[0] == pytest.approx(8 / 7, abs=1e-12)

    def test_a_label_missing_from_either_map_is_nan(self):
        labels = boxes((6, 6), ((1, 1), (4, 4)))
        empty = np.zeros_like(labels)
        for pair in ((labels, empty), (empty, labels), (empty, empty)):
            assert np.isnan(hd95(*pair, [1], (1.0, 1.0))).all()
            assert np.isnan(hd95(*pair, [1], (1.0, 1.0), convention="max")).all()
            assert np.isnan(assd(*pair, [1], (1.0, 1.0))).all()


class TestProperties:
    @both
    def test_zero_on_itself_and_symmetric(self, shape, spacing):
        warped, fixed = blob_pair(shape)
        for metric in (hd95, assd):
            np.testing.assert_array_equal(metric(fixed, fixed, IDS, spacing), 0)
            np.testing.assert_allclose(
                metric(warped, fixed, IDS, spacing), metric(fixed, warped, IDS, spacing), rtol=1e-12
            )

    @both
    def test_scale_with_the_spacing(self, shape, spacing):
        warped, fixed = blob_pair(shape)
        twice = [2 * size for size in spacing]
        for metric in (hd95, assd):
            np.testing.assert_allclose(
                metric(warped, fixed, IDS, twice),
                2 * metric(warped, fixed, IDS, spacing),
                rtol=1e-12,
            )

    @both
    def test_spacing_belongs_to_its_axis(self, shape, spacing):
        warped, fixed = blob_pair(shape)
        transposed = hd95(warped.T, fixed.T, IDS, spacing[::-1])
        np.testing.assert_allclose(transposed, hd95(warped, fixed, IDS, spacing), rtol=1e-12)
        assert not np.allclose(hd95(warped, fixed, IDS, spacing[::-1]), transposed)

    @both
    def test_a_common_shift_changes_nothing(self, shape, spacing):
        warped, fixed = (np.pad(labels, 3) for labels in blob_pair(shape))
        moved = [np.roll(labels, (2, -1), (0, 1)) for labels in (warped, fixed)]
        np.testing.assert_allclose(
            hd95(*moved, IDS, spacing), hd95(warped, fixed, IDS, spacing), rtol=1e-12
        )
