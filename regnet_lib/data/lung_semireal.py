"""Semi-real lung pairs: real breathing motion, applied to other anatomies, so that the truth is
known at every voxel. No pair of this set was ever scanned.

It is made from two sets of public parts, below one folder (default `$REGNET_DATA`):

    l2r_lungct_partial/masksTr/LungCT_0001_0000.nii.gz       0000 breathed out, 0001 breathed in
    l2r_lungct_partial/keypointsTr/LungCT_0001_0000.csv      20 people, 829 to 2413 points each
    elastix_lung_ct/fixed_baseline_ct.nii.gz                 see `elastix_lung_ct`

The first is `lung_ct` without its scans, and that whole set under this name serves as well.

Motion: the key points of the right lung of one person say where its tissue goes. A thin-plate
spline, nearly through them, is the displacement inside the exhaled lung; around it the field levels
out as heat would, and a Gaussian of 7 mm smooths both, all on a grid of 6 mm. Nothing folds, and of
the manual landmarks (people 1 to 3) 1.6, 2.2 and 1.9 mm are left of 22.9, 15.8 and 8.0 mm.

Anatomy, stretched from box to box onto the inhaled lung of that person:

- `baseline`, `followup`: the two real scans of `elastix_lung_ct`, one right lung at two dates;
- `tree1`, `tree2`, ...: a computed tree of vessels within the person's own lung mask.

moving = anatomy, fixed(x) = moving(x + u(x)) times the local change of volume within the lung: the
tissue that fills a smaller lung is denser by that factor. Independent noise on both.

Thirteen motions are few to learn from, so that a training may ask for `variants` of its pairs:
`LungCT_0001-tree1-variant3` is that anatomy with the breathing of a random person of the training
set, grid upon grid and at 0.5 to 1.25 times its strength, plus a smooth random field. The fixed
image follows from the displacement as above, so its truth is as exact, but the motion is no longer
one that was measured. Validation and test have no variants.

    case = LungSemireal().case("LungCT_0002-baseline")   # (1, 1, 48, 72, 96), with displacement
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from regnet_lib.data.case import Case
from regnet_lib.data.elastix_lung_ct import (
    FIXED,
    FOLLOW_UP,
    ElastixLungCT,
    write_fake_elastix_lung_ct,
)
from regnet_lib.data.folders import dataset_folder
from regnet_lib.data.lung_ct import TRAIN_IDS, LungCT, write_fake_lung_ct
from regnet_lib.data.lungs import to_lung_window
from regnet_lib.data.nifti import BadInputError, Volume, read_volume
from regnet_lib.data.phantoms import _points_inside, _with_noise
from regnet_lib.data.preprocess import resample_to
from regnet_lib.spatial import (
    identity_grid,
    jacobian_determinant,
    sample,
    warp,
    warp_labels,
    warp_points,
)
from regnet_lib.types import Displacement

MOTION, ANATOMY = "l2r_lungct_partial", ElastixLungCT.name
EXTENT_MM = (192, 288, 384)  # holds every right lung of the set, and halves four times at 6 mm
FIT_MM = 6  # grid of the motion, whatever the grid of the cases
# Of the spline, for coordinates in decimetres: held-out key points are met to about 1 mm.
SPLINE_SMOOTHING = 0.01
# Gaussians that level the field outside the lung, wide ones first, and the last one over all of it.
LEVELLING_MM = (48, 48, 48, 24, 24, 24, 24, 12, 12, 12, 12, 12, 12, 6, 6, 6, 6, 6, 6)
SMOOTHING_MM = 7
NOISE = 0.01
LUNG, TISSUE = 0.12, 1.0  # intensities in the lung window
TREE_TIPS, TIP_RADIUS_MM = 800, 1.0
SCANS = {"baseline": FIXED, "followup": FOLLOW_UP}
# Of variants: the strength of the breathing, and the random field: standard deviation per
# component, and that of the Gaussian that made it smooth.
STRENGTHS = (0.5, 1.25)
RANDOM_MM, RANDOM_SMOOTHING_MM = 3.0, 36.0
# By person, so that no motion is in two splits.
TEST = tuple(TRAIN_IDS[number - 1] for number in (2, 6, 10, 14, 18))
VALIDATION = tuple(TRAIN_IDS[number - 1] for number in (4, 12))
TRAINED = tuple(name for name in TRAIN_IDS if name not in TEST + VALIDATION)


@dataclass(frozen=True)
class Motion:
    """One person's breathing on the grid of the cases.

    Attributes:
        displacement: `(1, 3, *shape)` voxels, from the exhaled to the inhaled lung.
        inhaled: mask of the inhaled right lung, `(*shape)` boolean.
        box_mm: lowest and highest corner of that lung before resampling, `(2, 3)` RAS+.
        affine: of the grid.
    """

    displacement: Displacement
    inhaled: np.ndarray
    box_mm: np.ndarray
    affine: np.ndarray


class LungSemireal:
    """The adapter.

    Args:
        root: folder that holds both parts; default `$REGNET_DATA`.
        spacing_mm: voxel size; the grid covers 192 x 288 x 384 mm around the right lung.
        trees: computed anatomies per person.
        landmarks: points per case, at random places of the exhaled lung.
        variants: further training pairs for each one, with another motion.

    `train` shows the follow-up scan and trees, `validation` and `test` the baseline scan and one
    tree: other motions on other trees, but the two scans show one person.
    """

    name = "lung_semireal"
    label_ids = (1,)
    made_from: Mapping[str, tuple[str, ...]] = {
        MOTION: (f"masksTr/{TRAIN_IDS[0]}_0000.nii.gz",),
        ANATOMY: ElastixLungCT.markers,
    }

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        spacing_mm: Literal[2, 3, 4, 6, 12] = 4,
        trees: int = 3,
        landmarks: int = 300,
        variants: int = 0,
    ) -> None:
        if spacing_mm not in (2, 3, 4, 6, 12):
            raise ValueError(
                f"LungSemireal: expected spacing_mm=2, 3, 4, 6 or 12, got {spacing_mm!r}."
            )
        if trees < 1 or landmarks < 1 or variants < 0:
            raise ValueError(
                "LungSemireal: expected at least one tree and landmark, and variants from 0 on, "
                f"got {trees}, {landmarks} and {variants}."
            )
        motion, anatomy = (None if root is None else Path(root) / part for part in self.made_from)
        self._scans = ElastixLungCT(anatomy)
        motion = dataset_folder(MOTION, motion, expected=self.made_from[MOTION])
        self._people = LungCT(motion, images="masks", crop=None, points="keypoints")
        self._people.kept_mib = 0  # masks on the full grid are read once per person
        self.spacing_mm, self.trees, self.landmarks = spacing_mm, trees, landmarks
        self.variants = variants
        self._read_scans: dict[str, tuple[Volume, Volume]] = {}
        self._motions: dict[str, Motion] = {}
        self._anatomies: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        self._cases: dict[str, Case] = {}

    def ids(self, split: str) -> tuple[str, ...]:
        """Names of the cases of `train`, `validation` or `test`: person, anatomy and variant."""
        people = {"train": TRAINED, "validation": VALIDATION, "test": TEST}
        if split not in people:
            raise ValueError(f"{self.name}: expected a split of {list(people)}, got {split!r}.")
        anatomies = ("baseline", "tree1")
        if split == "train":
            anatomies = ("followup", *(f"tree{number}" for number in range(1, self.trees + 1)))
        changes = [""]
        if split == "train":
            changes += [f"-variant{number}" for number in range(1, self.variants + 1)]
        return tuple(
            f"{person}-{anatomy}{change}"
            for person in people[split]
            for anatomy in anatomies
            for change in changes
        )

    def case(self, case_id: str, *, labels: bool = True) -> Case:
        """The pair of that name; the same one every time."""
        case = self._cases.get(case_id) or self._make(case_id)
        # A case takes 100 MB at 2 mm, and variants are many: those are made again each time.
        if self.spacing_mm > 2 and "variant" not in case_id:
            self._cases[case_id] = case
        return case if labels else replace(case, moving_labels=None, fixed_labels=None)

    def _make(self, case_id: str) -> Case:
        match = re.fullmatch(
            r"(LungCT_\d{4})-(baseline|followup|tree[1-9]\d*)(?:-variant([1-9]\d*))?", case_id
        )
        person, anatomy, variant = match.groups() if match else ("", "", None)
        if person not in (TRAINED if variant else TRAIN_IDS):
            raise BadInputError(
                f"{self.name}: expected a person and an anatomy, like '{TEST[0]}-baseline', and "
                f"for training pairs a variant, like '{TRAINED[0]}-tree1-variant1', got "
                f"{case_id!r}. Take a name from ids(split)."
            )
        motion = self._motion(person)
        image, mask, random = self._anatomy(person, anatomy)
        displacement = motion.displacement
        if variant:
            random = np.random.default_rng((*_seed(person, anatomy), int(variant)))
            displacement = self._another_motion(random)
        moving = torch.from_numpy(image)[None, None]
        moving_labels = torch.from_numpy(mask.astype(np.int64))[None, None]
        fixed_labels = warp_labels(moving_labels, displacement)
        lung = torch.from_numpy(_blurred(fixed_labels[0, 0].numpy(), 1.0))
        denser = 1 + lung * (jacobian_determinant(displacement) - 1)
        fixed = (warp(moving, displacement, padding="border") * denser).clamp(0, 1)
        fixed_points = _points_inside(fixed_labels, displacement, self.landmarks, random)
        return Case(
            id=case_id,
            moving=_with_noise(moving, NOISE, random),
            fixed=_with_noise(fixed, NOISE, random),
            affine=motion.affine,
            moving_labels=moving_labels,
            fixed_labels=fixed_labels,
            label_ids=self.label_ids,
            moving_landmarks=warp_points(fixed_points, displacement),
            fixed_landmarks=fixed_points,
            displacement=displacement,
        )

    def _anatomy(
        self, person: str, anatomy: str
    ) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """Image and lung mask `(*shape)`, and the generator that drew them."""
        motion = self._motion(person)
        random = np.random.default_rng(_seed(person, anatomy))
        if anatomy not in SCANS:
            return _tree(motion, random, float(self.spacing_mm)), motion.inhaled, random
        key = (person, anatomy)
        image, mask = self._anatomies.get(key) or self._scan(SCANS[anatomy], motion)
        if self.spacing_mm > 2:
            self._anatomies[key] = image, mask
        return image, mask, random

    def _another_motion(self, random: np.random.Generator) -> Displacement:
        """The breathing of a random person of the training set, changed at random."""
        from scipy.ndimage import gaussian_filter

        breathing = self._motion(str(random.choice(TRAINED))).displacement
        strength = float(random.uniform(*STRENGTHS))
        shape = breathing.shape[2:]
        width = RANDOM_SMOOTHING_MM / self.spacing_mm
        noise = random.standard_normal((3, *shape), dtype=np.float32)
        # Across the faces to the opposite ones, so that it varies there as much as elsewhere.
        noise = gaussian_filter(noise, (0.0, width, width, width), mode="wrap")
        noise *= RANDOM_MM / self.spacing_mm / noise.std()
        return strength * breathing + torch.from_numpy(noise)[None]

    def _scan(self, scan: str, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
        """A CT in the lung window and its mask, stretched from box to box."""
        image, mask = self._read(scan)
        here, there = _box_mm(mask.array > 0, mask.affine), motion.box_mm
        stretch = np.diag([*((there[1] - there[0]) / (here[1] - here[0])), 1.0])
        stretch[:3, 3] = there[0] - stretch[:3, :3] @ here[0]
        placed = Volume(image.array, stretch @ image.affine)
        # Coarser voxels are means over finer ones: without a blur they would alias.
        sigmas = [0.4 * self.spacing_mm / size for size in placed.spacing_mm]
        placed = Volume(_blurred(placed.array, sigmas), placed.affine)
        shape, affine = motion.inhaled.shape, motion.affine
        image = resample_to(placed, shape, affine, fill=TISSUE).array
        mask = resample_to(Volume(mask.array, placed.affine), shape, affine, labels=True).array
        return image.astype(np.float32), mask > 0

    def _read(self, scan: str) -> tuple[Volume, Volume]:
        """A CT in the lung window and its mask, on their own grid."""
        if scan not in self._read_scans:
            mask = read_volume(self._scans.label_path(scan), labels=True)
            image = to_lung_window(read_volume(self._scans.image_path(scan)))
            self._read_scans[scan] = image, mask
        return self._read_scans[scan]

    def _motion(self, person: str) -> Motion:
        if person not in self._motions:
            self._motions[person] = _fit(self._people.case(person), self.spacing_mm)
        return self._motions[person]


def _seed(person: str, anatomy: str) -> tuple[int, int]:
    return TRAIN_IDS.index(person), 0 if anatomy in SCANS else int(anatomy.removeprefix("tree"))


def _fit(person: Case, spacing_mm: int) -> Motion:
    """The motion of the right lung of masks and key points, on a grid around it."""
    if person.fixed_landmarks is None:
        raise BadInputError(
            f"{MOTION}: expected key points of {person.id}, found none. Fetch keypointsTr."
        )
    masks = [labels[0, 0].numpy() > 0 for labels in (person.fixed_labels, person.moving_labels)]
    planes = [_between_lungs(mask) for mask in masks]
    masks = [_right_of(plane, mask) for plane, mask in zip(planes, masks, strict=True)]
    boxes = np.stack([_box_mm(mask, person.affine) for mask in masks])
    centre = (boxes[:, 0].min(0) + boxes[:, 1].max(0)) / 2
    exhaled, inhaled = (Volume(mask.astype(np.uint8), person.affine) for mask in masks)
    right = person.fixed_landmarks[:, 0].numpy() > planes[0]
    points, partners = (
        points.numpy()[right] @ person.affine[:3, :3].T + person.affine[:3, 3]
        for points in (person.fixed_landmarks, person.moving_landmarks)
    )
    shape, affine = _grid(centre, FIT_MM)
    lung = resample_to(exhaled, shape, affine, labels=True).array > 0
    motion_mm = smooth_motion(points, partners - points, lung, affine)
    shape, affine = _grid(centre, spacing_mm)
    finer = FIT_MM / spacing_mm
    # Both grids cover the same box: it is the faces of their voxels that coincide.
    places = (identity_grid(shape) + 0.5) / finer - 0.5
    motion_voxels = torch.from_numpy(motion_mm / spacing_mm)[None]
    return Motion(
        displacement=sample(motion_voxels, places, padding="border"),
        inhaled=resample_to(inhaled, shape, affine, labels=True).array > 0,
        box_mm=boxes[1],
        affine=affine,
    )


def smooth_motion(
    points_mm: np.ndarray, motion_mm: np.ndarray, mask: np.ndarray, affine: np.ndarray
) -> np.ndarray:
    """Vectors `(N, 3)` at points `(N, 3)` as a smooth float32 field `(3, *shape)`.

    Args:
        mask: where the points lie, on the grid of the field; the field continues around it.
        affine: of that grid, to the millimetres of the points.
    """
    from scipy.interpolate import RBFInterpolator
    from scipy.ndimage import distance_transform_edt

    spline = RBFInterpolator(
        points_mm / 100, motion_mm, kernel="thin_plate_spline", smoothing=SPLINE_SMOOTHING
    )
    places = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    inside = spline(places / 100).T.astype(np.float32)
    field = np.empty((3, *mask.shape), dtype=np.float32)
    field[:, mask] = inside
    # Begin outside with the nearest value, which jumps half-way between two parts of the lung.
    nearest = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    field = field[:, *nearest]
    voxel_mm = np.linalg.norm(affine[:3, :3], axis=0)
    for width_mm in LEVELLING_MM:
        field = _blurred(field, (0.0, *(width_mm / voxel_mm)))
        field[:, mask] = inside
    return _blurred(field, (0.0, *(SMOOTHING_MM / voxel_mm)))


def _grid(centre_mm: np.ndarray, spacing_mm: int) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of the grid around a centre."""
    shape = tuple(side // spacing_mm for side in EXTENT_MM)
    affine = np.diag([float(spacing_mm)] * 3 + [1.0])
    affine[:3, 3] = centre_mm - spacing_mm * (np.array(shape) - 1) / 2
    return shape, affine


def _tree(motion: Motion, random: np.random.Generator, spacing_mm: float) -> np.ndarray:
    """A lung with a tree of vessels: image `(*shape)` in the lung window.

    Random tips are joined to a root at the hilum by the shortest paths under the square of the
    distance, which run along one another and so branch. Where branches meet, the cubes of their
    radii add (Murray, 1926). A voxel shows the share of its volume that vessels fill.
    """
    from scipy.sparse.csgraph import dijkstra
    from scipy.spatial.distance import cdist

    inside = np.argwhere(motion.inhaled)
    low, high = inside.min(0), inside.max(0)
    hilum = inside[np.abs(inside - [low[0], *(low + high)[1:] / 2]).sum(1).argmin()]
    tips = random.choice(inside, TREE_TIPS) + random.uniform(-0.5, 0.5, (TREE_TIPS, 3))
    nodes_mm = spacing_mm * np.vstack([hilum, tips])
    distances, before = dijkstra(
        cdist(nodes_mm, nodes_mm) ** 2, indices=0, return_predecessors=True
    )
    supplied = np.ones(len(nodes_mm))
    for node in np.argsort(distances)[:0:-1]:  # from the tips to the root
        supplied[before[node]] += supplied[node]
    ends, starts = nodes_mm[1:], nodes_mm[before[1:]]
    lengths = np.linalg.norm(ends - starts, axis=1)
    pieces = np.ceil(2 * lengths / spacing_mm).astype(int) + 1
    branch = np.repeat(np.arange(len(ends)), pieces)
    along = (np.arange(len(branch)) - np.repeat(pieces.cumsum() - pieces, pieces)) / pieces[branch]
    places = starts[branch] + along[:, None] * (ends - starts)[branch]
    radii = TIP_RADIUS_MM * supplied[1:] ** (1 / 3)
    volumes = (np.pi * radii**2 * lengths / pieces)[branch]
    voxels = tuple((places / spacing_mm).round().astype(int).T)
    filled = np.zeros(motion.inhaled.shape)
    np.add.at(filled, voxels, volumes / spacing_mm**3)
    filled = np.clip(_blurred(filled, 0.6), 0, 1)
    texture = LUNG + 0.02 * _blurred(random.standard_normal(filled.shape), 1.0)
    lung = texture + (TISSUE - texture) * filled
    return _blurred(np.where(motion.inhaled, lung, TISSUE), 0.4)


def _between_lungs(mask: np.ndarray) -> int:
    """The sagittal plane in the middle third that cuts least of both lungs."""
    third = mask.shape[0] // 3
    return third + int(mask.sum(axis=(1, 2))[third : 2 * third].argmin())


def _right_of(plane: int, mask: np.ndarray) -> np.ndarray:
    """The right lung: the first axis grows to the patient's right, as in all files of the set."""
    return mask & (np.arange(mask.shape[0]) > plane)[:, None, None]


def _box_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Lowest and highest corner `(2, 3)` of a mask in the world."""
    voxels = np.argwhere(mask)
    corners = np.stack([voxels.min(0), voxels.max(0)]) @ affine[:3, :3].T + affine[:3, 3]
    return np.sort(corners, axis=0)


def _blurred(array: np.ndarray, sigma: float | Sequence[float]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(array.astype(np.float32), sigma, mode="nearest")


def write_fake_lung_semireal(
    root: str | os.PathLike, *, people: int = 4, overwrite: bool = False
) -> Path:
    """Write both parts as phantoms: `people` of the 20, of which 2 is tested and 4 validates."""
    root = Path(root)
    write_fake_lung_ct(
        root / MOTION,
        shape=(64, 96, 80),
        train=people,
        test=0,
        scans=False,
        overwrite=overwrite,
    )
    write_fake_elastix_lung_ct(root / ANATOMY, overwrite=overwrite)
    return root
