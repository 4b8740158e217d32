"""Registration without training: gradient descent in PyTorch, and SyN through ANTs.

registration = create_model("gradient_descent")(moving, fixed)   # (1, 1, D, H, W) each
"""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from regnet_lib.losses import Objective
from regnet_lib.refine import refine
from regnet_lib.types import Image, Registration


class GradientDescent(nn.Module):
    """Minimise the objective of LGANet++ equation (12) for one pair, coarse to fine.

    No weights, no optional package: the reference that a trained network has to beat.

    Args:
        steps: iterations per level, coarse to fine.
        window_voxels: window of the local correlation.
        diffusion_weight: weight of the smoothness term.
    """

    def __init__(
        self,
        steps: Sequence[int] = (80, 60, 30),
        window_voxels: int = 9,
        diffusion_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.objective = Objective(window_voxels=window_voxels, diffusion_weight=diffusion_weight)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        with torch.enable_grad():
            displacements = [
                refine(moving[i : i + 1], fixed[i : i + 1], self.objective, steps=self.steps)
                for i in range(len(fixed))
            ]
        return Registration(torch.cat(displacements))


class SyN(nn.Module):
    """Symmetric normalisation (Avants et al., 2008) through antspyx: affine, then deformable.

    The call is the one of the LGANet++ authors' `ANTs_Reg.py`: `ants.registration` with
    `type_of_transform="SyN"` and all defaults, on whole volumes. Ours fixes the seed of the random
    sampling in the affine stage, runs on one thread so that sums repeat too, and returns affine and
    warp composed into one displacement. Without that the mean Dice on LPBA40 moves by up to 0.1
    points from run to run; antspyx accepts the argument `random_seed` and ignores it.

    Needs the extra `classical`. Images of any size; voxels are taken as 1 mm cubes.
    """

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, moving: Image, fixed: Image) -> Registration:
        displacements = [self._register(m[0], f[0]) for m, f in zip(moving, fixed, strict=True)]
        return Registration(torch.stack(displacements).to(fixed))

    def _register(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="regnet-syn-") as folder, _repeatable(self.seed):
            ants = _import_ants()
            fixed_image = ants.from_numpy(fixed.detach().cpu().numpy().astype(np.float32))
            moving_image = ants.from_numpy(moving.detach().cpu().numpy().astype(np.float32))
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
            field = ants.image_read(composed).numpy()
        return torch.from_numpy(np.moveaxis(field, -1, 0).copy())


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
        raise ModuleNotFoundError(
            "syn: expected the package antspyx, which is not installed. Install the extra: "
            "pip install 'regnet_lib[classical]'."
        ) from error
    return ants
