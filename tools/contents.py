"""The documents of the book, as `_toc.yml` lists them.

Every tool reads the list from here, so a chapter is announced in one place.

    documents(ROOT)      # ["book/index", "notebooks/02_warping", ...]
"""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def documents(root: Path) -> list[str]:
    """Every document of the table of contents in reading order, without its suffix."""
    table = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    found: list[str] = []
    _collect(table, found)
    return found


def notebooks(root: Path) -> list[Path]:
    """The notebooks of the table of contents that exist, relative to the root."""
    paths = [Path(f"{document}.ipynb") for document in documents(root)]
    return [path for path in paths if (root / path).exists()]


def missing(root: Path) -> list[str]:
    """Documents that the table of contents names and the tree lacks."""
    return [
        document
        for document in documents(root)
        if not any((root / f"{document}{suffix}").exists() for suffix in (".md", ".ipynb"))
    ]


def _collect(entry: dict, found: list[str]) -> None:
    if "root" in entry or "file" in entry:
        found.append(entry.get("root") or entry["file"])
    for key in ("parts", "chapters", "sections"):
        for child in entry.get(key, []):
            _collect(child, found)
