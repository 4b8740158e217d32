"""The training loop: readable in one sitting, resumable at any step.

    result = train(EXPERIMENTS["lganetpp.table2.voxelmorph2.2mm"], max_minutes=30)

A run lives in one folder: `train.csv` (one line per step), `checkpoint.safetensors`,
`settings.json`. The order of the cases follows from seed and epoch alone, so a resumed training
sees the same pairs; with the generator's state restored it repeats the same losses bit for bit on
the CPU. On a GPU nothing in a step waits for the device: batches are read ahead
(`regnet_lib.batches`), losses are read many steps at a time (`regnet_lib.training_log`).

Under `torchrun` every process trains on its share of each batch (`regnet_lib.parallel`).
"""

import json
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from regnet_lib.batches import Batches
from regnet_lib.checkpoint import Progress, load_checkpoint, save_checkpoint
from regnet_lib.data import BadInputError, open_dataset
from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.cache import CachedDataset
from regnet_lib.experiments import Experiment
from regnet_lib.losses import Landmarks, Objective
from regnet_lib.machine import choose_device, peak_memory_mib
from regnet_lib.models import create_model
from regnet_lib.models.sizes import pad_to_valid_size, run_at_valid_size
from regnet_lib.nn.blocks import channels_innermost
from regnet_lib.parallel import team
from regnet_lib.paths import runs_folder
from regnet_lib.training_log import TrainingLog, steps_per_read

CHECKPOINT = "checkpoint.safetensors"
LOG = "train.csv"
SETTINGS = "settings.json"


@dataclass(frozen=True)
class TrainingResult:
    """Where a training stands: its folder, steps done of all steps, seconds spent in total."""

    folder: Path
    step: int
    total_steps: int
    seconds: float

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps


def train(
    experiment: Experiment,
    *,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    folder: Path | None = None,
    device: str = "auto",
    epochs: int | None = None,
    max_minutes: float | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
) -> TrainingResult:
    """Train the model of an experiment.

    Args:
        data: folder of the dataset; default `$REGNET_DATA/<dataset>`.
        cache: folder for prepared volumes, written in the first epoch and mapped into memory from
            then on (`regnet_lib.data.cache`); images may lose digits, so it is a setting.
        folder: where the run is written; default `runs/<experiment>`.
        epochs: another number of epochs than the experiment's; part of the run's settings, so a
            run cannot be lengthened afterwards.
        max_minutes: stop cleanly at the first step after this time, with a checkpoint.
        resume: continue from the folder's checkpoint. Without it an existing run is an error.
        checkpoint_seconds: time between checkpoints; one is always written at the end.

    Raises:
        BadInputError: nothing to train, an existing run, or one with other settings.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    epochs = experiment.epochs if epochs is None else epochs
    if epochs < 1:
        raise BadInputError(
            f"{experiment.name}: expected at least 1 epoch, got {epochs}; the model "
            f"{experiment.model!r} may need no training. Evaluate it directly."
        )
    folder = Path(folder or runs_folder() / experiment.name)
    processes = team(choose_device(device))
    target = processes.device
    dataset = open_dataset(experiment.dataset, data, **experiment.dataset_options)
    if cache is not None:
        dataset = CachedDataset(dataset, cache)
    batches = Batches(dataset, experiment, epochs, processes)
    settings = {**experiment.as_dict(), "epochs": epochs, "steps": batches.steps}
    settings |= {} if cache is None else {"cached": True}
    settings = json.loads(json.dumps(settings))
    if processes.leads:
        _prepare_folder(folder, settings, resume)
    processes.wait()

    torch.manual_seed(experiment.seed)
    model = create_model(experiment.model, **experiment.model_options).to(target).train()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise BadInputError(f"{experiment.name}: {experiment.model!r} has no parameters to train.")
    channels_innermost(model)
    optimiser = torch.optim.Adam(
        _parameter_groups(model),
        lr=experiment.optimiser.learning_rate,
        betas=experiment.optimiser.betas,
        weight_decay=experiment.optimiser.weight_decay,
        amsgrad=experiment.optimiser.amsgrad,
    )
    done = Progress(0, 0.0, 0.0)
    if resume and (folder / CHECKPOINT).exists():
        done = load_checkpoint(folder / CHECKPOINT, model, optimiser, settings)
    elif processes.size > 1:
        torch.manual_seed(experiment.seed + processes.rank)  # other dropout masks in each process
    path = folder / LOG if processes.leads else None
    log = TrainingLog(experiment.name, path, done.step, steps_per_read(target))

    started = saved = time.monotonic()
    step = done.step

    def elapsed() -> float:
        return done.seconds + time.monotonic() - started

    def save() -> None:
        log.flush()  # raises where a loss was not finite: such weights are not saved
        memory = max(done.peak_memory_mib, peak_memory_mib(target))
        save_checkpoint(
            folder / CHECKPOINT, model, optimiser, Progress(step, elapsed(), memory), settings
        )

    shown = progress and processes.leads
    bar = tqdm(total=batches.steps, initial=step, disable=not shown, desc=experiment.name)
    try:
        with closing(batches.ahead(step)) as coming:
            for batch in coming:
                rate = experiment.optimiser.learning_rate
                if experiment.optimiser.decay is not None:
                    rate *= experiment.optimiser.decay.factor(batch.epoch)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                moving, fixed = (
                    image.to(target, non_blocking=True) for image in (batch.moving, batch.fixed)
                )
                with torch.autocast(
                    target.type, torch.bfloat16, enabled=experiment.precision == "bfloat16"
                ):
                    loss, parts = _loss(model, experiment.objective, moving, fixed, batch.landmarks)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                processes.average_gradients(model)
                optimiser.step()
                step += 1
                values = processes.average(torch.stack([part.detach() for part in parts.values()]))
                log.add(step, batch.epoch, batch.ids, parts, values, rate, elapsed())
                bar.update()
                bar.set_postfix(loss=f"{log.loss:.4f}", refresh=False)
                now = time.monotonic()
                if processes.leads and now - saved > checkpoint_seconds and step < batches.steps:
                    save()
                    saved = now
                over = max_minutes is not None and now - started > 60 * max_minutes
                if max_minutes is not None and processes.any(over):
                    break
    finally:
        bar.close()
        with closing(log):
            if processes.leads and step > done.step and not log.diverged:
                save()
    return TrainingResult(folder, step, batches.steps, elapsed())


def _loss(
    model: nn.Module,
    objective: Objective,
    moving: Tensor,
    fixed: Tensor,
    landmarks: Landmarks | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of the registration, or the model's own `training_loss` if it has one.

    That is for methods which train on more than one field per pair (CycleMorph), or on pairs of
    their own (Eppenhof).
    """
    if hasattr(model, "training_loss"):
        padded_moving, padded_fixed, _ = pad_to_valid_size(model, moving, fixed)
        return model.training_loss(objective, padded_moving, padded_fixed)
    displacement = run_at_valid_size(model, moving, fixed).displacement
    known = {} if landmarks is None else {"landmarks": landmarks}
    with torch.autocast(moving.device.type, enabled=False):
        return objective(displacement, moving, fixed, **known)


def _parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """All parameters, and apart from them those that the model wants to keep from weight decay."""
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    named = list(model.named_parameters())
    groups: list[dict[str, object]] = [
        {"params": [parameter for name, parameter in named if name not in spared]}
    ]
    if spared:
        kept = [parameter for name, parameter in named if name in spared]
        groups.append({"params": kept, "weight_decay": 0.0})
    return groups


def _prepare_folder(folder: Path, settings: dict, resume: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    exists = (folder / CHECKPOINT).exists()
    if exists and not resume:
        raise BadInputError(
            f"{folder}: a run with a checkpoint is already there. Continue it with resume "
            "(--resume), or remove the folder to start anew."
        )
    text = json.dumps(settings, indent=1, sort_keys=True)
    if not (exists and (folder / SETTINGS).exists()):
        write_atomically(
            folder / SETTINGS, lambda temporary: temporary.write_text(text + "\n"), overwrite=True
        )
