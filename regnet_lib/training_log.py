"""`train.csv`, one line per optimiser step, and the watch over losses that diverge.

A loss lives on the device that computes it, and reading it makes the host wait until the device has
done all its work. The losses of a GPU are therefore read twenty steps at a time, in one copy, and
the GPU never idles for the log; those of the CPU are read at once, where nothing waits.

    log = TrainingLog("lganetpp", path, keep_steps=0, steps_per_read=steps_per_read(device))
    log.add(step, epoch, ids, parts.keys(), values, rate, seconds)
    log.flush()   # before every checkpoint, so that no weights behind a diverged loss are kept
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from regnet_lib.data.atomic import write_atomically


class TrainingDivergedError(RuntimeError):
    """The loss is not finite; the message names step, cases and terms."""


@dataclass(frozen=True)
class _Step:
    number: int
    epoch: int
    cases: tuple[str, ...]
    names: tuple[str, ...]
    values: Tensor
    rate: float
    seconds: float


def steps_per_read(device: torch.device) -> int:
    """How many steps' losses are read together."""
    return 1 if device.type == "cpu" else 20


class TrainingLog:
    """A header, then one line per optimiser step.

    Args:
        name: of the training, for messages.
        path: the file; None only watches (processes that do not lead a team).
        keep_steps: lines up to this step stay; later ones will be produced again.
        steps_per_read: see `steps_per_read`.

    Attributes:
        loss: the last one that was read.
        diverged: a loss that was read was not finite.
    """

    def __init__(
        self, name: str, path: Path | None, keep_steps: int, steps_per_read: int = 1
    ) -> None:
        self.name, self.steps_per_read = name, steps_per_read
        self.loss, self.diverged = math.nan, False
        self._pending: list[_Step] = []
        self._file = None
        if path is not None:
            kept = _lines_to_keep(path, keep_steps)
            text = "".join(",".join(row) + "\n" for row in kept)
            write_atomically(path, lambda temporary: temporary.write_text(text), overwrite=True)
            self._file = path.open("a", newline="")
            self._writer = csv.writer(self._file, lineterminator="\n")
            self._needs_header = not kept

    def add(
        self,
        step: int,
        epoch: int,
        cases: tuple[str, ...],
        names: Iterable[str],
        values: Float[Tensor, " terms"],
        rate: float,
        seconds: float,
    ) -> None:
        """Take note of a step that was done; read and write if enough have come together.

        Args:
            values: `loss` and its terms in the order of `names`, still on their device.

        Raises:
            TrainingDivergedError: see `flush`.
        """
        self._pending.append(_Step(step, epoch, cases, tuple(names), values, rate, seconds))
        if len(self._pending) >= self.steps_per_read:
            self.flush()

    def flush(self) -> None:
        """Read what is pending and write its lines.

        Raises:
            TrainingDivergedError: a loss is NaN or infinite. The lines before it are written; the
                weights have seen it, and must not be saved.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        numbers = iter(torch.cat([step.values for step in pending]).tolist())
        for step in pending:
            values = dict(zip(step.names, islice(numbers, len(step.names)), strict=True))
            self._require_finite(step, values)
            self._write(step, values)
            self.loss = values["loss"]
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, step: _Step, values: dict[str, float]) -> None:
        if self._file is None:
            return
        if self._needs_header:
            self._writer.writerow(["step", "epoch", "cases", *values, "learning_rate", "seconds"])
            self._needs_header = False
        numbers = [f"{value:.9g}" for value in values.values()]
        cases = " ".join(step.cases)
        self._writer.writerow(
            [step.number, step.epoch, cases, *numbers, f"{step.rate:.6g}", f"{step.seconds:.2f}"]
        )

    def _require_finite(self, step: _Step, values: dict[str, float]) -> None:
        if all(math.isfinite(value) for value in values.values()):
            return
        self.diverged = True
        terms = ", ".join(f"{term} = {value}" for term, value in values.items())
        raise TrainingDivergedError(
            f"{self.name}: expected a finite loss at step {step.number} "
            f"(cases {', '.join(step.cases)}), got {terms}. The last checkpoint is kept; look at "
            "these cases, or lower the learning rate."
        )


def _lines_to_keep(path: Path, keep_steps: int) -> list[list[str]]:
    """The header and the complete lines up to that step; nothing without such a step."""
    if not (path.exists() and keep_steps):
        return []
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    complete = [row for row in rows if len(row) == len(header)]
    return [header, *(row for row in complete if int(row[0]) <= keep_steps)]
