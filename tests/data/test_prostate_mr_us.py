"""Prostate MR and ultrasound: masks in a fourth axis, centres as landmarks."""

import shutil

import nibabel
import numpy as np
import pytest

from regnet_lib.data import (
    BadInputError,
    ProstateMRUS,
    available,
    write_fake_prostate_mr_us,
    write_volume,
)
from regnet_lib.data.nifti import read_masks
from regnet_lib.metrics import dice


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fake_prostate_mr_us(tmp_path_factory.mktemp("data") / "prostate_mr_us")


def test_splits_follow_the_folders(root):
    dataset = ProstateMRUS(root)
    assert dataset.ids("train") == ("case000000", "case000001", "case000002")
    assert dataset.ids("test") == ("case000003",)


@pytest.mark.parametrize("test", [1, 3, 4])
def test_splits_by_number(root, test):
    dataset, by_folder = ProstateMRUS(root, test=test), ProstateMRUS(root)
    names = by_folder.ids("train") + by_folder.ids("test")
    assert dataset.ids("train") + dataset.ids("test") == names
    assert dataset.ids("test") == names[-test:]
    for name in names:  # the files are found wherever the case is counted
        assert (dataset.case(name).moving == by_folder.case(name).moving).all()


@pytest.mark.parametrize("test", [0, 5, -1])
def test_a_split_that_cannot_be(root, test):
    with pytest.raises(ValueError, match=f"expected test from 1 to 4, got {test}"):
        ProstateMRUS(root, test=test)


def test_padded_around_the_centre(root):
    case = ProstateMRUS(root).case("case000001")
    assert case.shape == (64, 64, 64) and case.spacing_mm == pytest.approx((0.4, 0.4, 0.4))
    image = nibabel.load(root / "train" / "fixed_images" / "case000001.nii.gz").get_fdata()
    inner = case.fixed[0, 0, 16:48, 13:51, 17:47].numpy()
    np.testing.assert_allclose(inner, image / 255, atol=1e-6)
    assert case.fixed.sum() == pytest.approx(inner.sum())
    np.testing.assert_allclose(case.affine @ [31.5, 31.5, 31.5, 1], [0, 0, 0, 1], atol=1e-9)


def test_landmarks_are_centres_of_the_other_masks(root):
    dataset = ProstateMRUS(root)
    case = dataset.case("case000000", labels=False)
    masks = nibabel.load(root / "train" / "moving_labels" / "case000000.nii.gz").get_fdata()
    assert masks.shape[3] == 3
    expected = np.argwhere(masks[..., 1] > 0).mean(axis=0) + (12, 12, 14)
    np.testing.assert_allclose(case.moving_landmarks[0].numpy(), expected, atol=1e-4)
    assert len(case.fixed_landmarks) == 2
    assert dataset.case("case000002").fixed_landmarks is None  # the gland only, a 3-D file


class TestErrors:
    @pytest.fixture
    def copy(self, root, tmp_path):
        return shutil.copytree(root, tmp_path / "prostate_mr_us")

    def change(self, root, scan, change):
        path = root / "train" / f"{scan}_labels" / "case000000.nii.gz"
        image = nibabel.load(path)
        write_volume(path, change(np.asarray(image.dataobj)), image.affine, overwrite=True)

    def test_numbers_of_masks(self, copy):
        self.change(copy, "fixed", lambda masks: masks[..., :2])
        with pytest.raises(BadInputError, match="moving_labels.* as many masks as .*, 2, found 3"):
            ProstateMRUS(copy).case("case000000")

    def test_masks_of_another_scan(self, copy):
        self.change(copy, "moving", lambda masks: masks[1:])
        with pytest.raises(
            BadInputError, match=r"moving_labels.* shape of its image, \(40, 40, 36"
        ):
            ProstateMRUS(copy).case("case000000")

    def test_an_empty_mask(self, copy):
        self.change(copy, "moving", lambda masks: masks * np.array([1, 0, 1], dtype=np.uint8))
        with pytest.raises(BadInputError, match="moving_labels.*found an empty one"):
            ProstateMRUS(copy).case("case000000")

    def test_no_masks(self, copy):
        self.change(copy, "moving", lambda masks: 2 * masks)
        with pytest.raises(BadInputError, match="masks of 0 and 1, found the value 2"):
            ProstateMRUS(copy).case("case000000")

    def test_too_large(self, copy):
        path = copy / "train" / "moving_images" / "case000000.nii.gz"
        write_volume(path, np.ones((70, 40, 36), np.uint8), np.eye(4), overwrite=True)
        with pytest.raises(BadInputError, match=r"at most \(64, 64, 64\) voxels, found \(70"):
            ProstateMRUS(copy).case("case000000")

    def test_five_axes_are_no_masks(self, tmp_path):
        path = tmp_path / "field.nii.gz"
        write_volume(path, np.ones((4, 4, 4, 1, 3), np.uint8), np.eye(4))
        with pytest.raises(BadInputError, match="masks in a 3-D or 4-D file, found an array"):
            read_masks(path)


@pytest.mark.data
def test_real_pairs():
    if not available("prostate_mr_us"):
        pytest.skip("set REGNET_DATA to the folder that holds prostate_mr_us/")
    dataset = ProstateMRUS()
    assert len(dataset.ids("train")) == 25 and len(dataset.ids("test")) == 2
    cases = [dataset.case(case_id) for case_id in (*dataset.ids("train"), *dataset.ids("test"))]
    assert {case.shape for case in cases} == {(64, 64, 64)}
    overlaps = [float(dice(case.moving_labels, case.fixed_labels, (1,))[0]) for case in cases]
    errors = [
        float(np.linalg.norm(a - b)) * 0.4
        for case in cases
        if case.fixed_landmarks is not None
        for a, b in zip(case.moving_landmarks.numpy(), case.fixed_landmarks.numpy(), strict=True)
    ]
    assert len(errors) == 37
    assert np.mean(overlaps) == pytest.approx(0.6139, abs=5e-5)
    assert np.mean(errors) == pytest.approx(2.906, abs=5e-4)
