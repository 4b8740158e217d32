"""What is measured on a registered case, and how values become a table cell."""

from regnet_lib.metrics.landmarks import tre_mm
from regnet_lib.metrics.overlap import dice, overlap_counts, precision, recall
from regnet_lib.metrics.summary import Summary, summarize
from regnet_lib.metrics.surface import assd, hd95, surface_distances_mm

__all__ = [
    "Summary",
    "assd",
    "dice",
    "hd95",
    "overlap_counts",
    "precision",
    "recall",
    "summarize",
    "surface_distances_mm",
    "tre_mm",
]
