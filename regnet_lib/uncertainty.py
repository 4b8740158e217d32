"""How sure is a registration, and is it right about that? Maps of uncertainty and their checks.

AD-RegNet shows "appearance uncertainty maps (coarse-to-fine)" in its Fig. 5 without a method. Two
methods fit its network:

* Monte Carlo dropout (Gal and Ghahramani, ICML 2016): register several times with random dropout.
  The spread of the displacements is a deviation in voxels, that of the warped images one of
  intensity ("appearance").
* The entropy of attention, which needs one pass and no dropout. It exists on every level.

A map is useful if it is large where the error is large (`rank_correlation`), and honest if its
numbers are right (`reliability`, after Laves et al., MIDL 2020). The error of the displacement is
known on phantoms only.

    samples = model.sample(moving, fixed, samples=12)        # (12, B, 3, D, H, W)
    deviation = displacement_deviation(samples)              # (B, 1, D, H, W), voxels
    error = (samples.mean(0) - true).norm(dim=1, keepdim=True)
    rank_correlation(deviation, error, inside), reliability(deviation, error, inside).gap
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regnet_lib.spatial import resample, warp
from regnet_lib.types import Image

Samples = Float[Tensor, "samples batch axes *dims"]
Map = Float[Tensor, "batch 1 *dims"]
OfLevel = Float[Tensor, "batch 1 ..."]
Mask = Bool[Tensor, "batch 1 *dims"]


def displacement_deviation(samples: Samples) -> Map:
    """Root mean square distance of the samples from their mean, in voxels.

    The variances of the components, with divisor S - 1, are added: where samples scatter like
    errors, this is the root mean square length of the error.

    Args:
        samples: at least two displacements per pair, see `ADRegNet.sample`.
    """
    _require_samples("displacement_deviation", samples)
    return samples.var(dim=0).sum(dim=1, keepdim=True).sqrt()


def appearance_deviation(moving: Image, samples: Samples) -> Map:
    """Standard deviation of the warped moving image over the samples, in units of intensity.

    It is high at edges, wherever they are moved, and near 0 in an even region, wherever that goes.

    Args:
        moving: `(B, 1, *shape)`, the image that every sample warps.
    """
    _require_samples("appearance_deviation", samples)
    return torch.stack([warp(moving, displacement) for displacement in samples]).std(dim=0)


def attention_spread(entropies: Mapping[int, OfLevel], shape: Sequence[int]) -> dict[int, OfLevel]:
    """exp(entropy): the number of voxels that a fixed voxel looks at, coarse to fine.

    n equal weights have the entropy log(n), so that this counts voxels of the level's own grid. It
    is resampled to the grid of the image.

    Args:
        entropies: by level, in nats: `extras["attention_entropy"]` of `ADRegNet`.
        shape: of the image.
    """
    levels = sorted(entropies, reverse=True)
    return {level: resample(entropies[level].float().exp(), shape) for level in levels}


def rank_correlation(uncertainty: Map, error: Map, inside: Mask | None = None) -> float:
    """Spearman's correlation over voxels: 1 if the map orders the errors, 0 if it knows nothing.

    It does not depend on the units of the map. A batch is one set of voxels. NaN if one of both is
    constant.

    Args:
        inside: voxels that count; all if None.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in _chosen(uncertainty, error, inside)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


@dataclass(frozen=True)
class Reliability:
    """Voxels in bins of equal size, from the least to the most uncertain.

    Attributes:
        predicted: root mean square uncertainty per bin.
        observed: root mean square error per bin; equal to `predicted` if the map is calibrated.
        voxels: per bin.
    """

    predicted: np.ndarray
    observed: np.ndarray
    voxels: np.ndarray

    @property
    def gap(self) -> float:
        """Mean distance of predicted from observed over voxels, in their unit; 0 is calibrated."""
        return float(np.average(abs(self.predicted - self.observed), weights=self.voxels))


def reliability(
    uncertainty: Map, error: Map, inside: Mask | None = None, bins: int = 10
) -> Reliability:
    """Predicted against observed error (the reliability diagram of a regression).

    Args:
        uncertainty, error: in the same unit.
        inside: voxels that count, at least one per bin; all if None.
    """
    predicted, observed = _chosen(uncertainty, error, inside)
    if not 1 <= bins <= len(predicted):
        raise ValueError(
            f"reliability: expected 1 to {len(predicted)} bins, as many as voxels at most, got "
            f"{bins}."
        )
    parts = np.array_split(np.argsort(predicted, kind="stable"), bins)

    def root_mean_square(values: np.ndarray) -> np.ndarray:
        return np.array([np.sqrt(np.mean(values[part] ** 2)) for part in parts])

    voxels = np.array([len(part) for part in parts])
    return Reliability(root_mean_square(predicted), root_mean_square(observed), voxels)


def calibration_factor(uncertainty: Map, error: Map, inside: Mask | None = None) -> float:
    """The factor s for which s * uncertainty suits the errors best: s^2 = mean(error^2 / map^2).

    The largest likelihood of normally distributed errors has it in closed form (Laves et al., MIDL
    2020). Fit it on validation cases and use it on others; one number changes no ranks.

    Raises:
        ValueError: the map is 0 somewhere inside, where any error is infinitely unlikely.
    """
    predicted, observed = _chosen(uncertainty, error, inside)
    if predicted.min() <= 0:
        raise ValueError(
            "calibration_factor: expected a positive uncertainty at every voxel inside, got a "
            f"smallest one of {predicted.min():g}. Leave such voxels out."
        )
    return float(np.sqrt(np.mean((observed / predicted) ** 2)))


def _chosen(first: Map, second: Map, inside: Mask | None) -> tuple[np.ndarray, np.ndarray]:
    """The values of both maps at the voxels that count, float64."""
    shapes = {tuple(one.shape) for one in (first, second, inside) if one is not None}
    if len(shapes) > 1:
        raise ValueError(f"uncertainty: expected maps of one shape, got {sorted(shapes)}.")
    kept = torch.ones_like(first, dtype=torch.bool) if inside is None else inside
    if not kept.any():
        raise ValueError("uncertainty: expected at least one voxel inside, got none.")
    values = (one.detach()[kept].double().cpu().numpy() for one in (first, second))
    return next(values), next(values)


def _require_samples(caller: str, samples: Tensor) -> None:
    if samples.ndim < 5 or len(samples) < 2:
        raise ValueError(
            f"{caller}: expected at least two samples (S, B, axes, *shape), got shape "
            f"{tuple(samples.shape)}."
        )
