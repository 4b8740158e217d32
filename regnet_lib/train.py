"""The training loop: readable in one sitting, resumable at any step.

    result = train(EXPERIMENTS["lganetpp.table2.voxelmorph2.2mm"], max_minutes=30)

A run lives in one folder: `train.csv` (one line per step), `checkpoint.safetensors`,
`settings.json`. The order of the cases follows from seed and epoch alone, so a resumed training
sees the same pairs; with the generator's state restored it repeats the same losses bit for bit on
the CPU.

Under `torchrun` every process trains on its share of each batch (`regnet_lib.parallel`).
"""

import csv
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from regnet_lib.checkpoint import Progress, load_checkpoint, save_checkpoint
from regnet_lib.data import BadInputError, Case, Dataset, open_dataset
from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.cache import CachedDataset
from regnet_lib.experiments import Experiment
from regnet_lib.losses import Landmarks, Objective
from regnet_lib.machine import choose_device, peak_memory_mib
from regnet_lib.models import create_model
from regnet_lib.models.sizes import pad_to_valid_size, run_at_valid_size
from regnet_lib.parallel import Team, team
from regnet_lib.paths import runs_folder

CHECKPOINT = "checkpoint.safetensors"
LOG = "train.csv"
SETTINGS = "settings.json"


class TrainingDivergedError(RuntimeError):
    """The loss is not finite; the message names step, cases and terms."""


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
    batches = _Batches(dataset, experiment, epochs, processes)
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
    # 3-D convolutions run 1.3x faster on the CPU with the channels innermost; same function.
    for weights in model.parameters():
        if weights.ndim == 5:
            weights.data = weights.data.to(memory_format=torch.channels_last_3d)
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
    log = _Log(folder / LOG, keep_steps=done.step) if processes.leads else None

    started = saved = time.monotonic()
    step = done.step

    def elapsed() -> float:
        return done.seconds + time.monotonic() - started

    def save() -> None:
        memory = max(done.peak_memory_mib, peak_memory_mib(target))
        save_checkpoint(
            folder / CHECKPOINT, model, optimiser, Progress(step, elapsed(), memory), settings
        )

    shown = progress and processes.leads
    bar = tqdm(total=batches.steps, initial=step, disable=not shown, desc=experiment.name)
    try:
        while step < batches.steps:
            epoch, ids, moving, fixed, landmarks = batches.load(step)
            rate = experiment.optimiser.learning_rate
            if experiment.optimiser.decay is not None:
                rate *= experiment.optimiser.decay.factor(epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate
            moving, fixed = moving.to(target), fixed.to(target)
            with torch.autocast(
                target.type, torch.bfloat16, enabled=experiment.precision == "bfloat16"
            ):
                loss, parts = _loss(model, experiment.objective, moving, fixed, landmarks)
            values = processes.average({name: float(value) for name, value in parts.items()})
            _require_finite(experiment.name, step, ids, values)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            processes.average_gradients(model)
            optimiser.step()
            step += 1
            if log is not None:
                log.write(step, epoch, ids, values, rate, elapsed())
            bar.update()
            bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
            now = time.monotonic()
            if log is not None and now - saved > checkpoint_seconds and step < batches.steps:
                save()
                saved = now
            over = max_minutes is not None and now - started > 60 * max_minutes
            if max_minutes is not None and processes.any(over):
                break
    finally:
        bar.close()
        if log is not None:
            log.close()
            if step > done.step:
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


class _Batches:
    """Which cases step number s trains on: a permutation per epoch, drawn from seed and epoch."""

    def __init__(
        self, dataset: Dataset, experiment: Experiment, epochs: int, processes: Team
    ) -> None:
        if experiment.batch_size % processes.size:
            raise BadInputError(
                f"{experiment.name}: expected a batch size that {processes.size} processes can "
                f"share evenly, got {experiment.batch_size}."
            )
        self.dataset = dataset
        self.processes = processes
        self.ids = dataset.ids("train")
        self.size = experiment.batch_size
        self.seed = experiment.seed
        self.uses_landmarks = experiment.objective.uses_landmarks
        self.steps_per_epoch = max(len(self.ids) // self.size, 1)
        self.steps = epochs * self.steps_per_epoch

    def load(self, step: int) -> tuple[int, tuple[str, ...], Tensor, Tensor, Landmarks | None]:
        epoch, position = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        order = torch.randperm(len(self.ids), generator=generator).tolist()
        chosen = order[position * self.size : (position + 1) * self.size]
        ids = tuple(self.ids[index] for index in chosen)
        shared = self.processes.share(ids)
        cases = [self.dataset.case(case_id, labels=False) for case_id in shared]
        return (
            epoch,
            ids,
            torch.cat([case.moving for case in cases]),
            torch.cat([case.fixed for case in cases]),
            _landmarks(cases) if self.uses_landmarks else None,
        )


def _landmarks(cases: list[Case]) -> Landmarks | None:
    """What equation (19) of AD-RegNet needs, of a batch of one; landmarks outside do not count."""
    case = cases[0]
    if case.fixed_landmarks is None or case.moving_landmarks is None:
        return None
    if len(cases) > 1:
        raise BadInputError(
            f"{case.id}: expected a batch of one pair, since the pairs have landmarks and the "
            f"objective uses them, got {len(cases)}. Set batch_size=1 or landmark_weight=0."
        )
    last = torch.tensor(case.shape) - 1
    inside = ((case.fixed_landmarks >= 0) & (case.fixed_landmarks <= last)).all(dim=1)
    return Landmarks(case.moving_landmarks[inside], case.fixed_landmarks[inside], case.spacing_mm)


class _Log:
    """`train.csv`: a header, then one line per optimiser step, flushed as it is written."""

    def __init__(self, path: Path, keep_steps: int) -> None:
        # Lines after the last checkpoint will be produced again.
        kept: list[list[str]] = []
        if path.exists() and keep_steps:
            with path.open(newline="") as file:
                header, *rows = list(csv.reader(file))
            complete = [row for row in rows if len(row) == len(header)]
            kept = [header, *(row for row in complete if int(row[0]) <= keep_steps)]
        text = "".join(",".join(row) + "\n" for row in kept)
        write_atomically(path, lambda temporary: temporary.write_text(text), overwrite=True)
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._needs_header = not kept

    def write(
        self,
        step: int,
        epoch: int,
        ids: tuple[str, ...],
        values: dict[str, float],
        rate: float,
        seconds: float,
    ) -> None:
        if self._needs_header:
            self._writer.writerow(["step", "epoch", "cases", *values, "learning_rate", "seconds"])
            self._needs_header = False
        numbers = [f"{value:.9g}" for value in values.values()]
        self._writer.writerow(
            [step, epoch, " ".join(ids), *numbers, f"{rate:.6g}", f"{seconds:.2f}"]
        )
        self._file.flush()

    def close(self) -> None:
        self._file.close()


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


def _require_finite(name: str, step: int, ids: tuple[str, ...], values: dict[str, float]) -> None:
    import math

    if not all(math.isfinite(value) for value in values.values()):
        terms = ", ".join(f"{term} = {value}" for term, value in values.items())
        raise TrainingDivergedError(
            f"{name}: expected a finite loss at step {step + 1} (cases {', '.join(ids)}), got "
            f"{terms}. The last checkpoint is kept; look at these cases, or lower the "
            "learning rate."
        )
