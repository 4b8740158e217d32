"""What an experiment is: one row of one table, as a value.

experiment = Experiment("mine", row="Mine", model="voxelmorph2", dataset="lpba40", epochs=10)
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from regnet_lib.losses import Objective
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Precision


@dataclass(frozen=True)
class LinearDecay:
    """Learning-rate factor: 1 until `start_epoch`, then linear to `final_factor` at `end_epoch`."""

    start_epoch: int
    end_epoch: int
    final_factor: float

    def factor(self, epoch: int) -> float:
        """Factor during epoch number `epoch`, counted from 0."""
        progress = (epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)
        return 1 - min(max(progress, 0.0), 1.0) * (1 - self.final_factor)


@dataclass(frozen=True)
class StepDecay:
    """Learning-rate factor: times `step_factor` after every `epochs` epochs."""

    epochs: int
    step_factor: float = 0.5

    def factor(self, epoch: int) -> float:
        """Factor during epoch number `epoch`, counted from 0."""
        return self.step_factor ** (epoch // self.epochs)


@dataclass(frozen=True)
class PolynomialDecay:
    """Learning-rate factor (1 - epoch / end_epoch)^power, the schedule of TransMorph."""

    end_epoch: int
    power: float = 0.9

    def factor(self, epoch: int) -> float:
        """Factor during epoch number `epoch`, counted from 0."""
        return max(1 - epoch / self.end_epoch, 0.0) ** self.power


@dataclass(frozen=True)
class LevellingDecay(PolynomialDecay):
    """Learning-rate factor of `PolynomialDecay` down to `least_factor`, and constant from there."""

    least_factor: float = 0.1

    def factor(self, epoch: int) -> float:
        """Factor during epoch number `epoch`, counted from 0."""
        return max(super().factor(epoch), self.least_factor)


@dataclass(frozen=True)
class Optimiser:
    """Adam and its schedule; `amsgrad` keeps the largest second moment (Reddi et al., 2018)."""

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decay: LinearDecay | StepDecay | PolynomialDecay | None = None
    amsgrad: bool = False


@dataclass(frozen=True)
class Experiment:
    """One row of one table.

    Attributes:
        name: unique; `<paper>.<table>.<model>[.<variant>]`.
        row: the method's name in the paper's table.
        model, model_options: arguments of `create_model`.
        dataset, dataset_options: arguments of `open_dataset`.
        objective, optimiser, epochs, batch_size, seed: the training; epochs 0 means none is needed.
        precision: of the network in training; `bfloat16` is autocast, with displacements, warps,
            correlations and the loss in float32. Evaluation is always in float32.
        weights_of: name of the experiment whose trained weights are evaluated, for a test on other
            data; nothing is trained.
        refine_steps: iterations of instance optimisation after the model, with the objective, on
            the grid of the images; for evaluation alone.
        faithful: False where resolution or budget differ from the paper's on purpose; such a row is
            never called a reproduction.
        notes: sources of the settings and what deviates.
    """

    name: str
    row: str
    model: str
    dataset: str
    model_options: Mapping[str, object] = field(default_factory=dict)
    dataset_options: Mapping[str, object] = field(default_factory=dict)
    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser()
    epochs: int = 0
    batch_size: int = 1
    precision: Precision = "float32"
    seed: int = 0
    weights_of: str = ""
    refine_steps: int = 0
    faithful: bool = True
    notes: str = ""

    def as_dict(self) -> dict[str, object]:
        """Plain values, for `run.json` and for checkpoints, which know no refinement."""
        values = asdict(replace(self, model_options=dict(self.model_options)))
        if not self.refine_steps:
            del values["refine_steps"]
        return values


def at_spacing(experiment: Experiment, spacing_mm: int, shape: tuple[int, int, int]) -> Experiment:
    """The same experiment on coarser volumes; `shape` is theirs at 1 mm.

    A model that is told the shape of its training images (GroupMorph) is told that of the padded
    ones: its sides are multiples of 8.
    """
    coarser = tuple(side // spacing_mm for side in shape)
    sides = "x".join(map(str, coarser))
    options = dict(experiment.model_options)
    if "shape" in options:
        options["shape"] = next_multiple(coarser, 8)
    return replace(
        experiment,
        model_options=options,
        name=f"{experiment.name}.{spacing_mm}mm",
        dataset_options={"spacing_mm": spacing_mm},
        faithful=False,
        notes=f"{experiment.notes} On {spacing_mm} mm volumes ({sides}): our choice, for modest "
        "hardware.",
    )


def shortened(
    experiment: Experiment,
    epochs: int = 10,
    precision: Precision = "bfloat16",
) -> Experiment:
    """A training of some hundred steps, to watch a network learn; far from its final quality."""
    autocast = ", bfloat16 autocast" if precision == "bfloat16" else ""
    return replace(
        experiment,
        name=f"{experiment.name}.short",
        optimiser=Optimiser(learning_rate=4e-4),
        epochs=epochs,
        precision=precision,
        faithful=False,
        notes=f"{experiment.notes} {epochs} epochs, learning rate 4e-4, plain Adam{autocast}: our "
        "choice, for a CPU.",
    )
