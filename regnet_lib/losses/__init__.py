"""Similarity, regularity and supervision, scalars to minimise."""

from regnet_lib.losses.multimodal import mind_ssc, mind_ssc_descriptor, mutual_information
from regnet_lib.losses.objective import ADRegNetObjective, Objective, Similarity
from regnet_lib.losses.regularity import bending, diffusion, negative_jacobian
from regnet_lib.losses.similarity import global_ncc, local_ncc, mse, window_sum
from regnet_lib.losses.ssim import ssim
from regnet_lib.losses.supervision import Landmarks, landmark_distance, memberships, soft_dice

__all__ = [
    "ADRegNetObjective",
    "Landmarks",
    "Objective",
    "Similarity",
    "bending",
    "diffusion",
    "global_ncc",
    "landmark_distance",
    "local_ncc",
    "memberships",
    "mind_ssc",
    "mind_ssc_descriptor",
    "mse",
    "mutual_information",
    "negative_jacobian",
    "soft_dice",
    "ssim",
    "window_sum",
]
