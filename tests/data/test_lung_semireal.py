"""Semi-real lungs: the motion is that of the key points, and what a case promises it holds."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from regnet_lib.data import BadInputError, LungSemireal, available, lung_semireal, open_dataset
from regnet_lib.data.lung_ct import TRAIN_IDS, LungCT
from regnet_lib.data.lung_semireal import (
    MOTION,
    TEST,
    VALIDATION,
    _tree,
    smooth_motion,
    write_fake_lung_semireal,
)
from regnet_lib.metrics import dice, tre_mm
from regnet_lib.spatial import folding_fraction, jacobian_determinant, warp, warp_points

SHAPE = (48, 72, 96)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fake_lung_semireal(tmp_path_factory.mktemp("data"), people=2)


@pytest.fixture(scope="module")
def dataset(root):
    return LungSemireal(root, spacing_mm=4, trees=2, landmarks=50)


@pytest.fixture(scope="module", params=["baseline", "followup", "tree1"])
def case(request, dataset):
    return dataset.case(f"LungCT_0002-{request.param}")


class TestCase:
    def test_everything_lies_on_one_grid(self, case):
        assert case.shape == SHAPE and case.spacing_mm == (4.0, 4.0, 4.0)
        assert case.displacement.shape == (1, 3, *SHAPE)
        for image, labels in (
            (case.moving, case.moving_labels),
            (case.fixed, case.fixed_labels),
        ):
            assert image.shape == labels.shape == (1, 1, *SHAPE)
            assert image.dtype == torch.float32 and 0 <= image.min() and image.max() <= 1
            assert set(labels.unique().tolist()) == {0, 1}
            inside, outside = image[labels > 0].mean(), image[labels == 0].mean()
            assert inside < outside - 0.2  # air is dark

    def test_the_true_displacement_is_the_truth(self, case):
        errors = tre_mm(
            case.moving_landmarks, case.fixed_landmarks, case.displacement, case.spacing_mm
        )
        assert len(errors) == 50 and errors.max() < 1e-3
        voxels = case.fixed_landmarks.round().long()
        assert (case.fixed_labels[0, 0][tuple(voxels.T)] > 0).all()
        aligned = (warp(case.moving, case.displacement, padding="border") - case.fixed).square()
        before = (case.moving - case.fixed).square()
        assert aligned.mean() < 0.2 * before.mean()
        assert folding_fraction(case.displacement, "digital").item() == 0

    def test_denser_where_the_lung_is_smaller(self, case):
        """The ratio of intensities is the change of volume, away from the edge of the lung."""
        warped = warp(case.moving, case.displacement, padding="border")
        ratio = jacobian_determinant(case.displacement)
        deep = torch.nn.functional.avg_pool3d(case.fixed_labels.float(), 3, 1, 1) > 0.999
        deep &= case.fixed < 0.9
        assert deep.sum() > 50
        torch.testing.assert_close(
            case.fixed[deep].mean(), (ratio * warped)[deep].mean(), rtol=0.05, atol=0
        )
        assert abs(ratio[deep].mean() - 1) > 0.02  # so that the factor is seen at all


def test_equal_names_give_equal_cases(root, dataset):
    again = LungSemireal(root, spacing_mm=4, trees=2, landmarks=50)
    for name in ("LungCT_0001-tree1", "LungCT_0001-followup"):
        one, other = dataset.case(name), again.case(name)
        assert torch.equal(one.moving, other.moving) and torch.equal(one.fixed, other.fixed)
        assert torch.equal(one.fixed_landmarks, other.fixed_landmarks)


def test_trees_differ_between_numbers_and_people(dataset):
    images = [
        dataset.case(f"LungCT_000{name}").moving for name in ("1-tree1", "1-tree2", "2-tree1")
    ]
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


def test_a_tree_is_one_piece_with_its_thickest_branch_at_the_root(dataset):
    motion = dataset._motion("LungCT_0001")
    image = _tree(motion, np.random.default_rng(0), 4.0)
    lung = motion.inhaled
    vessels = (image > 0.3) & lung
    pieces, _ = label(vessels, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces[vessels])[1:]
    assert sizes.max() > 0.5 * sizes.sum()
    assert image[lung].mean() < 0.6 < image[~lung].mean()


def test_no_motion_in_two_splits(dataset):
    people = {
        split: {name.partition("-")[0] for name in dataset.ids(split)}
        for split in ("train", "validation", "test")
    }
    assert people["test"] == set(TEST) and people["validation"] == set(VALIDATION)
    assert set.union(*people.values()) == set(TRAIN_IDS)
    assert sum(map(len, people.values())) == len(TRAIN_IDS)
    anatomies = {name.partition("-")[2] for name in dataset.ids("train")}
    assert anatomies == {"followup", "tree1", "tree2"}
    assert {name.partition("-")[2] for name in dataset.ids("test")} == {"baseline", "tree1"}


def test_the_grid_does_not_change_the_motion(root, dataset):
    """In millimetres of the world, the finer field is the coarser one."""
    coarse = LungSemireal(root, spacing_mm=6).case("LungCT_0002-tree1")
    fine = dataset.case("LungCT_0002-tree1")
    assert coarse.shape == (32, 48, 64)
    points = coarse.fixed_landmarks
    matrix = np.linalg.inv(fine.affine) @ coarse.affine
    there = points @ torch.from_numpy(matrix[:3, :3].T).float() + torch.from_numpy(matrix[:3, 3])
    one = 6 * (warp_points(points, coarse.displacement) - points)
    other = 4 * (warp_points(there.float(), fine.displacement) - there)
    assert (one - other).norm(dim=1).max() < 0.5 < one.norm(dim=1).max()


class TestVariants:
    @pytest.fixture(scope="class")
    def varied(self, root):
        """Two people alone have files, so that a variant borrows from the one who trains."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lung_semireal, "TRAINED", (TRAIN_IDS[0],))
            yield LungSemireal(root, spacing_mm=6, trees=1, landmarks=50, variants=2)

    def test_only_training_pairs_have_them(self, root, varied):
        assert varied.ids("train")[:4] == (
            "LungCT_0001-followup",
            "LungCT_0001-followup-variant1",
            "LungCT_0001-followup-variant2",
            "LungCT_0001-tree1",
        )
        for split in ("validation", "test"):
            assert varied.ids(split) == LungSemireal(root, spacing_mm=6).ids(split)
        with pytest.raises(BadInputError, match="got 'LungCT_0002-tree1-variant1'"):
            varied.case("LungCT_0002-tree1-variant1")

    def test_same_anatomy_with_another_motion_and_its_truth(self, varied):
        plain, one, two = (
            varied.case(f"LungCT_0001-tree1{end}") for end in ("", "-variant1", "-variant2")
        )
        assert torch.equal(plain.moving_labels, one.moving_labels)
        assert (plain.moving - one.moving).abs().mean() < 0.02  # only the noise is new
        assert (one.displacement - two.displacement).square().mean().sqrt() > 0.2
        for case in (one, two):
            left = tre_mm(
                case.moving_landmarks, case.fixed_landmarks, case.displacement, (6.0,) * 3
            )
            assert left.max() < 1e-3
            aligned = warp(case.moving, case.displacement, padding="border") - case.fixed
            assert aligned.square().mean() < 0.2 * (case.moving - case.fixed).square().mean()

    def test_breathing_scaled_plus_a_random_field_of_three_millimetres(self, varied):
        breathing = varied.case("LungCT_0001-tree1").displacement
        for number in (1, 2):
            field = varied.case(f"LungCT_0001-followup-variant{number}").displacement
            strengths = torch.linspace(*lung_semireal.STRENGTHS, 301)
            left = min((6 * (field - s * breathing)).square().mean().sqrt() for s in strengths)
            assert 2.5 < left < 3.01

    def test_equal_names_give_equal_variants(self, varied):
        name = "LungCT_0001-tree1-variant1"
        one, other = varied.case(name), varied.case(name)
        assert one is not other and torch.equal(one.fixed, other.fixed)
        assert torch.equal(one.fixed_landmarks, other.fixed_landmarks)


class TestSmoothMotion:
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[4:16, 5:15, 6:14] = True
    points = 5.0 * np.argwhere(mask)[::7]

    def test_an_affine_motion_comes_back(self):
        matrix = np.array([[0.05, 0.02, 0.0], [0.0, -0.04, 0.01], [0.03, 0.0, 0.1]])
        field = smooth_motion(self.points, self.points @ matrix.T + 3, self.mask, self.affine)
        inner = np.zeros_like(self.mask)
        inner[8:12, 9:11, 9:11] = True
        expected = 5.0 * np.argwhere(inner) @ matrix.T + 3
        np.testing.assert_allclose(field[:, inner].T, expected, atol=0.25)

    def test_a_constant_motion_continues_everywhere(self):
        motion = np.broadcast_to([1.0, -2.0, 10.0], self.points.shape)
        field = smooth_motion(self.points, motion, self.mask, self.affine)
        assert field.dtype == np.float32
        expected = np.broadcast_to(np.reshape([1, -2, 10], (3, 1, 1, 1)), field.shape)
        np.testing.assert_allclose(field, expected, atol=1e-3)


class TestErrors:
    @pytest.mark.usefixtures("unchecked")
    def test_options(self, root):
        with pytest.raises(ValueError, match="expected spacing_mm=2, 3, 4, 6 or 12, got 5"):
            LungSemireal(root, spacing_mm=5)
        with pytest.raises(ValueError, match="at least one tree and landmark, .* got 0, 300"):
            LungSemireal(root, trees=0)
        with pytest.raises(ValueError, match="variants from 0 on, got 3, 300 and -1"):
            LungSemireal(root, variants=-1)

    @pytest.mark.parametrize(
        "name", ["nobody", "LungCT_0001", "LungCT_0021-tree1", "LungCT_0001-tree0"]
    )
    def test_unknown_case(self, dataset, name):
        with pytest.raises(BadInputError, match=f"got '{name}'. Take a name from ids"):
            dataset.case(name)

    def test_unknown_split(self, dataset):
        with pytest.raises(ValueError, match=r"lung_semireal: expected a split of .*, got 'all'"):
            dataset.ids("all")

    def test_both_parts_are_needed(self, root, tmp_path, monkeypatch):
        monkeypatch.setenv("REGNET_DATA", str(tmp_path))
        assert not available("lung_semireal")
        with pytest.raises(BadInputError, match="elastix_lung_ct: expected .*does not exist"):
            open_dataset("lung_semireal")
        (tmp_path / "elastix_lung_ct").symlink_to(root / "elastix_lung_ct")
        assert not available("lung_semireal")
        with pytest.raises(BadInputError, match=f"{MOTION}: expected .*does not exist"):
            open_dataset("lung_semireal")
        (tmp_path / MOTION).symlink_to(root / MOTION)
        assert available("lung_semireal")
        assert open_dataset("lung_semireal").case("LungCT_0002-tree1").shape == (48, 72, 96)

    def test_missing_key_points(self, root, tmp_path):
        import shutil

        copy = shutil.copytree(root, tmp_path / "copy")
        shutil.rmtree(copy / MOTION / "keypointsTr")
        with pytest.raises(BadInputError, match="expected key points of LungCT_0001, found none"):
            LungSemireal(copy, spacing_mm=6).case("LungCT_0001-tree1")


@pytest.mark.data
class TestReal:
    @pytest.fixture(autouse=True)
    def present(self):
        if not available("lung_semireal"):
            pytest.skip("set REGNET_DATA to the parent of elastix_lung_ct/ and l2r_lungct_partial/")

    @pytest.mark.parametrize(("person", "left_mm"), [(1, 1.6), (2, 2.2), (3, 1.9)])
    def test_manual_landmarks_confirm_the_motion(self, person, left_mm):
        dataset = LungSemireal(spacing_mm=6)
        name = TRAIN_IDS[person - 1]
        case = dataset.case(f"{name}-tree1")
        scans = LungCT(dataset._people.root, images="masks", crop=None).case(name)
        matrix = np.linalg.inv(case.affine) @ scans.affine
        moving, fixed = (
            (points @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
            for points in (scans.moving_landmarks.numpy(), scans.fixed_landmarks.numpy())
        )
        right = scans.fixed_landmarks[:, 0].numpy() > scans.shape[0] / 2
        moving, fixed = (torch.from_numpy(points[right]) for points in (moving, fixed))
        still = torch.zeros_like(case.displacement)
        assert tre_mm(moving, fixed, still, case.spacing_mm).mean() > 4 * left_mm
        after = tre_mm(moving, fixed, case.displacement, case.spacing_mm).mean()
        assert after == pytest.approx(left_mm, abs=0.1)

    @pytest.mark.parametrize("person", [9, 17])
    def test_large_motions_do_not_fold_and_lungs_meet(self, person):
        case = LungSemireal(spacing_mm=6).case(f"{TRAIN_IDS[person - 1]}-baseline")
        assert jacobian_determinant(case.displacement).min() > 0.1
        assert dice(case.moving_labels, case.fixed_labels, (1,))[0] < 0.95
