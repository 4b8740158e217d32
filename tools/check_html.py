"""Offline checks of a built site: links, anchors, and nothing loaded from another host.

python -m tools.check_html _build/html
"""

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Elements whose address the browser fetches by itself, and the attribute that holds it.
LOADING = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "image": "href",
    "img": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}
# Relations of <link> that only name an address.
NAMING = {"author", "canonical", "copyright", "help", "index", "next", "prev", "search"}
_STYLE_LOAD = re.compile(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^'")\s]+)""")


@dataclass
class Page(HTMLParser):
    """Addresses and anchors of one page."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        address = attributes.get(LOADING.get(tag, ""))
        if address and not (tag == "link" and attributes.get("rel") in NAMING):
            self.loads.append(address)
        self.loads += _STYLE_LOAD.findall(attributes.get("style") or "")


def problems(site: Path) -> list[str]:
    """What is wrong with a folder of pages, one line per finding."""
    site = site.resolve()
    pages = {path: _read(path) for path in _pages(site)}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loads:
            if _is_external(address):
                found.append(f"{name}: loads from another host: {address[:90]}")
        for address in page.links + page.loads:
            if complaint := _complaint(path, address, pages):
                found.append(f"{name}: {complaint}: {address[:90]}")
    for sheet in sorted(site.rglob("*.css")):
        for address in _STYLE_LOAD.findall(sheet.read_text(encoding="utf-8", errors="replace")):
            found.append(f"{sheet.relative_to(site)}: loads from another host: {address[:90]}")
    return found


def report(site: Path) -> int:
    """Print the findings; 1 if there are any or if there is no page at all."""
    count = len(_pages(site))
    found = problems(site)
    print("\n".join([*found, f"{count} pages checked, {len(found)} problems"]))
    return 1 if found or not count else 0


def _pages(site: Path) -> list[Path]:
    # The theme keeps templates in _static; they are no pages.
    paths = sorted(site.rglob("*.html"))
    return [path for path in paths if "_static" not in path.relative_to(site).parts]


def _read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _is_external(address: str) -> bool:
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https")


def _complaint(path: Path, address: str, pages: dict[Path, Page]) -> str:
    """Why a local address leads nowhere, or an empty string."""
    parts = urlsplit(address)
    if parts.scheme or address.startswith("//"):
        return ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target = target / "index.html"
    if not target.exists():
        return "missing file"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "missing anchor"
    return ""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.check_html FOLDER")
    sys.exit(report(Path(sys.argv[1])))
