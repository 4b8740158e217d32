"""Every row of every reproduced table, as a value: experiments are code, not configuration files.

`notes` says where each setting comes from: the paper's section, the released script, or our choice.

    experiment = EXPERIMENTS["lganetpp.table2.voxelmorph2.2mm"]
"""

from difflib import get_close_matches

from regnet_lib.experiments import ad_regnet, brains, lganetpp, lungs, teaching, zoo
from regnet_lib.experiments.experiment import (
    Experiment,
    LevellingDecay,
    LinearDecay,
    Optimiser,
    PolynomialDecay,
    StepDecay,
)

TABLES: dict[str, tuple[Experiment, ...]] = {}
for _part in (ad_regnet, lganetpp, brains, lungs, teaching, zoo):
    for _name, _rows in _part.TABLES.items():
        TABLES[_name] = TABLES.get(_name, ()) + _rows

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment for table in TABLES.values() for experiment in table
}


def find_experiment(name: str) -> Experiment:
    """An experiment by name; an unknown name lists the near ones."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    near = get_close_matches(name, EXPERIMENTS, n=3, cutoff=0.3) or sorted(EXPERIMENTS)[:3]
    raise ValueError(f"expected the name of an experiment, got {name!r}. Near: {', '.join(near)}.")


__all__ = [
    "EXPERIMENTS",
    "TABLES",
    "Experiment",
    "LevellingDecay",
    "LinearDecay",
    "Optimiser",
    "PolynomialDecay",
    "StepDecay",
    "find_experiment",
]
