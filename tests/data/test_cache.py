"""Caches give back what the dataset gave, and notice when it changes."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from regnet_lib.data import (
    BadInputError,
    Dataset,
    Phantoms,
    open_dataset,
    write_fake_elastix_lung_ct,
    write_fake_hippocampus,
    write_fake_lpba40,
)
from regnet_lib.data.cache import CachedDataset, source_key
from regnet_lib.experiments import EXPERIMENTS
from regnet_lib.train import train


@pytest.fixture
def lpba40(tmp_path):
    return write_fake_lpba40(tmp_path / "lpba40", shape=(16, 16, 16), train=2, test=1)


@pytest.fixture
def cached(lpba40, tmp_path):
    return CachedDataset(open_dataset("lpba40", lpba40), tmp_path / "cache")


def test_is_a_dataset(cached):
    assert isinstance(cached, Dataset)
    assert cached.ids("train") == cached.dataset.ids("train")


def test_the_same_case_within_16_bits(cached):
    direct = cached.dataset.case("S11")
    for case in (cached.case("S11"), cached.case("S11")):  # written, then read again
        for name in ("moving", "fixed"):
            ours, theirs = getattr(case, name), getattr(direct, name)
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        for name in ("moving_labels", "fixed_labels"):
            assert torch.equal(getattr(case, name), getattr(direct, name))
        assert case.id == direct.id and case.label_ids == direct.label_ids
        np.testing.assert_array_equal(case.affine, direct.affine)


def test_region_and_images_only(lpba40, tmp_path):
    dataset = open_dataset("lpba40", lpba40, cropped=False)
    cached = CachedDataset(dataset, tmp_path / "cache")
    case = cached.case("S11", labels=False)
    assert case.moving_labels is None and case.region == dataset.case("S11").region
    assert cached.case("S11").moving_labels is not None  # asked for later
    assert cached.case("S11", labels=False).moving_labels is None


def test_the_second_time_nothing_is_read_from_the_set(cached, lpba40):
    first = cached.case("S12")
    cached.dataset.case = None
    (lpba40 / "train" / "S12.delineation.skullstripped.nii.gz").unlink()
    again = cached.case("S12")
    assert torch.equal(first.moving, again.moving)


def test_the_atlas_is_kept_once(cached):
    for case_id in cached.ids("train")[:2]:
        cached.case(case_id)
    # three subjects, an image and a label map each
    assert len(list(cached.folder.glob("*.npy"))) == 6


@pytest.fixture(scope="module")
def hippocampus(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "msd_hippocampus"
    return write_fake_hippocampus(root, packed=True, subjects=5)


def test_bytes_are_exact(hippocampus, tmp_path):
    cached = CachedDataset(open_dataset("msd_hippocampus", hippocampus), tmp_path / "cache")
    case_id = cached.ids("train")[0]
    assert torch.equal(cached.case(case_id).moving, cached.dataset.case(case_id).moving)
    assert {np.load(path).dtype for path in cached.folder.glob("*.npy")} == {np.dtype(np.uint8)}


def test_a_pair_that_depends_on_the_split(hippocampus, tmp_path):
    whole = CachedDataset(open_dataset("msd_hippocampus", hippocampus), tmp_path / "cache")
    part = CachedDataset(open_dataset("msd_hippocampus", hippocampus, train=2), tmp_path / "cache")
    assert whole.folder == part.folder
    second = part.ids("train")[1]
    for cached in (whole, part):
        assert torch.equal(cached.case(second).fixed, cached.dataset.case(second).fixed)


def test_every_field_of_a_case_comes_back(tmp_path):
    root = write_fake_elastix_lung_ct(tmp_path / "elastix_lung_ct")
    dataset = open_dataset("elastix_lung_ct", root)
    (case_id,) = dataset.ids("test")
    direct = dataset.case(case_id)
    full = replace(
        direct,
        displacement=torch.randn(1, 3, *direct.shape),
        moving_affine=np.diag([1.5, 1.5, 2.5, 1.0]),
        region=(slice(1, 5), slice(0, 4), slice(2, 6)),
    )
    assert all(getattr(full, field.name) is not None for field in fields(full))
    dataset.case = lambda case_id, labels=True: full
    case = CachedDataset(dataset, tmp_path / "cache").case(case_id)
    for field in fields(full):
        ours, theirs = getattr(case, field.name), getattr(full, field.name)
        if isinstance(theirs, torch.Tensor) and field.name not in ("moving", "fixed"):
            assert torch.equal(ours, theirs), field.name
        elif isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        else:
            np.testing.assert_equal(ours, theirs)


class TestKey:
    def test_stays(self, lpba40):
        assert source_key(open_dataset("lpba40", lpba40)) == source_key(
            open_dataset("lpba40", lpba40)
        )

    def test_follows_the_preparation(self, lpba40):
        keys = {source_key(open_dataset("lpba40", lpba40, spacing_mm=size)) for size in (1, 2)}
        assert len(keys) == 2

    def test_follows_the_files(self, lpba40):
        before = source_key(open_dataset("lpba40", lpba40))
        path = lpba40 / "fixed.nii.gz"
        path.write_bytes(path.read_bytes() + b"\0")
        assert source_key(open_dataset("lpba40", lpba40)) != before


class TestErrors:
    def test_phantoms_need_no_cache(self, tmp_path):
        with pytest.raises(BadInputError, match="phantom: expected a dataset with files"):
            CachedDataset(Phantoms(shape=(16, 16, 16)), tmp_path)

    def test_damage_is_named(self, cached):
        cached.case("S11")
        (path,) = cached.folder.glob("S11*.json")
        entry = json.loads(path.read_text())
        (cached.folder / entry["moving"]["file"]).write_bytes(b"")
        with pytest.raises(BadInputError, match="S11.*Delete the folder"):
            cached.case("S11")


def test_training_uses_it(lpba40, tmp_path, monkeypatch):
    experiment = replace(
        EXPERIMENTS["teaching.phantom.voxelmorph2"], dataset="lpba40", dataset_options={}
    )
    monkeypatch.setattr("regnet_lib.data.lpba40.TRAIN_IDS", ("S11", "S12"))
    options = {"data": lpba40, "epochs": 1, "progress": False, "device": "cpu"}
    train(experiment, folder=tmp_path / "run", cache=tmp_path / "cache", **options)
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(list(folder.glob("*.json"))) == 2
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["cached"] is True
    with pytest.raises(BadInputError):  # other numbers, another run
        train(experiment, folder=tmp_path / "run", resume=True, **options)
