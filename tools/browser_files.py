"""Files that the browser needs, taken from installed packages and never committed.

The pages have to work without a network, so MathJax lies beside them: the one bundle and its fonts
out of the 24 MB that the package `sphinx-mathjax-offline` brings.

    copy_mathjax(staged / "book/_static/vendor")
"""

import shutil
from importlib.util import find_spec
from pathlib import Path


def copy_mathjax(vendor: Path) -> None:
    """Put MathJax at `vendor/mathjax`, where `mathjax_path` of `_config.yml` points."""
    package = find_spec("sphinx-mathjax-offline")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "copy_mathjax: expected the package sphinx-mathjax-offline, found none. "
            "Install the extra: pip install -e '.[book]'."
        )
    source = Path(package.submodule_search_locations[0]) / "static" / "mathjax"
    target = vendor / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tex-mml-chtml.js", target)
    fonts = Path("output/chtml/fonts")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
