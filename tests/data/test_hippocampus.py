"""Hippocampus crops: pairs by rule, padded to one shape."""

import shutil

import nibabel
import numpy as np
import pytest
import torch

from regnet_lib.data import (
    BadInputError,
    Hippocampus,
    available,
    write_fake_hippocampus,
    write_volume,
)
from regnet_lib.data.msd_hippocampus import PACKED, SHAPE
from regnet_lib.data.splits import fingerprint
from regnet_lib.metrics import dice

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return write_fake_hippocampus(tmp_path_factory.mktemp("data") / "msd_hippocampus")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "msd_hippocampus"
    return write_fake_hippocampus(root, packed=True)


@pytest.fixture
def own_copy(official, tmp_path):
    return shutil.copytree(official, tmp_path / "msd_hippocampus")


def rewrite(path, change):
    image = nibabel.load(path)
    return write_volume(path, change(np.asarray(image.dataobj)), image.affine, overwrite=True)


def first_case(root):
    dataset = Hippocampus(root)
    return dataset.case("hippocampus_001")


class TestPairs:
    def test_a_ring_within_each_split(self, official):
        dataset = Hippocampus(official)
        assert [len(dataset.ids(split)) for split in SPLITS] == [7, 1, 2]
        for split in ("train", "test"):
            names = dataset.ids(split)
            pairs = [dataset.pair(name) for name in names]
            assert [moving for moving, _ in pairs] == list(names)
            assert sorted(fixed for _, fixed in pairs) == list(names)
            assert all(moving != fixed for moving, fixed in pairs)

    def test_both_layouts_hold_the_same_pairs(self, official, packed):
        one, other = Hippocampus(official), Hippocampus(packed)
        for split in SPLITS:
            assert one.ids(split) == other.ids(split)
            assert [one.pair(name) for name in one.ids(split)] == [
                other.pair(name) for name in other.ids(split)
            ]

    def test_unknown_subject(self, official):
        with pytest.raises(BadInputError, match="one of 10 subjects, got 'hippocampus_002'"):
            Hippocampus(official).case("hippocampus_002")


class TestVolumes:
    def test_padded_around_the_centre(self, official):
        path = official / "labelsTr" / "hippocampus_001.nii.gz"
        labels = np.asarray(nibabel.load(path).dataobj)
        case = first_case(official)
        assert case.shape == SHAPE and labels.shape == (33, 48, 34)
        found = case.moving_labels[0, 0].numpy()
        np.testing.assert_array_equal(found[7:40, 8:56, 7:41], labels)
        assert np.count_nonzero(found) == np.count_nonzero(labels)
        np.testing.assert_array_equal(case.affine[:3, :3], np.eye(3))
        np.testing.assert_array_equal(case.affine[:3, 3], [-23.5, -31.5, -23.5])

    def test_intensities_end_at_their_999th_thousandth(self, official):
        path = official / "imagesTr" / "hippocampus_001.nii.gz"
        array = nibabel.load(path).get_fdata()
        found = first_case(official).moving[0, 0].numpy()[7:40, 8:56, 7:41]
        top = np.percentile(array, 99.9)
        np.testing.assert_allclose(found, np.minimum(array / top, 1), atol=1e-6)
        assert found.max() == 1 and found.dtype == np.float32

    def test_packed_bytes(self, packed):
        with np.load(packed / PACKED) as content:
            expected = content["vol"][0] / 255
        np.testing.assert_allclose(first_case(packed).moving[0, 0].numpy(), expected, atol=1e-6)

    def test_another_orientation_is_turned(self, own_copy):
        expected = first_case(own_copy)
        for folder in ("imagesTr", "labelsTr"):
            path = own_copy / folder / "hippocampus_001.nii.gz"
            image = nibabel.load(path)
            turned = image.as_reoriented(np.array([[1, -1], [0, 1], [2, 1]]))
            data = np.asarray(turned.dataobj)
            assert data.shape == (48, 33, 34)
            write_volume(path, data, turned.affine, overwrite=True)
        found = first_case(own_copy)
        assert torch.equal(found.moving, expected.moving)
        assert torch.equal(found.moving_labels, expected.moving_labels)


class TestErrors:
    def test_more_than_a_crop(self, own_copy):
        path = own_copy / "imagesTr" / "hippocampus_001.nii.gz"
        rewrite(path, lambda array: np.pad(array, 20))
        with pytest.raises(BadInputError, match=r"hippocampus_001.*at most \(48, 64, 48\).*leave"):
            first_case(own_copy)

    @pytest.mark.parametrize("change", [lambda array: 0 * array, lambda array: array - 5])
    def test_intensities(self, own_copy, change):
        rewrite(own_copy / "imagesTr" / "hippocampus_001.nii.gz", change)
        with pytest.raises(BadInputError, match="hippocampus_001.*intensities from 0 up"):
            first_case(own_copy)

    def test_labels(self, own_copy):
        rewrite(own_copy / "labelsTr" / "hippocampus_001.nii.gz", lambda array: array + 1)
        with pytest.raises(BadInputError, match="hippocampus_001.*labels up to 2, found 3"):
            first_case(own_copy)

    def test_labels_of_another_crop_that_pads_to_the_same_shape(self, own_copy):
        path = own_copy / "labelsTr" / "hippocampus_001.nii.gz"
        rewrite(path, lambda array: array[1:])
        with pytest.raises(BadInputError, match="hippocampus_001.*expected the shape of its image"):
            first_case(own_copy)

    @pytest.mark.parametrize(
        "content",
        [{"vol": np.zeros(3)}, {"vol": np.array([None]), "seg": np.zeros(1), "ids": np.zeros(1)}],
        ids=["missing", "objects"],
    )
    def test_foreign_package(self, tmp_path, content):
        np.savez(tmp_path / PACKED, **content)
        with pytest.raises(BadInputError, match=r"48x64x48\.npz: .*vol, seg and ids"):
            Hippocampus(tmp_path)

    def test_package_of_another_shape(self, tmp_path):
        volumes = np.zeros((2, 48, 64, 40), dtype=np.uint8)
        np.savez(tmp_path / PACKED, vol=volumes, seg=volumes, ids=np.array(["a", "b"]))
        with pytest.raises(BadInputError, match=r"shape \(2, 48, 64, 48\) in bytes, found uint8"):
            Hippocampus(tmp_path)

    def test_package_is_no_archive(self, tmp_path):
        (tmp_path / PACKED).write_text("<!DOCTYPE html>")
        with pytest.raises(BadInputError, match=r"48x64x48\.npz: .*damaged or foreign"):
            Hippocampus(tmp_path)


@pytest.mark.data
class TestReal:
    @pytest.fixture
    def dataset(self):
        if not available("msd_hippocampus"):
            pytest.skip("set REGNET_DATA to the folder that holds msd_hippocampus/")
        dataset = Hippocampus()
        if sum(len(dataset.ids(split)) for split in SPLITS) != 60:
            pytest.skip("these numbers are those of the package of 60 crops")
        return dataset

    def test_the_lists(self, dataset):
        prints = {split: fingerprint(dataset.ids(split)) for split in SPLITS}
        assert prints == {
            "train": "3f043b1fee31",
            "validation": "1769bb3368e2",
            "test": "d70f4746252c",
        }

    def test_overlap_before_registration(self, dataset):
        cases = [dataset.case(case_id) for case_id in dataset.ids("test")]
        values = np.array([dice(c.moving_labels, c.fixed_labels, (1, 2)) for c in cases])
        assert values.shape == (12, 2)
        np.testing.assert_allclose(values.mean(0), [0.6638, 0.4867], atol=5e-5)
