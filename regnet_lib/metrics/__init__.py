"""What is measured on a registered case, and how values become a table cell."""

from regnet_lib.metrics.intensity import mse, ncc, ssim
from regnet_lib.metrics.landmarks import tre_mm
from regnet_lib.metrics.overlap import dice, overlap_counts, precision, recall
from regnet_lib.metrics.regularity import (
    JacobianStatistics,
    folding_inside,
    jacobian_statistics,
    non_diffeomorphic_volume,
    sd_log_jacobian,
)
from regnet_lib.metrics.statistics import (
    SignedRankTest,
    bootstrap_interval,
    holm,
    jensen_bound,
    rank_biserial,
    standardized_difference,
    wilcoxon,
)
from regnet_lib.metrics.summary import Summary, summarize
from regnet_lib.metrics.surface import assd, hd95, surface_distances_mm
from regnet_lib.metrics.surface_elements import element_distances_mm, element_sizes

__all__ = [
    "JacobianStatistics",
    "SignedRankTest",
    "Summary",
    "assd",
    "bootstrap_interval",
    "dice",
    "element_distances_mm",
    "element_sizes",
    "folding_inside",
    "hd95",
    "holm",
    "jacobian_statistics",
    "jensen_bound",
    "mse",
    "ncc",
    "non_diffeomorphic_volume",
    "overlap_counts",
    "precision",
    "rank_biserial",
    "recall",
    "sd_log_jacobian",
    "ssim",
    "standardized_difference",
    "summarize",
    "surface_distances_mm",
    "tre_mm",
    "wilcoxon",
]
