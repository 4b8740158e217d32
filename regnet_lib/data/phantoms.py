"""Phantoms: pairs whose true displacement, labels and landmarks are known, in 2-D and 3-D.

The moving image is drawn, a smooth invertible displacement u is drawn on the fixed grid, and the
fixed image is moving(x + u(x)): so u is the exact answer a registration should find. Everything
follows from `seed`, and noise is added to both images independently.

    case = phantom_pair((64, 64, 64), seed=0, kind="brain")
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from regnet_lib.data.case import Case
from regnet_lib.spatial import integrate, warp, warp_labels, warp_points
from regnet_lib.types import Displacement

Kind = Literal["brain", "lung"]

LABEL_NAMES: dict[Kind, dict[int, str]] = {
    "brain": {
        1: "cortex",
        2: "white matter",
        3: "left ventricle",
        4: "right ventricle",
        5: "left deep nuclei",
        6: "right deep nuclei",
        7: "cerebellum",
    },
    "lung": {1: "left lung", 2: "right lung", 3: "vessels"},
}


def phantom_pair(
    shape: Sequence[int] = (64, 64, 64),
    *,
    seed: int = 0,
    kind: Kind = "brain",
    max_displacement_voxels: float | None = None,
    landmarks: int = 32,
    noise: float = 0.02,
    spacing_mm: Sequence[float] | float = 1.0,
) -> Case:
    """One phantom case.

    Args:
        shape: two or three sides of at least 16 voxels.
        kind: `brain` (nested tissues with folded cortex) or `lung` (two lungs with vessels, whose
            displacement grows towards the diaphragm, the end of the last axis).
        max_displacement_voxels: length of the longest vector, about; default 8 % of the shortest
            side.
        landmarks: number of corresponding points inside the anatomy.
        noise: standard deviation of the noise on intensities in [0, 1].
    """
    shape = tuple(int(side) for side in shape)
    if len(shape) not in (2, 3) or min(shape) < 16:
        raise ValueError(f"phantom_pair: expected 2 or 3 sides of at least 16 voxels, got {shape}.")
    if kind not in LABEL_NAMES:
        raise ValueError(f"phantom_pair: expected kind='brain' or 'lung', got {kind!r}.")
    random = np.random.default_rng(seed)
    anatomy = _brain if kind == "brain" else _lung
    clean, labels = anatomy(shape, random)
    if max_displacement_voxels is None:
        max_displacement_voxels = 0.08 * min(shape)
    displacement = smooth_displacement(
        shape, random, max_displacement_voxels, breathing=kind == "lung"
    )
    moving_labels = torch.from_numpy(labels)[None, None]
    fixed_labels = warp_labels(moving_labels, displacement)
    moving_clean = torch.from_numpy(clean)[None, None]
    fixed_clean = warp(moving_clean, displacement, padding="border")
    fixed_points = _points_inside(fixed_labels, displacement, landmarks, random)
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), len(shape))
    return Case(
        id=f"{kind}-{seed:03d}",
        moving=_with_noise(moving_clean, noise, random),
        fixed=_with_noise(fixed_clean, noise, random),
        affine=np.diag([*spacing, 1.0]),
        moving_labels=moving_labels,
        fixed_labels=fixed_labels,
        label_ids=tuple(LABEL_NAMES[kind]),
        moving_landmarks=warp_points(fixed_points, displacement),
        fixed_landmarks=fixed_points,
        displacement=displacement,
    )


def smooth_displacement(
    shape: Sequence[int],
    random: np.random.Generator,
    max_voxels: float,
    *,
    breathing: bool = False,
) -> Displacement:
    """An invertible random displacement `(1, n, *shape)`: an integrated smooth velocity.

    The velocity fades to zero at the faces, so that no point leaves the grid.
    """
    smoothness = min(shape) / 8
    velocity = np.stack([_smooth(shape, random, smoothness) for _ in shape])
    if breathing:
        depth = np.linspace(0, 1, shape[-1]) ** 2
        velocity = 0.35 * velocity
        velocity[-1] += 2.5 * depth
    edge = np.ones(shape)
    for axis, side in enumerate(shape):
        distance = np.minimum(np.arange(side), np.arange(side)[::-1]) / (0.15 * side)
        profile = np.sin(0.5 * np.pi * np.clip(distance, 0, 1)) ** 2
        edge = edge * profile.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    velocity = velocity * edge
    velocity *= max_voxels / max(np.sqrt((velocity**2).sum(0)).max(), 1e-12)
    return integrate(torch.from_numpy(velocity.astype(np.float32))[None])


class Phantoms:
    """Phantoms as a dataset: `train`, `validation` and `test` cases with fixed seeds.

    >>> dataset = Phantoms(shape=(32, 32, 32), train=8)
    >>> dataset.case(dataset.ids("train")[0]).id
    'brain-1000'
    """

    name = "phantom"

    def __init__(
        self,
        *,
        shape: Sequence[int] = (48, 48, 48),
        kind: Kind = "brain",
        train: int = 16,
        validation: int = 2,
        test: int = 4,
        spacing_mm: float = 1.0,
        max_displacement_voxels: float | None = None,
    ) -> None:
        self.shape = tuple(shape)
        self.kind: Kind = kind
        self.label_ids = tuple(LABEL_NAMES[kind])
        self._options = {
            "spacing_mm": spacing_mm,
            "max_displacement_voxels": max_displacement_voxels,
        }
        self._seeds = {
            "train": range(1000, 1000 + train),
            "validation": range(2000, 2000 + validation),
            "test": range(3000, 3000 + test),
        }

    def ids(self, split: str) -> tuple[str, ...]:
        """Names of the cases of `train`, `validation` or `test`."""
        if split not in self._seeds:
            raise ValueError(f"Phantoms: expected a split of {list(self._seeds)}, got {split!r}.")
        return tuple(f"{self.kind}-{seed}" for seed in self._seeds[split])

    def case(self, case_id: str, *, labels: bool = True) -> Case:
        """The case of that name; `labels` exists for symmetry with datasets on disk."""
        kind, _, seed = case_id.rpartition("-")
        if kind != self.kind or not seed.isdecimal():
            raise ValueError(
                f"Phantoms: expected a case named '{self.kind}-<seed>', got {case_id!r}. "
                "Take a name from ids(split)."
            )
        return phantom_pair(self.shape, seed=int(seed), kind=self.kind, **self._options)


def _brain(shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Intensities in [0, 1] like a T1 image, and labels; left and right along axis 0."""
    position = _unit_coordinates(shape)
    wobble = _smooth(shape, random, min(shape) / 6)
    folds = _smooth(shape, random, min(shape) / 28)
    radius = np.sqrt(sum(p**2 for p in position)) + 0.03 * wobble
    labels = np.zeros(shape, dtype=np.int64)
    labels[radius < 0.82] = 1
    labels[radius + 0.08 * folds < 0.68] = 2
    depth = 0.45 + 0.05 * random.uniform(-1, 1)
    last = position[-1]
    for left, (ventricle, nuclei) in ((True, (3, 5)), (False, (4, 6))):
        sign = -1 if left else 1
        across = position[0] - sign * 0.16
        labels[_ball(across, position[1:], (0.10, 0.34), wobble)] = ventricle
        across = position[0] - sign * 0.36
        labels[_ball(across, position[1:], (0.13, 0.17), wobble)] = nuclei
    # A separate lobe low at the back, so that not everything is concentric.
    lobe = [position[0], *[p + 0.25 for p in position[1:-1]], last + depth]
    labels[np.sqrt(sum((p / 0.28) ** 2 for p in lobe)) < 1] = 7
    labels[radius >= 0.82] = 0
    intensity = np.array([0.0, 0.50, 0.80, 0.15, 0.15, 0.62, 0.62, 0.56])[labels]
    texture = 0.04 * _smooth(shape, random, 1.5) * (labels > 0)
    return _blur(np.clip(intensity + texture, 0, 1), 0.6), labels


def _lung(shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Intensities in [0, 1] like a windowed CT, and labels; left and right along axis 0."""
    position = _unit_coordinates(shape)
    wobble = _smooth(shape, random, min(shape) / 6)
    body = np.sqrt(sum((p / 0.95) ** 2 for p in position[:2])) + 0.02 * wobble < 1
    labels = np.zeros(shape, dtype=np.int64)
    intensity = np.where(body, 0.60, 0.0)
    for label, sign in ((1, -1), (2, 1)):
        across = position[0] - sign * 0.42
        lung = _ball(across, position[1:], (0.34, 0.72), wobble) & body
        labels[lung] = label
    # Zero crossings of smooth noise are surfaces; two of them meet in curves, like vessels.
    branches = np.hypot(
        _smooth(shape, random, min(shape) / 14), _smooth(shape, random, min(shape) / 14)
    )
    vessels = (branches < 0.28) & (labels > 0)
    intensity = np.where(labels > 0, 0.15, intensity)
    labels[vessels] = 3
    intensity = np.where(vessels, 0.70, intensity)
    texture = 0.02 * _smooth(shape, random, 1.2) * body
    return _blur(np.clip(intensity + texture, 0, 1), 0.6), labels


def _ball(
    across: np.ndarray, along: list[np.ndarray], radii: tuple[float, float], wobble: np.ndarray
) -> np.ndarray:
    """An ellipsoid with one radius across (axis 0) and one along the other axes."""
    distance = (across / radii[0]) ** 2 + sum((p / radii[1]) ** 2 for p in along)
    return np.sqrt(distance) + 0.1 * wobble < 1


def _unit_coordinates(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Coordinates in [-1, 1] along every axis, as full arrays."""
    return list(np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij"))


def _smooth(shape: Sequence[int], random: np.random.Generator, sigma: float) -> np.ndarray:
    """Gaussian-filtered white noise with unit standard deviation."""
    field = _blur(random.standard_normal(shape), sigma)
    return field / field.std()


def _blur(array: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(array, sigma, mode="wrap" if sigma > 1 else "nearest").astype(np.float32)


def _with_noise(image: Tensor, noise: float, random: np.random.Generator) -> Tensor:
    perturbation = random.standard_normal(tuple(image.shape)).astype(np.float32)
    return (image + noise * torch.from_numpy(perturbation)).clamp(0, 1)


def _points_inside(
    labels: Tensor, displacement: Displacement, count: int, random: np.random.Generator
) -> Tensor:
    """Random points of the fixed anatomy whose partners lie inside the moving grid too."""
    candidates = torch.nonzero(labels[0, 0] > 0).float()
    chosen = torch.from_numpy(
        random.choice(len(candidates), min(4 * count, len(candidates)), False)
    )
    points = candidates[chosen]
    jitter = random.uniform(-0.4, 0.4, tuple(points.shape)).astype(np.float32)
    last = torch.tensor(labels.shape[2:]) - 1.0
    points = (points + torch.from_numpy(jitter)).clamp(min=torch.zeros_like(last), max=last)
    partners = warp_points(points, displacement)
    inside = ((partners >= 0) & (partners <= last)).all(1)
    return points[inside][:count]
