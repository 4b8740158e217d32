"""Registration without training: gradient descent in PyTorch, and SyN through ANTs or DIPY.

registration = create_model("gradient_descent")(moving, fixed)   # (1, 1, D, H, W) each
"""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import nn

from regnet_lib.losses import Objective, Similarity
from regnet_lib.refine import refine
from regnet_lib.types import Image, Registration


class GradientDescent(nn.Module):
    """Minimise the objective of LGANet++ equation (12) for one pair, coarse to fine.

    No weights, no optional package: the reference that a trained network has to beat. Model card:

    - repository: none, this is ours;
    - licence: none;
    - compared by: neither of the two papers of this book, whose loss it minimises;
    - parameters: none, and nothing is random;
    - sizes: all that the coarsest of its levels can halve;
    - deviations: none to name, as nothing is published.

    Args:
        steps: iterations per level, coarse to fine.
        window_voxels: window of the local correlation.
        diffusion_weight: weight of the smoothness term.
        similarity: see `Objective`.
    """

    def __init__(
        self,
        steps: Sequence[int] = (80, 60, 30),
        window_voxels: int = 9,
        diffusion_weight: float = 1.0,
        similarity: Similarity = "local_ncc",
    ) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.objective = Objective(
            similarity, window_voxels=window_voxels, diffusion_weight=diffusion_weight
        )

    def forward(self, moving: Image, fixed: Image) -> Registration:
        with torch.enable_grad():
            displacements = [
                refine(moving[i : i + 1], fixed[i : i + 1], self.objective, steps=self.steps)
                for i in range(len(fixed))
            ]
        return Registration(torch.cat(displacements))


class SyN(nn.Module):
    """Symmetric normalisation (Avants et al., 2008), through antspyx or DIPY.

    Avants et al., "Symmetric diffeomorphic image registration with cross-correlation", Medical
    Image Analysis 12, 2008. Model card:

    - repository: ANTsX/ANTsPy, and dipy/dipy;
    - licence: Apache-2.0 and BSD;
    - compared by: AD-RegNet (Table III) and LGANet++ (tables 2 to 6);
    - parameters: none;
    - sizes: all with ANTs; sides of at least 40 voxels with DIPY;
    - deviations: a fixed seed and one thread, see below.

    `engine="ants"`: affine, then deformable. The call is the one of the LGANet++ authors'
    `ANTs_Reg.py`: `ants.registration` with `type_of_transform="SyN"` and all defaults, on whole
    volumes. Ours fixes the seed of the random sampling in the affine stage, runs on one thread so
    that sums repeat too, and returns affine and warp composed into one displacement. Without that
    the mean Dice on LPBA40 moves by up to 0.1 points from run to run; antspyx accepts the argument
    `random_seed` and ignores it.

    `engine="dipy"`: deformable only, so the images must be roughly aligned;
    `SymmetricDiffeomorphicRegistration` with the local correlation of `CCMetric` and all defaults.
    Nothing in it is random. Sides of at least 40 voxels, so that the windows fit on the coarsest
    level. For where antspyx has no wheel.

    The two are different programs with different defaults: a table names the one it used.

    Needs the extra `classical`. Voxels are taken as 1 mm cubes.

    Args:
        seed: of the random sampling of ANTs; DIPY has none.
    """

    def __init__(self, seed: int = 1, engine: Literal["ants", "dipy"] = "ants") -> None:
        super().__init__()
        if engine not in ("ants", "dipy"):
            raise ValueError(f"SyN: expected engine 'ants' or 'dipy', got {engine!r}.")
        self.seed = seed
        self.engine = engine

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large that the engine takes."""
        smallest = 40 if self.engine == "dipy" else 1
        return tuple(max(side, smallest) for side in shape)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        register = {"ants": self._register_ants, "dipy": self._register_dipy}[self.engine]
        pairs = zip(_arrays(moving), _arrays(fixed), strict=True)
        # both programs put the components last
        fields = [np.moveaxis(register(*pair), -1, 0) for pair in pairs]
        return Registration(torch.from_numpy(np.stack(fields)).to(fixed))

    def _register_ants(self, moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="regnet-syn-") as folder, _repeatable(self.seed):
            ants = _import_ants()
            fixed_image, moving_image = ants.from_numpy(fixed), ants.from_numpy(moving)
            result = ants.registration(
                fixed_image, moving_image, type_of_transform="SyN", outprefix=f"{folder}/"
            )
            composed = ants.apply_transforms(
                fixed_image,
                moving_image,
                transformlist=result["fwdtransforms"],
                compose=f"{folder}/composed_",
            )
            # Unit spacing, no origin and identity directions make millimetres equal voxels, with
            # components in array order.
            return ants.image_read(composed).numpy()

    def _register_dipy(self, moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
        try:
            from dipy.align import VerbosityLevels
            from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
            from dipy.align.metrics import CCMetric
        except ImportError as error:
            raise _not_installed("dipy") from error
        registration = SymmetricDiffeomorphicRegistration(CCMetric(fixed.ndim))
        registration.verbosity = VerbosityLevels.NONE
        # Without voxel-to-world matrices the field is in voxels, in array order.
        return registration.optimize(fixed, moving).get_forward_field()


def _arrays(images: Image) -> list[np.ndarray]:
    """`(B, 1, *shape)` -> B arrays of float32."""
    return list(images[:, 0].detach().cpu().numpy().astype(np.float32))


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """ANTs' own switch for repeatable results, without the global seeds it leaves behind.

    ITK reads the number of threads when it makes its first image: a process that has used ants
    before on several threads keeps them, and its results vary a little.
    """
    ants = _import_ants()
    variable = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
    threads, states = os.environ.get(variable), (np.random.get_state(), random.getstate())
    ants.config.set_ants_deterministic(on=True, seed_value=seed)
    try:
        yield
    finally:
        ants.config.set_ants_deterministic(on=False, seed_value=None)
        np.random.set_state(states[0])
        random.setstate(states[1])
        if threads is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = threads


def _import_ants():
    try:
        import ants
    except ImportError as error:
        raise _not_installed("antspyx") from error
    return ants


def _not_installed(package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"syn: expected the package {package}, which is not installed. Install the extra: "
        "pip install 'regnet_lib[classical]'."
    )
