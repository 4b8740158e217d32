"""Model cards: what the docstrings say about every model, in one form.

    card = model_card("modet")
    card.fields["licence"]          # of the original code

A card is the part of a docstring that starts with "Model card:", one line `- name: text` per field,
in the docstring of the class or else of its module; what stands between the docstring's first line
and the card names the publication.
"""

import ast
import inspect
import re
from dataclasses import dataclass

import torch

from regnet_lib.models import MODELS, create_model

FIELDS = ("repository", "licence", "compared by", "parameters", "sizes", "deviations")
_HEADING = "Model card:"
_FIELD = re.compile(r"^- ([^:\n]+): ", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """One model.

    Attributes:
        name: key of `MODELS`.
        title: what it is, in one line.
        publication: where it was published, in words.
        fields: `FIELDS`, and further ones where there is more to say; one line of text each.
    """

    name: str
    title: str
    publication: str
    fields: dict[str, str]


def model_card(name: str) -> Card:
    """The card of a model.

    Raises:
        ValueError: no such model, or its docstring lacks the card or one of `FIELDS`.
    """
    if name not in MODELS:
        raise ValueError(f"model_card: expected a name in MODELS, got {name!r}.")
    factory = MODELS[name]
    for described in (factory, inspect.getmodule(factory)):
        text = inspect.getdoc(described) or ""
        if _HEADING in text:
            return _parsed(name, text)
    raise ValueError(f"model_card: expected {_HEADING!r} in the docstring of {name!r}, found none.")


def shared_parts(name: str) -> tuple[str, ...]:
    """What a model's file imports from `regnet_lib.nn` and `regnet_lib.spatial`.

    `nn.blocks` for anything of that file, `spatial.warp` for that function.
    """
    tree = ast.parse(inspect.getsource(inspect.getmodule(MODELS[name])))
    parts = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.startswith("regnet_lib.nn."):
                parts.add(node.module.removeprefix("regnet_lib."))
            elif node.module == "regnet_lib.spatial":
                parts |= {f"spatial.{alias.name}" for alias in node.names}
    return tuple(sorted(parts))


def smallest_sides(name: str) -> tuple[int, int] | None:
    """`(multiple, least)`: valid sides are multiples of the one and at least the other.

    Asked of the model itself, with cubes; None where the rule is another one.
    """
    with torch.device("meta"):  # weights are not needed
        model = create_model(name)
    if not hasattr(model, "valid_shape"):
        return None
    valid = [side for side in range(1, 129) if model.valid_shape((side,) * 3) == (side,) * 3]
    steps = {more - less for less, more in zip(valid, valid[1:], strict=False)}
    return (steps.pop(), valid[0]) if len(steps) == 1 else None


def _parsed(name: str, text: str) -> Card:
    before, after = text.split(_HEADING, 1)
    title, _, publication = before.partition("\n")
    block = after.strip("\n").split("\n\n")[0]
    names = _FIELD.findall(block)
    texts = _FIELD.split(block)[2::2]
    fields = {
        key.replace("repositories", "repository"): _one_line(value)
        for key, value in zip(names, texts, strict=True)
    }
    missing = [field for field in FIELDS if not fields.get(field)]
    if missing:
        raise ValueError(f"model_card: expected {', '.join(missing)} in the card of {name!r}.")
    first_paragraph = publication.strip().split("\n\n")[0]
    return Card(name, title.strip(), _one_line(first_paragraph), fields)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(";. ")
