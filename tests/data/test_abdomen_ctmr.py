"""Abdomen CT-MR: eight pairs, and random pairs of the unpaired scans."""

import nibabel
import numpy as np
import pytest
import torch

from regnet_lib.data import AbdomenCTMR, BadInputError, write_fake_abdomen_ctmr, write_volume
from regnet_lib.data.splits import fingerprint

SHAPE = (16, 18, 170)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fake_abdomen_ctmr(
        tmp_path_factory.mktemp("data") / "abdomen", shape=SHAPE, unpaired=3
    )


def names_only(folder, ct=range(1001, 1051), mr=range(1051, 1091)):
    (folder / "imagesTr").mkdir()
    for number in (*range(1, 9), *ct):
        (folder / "imagesTr" / f"AbdomenMRCT_{number:04d}_0001.nii.gz").touch()
    for number in (*range(1, 9), *mr):
        (folder / "imagesTr" / f"AbdomenMRCT_{number:04d}_0000.nii.gz").touch()
    return folder


def test_ct_moves_to_mr(root):
    case = AbdomenCTMR(root).case("AbdomenMRCT_0003")
    ct, mr = (
        nibabel.load(root / "imagesTr" / f"AbdomenMRCT_0003_{scan}.nii.gz")
        for scan in ("0001", "0000")
    )
    assert case.shape == (16, 18, 144) and case.label_ids == (1, 2, 3, 4)
    clipped = np.clip(ct.get_fdata()[:, :, 24:168], -800, 800)
    scaled = (clipped - clipped.min()) / (clipped.max() - clipped.min())
    np.testing.assert_allclose(case.moving[0, 0].numpy(), scaled, atol=1e-6)
    values = mr.get_fdata()[:, :, 24:168]
    standardised = (values - values.mean()) / values.std()  # what the authors do first
    scaled = (standardised - standardised.min()) / np.ptp(standardised)
    np.testing.assert_allclose(case.fixed[0, 0].numpy(), scaled, atol=1e-6)
    np.testing.assert_allclose(case.affine @ [0, 0, 0, 1], mr.affine @ [0, 0, 24, 1])
    assert AbdomenCTMR(root, crop=None).case("AbdomenMRCT_0003").shape == SHAPE


def test_ninety_training_pairs(tmp_path):
    dataset = AbdomenCTMR(names_only(tmp_path))
    train = dataset.ids("train")
    assert len(train) == len(set(train)) == 90
    assert train[:2] == ("AbdomenMRCT_0001", "AbdomenMRCT_0002")
    assert dataset.ids("test") == tuple(f"AbdomenMRCT_{number:04d}" for number in range(3, 9))
    used = {scan for case_id in train for scan in dataset.pair(case_id)}
    assert not used & {
        f"AbdomenMRCT_000{number}_000{scan}" for number in range(3, 9) for scan in "01"
    }
    assert fingerprint(train) == "df1fa959a87b"
    assert AbdomenCTMR(tmp_path, seed=1).ids("train") != train
    assert len(AbdomenCTMR(tmp_path, training_pairs=10).ids("train")) == 10


def test_unpaired_scans_share_a_grid_but_no_world(root):
    dataset = AbdomenCTMR(root)
    unpaired = dataset.ids("train")[2:]
    assert len(unpaired) == 3 * 3
    ct, mr = dataset.pair("AbdomenMRCT_1001-1052")
    assert (ct, mr) == ("AbdomenMRCT_1001_0001", "AbdomenMRCT_1052_0000")
    case = dataset.case("AbdomenMRCT_1001-1052")
    paired = dataset.case("AbdomenMRCT_0001")
    assert case.shape == paired.shape and case.spacing_mm == (2, 2, 2)
    assert torch.equal(case.moving, dataset.case("AbdomenMRCT_1001-1051").moving)


def test_without_unpaired_scans(tmp_path):
    names_only(tmp_path, ct=(), mr=())
    assert len(AbdomenCTMR(tmp_path).ids("train")) == 2


class TestErrors:
    def test_too_few_slices(self, tmp_path):
        root = write_fake_abdomen_ctmr(tmp_path, shape=(16, 16, 100), pairs=1, unpaired=0)
        with pytest.raises(BadInputError, match="at least 168 slices, found 100"):
            AbdomenCTMR(root).case("AbdomenMRCT_0001")

    def test_another_kind_of_labels(self, tmp_path):
        root = write_fake_abdomen_ctmr(tmp_path, shape=SHAPE, pairs=1, unpaired=0)
        path = root / "labelsTr" / "AbdomenMRCT_0001_0000.nii.gz"
        labels = np.full(SHAPE, 13, dtype=np.uint8)
        write_volume(path, labels, nibabel.load(path).affine, overwrite=True)
        with pytest.raises(BadInputError, match="abdomen_ctmr labels up to 4, found 13"):
            AbdomenCTMR(root).case("AbdomenMRCT_0001")

    def test_a_scan_of_one_value(self, tmp_path):
        root = write_fake_abdomen_ctmr(tmp_path, shape=SHAPE, pairs=1, unpaired=0)
        path = root / "imagesTr" / "AbdomenMRCT_0001_0001.nii.gz"
        scan = np.full(SHAPE, 2000, dtype=np.int16)  # all beyond the window
        write_volume(path, scan, nibabel.load(path).affine, overwrite=True)
        with pytest.raises(
            BadInputError, match="0001_0001.* more than one intensity, found only 800"
        ):
            AbdomenCTMR(root).case("AbdomenMRCT_0001")

    @pytest.mark.usefixtures("unchecked")
    def test_options(self, root):
        with pytest.raises(ValueError, match="crop='lganetpp' or None, got 'z'"):
            AbdomenCTMR(root, crop="z")
        with pytest.raises(ValueError, match="training_pairs of at least 2, got 1"):
            AbdomenCTMR(root, training_pairs=1)
