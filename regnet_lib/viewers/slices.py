"""Fixed, moving and warped image in three linked planes; drawn by slices.js.

view_slices(case, displacement)
"""

from regnet_lib.data.case import Case
from regnet_lib.spatial import warp, warp_labels
from regnet_lib.types import Displacement
from regnet_lib.viewers.page import Viewer, geometry, pack_images, pack_labels, still_planes


def view_slices(case: Case, displacement: Displacement | None = None) -> Viewer:
    """The images of a case, alone or two at a time as a checkerboard, a blend or a difference.

    Args:
        case: a pair `(1, 1, D, H, W)`; its label maps, if any, become contours.
        displacement: `(1, 3, D, H, W)`; with it the warped moving image (linear) and its labels
            (nearest) are shown too.
    """
    grid = geometry(case)
    images = {"fixed": case.fixed, "moving": case.moving}
    labels = {"fixed": case.fixed_labels, "moving": case.moving_labels}
    if displacement is not None:
        displacement = displacement.detach()
        images["warped"] = warp(case.moving, displacement)
        if case.moving_labels is not None:
            labels["warped"] = warp_labels(case.moving_labels, displacement)
    known = {name: one for name, one in labels.items() if one is not None}
    content = {
        "grid": grid,
        "images": pack_images(**images),
        "labels": pack_labels(**known) if known else None,
    }
    return Viewer("slices", f"{case.id}: {', '.join(images)}", content, still_planes(case.fixed))
