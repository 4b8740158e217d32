"""A displacement as a bent grid or as arrows, in both directions; drawn by deformation.js.

view_deformation(case, displacement)
"""

from regnet_lib.data.case import Case
from regnet_lib.spatial import compose, invert
from regnet_lib.types import Displacement
from regnet_lib.viewers.page import Viewer, geometry, pack_field, pack_images, still_planes


def view_deformation(case: Case, displacement: Displacement) -> Viewer:
    """Where the fixed grid looks in the moving image (pull-back), and where anatomy goes (forward).

    The forward field is the inverse `v` of the displacement `u`. Its residual, the mean length of
    `u` composed with `v`, is part of the legend, because a field that folds has no inverse.

    Args:
        case: a pair `(1, 1, D, H, W)`.
        displacement: `(1, 3, D, H, W)`, voxels of the fixed grid.
    """
    displacement = displacement.detach()
    inverse = invert(displacement)
    residual = compose(displacement, inverse).norm(dim=1).mean()
    content = {
        "grid": geometry(case),
        "images": pack_images(fixed=case.fixed, moving=case.moving),
        "pull_back": pack_field(displacement, case.shape),
        "forward": pack_field(inverse, case.shape),
        "residual": round(float(residual), 3),
    }
    title = f"{case.id}: the deformation as grid and arrows"
    return Viewer("deformation", title, content, still_planes(case.moving))
