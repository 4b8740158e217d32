"""Random label maps for the metric tests.

warped, fixed = blob_pair((20, 24, 22), seed=0)   # int64, labels 0, 1, 2, 5
"""

import numpy as np
from scipy.ndimage import gaussian_filter

IDS = [1, 2, 5]


def blobs(shape, seed):
    """Irregular connected regions, some of which touch the border."""
    random = np.random.default_rng(seed)
    scores = np.stack(
        [gaussian_filter(random.normal(size=shape), 2.0, mode="nearest") for _ in range(4)]
    )
    return np.array([0, *IDS])[scores.argmax(0)]


def blob_pair(shape, seed=0):
    """A map and a moved copy with some noise, like a warped and a fixed map."""
    fixed = blobs(shape, seed)
    warped = np.roll(fixed, 1, axis=0)
    noise = np.random.default_rng(seed + 1).random(shape) < 0.03
    return np.where(noise, blobs(shape, seed + 2), warped), fixed
