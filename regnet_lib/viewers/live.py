"""Viewers that ask Python: the same pictures, with a kernel behind them (Jupyter, Colab).

    live_view(lambda weight: view_jacobian(case, register(weight)), weight=[0.1, 1.0, 10.0])
    live_attention(case, answer)   # answer((i, j, k)) is a map over the moving image

The controls are ipywidgets. A click in the picture travels to Python through a hidden text field,
and the answer returns as a line of JavaScript in a hidden output: no extension has to be installed.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from regnet_lib.data.case import Case
from regnet_lib.viewers.attention import packed_answer
from regnet_lib.viewers.page import Viewer, geometry, pack_images, still_planes

if TYPE_CHECKING:
    from ipywidgets import VBox

__all__ = ["live_attention", "live_view"]


def live_view(make: Callable[..., Viewer], **choices: Sequence[object]) -> "VBox":
    """A viewer that Python makes anew whenever one of the choices changes.

    Args:
        make: called with one value of each choice.
        choices: the values to pick from, in order; the first one is shown at the start.
    """
    widgets = _ipywidgets()
    for name, values in choices.items():
        if len(values) == 0:
            raise ValueError(f"live_view: expected at least one value of {name}, got none.")
    pickers = {
        name: widgets.SelectionSlider(
            options=list(values),
            description=name.replace("_", " "),
            continuous_update=False,
            style={"description_width": "initial"},
        )
        for name, values in choices.items()
    }
    picture = widgets.Output()

    def redraw(_change: object = None) -> None:
        viewer = make(**{name: picker.value for name, picker in pickers.items()})
        _fill(picture, viewer.html(), repr(viewer))

    for picker in pickers.values():
        picker.observe(redraw, names="value")
    redraw()
    return widgets.VBox([*pickers.values(), picture])


def live_attention(case: Case, answer: Callable[[tuple[int, ...]], Tensor]) -> "VBox":
    """Pick a voxel of the fixed image; `answer` computes where it looks.

    Args:
        case: a pair `(1, 1, D, H, W)`.
        answer: gets a voxel `(i, j, k)` of the fixed image and returns weights that are not
            negative, `(kd, kh, kw)`, on any grid whose cells divide the moving image evenly.
    """
    widgets = _ipywidgets()
    content = {
        "grid": geometry(case),
        "images": pack_images(fixed=case.fixed, moving=case.moving),
        "live": True,
    }
    title = f"{case.id}: where a voxel of the fixed image looks, computed when you ask"
    viewer = Viewer("attention", title, content, still_planes(case.fixed))
    hidden = widgets.Layout(display="none")
    voxel = widgets.Text(layout=hidden)
    voxel.add_class("rg-voxel")
    picture, message = widgets.Output(), widgets.Output()

    def reply(change: dict[str, object]) -> None:
        place = _place(str(change["new"]), case.shape)
        if place is None:
            return
        found = json.dumps(packed_answer(answer(place).detach().cpu().numpy()))
        script = (
            f"for (const root of document.querySelectorAll('[data-viewer=\"{viewer.key}\"]')) "
            f"root.view?.receive({found});"
        )
        _fill(message, f"<script>{script}</script>", f"answer for {place}")

    voxel.observe(reply, names="value")
    _fill(picture, viewer.html(), repr(viewer))
    box = widgets.VBox([picture, voxel, message])
    box.add_class("rg-live")
    return box


def _place(text: str, shape: Sequence[int]) -> tuple[int, ...] | None:
    """A voxel from "i,j,k", or None for anything else that may arrive from a page."""
    parts = text.split(",")
    if len(parts) != len(shape) or not all(part.strip().isdecimal() for part in parts):
        return None
    place = tuple(map(int, parts))
    inside = all(part < side for part, side in zip(place, shape, strict=True))
    return place if inside else None


def _fill(output, html: str, text: str) -> None:
    """Replace what an Output shows; works outside of a running cell, too."""
    data = {"text/html": html, "text/plain": text}
    output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)


def _ipywidgets():
    try:
        import ipywidgets
    except ImportError as error:
        raise ModuleNotFoundError(
            "live viewers: expected the package ipywidgets, found none. "
            "Install the extra: pip install 'regnet_lib[viz]'. view_slices and the others need no "
            "widgets."
        ) from error
    return ipywidgets
