"""A pyramid of displacements as a film, coarse to fine; drawn by pyramid.js.

view_pyramid(case, registration.pyramid)
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from regnet_lib.data.case import Case
from regnet_lib.spatial import resize, warp
from regnet_lib.viewers.page import Viewer, geometry, pack_field, pack_images, still_planes


def view_pyramid(case: Case, fields: Sequence[Float[Tensor, "#batch axes ..."]]) -> Viewer:
    """Play how the warped image approaches the fixed one, from no displacement to the last field.

    Args:
        case: a pair `(1, 1, D, H, W)`.
        fields: `(1, 3, d, h, w)` each, coarse to fine, in voxels of its own grid, as
            `Registration.pyramid` holds them. Each is the whole displacement, not an update.
    """
    if not fields:
        raise ValueError("view_pyramid: expected at least one field, got none.")
    fields = [field.detach() for field in fields]
    full = [resize(field, case.shape) for field in fields]
    errors = [float((case.fixed - case.moving).abs().mean())]
    errors += [float((case.fixed - warp(case.moving, field)).abs().mean()) for field in full]
    content = {
        "grid": geometry(case),
        "images": pack_images(fixed=case.fixed, moving=case.moving),
        "fields": [pack_field(field, case.shape) for field in fields],
        "shapes": [list(field.shape[2:]) for field in fields],
        "longest": [round(float(field.norm(dim=1).max()), 1) for field in full],
        "errors": [float(f"{error:.3g}") for error in errors],
    }
    title = f"{case.id}: coarse to fine in {len(fields)} levels"
    return Viewer("pyramid", title, content, still_planes(case.fixed))
