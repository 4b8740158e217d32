"""Where does a voxel of the fixed image look in the moving image? Drawn by attention.js.

view_attention(case, weights)   # weights[i, j, k] is a map over the moving image
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from regnet_lib.data.case import Case
from regnet_lib.viewers.page import Viewer, geometry, pack, pack_images, still_planes


def view_attention(case: Case, weights: Float[Tensor, "qd qh qw kd kh kw"]) -> Viewer:
    """Attention between coarse cells of both images: move in the fixed one, see the answer.

    Args:
        case: a pair `(1, 1, D, H, W)`.
        weights: not negative, one map of keys (moving) per query (fixed), on any two grids whose
            cells divide the image evenly. The sum over the keys is 1 for a softmax; other
            scores are shown relative to their largest value too.
    """
    if weights.ndim != 6 or bool((weights < 0).any()):
        raise ValueError(
            "view_attention: expected weights (3 query axes, 3 key axes) that are not negative, "
            f"got the shape {tuple(weights.shape)}."
        )
    queries, keys = tuple(weights.shape[:3]), tuple(weights.shape[3:])
    maps = weights.detach().cpu().double().numpy().reshape(int(np.prod(queries)), -1)
    content = {
        "grid": geometry(case),
        "images": pack_images(fixed=case.fixed, moving=case.moving),
        "queries": list(queries),
        "keys": list(keys),
        "maps": pack(_bytes(maps)),
        "peaks": [float(f"{peak:.2g}") for peak in maps.max(1)],
        "places": [float(f"{number:.3g}") for number in effective_places(maps)],
        "live": False,
    }
    title = f"{case.id}: where a voxel of the fixed image looks"
    return Viewer("attention", title, content, still_planes(case.fixed))


def effective_places(maps: np.ndarray) -> np.ndarray:
    """exp(entropy) of each row: 1 for a single place, the number of places for equal weights."""
    shares = maps / np.maximum(maps.sum(1, keepdims=True), 1e-300)
    return np.exp(-(shares * np.log(np.maximum(shares, 1e-300))).sum(1))


def packed_answer(weights: np.ndarray) -> dict[str, object]:
    """What the script gets for one question in the live form: the map `(kd, kh, kw)` of a voxel."""
    row = weights.reshape(1, -1).astype(np.float64)
    return {
        "map": pack(_bytes(row)),
        "keys": list(weights.shape),
        "peak": float(f"{row.max():.2g}"),
        "places": float(f"{effective_places(row)[0]:.3g}"),
    }


def _bytes(maps: np.ndarray) -> np.ndarray:
    """Each row relative to its largest weight."""
    return (maps / np.maximum(maps.max(1, keepdims=True), 1e-300) * 255).round().astype(np.uint8)
