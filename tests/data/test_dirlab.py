"""DIR-Lab: files without headers, names that vary, three recipes, five folds."""

import shutil

import numpy as np
import pytest
import torch

from regnet_lib.data import BadInputError, DIRLab, landmarks_outside, write_fake_dirlab
from regnet_lib.data.dirlab import FAKE_GEOMETRY, GEOMETRY, Geometry
from regnet_lib.data.lungs import fake_lungs, lung_box, to_lung_window
from regnet_lib.data.nifti import Volume
from regnet_lib.data.preprocess import resample_to
from regnet_lib.spatial import sample


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fake_dirlab(tmp_path_factory.mktemp("data") / "dirlab")


def opened(root, **options):
    return DIRLab(root, geometry=FAKE_GEOMETRY, **options)


def test_table_of_sizes():
    assert [GEOMETRY[number].shape[2] for number in range(1, 11)] == [
        *(94, 112, 104, 99, 106, 128, 136, 128, 128, 120)
    ]
    assert all(its.shape[0] == (256 if number < 6 else 512) for number, its in GEOMETRY.items())


@pytest.mark.parametrize("number", FAKE_GEOMETRY)
def test_voxels_and_landmarks_as_written(root, number):
    """x runs fastest in the file, values are Hounsfield units + 1024, lists count from 1."""
    dataset = opened(root, recipe="native")
    fake = fake_lungs(FAKE_GEOMETRY[number].shape, seed=number, landmarks=300)
    phase = dataset.read_phase(f"case{number}_T00")
    np.testing.assert_array_equal(phase.array, fake.fixed)
    stored = np.fromfile(dataset.image_path(f"case{number}_T00"), "<i2")
    assert stored[1] == fake.fixed[1, 0, 0] + 1024
    case = dataset.case(f"case{number}")
    for points, written in (
        (case.fixed_landmarks, fake.phantom.fixed_landmarks),
        (case.moving_landmarks, fake.phantom.moving_landmarks),
    ):
        world = points.numpy() @ case.affine[:3, :3].T + case.affine[:3, 3]
        expected = written.round().numpy() * np.diag(phase.affine)[:3]
        np.testing.assert_allclose(world, expected, atol=1e-3)


@pytest.mark.parametrize("recipe, spacing_mm", [("lungs", 1), ("lungs", 2), ("isotropic", 2)])
def test_images_and_landmarks_move_together(root, recipe, spacing_mm):
    """The intensity at a landmark is that of its voxel on disk."""
    dataset = opened(root, recipe=recipe, spacing_mm=spacing_mm)
    case = dataset.case("case1")
    assert case.spacing_mm == (spacing_mm,) * 3 and landmarks_outside(case) == 0
    # A grid of other voxels interpolates, so compare where nothing varies: a linear ramp.
    ramp = np.indices(FAKE_GEOMETRY[1].shape).sum(axis=0).astype(np.float32)
    dataset.read_phase = lambda subject: Volume(ramp, np.diag([-1.5, -1.5, -2.5, 1.0]))
    shape, affine = dataset._grid(1)
    array = resample_to(dataset.read_phase(""), shape, affine).array
    points = case.fixed_landmarks
    found = sample(torch.from_numpy(array)[None, None], points.T[None, :, :, None, None])
    listed = dataset._read_points("case1_T00").sum(axis=1)
    torch.testing.assert_close(found.flatten(), torch.from_numpy(listed).float(), atol=1e-2, rtol=0)


def test_native_recipe(root):
    dataset = opened(root, recipe="native")
    case = dataset.case("case6")
    assert case.shape == (256, 256, 24) and case.spacing_mm == pytest.approx((1.4, 1.4, 2.5))
    raw = dataset.read_phase("case6_T00").array[:, :, 1:25]
    inner = case.fixed[0, 0, 108:148, 110:146].numpy()
    padded = np.full((256, 256, 24), -1024, dtype=np.float32)
    padded[108:148, 110:146] = raw
    low, high = np.percentile(padded, [0.5, 99.5])
    np.testing.assert_allclose(inner, (np.clip(raw, low, high) - low) / (high - low), atol=1e-5)
    assert case.fixed.min() == 0 and case.fixed.max() == 1


@pytest.mark.parametrize("number", GEOMETRY)
def test_shapes_of_the_papers_recipes(root, number):
    """IV.A: 256x256 and the nearest multiple of 8; IV.B: a cube of 256 mm around the centre."""
    dataset = DIRLab(root, recipe="native")
    shape, affine = dataset._grid(number)
    slices = (96, 112, 104, 96, 104, 128, 136, 128, 128, 120)[number - 1]
    assert shape == (256, 256, slices)
    first = affine[:3, 3] / np.diag(affine)[:3]
    assert first[:2] == pytest.approx([0, 0] if number < 6 else [128, 128])
    shape, affine = DIRLab(root, recipe="isotropic")._grid(number)
    its = GEOMETRY[number]
    assert shape == (256, 256, 256)
    middle = affine @ [127.5, 127.5, 127.5, 1]
    expected = -(np.array(its.shape) - 1) / 2 * its.spacing_mm
    np.testing.assert_allclose(middle[:3], expected, atol=1e-9)


def test_a_centred_crop_loses_landmarks_and_says_so(tmp_path):
    """The lungs are wider than the 256 voxels that section IV.A keeps."""
    wide = {6: Geometry((420, 20, 24), (0.97, 0.97, 2.5))}
    root = write_fake_dirlab(tmp_path / "dirlab", geometry=wide)
    (root / "Case1Pack").mkdir()
    case = DIRLab(root, recipe="native", geometry=wide).case("case6")
    x = DIRLab(root, geometry=wide)._read_points("case6_T00")[:, 0]
    lost = int(((x < 82) | (x > 337)).sum())
    assert landmarks_outside(case) == lost > 0 and len(case.fixed_landmarks) == len(x)
    whole = DIRLab(root, recipe="lungs", geometry=wide).case("case6")
    assert landmarks_outside(whole) == 0


def test_the_box_holds_the_lungs_of_both_phases(root):
    dataset = opened(root)
    case = dataset.case("case2")
    assert all(side % 16 == 0 for side in case.shape)
    fake = fake_lungs(FAKE_GEOMETRY[2].shape, seed=2, landmarks=300)
    lungs = np.argwhere(fake.fixed_mask | fake.moving_mask)
    for corner in (lungs.min(axis=0), lungs.max(axis=0)):
        world = corner * np.diag(dataset.read_phase("case2_T00").affine)[:3]
        voxel = np.linalg.inv(case.affine) @ [*world, 1]
        assert (voxel[:3] >= 5).all() and (voxel[:3] <= np.array(case.shape) - 6).all()


class TestFolds:
    def test_every_case_is_tested_once(self, root):
        tested = []
        for fold in range(1, 6):
            dataset = DIRLab(root, fold=fold)
            lists = [dataset.ids(split) for split in ("train", "validation", "test")]
            assert [len(names) for names in lists] == [7, 1, 2]
            assert len({name for names in lists for name in names}) == 10
            assert lists[2] == (f"case{fold}", f"case{fold + 5}")
            tested += lists[2]
        assert sorted(tested) == sorted(f"case{number}" for number in range(1, 11))

    def test_without_training_all_are_tested(self, root):
        assert DIRLab(root).ids("test") == tuple(f"case{number}" for number in range(1, 11))
        with pytest.raises(ValueError, match="dirlab: expected a split of 'test', got 'train'"):
            DIRLab(root).ids("train")


class TestErrors:
    def test_truncated(self, root, tmp_path):
        copy = shutil.copytree(root, tmp_path / "dirlab")
        path = copy / "Case1Pack" / "Images" / "case1_T50_s.img"
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(BadInputError, match=r"case1_T50_s.img: expected 36 x 40 x 28 .*80638"):
            opened(copy).case("case1")

    def test_upper_case_and_missing_files(self, root, tmp_path):
        copy = shutil.copytree(root, tmp_path / "dirlab")
        lists = copy / "Case1Pack" / "ExtremePhases"
        lists.rename(copy / "Case1Pack" / "EXTREMEPHASES")
        (copy / "Case1Pack" / "Images" / "notes.img").touch()
        opened(copy).case("case1")
        (copy / "Case1Pack" / "EXTREMEPHASES" / "Case1_300_T00_xyz.txt").unlink()
        with pytest.raises(BadInputError, match="expected one file of case1_T00 like .*found none"):
            opened(copy).case("case1")

    def test_unpacked_twice(self, root, tmp_path):
        copy = shutil.copytree(root, tmp_path / "dirlab")
        images = copy / "Case1Pack" / "Images"
        shutil.copy(images / "case1_T00_s.img", images / "case1_T00.img")
        with pytest.raises(BadInputError, match="expected one file of case1_T00"):
            opened(copy).case("case1")

    def test_lists_of_other_lengths_and_other_scans(self, root, tmp_path):
        copy = shutil.copytree(root, tmp_path / "dirlab")
        path = copy / "Case2Pack" / "ExtremePhases" / "Case2_300_T50_xyz.txt"
        text = path.read_text()
        path.write_text("\n".join(text.splitlines()[:-1]))
        with pytest.raises(BadInputError, match="as many landmarks as at T00"):
            opened(copy).case("case2")
        path.write_text("0 1 1\n" + text)  # not counted from 1
        with pytest.raises(BadInputError, match="T50_xyz.txt: expected voxels of a scan"):
            opened(copy).case("case2")

    @pytest.mark.usefixtures("unchecked")
    def test_options(self, root):
        for options, text in (
            ({"recipe": "iv_a"}, "recipe='lungs', 'isotropic' or 'native', got 'iv_a'"),
            ({"spacing_mm": 3}, "spacing_mm=1 or 2"),
            ({"spacing_mm": 2, "recipe": "native"}, "none with recipe='native'"),
            ({"fold": 6}, "fold=None or 1 to 5, got 6"),
        ):
            with pytest.raises(ValueError, match=text):
                DIRLab(root, **options)

    def test_no_lungs(self):
        with pytest.raises(BadInputError, match="scan: expected lungs, found no region below -400"):
            lung_box(Volume(np.zeros((8, 8, 8), np.float32), np.eye(4)), "scan")


def test_window_of_intensities():
    values = np.array([-1024.0, -1000, -600, -200, 500], dtype=np.float32).reshape(5, 1, 1)
    window = to_lung_window(Volume(values, np.eye(4))).array.ravel()
    np.testing.assert_allclose(window, [0, 0, 0.5, 1, 1])


def test_air_outside_the_body_is_no_lung():
    scan = np.full((20, 20, 12), 40, dtype=np.float32)
    scan[:3] = scan[:, -2:] = -1000  # outside the body
    scan[6:9, 5:11, 2:12] = -800  # reaches the last slice, as an apex may
    scan[12:15, 6:12, 3:9] = -800
    scan[17, 17, 5] = -800  # a bubble
    scan[1:7, 7, 4] = -800  # a gap in the chest wall of one slice
    first, last = lung_box(Volume(scan, np.eye(4)), "scan")
    assert first.tolist() == [6, 5, 2] and last.tolist() == [14, 11, 11]
