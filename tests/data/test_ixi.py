"""The three forms of IXI: FreeSurfer's folders, TransMorph's pickles, the Hammersmith subset."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from regnet_lib.data import (
    IXI,
    BadInputError,
    IXIHammersmith,
    IXITransMorph,
    available,
    write_fake_ixi,
    write_fake_ixi_hh_2mm,
    write_fake_ixi_transmorph,
    write_volume,
)
from regnet_lib.data.freesurfer import ASEG_30, ASEG_IDS, SEG4, SEG35, SEG35_30, STRUCTURES
from regnet_lib.data.ixi import ATLAS
from regnet_lib.data.ixi_hh_2mm import T2_LIKE, t2_like
from regnet_lib.data.splits import fingerprint
from regnet_lib.experiments import EXPERIMENTS
from regnet_lib.metrics import dice
from regnet_lib.train import train

ON_DISK = (32, 36, 40)  # left, down, forward
SHAPE = (16, 20, 18)  # left, back, down, halved


@pytest.fixture(scope="module")
def fake_ixi(tmp_path_factory):
    return write_fake_ixi(tmp_path_factory.mktemp("data") / "ixi", shape=ON_DISK, subjects=8)


@pytest.fixture
def own_ixi(fake_ixi, tmp_path):
    return shutil.copytree(fake_ixi, tmp_path / "ixi")


@pytest.fixture(scope="module")
def fake_pickles(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "ixi_transmorph"
    return write_fake_ixi_transmorph(root, shape=(16, 18, 20), train=3)


@pytest.fixture
def own_pickles(fake_pickles, tmp_path):
    return shutil.copytree(fake_pickles, tmp_path / "ixi_transmorph")


@pytest.fixture
def own_hammersmith(tmp_path):
    return write_fake_ixi_hh_2mm(tmp_path / "ixi_hh_2mm", shape=(16, 18, 20), train=2)


def world(affine, index):
    return affine[:3, :3] @ np.asarray(index, dtype=float) + affine[:3, 3]


class TestTables:
    def test_seg35(self):
        assert list(SEG35) == list(range(1, 36)) and len(set(SEG35.values())) == 35
        assert (SEG35[1], SEG35[13], SEG35[20]) == (
            "Left-Cerebral-White-Matter",
            "Brain-Stem",
            "Right-Cerebral-White-Matter",
        )
        left = {name[5:] for name in SEG35.values() if name.startswith("Left-")}
        right = {name[6:] for name in SEG35.values() if name.startswith("Right-")}
        assert left == right and len(left) == 16
        assert SEG4 == {1: "Cortex", 2: "Subcortical-Gray-Matter", 3: "White-Matter", 4: "CSF"}

    def test_the_30_of_the_paper(self):
        assert SEG35_30 == (1, 2, 3, *range(5, 18), *range(20, 34)) and len(SEG35_30) == 30
        left_out = {SEG35[label] for label in set(SEG35) - {*SEG35_30}}
        assert left_out == {
            "Left-Inf-Lat-Vent",
            *(f"{side}-{name}" for side in ("Left", "Right") for name in ("Vessel",)),
            *(f"{side}-Choroid-Plexus" for side in ("Left", "Right")),
        }

    def test_freesurfer_numbers(self):
        assert len(set(ASEG_IDS)) == 46 and list(ASEG_IDS) == sorted(ASEG_IDS)
        assert (ASEG_IDS[0], ASEG_IDS[13], ASEG_IDS[16], ASEG_IDS[-1]) == (0, 16, 24, 255)

    def test_30_positions_in_17_structures(self):
        expected = (1, 2, 3, *range(5, 17), 18, *range(20, 24), *range(25, 33), 34, 36)
        assert expected == ASEG_30 and len(STRUCTURES) == 17
        # FreeSurfer numbers the right side 39 to 43 and 36 to 32 above the left.
        numbers = [[ASEG_IDS[position] for position in pair] for pair in STRUCTURES.values()]
        assert {right - left for left, *rest in numbers for right in rest} <= set(range(32, 44))
        assert sum(len(pair) == 1 for pair in numbers) == 4


class TestFreeSurferFolders:
    def test_turned_and_halved(self, fake_ixi):
        case = IXI(fake_ixi).case("IXI012-HH-1211")
        assert case.shape == SHAPE and case.spacing_mm == (2, 2, 2)
        assert nibabel.aff2axcodes(case.affine) == ("L", "P", "I")
        fine = IXI(fake_ixi, spacing_mm=1).case("IXI012-HH-1211")
        assert fine.shape == (32, 40, 36) and fine.spacing_mm == (1, 1, 1)
        assert torch.equal(case.moving_labels, fine.moving_labels[..., ::2, ::2, ::2])
        expected = torch.nn.functional.interpolate(
            fine.moving, scale_factor=0.5, mode="trilinear", align_corners=True
        )
        torch.testing.assert_close(case.moving, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(case.affine[:3, 3], fine.affine[:3, 3])

    @pytest.mark.parametrize("spacing_mm", [1, 2])
    def test_a_marker_keeps_its_place_in_the_world(self, own_ixi, spacing_mm):
        """Not symmetric in the axes: a wrong turn would move it."""
        place = (8, 20, 30)
        for name, value in (("aligned_norm.nii.gz", 1.0), ("aligned_seg35.nii.gz", 7)):
            path = own_ixi / "IXI012-HH-1211" / name
            affine = nibabel.load(path).affine
            array = np.zeros(ON_DISK, dtype=np.float32 if value == 1.0 else np.uint8)
            array[tuple(slice(start, start + 2) for start in place)] = value
            write_volume(path, array, affine, overwrite=True)
        case = IXI(own_ixi, spacing_mm=spacing_mm).case("IXI012-HH-1211")
        middle = world(affine, np.array(place) + 0.5)
        weight = case.moving[0, 0].numpy()
        found = (np.indices(case.shape) * weight).sum((1, 2, 3)) / weight.sum()
        # Halved, images are up to a fine voxel off at the far end, and labels half a fine voxel.
        tolerance = 1e-5 if spacing_mm == 1 else 1.0
        np.testing.assert_allclose(world(case.affine, found), middle, atol=tolerance)
        labelled = np.argwhere(case.moving_labels[0, 0].numpy() == 7).mean(0)
        tolerance = 1e-5 if spacing_mm == 1 else 0.5
        np.testing.assert_allclose(world(case.affine, labelled), middle, atol=tolerance)

    def test_split_and_direction(self, fake_ixi):
        dataset = IXI(fake_ixi)
        splits = {split: dataset.ids(split) for split in ("train", "validation", "test")}
        assert [len(names) for names in splits.values()] == [6, 1, 1]
        assert ATLAS not in {name for names in splits.values() for name in names}
        atlas = dataset.case(ATLAS)
        assert torch.equal(dataset.case(splits["train"][0]).fixed, atlas.moving)

    def test_30_or_35_structures(self, fake_ixi):
        assert IXI(fake_ixi).label_ids == SEG35_30
        assert IXI(fake_ixi, structures=35).case("IXI012-HH-1211").label_ids == tuple(range(1, 36))

    def test_images_stored_as_bytes(self, own_ixi):
        path = own_ixi / "IXI012-HH-1211" / "aligned_norm.nii.gz"
        expected = IXI(own_ixi).case("IXI012-HH-1211").moving
        image = nibabel.load(path)
        stored = (255 * image.get_fdata()).round().astype(np.uint8)
        write_volume(path, stored, image.affine, overwrite=True)
        found = IXI(own_ixi).case("IXI012-HH-1211").moving
        torch.testing.assert_close(found, expected, rtol=0, atol=0.6 / 255)

    def test_training_in_batches_of_four(self, fake_ixi, tmp_path):
        experiment = EXPERIMENTS["lganetpp.table3.voxelmorph2"]
        assert experiment.batch_size == 4 and experiment.dataset == "ixi"
        experiment = replace(experiment, epochs=1)
        result = train(
            experiment, data=fake_ixi, folder=tmp_path / "run", device="cpu", progress=False
        )
        assert result.finished and result.total_steps == 1
        logged = (tmp_path / "run" / "train.csv").read_text().splitlines()[1].split(",")[2]
        assert len(set(logged.split()) & {*IXI(fake_ixi).ids("train")}) == 4


class TestFreeSurferErrors:
    @pytest.mark.usefixtures("unchecked")
    def test_options(self, fake_ixi):
        with pytest.raises(ValueError, match="spacing_mm=1 or 2, got 4"):
            IXI(fake_ixi, spacing_mm=4)
        with pytest.raises(ValueError, match="structures=30 or 35, got 31"):
            IXI(fake_ixi, structures=31)

    def test_freesurfer_numbers_instead_of_the_35(self, own_ixi):
        path = own_ixi / ATLAS / "aligned_seg35.nii.gz"
        image = nibabel.load(path)
        labels = np.asarray(image.dataobj) + 30
        write_volume(path, labels.astype(np.uint8), image.affine, overwrite=True)
        with pytest.raises(BadInputError, match=r"aligned_seg35.*labels up to 35, found 50.*kind"):
            IXI(own_ixi).case("IXI012-HH-1211")

    def test_unnormalised_image(self, own_ixi):
        path = own_ixi / "IXI012-HH-1211" / "aligned_norm.nii.gz"
        image = nibabel.load(path)
        write_volume(path, 1000 * image.get_fdata(), image.affine, overwrite=True)
        with pytest.raises(BadInputError, match=r"IXI012.*from 0 to 255, found 0 to 1000"):
            IXI(own_ixi).case("IXI012-HH-1211")

    def test_missing_labels(self, own_ixi):
        (own_ixi / "IXI012-HH-1211" / "aligned_seg35.nii.gz").unlink()
        with pytest.raises(BadInputError, match=r"IXI012.*aligned_seg35.*does not exist"):
            IXI(own_ixi).case("IXI012-HH-1211")

    def test_truncated_image(self, own_ixi):
        path = own_ixi / "IXI012-HH-1211" / "aligned_norm.nii.gz"
        path.write_bytes(path.read_bytes()[:-400])
        with pytest.raises(BadInputError, match=r"IXI012.*ends early or is damaged"):
            IXI(own_ixi).case("IXI012-HH-1211", labels=False)


class TestPickles:
    def test_the_atlas_moves(self, fake_pickles):
        dataset = IXITransMorph(fake_pickles)
        assert dataset.ids("train") == tuple(f"Train/subject_{n}" for n in (9, 10, 11))
        assert dataset.ids("validation") == ("Val/subject_2",)
        first, second = (dataset.case(name) for name in dataset.ids("train")[:2])
        assert torch.equal(first.moving, second.moving)
        assert not torch.equal(first.fixed, second.fixed)
        with (fake_pickles / "atlas.pkl").open("rb") as file:
            image, _ = pickle.load(file)
        np.testing.assert_array_equal(first.moving[0, 0].numpy(), image)
        assert first.spacing_mm == (1, 1, 1)

    def test_freesurfer_numbers_become_positions_and_others_background(self, own_pickles):
        numbers = np.array([*ASEG_IDS, 1, 6, 29, 61, 1000, 2005])
        labels = np.resize(numbers, (16, 18, 20)).astype(np.int32)
        image = np.linspace(0, 1, labels.size, dtype=np.float64).reshape(labels.shape)
        path = own_pickles / "Test" / "subject_3.pkl"
        path.write_bytes(pickle.dumps((image, labels), protocol=3))
        expected = [*range(46), 0, 0, 0, 0, 0, 0]
        case = IXITransMorph(own_pickles).case("Test/subject_3")
        assert case.fixed.dtype == torch.float32
        assert case.fixed_labels.flatten()[: len(numbers)].tolist() == expected
        merged = IXITransMorph(own_pickles, merged=True).case("Test/subject_3")
        found = dict(zip(ASEG_IDS, merged.fixed_labels.flatten().tolist(), strict=False))
        names = ["Background", *STRUCTURES]
        assert (names[found[10]], names[found[49]]) == ("Thalamus", "Thalamus")
        assert (names[found[16]], names[found[31]]) == ("Brain-Stem", "Choroid-Plexus")
        assert found[5] == found[26] == found[77] == 0
        assert merged.label_ids == tuple(range(1, 18))

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda image, labels: (image, image, labels, labels), "expected 2 arrays.*found 4"),
            (lambda image, labels: (image, labels[:-1]), r"one 3-D shape, found .* \(15, 18, 20\)"),
            (lambda image, labels: (image[0], labels[0]), "one 3-D shape"),
            (lambda image, labels: (image, labels + 0.5), "whole numbers from 0 on"),
            (lambda image, labels: (image, labels - 1), "whole numbers from 0 on"),
            (lambda image, labels: (image, 0 * labels), "FreeSurfer labels .*none of them"),
            (lambda image, labels: (image * np.nan, labels), "finite voxels"),
            (lambda image, labels: (300 * image, labels), "from 0 to 255, found 0 to 300"),
        ],
        ids=["pair", "shapes", "2-D", "fractions", "negative", "empty", "NaN", "raw"],
    )
    def test_other_contents(self, own_pickles, change, message):
        path = own_pickles / "Test" / "subject_3.pkl"
        image, labels = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps(change(image, labels), protocol=4))
        with pytest.raises(BadInputError, match=rf"subject_3\.pkl: .*{message}"):
            IXITransMorph(own_pickles).case("Test/subject_3")

    def test_a_hostile_file_is_refused_unrun(self, own_pickles, tmp_path):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "victim"),)

        (own_pickles / "atlas.pkl").write_bytes(pickle.dumps((Trap(), Trap())))
        with pytest.raises(BadInputError, match=r"atlas\.pkl: .*calls (posix|nt)\.mkdir"):
            IXITransMorph(own_pickles).case("Test/subject_3")
        assert not (tmp_path / "victim").exists()


class TestHammersmith:
    def test_turned_like_the_others(self, own_hammersmith):
        dataset = IXIHammersmith(own_hammersmith)
        case = dataset.case(dataset.ids("test")[0])
        assert nibabel.aff2axcodes(case.affine) == ("L", "P", "I")
        assert case.spacing_mm == (2, 2, 2)
        path = dataset.image_path(dataset.ids("test")[0])
        stored = np.asarray(nibabel.load(path).dataobj)
        np.testing.assert_allclose(
            case.moving[0, 0].numpy(), stored[::-1, ::-1, ::-1] / 255, atol=1e-6
        )

    def test_halved_once_more(self, own_hammersmith):
        fine, coarse = (IXIHammersmith(own_hammersmith, spacing_mm=size) for size in (2, 4))
        case_id = fine.ids("test")[0]
        one, other = fine.case(case_id), coarse.case(case_id)
        assert other.shape == tuple(side // 2 for side in one.shape)
        assert other.spacing_mm == (4, 4, 4)
        means = torch.nn.functional.avg_pool3d(one.moving, 2)
        torch.testing.assert_close(other.moving, means, rtol=0, atol=1e-6)
        assert torch.equal(other.moving_labels, one.moving_labels[..., ::2, ::2, ::2])

    def test_standing_like_lpba40(self, own_hammersmith):
        usual = IXIHammersmith(own_hammersmith)
        turned = IXIHammersmith(own_hammersmith, like_lpba40=True)
        one, other = (dataset.case(dataset.ids("test")[0]) for dataset in (usual, turned))
        assert nibabel.aff2axcodes(other.affine) == ("R", "A", "S")
        for name in ("moving", "fixed", "moving_labels", "fixed_labels"):
            assert torch.equal(getattr(other, name), getattr(one, name).flip(2, 3, 4))

    def test_the_contrast_of_moving_images(self, own_hammersmith):
        as_scanned = IXIHammersmith(own_hammersmith)
        repainted = IXIHammersmith(own_hammersmith, moving_contrast="t2")
        case_id = as_scanned.ids("train")[0]
        t1, t2 = as_scanned.case(case_id), repainted.case(case_id)
        assert torch.equal(t1.fixed, t2.fixed) and torch.equal(t1.moving_labels, t2.moving_labels)
        assert torch.equal(t1.moving == 0, t2.moving == 0)
        tissue = t1.moving > 0.3
        order = t1.moving[tissue].argsort()
        assert (t2.moving[tissue][order].diff() <= 0).all()  # what was brighter is darker

    def test_knots_of_the_contrast(self):
        t1, t2 = (np.array(values, dtype=np.float32) for values in zip(*T2_LIKE, strict=True))
        np.testing.assert_allclose(t2_like(t1), t2, atol=1e-6)
        halfway = (t1[3:4] + t1[4:5]) / 2
        np.testing.assert_allclose(t2_like(halfway), (t2[3] + t2[4]) / 2, atol=1e-6)

    @pytest.mark.usefixtures("unchecked")
    def test_options(self, own_hammersmith):
        with pytest.raises(ValueError, match="spacing_mm=2 or 4, got 3"):
            IXIHammersmith(own_hammersmith, spacing_mm=3)
        with pytest.raises(ValueError, match="moving_contrast='t1' or 't2', got 'flair'"):
            IXIHammersmith(own_hammersmith, moving_contrast="flair")

    @pytest.mark.parametrize("text", ["", "[]", '{"atlas": "IXI128-HH-1470"}'])
    def test_broken_lists(self, own_hammersmith, text):
        (own_hammersmith / "split.json").write_text(text)
        with pytest.raises(BadInputError, match=r"split\.json: expected JSON with atlas, train"):
            IXIHammersmith(own_hammersmith)

    def test_another_atlas(self, own_hammersmith):
        path = own_hammersmith / "split.json"
        lists = json.loads(path.read_text()) | {"atlas": "IXI012-HH-1211"}
        path.write_text(json.dumps(lists))
        with pytest.raises(BadInputError, match="expected the atlas IXI128-HH-1470, found 'IXI012"):
            IXIHammersmith(own_hammersmith)


@pytest.mark.data
class TestReal:
    @pytest.fixture
    def hammersmith(self):
        if not available("ixi_hh_2mm"):
            pytest.skip("set REGNET_DATA to the folder that holds ixi_hh_2mm/")
        return IXIHammersmith()

    def test_the_lists(self, hammersmith):
        prints = {split: fingerprint(names) for split, names in hammersmith.splits().items()}
        assert prints == {
            "train": "20908c27c5a3",
            "validation": "6a35ff9b486c",
            "test": "aa4c48107d07",
        }

    def test_overlap_before_registration(self, hammersmith):
        means = []
        for case_id in hammersmith.ids("test"):
            case = hammersmith.case(case_id)
            assert case.shape == (80, 112, 96)
            values = dice(case.moving_labels, case.fixed_labels, case.label_ids)
            assert np.isfinite(values).all()
            means.append(values.mean())
        assert len(means) == 36
        assert np.mean(means) == pytest.approx(0.6603, abs=5e-5)
        assert np.std(means) == pytest.approx(0.0325, abs=5e-5)

    def test_17_structures_reproduce_the_published_means(self):
        """Rows of the TransMorph repository: 115 subjects, SyN 0.645 and TransMorph 0.753."""
        folder = Path(os.environ.get("REGNET_DATA", "")) / "transmorph_ixi_results"
        if not folder.is_dir():
            pytest.skip("set REGNET_DATA to the folder that holds transmorph_ixi_results/")
        published = {"ants_IXI": "0.645 0.152", "TransMorph_ncc_1_diffusion_1": "0.753 0.126"}
        for file, expected in published.items():
            rows = np.genfromtxt(folder / f"{file}.csv", delimiter=",", skip_header=2)
            values = rows[:, 1:47]  # the position in ASEG_IDS counts columns after the name
            grouped = np.stack(
                [values[:, list(pair)].mean(1) for pair in STRUCTURES.values()], axis=1
            )
            assert f"{grouped.mean():.3f} {grouped.std():.3f}" == expected
