"""Grids and sampling: voxel coordinates, their normalised form, and where the convention lives."""

import io
import tokenize
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from known_fields import NAMES, SHAPES, linear_image, noise_image, voxel_grid

import regnet_lib
from regnet_lib.spatial import (
    half_voxel_zoom,
    identity_grid,
    normalised_to_voxel,
    resample,
    sample,
    voxel_to_normalised,
)

both = pytest.mark.parametrize("shape", SHAPES, ids=NAMES)


@both
def test_identity_grid_holds_voxel_indices(shape):
    grid = identity_grid(shape, dtype=torch.float64)
    assert grid.shape == (1, len(shape), *shape)
    np.testing.assert_array_equal(grid[0].numpy(), voxel_grid(shape))


@both
def test_normalised_coordinates_end_at_the_outermost_voxel_centres(shape):
    normalised = voxel_to_normalised(identity_grid(shape, dtype=torch.float64), shape)
    for axis in range(len(shape)):
        component = normalised[0, axis]
        assert component.select(axis, 0).unique().tolist() == [-1.0]
        torch.testing.assert_close(
            component.select(axis, -1),
            component.new_ones(()).expand_as(component.select(axis, -1)),
            rtol=0,
            atol=1e-12,
        )


@both
def test_voxel_and_normalised_are_inverse(shape):
    voxels = 12 * noise_image(shape, channels=len(shape)) - 3
    back = normalised_to_voxel(voxel_to_normalised(voxels, shape), shape)
    torch.testing.assert_close(back, voxels, rtol=0, atol=1e-12)


@both
def test_half_voxel_zoom_is_the_mixed_convention_of_published_code(shape):
    """Normalise with size - 1, then sample as if the faces were at -1 and 1."""
    image = noise_image(shape)
    voxels = identity_grid(shape, dtype=torch.float64) + 0.3
    mixed = voxel_to_normalised(voxels, shape).flip(1).movedim(1, -1)
    expected = F.grid_sample(image, mixed, align_corners=False, padding_mode="zeros")
    torch.testing.assert_close(
        sample(image, half_voxel_zoom(voxels, shape)), expected, rtol=0, atol=1e-12
    )


@both
def test_half_voxel_zoom_moves_the_faces_by_half_a_voxel_and_not_the_centre(shape):
    ends = torch.tensor([[0.0, (side - 1) / 2, side - 1.0] for side in shape], dtype=torch.float64)
    zoomed = half_voxel_zoom(ends.view(1, len(shape), 3, *[1] * (len(shape) - 1)), shape)
    shift = zoomed.view(len(shape), 3) - ends
    expected = torch.tensor([[-0.5, 0.0, 0.5]], dtype=torch.float64).expand(len(shape), 3)
    torch.testing.assert_close(shift, expected, rtol=0, atol=1e-12)


@both
def test_sample_takes_any_set_of_positions(shape):
    """The positions need not form the image's grid."""
    image, gradient = linear_image(shape)
    positions = np.random.default_rng(0).uniform(0, np.array(shape) - 1, size=(5, len(shape)))
    coordinates = torch.from_numpy(positions.T.copy()).view(
        1, len(shape), 5, *[1] * (len(shape) - 1)
    )
    values = sample(image, coordinates)
    assert values.shape == (1, 1, 5, *[1] * (len(shape) - 1))
    np.testing.assert_allclose(values.flatten().numpy(), 0.7 + positions @ gradient, atol=1e-10)


@both
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_nearest_keeps_large_integers_and_pads(shape, padding):
    """2**24 + 1 has no float32: only a lookup by index returns it."""
    image = torch.arange(int(np.prod(shape))).view(1, 1, *shape) + 2**24 + 1
    coordinates = identity_grid(shape)
    coordinates[:, 0] -= 1
    moved = sample(image, coordinates, interpolation="nearest", padding=padding)
    assert moved.dtype == torch.int64
    assert torch.equal(moved[:, :, 1:], image[:, :, :-1])
    first = image[:, :, 0] if padding == "border" else torch.zeros_like(image[:, :, 0])
    assert torch.equal(moved[:, :, 0], first)


def test_nearest_sends_ties_to_the_even_voxel():
    image = torch.arange(6).view(1, 1, 6, 1).expand(1, 1, 6, 2)
    coordinates = torch.zeros(1, 2, 5, 2)
    coordinates[0, 0] = (torch.arange(5) + 0.5)[:, None]
    values = sample(image, coordinates, interpolation="nearest", padding="border")
    assert values[0, 0, :, 0].tolist() == [0, 2, 2, 4, 4]


@both
def test_resample_keeps_the_corners_of_a_linear_image(shape):
    image, gradient = linear_image(shape)
    finer = tuple(2 * side + 1 for side in shape)
    step = [(old - 1) / (new - 1) for old, new in zip(shape, finer, strict=True)]
    positions = voxel_grid(finer) * np.array(step).reshape(-1, *[1] * len(shape))
    expected = 0.7 + np.tensordot(gradient, positions, 1)
    np.testing.assert_allclose(resample(image, finer)[0, 0].numpy(), expected, atol=1e-10)


@both
def test_resample_to_the_same_shape_returns_the_image(shape):
    image = noise_image(shape)
    assert resample(image, shape) is image


@both
def test_one_image_meets_many_position_sets_and_the_other_way_round(shape):
    many, one = noise_image(shape, batch=3), noise_image(shape, seed=1)
    grid = identity_grid(shape, dtype=torch.float64)
    grids = grid + torch.tensor([0.0, 0.25, 0.5]).view(3, *[1] * (len(shape) + 1))
    for item in range(3):
        torch.testing.assert_close(sample(many, grid)[item], many[item], rtol=0, atol=1e-12)
        torch.testing.assert_close(sample(one, grids)[item], sample(one, grids[item : item + 1])[0])


def test_the_corner_convention_is_code_in_one_file_only():
    """Half of the published code gets this argument wrong, so only one file may hold it."""
    package = Path(regnet_lib.__file__).parent
    holders = set()
    for path in sorted(package.rglob("*.py")):
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        if any(token.type == tokenize.NAME and token.string == "align_corners" for token in tokens):
            holders.add(path.relative_to(package).as_posix())
    assert holders == {"spatial/grid.py"}
