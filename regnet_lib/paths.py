"""Where results, runs and the papers' tables live: a checkout of the repository.

`$REGNET_HOME` if it is set, else the checkout that the package was imported from, else (installed
without a checkout) the current folder.
"""

import os
from pathlib import Path


def project_root() -> Path:
    """The folder that holds `paper/`, `results/`, `runs/` and `weights/`."""
    if os.environ.get("REGNET_HOME"):
        return Path(os.environ["REGNET_HOME"])
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "paper").is_dir() else Path.cwd()


def results_folder() -> Path:
    """Committed rows: `results/<experiment>/<run>/{rows.csv, run.json, train.csv}`."""
    return project_root() / "results"


def runs_folder() -> Path:
    """Checkpoints and logs of trainings on this machine; not committed."""
    return project_root() / "runs"


def paper_folder() -> Path:
    """The papers' tables, transcribed once."""
    return project_root() / "paper"


def weights_folder() -> Path:
    """Published weights, a safetensors file and its card each (`regnet_lib.weights`)."""
    return project_root() / "weights"
