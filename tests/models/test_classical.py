"""Registration without training: it improves the match, and it repeats."""

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
