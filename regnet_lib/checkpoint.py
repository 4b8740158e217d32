"""Checkpoints: one safetensors file with weights, optimiser state, random state and progress.

No pickle is involved, the file is replaced atomically, and loading refuses a checkpoint that
belongs to another experiment. Resuming from it continues bit for bit on the CPU.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.volume import BadInputError

FORMAT = "regnet-checkpoint-1"


@dataclass(frozen=True)
class Progress:
    """How far a training has come: optimiser steps done, seconds spent, peak memory so far."""

    step: int
    seconds: float
    peak_memory_mib: float


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    settings: dict,
) -> None:
    """Write all that a later process needs to continue; `settings` identifies the training."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimiser.{index}.{key}"] = torch.as_tensor(value)
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"random.cuda.{index}"] = state
    metadata = {
        "format": FORMAT,
        "progress": json.dumps(vars(progress)),
        "settings": json.dumps(settings, sort_keys=True),
    }
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(
        path, lambda temporary: save_file(contiguous, temporary, metadata), overwrite=True
    )


def load_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, settings: dict
) -> Progress:
    """Restore the state saved by `save_checkpoint` into `model`, `optimiser` and the generators."""
    tensors, metadata = _read(path)
    stored = json.loads(metadata["settings"])
    current = json.loads(json.dumps(settings, sort_keys=True))
    if stored != current:
        changed = sorted(
            key for key in stored.keys() | current.keys() if stored.get(key) != current.get(key)
        )
        raise BadInputError(
            f"{path}: the checkpoint belongs to a training with other settings: "
            f"{', '.join(changed)} differ. Resume with the same settings or "
            "start anew in another folder."
        )
    _load_weights(path, model, tensors)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    torch.set_rng_state(tensors["random.cpu"])
    cuda = [tensors[name] for name in sorted(tensors) if name.startswith("random.cuda.")]
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)
    return Progress(**json.loads(metadata["progress"]))


def load_weights(path: str | Path, model: nn.Module) -> dict[str, str]:
    """Load the weights of a checkpoint, or of a plain safetensors file; returns the metadata."""
    tensors, metadata = _read(Path(path))
    _load_weights(Path(path), model, tensors)
    return metadata


def save_weights(
    path: str | Path,
    model: nn.Module,
    *,
    metadata: dict[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write only the weights, in float16, as a plain safetensors file."""
    from safetensors.torch import save_file

    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_atomically(
        Path(path),
        lambda temporary: save_file(tensors, temporary, metadata),
        overwrite=overwrite,
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadInputError(
            f"{path}: the checkpoint does not exist. Train first or check the path."
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise BadInputError(
            f"{path}: not a complete safetensors file ({error}). Pickled checkpoints are not read, "
            "because they can run code; convert them once in a separate process."
        ) from error


def _load_weights(path: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    if any(name.startswith("model.") for name in tensors):
        tensors = {
            name.removeprefix("model."): tensor
            for name, tensor in tensors.items()
            if name.startswith("model.")
        }
    expected = model.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    shapes = sorted(
        name
        for name in expected.keys() & tensors.keys()
        if expected[name].shape != tensors[name].shape
    )
    if missing or unexpected or shapes:
        raise BadInputError(
            f"{path}: the weights do not belong to {type(model).__name__}: missing "
            f"{_few(missing)}, unexpected {_few(unexpected)}, other shapes {_few(shapes)}. Create "
            "the model with the options it was trained with; for official "
            "checkpoints use load_official_state_dict."
        )
    model.load_state_dict(tensors)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return shown or "none"
