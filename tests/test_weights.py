"""Published weights: what is published, what a card promises, and what a network is shown."""

import json
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from regnet_lib import register
from regnet_lib.__main__ import main
from regnet_lib.batch import register_pairs
from regnet_lib.checkpoint import load_weights
from regnet_lib.data import BadInputError, Volume, open_dataset, phantom_pair, write_volume
from regnet_lib.evaluate import evaluate
from regnet_lib.experiments import EXPERIMENTS
from regnet_lib.metrics import dice
from regnet_lib.models import create_model
from regnet_lib.network_grid import network_grid, on_network_grid, to_trained_range
from regnet_lib.paths import weights_folder
from regnet_lib.spatial.world import voxel_to_world, world_to_voxel
from regnet_lib.train import train
from regnet_lib.trained import ChosenNetwork, choose_network
from regnet_lib.types import Registration
from regnet_lib.weights import (
    TrainedImages,
    describe_weights,
    digest,
    find_weights,
    is_name,
    published_weights,
)
from tools import publish_weights
from tools.publish_weights import publish
from tools.weights_page import weights_page

NAME = "teaching.matrix.voxelmorph1.brain.seed0"
COMMITTED = sorted(weights_folder().glob("*.json"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A checkout whose only experiment is trained, tested and published."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "paper").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGNET_HOME", str(folder))
        train(EXPERIMENTS[NAME], device="cpu", progress=False)
        evaluate(EXPERIMENTS[NAME], device="cpu", progress=False)
        publish(EXPERIMENTS[NAME])
    return folder


@pytest.fixture
def published(home, monkeypatch):
    monkeypatch.setenv("REGNET_HOME", str(home))
    return find_weights(NAME)


@pytest.fixture
def own(home, tmp_path, monkeypatch):
    """A copy to be damaged."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setenv("REGNET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def files(tmp_path):
    case = phantom_pair((16, 16, 16), seed=3)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    return {
        name: str(write_volume(tmp_path / f"{name}.nii.gz", image[0, 0].numpy(), affine))
        for name, image in (("moving", case.moving), ("fixed", case.fixed))
    }


class TestPublication:
    def test_the_file_holds_the_network_in_half_precision(self, home, published):
        network = create_model("voxelmorph1")
        load_weights(home / "runs" / NAME / "checkpoint.safetensors", network)
        with safe_open(published.verified(), framework="pt") as file:
            for name, tensor in network.state_dict().items():
                assert torch.equal(file.get_tensor(name), tensor.half())
        assert published.parameters == sum(one.numel() for one in network.parameters())

    def test_the_card_names_training_and_run(self, published):
        assert (published.model, published.dataset) == ("voxelmorph1", "phantom")
        assert (published.steps, published.steps_planned) == (8, 8)
        assert published.tested.experiment == NAME
        assert published.images.shape == (16, 16, 16) and published.images.axes == "RAS"
        mean = published.tested.case_means("tre_mm").mean()
        assert published.score_float16 == pytest.approx(mean, abs=0.05)

    def test_the_card_in_words(self, published):
        words = describe_weights(published)
        mean = published.tested.case_means("tre_mm").mean()
        assert (
            f"{mean:.2f} mm with the weights in float32" in words["test"]
            and "2 cases" in words["test"]
        )
        assert words["SHA-256"] == digest(published.path)
        assert "8 steps, float32" in words["training"]

    def test_a_checkpoint_that_no_run_has_tested(self, own):
        run = next((own / "results" / NAME).iterdir())
        info = json.loads((run / "run.json").read_text())
        info["training"]["seconds"] += 1
        (run / "run.json").write_text(json.dumps(info))
        with pytest.raises(BadInputError, match="expected a committed run .* found none"):
            publish(EXPERIMENTS[NAME])

    def test_rounding_that_matters_is_not_published(self, own, monkeypatch):
        monkeypatch.setattr(publish_weights, "TOLERANCES", {"tre_mm": -1.0})
        before = digest(find_weights(NAME).path)
        with pytest.raises(BadInputError, match="expected float16 to change tre_mm by at most"):
            publish(EXPERIMENTS[NAME])
        assert sorted(path.name for path in (own / "weights").iterdir()) == [
            f"{NAME}.json",
            f"{NAME}.safetensors",
        ]
        assert digest(find_weights(NAME).path) == before

    def test_fields_for_the_zoomed_warp_are_not_published(self):
        with pytest.raises(BadInputError, match="half-voxel zoom"):
            publish(EXPERIMENTS["lganetpp.table2.lganetpp.official.2mm.short"])


class TestNames:
    @pytest.mark.parametrize(
        ("weights", "expected"),
        [(NAME, True), ("pivit", True), ("w.safetensors", False), ("a/b", False), (None, False)],
    )
    def test_what_is_a_name(self, weights, expected):
        assert is_name(weights) is expected

    def test_an_existing_file_is_no_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine").touch()
        assert not is_name("mine")

    def test_a_wrong_name_lists_the_near_ones(self, published):
        with pytest.raises(BadInputError, match=f"got 'voxelmorph1'. Near: {NAME}"):
            find_weights("voxelmorph1")

    def test_without_a_checkout(self, tmp_path, monkeypatch, files):
        monkeypatch.setenv("REGNET_HOME", str(tmp_path / "nowhere"))
        with pytest.raises(BadInputError, match="part of the repository.*clone https"):
            register(**files, weights=NAME)
        assert published_weights() == {}

    def test_damage(self, own, files):
        path = find_weights(NAME).path
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(BadInputError, match="expected the SHA-256 .* damaged or was changed"):
            register(**files, weights=NAME)
        path.unlink()
        with pytest.raises(BadInputError, match="found no file"):
            register(**files, weights=NAME)

    @pytest.mark.parametrize("content", ["{}", "no card", '{"format": "another"}'])
    def test_a_broken_card(self, own, content):
        (own / "weights" / f"{NAME}.json").write_text(content)
        with pytest.raises(BadInputError, match="expected a card"):
            find_weights(NAME)

    def test_the_model_follows_from_the_weights(self, published, files):
        assert choose_network(None, NAME).model == "voxelmorph1"
        assert choose_network(None, published.path).model == "voxelmorph1"
        with pytest.raises(BadInputError, match="found those of 'voxelmorph1'"):
            choose_network("voxelmorph2", NAME)


class TestRegister:
    def test_arrays_get_the_answer_of_the_network(self, published):
        case = open_dataset("phantom", **published.dataset_options).case("brain-3000")
        network = choose_network(None, NAME).network.eval()
        with torch.no_grad():
            expected = network(case.moving, case.fixed).displacement
        result = register(moving=case.moving[0, 0], fixed=case.fixed[0, 0], weights=NAME)
        torch.testing.assert_close(result.displacement, expected)
        assert result.report["weights"] == NAME and result.report["model"] == "voxelmorph1"
        assert result.report["weights_sha256"] == published.sha256
        (note,) = result.report["notes"]
        assert "computed phantoms" in note and "taken as such" in note

    def test_files_on_the_grid_of_the_training_are_not_resampled(self, published, files):
        images = [
            torch.from_numpy(nibabel.load(files[name]).get_fdata(dtype=np.float32))[None, None]
            for name in ("moving", "fixed")
        ]
        with torch.no_grad():
            expected = choose_network(None, NAME).network.eval()(*images).displacement
        result = register(**files, weights=NAME)
        torch.testing.assert_close(result.displacement, expected)
        assert result.report["notes"] == []

    def test_many_pairs(self, published, files, tmp_path):
        (tmp_path / "pairs.csv").write_text("moving,fixed\nmoving.nii.gz,fixed.nii.gz\n")
        (outcome,) = register_pairs(tmp_path / "pairs.csv", tmp_path / "out", weights=NAME)
        assert outcome.status == "registered"


def test_the_page_of_the_book_shows_every_card(published):
    page = weights_page()
    assert page.count("\n## ") + page.startswith("## ") == 1
    assert f"--weights {NAME}" in page and published.sha256 in page
    assert f"/tree/main/results/{published.run})" in page


class TestCommands:
    def test_list_and_show(self, published, capsys):
        assert main(["weights", "list"]) == 0
        output = capsys.readouterr().out
        assert NAME in output and "16 x 16 x 16 voxels" in output
        assert main(["weights", "show", NAME]) == 0
        assert published.sha256 in capsys.readouterr().out
        assert main(["weights", "show", "voxelmorf"]) == 1
        assert NAME in capsys.readouterr().err

    def test_register(self, published, files, tmp_path, capsys):
        command = ["register", files["moving"], files["fixed"], "--weights", NAME]
        assert main([*command, "--out", str(tmp_path / "r")]) == 0
        report = json.loads((tmp_path / "r" / "report.json").read_text())
        assert report["weights"] == NAME
        assert "local_ncc_loss_after" in capsys.readouterr().out


TRAINED = TrainedImages("brains", (4.0, 4.0, 4.0), "RAS", (10, 12, 8))
# Left-handed, other order of axes, other voxels: axes L, S, P of 1.5, 3 and 2 mm.
OTHER = np.array([[-1.5, 0, 0, 30], [0, 0, -2.0, 44], [0, 3.0, 0, -25], [0, 0, 0, 1]])
SHAPE = (40, 16, 45)


class Constant(nn.Module):
    """A network that has learned one vector."""

    def __init__(self, vector):
        super().__init__()
        self.vector = vector

    def forward(self, moving, fixed):
        shape = tuple(fixed.shape[2:])
        return Registration(torch.tensor(self.vector).view(1, 3, 1, 1, 1).expand(1, 3, *shape))


def ramp(affine, shape):
    """Intensities that are linear in the world, 0 to 1."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = voxel_to_world(grid.reshape(-1, 3), affine) @ [1.0, 2.0, -1.0]
    return (places / 1000 + 0.5).reshape(shape).astype(np.float32)


class TestGrid:
    def test_the_same_kind_of_image_keeps_its_grid(self):
        affine = np.diag([4.0, 4.02, 4.0, 1.0])
        fixed = Volume(np.random.default_rng(0).random((9, 8, 7), np.float32), affine)
        grid = network_grid(fixed, TRAINED)
        assert grid.array.shape == (9, 8, 7)
        np.testing.assert_array_equal(grid.affine, affine)

    def test_another_kind_gets_voxels_and_axes_of_the_training(self):
        array = np.zeros(SHAPE, np.float32)
        array[4:30, 2:12, 5:35] = 1
        grid = network_grid(Volume(array, OTHER), TRAINED)
        assert grid.spacing_mm == pytest.approx(TRAINED.spacing_mm)
        assert "".join(nibabel.aff2axcodes(grid.affine)) == "RAS"
        # 26 x 1.5 mm, 30 x 2 mm and 10 x 3 mm: the middle one needs more than the training had
        assert grid.array.shape == (10, 15, 8)
        middle = voxel_to_world((np.array(grid.array.shape) - 1)[None] / 2, grid.affine)
        expected = voxel_to_world(np.array([[16.5, 6.5, 19.5]]), OTHER)
        np.testing.assert_allclose(middle, expected)

    @pytest.mark.parametrize("shift_mm", [(0.0, 0.0, 0.0), (3.0, -5.0, 4.0)])
    def test_a_linear_image_stays_linear(self, shift_mm):
        """`shift_mm` is a pre-alignment: where the fixed image has x, the moving one has x + it."""
        volume = Volume(ramp(OTHER, SHAPE), OTHER)
        grid = network_grid(volume, TRAINED)
        world = np.eye(4)
        world[:3, 3] = shift_mm
        image = on_network_grid(volume, grid, world)[0, 0].numpy()
        there = world @ grid.affine
        corners = np.stack(
            np.meshgrid(*map(np.arange, grid.array.shape), indexing="ij"), axis=-1
        ).reshape(-1, 3)
        voxels = world_to_voxel(voxel_to_world(corners, there), OTHER)
        inside = ((voxels > 5) & (voxels < np.array(SHAPE) - 6)).all(1).reshape(image.shape)
        assert inside.sum() > 50
        expected = ramp(there, grid.array.shape)
        np.testing.assert_allclose(image[inside], expected[inside], atol=1e-4)

    def test_larger_voxels_see_means(self):
        stripes = np.zeros((64, 64, 64), np.float32)
        stripes[::2] = 1  # at voxels of 4 mm nothing but gray
        volume = Volume(stripes, np.eye(4))
        image = on_network_grid(volume, network_grid(volume, TRAINED))[0, 0].numpy()
        assert abs(image[4:12, 4:12, 4:12] - 0.5).max() < 0.05

    def test_the_displacement_comes_back_in_voxels_of_the_fixed_image(
        self, published, tmp_path, monkeypatch
    ):
        rng = np.random.default_rng(1)
        paths = {
            name: write_volume(tmp_path / f"{name}.nii", rng.random(SHAPE, np.float32), OTHER)
            for name in ("moving", "fixed")
        }
        card = replace(published, images=TRAINED)
        chosen = ChosenNetwork("constant", {}, Constant((1.0, 2.0, -0.5)), "w", None, card)
        monkeypatch.setattr("regnet_lib.registration.choose_network", lambda *_, **__: chosen)
        result = register(**paths, weights="w")
        # (4, 8, -2) mm in RAS, along axes L, S and P
        expected = torch.tensor([-4 / 1.5, -2 / 3, -8 / 2]).view(1, 3, 1, 1, 1)
        torch.testing.assert_close(result.displacement, expected.expand(1, 3, *SHAPE))
        (note,) = result.report["notes"]
        assert "4 x 4 x 4 mm, axes RAS: registered on a grid of" in note


class TestIntensities:
    CT = TrainedImages("lungs", (6.0, 6.0, 6.0), "RAS", (8, 8, 8), (-1000.0, -200.0))

    def scaled(self, values, trained):
        array = np.array(values, np.float32).reshape(1, 1, -1)
        return to_trained_range(Volume(array, np.eye(4)), trained)

    def test_prepared_images_stay(self):
        assert self.scaled([0, 0.4, 0.9], self.CT).array.ravel() == pytest.approx([0, 0.4, 0.9])
        assert self.scaled([0, 0.4, 0.9], TRAINED).array.ravel() == pytest.approx([0, 0.4, 0.9])

    def test_others_are_scaled_by_their_range(self):
        assert self.scaled([10, 20, 30], TRAINED).array.ravel() == pytest.approx([0, 0.5, 1])

    def test_ct_goes_through_the_window(self):
        found = self.scaled([-1024, -600, 40], self.CT)
        assert found.array.ravel() == pytest.approx([0, 0.5, 1]) and not found.notes

    def test_other_images_for_a_network_of_ct_get_a_note(self):
        found = self.scaled([0, 100, 400], self.CT)
        assert found.array.ravel() == pytest.approx([0, 0.25, 1])
        assert "trained on CT from -1000 to -200 HU" in found.notes[0]


@pytest.mark.parametrize("card", COMMITTED, ids=[card.stem for card in COMMITTED])
class TestCommittedWeights:
    def test_are_complete(self, card):
        published = find_weights(card.stem)
        chosen = choose_network(None, card.stem)
        assert chosen.model == published.model
        assert sum(one.numel() for one in chosen.network.parameters()) <= published.parameters
        assert published.name in EXPERIMENTS
        words = describe_weights(published)
        assert all(words.values()) and "before registration" in words["test"]

    def test_half_precision_changes_nothing_that_counts(self, card):
        published = find_weights(card.stem)
        mean = published.tested.case_means(published.metric).mean()
        tolerance = publish_weights.TOLERANCES[published.metric]
        assert abs(published.score_float16 - mean) <= tolerance


@pytest.mark.data
def test_a_reader_gets_the_numbers_of_the_card(real_lpba40):
    """The test case S02 as a reader has it, arrays on the grid of the training."""
    light = [one for one in map(find_weights, (card.stem for card in COMMITTED))]
    light = [one for one in light if one.dataset == "lpba40" and one.model == "pivit"]
    if not light:
        pytest.skip("PIViT is not among the published weights")
    dataset = open_dataset("lpba40", real_lpba40, **light[0].dataset_options)
    case = dataset.case("S02")
    result = register(
        moving=case.moving,
        fixed=case.fixed,
        moving_labels=case.moving_labels,
        fixed_labels=case.fixed_labels,
        weights=light[0].name,
    )
    found = float(np.nanmean(dice(result.warped_labels, case.fixed_labels[0, 0], case.label_ids)))
    assert found == pytest.approx(light[0].tested.case_means("dice")["S02"], abs=0.002)


def test_the_repository_stays_small():
    assert sum(path.stat().st_size for path in weights_folder().glob("*")) < publish_weights.MANY
