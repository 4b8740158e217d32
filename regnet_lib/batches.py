"""Which cases each step of a training sees, read ahead of time.

The order is a permutation per epoch, drawn from seed and epoch alone: a resumed training sees the
pairs that an uninterrupted one would have seen.

    batches = Batches(open_dataset("lpba40"), experiment, epochs=300, processes=team(device))
    for batch in batches.ahead(first_step):
        moving, fixed = batch.moving, batch.fixed   # (B, 1, D, H, W) twice
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from regnet_lib.data import BadInputError, Case, Dataset
from regnet_lib.experiments import Experiment
from regnet_lib.losses import Landmarks
from regnet_lib.parallel import Team
from regnet_lib.types import Image


@dataclass(frozen=True)
class Batch:
    """The input of one step.

    Attributes:
        epoch: counted from 0.
        ids: the cases of all processes.
        moving, fixed: `(B, 1, *shape)`, the share of this process, still on the CPU.
        landmarks: of the pair, if the objective uses them and the pair has them.
    """

    epoch: int
    ids: tuple[str, ...]
    moving: Image
    fixed: Image
    landmarks: Landmarks | None


class Batches:
    """The batches of a training by the number of their step."""

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

    def ahead(self, start: int) -> Iterator[Batch]:
        """The batches from step `start` on; while one is in use, a thread reads the next."""
        if start >= self.steps:
            return
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.load, start)
            for step in range(start, self.steps):
                batch = coming.result()
                if step + 1 < self.steps:
                    coming = reader.submit(self.load, step + 1)
                yield batch

    def load(self, step: int) -> Batch:
        """Read the cases of one step, into page-locked memory where a GPU will fetch them."""
        epoch, position = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        order = torch.randperm(len(self.ids), generator=generator).tolist()
        chosen = order[position * self.size : (position + 1) * self.size]
        ids = tuple(self.ids[index] for index in chosen)
        shared = self.processes.share(ids)
        cases = [self.dataset.case(case_id, labels=False) for case_id in shared]
        moving, fixed = (
            torch.cat([getattr(case, name) for case in cases]) for name in ("moving", "fixed")
        )
        if self.processes.device.type == "cuda":
            moving, fixed = moving.pin_memory(), fixed.pin_memory()
        landmarks = _landmarks(cases) if self.uses_landmarks else None
        return Batch(epoch, ids, moving, fixed, landmarks)


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
