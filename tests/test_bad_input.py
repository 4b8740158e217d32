"""Every kind of bad and unusual input through the command: the right result, or one clear line."""

import json
import signal

import nibabel
import numpy as np
import pytest
from corpus.bad_input import AFFINE, KINDS, SHAPE, Workspace

from regnet_lib.__main__ import main
from regnet_lib.data import read_volume


def contents(folder):
    """All files below a folder, to see whether anything has changed; links and pipes by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(autouse=True)
def no_waiting():
    """A command that waits for a pipe must fail, not hang."""

    def give_up(*_):
        raise AssertionError("the command waits for something")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def test_there_are_enough_kinds():
    assert len(KINDS) >= 100
    groups = {kind.group for kind in KINDS.values()}
    assert len(groups) == 9
    assert sum(bool(kind.words) for kind in KINDS.values()) >= 100


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_kind(name, tmp_path, capfd):
    kind = KINDS[name]
    workspace = Workspace(tmp_path)
    kind.spoil(workspace)
    before = contents(tmp_path)
    capfd.readouterr()
    try:
        code = main(workspace.command())
    except SystemExit as stop:  # wrong usage
        code = stop.code
    captured = capfd.readouterr()
    assert code == kind.code, captured.err
    if kind.words:
        check_refusal(kind, captured.err)
        assert contents(tmp_path) == before
    else:
        check_result(kind, workspace)
        after = contents(tmp_path)
        kept = {path for path in before if not path.startswith("out/warped")}
        assert all(after[path] == before[path] for path in kept)


def check_refusal(kind, message):
    """One line that names the file or setting, what was expected and found, and the remedy."""
    for word in kind.words:
        assert word in message
    assert "Traceback" not in message and "unexpected" not in message.split("unexpected ")[0]
    if kind.code == 2:
        return  # a picture of the usage
    assert len(message.strip().splitlines()) == 1, message
    assert message.startswith("regnet: ")
    assert "fault of the program" not in message


def check_result(kind, workspace):
    report = json.loads((workspace.out / "report.json").read_text())
    notes = " ".join(report["notes"])
    for word in kind.notes:
        assert word in notes
    if not kind.notes and kind.group != "intensity":
        assert "disagree" not in notes
    fixed, warped = read_volume(workspace.fixed, planar=True), workspace.out / "warped.nii.gz"
    result = read_volume(warped, planar=True)
    assert result.array.shape == fixed.array.shape
    np.testing.assert_allclose(result.affine, fixed.affine, atol=1e-4)
    assert np.isfinite(result.array).all()
    for value in report["metrics"].values():
        assert not isinstance(value, float) or np.isfinite(value)


def test_an_unmoved_image_comes_back_as_it_was(tmp_path):
    """What `identity` writes is the moving image itself, whatever its container."""
    for name in ("good .mha", "good .nrrd, compressed", "big-endian", "NIfTI-2", "microns"):
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        workspace = Workspace(folder)
        KINDS[name].spoil(workspace)
        assert main(workspace.command()) == 0
        found = nibabel.load(workspace.out / "warped.nii.gz")
        np.testing.assert_allclose(found.get_fdata(), workspace.array, atol=1e-5)
        np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)
        assert found.shape == SHAPE


def test_a_faulty_program_says_so_without_a_traceback(tmp_path, capsys, monkeypatch):
    def fail(**_):
        raise KeyError("nonsense")

    monkeypatch.setattr("regnet_lib.registration.register", fail)
    workspace = Workspace(tmp_path)
    assert main(workspace.command()) == 1
    message = capsys.readouterr().err
    assert message.startswith("regnet: unexpected KeyError at test_bad_input.py:")
    assert "please report" in message and len(message.splitlines()) == 1


def test_running_out_of_memory(tmp_path, capsys, monkeypatch):
    def fail(**_):
        raise MemoryError

    monkeypatch.setattr("regnet_lib.registration.register", fail)
    assert main(Workspace(tmp_path).command()) == 1
    assert "enough memory" in capsys.readouterr().err
