"""What every adapter of real data owes: the same contract, on phantoms in its own layout."""

import shutil

import nibabel
import numpy as np
import pytest
import torch

from regnet_lib.data import (
    DATASETS,
    MARKERS,
    BadInputError,
    Dataset,
    available,
    open_dataset,
    write_fake_abdomen_ctmr,
    write_fake_dirlab,
    write_fake_elastix_lung_ct,
    write_fake_hippocampus,
    write_fake_ixi,
    write_fake_ixi_hh_2mm,
    write_fake_ixi_transmorph,
    write_fake_lpba40,
    write_fake_lung_ct,
    write_fake_oasis,
    write_fake_oasis_samples,
    write_fake_prostate_mr_us,
    write_volume,
)
from regnet_lib.data.dirlab import FAKE_GEOMETRY
from regnet_lib.data.pairs import SubjectPairs

# Layout -> (dataset, writer of fake data).
LAYOUTS = {
    "abdomen_ctmr": (
        "abdomen_ctmr",
        lambda root: write_fake_abdomen_ctmr(root, shape=(16, 18, 168), unpaired=1),
    ),
    "dirlab": ("dirlab", lambda root: write_fake_dirlab(root)),
    "elastix_lung_ct": ("elastix_lung_ct", lambda root: write_fake_elastix_lung_ct(root)),
    "hippocampus official": ("msd_hippocampus", lambda root: write_fake_hippocampus(root)),
    "hippocampus packed": (
        "msd_hippocampus",
        lambda root: write_fake_hippocampus(root, packed=True, subjects=6),
    ),
    "ixi": ("ixi", lambda root: write_fake_ixi(root, shape=(32, 36, 40), subjects=8)),
    "ixi_hh_2mm": (
        "ixi_hh_2mm",
        lambda root: write_fake_ixi_hh_2mm(root, shape=(16, 20, 18)),
    ),
    "ixi_transmorph": (
        "ixi_transmorph",
        lambda root: write_fake_ixi_transmorph(root, shape=(16, 18, 20)),
    ),
    "lpba40": ("lpba40", lambda root: write_fake_lpba40(root, shape=(16, 18, 20))),
    "lung_ct 2021": ("lung_ct", lambda root: write_fake_lung_ct(root, shape=(16, 18, 140))),
    "lung_ct 2020": ("lung_ct", lambda root: write_fake_lung_ct(root, "2020", shape=(16, 18, 140))),
    "oasis learn2reg": (
        "oasis",
        lambda root: write_fake_oasis(root, "learn2reg", shape=(32, 40, 36)),
    ),
    "oasis neurite": ("oasis", lambda root: write_fake_oasis(root, "neurite", shape=(32, 36, 40))),
    "oasis_samples": (
        "oasis_samples",
        lambda root: write_fake_oasis_samples(root, shape=(16, 20, 18)),
    ),
    "prostate_mr_us": ("prostate_mr_us", lambda root: write_fake_prostate_mr_us(root)),
}
# Sizes that no file tells, and one shape for all cases.
OPTIONS = {"dirlab": {"geometry": FAKE_GEOMETRY, "recipe": "isotropic", "spacing_mm": 2}}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    return {
        layout: write(folder / layout.replace(" ", "-") / name)
        for layout, (name, write) in LAYOUTS.items()
    }


@pytest.fixture(params=list(LAYOUTS))
def opened(request, roots):
    """A dataset and its folder, in every layout."""
    name, _ = LAYOUTS[request.param]
    dataset = open_dataset(name, roots[request.param], **OPTIONS.get(request.param, {}))
    return dataset, roots[request.param]


def readable_ids(dataset, root):
    """Some fake sets hold only a part of their fixed lists."""
    splits = (split for split in ("train", "validation", "test"))
    ids = []
    for split in splits:
        try:
            ids += dataset.ids(split)
        except ValueError:
            continue
    if dataset.name == "lpba40":
        ids = [name for name in ids if dataset.image_path(name).exists()]
    if dataset.name in ("abdomen_ctmr", "lung_ct"):
        ids = [name for name in ids if dataset.image_path(dataset.pair(name)[0]).exists()]
    return ids


def test_every_dataset_on_disk_is_covered():
    assert {name for name, _ in LAYOUTS.values()} == set(MARKERS)
    # computed, and made from two of the others
    assert set(DATASETS) - set(MARKERS) == {"phantom", "dirlab_phantom", "lung_semireal"}
    assert all(name == adapter.name for name, adapter in DATASETS.items())


def test_the_protocol(opened):
    dataset, _ = opened
    assert isinstance(dataset, Dataset)
    assert len(set(dataset.label_ids)) == len(dataset.label_ids)
    assert dataset.label_ids or dataset.name == "dirlab"  # which has landmarks only
    assert 0 not in dataset.label_ids


def test_cases_of_one_shape_that_can_be_batched(opened):
    dataset, root = opened
    ids = readable_ids(dataset, root)
    assert len(ids) == len(set(ids)) and ids
    cases = [dataset.case(case_id) for case_id in ids[:4]]
    for case, case_id in zip(cases, ids, strict=False):
        assert case.id == case_id and case.label_ids == dataset.label_ids
        for image in (case.moving, case.fixed):
            assert image.dtype == torch.float32 and image.is_contiguous()
            assert image.min() == 0 and 0.5 < image.max() <= 1
        if not dataset.label_ids:
            assert case.moving_labels is None and len(case.fixed_landmarks) > 100
            continue
        for labels in (case.moving_labels, case.fixed_labels):
            assert labels.shape == case.fixed.shape and labels.dtype == torch.int64
            present = set(labels.unique().tolist())
            assert len(present & {*dataset.label_ids}) >= min(2, len(dataset.label_ids))
        assert not torch.equal(case.moving, case.fixed)
        # Labels lie on what is bright: image and map were prepared alike.
        assert (case.fixed[case.fixed_labels > 0] > 0).float().mean() > 0.9
    batch = torch.cat([case.moving for case in cases])
    assert batch.shape == (len(cases), 1, *cases[0].shape)


def test_labels_only_on_request(opened):
    dataset, root = opened
    case = dataset.case(readable_ids(dataset, root)[0], labels=False)
    assert case.moving_labels is None and case.fixed_labels is None


def test_unknown_split(opened):
    dataset, _ = opened
    with pytest.raises(ValueError, match="expected .*split.*, got 'everything'"):
        dataset.ids("everything")


def test_unknown_case(opened):
    dataset, _ = opened
    with pytest.raises(BadInputError, match="nobody.*(does not exist|name from ids)"):
        dataset.case("nobody")


def test_missing_folder_says_what_marks_it(tmp_path):
    for name, markers in MARKERS.items():
        with pytest.raises(BadInputError, match=f"{name}: expected .*{markers[0]}.*does not exist"):
            open_dataset(name, tmp_path)


def test_the_error_names_a_module_that_describes_the_layout():
    import importlib

    for name, markers in MARKERS.items():
        text = importlib.import_module(f"regnet_lib.data.{name}").__doc__
        assert all(f"{name}/{marker}" in text for marker in markers)


def test_available_only_where_the_marker_is(monkeypatch, roots):
    for layout, (name, _) in LAYOUTS.items():
        monkeypatch.setenv("REGNET_DATA", str(roots[layout].parent))
        assert available(name) and open_dataset(name).root == roots[layout]
        assert not any(available(other) for other in MARKERS if other != name)


def test_writers_repeat_themselves_and_ask_before_overwriting(tmp_path):
    write_fake_oasis_samples(tmp_path, shape=(16, 16, 16))
    before = np.asarray(nibabel.load(tmp_path / "sub06_t1.nii.gz").dataobj)
    with pytest.raises(BadInputError, match="the file exists"):
        write_fake_oasis_samples(tmp_path, shape=(16, 16, 16))
    write_fake_oasis_samples(tmp_path, shape=(16, 16, 16), overwrite=True)
    np.testing.assert_array_equal(
        np.asarray(nibabel.load(tmp_path / "sub06_t1.nii.gz").dataobj), before
    )


class Smallest(SubjectPairs):
    """The adapter of the module's docstring."""

    name = "smallest"
    label_ids = (1, 2)
    markers = ("atlas.nii.gz",)
    largest_label = 2

    def splits(self):
        return {"train": ("a", "b"), "test": ("c",)}

    def pair(self, case_id):
        return case_id, "atlas"

    def image_path(self, subject):
        return self.root / f"{subject}.nii.gz"

    def label_path(self, subject):
        return self.root / f"{subject}_labels.nii.gz"


class TestBase:
    @pytest.fixture
    def root(self, tmp_path):
        random = np.random.default_rng(0)
        for name in ("a", "b", "c", "atlas"):
            write_volume(tmp_path / f"{name}.nii.gz", random.random((4, 5, 6)), np.eye(4))
            labels = random.integers(0, 3, (4, 5, 6))
            write_volume(tmp_path / f"{name}_labels.nii.gz", labels, np.eye(4))
        return tmp_path

    def test_ids_and_errors(self, root):
        dataset = Smallest(root)
        assert dataset.ids("train") == ("a", "b")
        with pytest.raises(ValueError, match="smallest: expected a split of 'train', 'test', got"):
            dataset.ids("validation")

    def test_files_are_read_once(self, root):
        dataset = Smallest(root)
        first = dataset.case("a")
        shutil.rmtree(root)
        assert torch.equal(dataset.case("a").moving_labels, first.moving_labels)

    def test_labels_take_one_byte_in_memory(self, root):
        dataset = Smallest(root)
        dataset.case("a")
        arrays = {key: volume.array for key, volume in dataset._kept.items()}
        assert {array.dtype.name for (_, labels), array in arrays.items() if labels} == {"uint8"}
        assert dataset._kept_bytes == sum(array.nbytes for array in arrays.values())

    def test_beyond_the_limit_nothing_is_kept_and_results_stay(self, root, monkeypatch):
        expected = Smallest(root).case("a")
        one_image = 4 * 5 * 6 * 4
        monkeypatch.setattr(Smallest, "kept_mib", 2.5 * one_image / 2**20)
        dataset = Smallest(root)
        for _ in range(2):
            found = dataset.case("a")
            assert torch.equal(found.moving, expected.moving)
            assert torch.equal(found.fixed_labels, expected.fixed_labels)
            dataset.case("b")
        assert dataset._kept_bytes <= 2.5 * one_image

    def test_moving_image_on_another_grid(self, root):
        write_volume(root / "a.nii.gz", np.ones((4, 5, 7)), np.eye(4), overwrite=True)
        with pytest.raises(BadInputError, match=r"a\.nii\.gz: expected the shape of .*atlas"):
            Smallest(root).case("a")

    def test_labels_of_another_shape(self, root):
        labels = np.ones((4, 5, 7), dtype=np.uint8)
        write_volume(root / "a_labels.nii.gz", labels, np.eye(4), overwrite=True)
        with pytest.raises(BadInputError, match=r"a_labels.*shape of the images, \(4, 5, 6\).*7\)"):
            Smallest(root).case("a")

    def test_labels_at_another_place(self, root):
        labels = np.ones((4, 5, 6), dtype=np.uint8)
        affine = np.diag([1.0, 1, 2, 1])
        write_volume(root / "a_labels.nii.gz", labels, affine, overwrite=True)
        with pytest.raises(BadInputError, match="a_labels.*voxel-to-world matrix of the images"):
            Smallest(root).case("a")

    @pytest.mark.parametrize("value", [3, 256 + 1])
    def test_another_kind_of_label_map(self, root, value):
        """257 would become 1 in a byte."""
        labels = np.full((4, 5, 6), value, dtype=np.int32)
        write_volume(root / "atlas_labels.nii.gz", labels, np.eye(4), overwrite=True)
        with pytest.raises(BadInputError, match=f"smallest labels up to 2, found {value}"):
            Smallest(root).case("a")
