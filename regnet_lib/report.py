"""One registration on one HTML page: slices, numbers, settings. It loads nothing from elsewhere.

page = render_report(report, {"fixed": ..., "moving": ..., "warped": ..., "jacobian": ...},
                     displacement, affine)
"""

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from regnet_lib.types import Displacement

TEMPLATE = Path(__file__).with_name("report.html.jinja")
# Voxels between the drawn lines of the grid: about this many lines per picture.
LINES = 24
PLANES = dict(zip("RLAPSI", ("Sagittal",) * 2 + ("Coronal",) * 2 + ("Axial",) * 2, strict=True))
STAGES = ("before", "prealigned", "after")
MEANINGS = {
    "local_ncc_loss": "1 - local correlation (lower is better)",
    "ncc": "global correlation",
    "mse": "mean squared difference, intensities 0 to 1",
    "dice": "Dice overlap of the labels, mean",
    "tre": "landmark error, mean (mm)",
    "hd95_after_mm": "surface distance of the labels, 95th percentile, mean (mm)",
    "tre_after_max_mm": "largest landmark error (mm)",
    "landmarks": "landmark pairs",
    "displacement_mean_mm": "mean length of the displacement (mm)",
    "displacement_max_mm": "largest displacement (mm)",
    "folding_fraction_forward": "share of folded voxels, forward differences",
    "folding_fraction_central": "share of folded voxels, central differences",
    "jacobian_min": "smallest Jacobian determinant",
    "jacobian_max": "largest Jacobian determinant",
    "jacobian_std": "standard deviation of the Jacobian determinant",
}


@dataclass(frozen=True)
class Tile:
    """One picture: data URIs, its caption, and the letters at its edges."""

    title: str
    image: str
    other: str = ""
    lines: str = ""
    box: str = ""


@dataclass(frozen=True)
class View:
    """One slice through all pictures."""

    title: str
    ratio: str
    letters: tuple[str, ...]
    tiles: tuple[Tile, ...]


def render_report(
    report: Mapping[str, object],
    pictures: Mapping[str, np.ndarray],
    displacement: Displacement,
    affine: np.ndarray,
) -> str:
    """The page as text.

    Args:
        report: as in `report.json`.
        pictures: `fixed`, `moving` (before), `warped` and `jacobian`, `(*shape)` each, on the fixed
            grid.
        displacement: `(1, n, *shape)` voxels.
        affine: voxel -> RAS+ mm of the fixed grid.
    """
    metrics = dict(report["metrics"])
    by_label = metrics.pop("dice_after_by_label", {})
    metrics.pop("labels", None)
    vectors = displacement[0].numpy()
    axes = range(vectors.shape[0])
    gray = {name: _grey(pictures[name]) for name in ("fixed", "moving", "warped")}
    views = [
        _view(gray, pictures["jacobian"], vectors, affine, axis if len(axes) == 3 else None)
        for axis in (axes if len(axes) == 3 else [0])
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        views=views,
        staged=_staged(metrics),
        single=_single(metrics),
        by_label=by_label,
        folded=metrics["folding_fraction_central"],
        settings={
            "model": report["model"],
            "weights": report["weights"] or "none",
            "refinement": f"{report['refine_steps']} steps, {report['loss']}",
            "pre-alignment": report["prealign"],
            "moving image": _image_line(report["moving"]),
            "fixed image": _image_line(report["fixed"]),
            "device": report["device"],
            "versions": ", ".join(f"{name} {v}" for name, v in report["versions"].items()),
        },
    )


def _staged(metrics: Mapping[str, object]) -> list[tuple[str, list[str]]]:
    """Rows of metrics that exist before and after."""
    rows = []
    for name in ("local_ncc_loss", "ncc", "mse", "dice", "tre"):
        unit = "_mm" if name == "tre" else ""
        keys = [f"{name}_{stage}{unit}" for stage in STAGES]
        if keys[0] in metrics:
            rows.append((MEANINGS[name], [_number(metrics.get(key)) for key in keys]))
    return rows


def _single(metrics: Mapping[str, object]) -> list[tuple[str, str]]:
    return [
        (meaning, _number(metrics[name])) for name, meaning in MEANINGS.items() if name in metrics
    ]


def _number(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def _image_line(image: Mapping[str, object]) -> str:
    shape = " x ".join(str(side) for side in image["shape"])
    spacing = " x ".join(f"{size:g}" for size in image["spacing_mm"])
    return f"{image['name']}: {shape} voxels of {spacing} mm"


def _view(
    gray: Mapping[str, np.ndarray],
    jacobian: np.ndarray,
    vectors: np.ndarray,
    affine: np.ndarray,
    axis: int | None,
) -> View:
    """The middle slice across one axis; the first axis that remains runs to the right, the second
    one up."""
    shape = jacobian.shape
    remaining = [k for k in range(len(shape)) if k != axis]
    index = None if axis is None else shape[axis] // 2

    def cut(array: np.ndarray) -> np.ndarray:
        return array if axis is None else np.take(array, index, axis=axis)

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    width, height = (shape[k] * spacing[k] for k in remaining)
    fixed, moving, warped = (cut(gray[name]) for name in ("fixed", "moving", "warped"))
    lines, box = _grid_lines(np.stack([cut(vectors[k]) for k in remaining]))
    tiles = (
        Tile("fixed", _png(_upright(fixed))),
        Tile("moving, before", _png(_upright(moving))),
        Tile("warped", _png(_upright(warped))),
        Tile("point at it: fixed", _png(_upright(warped)), other=_png(_upright(fixed))),
        Tile("fixed - moving, before", _png(_diverging(_upright(_difference(fixed, moving))))),
        Tile("fixed - warped", _png(_diverging(_upright(_difference(fixed, warped))))),
        Tile("pull-back grid x + u(x)", _png(_upright(warped)), lines=lines, box=box),
        Tile("Jacobian determinant", _png(_jacobian_colours(_upright(cut(jacobian))))),
    )
    title = "Slice"
    if axis is not None:
        title = f"{PLANES[_codes(affine)[axis]]}: axis {axis}, slice {index} of {shape[axis]}"
    return View(title, f"{width:.1f} / {height:.1f}", _letters(affine, remaining), tiles)


def _letters(affine: np.ndarray, remaining: list[int]) -> tuple[str, ...]:
    """Anatomical directions at the left, right, bottom and top edge."""
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    codes = [_codes(affine)[k] for k in remaining]
    return opposite[codes[0]], codes[0], opposite[codes[1]], codes[1]


def _codes(affine: np.ndarray) -> tuple[str, ...]:
    from nibabel.orientations import aff2axcodes

    return aff2axcodes(affine)


def _grid_lines(vectors: np.ndarray) -> tuple[str, str]:
    """Where every few grid lines look, as an SVG path in voxels, y upwards turned down."""
    width, height = vectors.shape[1:]
    across, up = np.meshgrid(np.arange(width), np.arange(height), indexing="ij")
    places = np.stack([across + vectors[0], height - 1 - (up + vectors[1])])
    every = max(1, max(width, height) // LINES)
    strokes = [places[:, line] for line in range(0, width, every)]
    strokes += [places[:, :, line] for line in range(0, height, every)]
    path = "".join(
        "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in stroke[:, ::2].T) for stroke in strokes
    )
    return path, f"-0.5 -0.5 {width} {height}"


def _upright(array: np.ndarray) -> np.ndarray:
    """`(across, up)` to rows of a picture, the top one first."""
    return np.ascontiguousarray(array.T[::-1])


def _grey(array: np.ndarray) -> np.ndarray:
    """Bytes; the brightest tenth of a percent may saturate."""
    low, high = float(array.min()), float(np.quantile(array[..., ::2], 0.999))
    scaled = (array - low) / max(high - low, 1e-12)
    return (255 * scaled.clip(0, 1)).round().astype(np.uint8)


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first.astype(np.float32) - second) / 160


def _diverging(values: np.ndarray) -> np.ndarray:
    """-1 purple, 0 near white, 1 orange; legible to colour-blind readers."""
    negative, middle, positive = np.array([[84, 39, 136], [247, 247, 247], [179, 88, 6]], float)
    weight = np.abs(values).clip(0, 1)[..., None]
    towards = np.where(values[..., None] < 0, negative, positive)
    return (middle + weight * (towards - middle)).round().astype(np.uint8)


def _jacobian_colours(determinant: np.ndarray) -> np.ndarray:
    """Below 1 blue (shrinks), above 1 red (grows), folded magenta; full colour at 1/2 and 2."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log2(np.maximum(determinant, 1e-6)).clip(-1, 1)
    blue, middle, red = np.array([[5, 80, 160], [247, 247, 247], [165, 25, 35]], float)
    towards = np.where(values[..., None] < 0, blue, red)
    colours = middle + np.abs(values)[..., None] * (towards - middle)
    colours[determinant <= 0] = (255, 0, 255)
    return colours.round().astype(np.uint8)


def _png(pixels: np.ndarray) -> str:
    """A data URI of grey `(rows, columns)` or RGB `(rows, columns, 3)` bytes."""
    rows, columns = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    # every row begins with the number of its filter: none
    filtered = np.zeros((rows, 1 + pixels[0].size), np.uint8)
    filtered[:, 1:] = pixels.reshape(rows, -1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
