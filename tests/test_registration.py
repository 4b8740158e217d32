"""`register` and the command line: files in, files out, and no bad input that hurts."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import regnet_lib
from regnet_lib.__main__ import main
from regnet_lib.data import phantom_pair, read_volume, write_volume

AFFINES = {
    "RAS": np.diag([1.5, 1.0, 2.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.2, 1.0]),
    "LAS": np.array([[-1.1, 0, 0, 30], [0, 1.0, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]]),
}
ANGLE = np.deg2rad(20)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array(
    [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]]
) @ np.diag([1.2, 1.0, 2.5])
OBLIQUE[:3, 3] = (11.0, -7.0, 3.0)
AFFINES["oblique"] = OBLIQUE


@pytest.fixture(scope="module")
def case():
    return phantom_pair((28, 24, 20), seed=4)


@pytest.fixture(params=AFFINES)
def files(request, tmp_path, case):
    affine = AFFINES[request.param]
    paths = {}
    for name, image in (("moving", case.moving), ("fixed", case.fixed)):
        paths[name] = write_volume(tmp_path / f"{name}.nii.gz", image[0, 0].numpy(), affine)
    for name, labels in (("moving", case.moving_labels), ("fixed", case.fixed_labels)):
        paths[f"{name}_labels"] = write_volume(
            tmp_path / f"{name}_labels.nii.gz", labels[0, 0].numpy(), affine
        )
    return paths


def resample_with_simpleitk(moving, fixed, displacement, default):
    """What another tool makes of our displacement file."""
    field = sitk.Cast(sitk.ReadImage(str(displacement)), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    images = [sitk.ReadImage(str(path), sitk.sitkFloat64) for path in (moving, fixed)]
    warped = sitk.Resample(images[0], images[1], transform, sitk.sitkLinear, default)
    return sitk.GetArrayFromImage(warped).T


def test_simpleitk_reproduces_the_warped_image(files, tmp_path):
    out = tmp_path / "out"
    result = regnet_lib.register(
        moving=files["moving"],
        fixed=files["fixed"],
        moving_labels=files["moving_labels"],
        fixed_labels=files["fixed_labels"],
        out=out,
    )
    field = out / "displacement.nii.gz"
    theirs = resample_with_simpleitk(files["moving"], files["fixed"], field, 0)
    ours = nibabel.load(out / "warped.nii.gz").get_fdata()
    # ITK clamps within half a voxel outside the grid where zeros fade: compare where u stays
    # inside.
    shape = torch.tensor(ours.shape).view(3, 1, 1, 1)
    grid = torch.stack(torch.meshgrid(*[torch.arange(s) for s in ours.shape], indexing="ij"))
    target = grid + result.displacement[0]
    inside = ((target >= 0) & (target <= shape - 1)).all(0).numpy()
    assert inside.mean() > 0.5
    assert np.abs(ours - theirs)[inside].max() < 1e-3
    metrics = json.loads((out / "report.json").read_text())["metrics"]
    assert metrics["dice_after"] > metrics["dice_before"]
    assert metrics["local_ncc_loss_after"] < metrics["local_ncc_loss_before"]
    np.testing.assert_allclose(nibabel.load(out / "warped.nii.gz").affine, result.affine, atol=1e-5)


def test_arrays_and_landmarks(case):
    result = regnet_lib.register(
        moving=case.moving, fixed=case.fixed[0, 0].numpy(), landmarks=case.fixed_landmarks.numpy()
    )
    before = (case.fixed_landmarks - case.moving_landmarks).norm(dim=1).mean()
    error = torch.from_numpy(result.warped_landmarks) - case.moving_landmarks
    assert error.norm(dim=1).mean() < 0.7 * before


def test_refinement_improves_the_match(case):
    plain = regnet_lib.register(moving=case.moving, fixed=case.fixed, model="identity")
    refined = regnet_lib.register(
        moving=case.moving, fixed=case.fixed, model="identity", refine_steps=40
    )
    loss = "local_ncc_loss_after"
    assert refined.report["metrics"][loss] < plain.report["metrics"][loss]


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def pair(tmp_path, case):
    return [
        write_volume(tmp_path / f"{name}.nii.gz", image[0, 0].numpy(), np.eye(4))
        for name, image in (("moving", case.moving), ("fixed", case.fixed))
    ]


def test_command_register(pair, tmp_path, capsys):
    code, output, _ = run(capsys, "register", *pair, "--out", tmp_path / "r", "--model", "identity")
    assert code == 0 and "local_ncc_loss_after" in output
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "displacement.nii.gz",
        "displacement.json",
        "warped.nii.gz",
        "jacobian.nii.gz",
        "report.html",
        "report.json",
    }
    np.testing.assert_allclose(
        read_volume(tmp_path / "r" / "warped.nii.gz").array,
        read_volume(pair[0]).array,
        atol=1e-6,
    )
    code, _, error = run(capsys, "register", *pair, "--out", tmp_path / "r", "--model", "identity")
    assert code == 1 and "--overwrite" in error


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_finite(path):
    volume = read_volume(path)
    volume.array[1, 2, 3] = np.nan
    write_volume(path, volume.array, volume.affine, overwrite=True)


def other_shape(path):
    volume = read_volume(path)
    write_volume(path, volume.array[:-1], volume.affine, overwrite=True)


def other_affine(path):
    volume = read_volume(path)
    write_volume(path, volume.array, np.diag([2.0, 1, 1, 1]), overwrite=True)


def constant(path):
    volume = read_volume(path)
    write_volume(path, np.ones_like(volume.array), volume.affine, overwrite=True)


BAD_MOVING = {
    "missing": (lambda path: path.unlink(), "moving.nii.gz: the file does not exist"),
    "truncated": (truncated, "moving.nii.gz: .*(ends early|damaged)"),
    "text": (lambda path: path.write_text("<!DOCTYPE html>"), "moving.nii.gz: the header"),
    "not finite": (not_finite, r"moving.nii.gz: .*1 that are NaN .*\(1, 2, 3\)"),
    "other shape": (other_shape, r"moving.nii.gz: expected the shape of .*fixed.nii.gz"),
    "other affine": (other_affine, "moving.nii.gz: expected the voxel-to-world matrix"),
    "constant": (constant, "contrast"),
}


@pytest.mark.parametrize("fault", BAD_MOVING)
def test_bad_input_gives_one_line_and_writes_nothing(fault, pair, tmp_path, capsys):
    import re

    damage, message = BAD_MOVING[fault]
    damage(pair[0])
    out = tmp_path / "result"
    code, _, error = run(capsys, "register", *pair, "--out", out)
    assert code == 1
    assert len(error.strip().splitlines()) == 1 and re.search(message, error), error
    assert not out.exists() or not any(out.iterdir())


def test_a_network_without_weights_is_refused(pair, tmp_path, capsys):
    out = tmp_path / "r"
    code, _, error = run(capsys, "register", *pair, "--out", out, "--model", "voxelmorph2")
    assert code == 1 and "weights" in error


def test_unknown_names_and_usage(capsys):
    code, _, error = run(capsys, "train", "lganetpp.table2.voxelmorf")
    assert code == 1 and "voxelmorph2" in error
    code, _, error = run(capsys, "models", "voxelmorph")
    assert code == 1 and "voxelmorph2" in error
    with pytest.raises(SystemExit) as stop:
        main(["register"])
    assert stop.value.code == 2
    capsys.readouterr()


def test_models_doctor_and_table(capsys):
    code, output, _ = run(capsys, "models")
    assert code == 0
    for name in regnet_lib.MODELS:
        assert name in output
    assert "301,411" in output and "6,602,260" in output
    code, output, _ = run(capsys, "doctor")
    assert code == 0 and "FAILED" not in output and "torch" in output
    code, output, _ = run(capsys, "table", "lganetpp.table2")
    assert code == 0 and "73.52 ± 0.09" in output


def test_command_train_and_evaluate(tmp_path, capsys):
    name = "teaching.phantom.voxelmorph2"
    folder = tmp_path / "run"
    code, output, _ = run(capsys, "train", name, "--folder", folder, "--epochs", "1")
    assert code == 0 and "finished: step 8 of 8" in output
    code, output, _ = run(
        capsys,
        *("evaluate", name, "--checkpoint", folder / "checkpoint.safetensors"),
        *("--results", tmp_path / "results"),
    )
    assert code == 0 and "dice" in output
    info = next((tmp_path / "results").rglob("run.json"))
    assert json.loads(info.read_text())["training"]["step"] == 8


@pytest.mark.parametrize("what", ["regnet_lib", "regnet_lib.data; regnet_lib.data.read_volume"])
def test_import_is_lazy(what):
    import subprocess
    import sys

    code = (
        f"import sys, {what}\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'pandas', 'nibabel'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
