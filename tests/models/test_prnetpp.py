"""PRNet++ against its version in SmileCode, and what differs between its two versions."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from pyramid_networks import (
    check_behaviour,
    check_golden,
    check_sizes,
    parameter_count,
    read_golden,
    sides,
    smooth_images,
)

from regnet_lib.models.official_weights import load_official_state_dict
from regnet_lib.models.prnetpp import PRNetPP, box_correlation, stride_correlation

SHAPE = (32, 48, 32)


def test_parameter_counts_are_the_published_ones():
    assert parameter_count(PRNetPP()) == 613_855
    assert parameter_count(PRNetPP("lganet")) == 1_236_965


def test_errors(unchecked):
    with pytest.raises(ValueError, match=r"PRNetPP: .*official.*lganet.*'paper'"):
        PRNetPP("paper")
    with pytest.raises(ValueError, match=r"compat=True with preset=.lganet.*'official'"):
        PRNetPP(compat=True)
    with pytest.raises(ValueError, match="official key names, got PRNetPP"):
        load_official_state_dict(PRNetPP(), {})


@pytest.mark.golden
def test_golden(goldens):
    check_golden(PRNetPP("lganet", compat=True), read_golden(goldens, "PRNetpp_smile"))


def test_sizes():
    check_sizes(PRNetPP(), multiple=16, least=32)


@pytest.mark.parametrize("options", [("official",), ("lganet",)])
def test_behaviour(options):
    torch.manual_seed(0)
    model = PRNetPP(*options)
    for estimator in model.estimators:  # away from the almost motionless start
        torch.nn.init.normal_(estimator.head.weight, std=0.05)
    check_behaviour(model, SHAPE)


def test_starts():
    torch.manual_seed(0)
    registration = PRNetPP("lganet")(*smooth_images(SHAPE))
    assert 0 < registration.displacement.abs().max() < 0.01
    assert sides(registration.pyramid) == [(4, 6, 4), (8, 12, 8), (16, 24, 16), SHAPE, SHAPE]


def test_a_coarse_field_keeps_its_length_unless_compat():
    """A constant field of one voxel at 1/8 is one of eight voxels at the full size."""
    model = PRNetPP("lganet").eval()
    for level, estimator in enumerate(model.estimators):
        torch.nn.init.zeros_(estimator.head.weight)
        torch.nn.init.constant_(estimator.head.bias, 1.0 if level == 0 else 0.0)
    images = smooth_images(SHAPE, batch=1)
    with torch.no_grad():
        repaired = model(*images).displacement
        model.compat = True
        as_released = model(*images).displacement
    torch.testing.assert_close(repaired, torch.full_like(repaired, 8.0))
    torch.testing.assert_close(as_released, torch.full_like(as_released, 1.0))


def test_stride_correlation_is_its_formula():
    torch.manual_seed(0)
    moving, fixed = torch.randn(2, 2, 3, 6, 4, 8, dtype=torch.float64)
    padded = F.pad(fixed, [2] * 6)
    expected = torch.stack(
        [
            (moving * padded[:, :, i : i + 6, j : j + 4, k : k + 8]).mean(dim=1)
            for i, j, k in product((0, 2, 4), repeat=3)
        ],
        dim=1,
    )
    found = stride_correlation(moving, fixed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_box_correlation_is_its_formula():
    torch.manual_seed(0)
    moving, fixed = torch.randn(2, 1, 3, 6, 4, 8, dtype=torch.float64)
    ones = torch.ones(3, 1, 3, 3, 3, dtype=torch.float64)
    near = F.conv3d(moving, ones, padding=1, groups=3)
    far = F.conv3d(fixed, ones, padding=3, groups=3)  # boxes around outer voxels as well
    expected = torch.stack(
        [
            (near * far[:, :, i : i + 6, j : j + 4, k : k + 8]).sum(dim=1) / 27
            for i, j, k in product((0, 2, 4), repeat=3)
        ],
        dim=1,
    )
    torch.testing.assert_close(box_correlation(moving, fixed), expected, rtol=0, atol=1e-10)
