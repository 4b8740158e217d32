"""A model with its weights: published ones by name, a checkpoint, or a plain file.

chosen = choose_network(None, "lganetpp.table2.pivit.2mm.short")
chosen.network, chosen.model, chosen.published.images
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from regnet_lib.checkpoint import load_weights
from regnet_lib.data.volume import BadInputError
from regnet_lib.models import create_model
from regnet_lib.weights import PublishedWeights, digest, find_weights, is_name

# Needs no weights: what `register` takes when it is told nothing.
UNTRAINED = "gradient_descent"


@dataclass(frozen=True)
class ChosenNetwork:
    """What registers.

    Attributes:
        model: its name.
        options: arguments that it was created with.
        network: in float32, on the CPU.
        weights: file or name of the published weights, and `sha256` of the file; None where there
            are none.
        published: their card, if they are published ones.
    """

    model: str
    options: dict[str, object]
    network: nn.Module
    weights: str | None = None
    sha256: str | None = None
    published: PublishedWeights | None = field(default=None, repr=False)


def choose_network(
    model: str | None, weights: str | os.PathLike | None, *, untrained: bool = False
) -> ChosenNetwork:
    """A model, with the options that it was trained with and its weights.

    Args:
        model: a name from `MODELS`; None for the model of the weights, or else `UNTRAINED`.
        weights: the name of published weights, a checkpoint of `regnet train`, which says which
            model it belongs to, or a safetensors file.
        untrained: admit a network without weights.

    Raises:
        BadInputError: weights that are missing, damaged, unknown, or of another model.
    """
    if weights is None:
        name = model or UNTRAINED
        network = create_model(name)
        if _trainable(network) and not untrained:
            raise BadInputError(
                f"register: the model {name!r} has to be trained: expected weights, got none. Give "
                "the name of published weights (`regnet weights list`) or a checkpoint, or use a "
                f"model that needs no training, such as {UNTRAINED!r}."
            )
        return ChosenNetwork(name, {}, network)
    published = find_weights(str(weights)) if is_name(weights) else None
    file = Path(weights) if published is None else published.verified()
    settings = _settings(file)
    trained = settings.get("model")
    name = str(model or trained or UNTRAINED)
    if trained not in (None, name):
        raise BadInputError(
            f"{weights}: expected weights of the model {name!r}, found those of {trained!r}. Give "
            f"--model {trained}, or other weights."
        )
    options = dict(settings.get("model_options", {}))
    # JSON knows lists only, the models are told tuples
    told = {key: tuple(one) if isinstance(one, list) else one for key, one in options.items()}
    network = create_model(name, **told)
    if not _trainable(network):
        raise BadInputError(
            f"{weights}: the model {name!r} has no weights. Leave the weights out, or name the "
            "model that they belong to."
        )
    load_weights(file, network)
    return ChosenNetwork(name, options, network, str(weights), digest(file), published)


def _trainable(network: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in network.parameters())


def _settings(path: Path) -> dict[str, object]:
    """What a file says about its model; nothing for bare weights."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("settings", "{}"))
    except (SafetensorError, ValueError, OSError):
        return {}  # load_weights says what is wrong with the file
