"""Viewers that react to mouse, finger and keyboard, in Jupyter and in pages without a kernel.

view_slices(case, displacement)   # the last line of a cell
"""

from regnet_lib.viewers.anatomy import view_anatomy
from regnet_lib.viewers.attention import view_attention
from regnet_lib.viewers.deformation import view_deformation
from regnet_lib.viewers.jacobian import view_jacobian
from regnet_lib.viewers.live import live_attention, live_view
from regnet_lib.viewers.page import Viewer
from regnet_lib.viewers.pyramid import view_pyramid
from regnet_lib.viewers.slices import view_slices

__all__ = [
    "Viewer",
    "live_attention",
    "live_view",
    "view_anatomy",
    "view_attention",
    "view_deformation",
    "view_jacobian",
    "view_pyramid",
    "view_slices",
]
