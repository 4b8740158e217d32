"""Every learned model of the zoo, trained for 50 steps on small real pairs: does it learn at all?

Ten pairs of hippocampus crops (48x64x48 voxels of 1 mm), each seen five times. One epoch is ten
steps, so the means of the first and of the last ten losses are means over the same ten pairs, and
their difference is what was learned. The test pairs are subjects that no training sees.

Fifty steps say nothing about which method is best: some start from almost no motion and some from
a random field, and the published trainings have ten thousand steps and more.

    regnet sweep zoo.msd_hippocampus                # or python -m tools.train_zoo, fields included
"""

from collections.abc import Mapping
from dataclasses import replace

from regnet_lib.experiments.experiment import Experiment, Optimiser

TRAINING_PAIRS = 10
EPOCHS = 5
STEPS = TRAINING_PAIRS * EPOCHS

# Where the published width takes more than about two minutes for 50 steps on one core: a narrower
# network, or the narrower one of two published ones.
NARROW: Mapping[str, Mapping[str, object]] = {
    "nnformer": {"channels": 48},
    "transmorph": {"preset": "small"},
    "pcnet": {"preset": "lganet", "channels": 4},
    "corrmlp": {"encoder": 4, "decoder": 8},
    "rdp": {"channels": 6},
    "eoir": {"channels": 12},
    "ad_regnet": {"channels": (8, 16, 32, 64, 128)},
    "lganet": {"channels": (4, 8, 16, 32, 64)},
}
# Where that does not help enough: LGANet wants at least 96 voxels along each axis.
BFLOAT16 = ("lganet", "lganetpp")
LEARNED = (
    "voxelmorph1",
    "voxelmorph2",
    "cyclemorph",
    "vitvnet",
    "nnformer",
    "transmorph_tiny",
    "transmorph",
    "llnet_tiny",
    "llnet_small",
    "llnet_large",
    "llnet_diff_small",
    "dlir",
    "eppenhof",
    "fang_fcn",
    "mlvirnet",
    "mjcnn",
    "pivit",
    "prnetpp",
    "pcnet",
    "modet",
    "corrmlp",
    "groupmorph",
    "rdp",
    "eoir",
    "ad_regnet",
    "lganet",
    "lganetpp",
)
_NOTES = (
    "Our choice, to see every network learn: 50 steps, ten training pairs, Adam at a constant rate."
)


def _on_hippocampus(model: str) -> Experiment:
    narrow = NARROW.get(model, {})
    width = " Narrower than published, for a CPU." if narrow else ""
    autocast = " bfloat16 autocast." if model in BFLOAT16 else ""
    return Experiment(
        f"zoo.msd_hippocampus.{model}.50steps",
        row=model,
        model=model,
        model_options=narrow,
        dataset="msd_hippocampus",
        dataset_options={"train": TRAINING_PAIRS},
        optimiser=Optimiser(2e-4),
        epochs=EPOCHS,
        precision="bfloat16" if model in BFLOAT16 else "float32",
        faithful=False,
        notes=_NOTES + width + autocast,
    )


_BEFORE = replace(
    _on_hippocampus("identity"),
    name="zoo.msd_hippocampus.identity",
    epochs=0,
    notes="The overlap before registration.",
)

TABLES: dict[str, tuple[Experiment, ...]] = {
    "zoo.msd_hippocampus": (_BEFORE, *map(_on_hippocampus, LEARNED)),
}
