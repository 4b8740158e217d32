"""OASIS in both published layouts, and the two samples."""

import shutil

import nibabel
import numpy as np
import pytest
import torch

from regnet_lib.data import (
    OASIS,
    BadInputError,
    OASISSamples,
    available,
    write_fake_oasis,
    write_fake_oasis_samples,
    write_volume,
)
from regnet_lib.metrics import dice

SHAPE = (16, 20, 18)


@pytest.fixture(scope="module")
def learn2reg(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "oasis"
    return write_fake_oasis(root, "learn2reg", shape=(32, 40, 36), subjects=3)


@pytest.fixture(scope="module")
def neurite(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "oasis"
    return write_fake_oasis(root, "neurite", shape=(32, 36, 40), subjects=3)


class TestLearn2Reg:
    def test_everyone_moves_to_the_last(self, learn2reg):
        dataset = OASIS(learn2reg)
        assert dataset.layout == "learn2reg"
        assert dataset.ids("test") == ("OASIS_0001", "OASIS_0002", "OASIS_0003")
        case = dataset.case("OASIS_0001")
        assert case.shape == SHAPE and case.spacing_mm == (2, 2, 2)
        assert case.label_ids == tuple(range(1, 36))
        assert torch.equal(case.fixed, dataset.case("OASIS_0414").moving)

    def test_413_subjects(self, tmp_path):
        for number in range(1, 415):
            path = tmp_path / "imagesTr" / f"OASIS_{number:04d}_0000.nii.gz"
            path.parent.mkdir(exist_ok=True)
            path.touch()
        ids = OASIS(tmp_path).ids("test")
        assert len(ids) == 413 and ids[0] == "OASIS_0001" and ids[-1] == "OASIS_0413"

    def test_arrays_as_on_disk(self, learn2reg):
        case = OASIS(learn2reg, spacing_mm=1).case("OASIS_0002")
        image = nibabel.load(learn2reg / "imagesTr" / "OASIS_0002_0000.nii.gz")
        np.testing.assert_allclose(case.moving[0, 0].numpy(), image.get_fdata(), atol=1e-6)
        np.testing.assert_array_equal(case.affine, image.affine)

    def test_other_files_are_no_subjects(self, learn2reg, tmp_path):
        root = shutil.copytree(learn2reg, tmp_path / "oasis")
        (root / "imagesTr" / "OASIS_0001_0001.nii.gz").touch()
        (root / "imagesTr" / "._OASIS_0009_0000.nii.gz").touch()
        (root / "OASIS_dataset.json").touch()
        assert OASIS(root).ids("test") == OASIS(learn2reg).ids("test")

    def test_no_tissues(self, learn2reg):
        with pytest.raises(BadInputError, match="neurite layout for segmentation='seg4', found"):
            OASIS(learn2reg, segmentation="seg4")


class TestNeurite:
    def test_everyone_moves_to_the_last(self, neurite):
        dataset = OASIS(neurite)
        assert dataset.layout == "neurite"
        assert dataset.ids("test") == tuple(f"OASIS_OAS1_{n:04d}_MR1" for n in (1, 2, 3))
        case = dataset.case("OASIS_OAS1_0001_MR1")
        assert case.shape == SHAPE and nibabel.aff2axcodes(case.affine) == ("L", "P", "I")
        assert torch.equal(case.fixed, dataset.case("OASIS_OAS1_0457_MR1").moving)

    def test_four_tissues(self, neurite):
        case = OASIS(neurite, segmentation="seg4").case("OASIS_OAS1_0001_MR1")
        assert case.label_ids == (1, 2, 3, 4)
        assert case.fixed_labels.unique().tolist() == [0, 1, 2, 3, 4]

    def test_structures_are_not_tissues(self, neurite, tmp_path):
        root = shutil.copytree(neurite, tmp_path / "oasis")
        folder = root / "OASIS_OAS1_0001_MR1"
        shutil.copy(folder / "aligned_seg35.nii.gz", folder / "aligned_seg4.nii.gz")
        with pytest.raises(BadInputError, match="aligned_seg4.*labels up to 4, found 28"):
            OASIS(root, segmentation="seg4").case("OASIS_OAS1_0001_MR1")


class TestErrors:
    @pytest.mark.usefixtures("unchecked")
    def test_options(self, neurite):
        with pytest.raises(ValueError, match="spacing_mm=1 or 2, got 3"):
            OASIS(neurite, spacing_mm=3)
        with pytest.raises(ValueError, match="'seg35' or 'seg4', got 'seg24'"):
            OASIS(neurite, segmentation="seg24")
        with pytest.raises(ValueError, match="spacing_mm=1, 2 or 4, got 3"):
            OASISSamples(neurite, spacing_mm=3)

    def test_it_is_an_external_test(self, neurite):
        with pytest.raises(ValueError, match="oasis: expected a split of 'test', got 'train'"):
            OASIS(neurite).ids("train")

    def test_neither_layout(self, tmp_path):
        with pytest.raises(
            BadInputError, match=r"oasis: expected .*OASIS_0414_0000.* or .*OASIS_OAS1_0457_MR1"
        ):
            OASIS(tmp_path)

    def test_labels_of_another_shape(self, learn2reg, tmp_path):
        root = shutil.copytree(learn2reg, tmp_path / "oasis")
        path = root / "labelsTr" / "OASIS_0001_0000.nii.gz"
        image = nibabel.load(path)
        write_volume(path, np.asarray(image.dataobj)[:-2], image.affine, overwrite=True)
        with pytest.raises(BadInputError, match=r"labelsTr.OASIS_0001.*shape of the images"):
            OASIS(root).case("OASIS_0001")


class TestSamples:
    def test_one_case_with_freesurfer_numbers(self, tmp_path):
        dataset = OASISSamples(write_fake_oasis_samples(tmp_path, shape=(32, 36, 40)))
        assert dataset.ids("test") == ("sub05",) and len(dataset.label_ids) == 30
        case = dataset.case("sub05")
        assert case.shape == (32, 40, 36)
        assert case.fixed_labels.unique().tolist() == [0, 2, 3, 4, 12, 16, 43, 51]

    def test_both_ways(self, tmp_path):
        dataset = OASISSamples(write_fake_oasis_samples(tmp_path), both_ways=True)
        assert dataset.ids("test") == ("sub05", "sub06")
        one, other = map(dataset.case, dataset.ids("test"))
        assert torch.equal(one.moving, other.fixed) and torch.equal(one.fixed, other.moving)
        assert torch.equal(one.moving_labels, other.fixed_labels)
        assert not torch.equal(one.moving, one.fixed)

    def test_standing_like_lpba40(self, tmp_path):
        root = write_fake_oasis_samples(tmp_path)
        one, other = (OASISSamples(root, like_lpba40=turn).case("sub05") for turn in (False, True))
        assert nibabel.aff2axcodes(other.affine) == ("R", "A", "S")
        assert torch.equal(other.moving, one.moving.flip(2, 3, 4))
        assert torch.equal(other.fixed_labels, one.fixed_labels.flip(2, 3, 4))

    def test_a_quarter_of_the_resolution(self, tmp_path):
        root = write_fake_oasis_samples(tmp_path, shape=(32, 36, 40))
        half, quarter = (OASISSamples(root, spacing_mm=size).case("sub05") for size in (2, 4))
        assert half.shape == (16, 20, 18) and quarter.shape == (8, 10, 9)
        assert quarter.spacing_mm == (4, 4, 4)
        means = torch.nn.functional.avg_pool3d(half.fixed, 2)
        torch.testing.assert_close(quarter.fixed, means, rtol=0, atol=1e-6)
        assert torch.equal(quarter.fixed_labels, half.fixed_labels[..., ::2, ::2, ::2])
        assert OASISSamples(tmp_path, spacing_mm=2).case("sub05").shape == SHAPE


@pytest.mark.data
class TestReal:
    @pytest.mark.parametrize("spacing_mm, expected", [(1, 0.5224), (2, 0.5238)])
    def test_overlap_of_the_samples(self, spacing_mm, expected):
        if not available("oasis_samples"):
            pytest.skip("set REGNET_DATA to the folder that holds oasis_samples/")
        case = OASISSamples(spacing_mm=spacing_mm).case("sub05")
        assert case.shape == tuple(side // spacing_mm for side in (160, 224, 192))
        values = dice(case.moving_labels, case.fixed_labels, case.label_ids)
        assert values.mean() == pytest.approx(expected, abs=5e-5)

    def test_all_of_oasis(self):
        if not available("oasis"):
            pytest.skip("set REGNET_DATA to the folder that holds oasis/")
        dataset = OASIS()
        assert len(dataset.ids("test")) == 413
        case = dataset.case(dataset.ids("test")[0])
        assert case.shape == (80, 112, 96)
