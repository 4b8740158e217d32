"""Local volume change and folding, with a histogram; drawn by jacobian.js.

view_jacobian(case, displacement)
"""

import numpy as np

from regnet_lib.data.case import Case
from regnet_lib.spatial import folding_fraction, jacobian_determinant
from regnet_lib.types import Displacement
from regnet_lib.viewers.page import Viewer, geometry, pack, pack_images, quantised, still_planes

BINS = 64


def view_jacobian(case: Case, displacement: Displacement) -> Viewer:
    """The Jacobian determinant (`central`) over the fixed image; every folded voxel is marked.

    Args:
        case: a pair `(1, 1, D, H, W)`.
        displacement: `(1, 3, D, H, W)`, voxels of the fixed grid.
    """
    displacement = displacement.detach()
    determinant = jacobian_determinant(displacement, "central")[0, 0].cpu().double().numpy()
    folded = determinant <= 0
    span = float(np.clip(np.quantile(np.abs(determinant - 1), 0.999), 0.05, 1.0))
    # Byte 0 is kept for folded voxels, so that rounding can neither invent nor hide one.
    levels = np.maximum(quantised(determinant, 1 - span, 1 + span), 1)
    levels[folded] = 0
    counts, edges = np.histogram(determinant, bins=_edges(determinant))
    places = np.flatnonzero(folded)
    content = {
        "grid": geometry(case),
        "images": pack_images(fixed=case.fixed),
        "determinant": pack(levels),
        "span": span,
        "counts": counts.tolist(),
        "edges": edges.round(4).tolist(),
        "folded": int(folded.sum()),
        "percent": {
            name: float(f"{100 * float(folding_fraction(displacement, name)):.3g}")
            for name in ("central", "forward", "digital")
        },
        "worst": _worst(determinant, places),
    }
    title = f"{case.id}: Jacobian determinant, 1 keeps the volume"
    return Viewer("jacobian", title, content, still_planes(case.fixed))


def _edges(determinant: np.ndarray) -> np.ndarray:
    """About `BINS` bins of equal width, with an edge at 0 so that no bin mixes folds and others."""
    width = max(float(np.ptp(determinant)) / BINS, 1e-3)
    first, last = (np.floor(determinant.min() / width), np.ceil(determinant.max() / width) + 1)
    return np.arange(first, last + 1) * width


def _worst(determinant: np.ndarray, places: np.ndarray, shown: int = 50) -> list[list[int]]:
    """Voxels to visit, the smallest determinant first."""
    order = places[np.argsort(determinant.ravel()[places])][:shown]
    return np.stack(np.unravel_index(order, determinant.shape), axis=1).tolist()
