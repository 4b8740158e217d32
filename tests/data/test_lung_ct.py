"""Learn2Reg Lung CT: two layouts, the authors' slices, masks without scans, landmarks."""

import csv
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from regnet_lib.data import BadInputError, LungCT, landmarks_outside, write_fake_lung_ct
from regnet_lib.data.lungs import fake_lungs
from regnet_lib.metrics import dice, tre_mm

SHAPE = (24, 28, 150)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {
        layout: write_fake_lung_ct(folder / layout, layout, shape=SHAPE)
        for layout in ("2021", "2020")
    }


def test_the_authors_slices(roots):
    case = LungCT(roots["2021"]).case("LungCT_0001")
    image = nibabel.load(roots["2021"] / "imagesTr" / "LungCT_0001_0000.nii.gz")
    disk = image.get_fdata()[:, :, 44:140]
    scaled = (disk - disk.min()) / (disk.max() - disk.min())
    np.testing.assert_allclose(case.fixed[0, 0].numpy(), scaled, atol=1e-5)
    np.testing.assert_allclose(case.affine @ [0, 0, 0, 1], image.affine @ [0, 0, 44, 1])
    assert case.shape == (24, 28, 96) and case.spacing_mm == (1.75, 1.25, 1.75)
    assert LungCT(roots["2021"], crop=None).case("LungCT_0001").shape == SHAPE


def test_both_layouts_hold_the_same(roots):
    new, old = (LungCT(roots[layout]).case("LungCT_0002") for layout in ("2021", "2020"))
    assert torch.equal(new.moving, old.moving) and torch.equal(new.fixed_labels, old.fixed_labels)
    assert new.fixed_landmarks is not None and old.fixed_landmarks is None


def test_splits(roots):
    dataset = LungCT(roots["2021"])
    assert len(dataset.ids("train")) == 20 and len(dataset.ids("test")) == 10
    assert dataset.ids("test")[0] == "LungCT_0021"
    dataset = LungCT(roots["2021"], split="learn2reg")
    assert dataset.ids("validation") == ("LungCT_0001", "LungCT_0002", "LungCT_0003")
    assert not set(dataset.ids("train")) & set(dataset.ids("validation"))
    with pytest.raises(ValueError, match="expected a split of 'train', got 'test'"):
        LungCT(roots["2020"]).ids("test")


def test_landmarks_follow_the_crop(roots):
    """With the phantom's true displacement the error is what the rounded lists leave."""
    truth = fake_lungs(SHAPE, seed=0).phantom.displacement
    for crop, field in ((None, truth), ("lganetpp", truth[..., 44:140])):
        case = LungCT(roots["2021"], crop=crop).case("LungCT_0001")
        outside = (case.fixed_landmarks < 0).any(1) | (
            case.fixed_landmarks[:, 2] > field.shape[4] - 1
        )
        assert landmarks_outside(case) == int(outside.sum())
        assert (crop is None) == (int(outside.sum()) == 0)
        moving, fixed = case.moving_landmarks[~outside], case.fixed_landmarks[~outside]
        assert len(fixed) > 10
        assert tre_mm(moving, fixed, field, case.spacing_mm).max() < 0.02


def test_direction(roots):
    exhaled, inhaled = (
        LungCT(roots["2021"], fixed=breath).case("LungCT_0001") for breath in ("exhale", "inhale")
    )
    assert torch.equal(exhaled.fixed, inhaled.moving)
    assert torch.equal(exhaled.fixed_landmarks, inhaled.moving_landmarks)
    assert not torch.equal(exhaled.fixed_labels, inhaled.fixed_labels)


def test_masks_without_scans(tmp_path):
    root = write_fake_lung_ct(tmp_path / "lung_ct", shape=SHAPE, scans=False)
    with pytest.raises(BadInputError, match="lung_ct: expected .*imagesTr.*does not exist"):
        LungCT(root)
    case = LungCT(root, images="masks").case("LungCT_0001")
    assert torch.equal(case.moving, case.moving_labels.float())


def test_keypoints_or_landmarks(roots, tmp_path):
    root = shutil.copytree(roots["2021"], tmp_path / "lung_ct")
    shutil.rmtree(root / "landmarksTr")
    assert LungCT(root).case("LungCT_0001").fixed_landmarks is None
    points = LungCT(root, points="keypoints").case("LungCT_0001").fixed_landmarks
    assert torch.equal(points, LungCT(roots["2021"]).case("LungCT_0001").fixed_landmarks)


class TestErrors:
    def test_too_few_slices(self, tmp_path):
        root = write_fake_lung_ct(tmp_path, shape=(16, 16, 120))
        with pytest.raises(BadInputError, match="at least 140 slices, found 120"):
            LungCT(root).case("LungCT_0001")

    def test_one_list_is_missing(self, roots, tmp_path):
        root = shutil.copytree(roots["2021"], tmp_path / "lung_ct")
        (root / "landmarksTr" / "LungCT_0001_0001.csv").unlink()
        with pytest.raises(BadInputError, match="LungCT_0001_0001.csv: the file does not exist"):
            LungCT(root).case("LungCT_0001")

    def test_points_of_another_grid(self, roots, tmp_path):
        root = shutil.copytree(roots["2021"], tmp_path / "lung_ct")
        with (root / "landmarksTr" / "LungCT_0001_0000.csv").open("a", newline="") as file:
            csv.writer(file).writerow((1, 500, 2))
        with (root / "landmarksTr" / "LungCT_0001_0001.csv").open("a", newline="") as file:
            csv.writer(file).writerow((1, 2, 2))
        with pytest.raises(BadInputError, match=r"0000.csv: expected voxels .*\[1.0, 500.0, 2.0\]"):
            LungCT(root).case("LungCT_0001")

    @pytest.mark.usefixtures("unchecked")
    def test_options(self, roots):
        for options, text in (
            ({"crop": "z"}, "crop='lganetpp' or None, got 'z'"),
            ({"images": "ct"}, "images='scans' or 'masks'"),
            ({"fixed": "0001"}, "fixed='exhale' or 'inhale'"),
        ):
            with pytest.raises(ValueError, match=text):
                LungCT(roots["2021"], **options)


# Dice of the masks and mean distance of the key points in mm before registration, cases 1 to 20.
KNOWN = (
    *((0.709, 20.2), (0.838, 16.5), (0.839, 9.6), (0.904, 6.0), (0.873, 14.2), (0.845, 13.8)),
    *((0.918, 8.1), (0.846, 14.0), (0.865, 16.7), (0.881, 7.6), (0.887, 8.4), (0.864, 11.6)),
    *((0.883, 7.6), (0.876, 10.1), (0.831, 9.6), (0.935, 3.9), (0.726, 22.2), (0.929, 4.1)),
    *((0.735, 18.6), (0.860, 7.0)),
)
MANUAL_MM = {1: (20.18, 81), 2: (15.60, 100), 3: (8.14, 100)}


def identity_errors(case):
    difference = (case.fixed_landmarks - case.moving_landmarks) * torch.tensor(case.spacing_mm)
    return difference.norm(dim=1)


@pytest.mark.data
class TestReal:
    @pytest.fixture(scope="class")
    def root(self):
        """The part of the set that is public without registration: masks and points."""
        root = Path(os.environ.get("REGNET_DATA", "")) / "l2r_lungct_partial"
        if not os.environ.get("REGNET_DATA") or not root.exists():
            pytest.skip("set REGNET_DATA to the folder that holds l2r_lungct_partial/")
        return root

    @pytest.mark.parametrize("number", [1, 4, 17])
    def test_before_registration(self, root, number):
        overlap, distance = KNOWN[number - 1]
        dataset = LungCT(root, images="masks", crop=None, points="keypoints")
        case = dataset.case(f"LungCT_{number:04d}")
        assert case.shape == (192, 192, 208)
        values = dice(case.moving_labels, case.fixed_labels, (1,))
        assert values[0] == pytest.approx(overlap, abs=6e-4)
        assert float(identity_errors(case).mean()) == pytest.approx(distance, abs=0.06)

    def test_manual_landmarks_and_what_the_slices_keep(self, root):
        for number, (distance, count) in MANUAL_MM.items():
            case_id = f"LungCT_{number:04d}"
            case = LungCT(root, images="masks").case(case_id)
            assert case.shape == (192, 192, 96)
            errors = identity_errors(case)
            assert len(errors) == count
            assert float(errors.mean()) == pytest.approx(distance, abs=0.005)
