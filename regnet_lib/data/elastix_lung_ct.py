"""One real lung CT pair with 51 landmarks: the right lung at two dates, small and freely available.

    elastix_lung_ct/fixed_baseline_ct.nii.gz          115x157x129 voxels of 1.366x1.366x2.5 mm, HU
    elastix_lung_ct/fixed_baseline_lungmask.nii.gz    1 = lung
    elastix_lung_ct/moving_followup_ct.nii.gz         a grid of its own, 34 mm away
    elastix_lung_ct/moving_followup_lungmask.nii.gz
    elastix_lung_ct/moving_affine_ct.nii.gz           follow-up after elastix's affine registration,
    elastix_lung_ct/moving_affine_lungmask.nii.gz     on the grid of the baseline
    elastix_lung_ct/landmarks_51.csv                  fixed, moving and moving after the affine map

The scans are test data of elastix (Apache-2.0). Of its 100 landmarks 51 lie inside these crops.
Intensities go through the lung window; label 1 is the lung. One case, in `test`.

The affine map enlarges, so lengths depend on where they are measured. Landmark errors of elastix
are lengths in the follow-up; those of a prealigned case are lengths in the baseline, and smaller:
5.63 mm instead of 5.87 mm before registration. `follow_up_mm` carries points over.

    case = ElastixLungCT().case("right-lung")       # (1, 1, 115, 157, 129)
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np

from regnet_lib.data.case import Case
from regnet_lib.data.landmarks import on_grid, read_columns
from regnet_lib.data.lungs import AIR_HU, fake_lungs, to_lung_window
from regnet_lib.data.nifti import BadInputError, Volume, read_volume, write_volume
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import resample_to
from regnet_lib.types import Points

CASE = "right-lung"
FIXED = "fixed_baseline"
FOLLOW_UP, AFFINE = "moving_followup", "moving_affine"
MULTIPLE = 16  # AD-RegNet halves four times
TISSUE = 1.0  # in the lung window


class ElastixLungCT(SubjectPairs):
    """The adapter.

    Args:
        root: folder with the files above; default `$REGNET_DATA/elastix_lung_ct`.
        prealigned: start after the affine registration. False starts from the scanner's positions:
            the follow-up is resampled to the grid of the baseline as it lies in the world, which
            cuts off what is beyond.
        spacing_mm: equal voxels of this size along right, anterior and superior, centred on the
            baseline, sides rounded up to multiples of 16, soft tissue around it: the grid of
            `lung_semireal`. None keeps the voxels of the baseline.
        masked: both images are 0 outside their lung: ribs do not glide along with it, and a smooth
            displacement cannot follow both.
    """

    name = "elastix_lung_ct"
    label_ids = (1,)
    markers = ("fixed_baseline_ct.nii.gz",)
    largest_label = 1

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        prealigned: bool = True,
        masked: bool = False,
        spacing_mm: int | None = None,
    ) -> None:
        if spacing_mm is not None and spacing_mm < 1:
            raise ValueError(
                f"ElastixLungCT: expected spacing_mm of at least 1, got {spacing_mm!r}."
            )
        super().__init__(root)
        self.prealigned = prealigned
        self.masked = masked
        self.spacing_mm = spacing_mm

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """One case, in `test`."""
        return {"test": (CASE,)}

    def pair(self, case_id: str) -> tuple[str, str]:
        """Follow-up and baseline."""
        if case_id != CASE:
            raise BadInputError(
                f"{self.root}: expected the case {CASE!r}, got {case_id!r}. Take a name from "
                "ids('test')."
            )
        return (AFFINE if self.prealigned else FOLLOW_UP), FIXED

    def image_path(self, subject: str) -> Path:
        """Where a scan lies."""
        return self.root / f"{subject}_ct.nii.gz"

    def label_path(self, subject: str) -> Path:
        """Where the lung mask of a scan lies."""
        return self.root / f"{subject}_lungmask.nii.gz"

    def prepare(self, volume: Volume, path: Path, *, labels: bool) -> Volume:
        """The lung window, on the grid of the baseline or the coarser one around it."""
        if path in (self.image_path(FOLLOW_UP), self.label_path(FOLLOW_UP)):
            fixed = read_volume(self.image_path(FIXED))
            fill = 0.0 if labels else AIR_HU
            volume = resample_to(volume, fixed.array.shape, fixed.affine, fill=fill, labels=labels)
        if labels:
            return volume if self.spacing_mm is None else coarser(volume, self.spacing_mm, labels)
        image = to_lung_window(volume)
        if self.spacing_mm is None:
            return image
        # Beyond its field of view a scan stores the fill, whose edge is no anatomy.
        inside = np.where(volume.array <= AIR_HU, np.float32(TISSUE), image.array)
        return coarser(Volume(inside, image.affine), self.spacing_mm, labels)

    def case(self, case_id: str, *, labels: bool = True) -> Case:
        """The pair with its 51 landmarks, voxels of the grid of the baseline."""
        case = super().case(case_id, labels=labels or self.masked)
        if self.masked:
            case = replace(
                case,
                moving=case.moving * (case.moving_labels > 0),
                fixed=case.fixed * (case.fixed_labels > 0),
            )
        if not labels:
            case = replace(case, moving_labels=None, fixed_labels=None)
        points, native = self._table(), read_volume(self.image_path(FIXED)).affine
        affine, moving = native, points[:, 6:]
        moving_affine = self._to_follow_up() @ np.linalg.inv(native) @ case.affine
        if not self.prealigned:
            affine, moving = read_volume(self.image_path(FOLLOW_UP)).affine, points[:, 3:6]
            moving_affine = None
        return replace(
            case,
            moving_landmarks=on_grid(moving, affine, case.affine),
            fixed_landmarks=on_grid(points[:, :3], native, case.affine),
            moving_affine=moving_affine,
        )

    def follow_up_mm(self, points: Points) -> np.ndarray:
        """Voxels `(N, 3)` of the prealigned file, in millimetres (RAS+) of the follow-up."""
        affine = self._to_follow_up()
        return points.double().cpu().numpy() @ affine[:3, :3].T + affine[:3, 3]

    def _to_follow_up(self) -> np.ndarray:
        """`(4, 4)` from voxels of the prealigned image to millimetres of the follow-up.

        The affine map is the one that the landmark table implies, exact to 0.001 mm.
        """
        table = self._table()
        prealigned = np.column_stack([table[:, 6:], np.ones(len(table))])
        affine = read_volume(self.image_path(FOLLOW_UP)).affine
        follow_up = table[:, 3:6] @ affine[:3, :3].T + affine[:3, 3]
        matrix = np.eye(4)
        matrix[:3] = np.linalg.lstsq(prealigned, follow_up, rcond=None)[0].T
        return matrix

    def _table(self) -> np.ndarray:
        return read_columns(self.root / "landmarks_51.csv", 9)


def coarser(volume: Volume, spacing_mm: int, labels: bool) -> Volume:
    """An image in the lung window, or its labels, on the grid that `ElastixLungCT` describes."""
    from scipy.ndimage import gaussian_filter

    sides_mm = np.array(volume.array.shape) * volume.spacing_mm
    shape = [MULTIPLE * ceil(side / spacing_mm / MULTIPLE) for side in sides_mm]
    centre = volume.affine @ [*((np.array(volume.array.shape) - 1) / 2), 1.0]
    affine = np.diag([float(spacing_mm)] * 3 + [1.0])
    affine[:3, 3] = centre[:3] - spacing_mm * (np.array(shape) - 1) / 2
    if labels:
        return resample_to(volume, shape, affine, labels=True)
    # Coarser voxels are means over finer ones: without a blur they would alias.
    sigmas = [0.4 * spacing_mm / size for size in volume.spacing_mm]
    smooth = Volume(gaussian_filter(volume.array, sigmas, mode="nearest"), volume.affine)
    return resample_to(smooth, shape, affine, fill=TISSUE)


def write_fake_elastix_lung_ct(
    root: str | os.PathLike, *, shape: tuple[int, int, int] = (32, 36, 30), overwrite: bool = False
) -> Path:
    """Write a phantom in the layout of `ElastixLungCT`.

    The follow-up lies on a grid that begins 4, 3 and 2 voxels before that of the baseline, and its
    content has moved 4 voxels along the last axis; the affine map takes exactly that back.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    fake = fake_lungs(shape, seed=0, landmarks=51)
    affine = np.diag([-1.366, -1.366, 2.5, 1.0])
    earlier, moved = np.array([4, 3, 2]), np.array([0, 0, 4])
    shift = np.eye(4)
    shift[:3, 3] = -earlier
    first = earlier + moved
    around = [(begin, 6) for begin in first]
    air = int(AIR_HU)
    volumes = {
        f"{FIXED}_ct": (fake.fixed, affine),
        f"{FIXED}_lungmask": (fake.fixed_mask, affine),
        f"{AFFINE}_ct": (fake.moving, affine),
        f"{AFFINE}_lungmask": (fake.moving_mask, affine),
        f"{FOLLOW_UP}_ct": (np.pad(fake.moving, around, constant_values=air), affine @ shift),
        f"{FOLLOW_UP}_lungmask": (np.pad(fake.moving_mask, around), affine @ shift),
    }
    for name, (array, matrix) in volumes.items():
        write_volume(root / f"{name}.nii.gz", array, matrix, overwrite=overwrite)
    fixed, prealigned = fake.phantom.fixed_landmarks, fake.phantom.moving_landmarks
    table = np.hstack([fixed, prealigned + first, prealigned])
    names = [f"{scan}_{axis}" for scan in ("fixed", "moving", "moving_affine") for axis in "xyz"]
    np.savetxt(
        root / "landmarks_51.csv", table, "%.4f", delimiter=",", header=",".join(names), comments=""
    )
    return root
