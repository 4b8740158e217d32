"""environment.yml, constraints.txt and Colab agree with pyproject.toml."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
# What Google Colab had installed in August 2026 (googlecolab/backend-info, pip-freeze.txt).
COLAB_PYTHON = "3.13"
COLAB = {
    "torch": "2.11.0",
    "numpy": "2.1.3",
    "scipy": "1.16.3",
    "pandas": "2.2.3",
    "matplotlib": "3.10.0",
    "nibabel": "5.4.2",
    "pillow": "11.3.0",
    "ipywidgets": "7.7.1",
    "einops": "0.8.2",
}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def conda() -> dict[str, SpecifierSet]:
    """Packages of environment.yml under their names on PyPI."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    found = {}
    for entry in environment["dependencies"]:
        if isinstance(entry, dict):
            texts = [text for text in entry["pip"] if not text.startswith("-")]
            requirements = [Requirement(text) for text in texts]
            found |= {canonicalize_name(one.name): one.specifier for one in requirements}
        else:
            name, specifier = _conda_requirement(entry)
            found[name] = specifier
    return found


def _conda_requirement(text: str) -> tuple[str, SpecifierSet]:
    """`python=3.11` is conda's way of writing `python==3.11.*`."""
    start = next((i for i, letter in enumerate(text) if letter in "=<>!"), len(text))
    name, version = text[:start], text[start:]
    if version.startswith("=") and not version.startswith("=="):
        version = f"={version}.*"
    return canonicalize_name(CONDA_NAMES.get(name, name)), SpecifierSet(version)


def _requirements(project: dict, extras: tuple[str, ...]) -> dict[str, SpecifierSet]:
    texts = [*project["dependencies"]]
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    parsed = [Requirement(text) for text in texts]
    return {
        canonicalize_name(one.name): one.specifier
        for one in parsed
        if canonicalize_name(one.name) != "regnet-lib"
    }


def test_environment_names_the_same_packages(project, conda):
    # The benchmark's peers are for pip alone.
    extras = tuple(set(project["optional-dependencies"]) - {"peers"})
    required = set(_requirements(project, extras))
    assert required - set(conda) == set()
    assert set(conda) - required == {"python", "pip"}


def test_tested_versions_satisfy_both_files(project, conda):
    required = _requirements(project, tuple(project["optional-dependencies"]))
    pinned = _constraints()
    for name, specifier in required.items():
        assert specifier.contains(pinned[name], prereleases=True), (name, pinned[name])
        if name in conda:
            assert conda[name].contains(pinned[name], prereleases=True), (name, pinned[name])
    lowest = project["requires-python"].split(",")[0].removeprefix(">=")
    assert conda["python"].contains(f"{lowest}.0")


def test_constraints_pin_exactly_and_once():
    lines = _constraint_lines()
    assert all(line.count("==") == 1 for line in lines)
    assert len(_constraints()) == len(lines)
    # Local builds such as 2.13.0+cpu exist on no index.
    assert not [line for line in lines if "+" in line or "@" in line]


def test_installed_library_satisfies_the_project(project):
    for name, specifier in _requirements(project, ("viz",)).items():
        assert specifier.contains(metadata.version(name), prereleases=True), name


def test_bounds_admit_colab(project):
    assert SpecifierSet(project["requires-python"]).contains(COLAB_PYTHON)
    required = _requirements(project, ("viz",))
    for name, version in COLAB.items():
        assert required[name].contains(version), (name, version, str(required[name]))


def _constraint_lines() -> list[str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _constraints() -> dict[str, str]:
    pairs = [line.split("==") for line in _constraint_lines()]
    return {canonicalize_name(name): version for name, version in pairs}
