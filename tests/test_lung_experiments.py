"""Lungs that anyone can have: equal conditions, the real pair, instance optimisation, the leak."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from regnet_lib import figures
from regnet_lib.checkpoint import save_weights
from regnet_lib.data import DIRLabPhantom, ElastixLungCT, landmarks_outside, open_dataset
from regnet_lib.data.elastix_lung_ct import write_fake_elastix_lung_ct
from regnet_lib.evaluate import evaluate
from regnet_lib.experiments import EXPERIMENTS, TABLES, lungs
from regnet_lib.losses import Objective
from regnet_lib.models import create_model
from regnet_lib.results import read_runs
from regnet_lib.spatial import jacobian_determinant
from regnet_lib.table_lines import run_label
from tools.keep_figure5 import keep_planes

TINY = {"mode": "recommended", "channels": (4, 4, 8, 8, 8)}


@pytest.fixture(scope="module")
def pair_root(tmp_path_factory):
    return write_fake_elastix_lung_ct(tmp_path_factory.mktemp("data") / "elastix_lung_ct")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "dirlab_phantom"
    DIRLabPhantom(root)
    return root


def learned():
    """The trainings on semi-real pairs beside those of AD-RegNet."""
    found = [*TABLES["ad_regnet.table1"], *TABLES["lganetpp.table6"]]
    return [
        one
        for one in found
        if one.dataset == "lung_semireal" and one.epochs and one.model != "ad_regnet"
    ]


class TestEqualConditions:
    def test_network_and_learning_rate_alone_differ_from_the_full_model_of_table_five(self):
        (full,) = (
            one
            for one in TABLES["ad_regnet.table5"]
            if one.dataset == "lung_semireal" and one.row == "Full Model"
        )
        assert {one.model for one in learned()} == {
            *("dlir", "eppenhof", "fang_fcn", "mlvirnet", "mjcnn"),
            *("voxelmorph2", "pivit", "rdp", "lganetpp"),
        }
        own = ("name", "row", "model", "model_options", "notes")
        conditions = {name: value for name, value in full.as_dict().items() if name not in own}
        for one in learned():
            assert one.name.endswith(f".{lungs.COARSE_MM}mm") and full.name in one.notes
            assert one.optimiser.learning_rate == full.optimiser.learning_rate / 4
            own_rate = replace(full.optimiser, learning_rate=one.optimiser.learning_rate)
            assert one.optimiser == own_rate
            found = replace(one, optimiser=full.optimiser).as_dict()
            assert {name: found[name] for name in conditions} == conditions

    def test_what_needs_no_training_is_there_at_both_voxel_sizes(self):
        for model in ("gradient_descent", "convexadam", "syn", "deeds"):
            for size in (lungs.FINE_MM, lungs.COARSE_MM):
                one = EXPERIMENTS[f"ad_regnet.table1.{model}.semireal.{size}mm"]
                assert one.dataset_options == {"spacing_mm": size} and not one.epochs

    def test_a_method_has_one_row_in_each_table(self):
        for table in ("ad_regnet.table1", "lganetpp.table6"):
            names = [one.name for one in TABLES[table]]
            assert len(names) == len(set(names))


class TestTheRealPair:
    def test_points_and_intensities_keep_their_places_on_the_coarser_grid(self, pair_root):
        fine, coarse = (ElastixLungCT(pair_root, spacing_mm=size) for size in (None, 3))
        a, b = fine.case("right-lung"), coarse.case("right-lung")
        assert b.spacing_mm == (3.0, 3.0, 3.0) and all(side % 16 == 0 for side in b.shape)
        assert np.all(np.diag(b.affine) > 0) and landmarks_outside(b) == 0
        for points in ("fixed_landmarks", "moving_landmarks"):
            worlds = [
                getattr(case, points).numpy() @ case.affine[:3, :3].T + case.affine[:3, 3]
                for case in (a, b)
            ]
            np.testing.assert_allclose(*worlds, atol=1e-3)
        lengths = [
            (case.moving_landmarks - case.fixed_landmarks).double().numpy()
            @ case.moving_affine[:3, :3].T
            for case in (a, b)
        ]
        np.testing.assert_allclose(*(np.linalg.norm(each, axis=1) for each in lengths), atol=1e-3)
        # the lung is where it was: its centre in the world, to a part of a coarse voxel
        centres = [
            np.argwhere(case.fixed_labels[0, 0].numpy() > 0).mean(0) @ case.affine[:3, :3].T
            + case.affine[:3, 3]
            for case in (a, b)
        ]
        np.testing.assert_allclose(*centres, atol=0.6)
        assert (b.fixed[..., 0] == 1).all()  # soft tissue around the scan, as around the lung

    def test_a_spacing_that_is_none_is_refused(self, pair_root):
        with pytest.raises(ValueError, match="spacing_mm of at least 1, got 0"):
            ElastixLungCT(pair_root, spacing_mm=0)

    def test_instance_optimisation_starts_from_the_model(self, pair_root, tmp_path):
        """From the identity it moves the landmarks closer, and the run says that it was used."""
        refined = EXPERIMENTS["ad_regnet.table1.ad_regnet.elastix.6mm.refined"]
        assert refined.refine_steps == lungs.REFINE_STEPS and refined.objective == Objective()
        plain = replace(refined, model="identity", model_options={}, weights_of="", refine_steps=0)
        errors = {}
        for steps in (0, 30):
            one = replace(
                plain, name=f"steps{steps}", refine_steps=steps, dataset_options={"spacing_mm": 4}
            )
            evaluate(one, data=pair_root, root=tmp_path, progress=False)
            (run,) = read_runs(one.name, root=tmp_path)
            errors[steps] = run.values("tre_mm").mean()
            assert ("refine_steps" in run.info["experiment"]) == (steps > 0)
            label = run_label("ad_regnet.table1", one, run)
            assert ("instance optimization" in label) == (steps > 0)
        assert errors[30] < 0.9 * errors[0]

    def test_each_network_stands_there_without_and_with_it(self):
        tabled = [*TABLES["ad_regnet.table1"], *TABLES["lganetpp.table6"]]
        trained = {
            one.name for one in tabled if one.dataset == "elastix_lung_ct" and one.weights_of
        }
        networks = {EXPERIMENTS[name].weights_of for name in trained}
        learned = {one.name for one in tabled if one.dataset == "lung_semireal" and one.epochs}
        assert networks - learned == {"ad_regnet.table5.full.semireal.12mm"}
        assert learned <= networks and len(trained) == 2 * len(networks)
        for name in trained:
            other = (
                name.removesuffix(".refined") if name.endswith(".refined") else f"{name}.refined"
            )
            assert EXPERIMENTS[name].weights_of == EXPERIMENTS[other].weights_of in EXPERIMENTS
            spacings = {
                EXPERIMENTS[one].dataset_options["spacing_mm"]
                for one in (name, EXPERIMENTS[name].weights_of)
            }
            assert len(spacings) == 1


class TestTheLeak:
    def test_ten_cases_whose_landmarks_are_whole_voxels_of_the_file(self, phantoms):
        dataset = DIRLabPhantom(phantoms)
        assert len(dataset.ids("test")) == 10
        case = dataset.case("case8")
        assert len(case.fixed_landmarks) == 300 and landmarks_outside(case) == 0
        raw = np.array([1.8, 1.8, 2.5])
        world = case.moving_landmarks.numpy() @ case.affine[:3, :3].T + case.affine[:3, 3]
        np.testing.assert_allclose(world / raw, np.round(world / raw), atol=1e-3)
        moved = (case.moving_landmarks - case.fixed_landmarks).norm(dim=1) * 2
        assert 3 < float(moved.mean()) < 8 and float(moved.max()) < 15

    def test_nothing_has_to_be_there_before(self):
        assert open_dataset("dirlab_phantom", fold=2).ids("test") == ("case2", "case7")

    def test_two_trainings_differ_by_the_leak_alone(self, phantoms):
        clean = EXPERIMENTS["ad_regnet.leak.ad_regnet.fold1"]
        leaky = EXPERIMENTS["ad_regnet.leak.ad_regnet.leaky"]
        ids = {
            one.name: open_dataset(one.dataset, phantoms, **one.dataset_options)
            for one in (clean, leaky)
        }
        trained = {name: set(dataset.ids("train")) for name, dataset in ids.items()}
        tested = set(ids[clean.name].ids("test"))
        assert not tested & trained[clean.name] and tested <= trained[leaky.name]
        steps = {one.epochs * len(trained[one.name]) for one in (clean, leaky)}
        assert len(steps) == 1
        for field in ("model", "model_options", "objective", "precision", "seed", "batch_size"):
            assert getattr(clean, field) == getattr(leaky, field)
        assert leaky.notes.count("LEAKY") == 1 and "LEAKY" not in clean.notes

    def test_its_label_says_leaky(self, phantoms, tmp_path):
        leaky = replace(
            EXPERIMENTS["ad_regnet.leak.ad_regnet.leaky"],
            model="identity",
            model_options={},
            epochs=0,
        )
        evaluate(leaky, data=phantoms, root=tmp_path, progress=False)
        (run,) = read_runs(leaky.name, root=tmp_path)
        assert "leaky" in run_label("ad_regnet.leak", leaky, run).split(", ")
        assert len(run.case_means("tre_snapped_mm")) == 10


def test_the_planes_of_figure_five(pair_root, tmp_path):
    experiment = replace(
        EXPERIMENTS["ad_regnet.table1.ad_regnet.elastix.6mm"],
        model_options=TINY,
        dataset_options={"spacing_mm": 6},
    )
    torch.manual_seed(0)
    save_weights(tmp_path / "weights.safetensors", create_model("ad_regnet", **TINY))
    path = tmp_path / figures.FIGURE5
    keep_planes(experiment, tmp_path / "weights.safetensors", path, data=pair_root)
    with np.load(path) as planes:
        about = json.loads(str(planes["about"]))
        case = ElastixLungCT(pair_root, spacing_mm=6).case("right-lung")
        assert about == {"experiment": experiment.name, "case": case.id, "spacing_mm": [6, 6, 6]}
        for axis in range(3):
            middle = case.fixed[0, 0].select(axis, case.shape[axis] // 2).T
            np.testing.assert_allclose(planes[f"fixed_{axis}"], middle, atol=1e-3)
        spreads = [planes[f"spread{level}_1"] for level in range(5)]
        assert min(float(spread.min()) for spread in spreads) >= 0.99  # at least one voxel
        still = jacobian_determinant(torch.zeros(1, 3, *case.shape))
        assert planes["jacobian0_2"].shape == still[0, 0].select(2, 0).T.shape
        figure = figures.figure5(planes)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles[:3] == ["fixed", "moving", "warped\nmoving"] and len(titles) == 9
    figures.plt.close(figure)
