"""Networks asked in two precisions, by `infer`, `register` and `evaluate`."""

import json
import platform
import subprocess
import sys

import pytest
import torch

from regnet_lib import EXPERIMENTS, __main__, create_model
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.evaluate import evaluate
from regnet_lib.inference import infer
from regnet_lib.models.sizes import run_at_valid_size
from regnet_lib.registration import register
from regnet_lib.train import train


@pytest.fixture(scope="module")
def network():
    """Moves voxels by about one, as a trained one does."""
    torch.manual_seed(0)
    model = create_model("voxelmorph2").eval()
    model.head.weight.data.mul_(1e5)
    return model


@pytest.fixture(scope="module")
def case():
    return phantom_pair((30, 32, 18), seed=0)


def plain(network, case):
    with torch.no_grad():
        return run_at_valid_size(network, case.moving, case.fixed).displacement


def test_float32_is_the_plain_pass(network, case):
    expected = plain(network, case)
    found = infer(network, case.moving, case.fixed)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_bfloat16_is_close_and_in_float32(network, case):
    expected = plain(network, case)
    found = infer(network, case.moving, case.fixed, "bfloat16")
    assert found.dtype == torch.float32
    gap = (found - expected).norm(dim=1)
    assert 0 < gap.mean() < 0.05 * expected.norm(dim=1).mean()


def test_the_answer_can_be_refined_and_the_network_trained_on(network, case):
    found = infer(network, case.moving, case.fixed)
    assert not (found.is_inference() or found.requires_grad)
    found.requires_grad_().square().sum().backward()
    run_at_valid_size(network, case.moving, case.fixed).displacement.sum().backward()
    assert all(weights.grad is not None for weights in network.parameters())


def test_methods_without_weights_keep_float32(case):
    model = create_model("gradient_descent", steps=(2, 2, 2))
    found = [infer(model, case.moving, case.fixed, one) for one in ("float32", "bfloat16")]
    assert torch.equal(*found)


def test_register_says_its_precision(case):
    images = {"moving": case.moving[0, 0].numpy(), "fixed": case.fixed[0, 0].numpy()}
    result = register(**images, model="voxelmorph2", refine_steps=1, precision="bfloat16")
    assert result.report["precision"] == "bfloat16"


def test_evaluate_says_its_precision(tmp_path):
    cell = EXPERIMENTS["teaching.matrix.voxelmorph2.brain.seed0"]
    train(cell, folder=tmp_path / "run", epochs=1, device="cpu", progress=False)
    weights = tmp_path / "run/checkpoint.safetensors"
    options = {"checkpoint": weights, "root": tmp_path / "results", "device": "cpu"}
    evaluate(cell, **options, progress=False)
    command = ["evaluate", cell.name, "--checkpoint", str(weights), "--device", "cpu"]
    command += ["--results", str(tmp_path / "results"), "--precision", "bfloat16"]
    assert __main__.main(command) == 0
    infos = [json.loads(file.read_text()) for file in (tmp_path / "results").rglob("run.json")]
    found = {info["evaluation"]["precision"] for info in infos}
    assert len(infos) == 2 and found == {"float32", "bfloat16"}


def test_freed_memory_is_kept_where_there_is_glibc():
    """`python -m benchmarks.run full_size` shows what it is worth."""
    code = "from regnet_lib.machine import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")
