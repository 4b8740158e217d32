"""Fixtures that several test folders share."""

import os
from pathlib import Path

import jaxtyping
import pytest
import torch

from regnet_lib.data import write_fake_lpba40

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Test workers share the cores; one thread each also makes sums reproducible."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Inputs and outputs of the official networks: $REGNET_GOLDENS or ../shared/goldens."""
    folder = Path(os.environ.get("REGNET_GOLDENS") or ROOT.parent / "shared" / "goldens")
    if not folder.is_dir():
        pytest.skip(f"goldens not found: set REGNET_GOLDENS (looked in {folder.name})")
    return folder


@pytest.fixture(scope="session")
def fake_lpba40(tmp_path_factory) -> Path:
    """Four phantom brains in the layout of LPBA40, 32x48x32 after cropping."""
    root = tmp_path_factory.mktemp("data") / "lpba40"
    return write_fake_lpba40(root, shape=(32, 48, 32), train=2, test=2)


@pytest.fixture(scope="session")
def real_lpba40() -> Path:
    """The real LPBA40 in $REGNET_DATA/lpba40, or skip."""
    root = Path(os.environ.get("REGNET_DATA", "")) / "lpba40"
    if not os.environ.get("REGNET_DATA") or not (root / "fixed.nii.gz").exists():
        pytest.skip("real LPBA40 not found: set REGNET_DATA to the folder that holds lpba40/")
    return root


@pytest.fixture
def unchecked():
    """Switch the annotation checks off: these tests read the errors that users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
