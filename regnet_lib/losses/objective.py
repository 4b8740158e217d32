"""The training objectives: weighted sums that also return their named parts.

* `Objective`, LGANet++ eq. (12): similarity(fixed, warped) + weight * smoothness(displacement);
* `ADRegNetObjective`, AD-RegNet eqs. (16) to (19).

    objective = Objective()
    loss, parts = objective(registration.displacement, moving, fixed)
"""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from regnet_lib.losses.multimodal import mind_ssc, mutual_information
from regnet_lib.losses.regularity import diffusion, negative_jacobian
from regnet_lib.losses.similarity import global_ncc, local_ncc, mse
from regnet_lib.losses.ssim import ssim
from regnet_lib.losses.supervision import Landmarks, landmark_distance
from regnet_lib.spatial import warp
from regnet_lib.types import Displacement, Image

Parts = dict[str, Tensor]
Similarity = Literal["local_ncc", "global_ncc", "mse", "mind_ssc", "mutual_information"]


@dataclass(frozen=True)
class Objective:
    """What training minimises, as a value.

    Attributes:
        similarity: `local_ncc` (LGANet++ eq. 11), `global_ncc` or `mse`; for images of different
            scanners `mind_ssc` (Heinrich et al., 2013) or `mutual_information` (Mattes et al.,
            2003).
        window_voxels: side of the local window.
        squared: squared local correlation, see `local_ncc`.
        diffusion_weight: lambda of LGANet++ eq. (12).
        zoomed: warp with the half-voxel zoom of the released LGANet training script.
    """

    similarity: Similarity = "local_ncc"
    window_voxels: int = 9
    squared: bool = True
    diffusion_weight: float = 1.0
    zoomed: bool = False

    @property
    def uses_landmarks(self) -> bool:
        """Whether `landmarks=` is an argument of the call."""
        return False

    def __call__(
        self, displacement: Displacement, moving: Image, fixed: Image
    ) -> tuple[Tensor, Parts]:
        """Loss to differentiate, and its detached parts by name (unweighted)."""
        warped = warp(moving, displacement, zoomed=self.zoomed)
        similarity = self.similarity_of(warped, fixed)
        regularity = diffusion(displacement)
        loss = similarity + self.diffusion_weight * regularity
        return _with_parts(loss, {self.similarity: similarity, "diffusion": regularity})

    def similarity_of(self, warped: Image, fixed: Image) -> Tensor:
        """The first term alone, of images that are already aligned."""
        if self.similarity == "local_ncc":
            return local_ncc(warped, fixed, self.window_voxels, self.squared)
        if self.similarity == "global_ncc":
            return global_ncc(warped, fixed)
        if self.similarity == "mse":
            return mse(warped, fixed)
        if self.similarity == "mind_ssc":
            return mind_ssc(warped, fixed)
        if self.similarity == "mutual_information":
            return mutual_information(warped, fixed)
        raise ValueError(
            f"Objective: expected similarity in {', '.join(map(repr, get_args(Similarity)))}, got "
            f"{self.similarity!r}."
        )


@dataclass(frozen=True)
class ADRegNetObjective(Objective):
    """The loss of AD-RegNet: three weighted groups of terms (section III.C).

        L = similarity_weight (ncc_weight (1 - NCC) + ssim_weight (1 - SSIM))         (16), (17)
            + regularity_weight (diffusion_weight smoothness + jacobian_weight folds)       (18)
            + landmark_weight distance                                                      (19)

    The paper states 1.0, 0.1 and 1.0 for the groups (section IV.C), and not the weights inside
    them. Ours: 1 and 1; a smoothness of 10, so that it counts 1.0 in the sum as in TransMorph; and
    100 for folds, whose mean depth is about 0.001 where 1.5 % of the voxels fold.

    Attributes:
        similarity: correlation in equation (17). Equation (20) defines it for the whole image,
            `global_ncc`; `local_ncc` is the one that most methods train with.
        window_voxels, squared: of `local_ncc` alone.
        diffusion_weight: lambda_smooth of equation (18).
        jacobian_weight: lambda_jac of equation (18).
        ncc_weight, ssim_weight: of equation (17).
        similarity_weight, regularity_weight, landmark_weight: of equation (16).
    """

    similarity: Literal["local_ncc", "global_ncc", "mse"] = "global_ncc"
    diffusion_weight: float = 10.0
    jacobian_weight: float = 100.0
    ncc_weight: float = 1.0
    ssim_weight: float = 1.0
    similarity_weight: float = 1.0
    regularity_weight: float = 0.1
    landmark_weight: float = 1.0

    @property
    def uses_landmarks(self) -> bool:
        """Equation (19) counts, for the pairs that have landmarks."""
        return self.landmark_weight > 0

    def __call__(
        self,
        displacement: Displacement,
        moving: Image,
        fixed: Image,
        landmarks: Landmarks | None = None,
    ) -> tuple[Tensor, Parts]:
        """Loss to differentiate, and its detached parts by name (unweighted).

        Args:
            landmarks: of the pair, in a batch of one. Without them equation (19) is left out.
        """
        warped = warp(moving, displacement, zoomed=self.zoomed)
        parts = {
            self.similarity: self.similarity_of(warped, fixed),
            "ssim": ssim(warped, fixed),
            "diffusion": diffusion(displacement),
            "negative_jacobian": negative_jacobian(displacement),
        }
        alike = self.ncc_weight * parts[self.similarity] + self.ssim_weight * parts["ssim"]
        regular = (
            self.diffusion_weight * parts["diffusion"]
            + self.jacobian_weight * parts["negative_jacobian"]
        )
        loss = self.similarity_weight * alike + self.regularity_weight * regular
        if landmarks is not None:
            parts["landmark_mm"] = landmark_distance(displacement, landmarks)
            loss = loss + self.landmark_weight * parts["landmark_mm"]
        return _with_parts(loss, parts)


def _with_parts(loss: Tensor, parts: Parts) -> tuple[Tensor, Parts]:
    detached = {name: part.detach() for name, part in parts.items()}
    return loss, {"loss": loss.detach(), **detached}
