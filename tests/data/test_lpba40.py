"""The LPBA40 adapter, on phantoms in its layout and on the real files."""

import shutil

import nibabel
import numpy as np
import pytest
import torch

from regnet_lib.data import (
    LPBA40,
    BadInputError,
    available,
    open_dataset,
    write_fake_lpba40,
    write_volume,
)
from regnet_lib.data.lpba40 import ATLAS, LABEL_IDS, TEST_IDS, TRAIN_IDS
from regnet_lib.metrics import dice

FAKE_SHAPE = (32, 48, 32)


@pytest.fixture
def own_copy(fake_lpba40, tmp_path):
    """A copy of the fake data set that a test may damage."""
    return shutil.copytree(fake_lpba40, tmp_path / "lpba40")


def rewrite(path, change):
    """Replace the voxels of a file by `change(array)` and keep its affine."""
    image = nibabel.load(path)
    array = change(np.asarray(image.dataobj).copy())
    return write_volume(path, array, image.affine, overwrite=True)


def world(affine, index):
    return affine[:3, :3] @ np.asarray(index, dtype=float) + affine[:3, 3]


class TestLists:
    def test_subjects(self):
        assert ATLAS == "S01"
        assert TEST_IDS == tuple(f"S{n:02d}" for n in range(2, 11)) and len(TRAIN_IDS) == 30
        assert not {ATLAS} & {*TEST_IDS, *TRAIN_IDS} and not {*TEST_IDS} & {*TRAIN_IDS}

    def test_labels(self):
        assert len(LABEL_IDS) == len(set(LABEL_IDS)) == 56
        assert sorted(LABEL_IDS) == list(LABEL_IDS)
        assert {21, 34, 101, 122, 166, 181, 182} <= {*LABEL_IDS} and 0 not in LABEL_IDS


class TestFake:
    def test_shapes_types_and_identity(self, fake_lpba40):
        dataset = LPBA40(fake_lpba40)
        case = dataset.case("S02")
        assert case.id == "S02" and case.label_ids == LABEL_IDS and case.region is None
        for image in (case.moving, case.fixed):
            assert image.shape == (1, 1, *FAKE_SHAPE) and image.dtype == torch.float32
            assert image.min() == 0 and 0 < image.max() <= 1
        for labels in (case.moving_labels, case.fixed_labels):
            assert labels.shape == (1, 1, *FAKE_SHAPE) and labels.dtype == torch.int64
            assert set(labels.unique().tolist()) <= {0, *LABEL_IDS}
        assert case.spacing_mm == (1, 1, 1)

    def test_splits(self, fake_lpba40):
        dataset = LPBA40(fake_lpba40)
        assert dataset.ids("test") == TEST_IDS and dataset.ids("train") == TRAIN_IDS
        with pytest.raises(ValueError, match="'train' or 'test', got 'validation'"):
            dataset.ids("validation")

    def test_subjects_differ_from_the_atlas(self, fake_lpba40):
        """Otherwise a test of registration on these data would test nothing."""
        dataset = LPBA40(fake_lpba40)
        for subject in ("S02", "S03", "S11", "S12"):
            case = dataset.case(subject)
            values = dice(case.moving_labels, case.fixed_labels, LABEL_IDS)
            assert 0.3 < np.nanmean(values) < 0.95

    def test_the_atlas_is_always_the_fixed_image(self, fake_lpba40):
        dataset = LPBA40(fake_lpba40)
        assert torch.equal(dataset.case("S02").fixed, dataset.case("S11").fixed)
        atlas = dataset.case(ATLAS)
        assert torch.equal(atlas.moving, atlas.fixed)
        assert torch.equal(atlas.moving_labels, atlas.fixed_labels)

    def test_the_crop_is_eight_voxels_on_every_face(self, fake_lpba40):
        whole = LPBA40(fake_lpba40, cropped=False).case("S02")
        cropped = LPBA40(fake_lpba40).case("S02")
        assert whole.shape == tuple(side + 16 for side in FAKE_SHAPE)
        inner = (slice(None), slice(None), *whole.region)
        for name in ("moving", "fixed", "moving_labels", "fixed_labels"):
            assert torch.equal(getattr(whole, name)[inner], getattr(cropped, name))

    @pytest.mark.parametrize("spacing_mm", [1, 2, 4])
    def test_the_region_is_the_crop_on_every_grid(self, fake_lpba40, spacing_mm):
        whole = LPBA40(fake_lpba40, spacing_mm=spacing_mm, cropped=False).case("S02")
        cropped = LPBA40(fake_lpba40, spacing_mm=spacing_mm).case("S02")
        inner = whole.moving[(..., *whole.region)]
        torch.testing.assert_close(inner, cropped.moving, rtol=0, atol=1e-6)
        assert torch.equal(whole.fixed_labels[(..., *whole.region)], cropped.fixed_labels)
        start = [part.start for part in whole.region]
        np.testing.assert_allclose(world(whole.affine, start), world(cropped.affine, [0, 0, 0]))

    def test_half_resolution(self, fake_lpba40):
        fine = LPBA40(fake_lpba40).case("S02")
        coarse = LPBA40(fake_lpba40, spacing_mm=2).case("S02")
        assert coarse.shape == tuple(side // 2 for side in FAKE_SHAPE)
        assert coarse.spacing_mm == (2, 2, 2)
        means = torch.nn.functional.avg_pool3d(fine.moving, 2)
        torch.testing.assert_close(coarse.moving, means, rtol=0, atol=1e-6)
        assert torch.equal(coarse.moving_labels, fine.moving_labels[..., ::2, ::2, ::2])

    @pytest.mark.parametrize(
        "spacing_mm, cropped", [(1, True), (2, True), (4, True), (1, False), (2, False), (4, False)]
    )
    def test_a_marker_keeps_its_place_in_array_and_world(self, own_copy, spacing_mm, cropped):
        """Not symmetric in the axes: a transpose or a flip would move it."""
        corner = np.array([12, 24, 36])  # whole voxels on every grid

        def mark(array):
            array = np.zeros_like(array)
            array[tuple(slice(start, start + 4) for start in corner)] = 1
            return array

        rewrite(own_copy / "test" / "S02.delineation.skullstripped.nii.gz", mark)
        file_affine = nibabel.load(own_copy / "fixed.nii.gz").affine
        case = LPBA40(own_copy, spacing_mm=spacing_mm, cropped=cropped).case("S02", labels=False)
        found = np.argwhere(case.moving[0, 0].numpy() == 1).mean(0)
        np.testing.assert_allclose(
            world(case.affine, found), world(file_affine, corner + 1.5), atol=1e-6
        )
        expected = (corner + 1.5 - (8 if cropped else 0) - (spacing_mm - 1) / 2) / spacing_mm
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_turned_like_the_other_brains(self, fake_lpba40):
        stored = LPBA40(fake_lpba40, spacing_mm=2).case("S02")
        turned = LPBA40(fake_lpba40, spacing_mm=2, like_ixi=True).case("S02")
        for name in ("moving", "fixed", "moving_labels", "fixed_labels"):
            assert torch.equal(getattr(turned, name), getattr(stored, name).flip(2, 3, 4))
        # every voxel keeps its place in the world
        last = np.array(stored.shape) - 1
        for index in (np.zeros(3), last, np.array([3, 7, 5])):
            np.testing.assert_allclose(
                world(turned.affine, index), world(stored.affine, last - index), atol=1e-5
            )

    def test_another_fixed_subject(self, fake_lpba40):
        dataset = LPBA40(fake_lpba40, fixed="S02")
        assert dataset.ids("test") == TEST_IDS[1:] and dataset.ids("train") == TRAIN_IDS
        case, usual = dataset.case("S03"), LPBA40(fake_lpba40).case("S02")
        assert torch.equal(case.fixed, usual.moving)
        assert torch.equal(case.fixed_labels, usual.moving_labels)
        with pytest.raises(ValueError, match=r"fixed='S01' or of .*, got 'S11'"):
            LPBA40(fake_lpba40, fixed="S11")

    def test_labels_only_on_request(self, own_copy):
        shutil.rmtree(own_copy / "label")
        case = LPBA40(own_copy).case("S02", labels=False)
        assert case.moving_labels is None and case.fixed_labels is None

    def test_files_are_read_once(self, own_copy):
        dataset = LPBA40(own_copy)
        first = dataset.case("S02")
        shutil.rmtree(own_copy)
        assert torch.equal(dataset.case("S02").moving, first.moving)

    def test_writing_twice_needs_permission_and_repeats_itself(self, own_copy):
        path = own_copy / "label" / "S03.delineation.structure.label.nii.gz"
        before = np.asarray(nibabel.load(path).dataobj)
        with pytest.raises(BadInputError, match="the file exists"):
            write_fake_lpba40(own_copy, shape=FAKE_SHAPE, train=0)
        write_fake_lpba40(own_copy, shape=FAKE_SHAPE, train=0, overwrite=True)
        np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), before)


class TestErrors:
    def test_missing_folder_says_which_file_marks_it(self, tmp_path):
        with pytest.raises(BadInputError, match="lpba40: expected .*fixed.nii.gz, which does not"):
            LPBA40(tmp_path)

    def test_missing_variable_is_named(self, monkeypatch):
        monkeypatch.delenv("REGNET_DATA", raising=False)
        assert not available("lpba40") and available("phantom")
        with pytest.raises(BadInputError, match="REGNET_DATA is not set.*dataset 'phantom'"):
            LPBA40()

    def test_the_variable_is_used(self, monkeypatch, fake_lpba40):
        monkeypatch.setenv("REGNET_DATA", str(fake_lpba40.parent))
        assert available("lpba40")
        assert open_dataset("lpba40").root == fake_lpba40
        assert open_dataset("lpba40", fake_lpba40, spacing_mm=2).spacing_mm == 2

    def test_unknown_dataset(self):
        with pytest.raises(ValueError, match=r"one of \[.*'lpba40'.*'phantom'.*\], got 'unknown'"):
            open_dataset("unknown")

    @pytest.mark.usefixtures("unchecked")
    def test_spacing(self, fake_lpba40):
        with pytest.raises(ValueError, match="spacing_mm=1, 2 or 4, got 3"):
            LPBA40(fake_lpba40, spacing_mm=3)

    def test_missing_subject(self, fake_lpba40):
        with pytest.raises(BadInputError, match=r"S40\.delineation.*does not exist"):
            LPBA40(fake_lpba40).case("S40")

    def test_missing_labels(self, own_copy):
        path = own_copy / "label" / "S02.delineation.structure.label.nii.gz"
        path.unlink()
        with pytest.raises(BadInputError, match=r"S02\.delineation\.structure.*does not exist"):
            LPBA40(own_copy).case("S02")

    def test_subject_of_another_size(self, own_copy):
        path = own_copy / "test" / "S02.delineation.skullstripped.nii.gz"
        rewrite(path, lambda array: array[:-2])
        with pytest.raises(BadInputError, match=r"S02.*expected the shape of .*fixed\.nii\.gz"):
            LPBA40(own_copy).case("S02")

    def test_subject_at_another_place(self, own_copy):
        path = own_copy / "test" / "S02.delineation.skullstripped.nii.gz"
        image = nibabel.load(path)
        flipped = image.affine @ np.diag([-1.0, 1, 1, 1])
        write_volume(path, np.asarray(image.dataobj), flipped, overwrite=True)
        with pytest.raises(BadInputError, match="S02.*expected the voxel-to-world matrix of"):
            LPBA40(own_copy).case("S02")

    def test_labels_of_another_size(self, own_copy):
        path = own_copy / "label" / "S02.delineation.structure.label.nii.gz"
        rewrite(path, lambda array: array[:, :-4])
        with pytest.raises(BadInputError, match=r"S02.*expected the shape of the images"):
            LPBA40(own_copy).case("S02")

    def test_labels_at_another_place(self, own_copy):
        path = own_copy / "label" / "S02.delineation.structure.label.nii.gz"
        image = nibabel.load(path)
        moved = image.affine.copy()
        moved[0, 3] += 5
        write_volume(path, np.asarray(image.dataobj), moved, overwrite=True)
        with pytest.raises(BadInputError, match="S02.*voxel-to-world matrix of the images"):
            LPBA40(own_copy).case("S02")

    def test_labels_that_would_wrap_around_in_a_byte(self, own_copy):
        path = own_copy / "label" / "S02.delineation.structure.label.nii.gz"
        rewrite(path, lambda array: array.astype(np.int32) * 100)
        with pytest.raises(BadInputError, match="S02.*labels up to 182, found"):
            LPBA40(own_copy).case("S02")


@pytest.mark.data
class TestReal:
    def test_all_files_of_forty_subjects(self, real_lpba40):
        dataset = LPBA40(real_lpba40)
        for subject in (ATLAS, *TEST_IDS, *TRAIN_IDS):
            assert dataset.image_path(subject).is_file() and dataset.label_path(subject).is_file()
            for path in (dataset.image_path(subject), dataset.label_path(subject)):
                image = nibabel.load(path)
                assert image.shape == (160, 192, 160)
                np.testing.assert_array_equal(image.affine, np.diag([-1, -1, 1, 1]))

    def test_one_case(self, real_lpba40):
        case = LPBA40(real_lpba40).case("S02")
        assert case.shape == (144, 176, 144) and case.spacing_mm == (1, 1, 1)
        for labels in (case.moving_labels, case.fixed_labels):
            assert labels.unique().tolist() == [0, *LABEL_IDS]
        assert case.moving.min() == 0 and case.moving.max() == pytest.approx(1, abs=1e-2)
        values = dice(case.moving_labels, case.fixed_labels, LABEL_IDS)
        assert values.mean() == pytest.approx(0.56334, abs=5e-6)
