"""Pairs whose images lie on different grids: one interpolation, and fields that open elsewhere."""

import csv
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file

from regnet_lib import register
from regnet_lib.__main__ import main
from regnet_lib.batch import register_pairs
from regnet_lib.data import BadInputError, Volume, phantom_pair, read_volume, write_volume
from regnet_lib.data.landmarks import read_landmarks, write_landmarks
from regnet_lib.models import create_model
from regnet_lib.prealign import prealign
from regnet_lib.report import render_report
from regnet_lib.spatial.world import (
    between_grids,
    resample_to_grid,
    voxel_to_world,
    world_to_voxel,
)

SHAPE = (32, 28, 24)
FIXED = np.array([[2.0, 0, 0, -31], [0, 2.0, 0, -20], [0, 0, 2.0, -10], [0, 0, 0, 1.0]])
ANGLE = np.deg2rad(12)


def other_grid():
    """Left-handed, tilted by 12 degrees, other spacing and shape, the same centre."""
    affine = np.eye(4)
    turn = [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]]
    affine[:3, :3] = np.array(turn) @ np.diag([-1.5, 1.9, 2.4])
    shape = (52, 40, 26)
    centre = voxel_to_world((np.array(SHAPE) - 1) / 2, FIXED)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Volume(np.zeros(shape, np.float32), affine)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Files of a phantom: the moving image, its labels and landmarks on a grid of their own."""
    folder = tmp_path_factory.mktemp("pair")
    case = phantom_pair(SHAPE, seed=4, noise=0.0)
    grid = other_grid()
    moving = resample_to_grid(Volume(case.moving[0, 0].numpy(), FIXED), grid)
    labels = resample_to_grid(Volume(case.moving_labels[0, 0].numpy(), FIXED), grid, labels=True)
    moved = world_to_voxel(voxel_to_world(case.moving_landmarks.numpy(), FIXED), grid.affine)
    files = {
        "moving": write_volume(folder / "moving.nii.gz", moving.array, grid.affine),
        "fixed": write_volume(folder / "fixed.nii.gz", case.fixed[0, 0].numpy(), FIXED),
        "moving_labels": write_volume(folder / "ml.nii.gz", labels.array, grid.affine),
        "fixed_labels": write_volume(folder / "fl.nii.gz", case.fixed_labels[0, 0].numpy(), FIXED),
        "landmarks": write_landmarks(
            folder / "fixed.csv", case.fixed_landmarks.numpy(), FIXED, space="lps"
        ),
        "moving_landmarks": write_landmarks(folder / "moving.csv", moved, grid.affine, space="lps"),
    }
    return {name: str(path) for name, path in files.items()}


@pytest.fixture(scope="module")
def registered(pair, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "r"
    result = register(**pair, landmark_space="lps", resample_to="fixed", out=out, also=("h5",))
    return out, result


def test_nothing_is_resampled_unasked(pair, tmp_path):
    with pytest.raises(BadInputError, match=r"moving.nii.gz: expected the shape .*--resample-to"):
        register(moving=pair["moving"], fixed=pair["fixed"], out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_everything_improves(registered):
    metrics = registered[1].report["metrics"]
    assert metrics["local_ncc_loss_after"] < 0.8 * metrics["local_ncc_loss_before"]
    assert metrics["dice_after"] > metrics["dice_before"] + 0.03
    assert metrics["tre_after_mm"] < 0.7 * metrics["tre_before_mm"]


def test_results_lie_on_the_fixed_grid(pair, registered):
    fixed = nibabel.load(pair["fixed"])
    for name in ("warped", "warped_labels", "jacobian"):
        image = nibabel.load(registered[0] / f"{name}.nii.gz")
        assert image.shape == fixed.shape
        np.testing.assert_allclose(image.affine, fixed.affine, atol=1e-5)
    labels = read_volume(registered[0] / "warped_labels.nii.gz", labels=True).array
    assert set(np.unique(labels)) <= set(
        np.unique(read_volume(pair["fixed_labels"], labels=True).array)
    )


def inside(result, moving):
    grid = np.stack(np.meshgrid(*[np.arange(side) for side in SHAPE], indexing="ij"), axis=-1)
    places = grid + np.moveaxis(result.displacement[0].numpy(), 0, -1)
    matrix = between_grids(moving.affine, result.affine)
    places = places @ matrix[:3, :3].T + matrix[:3, 3]
    within = ((places > 0) & (places < np.array(moving.array.shape) - 1)).all(-1)
    assert within.mean() > 0.5
    return within


@pytest.mark.parametrize("suffix", ["nii.gz", "h5"])
def test_simpleitk_makes_the_same_image_of_it(pair, registered, suffix):
    out, result = registered
    path = str(out / f"displacement.{suffix}")
    if suffix == "h5":
        transform = sitk.ReadTransform(path)
    else:
        vectors = sitk.Cast(sitk.ReadImage(path), sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(vectors)
    images = [sitk.ReadImage(pair[name], sitk.sitkFloat64) for name in ("moving", "fixed")]
    theirs = sitk.GetArrayFromImage(sitk.Resample(*images, transform, sitk.sitkLinear, 0.0)).T
    within = inside(result, read_volume(pair["moving"]))
    assert np.abs(result.warped - theirs)[within].max() < 1e-3 * np.ptp(result.warped)
    fixed = read_landmarks(pair["landmarks"], np.eye(4))  # LPS as it stands
    ours = read_landmarks(out / "warped_landmarks.csv", np.eye(4))
    theirs = np.array([transform.TransformPoint(point.tolist()) for point in fixed])
    assert np.linalg.norm(ours - theirs, axis=1).max() < 0.01


def test_ants_makes_the_same_image_of_it(pair, registered):
    ants = pytest.importorskip("ants", reason="needs antspyx (the extra `classical`)")
    import pandas as pd

    out, result = registered
    path = [str(out / "displacement.nii.gz")]
    images = [ants.image_read(pair[name]) for name in ("fixed", "moving")]
    theirs = ants.apply_transforms(*images, path, interpolator="linear").numpy()
    within = inside(result, read_volume(pair["moving"]))
    assert np.abs(result.warped - theirs)[within].max() < 1e-3 * np.ptp(result.warped)
    columns = ["x", "y", "z"]
    fixed = pd.DataFrame(read_landmarks(pair["landmarks"], np.eye(4)), columns=columns)
    ours = read_landmarks(out / "warped_landmarks.csv", np.eye(4))
    theirs = ants.apply_transforms_to_points(3, fixed, path)[columns].to_numpy()
    assert np.linalg.norm(ours - theirs, axis=1).max() < 0.01


def test_the_jacobian_is_the_local_change_of_volume(registered):
    stored = nibabel.load(registered[0] / "jacobian.nii.gz").get_fdata()
    metrics = registered[1].report["metrics"]
    assert stored.min() == pytest.approx(metrics["jacobian_min"], abs=1e-5)
    assert 0.8 < stored.mean() < 1.2


def test_the_report_tells_which_files_these_were(pair, registered):
    import hashlib

    report = json.loads((registered[0] / "report.json").read_text())
    with open(pair["moving"], "rb") as file:
        assert report["moving"]["sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    assert set(report["files"]) == {path.name for path in registered[0].iterdir()}


def test_the_page_is_complete_and_loads_nothing(registered):
    page = (registered[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 * 9 and page.count("<svg") == 3
    assert 'src="http' not in page and "<script" not in page
    assert "Sagittal" in page and "landmark error" in page and "fixed.nii.gz" in page


def test_names_of_files_cannot_break_the_page(registered):
    _, result = registered
    report = result.report | {"files": ["<script>alert(1)</script>"]}
    image = np.random.default_rng(0).random(SHAPE)
    pictures = dict.fromkeys(("fixed", "moving", "warped", "jacobian"), image)
    page = render_report(report, pictures, result.displacement, FIXED)
    assert "<script>" not in page and "&lt;script&gt;" in page


def png_pixels(uri):
    """Decode with Pillow what `report` encodes by hand."""
    import base64
    import io

    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_pictures_are_valid(shape):
    from regnet_lib.report import _png

    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(png_pixels(_png(pixels)), pixels)


class TestPrealignment:
    @pytest.fixture(scope="class")
    def turned(self):
        """A phantom, and the same turned by 10 degrees, shifted by 9 mm and scaled by 5 %."""
        case = phantom_pair((40, 36, 32), seed=2, noise=0.0)
        affine = np.diag([2.0, 2, 2, 1])
        moving = Volume(case.moving[0, 0].numpy(), affine)
        world = np.eye(4)
        a = np.deg2rad(10)
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        world[:3, :3] = 1.05 * turn
        centre = voxel_to_world((np.array(moving.array.shape) - 1) / 2, affine)
        world[:3, 3] = centre - world[:3, :3] @ centre + [6, -5, 4]
        # fixed(x) = moving(world x): the header of `moving` undone by `world`
        undone = Volume(moving.array, np.linalg.inv(world) @ affine)
        fixed = resample_to_grid(undone, Volume(np.zeros((38, 40, 34), np.float32), affine))
        return moving, fixed, world

    def test_the_matrix_is_found(self, turned):
        moving, fixed, world = turned
        found = prealign(moving, fixed, "affine")
        corners = voxel_to_world(np.array([[4, 4, 4], [30, 30, 26], [30, 5, 20]]), fixed.affine)
        expected = corners @ world[:3, :3].T + world[:3, 3]
        ours = corners @ found[:3, :3].T + found[:3, 3]
        assert np.linalg.norm(ours - expected, axis=1).max() < 1.0
        np.testing.assert_array_equal(found, prealign(moving, fixed, "affine"))

    def test_planes(self):
        case = phantom_pair((48, 44), seed=1, noise=0.0)
        affine = np.diag([1.5, 1.5, 1.0, 1.0])
        moving = Volume(case.moving[0, 0].numpy(), affine)
        world = np.eye(4)
        world[:2, :2] = [[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]]
        centre = voxel_to_world((np.array(moving.array.shape) - 1) / 2, affine)
        world[:2, 3] = centre - world[:2, :2] @ centre + [4, -3]
        undone = Volume(moving.array, np.linalg.inv(world) @ affine)
        fixed = resample_to_grid(undone, Volume(np.zeros((46, 50), np.float32), affine))
        np.testing.assert_allclose(prealign(moving, fixed, "rigid"), world, atol=0.3)

    def test_register_uses_it(self, turned, tmp_path):
        moving, fixed, world = turned
        files = [
            write_volume(tmp_path / f"{name}.nii.gz", volume.array, volume.affine)
            for name, volume in (("moving", moving), ("fixed", fixed))
        ]
        result = register(
            moving=files[0],
            fixed=files[1],
            model="identity",
            prealign="rigid",
            out=tmp_path / "r",
        )
        metrics = result.report["metrics"]
        assert metrics["ncc_before"] < 0.85 < metrics["ncc_prealigned"]
        assert metrics["ncc_after"] == pytest.approx(metrics["ncc_prealigned"], abs=0.01)
        vectors = sitk.ReadImage(str(tmp_path / "r" / "displacement.nii.gz"))
        transform = sitk.DisplacementFieldTransform(sitk.Cast(vectors, sitk.sitkVectorFloat64))
        images = [sitk.ReadImage(str(path), sitk.sitkFloat64) for path in files]
        theirs = sitk.GetArrayFromImage(sitk.Resample(*images, transform, sitk.sitkLinear)).T
        within = np.zeros(result.warped.shape, bool)
        within[8:-8, 8:-8, 8:-8] = True
        assert np.abs(result.warped - theirs)[within].max() < 1e-3 * np.ptp(result.warped)
        assert "pre-aligned" in (tmp_path / "r" / "report.html").read_text()


class TestPlanes:
    @pytest.fixture(scope="class")
    def plane(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("plane")
        case = phantom_pair((48, 40), seed=1)
        affine = np.diag([-1.5, 1.5, 1.0, 1.0])
        for name, image in (("moving", case.moving), ("fixed", case.fixed)):
            write_volume(folder / f"{name}.nii.gz", image[0, 0].numpy(), affine)
            write_volume(folder / f"{name}_slice.nii.gz", image[0, 0, :, :, None].numpy(), affine)
            byte = (255 * image[0, 0].numpy().clip(0, 1)).astype(np.uint8)
            sitk.WriteImage(sitk.GetImageFromArray(byte.T), str(folder / f"{name}.png"))
        return folder, case

    @pytest.mark.parametrize("form", [".nii.gz", "_slice.nii.gz", ".png"])
    def test_slices_register(self, plane, tmp_path, form):
        folder, case = plane
        result = register(
            moving=folder / f"moving{form}",
            fixed=folder / f"fixed{form}",
            landmarks=case.fixed_landmarks,
            moving_landmarks=case.moving_landmarks,
            out=tmp_path / "r",
        )
        metrics = result.report["metrics"]
        assert result.displacement.shape == (1, 2, 48, 40)
        assert metrics["tre_after_mm"] < 0.7 * metrics["tre_before_mm"]
        vectors = sitk.ReadImage(str(tmp_path / "r" / "displacement.nii.gz"))
        transform = sitk.DisplacementFieldTransform(sitk.Cast(vectors, sitk.sitkVectorFloat64))
        moving = sitk.ReadImage(str(folder / "moving.nii.gz"), sitk.sitkFloat64)
        if form == ".png":
            moving = sitk.Cast(sitk.ReadImage(str(folder / "moving.png")), sitk.sitkFloat64)
        fixed = sitk.ReadImage(str(tmp_path / "r" / "warped.nii.gz"), sitk.sitkFloat64)
        theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear)).T
        difference = np.abs(result.warped - theirs)[5:-5, 5:-5]
        assert difference.max() < 1e-3 * np.ptp(result.warped)
        assert (tmp_path / "r" / "report.html").read_text().count("<svg") == 1

    def test_networks_want_volumes(self, plane):
        folder, _ = plane
        files = {name: folder / f"{name}.nii.gz" for name in ("moving", "fixed")}
        with pytest.raises(BadInputError, match="3-D image .* 'voxelmorph2'"):
            register(**files, model="voxelmorph2", refine_steps=1)

    def test_a_plane_and_a_volume(self, plane):
        folder, _ = plane
        with pytest.raises(BadInputError, match="2 dimensions"):
            register(moving=np.random.rand(8, 8, 8), fixed=folder / "fixed.nii.gz")


@pytest.mark.parametrize("loss", ["mind_ssc", "mutual_information", "mse", "global_ncc"])
def test_other_losses(loss):
    case = phantom_pair((24, 24, 20), seed=3)
    # another scanner: the same anatomy with reversed grey values
    moving = 1 - case.moving if loss in ("mind_ssc", "mutual_information") else case.moving
    result = register(
        moving=moving,
        fixed=case.fixed,
        moving_labels=case.moving_labels,
        fixed_labels=case.fixed_labels,
        model="identity",
        refine_steps=60,
        loss=loss,
    )
    metrics = result.report["metrics"]
    assert metrics["dice_after"] > metrics["dice_before"]


class TestWeights:
    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        return create_model("voxelmorph1")

    def test_bare_weights(self, network, pair, tmp_path):
        save_file(network.state_dict(), tmp_path / "w.safetensors")
        result = register(
            moving=pair["moving"],
            fixed=pair["fixed"],
            resample_to="fixed",
            model="voxelmorph1",
            weights=tmp_path / "w.safetensors",
        )
        assert result.displacement.shape == (1, 3, *SHAPE)

    def test_a_checkpoint_says_which_options_it_needs(self, pair, tmp_path):
        narrow = create_model("ad_regnet", channels=(4, 4, 8, 8, 8))
        settings = {"model": "ad_regnet", "model_options": {"channels": [4, 4, 8, 8, 8]}}
        path = tmp_path / "c.safetensors"
        save_file(narrow.state_dict(), path, {"settings": json.dumps(settings)})
        files = {"moving": pair["moving"], "fixed": pair["fixed"], "resample_to": "fixed"}
        result = register(**files, model="ad_regnet", weights=path)
        assert result.report["model_options"] == {"channels": [4, 4, 8, 8, 8]}
        with pytest.raises(BadInputError, match="found those of 'ad_regnet'"):
            register(**files, model="voxelmorph1", weights=path)

    def test_weights_that_are_not_numbers(self, network, pair, tmp_path):
        state = {name: tensor * torch.nan for name, tensor in network.state_dict().items()}
        save_file(state, tmp_path / "nan.safetensors")
        files = {"moving": pair["fixed"], "fixed": pair["fixed"]}
        with pytest.raises(BadInputError, match="finite displacement"):
            register(**files, model="voxelmorph1", weights=tmp_path / "nan.safetensors")


class TestBatch:
    @pytest.fixture
    def batch(self, pair, tmp_path):
        rows = [("name", "moving", "fixed"), ("good", pair["moving"], pair["fixed"])]
        rows += [("gone", "gone.nii.gz", pair["fixed"]), ("again", pair["fixed"], pair["fixed"])]
        path = tmp_path / "pairs.csv"
        path.write_text("\ufeff" + "\r\n".join(",".join(row) for row in rows))
        return path

    def arguments(self, batch, *more):
        out = batch.parent / "out"
        settings = ("--model", "identity", "--resample-to", "fixed")
        return ["register-pairs", str(batch), "--out", str(out), *settings, *more]

    def test_a_failed_pair_does_not_stop_the_others(self, batch, capsys):
        assert main(self.arguments(batch)) == 1
        captured = capsys.readouterr()
        assert "2 of 3 pairs done" in captured.out
        assert captured.err.startswith("gone: failed: ") and "gone.nii.gz" in captured.err
        out = batch.parent / "out"
        with open(out / "summary.csv", newline="") as file:
            rows = {row["name"]: row for row in csv.DictReader(file)}
        assert [row["status"] for row in rows.values()] == ["registered", "failed", "registered"]
        assert float(rows["again"]["ncc_after"]) == pytest.approx(1)
        assert "does not exist" in rows["gone"]["error"]
        assert (out / "good" / "report.json").is_file() and not (out / "gone").exists()

    def test_going_on_later(self, batch, capsys):
        assert main(self.arguments(batch)) == 1
        stamp = (batch.parent / "out" / "good" / "report.json").stat().st_mtime_ns
        assert main(self.arguments(batch)) == 1  # nothing is replaced unasked
        assert "--skip-finished" in capsys.readouterr().err
        text = batch.read_text("utf-8-sig").replace("gone.nii.gz", text_of(batch, "again"))
        batch.write_text(text)
        assert main(self.arguments(batch, "--skip-finished")) == 0
        assert "good: kept" in capsys.readouterr().out
        assert (batch.parent / "out" / "good" / "report.json").stat().st_mtime_ns == stamp

    def test_all_pairs_are_named_when_the_file_does_not(self, pair, tmp_path):
        path = tmp_path / "pairs.csv"
        path.write_text(f"moving,fixed\n{pair['fixed']},{pair['fixed']}\n")
        outcomes = register_pairs(path, tmp_path / "out", model="identity")
        assert [outcome.name for outcome in outcomes] == ["pair-001"]


def text_of(batch, name):
    """The moving image of the row of that name."""
    with open(batch, newline="", encoding="utf-8-sig") as file:
        return next(row["moving"] for row in csv.DictReader(file) if row["name"] == name)
