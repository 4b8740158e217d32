"""Lungs that anyone can have: the compared methods on semi-real pairs, a real pair, and the leak.

The learned methods share pairs, loss and number of steps with the full AD-RegNet of Table V
(`ad_regnet.table5.full.semireal.12mm`): what differs is the network, and the learning rate. Theirs
is a quarter of its 2e-3, at which Eppenhof's network and VoxelMorph diverge; De Vos', Fang's and
PIViT also end at a lower training loss with it. They stand in two tables of the papers, as other
data than the papers':

- AD-RegNet, Table I: the five lung families;
- LGANet++, Table 6: VoxelMorph, PIViT, RDP and LGANet++.

The real pair is that of elastix, on a grid like that of the semi-real pairs: weights trained on
these, then with instance optimisation on top. Its follow-up scan is an anatomy of the training
pairs, with other motions; its own motion and its landmarks are in none.

The leak repeats the protocol of DIR-Lab on phantoms in its files: five folds without the landmarks
that are evaluated, and one training with them.

    EXPERIMENTS["ad_regnet.leak.ad_regnet.leaky"]
"""

from collections.abc import Mapping
from dataclasses import replace

from regnet_lib.data.dirlab import FOLDS
from regnet_lib.experiments import ad_regnet
from regnet_lib.experiments.ad_regnet import NARROW, on_semireal
from regnet_lib.experiments.experiment import Experiment, Optimiser, PolynomialDecay
from regnet_lib.losses import ADRegNetObjective, Objective

_TRAINED, _FULL = (
    next(one for one in table if one.dataset == "lung_semireal" and one.epochs)
    for table in (ad_regnet.TABLE1, ad_regnet.TABLE5)
)
FINE_MM, COARSE_MM = (int(one.dataset_options["spacing_mm"]) for one in (_TRAINED, _FULL))


LEARNING_RATE = 5e-4


def _learned(
    name: str, row: str, model: str, options: Mapping[str, object] | None = None, notes: str = ""
) -> Experiment:
    """A network in place of AD-RegNet's."""
    return replace(
        _FULL,
        name=f"{name}.semireal.{COARSE_MM}mm",
        row=row,
        model=model,
        model_options=options or {},
        optimiser=replace(_FULL.optimiser, learning_rate=LEARNING_RATE),
        notes="Semi-real lungs: real breathing motion on other anatomies, so the truth is known. "
        "Pairs, loss (landmarks of training pairs included), steps and precision are those of "
        f"{_FULL.name}; the learning rate falls from {LEARNING_RATE:g} to 0. {notes}".strip(),
    )


def _untrained(spacing_mm: int) -> tuple[Experiment, ...]:
    return tuple(
        on_semireal(f"table1.{model}", row, model, notes, options, spacing_mm=spacing_mm)
        for model, row, notes, options in (
            ("convexadam", "ConvexAdam", "MIND-SSC, the preset for lungs.", {"preset": "lung"}),
            ("syn", "SyN", "ANTs SyN with its defaults.", {}),
            ("deeds", "deeds", "Our port, with cells of 6 to 2 voxels.", {}),
        )
    )


_OTHERS = (
    *_untrained(FINE_MM),
    *_untrained(COARSE_MM),
    on_semireal(
        "table1.gradient_descent",
        "Gradient descent",
        "gradient_descent",
        "Local correlation and smoothness minimised pair by pair, no network.",
        spacing_mm=COARSE_MM,
    ),
)
_FAMILIES = (
    _learned("ad_regnet.table1.dlir", "De Vos", "dlir"),
    _learned(
        "ad_regnet.table1.eppenhof",
        "Eppenhof",
        "eppenhof",
        notes="Its loss is its own: the random displacement that deformed a training scan.",
    ),
    _learned("ad_regnet.table1.fang_fcn", "Fang", "fang_fcn"),
    _learned("ad_regnet.table1.mlvirnet", "Hering", "mlvirnet"),
    _learned("ad_regnet.table1.mjcnn", "Jiang", "mjcnn"),
)
_LGANETPP = (
    _learned("lganetpp.table6.voxelmorph2", "VoxelMorph", "voxelmorph2"),
    _learned("lganetpp.table6.pivit", "PIViT", "pivit"),
    _learned("lganetpp.table6.rdp", "RDP", "rdp"),
    _learned("lganetpp.table6.lganetpp.paper", "LGANet++ (Ours)", "lganetpp", {"variant": "paper"}),
)

_PAIR_NOTES = (
    "One real pair with 51 landmarks, of which one is known to be 13 mm off, on a grid like that "
    "of the semi-real pairs."
)
REFINE_STEPS = 50


def _on_the_pair(
    model: str,
    row: str,
    spacing_mm: int,
    notes: str,
    trained: Experiment | None = None,
    table: str = "ad_regnet.table1",
) -> tuple[Experiment, ...]:
    """The real pair; a trained network without and with instance optimisation."""
    plain = Experiment(
        f"{table}.{model}.elastix.{spacing_mm}mm",
        row=row,
        model=model,
        model_options=trained.model_options if trained else {},
        dataset="elastix_lung_ct",
        dataset_options={"spacing_mm": spacing_mm},
        weights_of=trained.name if trained else "",
        faithful=False,
        notes=f"{_PAIR_NOTES} {notes}",
    )
    if trained is None:
        return (plain,)
    refined = replace(
        plain,
        name=f"{plain.name}.refined",
        objective=Objective(),
        refine_steps=REFINE_STEPS,
        notes=f"{plain.notes} Then {REFINE_STEPS} steps of instance optimisation: local "
        "correlation and smoothness 1 : 1.",
    )
    return plain, refined


_PAIR = tuple(
    experiment
    for spacing_mm, networks in (
        (FINE_MM, (_TRAINED,)),
        (COARSE_MM, (_FULL, *_FAMILIES)),
    )
    for experiment in (
        *_on_the_pair("identity", "Before", spacing_mm, "After elastix's affine registration."),
        *_on_the_pair(
            "gradient_descent",
            "Gradient descent",
            spacing_mm,
            "Local correlation and smoothness minimised for the pair, coarse to fine.",
        ),
        *(
            experiment
            for one in networks
            for experiment in _on_the_pair(
                one.model,
                "AD-RegNet (Ours)" if one is _FULL else one.row,
                spacing_mm,
                f"Weights of {one.name}.",
                one,
            )
        ),
    )
)
_PAIR_OF_LGANETPP = tuple(
    experiment
    for one in _LGANETPP
    for experiment in _on_the_pair(
        one.model, one.row, COARSE_MM, f"Weights of {one.name}.", one, "lganetpp.table6"
    )
)

# As many steps with the leak as without: 10 times 7 cases, 7 times 10.
_LEAK_STEPS = 70
_LEAK_NOTES = (
    "Ten phantoms in the files of DIR-Lab, 2 mm. A narrow AD-RegNet (8 to 128 channels) in "
    "recommended mode, the loss of sections III.C and IV.C with the landmarks of the training "
    f"cases, {_LEAK_STEPS} steps, learning rate from 1e-3 to 0, bfloat16 autocast."
)


def _on_phantoms(name: str, cases: int, notes: str, **dataset_options: object) -> Experiment:
    epochs = _LEAK_STEPS // cases
    return Experiment(
        f"ad_regnet.leak.ad_regnet.{name}",
        row="AD-RegNet (Ours)",
        model="ad_regnet",
        model_options=NARROW,
        dataset="dirlab_phantom",
        dataset_options=dataset_options,
        objective=ADRegNetObjective(),
        optimiser=Optimiser(1e-3, decay=PolynomialDecay(epochs)),
        epochs=epochs,
        precision="bfloat16",
        faithful=False,
        notes=f"{_LEAK_NOTES} {notes}",
    )


_LEAK = (
    Experiment(
        "ad_regnet.leak.identity",
        row="Before",
        model="identity",
        dataset="dirlab_phantom",
        faithful=False,
        notes="The error before registration, ten phantoms in the files of DIR-Lab, 2 mm.",
    ),
    *(
        _on_phantoms(
            f"fold{fold}",
            7,
            f"Trained on seven cases, tested on two others: fold {fold}.",
            fold=fold,
        )
        for fold in range(1, FOLDS + 1)
    ),
    _on_phantoms(
        "leaky",
        10,
        "LEAKY on purpose: trained on the ten cases that are tested, with the landmarks that are "
        "evaluated in the loss.",
        leaky=True,
    ),
)

TABLES: dict[str, tuple[Experiment, ...]] = {
    "ad_regnet.table1": (*_OTHERS, *_FAMILIES, *_PAIR),
    "ad_regnet.table2": (_TRAINED,),
    "ad_regnet.leak": _LEAK,
    "lganetpp.table6": (
        *(one for one in ad_regnet.TABLE1 if one.dataset == "lung_semireal"),
        *_OTHERS,
        *_LGANETPP,
        *_PAIR_OF_LGANETPP,
    ),
}
