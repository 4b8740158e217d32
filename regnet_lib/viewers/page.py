"""A viewer as one piece of HTML: data, style and script in it, nothing loaded from anywhere.

Volumes travel as bytes, compressed without loss after they were quantised to 256 levels, so the
same HTML works in Jupyter, in Colab, in the rendered book and in a file sent to a colleague. Each
kind of viewer is drawn by the JavaScript file of its name; what all share is in `core.js`, a slice
in `plane.js`.

    viewer = view_slices(case, displacement)   # shows itself as the last line of a cell
    viewer.save("registration.html")
"""

import base64
import hashlib
import html
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from nibabel.orientations import aff2axcodes
from PIL import Image as Picture
from torch import Tensor

from regnet_lib.data.case import Case
from regnet_lib.spatial import resample
from regnet_lib.types import Displacement

FOLDER = Path(__file__).parent
COLOR_MAPS = {"grey": "gray", "difference": "PuOr", "volume": "RdBu_r", "length": "viridis"}
OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}
PLANES = {"L": "sagittal", "R": "sagittal", "P": "coronal", "A": "coronal"}


@dataclass(frozen=True)
class Viewer:
    """A picture that reacts, without a kernel.

    Attributes:
        kind: name of the JavaScript file that draws it.
        title: what is seen, in words; also the text for screen readers.
        content: what the script is given, ready for JSON.
        still: `(rows, columns)` bytes, the picture where no script runs (paper, GitHub).
    """

    kind: str
    title: str
    content: Mapping[str, object]
    still: np.ndarray

    @property
    def key(self) -> str:
        """Name of this viewer in a page: a digest of what it shows."""
        return hashlib.sha256(_json([self.kind, self.title, self.content]).encode()).hexdigest()[
            :12
        ]

    def html(self) -> str:
        """A `<div>` that holds the still picture, and the script that replaces it."""
        picture = io.BytesIO()
        Picture.fromarray(self.still).save(picture, "PNG", optimize=True)
        source = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
        alternative = html.escape(f"{self.title} (a still picture: the viewer needs JavaScript)")
        content = {"title": self.title, "colorMaps": _color_maps(), **self.content}
        # In a script "</" would end the element.
        given = _json(content).replace("</", "<\\/")
        return (
            f'<div class="rg-viewer" data-viewer="{self.key}">'
            f'<img alt="{alternative}" src="{source}" style="max-width:100%">'
            f"</div><style>{_asset('style.css')}</style>"
            f"<script>(() => {{\n{_asset('core.js')}\n{_asset('plane.js')}\n"
            f'const show = View => mount(View, "{self.key}", {given});\n'
            f"{_asset(self.kind + '.js')}}})();</script>"
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write a page that any browser opens, without a network."""
        page = (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,">'
            f"<title>{html.escape(self.title)}</title>"
            f"<style>:root{{color-scheme:light dark}}body{{margin:1rem auto;padding:0 .5rem;"
            f"max-width:60rem}}</style></head><body><main>{self.html()}</main></body></html>"
        )
        Path(path).write_text(page, encoding="utf-8")

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        return f"Viewer({self.kind!r}, {self.title!r})"


def pack(volume: np.ndarray) -> dict[str, object]:
    """Bytes of any shape for `unpack` of core.js: differences of neighbors, deflated, base64."""
    if volume.dtype != np.uint8:
        raise TypeError(f"pack: expected uint8, got {volume.dtype}. Quantise it first.")
    differences = np.diff(volume.ravel(), prepend=np.uint8(0))  # modulo 256, so nothing is lost
    data = base64.b64encode(zlib.compress(differences.tobytes(), 9)).decode()
    return {"shape": list(volume.shape), "bytes": data}


def quantised(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Real numbers as bytes: `low` becomes 0, `high` 255, and what lies outside is clipped."""
    span = high - low if high > low else 1.0
    return np.clip((values - low) / span * 255, 0, 255).round().astype(np.uint8)


def grey_levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Like `quantised`, on 86 greys: more cannot be seen, and noise would fill the page."""
    return (quantised(values, low, high) / 3).round().astype(np.uint8) * np.uint8(3)


def pack_images(**images: Tensor) -> dict[str, object]:
    """Images `(1, 1, D, H, W)` on one common grey scale; the brightest 0.1 % are clipped."""
    arrays = {name: image[0, 0].detach().cpu().float().numpy() for name, image in images.items()}
    low = min(float(array.min()) for array in arrays.values())
    high = max(float(np.quantile(array, 0.999)) for array in arrays.values())
    packed = {name: pack(grey_levels(array, low, high)) for name, array in arrays.items()}
    return {"volumes": packed, "low": low, "high": high}


def pack_labels(**labels: Tensor) -> dict[str, object]:
    """Label maps `(1, 1, D, H, W)`, renumbered to bytes; `ids` lists the numbers they had."""
    arrays = {name: one[0, 0].cpu().numpy() for name, one in labels.items()}
    ids = np.union1d([0], np.concatenate([np.unique(array) for array in arrays.values()]))
    if len(ids) > 256:
        raise ValueError(f"pack_labels: expected at most 255 labels, got {len(ids) - 1}.")
    packed = {
        name: pack(np.searchsorted(ids, array).astype(np.uint8)) for name, array in arrays.items()
    }
    return {"volumes": packed, "ids": ids.tolist()}


def pack_field(displacement: Displacement, shape: Sequence[int]) -> dict[str, object]:
    """A displacement `(1, 3, d, h, w)`, in voxels of its own grid, for a viewer of `shape`.

    Kept on at most half the viewer's resolution, to 1/254 of its longest component; the script
    interpolates linearly. Good for drawing, not for measuring: numbers that a viewer prints are
    computed before.
    """
    own = displacement.shape[2:]
    kept = [min(side, -(-full // 2)) for side, full in zip(own, shape, strict=True)]
    field = resample(displacement.detach().cpu().float(), kept)[0].numpy()
    factors = np.array([full / side for side, full in zip(own, shape, strict=True)])
    field = field * factors[:, None, None, None]  # as `resize` does: voxels of the viewer's grid
    longest = max(float(np.abs(field).max()), 1e-6)
    levels = (field / longest * 127).round().astype(np.int16) + 128
    return {"packed": pack(levels.astype(np.uint8)), "longest": longest}


def geometry(case: Case) -> dict[str, object]:
    """What the planes need to know about the grid: voxel size, names, and the letters of its ends.

    Letters and names follow the affine: an axis that grows towards the patient's left is "R" at
    its start and "L" at its end, and the planes across it are sagittal.
    """
    if len(case.shape) != 3:
        raise ValueError(f"viewers: expected a case in 3-D, got the shape {case.shape}.")
    ends = aff2axcodes(case.affine)
    return {
        "shape": list(case.shape),
        "spacing": list(case.spacing_mm),
        "letters": [[OPPOSITE[end], end] for end in ends],
        "planes": [PLANES.get(end, "axial") for end in ends],
    }


def still_planes(image: Tensor) -> np.ndarray:
    """The three middle planes of `(1, 1, D, H, W)` side by side, as bytes."""
    volume = image[0, 0].detach().cpu().float().numpy()
    middle = [np.take(volume, size // 2, axis).T[::-1] for axis, size in enumerate(volume.shape)]
    rows = max(plane.shape[0] for plane in middle)
    padded = [np.pad(p, ((0, rows - p.shape[0]), (0, 0)), constant_values=p.min()) for p in middle]
    row = np.concatenate(padded, axis=1)
    return quantised(row, float(row.min()), float(np.quantile(row, 0.999)))


@cache
def _color_maps() -> dict[str, str]:
    """The color maps of the book's figures as 256 RGB triples each, in base64."""
    tables = {
        name: (matplotlib.colormaps[known](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
        for name, known in COLOR_MAPS.items()
    }
    return {name: base64.b64encode(table.tobytes()).decode() for name, table in tables.items()}


@cache
def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
