"""EOIR against the network of its repository."""

import pytest
import torch
from pyramid_networks import (
    check_behaviour,
    check_golden,
    check_sizes,
    parameter_count,
    read_golden,
    sides,
    smooth_images,
)

from regnet_lib.models.eoir import EOIR
from regnet_lib.spatial import compose, integrate, resize

SHAPE = (32, 48, 32)


def test_parameter_count_is_the_published_one():
    assert parameter_count(EOIR()) == 909_232


@pytest.mark.golden
def test_golden(goldens):
    check_golden(EOIR(), read_golden(goldens, "EOIR"))


def test_sizes():
    check_sizes(EOIR(channels=2), multiple=16, least=32)


def test_behaviour():
    torch.manual_seed(0)
    check_behaviour(EOIR(channels=4), SHAPE)


def test_pyramid_follows_from_the_velocities():
    torch.manual_seed(0)
    registration = EOIR(channels=2)(*smooth_images(SHAPE))
    assert sides(registration.pyramid) == [
        (2, 3, 2),
        (4, 6, 4),
        (8, 12, 8),
        (16, 24, 16),
        SHAPE,
    ]
    field = None
    for velocity, found in zip(
        registration.extras["velocities"], registration.pyramid, strict=True
    ):
        step = integrate(velocity, padding="zeros")
        if field is not None:
            step = compose(resize(field, step.shape[2:]), step, padding="zeros")
        field = step
        torch.testing.assert_close(field, found)
