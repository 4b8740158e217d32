"""How alike two images are: correlation, squared difference, structural similarity.

AD-RegNet equations (20), (21), (22), in double precision over all voxels of one pair. Equation (22)
taken literally is one value from global means and variances (`window=None`); what other papers call
SSIM is the mean of the same formula over windows, and the two differ (0.74 and 0.76 on one pair).

    value = ssim(warped, fixed, data_range=1.0)                # images (D, H, W) or (1, 1, D, H, W)
    value = ssim(warped, fixed, data_range=1.0, window=11, weights="gaussian")
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import Tensor

ImageMap = Tensor | np.ndarray

# Constants of Wang et al., IEEE TIP 2004; AD-RegNet leaves C1 and C2 open.
K1, K2 = 0.01, 0.03
SIGMA_VOXELS = 1.5


def ncc(warped: ImageMap, fixed: ImageMap) -> float:
    """Global normalized cross-correlation (eq. 20), -1 to 1; NaN where an image is constant."""
    a, b = _as_pair("ncc", warped, fixed)
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def mse(warped: ImageMap, fixed: ImageMap) -> float:
    """Mean squared difference (eq. 21), in squared units of the images."""
    a, b = _as_pair("mse", warped, fixed)
    return float(np.square(a - b).mean())


def ssim(
    warped: ImageMap,
    fixed: ImageMap,
    *,
    data_range: float | int | None = None,
    window: int | None = None,
    weights: Literal["uniform", "gaussian"] = "uniform",
) -> float:
    """Structural similarity (eq. 22), at most 1; with C1 = (0.01 L)^2 and C2 = (0.03 L)^2.

    Args:
        warped, fixed: one pair, `(D, H, W)`, `(H, W)` or with leading axes of size 1.
        data_range: L, the span of intensities the images can have. The value depends on it, and
            the type of an image gives it away for 8-bit images only (255), so it is required for
            all others.
        window: None for one global value, else the side of the windows in voxels, odd (7 is usual
            with `uniform`, 11 with `gaussian`). Windows that leave the image do not count.
        weights: within a window, equal or a Gaussian of 1.5 voxels. Variances are the weighted
            population ones.
    """
    a, b = _as_pair("ssim", warped, fixed)
    span = _data_range(warped, fixed, data_range)
    if weights not in ("uniform", "gaussian"):
        raise ValueError(f"ssim: expected weights='uniform' or 'gaussian', got {weights!r}.")
    if window is None:
        if weights != "uniform":
            raise ValueError(
                f"ssim: expected a window for weights={weights!r}, got None, the global formula. "
                "Give window=11."
            )
        return _ssim_map(a, b, span, lambda image: image.mean(keepdims=True)).item()
    if window < 3 or window % 2 == 0 or window > min(a.shape):
        raise ValueError(
            f"ssim: expected an odd window from 3 to {min(a.shape)} voxels for images of shape "
            f"{a.shape}, got {window}."
        )
    profile = np.ones(window)
    if weights == "gaussian":
        profile = np.exp(-0.5 * ((np.arange(window) - window // 2) / SIGMA_VOXELS) ** 2)
    profile /= profile.sum()
    return float(_ssim_map(a, b, span, lambda image: _window_mean(image, profile)).mean())


def _ssim_map(
    a: np.ndarray, b: np.ndarray, span: float, mean: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Equation (22) with expectations taken by `mean`, globally or per window."""
    # Variances do not change with a common shift, and near 0 they lose fewer digits.
    shift = b.mean()
    mean_a, mean_b = mean(a - shift), mean(b - shift)
    variance_a = mean((a - shift) ** 2) - mean_a**2
    variance_b = mean((b - shift) ** 2) - mean_b**2
    covariance = mean((a - shift) * (b - shift)) - mean_a * mean_b
    mean_a, mean_b = mean_a + shift, mean_b + shift
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)


def _window_mean(image: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Weighted means of all windows inside the image; every side shrinks by the window - 1."""
    for axis in range(image.ndim):
        moved = np.moveaxis(image, axis, 0)
        size = len(moved) - len(profile) + 1
        total = sum(weight * moved[start : start + size] for start, weight in enumerate(profile))
        image = np.moveaxis(total, 0, axis)
    return image


def _data_range(warped: ImageMap, fixed: ImageMap, data_range: float | int | None) -> float:
    if data_range is None:
        types = {str(image.dtype).removeprefix("torch.") for image in (warped, fixed)}
        if types != {"uint8"}:
            raise ValueError(
                f"ssim: expected data_range for images of type {' and '.join(sorted(types))}. Give "
                "the span of possible intensities: 1.0 for images normalized to [0, 1], the width "
                "of the window for CT."
            )
        return 255.0
    if not 0 < data_range < np.inf:
        raise ValueError(f"ssim: expected a positive finite data_range, got {data_range}.")
    return float(data_range)


def _as_pair(function: str, warped: ImageMap, fixed: ImageMap) -> tuple[np.ndarray, np.ndarray]:
    """Two images of one shape without batch and channel axes, as float64."""
    arrays = []
    for image in (warped, fixed):
        array = image.detach().double().cpu().numpy() if isinstance(image, Tensor) else image
        array = np.asarray(array, dtype=np.float64)
        if array.ndim == 4 and array.shape[:2] == (1, 1):
            array = array.reshape(array.shape[-2:])  # (1, 1, H, W) -> (H, W)
        elif array.ndim > 3 and array.shape[:-3] == (1,) * (array.ndim - 3):
            array = array.reshape(array.shape[-3:])  # (1, 1, D, H, W) -> (D, H, W)
        arrays.append(array)
    a, b = arrays
    if a.shape != b.shape or a.ndim not in (2, 3) or a.size == 0:
        raise ValueError(
            f"{function}: expected two images of one shape (D, H, W), got {tuple(warped.shape)} "
            f"and {tuple(fixed.shape)}. Evaluate one case at a time, on the fixed grid."
        )
    return a, b
