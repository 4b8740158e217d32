"""DIR-Lab 4DCT, Tables I, II and V of AD-RegNet: ten breathing patients with 300 landmarks each.

As unpacked from the ten archives; upper and lower case may differ, names do:

    dirlab/Case1Pack/Images/case1_T00_s.img                     16-bit voxels without a header
    dirlab/Case1Pack/Images/case1_T50_s.img                     or case4_T00-ssm.img, case6_T00.img
    dirlab/Case1Pack/ExtremePhases/Case1_300_T00_xyz.txt        x y z per line, counted from 1
    dirlab/Case6Pack/extremePhases/case6_dirLab300_T00_xyz.txt
    dirlab/Case8Deploy/...

Moving = T50, breathed out; fixed = T00, breathed in (AD-RegNet IV.A). Size and spacing are not in
the files but in the table below. The axes of the array are those of the file, x first; in both
phases z grows downwards, as the landmarks show, so the affine of a case points to LPI.

Section IV of the paper describes the preparation twice, and not alike. The recipes here:

- `lungs`, the default: section IV.B (Hounsfield window, equal spacing along all axes), but cropped
  to the lungs of both phases, 10 mm around, sides rounded up to multiples of 16;
- `isotropic`: section IV.B with its 256 mm cube around the centre of the scan;
- `native`: section IV.A, voxels as they are, centred 256x256, slices cropped or padded to a
  multiple of 8, intensities between the percentiles 0.5 and 99.5.

The last two can cut landmarks off; `landmarks_outside(case)` counts them.

    dataset = DIRLab(fold=1)               # looks in $REGNET_DATA/dirlab
    case = dataset.case("case1")
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np

from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.case import Case
from regnet_lib.data.landmarks import on_grid, read_columns, require_inside
from regnet_lib.data.lungs import AIR_HU, fake_lungs, lung_box, to_lung_window
from regnet_lib.data.pairs import SubjectPairs
from regnet_lib.data.preprocess import resample_to
from regnet_lib.data.volume import BadInputError, Volume

Recipe = Literal["lungs", "isotropic", "native"]

FOLDS = 5
CUBE_MM = 256
MARGIN_MM = 10
MULTIPLE = 16  # AD-RegNet halves four times


@dataclass(frozen=True)
class Geometry:
    """What the files do not say: voxels and millimetres along x, y and z."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


GEOMETRY = {
    number: Geometry((side, side, slices), (size, size, 2.5))
    for number, (side, slices, size) in enumerate(
        (
            (256, 94, 0.97),
            (256, 112, 1.16),
            (256, 104, 1.15),
            (256, 99, 1.13),
            (256, 106, 1.10),
            (512, 128, 0.97),
            (512, 136, 0.97),
            (512, 128, 0.97),
            (512, 128, 0.97),
            (512, 120, 0.97),
        ),
        start=1,
    )
}


class DIRLab(SubjectPairs):
    """The adapter.

    Args:
        root: folder with the layout above; default `$REGNET_DATA/dirlab`.
        recipe: how scans are prepared, see above.
        spacing_mm: voxel size of the recipes `lungs` and `isotropic`, 1 or 2.
        fold: None for methods without training, which test all cases; 1 to 5 for the others: fold
            f tests the cases f and f + 5, validates on the first case after f, and trains on seven.
        leaky: train on all ten cases and test the same ten, to measure what that is worth.
        geometry: sizes of the cases in the folder, by number.
    """

    name = "dirlab"
    markers = ("Case1Pack",)

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        recipe: Recipe = "lungs",
        spacing_mm: Literal[1, 2] = 1,
        fold: int | None = None,
        leaky: bool = False,
        geometry: Mapping[int, Geometry] = GEOMETRY,
    ) -> None:
        if recipe not in ("lungs", "isotropic", "native"):
            raise ValueError(
                f"DIRLab: expected recipe='lungs', 'isotropic' or 'native', got {recipe!r}."
            )
        if spacing_mm not in (1, 2) or (recipe == "native" and spacing_mm != 1):
            raise ValueError(
                "DIRLab: expected spacing_mm=1 or 2, and none with recipe='native', got "
                f"{spacing_mm!r}."
            )
        if fold is not None and fold not in range(1, FOLDS + 1):
            raise ValueError(f"DIRLab: expected fold=None or 1 to {FOLDS}, got {fold!r}.")
        if leaky and fold is not None:
            raise ValueError(f"DIRLab: expected fold=None with leaky=True, got {fold!r}.")
        super().__init__(root)
        self.recipe, self.spacing_mm, self.fold, self.leaky = recipe, spacing_mm, fold, leaky
        self.geometry = dict(geometry)
        self._grids: dict[int, tuple[tuple[int, ...], np.ndarray]] = {}

    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """All cases as `test`, or those of the fold."""
        fold_of = {number: (number - 1) % FOLDS + 1 for number in sorted(self.geometry)}
        if self.fold is None:
            cases = tuple(f"case{number}" for number in fold_of)
            return {"train": cases, "test": cases} if self.leaky else {"test": cases}
        following = self.fold % FOLDS + 1
        chosen = {number: "train" for number in fold_of}
        chosen |= {number: "test" for number, fold in fold_of.items() if fold == self.fold}
        candidates = [number for number, fold in fold_of.items() if fold == following]
        chosen |= {number: "validation" for number in candidates[:1]}
        return {
            split: tuple(f"case{number}" for number, its in chosen.items() if its == split)
            for split in ("train", "validation", "test")
        }

    def pair(self, case_id: str) -> tuple[str, str]:
        """Breathed out and breathed in."""
        return f"{case_id}_T50", f"{case_id}_T00"

    def image_path(self, subject: str) -> Path:
        """Where the voxels of a phase lie, for example of `case1_T00`."""
        return self._find(subject, "images", rf"case{{}}_{_phase(subject)}(?:[-_]s(?:sm)?)?\.img")

    def points_path(self, subject: str) -> Path:
        """Where the 300 landmarks of a phase lie."""
        pattern = rf"case{{}}_(?:dirlab)?300_{_phase(subject)}_xyz\.txt"
        return self._find(subject, "extremephases", pattern)

    def read_image(self, subject: str) -> Volume:
        """The phase on the grid of its case, float32 in [0, 1]."""
        shape, affine = self._grid(self._number(subject))
        volume = resample_to(self.read_phase(subject), shape, affine, fill=AIR_HU)
        if self.recipe != "native":
            return to_lung_window(volume)
        low, high = np.percentile(volume.array, [0.5, 99.5])
        scaled = (np.clip(volume.array, low, high) - low) / max(high - low, 1e-6)
        return Volume(scaled.astype(np.float32), affine)

    def read_phase(self, subject: str) -> Volume:
        """The scan as on disk, float32 Hounsfield units."""
        path = self.image_path(subject)
        geometry = self.geometry[self._number(subject)]
        expected = 2 * int(np.prod(geometry.shape))
        if path.stat().st_size != expected:
            sides = " x ".join(map(str, geometry.shape))
            raise BadInputError(
                f"{path}: expected {sides} voxels of 16 bits, {expected} bytes, found "
                f"{path.stat().st_size} bytes. Unpack the archive again."
            )
        stored = np.fromfile(path, dtype="<i2").reshape(geometry.shape[::-1]).transpose(2, 1, 0)
        array = np.clip(stored.astype(np.float32) - 1024, AIR_HU, 3071)
        return Volume(array, _affine(geometry))

    def case(self, case_id: str, *, labels: bool = True) -> Case:
        """The pair with all its landmarks; there are no label maps."""
        case = super().case(case_id, labels=False)
        geometry = self.geometry[self._number(case_id)]
        moving, fixed = (self._read_points(subject) for subject in self.pair(case_id))
        if len(moving) != len(fixed):
            raise BadInputError(
                f"{self.points_path(case_id + '_T50')}: expected as many landmarks as at T00, "
                f"{len(fixed)}, found {len(moving)}. Unpack the archive again."
            )
        raw = _affine(geometry)
        return replace(
            case,
            moving_landmarks=on_grid(moving, raw, case.affine),
            fixed_landmarks=on_grid(fixed, raw, case.affine),
        )

    def _read_points(self, subject: str) -> np.ndarray:
        path = self.points_path(subject)
        points = read_columns(path, 3) - 1  # the lists count from 1
        require_inside(points, self.geometry[self._number(subject)].shape, path)
        return points

    def _grid(self, number: int) -> tuple[tuple[int, ...], np.ndarray]:
        """Shape and affine of the grid on which a case is registered."""
        if number not in self._grids:
            geometry = self.geometry[number]
            sides, old = np.array(geometry.shape), np.array(geometry.spacing_mm)
            if self.recipe == "native":
                shape = np.array([CUBE_MM, CUBE_MM, 8 * round(sides[2] / 8)])
                new = old
                # An odd voxel is cut from, or added to, the far end.
                first = np.where(shape > sides, -((shape - sides) // 2), (sides - shape) // 2)
            else:
                new = np.full(3, float(self.spacing_mm))
                shape = np.full(3, CUBE_MM // self.spacing_mm)
                centre = (sides - 1) / 2
                if self.recipe == "lungs":
                    begin, end = self._lungs(number)
                    centre = (begin + end) / 2
                    wanted = (end - begin + 1) * old + 2 * MARGIN_MM
                    shape = np.array([MULTIPLE * ceil(side / MULTIPLE) for side in wanted / new])
                first = centre - (shape - 1) / 2 * new / old
            step = np.diag([*(new / old), 1.0])
            step[:3, 3] = first
            self._grids[number] = tuple(int(side) for side in shape), _affine(geometry) @ step
        return self._grids[number]

    def _lungs(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """First and last voxel of the box that holds the lungs of both phases."""
        phases = self.pair(f"case{number}")
        boxes = [lung_box(self.read_phase(phase), self.image_path(phase)) for phase in phases]
        return np.min([first for first, _ in boxes], axis=0), np.max([b for _, b in boxes], axis=0)

    def _number(self, subject: str) -> int:
        match = re.fullmatch(r"case(\d+)(?:_T\d\d)?", subject)
        if match is None or int(match[1]) not in self.geometry:
            raise BadInputError(
                f"{self.root}: expected a case of {', '.join(map(str, self.geometry))}, written "
                f"like 'case1', got {subject!r}. Take a name from ids(split)."
            )
        return int(match[1])

    def _find(self, subject: str, folder: str, pattern: str) -> Path:
        """The one file of a case in a folder, whatever the case of the letters."""
        number = self._number(subject)
        wanted = (rf"case{number}(?:pack|deploy)", folder, pattern.format(number))
        places = [self.root]
        for name in wanted:
            places = [
                entry
                for place in places
                if place.is_dir()
                for entry in sorted(place.iterdir())
                if re.fullmatch(name, entry.name, re.IGNORECASE)
            ]
        if len(places) != 1:
            found = ", ".join(str(place) for place in places) or "none"
            raise BadInputError(
                f"{self.root}: expected one file of {subject} like {'/'.join(wanted)}, found "
                f"{found}. Unpack the archive of the case into this folder, once."
            )
        return places[0]


def _phase(subject: str) -> str:
    return subject.rpartition("_")[2]


def _affine(geometry: Geometry) -> np.ndarray:
    return np.diag([*(-size for size in geometry.spacing_mm), 1.0])


FAKE_GEOMETRY = {
    1: Geometry((36, 40, 28), (1.5, 1.5, 2.5)),
    2: Geometry((36, 36, 30), (1.6, 1.6, 2.5)),
    6: Geometry((40, 36, 26), (1.4, 1.4, 2.5)),
    8: Geometry((40, 40, 27), (1.4, 1.4, 2.5)),
}


def write_fake_dirlab(
    root: str | os.PathLike,
    *,
    geometry: Mapping[int, Geometry] = FAKE_GEOMETRY,
    max_displacement_voxels: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in the layout of `DIRLab`, with the names that each official case has.

    Open them with `geometry=FAKE_GEOMETRY`. Landmarks are whole voxels, as the official ones.
    """
    root = Path(root)
    for number, its in geometry.items():
        pack = root / (f"Case{number}Deploy" if number == 8 else f"Case{number}Pack")
        late = number > 5
        suffix = "" if late else ("_s" if number == 1 else "-s" if number == 2 else "-ssm")
        lists = pack / ("extremePhases" if late else "ExtremePhases")
        (pack / "Images").mkdir(parents=True, exist_ok=True)
        lists.mkdir(exist_ok=True)
        prefix = f"case{number}_dirLab300" if late else f"Case{number}_300"
        fake = fake_lungs(
            its.shape,
            seed=number,
            landmarks=300,
            max_displacement_voxels=max_displacement_voxels,
        )
        for phase, image, points in (
            ("T00", fake.fixed, fake.phantom.fixed_landmarks),
            ("T50", fake.moving, fake.phantom.moving_landmarks),
        ):
            stored = np.ascontiguousarray((image + 1024).astype("<i2").transpose(2, 1, 0))
            text = "".join(
                "{:d}\t{:d}\t{:d}\r\n".format(*(int(value) + 1 for value in point))
                for point in points.round()
            )
            for path, content in (
                (pack / "Images" / f"case{number}_{phase}{suffix}.img", stored.tobytes()),
                (lists / f"{prefix}_{phase}_xyz.txt", text.encode()),
            ):
                write_atomically(
                    path,
                    lambda temporary, content=content: temporary.write_bytes(content),
                    overwrite=overwrite,
                )
    return root
