"""Whatever happens while a file is written, its name holds a complete file: the old or the new."""

import json
import os
import random
import signal
import sys
import time

import numpy as np
import pytest
import torch

from regnet_lib import register
from regnet_lib.data import read_volume, write_volume
from regnet_lib.spatial.world import load_displacement, save_displacement

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill")
SHAPE = (24, 22, 20)


def image(seed):
    return np.random.default_rng(seed).random(SHAPE).astype(np.float32)


def killed_after(seconds, work):
    """Run `work` in another process, again and again, until it is killed without warning."""
    child = os.fork()
    if child == 0:
        try:
            count = 0
            while True:
                work(count)
                count += 1
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if not path.name.startswith(".partial-")]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
def test_killed_while_writing_an_image(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    stored = 0
    for trial in range(10):
        delay = random.Random(trial).uniform(0.02, 0.15)
        killed_after(
            delay, lambda count: write_volume(path, image(count), np.eye(4), overwrite=True)
        )
        assert leftovers(tmp_path) in ([], [path.name])
        if path.exists():
            array = read_volume(path).array
            assert array.shape == SHAPE and array.std() > 0.2
            stored += 1
    assert stored > 0


def test_killed_while_registering(tmp_path):
    """Every file under a final name is whole, and a folder with a report has all of its files."""
    out = tmp_path / "out"
    moving, fixed = image(0), image(1)

    def work(count):
        register(moving=moving, fixed=fixed, model="identity", out=out, overwrite=True)

    reports = 0
    for trial in range(7):
        killed_after(random.Random(trial).uniform(0.05, 0.5), work)
        if not out.exists():
            continue
        for path in out.glob("*.nii.gz"):
            if path.name.startswith("displacement"):
                assert load_displacement(path)[0].shape == (1, 3, *SHAPE)
            else:
                assert read_volume(path).array.shape == SHAPE
        if (out / "report.json").exists():
            report = json.loads((out / "report.json").read_text())
            assert set(report["files"]) <= set(os.listdir(out))
            assert (out / "report.html").read_text().rstrip().endswith("</html>")
            reports += 1
    assert reports > 0


def on_a_full_disk(work):
    """What `work` says where no file may grow beyond 16 kB, as on a disk that runs full."""
    import resource

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
            try:
                work()
                message = "written"
            except OSError as error:
                message = f"{error.filename}: {error.strerror}"
            os.write(writer, message.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        message = stream.read()
    os.waitpid(child, 0)
    return message


FIELD = torch.randn(1, 3, *SHAPE)
WRITERS = {
    "image.nii": lambda path: write_volume(path, image(1), np.eye(4), overwrite=True),
    "image.nii.gz": lambda path: write_volume(path, image(1), np.eye(4), overwrite=True),
    "image.mha": lambda path: write_volume(path, image(1), np.eye(4), overwrite=True),
    "image.nrrd": lambda path: write_volume(path, image(1), np.eye(4), overwrite=True),
    "field.nii.gz": lambda path: save_displacement(path, FIELD, np.eye(4), overwrite=True),
    "field.h5": lambda path: save_displacement(path, FIELD, np.eye(4), overwrite=True),
    "field.npz": lambda path: save_displacement(path, FIELD, np.eye(4), "voxel", overwrite=True),
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs file size limits")
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_destroys_nothing(tmp_path, name, existing):
    path = tmp_path / name
    if existing:
        path.write_bytes(b"precious")
    message = on_a_full_disk(lambda: WRITERS[name](path))
    assert message.startswith(f"{path}: cannot be written") and "unchanged" in message
    assert {entry.name for entry in tmp_path.iterdir()} == ({name} if existing else set())
    assert not existing or path.read_bytes() == b"precious"


@pytest.mark.skipif(sys.platform != "linux", reason="needs file size limits")
def test_a_full_disk_keeps_earlier_results(tmp_path):
    out = tmp_path / "out"
    register(moving=image(0), fixed=image(1), model="identity", out=out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def work():
        register(moving=image(2), fixed=image(1), model="identity", out=out, overwrite=True)

    assert "cannot be written" in on_a_full_disk(work)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
