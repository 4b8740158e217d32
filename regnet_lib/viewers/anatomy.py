"""Anatomy in three dimensions, colored by the deformation; drawn by anatomy.js.

view_anatomy(case, displacement)
"""

from collections.abc import Mapping

import numpy as np

from regnet_lib.data.case import Case
from regnet_lib.spatial import jacobian_determinant, resample
from regnet_lib.types import Displacement, Image
from regnet_lib.viewers.page import (
    Viewer,
    geometry,
    pack,
    pack_images,
    pack_labels,
    quantised,
    still_planes,
)


def view_anatomy(
    case: Case, displacement: Displacement, *, names: Mapping[int, str] | None = None
) -> Viewer:
    """The fixed anatomy as a solid that turns and can be cut, colored by |u| or the Jacobian.

    Args:
        case: a pair `(1, 1, D, H, W)`; structures come from its fixed labels, or, without labels,
            from the voxels brighter than the mean.
        displacement: `(1, 3, D, H, W)`, voxels of the fixed grid.
        names: what the labels are called.
    """
    displacement = displacement.detach()
    labels = case.fixed_labels
    if labels is None:
        labels = (case.fixed > case.fixed.mean()).long()
    length = displacement.norm(dim=1, keepdim=True)
    determinant = jacobian_determinant(displacement, "central")
    longest = max(float(np.quantile(length.cpu().numpy(), 0.999)), 1e-6)
    span = float(np.clip(float((determinant - 1).abs().mean()) * 4, 0.05, 1.0))
    packed = pack_labels(fixed=labels)
    names = names or {}
    content = {
        "grid": geometry(case),
        "images": pack_images(fixed=case.fixed),
        "labels": packed,
        "names": [names.get(label, f"label {label}") for label in packed["ids"]],
        "colored": {
            "length": _coarse(length, 0.0, longest),
            "determinant": _coarse(determinant, 1 - span, 1 + span),
        },
        "ranges": {"length": [0, round(longest, 1)], "determinant": [1 - span, 1 + span]},
    }
    title = f"{case.id}: anatomy colored by the deformation"
    return Viewer("anatomy", title, content, still_planes(case.fixed))


def _coarse(image: Image, low: float, high: float) -> dict[str, object]:
    """Half the resolution is enough for a color that is interpolated."""
    kept = [-(-side // 2) for side in image.shape[2:]]
    return pack(quantised(resample(image.float(), kept)[0, 0].cpu().numpy(), low, high))
