"""Similarity and regularity, scalars to minimise."""

from regnet_lib.losses.objective import Objective
from regnet_lib.losses.regularity import diffusion
from regnet_lib.losses.similarity import local_ncc, mse, window_sum

__all__ = ["Objective", "diffusion", "local_ncc", "mse", "window_sum"]
