"""Ten computed lungs in the files of DIR-Lab: its protocol, rehearsed without its data.

The files are written when the set is opened, with the names, the raw format and the 300 whole-voxel
landmarks of the official ones, and then read by the same adapter: box around the lungs, 2 mm, five
folds, and the leak. Anatomy and motion differ from case to case; both are computed.

    dataset = DIRLabPhantom(fold=1)        # tests case1 and case6, trains on seven others
"""

import os
import tempfile
from pathlib import Path

from regnet_lib.data.dirlab import DIRLab, Geometry, write_fake_dirlab

# Small lungs, in which a training of some hundred steps takes minutes.
PHANTOM_GEOMETRY = {
    number: Geometry((44 + 2 * (number % 3), 40 - 2 * (number % 2), 36), (1.8, 1.8, 2.5))
    for number in range(1, 11)
}
LARGEST_MOTION_VOXELS = 6.0


class DIRLabPhantom(DIRLab):
    """The adapter of the phantoms.

    Args:
        root: folder for the files, filled if it holds none; default a temporary one.
        fold, leaky: as in `DIRLab`.
    """

    name = "dirlab_phantom"
    # `DIRLab` looks for these; nothing has to be there before the set is opened.
    markers = ("Case1Pack",)

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        fold: int | None = None,
        leaky: bool = False,
    ) -> None:
        if root is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="regnet-dirlab-phantom-")
            root = self._temporary.name
        if not (Path(root) / self.markers[0]).is_dir():
            write_fake_dirlab(
                root,
                geometry=PHANTOM_GEOMETRY,
                max_displacement_voxels=LARGEST_MOTION_VOXELS,
            )
        super().__init__(root, spacing_mm=2, fold=fold, leaky=leaky, geometry=PHANTOM_GEOMETRY)
