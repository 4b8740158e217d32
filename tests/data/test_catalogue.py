"""The catalogue knows every dataset; a check names what is missing or broken."""

import re
import shutil
from pathlib import Path

import pytest

from regnet_lib.__main__ import main
from regnet_lib.data import (
    DATASETS,
    BadInputError,
    write_fake_ixi,
    write_fake_lpba40,
    write_fake_prostate_mr_us,
)
from regnet_lib.data.catalogue import CATALOGUE, find_entry, instructions
from regnet_lib.data.check import check_folder
from regnet_lib.data.lpba40 import TEST_IDS, TRAIN_IDS

PAGE = Path(__file__).resolve().parents[2] / "book" / "data.md"


def test_every_dataset_is_described():
    assert set(CATALOGUE) == set(DATASETS)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=list(CATALOGUE))
class TestEntry:
    def test_says_what_a_reader_needs(self, entry):
        assert entry.what and entry.origin and entry.licence
        if entry.origin != "made by the library":
            assert entry.fetchable or entry.steps
            assert f"`{entry.name}`" in PAGE.read_text() or f"{entry.name}/" in PAGE.read_text()

    def test_nothing_is_downloaded_without_a_digest(self, entry):
        lengths = {"sha256": 64, "md5": 32}
        for archive in entry.archives:
            algorithm, _, digest = archive.digest.partition(":")
            assert re.fullmatch(f"[0-9a-f]{{{lengths[algorithm]}}}", digest)
            assert archive.digest_source
            assert all(url.startswith("https://") for url in archive.urls)

    def test_instructions_are_complete(self, entry):
        text = instructions(entry, "SOMEWHERE")
        assert entry.licence in text and "{" not in text.replace("{vol,seg}", "")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BadInputError, match="nonsense: expected .* lpba40"):
        find_entry("nonsense")


class TestCheck:
    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory):
        return write_fake_lpba40(
            tmp_path_factory.mktemp("data") / "from-a-colleague",
            shape=(8, 8, 8),
            train=len(TRAIN_IDS),
            test=len(TEST_IDS),
        )

    @pytest.fixture
    def root(self, whole, tmp_path):
        return shutil.copytree(whole, tmp_path / "copy")

    def test_a_complete_set(self, whole):
        (finding,) = check_folder(whole)
        assert finding.name == "lpba40" and finding.complete and not finding.faults
        assert finding.counts == {"train": (30, 30), "test": (9, 9)}

    def test_every_fault_is_named_at_once(self, root):
        truncated = root / "test" / "S03.delineation.skullstripped.nii.gz"
        truncated.write_bytes(truncated.read_bytes()[:-200])
        missing = root / "label" / "S12.delineation.structure.label.nii.gz"
        missing.unlink()
        lines = []
        (finding,) = check_folder(root, report=lines.append)
        assert not finding.complete
        assert finding.counts == {"train": (29, 30), "test": (8, 9)}
        assert len(finding.faults) == 2
        assert any(truncated.name in fault for fault in finding.faults)
        assert any(missing.name in fault for fault in finding.faults)
        assert all(any(fault in line for line in lines) for fault in finding.faults)

    def test_a_broken_atlas_is_one_fault(self, root):
        (root / "fixed.nii.gz").write_bytes(b"<!DOCTYPE html>")
        (finding,) = check_folder(root)
        assert finding.counts["train"] == (0, 30) and len(finding.faults) == 1

    def test_a_folder_of_datasets(self, tmp_path):
        write_fake_ixi(tmp_path / "ixi", shape=(32, 32, 32), subjects=4)
        write_fake_prostate_mr_us(tmp_path / "prostate_mr_us")
        findings = {finding.name: finding for finding in check_folder(tmp_path)}
        assert set(findings) == {"ixi", "prostate_mr_us"}
        assert sum(found for found, _ in findings["ixi"].counts.values()) == 4
        assert not findings["ixi"].complete and not findings["ixi"].faults  # 4 of 575

    def test_nothing_known(self, tmp_path):
        with pytest.raises(BadInputError, match="expected the layout of a known dataset"):
            check_folder(tmp_path)
        with pytest.raises(BadInputError, match="expected a folder"):
            check_folder(tmp_path / "absent")


class TestCommands:
    def test_list(self, capsys, monkeypatch, tmp_path):
        write_fake_prostate_mr_us(tmp_path / "prostate_mr_us")
        monkeypatch.setenv("REGNET_DATA", str(tmp_path))
        assert main(["data", "list"]) == 0
        shown = capsys.readouterr().out
        assert "prostate_mr_us (here)" in shown and "lpba40 (not here)" in shown
        assert all(entry.licence in shown for entry in CATALOGUE.values())

    def test_list_one(self, capsys):
        assert main(["data", "list", "dirlab"]) == 0
        shown = capsys.readouterr().out
        assert "ask the group" in shown and shown.count("sha256:") == 10

    def test_check(self, capsys, tmp_path):
        write_fake_prostate_mr_us(tmp_path)
        assert main(["data", "check", str(tmp_path)]) == 1  # 4 of 27 pairs
        assert "train      3 of 25 cases" in capsys.readouterr().out

    def test_fetch_what_cannot_be_fetched(self, capsys, tmp_path):
        assert main(["data", "fetch", "lpba40", "--root", str(tmp_path)]) == 1
        assert "1. git clone" in capsys.readouterr().out
        assert list(tmp_path.iterdir()) == []

    def test_fetch_needs_a_place(self, capsys, monkeypatch):
        monkeypatch.delenv("REGNET_DATA", raising=False)
        assert main(["data", "fetch", "msd_hippocampus"]) == 1
        assert "REGNET_DATA" in capsys.readouterr().err
