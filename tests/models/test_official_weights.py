"""Loading official checkpoints: every key accounted for, and errors that list what is wrong."""

import pytest
import torch
from torch import nn

from regnet_lib.models.official_weights import KeyMap, load_official_state_dict


class Small(nn.Module):
    official_keys = KeyMap(renames=((r"^old\.", "layer."),), dead=(r"spare\..+",))

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)


def official() -> dict[str, torch.Tensor]:
    return {"old.weight": torch.ones(3, 2), "old.bias": torch.full((3,), 2.0)}


def test_loads_and_reports():
    model = Small()
    extra = {"spare.weight": torch.zeros(7), "warp.grid": torch.zeros(1), "grid": torch.zeros(1)}
    report = load_official_state_dict(model, {**official(), **extra})
    assert report.loaded == ("old.weight", "old.bias")
    assert report.dead == ("spare.weight",)
    assert report.derived == ("warp.grid", "grid")
    assert torch.equal(model.layer.weight, torch.ones(3, 2))
    assert torch.equal(model.layer.bias, torch.full((3,), 2.0))


def test_one_error_lists_everything_and_changes_nothing():
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as raised:
        load_official_state_dict(
            model,
            {"old.weight": torch.ones(3, 5), "surprise": torch.ones(1), "grids": torch.ones(1)},
        )
    message = str(raised.value)
    assert "1 missing (our names):\n  layer.bias" in message
    assert "2 unexpected (official names):\n  surprise\n  grids" in message
    assert "old.weight has (3, 5), layer.weight needs (3, 2)" in message
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_two_official_keys_for_one_of_ours_are_an_error():
    twice = {**official(), "layer.weight": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match="unexpected.*\n  layer.weight"):
        load_official_state_dict(Small(), twice)


def test_a_prefix_of_data_parallel_training_is_named_in_the_advice():
    with pytest.raises(ValueError, match="'module.' prefix"):
        load_official_state_dict(Small(), {f"module.{k}": v for k, v in official().items()})


def test_models_without_official_names_say_so():
    with pytest.raises(ValueError, match="Linear"):
        load_official_state_dict(nn.Linear(2, 3), {})


@pytest.mark.golden
@pytest.mark.parametrize("damage", ["missing", "unexpected", "of another shape"])
def test_damaged_lganetpp_checkpoints(released, official_state, damage):
    state = dict(official_state)
    key = "deblock3.nff.weight_conv.0.weight"
    if damage == "missing":
        del state[key]
        key = "decoders.3.fuse.weigh.weight"
    elif damage == "unexpected":
        key = "deblock3.nff.weight_conv.1.weight"
        state[key] = torch.zeros(1)
    else:
        state[key] = state[key][:, :-1]
    with pytest.raises(ValueError, match=f"1 {damage}(.|\n)*{key}"):
        load_official_state_dict(released, state)
