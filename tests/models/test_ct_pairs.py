"""deeds and ConvexAdam on a pair of lungs: about as close as SyN, or closer."""

import pytest
import torch

from regnet_lib.data import phantom_pair
from regnet_lib.models import create_model
from regnet_lib.spatial import warp


@pytest.fixture(scope="module")
def case():
    return phantom_pair((40, 40, 40), seed=1, kind="lung")


def error_in_the_lungs(displacement: torch.Tensor, case) -> float:
    """Mean absolute difference to the fixed image."""
    difference = (warp(case.moving, displacement, padding="border") - case.fixed).abs()
    return difference[case.fixed_labels > 0].mean().item()


@pytest.fixture(scope="module")
def of_syn(case) -> float:
    pytest.importorskip("ants")
    return error_in_the_lungs(create_model("syn")(case.moving, case.fixed).displacement, case)


@pytest.mark.parametrize(
    "model, options, tolerance",
    [("deeds", {}, 1.1), ("convexadam", {"preset": "lung"}, 1.0)],
)
def test_is_as_close_as_syn(case, of_syn, model, options, tolerance):
    before = error_in_the_lungs(torch.zeros(1, 3, *case.shape), case)
    displacement = create_model(model, **options)(case.moving, case.fixed).displacement
    found = error_in_the_lungs(displacement, case)
    assert found < 0.6 * before
    assert found <= tolerance * of_syn
