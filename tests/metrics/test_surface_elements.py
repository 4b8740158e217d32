"""HD95 by area against DeepMind's surface-distance (if installed) and surfaces solved by hand."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from label_maps import IDS, blob_pair

from regnet_lib.metrics import element_distances_mm, element_sizes, hd95

CASES = [((24, 30), (0.97, 2.5)), ((14, 16, 15), (2.5, 0.97, 1.2))]
both = pytest.mark.parametrize("shape, spacing", CASES, ids=["2-D", "3-D"])
CORNERS = list(product((0, 1), repeat=3))


def by_area(warped, fixed, ids, spacing):
    return hd95(warped, fixed, ids, spacing, convention="area")


def size_of(inside, spacing=(1.0, 1.0, 1.0)):
    """Area of the cut around the corners inside, given as a set of `(i, j, k)`."""
    code = sum(2 ** (7 - place) for place, corner in enumerate(CORNERS) if corner in inside)
    return element_sizes(spacing)[code]


class TestShape:
    @both
    def test_values_per_id_and_tensors(self, shape, spacing):
        warped, fixed = blob_pair(shape)
        tensors = [torch.from_numpy(labels)[None, None] for labels in (warped, fixed)]
        values = by_area(warped, fixed, IDS, spacing)
        assert values.shape == (3,)
        np.testing.assert_array_equal(by_area(*tensors, IDS, spacing), values)
        np.testing.assert_array_equal(by_area(warped, fixed, IDS[::-1], spacing), values[::-1])
        assert by_area(warped, fixed, [], spacing).shape == (0,)
        assert element_sizes(spacing).shape == (2 ** (2 ** len(shape)),)


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0)])
    def test_spacing(self, spacing):
        labels = np.eye(6, dtype=int)
        with pytest.raises(ValueError, match="expected 2 positive spacings in mm"):
            by_area(labels, labels, [1], spacing)

    def test_repeated_ids(self):
        labels = np.eye(6, dtype=int)
        with pytest.raises(ValueError, match=r"every id once, got \[1\]"):
            by_area(labels, labels, [1, 1], (1.0, 1.0))


class TestOracle:
    """surface-distance 0.1 stores 256 lists of normals and looks distances up in a transform."""

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.97, 1.2), (0.3, 2.0, 1.7)])
    def test_sizes_equal_the_published_tables(self, spacing):
        tables = pytest.importorskip("surface_distance.lookup_tables")
        area = tables.create_table_neighbour_code_to_surface_area(spacing)
        np.testing.assert_allclose(element_sizes(spacing), area, rtol=0, atol=1e-12)
        length = tables.create_table_neighbour_code_to_contour_length(spacing[:2])
        np.testing.assert_allclose(element_sizes(spacing[:2]), length, rtol=0, atol=1e-12)

    @both
    @pytest.mark.parametrize("seed", range(4))
    def test_equal_surface_distance(self, shape, spacing, seed):
        oracle = pytest.importorskip("surface_distance.metrics")
        warped, fixed = blob_pair(shape, seed)
        values = by_area(warped, fixed, IDS, spacing)
        pairs = element_distances_mm(warped, fixed, IDS, spacing)
        for label, value, pair in zip(IDS, values, pairs, strict=True):
            theirs = oracle.compute_surface_distances(fixed == label, warped == label, spacing)
            for (distances, sizes), way, of in (
                (pair.from_warped, "pred_to_gt", "pred"),
                (pair.from_fixed, "gt_to_pred", "gt"),
            ):
                expected = theirs[f"distances_{way}"]
                np.testing.assert_allclose(np.sort(distances), expected, rtol=0, atol=1e-9)
                total = theirs[f"surfel_areas_{of}"].sum()
                assert sizes.sum() == pytest.approx(total, abs=1e-9)
            expected = oracle.compute_robust_hausdorff(theirs, 95)
            assert value == pytest.approx(expected, abs=1e-9)


class TestByHand:
    def test_cuts_of_a_cube(self):
        """Legs of half a voxel: triangles, rectangles, a hexagon, and the bent pentagon."""
        triangle = np.sqrt(3) / 8
        assert size_of({(0, 0, 0)}) == pytest.approx(triangle, abs=1e-12)
        assert size_of({(0, 0, 0), (0, 0, 1)}) == pytest.approx(np.sqrt(0.5), abs=1e-12)
        assert size_of({(0, 0, 0), (0, 1, 1)}) == pytest.approx(2 * triangle, abs=1e-12)
        assert size_of({(0, j, k) for j in (0, 1) for k in (0, 1)}) == pytest.approx(1, abs=1e-12)
        hexagon = {(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)}
        assert size_of(hexagon) == pytest.approx(6 * triangle, abs=1e-12)
        pentagon = {(0, 0, 0), (0, 0, 1), (0, 1, 0)}
        assert size_of(pentagon) == pytest.approx(0.5 + 3 * triangle, abs=1e-12)

    def test_unequal_voxels(self):
        """A face across axis 0 has sides of 2 and 3 mm; a triangle has half a cross product."""
        face = {(0, j, k) for j in (0, 1) for k in (0, 1)}
        assert size_of(face, (7.0, 2.0, 3.0)) == pytest.approx(6, abs=1e-12)
        normal = np.array([2 * 3, 7 * 3, 7 * 2]) / 8
        expected = np.linalg.norm(normal)
        assert size_of({(0, 0, 0)}, (7.0, 2.0, 3.0)) == pytest.approx(expected, abs=1e-12)

    def test_all_sixteen_squares(self):
        """A corner costs half a diagonal, a pair of neighbors one side, opposites two halves."""
        half, first, second = np.hypot(2, 3) / 2, 2.0, 3.0
        expected = [0, half, half, second, half, first, 2 * half, half]
        np.testing.assert_allclose(element_sizes((2.0, 3.0)), expected + expected[::-1], atol=1e-12)

    def test_inside_and_outside_have_one_surface(self):
        np.testing.assert_allclose(
            element_sizes((2.5, 0.97, 1.2)), element_sizes((2.5, 0.97, 1.2))[::-1]
        )

    def test_no_direction_is_preferred(self):
        """On cubic voxels the 48 turned and mirrored cubes have one size."""
        random = np.random.default_rng(0)
        for _ in range(20):
            inside = {corner for corner in CORNERS if random.random() < 0.5}
            for order in permutations(range(3)):
                turned = {tuple(corner[axis] for axis in order) for corner in inside}
                mirrored = {(1 - i, j, k) for i, j, k in turned}
                assert size_of(turned) == pytest.approx(size_of(inside), abs=1e-12)
                assert size_of(mirrored) == pytest.approx(size_of(inside), abs=1e-12)

    def test_surface_of_a_box(self):
        """Flat faces, edges cut at 45 degrees, and a triangle at each of the eight corners."""
        labels = np.zeros((8, 9, 10), dtype=int)
        labels[2:5, 3:7, 0:5] = 1  # 3 x 4 x 5 voxel centers, one face on that of the volume
        ((_, sizes),) = (
            pair.from_fixed for pair in element_distances_mm(labels, labels, [1], (1.0, 1.0, 1.0))
        )
        a, b, c = 2, 3, 4
        expected = 2 * (a * b + b * c + a * c) + 4 * (a + b + c) * np.sqrt(0.5) + np.sqrt(3)
        assert sizes.sum() == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("length, value", [(24, 19.0), (30, 0.0)])
    def test_the_share_of_an_island_decides(self, length, value):
        """A single pixel 20 pixels away from a bar: 2.83 of 54.5, then of 66.5 pixels of outline.

        The first is more than 5 %, the second less, and an area percentile does not interpolate. An
        element stands between pixels, so half of the island's are 19 and half 20 pixels away. Voxel
        counts call it 1 of 25 and 1 of 31, both less.
        """
        fixed = np.zeros((30, 40), dtype=int)
        fixed[2, 2 : 2 + length] = 1
        warped = fixed.copy()
        warped[22, 10] = 1
        outline = 2 * (length - 1) + 8 * np.sqrt(0.5)
        assert (4 * np.sqrt(0.5) / outline > 0.05) == (value > 0)
        assert by_area(warped, fixed, [1], (1.0, 1.0))[0] == pytest.approx(value, abs=1e-12)
        assert hd95(warped, fixed, [1], (1.0, 1.0))[0] == 0
        assert hd95(warped, fixed, [1], (1.0, 1.0), convention="max")[0] == 0

    def test_a_slab_moved_by_two_voxels(self):
        one, other = np.zeros((2, 12, 5), dtype=int)
        one[3:5] = other[5:7] = 1
        assert by_area(one, other, [1], (1.5, 1.0))[0] == pytest.approx(3, abs=1e-12)

    def test_a_label_missing_from_either_map_is_nan(self):
        labels = np.eye(6, dtype=int)
        empty = np.zeros_like(labels)
        for pair in ((labels, empty), (empty, labels), (empty, empty)):
            assert np.isnan(by_area(*pair, [1], (1.0, 1.0))).all()


class TestProperties:
    @both
    def test_zero_on_itself_symmetric_and_proportional(self, shape, spacing):
        warped, fixed = blob_pair(shape)
        np.testing.assert_array_equal(by_area(fixed, fixed, IDS, spacing), 0)
        values = by_area(warped, fixed, IDS, spacing)
        np.testing.assert_allclose(values, by_area(fixed, warped, IDS, spacing), rtol=1e-12)
        twice = [2 * size for size in spacing]
        np.testing.assert_allclose(by_area(warped, fixed, IDS, twice), 2 * values, rtol=1e-12)

    @both
    def test_spacing_belongs_to_its_axis(self, shape, spacing):
        warped, fixed = blob_pair(shape)
        transposed = by_area(warped.T, fixed.T, IDS, spacing[::-1])
        np.testing.assert_allclose(transposed, by_area(warped, fixed, IDS, spacing), rtol=1e-12)

    @both
    def test_background_as_a_label(self, shape, spacing):
        warped, fixed = blob_pair(shape)
        with_background = by_area(warped, fixed, [0, *IDS], spacing)
        np.testing.assert_array_equal(with_background[1:], by_area(warped, fixed, IDS, spacing))
        assert np.isfinite(with_background[0])
