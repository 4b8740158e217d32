"""Every row of every reproduced table, as a value: experiments are code, not configuration files.

`notes` says where each setting comes from: the paper's section, the released script, or our choice.

    experiment = EXPERIMENTS["lganetpp.table2.voxelmorph2.2mm"]
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Literal

from regnet_lib.losses import Objective


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
class Optimiser:
    """Adam and its schedule."""

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decay: LinearDecay | None = None


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
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    faithful: bool = True
    notes: str = ""

    def as_dict(self) -> dict[str, object]:
        """Plain values, for `run.json`."""
        return asdict(replace(self, model_options=dict(self.model_options)))


# LGANet++ section 3.1.2: Adam, 1e-4, (0.99, 0.999); linear decay to 1e-6 from epoch 200 to 300.
PAPER_OPTIMISER = Optimiser(1e-4, (0.99, 0.999), decay=LinearDecay(200, 300, 0.01))
# The released train_LPBA40.py decays from epoch 50 and adds an L2 term the paper does not mention.
RELEASED_OPTIMISER = Optimiser(
    1e-4, (0.99, 0.999), weight_decay=5e-4, decay=LinearDecay(50, 310, 0.0)
)
TRAINED_AS_ONE = "LGANet++ 3.1.4: all methods trained under the same conditions (3.1.2)."

_TABLE2 = (
    Experiment(
        "lganetpp.table2.identity",
        row="Initial",
        model="identity",
        dataset="lpba40",
        notes="Not in the paper's table: the error before registration on its crop.",
    ),
    Experiment(
        "lganetpp.table2.syn",
        row="SyN",
        model="syn",
        dataset="lpba40",
        dataset_options={"cropped": False},
        notes="Released ANTs_Reg.py: antspy 'SyN', all defaults, whole volumes, evaluated "
        "on the crop; ours fixes the seed of the affine stage, runs on one thread, and "
        "samples the composed displacement.",
    ),
    Experiment(
        "lganetpp.table2.gradient_descent",
        row="Gradient descent",
        model="gradient_descent",
        dataset="lpba40",
        notes="Not in the paper's table: the objective of equation (12), minimised pair by pair "
        "without a network; three levels, 80, 60 and 30 iterations (our choice).",
    ),
    Experiment(
        "lganetpp.table2.voxelmorph2",
        row="VoxelMorph",
        model="voxelmorph2",
        dataset="lpba40",
        optimiser=PAPER_OPTIMISER,
        epochs=300,
        notes=TRAINED_AS_ONE,
    ),
    Experiment(
        "lganetpp.table2.lganet",
        row="LGANet (Ours)",
        model="lganet",
        dataset="lpba40",
        objective=Objective(zoomed=True),
        optimiser=RELEASED_OPTIMISER,
        epochs=300,
        notes="The released network of the conference version, trained as the released "
        "train_LPBA40.py trains LGANet++.",
    ),
    Experiment(
        "lganetpp.table2.lganetpp.official",
        row="LGANet++ (Ours)",
        model="lganetpp",
        model_options={"variant": "official"},
        dataset="lpba40",
        objective=Objective(zoomed=True),
        optimiser=RELEASED_OPTIMISER,
        epochs=300,
        notes="The released network and train_LPBA40.py, half-voxel zoom in loss and "
        "evaluation included.",
    ),
    Experiment(
        "lganetpp.table2.lganetpp.paper",
        row="LGANet++ (Ours)",
        model="lganetpp",
        model_options={"variant": "paper"},
        dataset="lpba40",
        optimiser=PAPER_OPTIMISER,
        epochs=300,
        notes="LGANet++ sections 2 and 3.1.2 as written; no weight decay, no half-voxel zoom.",
    ),
)


def _at(spacing_mm: int, experiment: Experiment) -> Experiment:
    """The same experiment on coarser volumes: at 2 mm an eighth of the voxels, at 4 mm a 64th."""
    shape = "x".join(str(side // spacing_mm) for side in (144, 176, 144))
    return replace(
        experiment,
        name=f"{experiment.name}.{spacing_mm}mm",
        dataset_options={"spacing_mm": spacing_mm},
        faithful=False,
        notes=f"{experiment.notes} On {spacing_mm} mm volumes ({shape}): our choice, for modest "
        "hardware.",
    )


_at_2mm, _at_4mm = partial(_at, 2), partial(_at, 4)


def _short(experiment: Experiment, epochs: int = 10) -> Experiment:
    """A training of some hundred steps, to watch a network learn; far from its final quality."""
    return replace(
        experiment,
        name=f"{experiment.name}.short",
        optimiser=Optimiser(learning_rate=4e-4),
        epochs=epochs,
        precision="bfloat16",
        faithful=False,
        notes=f"{experiment.notes} {epochs} epochs, learning rate 4e-4, plain Adam, bfloat16 "
        "autocast: our choice, for a CPU.",
    )


_IDENTITY, _SYN, _DESCENT, _VOXELMORPH, _LGANET, _OFFICIAL, _PAPER = _TABLE2
_TABLE2_2MM = tuple(map(_at_2mm, (_IDENTITY, _DESCENT, _VOXELMORPH, _OFFICIAL, _PAPER)))
_TABLE2_SHORT = (
    replace(
        _at_2mm(_VOXELMORPH),
        name="lganetpp.table2.voxelmorph2.2mm.short",
        optimiser=Optimiser(learning_rate=4e-4),
        epochs=40,
        notes="2 mm, 40 epochs, learning rate 4e-4, plain Adam: our choice, an hour on two "
        "CPU cores.",
    ),
    *map(_short, map(_at_2mm, (_OFFICIAL, _PAPER))),
)

# Table 1: the modules come one after the other; Model 4 is the network of Table 2.
_SWITCHES = {
    "Model 1": {"lgam": False, "fifm": False, "msfm": False},
    "Model 2": {"lgam": True, "fifm": False, "msfm": False},
    "Model 3": {"lgam": True, "fifm": True, "msfm": False},
}
_TABLE1 = (
    *(
        replace(
            _PAPER,
            name=f"lganetpp.table1.{row.lower().replace(' ', '')}",
            row=row,
            model_options={"variant": "paper", **switches},
            notes="Reconstructed from the module names of Table 1 and its parameter counts.",
        )
        for row, switches in _SWITCHES.items()
    ),
    replace(_PAPER, row="Model 4"),
)

TABLES: dict[str, tuple[Experiment, ...]] = {
    "lganetpp.table1": (
        *_TABLE1,
        *map(_at_2mm, _TABLE1),
        _at_4mm(_IDENTITY),
        *map(_short, map(_at_4mm, _TABLE1)),
    ),
    "lganetpp.table2": (*_TABLE2, *_TABLE2_2MM, *_TABLE2_SHORT),
    "teaching": (
        Experiment(
            "teaching.phantom.voxelmorph2",
            row="VoxelMorph on phantoms",
            model="voxelmorph2",
            dataset="phantom",
            dataset_options={"shape": (32, 32, 32), "train": 8, "test": 2},
            objective=Objective(window_voxels=5),
            optimiser=Optimiser(learning_rate=1e-3),
            epochs=5,
            notes="A training of seconds, for lessons and tests.",
        ),
    ),
}

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment for table in TABLES.values() for experiment in table
}


def find_experiment(name: str) -> Experiment:
    """An experiment by name; an unknown name lists the near ones."""
    from difflib import get_close_matches

    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    near = get_close_matches(name, EXPERIMENTS, n=3, cutoff=0.3) or sorted(EXPERIMENTS)[:3]
    raise ValueError(f"expected the name of an experiment, got {name!r}. Near: {', '.join(near)}.")
