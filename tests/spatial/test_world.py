"""Voxels, millimetres and displacement files, against SimpleITK, ANTs and nitransforms."""

import json
from itertools import pairwise

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from known_fields import affine_field, near_identity, smooth_field

from regnet_lib.data import BadInputError, Volume, write_volume
from regnet_lib.spatial import warp, warp_points
from regnet_lib.spatial.world import (
    after_world_map,
    between_grids,
    displacement_to_grid,
    load_displacement,
    ras_to_lps,
    resample_to_grid,
    save_displacement,
    voxel_to_world,
    warp_from,
    world_to_voxel,
)

SHAPE = (14, 12, 10)


def turned(degrees, tilt, scales):
    a, b = np.deg2rad([degrees, tilt])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(scales)
    affine[:3, 3] = (11.0, -7.0, 3.0)
    return affine


AFFINES = {
    "RAS": np.array([[1.5, 0, 0, -9], [0, 1.0, 0, 4], [0, 0, 2.0, 5], [0, 0, 0, 1.0]]),
    "LAS": np.array([[-1.1, 0, 0, 30], [0, 1.0, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]]),
    "LPS": np.array([[-1.0, 0, 0, 7], [0, -1.3, 0, 2], [0, 0, 1.2, -4], [0, 0, 0, 1.0]]),
    "oblique": turned(20, 12, (1.2, 1.0, 2.5)),
    "oblique, left-handed": turned(-15, 25, (-1.3, 1.1, 2.0)),
}
ALIGNED = ("RAS", "LAS", "LPS")
grids = pytest.mark.parametrize("name", AFFINES)


@pytest.fixture(scope="module")
def field():
    return smooth_field(SHAPE, 1.5, seed=3).float()


@pytest.fixture(scope="module")
def moving():
    """A smooth image on a grid that covers all of the others with another spacing and tilt."""
    grid = np.stack(np.meshgrid(*[np.arange(side) for side in (20, 22, 18)], indexing="ij"))
    waves = np.sin(grid[0] / 2.1) + np.cos(grid[1] / 1.7) * np.sin(grid[2] / 1.9 + 1)
    return waves.astype(np.float32)


def moving_affine(affine):
    """Centred on the fixed grid, tilted by 8 degrees against it."""
    tilted = turned(8, -5, (1.0, 1.0, 1.0))
    matrix = affine.copy()
    matrix[:3, :3] = tilted[:3, :3] @ affine[:3, :3] @ np.diag([1.1, -0.8, 0.9])
    centre = voxel_to_world((np.array(SHAPE) - 1) / 2, affine)
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.array((20, 22, 18)) - 1) / 2)
    return matrix


def inside(field, to_moving, shape):
    """Where x + u(x) lies between voxel centres of the moving image: outside programs differ."""
    grid = np.stack(np.meshgrid(*[np.arange(side) for side in SHAPE], indexing="ij"), axis=-1)
    places = grid + np.moveaxis(field[0].numpy(), 0, -1)
    places = places @ to_moving[:3, :3].T + to_moving[:3, 3]
    within = ((places > 0) & (places < np.array(shape) - 1)).all(-1)
    assert within.mean() > 0.5
    return within


class TestPoints:
    def test_world_coordinates_agree_with_simpleitk(self, tmp_path):
        affine = AFFINES["oblique, left-handed"]
        path = write_volume(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.float32), affine)
        image = sitk.ReadImage(str(path))
        point = np.array([1.5, 2.0, 3.25])
        lps = image.TransformContinuousIndexToPhysicalPoint(point.tolist())
        found = ras_to_lps(voxel_to_world(point[None], affine))[0]
        np.testing.assert_allclose(found, lps, atol=1e-4)

    @grids
    def test_there_and_back(self, name):
        points = np.random.default_rng(0).random((7, 3)) * 9
        there = voxel_to_world(points, AFFINES[name])
        np.testing.assert_allclose(world_to_voxel(there, AFFINES[name]), points, atol=1e-10)
        np.testing.assert_array_equal(ras_to_lps(ras_to_lps(there)), there)

    def test_a_slice_has_two_coordinates(self):
        points = np.array([[1.0, 2], [3, 4.5]])
        there = voxel_to_world(points, AFFINES["LAS"])
        np.testing.assert_allclose(there, [[28.9, -18], [26.7, -15.5]])
        np.testing.assert_allclose(world_to_voxel(there, AFFINES["LAS"]), points)


class TestGrids:
    def test_one_grid_for_both_is_a_plain_warp(self, field):
        image = torch.rand(1, 1, *SHAPE)
        expected = warp(image, field, fill=-3.0)
        found = warp_from(image, field, np.eye(4), fill=-3.0)
        torch.testing.assert_close(found, expected)

    @grids
    def test_simpleitk_resamples_alike(self, name, moving):
        affine = AFFINES[name]
        volume = Volume(moving, moving_affine(affine))
        fixed = Volume(np.zeros(SHAPE, np.float32), affine)
        ours = resample_to_grid(volume, fixed)
        np.testing.assert_array_equal(ours.affine, affine)
        theirs = resampled_by_simpleitk(volume, fixed, sitk.Transform(3, sitk.sitkIdentity))
        still = torch.zeros(1, 3, *SHAPE)
        within = inside(still, between_grids(volume.affine, affine), moving.shape)
        assert np.abs(ours.array - theirs)[within].max() < 1e-4

    def test_labels_keep_their_codes(self):
        labels = np.random.default_rng(1).choice([0, 7, 182], (8, 9, 10))
        grid = np.diag([0.5, 0.5, 0.5, 1.0])
        finer = Volume(np.zeros((15, 17, 19), np.float32), grid)
        resampled = resample_to_grid(Volume(labels, np.eye(4)), finer, labels=True)
        assert resampled.array.dtype == np.int64
        np.testing.assert_array_equal(resampled.array[::2, ::2, ::2], labels)

    def test_a_map_of_the_world_after_the_displacement(self, field):
        affine, world = AFFINES["oblique"], turned(10, 5, (1.05, 0.95, 1.0))
        together = after_world_map(field, affine, world)
        points = torch.tensor([[3.0, 4.0, 5.0], [7.0, 2.0, 6.0]])
        moved = voxel_to_world(warp_points(points, field).numpy(), affine)
        expected = moved @ world[:3, :3].T + world[:3, 3]
        found = voxel_to_world(warp_points(points, together).numpy(), affine)
        np.testing.assert_allclose(found, expected, atol=1e-4)


class TestFieldsOnOtherGrids:
    @grids
    def test_a_linear_field_moves_exactly(self, name):
        """The same points of the world move to the same places."""
        old, new = AFFINES[name], AFFINES[name] @ np.diag([0.5, -0.7, 0.6, 1.0])
        new[:3, 3] = old[:3, :3] @ [3, 8, 2] + old[:3, 3]
        field = affine_field(near_identity(3, seed=1), SHAPE)
        moved = displacement_to_grid(field, old, (12, 7, 9), new)
        points = np.array([[0.0, 0, 0], [11, 6, 8], [4.5, 3.2, 7]])
        found = voxel_to_world(warp_points(torch.from_numpy(points), moved).numpy(), new)
        before = world_to_voxel(voxel_to_world(points, new), old)
        expected = voxel_to_world(warp_points(torch.from_numpy(before), field).numpy(), old)
        np.testing.assert_allclose(found, expected, atol=1e-10)

    def test_a_crop_is_undone(self, field):
        """Inside the crop the field is what it was; around it the nearest vector continues."""
        affine = AFFINES["oblique"]
        inner = (slice(2, 12), slice(1, 11), slice(3, 9))
        shift = np.eye(4)
        shift[:3, 3] = (2, 1, 3)
        cropped = field[(slice(None), slice(None), *inner)]
        whole = displacement_to_grid(cropped, affine @ shift, SHAPE, affine)
        torch.testing.assert_close(whole[(slice(None), slice(None), *inner)], cropped)
        torch.testing.assert_close(whole[..., 0, 5, 5], cropped[..., 0, 4, 2])

    def test_errors(self, field):
        with pytest.raises(ValueError, match="3 sides of at least 2"):
            displacement_to_grid(field, np.eye(4), (4, 5), np.eye(4))


def resampled_by_simpleitk(moving, fixed, transform):
    from regnet_lib.data.itk_files import itk_array, itk_image

    images = [itk_image(volume.array, volume.affine) for volume in (moving, fixed)]
    return itk_array(sitk.Resample(*images, transform, sitk.sitkLinear, 0.0))


CONTAINERS = ("nii.gz", "nii", "mha", "nrrd", "h5", "tfm")


class TestDisplacementFiles:
    @grids
    @pytest.mark.parametrize(
        "convention, suffix",
        [
            *(("itk", suffix) for suffix in CONTAINERS),
            ("ants", "nii.gz"),
            ("slicer", "nii.gz"),
            ("voxel", "nii.gz"),
            ("voxel", "npz"),
            ("fsl", "nii.gz"),
        ],
    )
    def test_round_trip(self, tmp_path, field, name, convention, suffix):
        path = tmp_path / f"displacement.{suffix}"
        if convention == "fsl" and name not in ALIGNED:
            with pytest.raises(BadInputError, match="axis-aligned grid .* FSL"):
                save_displacement(path, field, AFFINES[name], convention)
            assert list(tmp_path.iterdir()) == []
            return
        save_displacement(path, field, AFFINES[name], convention)
        back, affine = load_displacement(path)
        np.testing.assert_allclose(back, field, atol=1e-5)
        np.testing.assert_allclose(affine, AFFINES[name], atol=1e-5)
        with pytest.raises(BadInputError, match="exists"):
            save_displacement(path, field, AFFINES[name], convention)

    @pytest.mark.parametrize(
        "name, suffix",
        [
            *((name, "nii.gz") for name in AFFINES),
            *(("oblique", suffix) for suffix in CONTAINERS[1:]),
        ],
    )
    def test_simpleitk_warps_as_we_do(self, tmp_path, field, moving, name, suffix):
        path = tmp_path / f"displacement.{suffix}"
        save_displacement(path, field, AFFINES[name])
        if suffix in ("h5", "tfm"):
            transform = sitk.ReadTransform(str(path))
        else:
            vectors = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkVectorFloat64)
            transform = sitk.DisplacementFieldTransform(vectors)
        volume = Volume(moving, moving_affine(AFFINES[name]))
        fixed = Volume(np.zeros(SHAPE, np.float32), AFFINES[name])
        theirs = resampled_by_simpleitk(volume, fixed, transform)
        self.compare(field, volume, AFFINES[name], theirs)
        point = np.array([[6.2, 5.5, 4.1]])
        ours = moved_mm(point, field, AFFINES[name])
        start = ras_to_lps(voxel_to_world(point, AFFINES[name]))[0]
        assert np.linalg.norm(ours[0] - transform.TransformPoint(start.tolist())) < 0.01

    @grids
    def test_ants_warps_as_we_do(self, tmp_path, field, moving, name):
        ants = pytest.importorskip("ants", reason="needs antspyx (the extra `classical`)")
        import pandas as pd

        affine, other = AFFINES[name], moving_affine(AFFINES[name])
        path = str(save_displacement(tmp_path / "1Warp.nii.gz", field, affine, "ants"))
        images = [
            ants.image_read(str(write_volume(tmp_path / f"{file}.nii.gz", array, matrix)))
            for file, array, matrix in (
                ("fixed", np.zeros(SHAPE, np.float32), affine),
                ("moving", moving, other),
            )
        ]
        theirs = ants.apply_transforms(*images, [path], interpolator="linear").numpy()
        self.compare(field, Volume(moving, other), affine, theirs)
        point = np.array([[6.2, 5.5, 4.1]])
        start = ras_to_lps(voxel_to_world(point, affine))
        table = pd.DataFrame(start, columns=["x", "y", "z"])
        theirs = ants.apply_transforms_to_points(3, table, [path])[["x", "y", "z"]].to_numpy()
        assert np.linalg.norm(moved_mm(point, field, affine) - theirs) < 0.01

    @pytest.mark.parametrize(
        "name, convention",
        # nitransforms turns fields into FSL's frame rightly for these two orientations only
        [*((name, "itk") for name in AFFINES), ("RAS", "fsl"), ("LAS", "fsl")],
    )
    @pytest.mark.filterwarnings("ignore")
    def test_nitransforms_warps_as_we_do(self, tmp_path, field, moving, name, convention):
        nonlinear = pytest.importorskip("nitransforms.nonlinear", reason="needs nitransforms")
        from nitransforms.resampling import apply

        affine, other = AFFINES[name], moving_affine(AFFINES[name])
        if convention == "fsl":
            # FSL's frame belongs to each image: its warps are made for images on one grid
            other, moving = affine, moving[:14, :12, :10]
        path = save_displacement(tmp_path / "displacement.nii.gz", field, affine, convention)
        transform = nonlinear.DenseFieldTransform.from_filename(path, fmt=convention)
        fixed = nibabel.Nifti1Image(np.zeros(SHAPE, np.float32), affine)
        image = nibabel.Nifti1Image(moving, other)
        theirs = apply(transform, image, reference=fixed, order=1, prefilter=False).get_fdata()
        self.compare(field, Volume(moving, other), affine, theirs)

    def compare(self, field, volume, affine, theirs):
        to_moving = between_grids(volume.affine, affine)
        image = torch.from_numpy(np.ascontiguousarray(volume.array))[None, None]
        ours = warp_from(image, field, to_moving)[0, 0].numpy()
        within = inside(field, to_moving, volume.array.shape)
        span = float(np.ptp(volume.array))
        assert np.abs(ours - theirs)[within].max() < 1e-3 * span

    def test_the_standard_reads_intent_1006_as_ras(self, tmp_path, field):
        vectors = np.moveaxis(field[0].numpy(), 0, -1) @ AFFINES["oblique"][:3, :3].T
        image = nibabel.Nifti1Image(vectors[:, :, :, None, :].astype("f4"), AFFINES["oblique"])
        image.header.set_intent(1006)
        nibabel.save(image, tmp_path / "ras.nii")
        back, _ = load_displacement(tmp_path / "ras.nii")
        np.testing.assert_allclose(back, field, atol=1e-5)

    def test_two_dimensions(self, tmp_path):
        field = torch.randn(1, 2, 9, 7)
        affine = AFFINES["LAS"]
        path = save_displacement(tmp_path / "plane.nii.gz", field, affine)
        back, _ = load_displacement(path)
        np.testing.assert_allclose(back, field, atol=1e-5)
        image = sitk.ReadImage(str(path))
        assert image.GetSize() == (9, 7) and image.GetNumberOfComponentsPerPixel() == 2
        expected = field[0, :, 4, 3].numpy() * [1.1, -1.0]  # LAS in voxels, LPS in millimetres
        np.testing.assert_allclose(image[4, 3], expected, atol=1e-5)

    def test_the_description_beside_the_file(self, tmp_path, field):
        save_displacement(tmp_path / "d.nii.gz", field, AFFINES["LAS"])
        description = json.loads((tmp_path / "d.json").read_text())
        assert (description["unit"], description["frame"]) == ("mm", "LPS")
        assert description["shape"] == list(SHAPE)
        np.testing.assert_array_equal(description["affine"], AFFINES["LAS"])

    def test_four_dimensions_need_a_word(self, tmp_path, field):
        vectors = np.moveaxis(field[0].numpy(), 0, -1)
        path = tmp_path / "disp_0001_0002.nii.gz"
        nibabel.save(nibabel.Nifti1Image(vectors, np.eye(4)), path)
        with pytest.raises(BadInputError, match="JSON.*convention='voxel'"):
            load_displacement(path)
        back, _ = load_displacement(path, convention="voxel")
        np.testing.assert_array_equal(back, field)

    def test_bare_arrays_need_a_grid(self, tmp_path, field):
        np.savez(tmp_path / "disp.npz", np.moveaxis(field[0].numpy(), 0, -1))
        with pytest.raises(BadInputError, match="reference"):
            load_displacement(tmp_path / "disp.npz")
        back, affine = load_displacement(tmp_path / "disp.npz", reference=AFFINES["LPS"])
        np.testing.assert_array_equal(back, field)
        np.testing.assert_array_equal(affine, AFFINES["LPS"])

    def test_pickles_in_archives_are_not_run(self, tmp_path):
        np.savez(tmp_path / "disp.npz", np.array([{"a": 1}], dtype=object))
        with pytest.raises(BadInputError, match="disp.npz: cannot be read"):
            load_displacement(tmp_path / "disp.npz", reference=np.eye(4))

    def test_a_stated_convention_must_be_the_one_of_the_file(self, tmp_path, field):
        path = save_displacement(tmp_path / "d.nii.gz", field, AFFINES["RAS"])
        assert len(load_displacement(path, convention="slicer")) == 2
        with pytest.raises(BadInputError, match="convention 'fsl', found 'itk'"):
            load_displacement(path, convention="fsl")

    def test_other_transforms_are_named(self, tmp_path):
        sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "a.tfm"))
        with pytest.raises(BadInputError, match="found a AffineTransform"):
            load_displacement(tmp_path / "a.tfm")
        (tmp_path / "b.tfm").write_text("nothing of the kind")
        with pytest.raises(BadInputError, match="b.tfm: cannot be read as an ITK transform"):
            load_displacement(tmp_path / "b.tfm")

    def test_names_and_values_that_are_refused(self, tmp_path, field):
        with pytest.raises(BadInputError, match=r"ending in .*\.h5"):
            save_displacement(tmp_path / "d.txt", field, np.eye(4))
        with pytest.raises(BadInputError, match=r"ending in .*\.npz"):
            save_displacement(tmp_path / "d.mha", field, np.eye(4), "voxel")
        path = save_displacement(tmp_path / "d.nii", field * torch.nan, np.eye(4))
        with pytest.raises(BadInputError, match="finite displacements"):
            load_displacement(path)


def moved_mm(points, field, affine):
    """Voxels of the fixed grid to LPS mm of the moving image."""
    moved = warp_points(torch.from_numpy(points), field.double()).numpy()
    return ras_to_lps(voxel_to_world(moved, affine))


def test_affines_are_what_their_names_say():
    assert nibabel.aff2axcodes(AFFINES["LAS"]) == ("L", "A", "S")
    assert nibabel.aff2axcodes(AFFINES["LPS"]) == ("L", "P", "S")
    assert np.linalg.det(AFFINES["oblique, left-handed"][:3, :3]) < 0
    for first, second in pairwise(AFFINES.values()):
        assert not np.allclose(first, second)
