"""Loading checkpoints of the official repositories.

Our modules have readable names and leave out what is never used, so an official `state_dict` does
not fit as it is. Each model lists, as data, how official names become ours, which official
parameters the released code never uses (dead), and which entries can be recomputed (derived:
sampling grids, index tables). Every key must fall into one of these classes.

    report = load_official_state_dict(model, torch.load("checkpoint.pth")["state_dict"])
    report.dead   # names of the official parameters that nothing ever used
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn


@dataclass(frozen=True)
class KeyMap:
    """How the keys of one official repository map to ours.

    Attributes:
        renames: (pattern, replacement) for `re.sub`, all applied in this order.
        dead: patterns of whole official keys whose parameters the official forward pass never uses.
        derived: patterns of whole official keys that follow from the image size or the
            configuration.
    """

    renames: tuple[tuple[str, str], ...] = ()
    dead: tuple[str, ...] = ()
    derived: tuple[str, ...] = (r"(.+\.)?grid",)

    def is_dead(self, key: str) -> bool:
        return self._dead.fullmatch(key) is not None

    def is_derived(self, key: str) -> bool:
        return self._derived.fullmatch(key) is not None

    def rename(self, key: str) -> str:
        """Our name of an official key."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key

    @cached_property
    def _dead(self) -> re.Pattern[str]:
        return _any_of(self.dead)

    @cached_property
    def _derived(self) -> re.Pattern[str]:
        return _any_of(self.derived)


@dataclass(frozen=True)
class OfficialLoadReport:
    """Official keys by what became of them."""

    loaded: tuple[str, ...]
    dead: tuple[str, ...]
    derived: tuple[str, ...]


def load_official_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor]
) -> OfficialLoadReport:
    """Load a checkpoint with the key names of the model's official repository.

    Dead keys may be absent (a checkpoint saved without them is as good); all others must be there.
    The model stays untouched unless everything fits.

    Raises:
        ValueError: the model has no official key names, or keys are missing, unexpected or have the
            wrong shape; all of them are listed.
    """
    name = type(model).__name__
    key_map = getattr(model, "official_keys", None)
    if key_map is None:
        raise ValueError(
            f"load_official_state_dict: expected a model with official key names, got {name}. Load "
            "its own checkpoints with model.load_state_dict."
        )
    ours = model.state_dict()
    values: dict[str, Tensor] = {}
    loaded, dead, derived, unexpected, shapes = [], [], [], [], []
    for key, value in state_dict.items():
        if key_map.is_derived(key):
            derived.append(key)
        elif key_map.is_dead(key):
            dead.append(key)
        elif (target := key_map.rename(key)) not in ours or target in values:
            unexpected.append(key)
        else:
            values[target] = value
            loaded.append(key)
            if tuple(value.shape) != tuple(ours[target].shape):
                shapes.append(
                    f"{key} has {tuple(value.shape)}, {target} needs {tuple(ours[target].shape)}"
                )
    missing = [key for key in ours if key not in values]
    if missing or unexpected or shapes:
        raise ValueError(_complaint(name, missing, unexpected, shapes))
    model.load_state_dict(values)
    return OfficialLoadReport(tuple(loaded), tuple(dead), tuple(derived))


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    # (?!) matches nothing: no patterns, no keys
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or "(?!)")


def _complaint(name: str, missing: list[str], unexpected: list[str], shapes: list[str]) -> str:
    lines = [f"load_official_state_dict: the checkpoint does not fit {name}."]
    for title, keys in (
        ("missing (our names)", missing),
        ("unexpected (official names)", unexpected),
        ("of another shape", shapes),
    ):
        if keys:
            lines.append(f"{len(keys)} {title}:")
            lines.extend(f"  {key}" for key in keys)
    lines.append(
        "Pass the state_dict itself (often checkpoint['state_dict']) to a model built with the "
        "checkpoint's configuration; remove a 'module.' prefix left by data-parallel training."
    )
    return "\n".join(lines)
