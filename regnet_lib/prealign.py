"""Affine pre-alignment in millimetres, by SimpleITK: networks are trained on aligned pairs.

Mattes mutual information (Mattes et al., IEEE TMI 2003), so that the two images may come from
different scanners; gradient descent over three resolutions, first rigid, then affine. One thread
and seeded sampling: equal inputs give equal matrices. Needs the extra `io`.

    world = prealign(moving, fixed, "affine")     # (4, 4), RAS+ mm, fixed -> moving
"""

from typing import Literal

import numpy as np

from regnet_lib.data.volume import BadInputError, Volume

SAMPLES = 20_000
SEED = 1
# Sides shorter than this are not halved any further.
SMALLEST_SIDE = 16


def prealign(
    moving: Volume, fixed: Volume, kind: Literal["rigid", "affine"] = "affine"
) -> np.ndarray:
    """The matrix `(4, 4)` from places of the fixed to places of the moving image, RAS+ mm.

    Args:
        moving, fixed: in 2-D or 3-D, on grids of their own.
        kind: `rigid` turns and shifts; `affine` also scales and shears.

    Raises:
        BadInputError: the optimiser found no overlap.
    """
    from regnet_lib.data.itk_files import import_simpleitk, itk_image

    if kind not in ("rigid", "affine"):
        raise ValueError(f"prealign: expected kind 'rigid' or 'affine', got {kind!r}.")
    sitk = import_simpleitk()
    axes = fixed.array.ndim
    images = [
        itk_image(np.asarray(volume.array, np.float32), volume.affine) for volume in (fixed, moving)
    ]
    start = sitk.Euler2DTransform() if axes == 2 else sitk.Euler3DTransform()
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        # Centres of mass rather than of the grids: the fields of view often differ.
        start = sitk.CenteredTransformInitializer(
            *images, start, sitk.CenteredTransformInitializerFilter.MOMENTS
        )
        found = _optimise(sitk, *images, start)
        if kind == "affine":
            wider = sitk.AffineTransform(axes)
            wider.SetCenter(found.GetCenter())
            wider.SetMatrix(found.GetMatrix())
            wider.SetTranslation(found.GetTranslation())
            found = _optimise(sitk, *images, wider)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BadInputError(
            f"prealign: expected two images that can be brought to overlap, found none ({reason}). "
            "Check orientation and voxel size of both, or align them by hand first."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return _ras_matrix(found, axes)


def _optimise(sitk, fixed, moving, start):
    sides = min(fixed.GetSize())
    factors = [factor for factor in (4, 2, 1) if sides // factor >= SMALLEST_SIDE] or [1]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    share = min(1.0, SAMPLES / max(fixed.GetNumberOfPixels(), 1))
    if share < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        # regular samples are shaken a little, by default with the clock as the seed
        method.SetMetricSamplingPercentage(share, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-4, numberOfIterations=100, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0.0 for factor in factors])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start, inPlace=False)
    result = method.Execute(fixed, moving)
    return result.Downcast() if not isinstance(result, sitk.CompositeTransform) else _last(result)


def _last(composite):
    return composite.GetNthTransform(composite.GetNumberOfTransforms() - 1).Downcast()


def _ras_matrix(transform, axes: int) -> np.ndarray:
    """T(x) = A (x - c) + c + t in LPS, as one RAS+ matrix."""
    linear = np.array(transform.GetMatrix()).reshape(axes, axes)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    lps = np.eye(4)
    lps[:axes, :axes] = linear
    lps[:axes, 3] = centre + shift - linear @ centre
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ lps @ flip
