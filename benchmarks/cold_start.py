"""The first seconds of a new process: import, first figure, first registration from the command
line; beside them the imports of other libraries. Wall seconds, files of the system in its cache."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import installed, timing
from regnet_lib.data import write_volume
from regnet_lib.data.phantoms import phantom_pair

ROUNDS = 3
PEERS = ("monai", "voxelmorph", "ants")
EXPLANATION = (
    "Matplotlib and NumPy take all but a tenth of the seconds of the first figure, most of them "
    "their imports. It was 2.5 s while `regnet_lib.data` imported all adapters, and so torch."
)
_FIGURE = """
import sys
from regnet_lib.data import read_volume
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
volume = read_volume(sys.argv[1]).array
plt.imshow(volume[volume.shape[0] // 2])
plt.savefig(sys.argv[2])
"""


def rows() -> list[dict[str, object]]:
    """Wall seconds of fresh processes."""
    found = [
        timing(f"import {name}", _runs(["-c", f"import {name}"]), target, clock="wall")
        for name, target in (("regnet_lib", 0.1), ("torch", None), *((p, None) for p in PEERS))
        if name not in PEERS or installed(name)
    ]
    with tempfile.TemporaryDirectory(prefix="regnet-cold-") as folder:
        moving, fixed = _files(Path(folder))
        picture = str(Path(folder) / "slice.png")
        figure = _runs(["-c", _FIGURE, str(fixed), picture])
        found.append(timing("first figure: read a volume, draw a slice", figure, 0.7, "wall"))
        command = ["-m", "regnet_lib", "register", str(moving), str(fixed)]
        command += ["--out", str(Path(folder) / "out"), "--overwrite"]
        registration = _runs(command, rounds=2)
        case = "first registration: regnet register, 48x64x48, gradient descent, with its report"
        found.append(timing(case, registration, None, "wall"))
    return found


def _files(folder: Path) -> list[Path]:
    case = phantom_pair((48, 64, 48), seed=0)
    paths = []
    for name in ("moving", "fixed"):
        paths.append(folder / f"{name}.nii.gz")
        write_volume(paths[-1], getattr(case, name)[0, 0].numpy(), np.eye(4))
    return paths


def _runs(arguments: list[str], rounds: int = ROUNDS) -> list[float]:
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]  # the first one fills the caches of the system
