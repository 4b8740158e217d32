"""The tables of LGANet++ (Huang et al.): 1 and 2 on LPBA40, 3 on IXI, 4 on OASIS, 5 on Abdomen
CT-MR, 6 on Lung CT.

TABLES["lganetpp.table2"][0]   # the identity: what every method starts from
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from regnet_lib.experiments.experiment import (
    Experiment,
    LinearDecay,
    Optimiser,
    at_spacing,
    shortened,
)
from regnet_lib.losses import Objective

# Section 3.1.2: Adam, 1e-4, (0.99, 0.999); linear decay to 1e-6 from epoch 200 to 300.
PAPER_OPTIMISER = Optimiser(1e-4, (0.99, 0.999), decay=LinearDecay(200, 300, 0.01))
# The released train_LPBA40.py decays from epoch 50 and adds an L2 term the paper does not mention.
RELEASED_OPTIMISER = Optimiser(
    1e-4, (0.99, 0.999), weight_decay=5e-4, decay=LinearDecay(50, 310, 0.0)
)
EPOCHS = 300


@dataclass(frozen=True)
class Method:
    """A learned row that comes back in Tables 2 to 6, with everything but the data."""

    name: str
    row: str
    model: str
    model_options: Mapping[str, object] = field(default_factory=dict)
    objective: Objective = Objective()
    optimiser: Optimiser = PAPER_OPTIMISER
    sized: bool = False  # the model wants to know the shape of its training images
    notes: str = "LGANet++ 3.1.4: all methods trained under the same conditions (3.1.2)."


_COMPARED = {"preset": "lganet"}  # the configuration in the repository of LGANet++
VOXELMORPH = Method("voxelmorph2", "VoxelMorph", "voxelmorph2")
PIVIT = Method("pivit", "PIViT", "pivit")
MODET = Method("modet", "ModeT", "modet", _COMPARED)
GROUPMORPH = Method(
    "groupmorph", "GroupMorph", "groupmorph", {**_COMPARED, "compat": True}, sized=True
)
BASELINES = (
    VOXELMORPH,
    PIVIT,
    Method("prnetpp", "PRNet++", "prnetpp", {**_COMPARED, "compat": True}),
    Method("pcnet", "PCNet", "pcnet", _COMPARED),
    MODET,
    Method("corrmlp", "CorrMLP", "corrmlp"),
    GROUPMORPH,
    Method("rdp", "RDP", "rdp"),
)
LGANET = Method(
    "lganet",
    "LGANet (Ours)",
    "lganet",
    objective=Objective(zoomed=True),
    optimiser=RELEASED_OPTIMISER,
    notes="The released network of the conference version, trained as the released "
    "train_LPBA40.py trains LGANet++.",
)
OFFICIAL = Method(
    "lganetpp.official",
    "LGANet++ (Ours)",
    "lganetpp",
    {"variant": "official"},
    objective=Objective(zoomed=True),
    optimiser=RELEASED_OPTIMISER,
    notes="The released network and train_LPBA40.py, half-voxel zoom in loss and evaluation "
    "included.",
)
PAPER = Method(
    "lganetpp.paper",
    "LGANet++ (Ours)",
    "lganetpp",
    {"variant": "paper"},
    notes="LGANet++ sections 2 and 3.1.2 as written; no weight decay, no half-voxel zoom.",
)
METHODS = (*BASELINES, LGANET, OFFICIAL, PAPER)
# In the axis order of the files; the paper prints some of them backwards, as SimpleITK does.
SHAPES = {
    "lpba40": (144, 176, 144),
    "ixi": (80, 112, 96),
    "oasis": (80, 112, 96),
    "abdomen_ctmr": (192, 160, 144),
    "lung_ct": (192, 192, 96),
}


def _experiment(
    table: str,
    dataset: str,
    method: Method,
    dataset_options: Mapping[str, object] | None = None,
    batch_size: int = 1,
    notes: str = "",
) -> Experiment:
    return Experiment(
        f"lganetpp.{table}.{method.name}",
        row=method.row,
        model=method.model,
        model_options={
            **method.model_options,
            **({"shape": SHAPES[dataset]} if method.sized else {}),
        },
        dataset=dataset,
        dataset_options=dataset_options or {},
        objective=method.objective,
        optimiser=method.optimiser,
        epochs=EPOCHS,
        batch_size=batch_size,
        notes=f"{method.notes} {notes}".strip(),
    )


def _untrained(table: str, dataset: str, model: str, row: str, notes: str) -> Experiment:
    return Experiment(f"lganetpp.{table}.{model}", row, model, dataset, notes=notes)


_NOT_IN_TABLE = "Not in the paper's table: the error before registration."
_IDENTITY = _untrained(
    "table2", "lpba40", "identity", "Initial", f"{_NOT_IN_TABLE[:-1]} on its crop."
)
_SYN = replace(
    _untrained(
        "table2",
        "lpba40",
        "syn",
        "SyN",
        "Released ANTs_Reg.py: antspy 'SyN', all defaults, whole volumes, evaluated on the crop; "
        "ours fixes the seed of the affine stage, runs on one thread, and samples the composed "
        "displacement.",
    ),
    dataset_options={"cropped": False},
)
_DESCENT = _untrained(
    "table2",
    "lpba40",
    "gradient_descent",
    "Gradient descent",
    "Not in the paper's table: the objective of equation (12), minimised pair by pair without a "
    "network; three levels, 80, 60 and 30 iterations (our choice).",
)
_NOT_COMPARED = "Not in the paper's table: no training, no network; ours, with the settings"
_DEEDS = _untrained(
    "table2",
    "lpba40",
    "deeds",
    "deeds",
    f"{_NOT_COMPARED} that TransMorph and AD-RegNet compared with.",
)
_CONVEXADAM = _untrained(
    "table2", "lpba40", "convexadam", "ConvexAdam", f"{_NOT_COMPARED} of the official package."
)
_on_lpba40 = partial(_experiment, "table2", "lpba40")


def _at(spacing_mm: int, experiment: Experiment) -> Experiment:
    return at_spacing(experiment, spacing_mm, SHAPES["lpba40"])


def _short(spacing_mm: int, method: Method, **changes: object) -> Experiment:
    """A method at the budget that all methods share at this resolution: 10 epochs, 300 steps."""
    return replace(shortened(_at(spacing_mm, _on_lpba40(method))), **changes)


# It was there first and has the name; VoxelMorph with the common budget is called .10epochs.
_VOXELMORPH_LONGER = shortened(_at(2, _on_lpba40(VOXELMORPH)), epochs=40, precision="float32")
# One training of 20 epochs, tested after each of them by `tools.score_epochs`: what would the
# choice of an epoch on the test subjects gain?
SELECTION = replace(
    shortened(_at(4, _on_lpba40(PIVIT)), epochs=20),
    name="lganetpp.table2.pivit.4mm.20epochs",
)

TABLE2 = (
    _IDENTITY,
    _SYN,
    _DESCENT,
    _DEEDS,
    _CONVEXADAM,
    *map(_on_lpba40, METHODS),
    *(
        _at(2, experiment)
        for experiment in (_IDENTITY, _DESCENT, _DEEDS, _CONVEXADAM, *map(_on_lpba40, METHODS))
    ),
    _VOXELMORPH_LONGER,
    _short(2, VOXELMORPH, name="lganetpp.table2.voxelmorph2.2mm.10epochs"),
    *(_short(2, method) for method in (PIVIT, MODET, GROUPMORPH, OFFICIAL, PAPER)),
    _at(4, _IDENTITY),
    _at(4, _DESCENT),
    # Without LGANet, whose smallest image has 96 voxels along each axis.
    *(_short(4, method) for method in (*BASELINES, OFFICIAL, PAPER)),
    SELECTION,
)

# Two of the short trainings with other initial weights and another order of the pairs: how much of
# a difference between two networks is the seed?
SEEDS = tuple(
    _short(4, method, name=f"lganetpp.table2.{method.name}.4mm.short.seed{seed}", seed=seed)
    for method in (PIVIT, GROUPMORPH)
    for seed in (1, 2)
)

# Table 1: the modules come one after the other; Model 4 is the network of Table 2.
_SWITCHES = {
    "Model 1": {"lgam": False, "fifm": False, "msfm": False},
    "Model 2": {"lgam": True, "fifm": False, "msfm": False},
    "Model 3": {"lgam": True, "fifm": True, "msfm": False},
}
_MODELS = (
    *(
        replace(
            _on_lpba40(PAPER),
            name=f"lganetpp.table1.{row.lower().replace(' ', '')}",
            row=row,
            model_options={"variant": "paper", **switches},
            notes="Reconstructed from the module names of Table 1 and its parameter counts.",
        )
        for row, switches in _SWITCHES.items()
    ),
    replace(_on_lpba40(PAPER), row="Model 4"),
)
TABLE1 = (
    *_MODELS,
    *(_at(2, model) for model in _MODELS),
    _at(4, _IDENTITY),
    *(shortened(_at(4, model)) for model in _MODELS),
)

_IXI_NOTES = "IXI at 2 mm (96x112x80), batches of 4 (3.1.2)."
_on_ixi = partial(_experiment, "table3", "ixi", batch_size=4, notes=_IXI_NOTES)
_SYN_IXI = "ANTs SyN with the settings of Table 2, on the 2 mm grid."
TABLE3 = (
    _untrained("table3", "ixi", "identity", "Initial", _NOT_IN_TABLE),
    _untrained("table3", "ixi", "syn", "SyN", _SYN_IXI),
    *map(_on_ixi, METHODS),
    # The same method on the brains of one hospital, which anyone can have: labels by another tool.
    *(
        replace(
            experiment,
            name=experiment.name.replace("table3.", "table3.hh."),
            dataset="ixi_hh_2mm",
            faithful=False,
            notes=f"{experiment.notes} 125 subjects of one hospital with other labels: our "
            "choice, because these can be had freely.",
        )
        for experiment in (
            _untrained("table3", "ixi", "identity", "Initial", _NOT_IN_TABLE),
            _untrained("table3", "ixi", "syn", "SyN", _SYN_IXI),
            *map(_on_ixi, METHODS),
        )
    ),
)

TABLE4 = (
    _untrained("table4", "oasis", "identity", "Initial", _NOT_IN_TABLE),
    *(
        replace(
            _experiment("table4", "oasis", method, notes="Trained on IXI, tested on OASIS."),
            epochs=0,
            weights_of=f"lganetpp.table3.{method.name}",
        )
        for method in METHODS
    ),
)

_CT_MR_NOTES = (
    "z-crop 24:168, CT clipped to +-800 HU, both scaled to [0, 1]; the squared local correlation "
    "for both modalities, as the paper names no other loss."
)
TABLE5 = (
    _untrained("table5", "abdomen_ctmr", "identity", "Initial", "The error before registration."),
    *(_experiment("table5", "abdomen_ctmr", method, notes=_CT_MR_NOTES) for method in METHODS),
)

_LUNG_NOTES = "z-crop 44:140, scaled to [0, 1] per scan."
TABLE6 = (
    _untrained("table6", "lung_ct", "identity", "Initial", _NOT_IN_TABLE),
    *(_experiment("table6", "lung_ct", method, notes=_LUNG_NOTES) for method in METHODS),
)

TABLES: dict[str, tuple[Experiment, ...]] = {
    f"lganetpp.table{number}": table
    for number, table in enumerate((TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, TABLE6), start=1)
} | {"lganetpp.seeds": SEEDS}
