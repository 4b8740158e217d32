"""Every method has a name, a complete card, and parts that can be found by looking."""

import re
from pathlib import Path

import pytest
import torch

from regnet_lib.models import MODELS, create_model
from regnet_lib.models.cards import FIELDS, model_card, shared_parts, smallest_sides

# The public names; a chapter, a table or a script of a reader relies on each of them.
PUBLIC = """
    identity gradient_descent syn deeds convexadam ad_regnet lganet lganetpp voxelmorph1 voxelmorph2
    cyclemorph vitvnet nnformer transmorph_tiny transmorph llnet_tiny llnet_small llnet_large
    llnet_diff_small pivit prnetpp pcnet modet corrmlp groupmorph rdp eoir dlir eppenhof fang_fcn
    mlvirnet mjcnn
""".split()
UNTRAINED = {"identity", "gradient_descent", "syn", "deeds", "convexadam"}


def test_no_public_name_is_missing():
    assert set(PUBLIC) == set(MODELS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_card_is_complete(name):
    card = model_card(name)
    assert card.title and card.publication
    for field in FIELDS:
        assert card.fields[field], field
    assert not any("\n" in text for text in card.fields.values())


@pytest.mark.parametrize("name", sorted(set(MODELS) - UNTRAINED))
def test_card_states_the_parameters_of_the_model(name):
    with torch.device("meta"):
        count = sum(weights.numel() for weights in create_model(name).parameters())
    stated = [int(number.replace(",", "")) for number in _numbers(model_card(name))]
    if name == "groupmorph":  # the tables of positions are listed for one size
        count -= sum(
            weights.numel()
            for key, weights in create_model(name).named_parameters()
            if "position" in key
        )
    if name == "cyclemorph":  # registration uses one of two networks
        count //= 2
    assert count in stated


def test_unknown_name_and_missing_card(monkeypatch):
    with pytest.raises(ValueError, match="expected a name in MODELS.*'unet'"):
        model_card("unet")

    class Bare:
        """A model.

        Somebody, somewhere. Model card:

        - repository: none;
        - licence: none.
        """

    monkeypatch.setitem(MODELS, "bare", Bare)
    with pytest.raises(ValueError, match="expected compared by, parameters, .* in the card"):
        model_card("bare")


def test_fields_end_where_the_next_begins():
    fields = model_card("rdp").fields
    assert fields["repository"] == "ZAX130/RDP, `models.py`"
    assert fields["sizes"] == "sides that are multiples of 8, at least 16"


def test_shared_parts_are_what_the_file_imports():
    assert {"nn.expected_offset", "spatial.warp", "spatial.compose"} <= set(shared_parts("modet"))
    assert "nn.correlation" in shared_parts("corrmlp")
    assert shared_parts("identity") == ()


def test_smallest_sides_agree_with_the_card():
    for name in ("voxelmorph2", "modet", "rdp", "transmorph", "mjcnn"):
        multiple, least = smallest_sides(name)
        sizes = model_card(name).fields["sizes"]
        assert f"multiples of {multiple}" in sizes
        assert least == multiple or f"at least {least}" in sizes
        model = create_model(name)
        assert model.valid_shape((least + 1,) * 3) == (least + multiple,) * 3
    assert smallest_sides("gradient_descent") is None


def test_command_lists_every_model(capsys):
    from regnet_lib.__main__ import main

    assert main(["models"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert set(MODELS) <= set(listed)


def test_chapter_and_bibliography_know_every_publication():
    root = Path(__file__).resolve().parents[2]
    chapter = (root / "notebooks/15_the_baselines.ipynb").read_text(encoding="utf-8")
    keys = set(re.findall(r"@\w+\{(\w+),", (root / "book/references.bib").read_text("utf-8")))
    cited = {key for group in re.findall(r"\{cite\}`([^`]+)`", chapter) for key in group.split(",")}
    assert cited <= keys
    assert len(cited) >= 24


def _numbers(card) -> list[str]:
    return re.findall(r"\d{1,3}(?:,\d{3})+", card.fields["parameters"])
