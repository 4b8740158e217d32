"""Volume rendering with itkwidgets, an optional extra for JupyterLab.

    view_volume(case)                        # the fixed image and its labels
    view_volume(case, displacement)          # the length of the displacement

itkwidgets 0.32 is the last release that needs no network, and JupyterLab 4 does not know it by
itself: `python -m regnet_lib.viewers.itk` puts a small extension beside the others of this
environment (once; `make` does it). `view_anatomy` shows a solid without any of this.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from regnet_lib.data.case import Case
from regnet_lib.types import Displacement

if TYPE_CHECKING:
    from itkwidgets.widget_viewer import Viewer as ItkViewer

NAME, VERSION = "regnet-itk-bridge", "1"


def view_volume(case: Case, displacement: Displacement | None = None) -> "ItkViewer":
    """A widget that renders a volume; needs the extra `itk` and a kernel.

    Args:
        case: a pair `(1, 1, D, H, W)`; the fixed image is shown, with its label map if it has one.
        displacement: `(1, 3, D, H, W)`; with it, the length of its vectors is shown instead.
    """
    try:
        import itk
        import itkwidgets
    except ImportError as error:
        raise ModuleNotFoundError(
            "view_volume: expected the package itkwidgets, found none. Install the extra: "
            "pip install 'regnet_lib[itk]'; or use view_anatomy, which needs nothing."
        ) from error

    def volume(image: Tensor, dtype: type) -> object:
        # ITK counts the axes of an array from the last one.
        array = np.ascontiguousarray(image[0, 0].detach().cpu().numpy().T.astype(dtype))
        made = itk.image_from_array(array)
        made.SetSpacing([float(size) for size in case.spacing_mm])
        return made

    if displacement is not None:
        length = displacement.norm(dim=1, keepdim=True)
        return itkwidgets.view(image=volume(length, np.float32))
    labels = None if case.fixed_labels is None else volume(case.fixed_labels, np.uint16)
    shown = {"image": volume(case.fixed, np.float32), "label_image": labels}
    return itkwidgets.view(**shown)


def install_bridge(jupyter: Path, into: Path | None = None) -> Path | None:
    """Make a JupyterLab extension of the packaged itkwidgets; None where there is none.

    Args:
        jupyter: the folder `share/jupyter` of the environment.
        into: another such folder to write to.
    """
    packaged = jupyter / "nbextensions" / "itkwidgets"
    if not (packaged / "index.js").exists():
        return None
    target = (into or jupyter) / "labextensions" / NAME
    shutil.rmtree(target, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.map")
    shutil.copytree(packaged, target / "static" / "nbextensions" / "itkwidgets", ignore=ignored)
    script = Path(__file__).with_name("itk_bridge.js")
    shutil.copy(script, target / "static" / "remoteEntry.js")
    built = {"load": "static/remoteEntry.js", "extension": "./extension"}
    package = {
        "name": NAME,
        "version": VERSION,
        "description": "itkwidgets 0.32 in JupyterLab 4",
        "jupyterlab": {"extension": True, "outputDir": ".", "_build": built},
    }
    (target / "package.json").write_text(json.dumps(package, indent=1), encoding="utf-8")
    return target


if __name__ == "__main__":
    installed = install_bridge(Path(sys.prefix) / "share" / "jupyter")
    print(f"installed: {installed}" if installed else "itkwidgets is not installed here")
