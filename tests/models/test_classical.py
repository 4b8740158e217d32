"""Registration without training: it improves the match, and it repeats."""

import sys

import numpy as np
import pytest
import torch

from regnet_lib.data import phantom_pair
from regnet_lib.losses import local_ncc
from regnet_lib.models import create_model
from regnet_lib.spatial import folding_fraction, warp


@pytest.fixture(scope="module")
def case():
    return phantom_pair((32, 32, 32), seed=6)


@pytest.mark.parametrize("shape", [(24, 30, 27), (40, 33)])
def test_gradient_descent_improves_the_match_in_3d_and_2d(shape):
    pair = phantom_pair(shape, seed=3)
    displacement = create_model("gradient_descent")(pair.moving, pair.fixed).displacement
    before = float(local_ncc(pair.moving, pair.fixed))
    after = float(local_ncc(warp(pair.moving, displacement), pair.fixed))
    assert displacement.shape == (1, len(shape), *shape)
    assert after < 0.9 * before
    assert float(folding_fraction(displacement)) < 0.02


def test_gradient_descent_of_a_batch_equals_single_cases(case):
    other = phantom_pair((32, 32, 32), seed=7)
    model = create_model("gradient_descent", steps=(10, 5))
    pairs = [torch.cat([getattr(c, name) for c in (case, other)]) for name in ("moving", "fixed")]
    together = model(*pairs).displacement
    alone = model(other.moving, other.fixed).displacement
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-5)


def test_syn_repeats_and_improves_the_match(case):
    pytest.importorskip("ants", reason="the extra 'classical' (antspyx) is not installed")
    state = np.random.get_state()[1].copy()
    first, second = (create_model("syn")(case.moving, case.fixed).displacement for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (1, 3, 32, 32, 32) and first.dtype == torch.float32
    before = float(local_ncc(case.moving, case.fixed))
    assert float(local_ncc(warp(case.moving, first), case.fixed)) < 0.95 * before
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("shape", [(40, 42, 44), (96, 72)])
def test_syn_through_dipy_finds_the_displacement(shape, capfd):
    """Direction, axis order and unit of another program's field, against a known one."""
    pytest.importorskip("dipy", reason="the extra 'classical' (dipy) is not installed")
    pair = phantom_pair(shape, seed=6, kind="lung", noise=0.0, max_displacement_voxels=3.0)
    model = create_model("syn", engine="dipy")
    displacement = model(pair.moving, pair.fixed).displacement
    assert displacement.shape == (1, len(shape), *shape) and displacement.dtype == torch.float32
    inside = pair.fixed_labels[:, 0] > 0
    error = (displacement - pair.displacement).norm(dim=1)[inside].mean()
    assert error < 0.35 * pair.displacement.norm(dim=1)[inside].mean()
    assert capfd.readouterr() == ("", "")


def test_syn_through_dipy_repeats_in_a_batch():
    pytest.importorskip("dipy", reason="the extra 'classical' (dipy) is not installed")
    one, other = (phantom_pair((64, 48), seed=seed) for seed in (6, 7))
    pairs = [torch.cat([getattr(c, name) for c in (one, other)]) for name in ("moving", "fixed")]
    model = create_model("syn", engine="dipy")
    assert model.valid_shape((32, 40, 50)) == (40, 40, 50)
    together = model(*pairs).displacement
    assert torch.equal(together[1:], model(other.moving, other.fixed).displacement)


@pytest.mark.usefixtures("unchecked")
def test_syn_names_its_engines():
    with pytest.raises(ValueError, match="'ants' or 'dipy', got 'elastix'"):
        create_model("syn", engine="elastix")


@pytest.mark.parametrize(("engine", "package"), [("ants", "antspyx"), ("dipy", "dipy")])
def test_syn_without_its_package_names_the_extra(case, engine, package, monkeypatch):
    module = {"ants": "ants", "dipy": "dipy.align.imwarp"}[engine]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*regnet_lib\[classical\]"):
        create_model("syn", engine=engine)(case.moving, case.fixed)
