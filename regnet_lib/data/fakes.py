"""Phantom brains for fake data: each adapter writes them in its own layout, so that tests run it.

image, labels = fake_subject((48, 64, 48), index=0)   # index 0 is the atlas
"""

from collections.abc import Sequence

import numpy as np

from regnet_lib.data.phantoms import phantom_pair, smooth_displacement
from regnet_lib.spatial import warp, warp_labels


def fake_subject(shape: Sequence[int], index: int) -> tuple[np.ndarray, np.ndarray]:
    """A skull-stripped phantom brain: image in [0, 1] (float32) and labels 0 to 7 (int64).

    All subjects share one anatomy; number 0 is the anatomy itself, the others are seen through a
    random displacement that `index` fixes.
    """
    case = phantom_pair(shape, seed=7, max_displacement_voxels=0.0)
    image, labels = case.moving, case.moving_labels
    if index:
        random = np.random.default_rng(100 + index)
        displacement = smooth_displacement(case.shape, random, 0.06 * min(case.shape))
        image, labels = warp(image, displacement), warp_labels(labels, displacement)
    image, labels = image[0, 0].numpy(), labels[0, 0].numpy()
    image = image * (labels > 0)  # skull-stripped
    return image / image.max(), labels
