"""Properties of warps and fields on generated shapes and seeds."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_fields import affine_field, inward_field, near_identity, noise_image, smooth_field

from regnet_lib.spatial import compose, invert, jacobian_determinant, warp, warp_labels

quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**16)
shapes = st.one_of(
    st.tuples(*[st.integers(2, 9)] * 2),
    st.tuples(*[st.integers(2, 7)] * 3),
)
paddings = st.sampled_from(["zeros", "border"])


@st.composite
def shapes_and_shifts(draw):
    shape = draw(shapes)
    return shape, [draw(st.integers(-side - 1, side + 1)) for side in shape]


@quick
@given(shapes, seeds, paddings)
def test_zero_displacement_returns_the_image(shape, seed, padding):
    image = noise_image(shape, seed, channels=2)
    zero = torch.zeros(1, len(shape), *shape, dtype=torch.float64)
    torch.testing.assert_close(warp(image, zero, padding=padding), image, rtol=0, atol=1e-12)


@quick
@given(shapes_and_shifts(), seeds)
def test_integer_displacement_is_a_shift_of_the_array(shape_and_shift, seed):
    shape, shift = shape_and_shift
    image = noise_image(shape, seed)
    field = torch.tensor(shift, dtype=torch.float64).view(1, -1, *[1] * len(shape))
    field = field.expand(1, len(shape), *shape)
    where = [np.arange(side) + by for side, by in zip(shape, shift, strict=True)]
    clipped = [np.clip(index, 0, side - 1) for index, side in zip(where, shape, strict=True)]
    expected = image[0, 0].numpy()[np.ix_(*clipped)]
    bordered = warp(image, field, padding="border")[0, 0].numpy()
    np.testing.assert_allclose(bordered, expected, rtol=0, atol=1e-12)
    inside = [(index >= 0) & (index < side) for index, side in zip(where, shape, strict=True)]
    kept = expected * np.logical_and.reduce(np.meshgrid(*inside, indexing="ij"))
    np.testing.assert_allclose(warp(image, field)[0, 0].numpy(), kept, rtol=0, atol=1e-12)
    nearest = warp(image, field, interpolation="nearest")[0, 0].numpy()
    np.testing.assert_array_equal(nearest, kept)


@quick
@given(shapes, seeds, st.floats(-5, 5), st.floats(-5, 5))
def test_gain_and_offset_pass_through_with_border(shape, seed, gain, offset):
    image, field = noise_image(shape, seed), smooth_field(shape, 3.0, seed)
    changed = warp(gain * image + offset, field, padding="border")
    expected = gain * warp(image, field, padding="border") + offset
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-10)


@quick
@given(shapes, seeds, paddings)
def test_the_range_is_not_exceeded(shape, seed, padding):
    image, field = noise_image(shape, seed) + 1, smooth_field(shape, 3.0, seed)
    warped = warp(image, field, padding=padding)
    lowest = 0 if padding == "zeros" else image.min().item()
    assert lowest - 1e-12 <= warped.min().item()
    assert warped.max().item() <= image.max().item() + 1e-12


@quick
@given(shapes, seeds, st.data())
def test_mirrored_axes_mirror_the_image_and_turn_the_component_round(shape, seed, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    image, field = noise_image(shape, seed), smooth_field(shape, 2.0, seed)
    mirrored_field = field.flip(axis + 2)
    mirrored_field[:, axis] *= -1
    mirrored = warp(image.flip(axis + 2), mirrored_field)
    torch.testing.assert_close(mirrored, warp(image, field).flip(axis + 2), rtol=0, atol=1e-12)
    determinant = jacobian_determinant(field).flip(axis + 2)
    torch.testing.assert_close(
        jacobian_determinant(mirrored_field), determinant, rtol=0, atol=1e-12
    )


@quick
@given(shapes, seeds, st.data())
def test_permuted_axes_permute_the_image_and_the_components(shape, seed, data):
    order = data.draw(st.sampled_from(list(itertools.permutations(range(len(shape))))))
    dims = (0, 1, *[axis + 2 for axis in order])
    image, field = noise_image(shape, seed), smooth_field(shape, 2.0, seed)
    permuted_field = field.permute(dims)[:, list(order)]
    permuted = warp(image.permute(dims), permuted_field)
    torch.testing.assert_close(permuted, warp(image, field).permute(dims), rtol=0, atol=1e-12)
    determinant = jacobian_determinant(field).permute(dims)
    torch.testing.assert_close(
        jacobian_determinant(permuted_field), determinant, rtol=0, atol=1e-12
    )


@quick
@given(shapes, seeds)
def test_the_inverse_undoes_an_affine_field(shape, seed):
    matrix = 1.3 * near_identity(len(shape), seed, 0.02)
    field = affine_field(matrix, shape)
    inverse = invert(field, iterations=100, tolerance_voxels=1e-12)
    assert compose(field, inverse).abs().max() < 1e-9


@quick
@given(shapes, seeds)
def test_a_batch_equals_its_items(shape, seed):
    image, field = noise_image(shape, seed, batch=3), smooth_field(shape, 2.0, seed, batch=3)
    together = warp(image, field)
    for item in range(3):
        alone = warp(image[item : item + 1], field[item : item + 1])
        torch.testing.assert_close(together[item : item + 1], alone, rtol=0, atol=1e-14)


@quick
@given(shapes, seeds, st.sampled_from(["nearest", "onehot"]))
def test_renaming_labels_and_warping_commute(shape, seed, how):
    """The names must keep their order: ties between memberships go to the smaller label."""
    random = np.random.default_rng(seed)
    labels = torch.from_numpy(random.integers(0, 4, (1, 1, *shape)))
    names = torch.tensor([0, 5, 41, 182])
    field = smooth_field(shape, 2.0, seed)
    renamed = warp_labels(names[labels], field, how)
    assert torch.equal(renamed, names[warp_labels(labels, field, how)])


@quick
@given(shapes, seeds)
def test_composition_with_a_field_that_stays_inside_stays_inside(shape, seed):
    outer, inner = inward_field(shape, 2.0, seed), inward_field(shape, 2.0, seed + 1)
    grid = np.indices(shape)
    target = grid + compose(outer, inner)[0].numpy()
    last = np.array(shape).reshape(-1, *[1] * len(shape)) - 1
    assert (target >= -1e-9).all() and (target <= last + 1e-9).all()
