"""The tables of AD-RegNet (Iqbal et al.): III and IV on IXI, in the release of TransMorph.

TABLES["ad_regnet.table3"][0]   # the identity: what every method starts from
"""

from collections.abc import Mapping

from regnet_lib.experiments.experiment import Experiment, Optimiser, PolynomialDecay, StepDecay
from regnet_lib.losses import ADRegNetObjective, Objective

# Section IV.C: Adam, 1e-4, halved every 20 epochs, 200 epochs, one pair at a time.
OPTIMISER = Optimiser(1e-4, decay=StepDecay(20))
EPOCHS = 200
# The recipe of the TransMorph repository, with which the quoted rows were made.
TRANSMORPH_OPTIMISER = Optimiser(1e-4, decay=PolynomialDecay(500), amsgrad=True)
TRANSMORPH_EPOCHS = 500
_RECIPE = (
    "TransMorph's IXI recipe: local correlation and smoothness 1 : 1, 500 epochs; ours without its "
    "random flips, and with the last epoch in place of the best one."
)


def _on_ixi(
    name: str,
    row: str,
    model: str,
    options: Mapping[str, object] | None = None,
    *,
    objective: Objective | None = None,
    optimiser: Optimiser = TRANSMORPH_OPTIMISER,
    epochs: int = TRANSMORPH_EPOCHS,
    notes: str = _RECIPE,
) -> Experiment:
    return Experiment(
        f"ad_regnet.table3.{name}",
        row=row,
        model=model,
        model_options=options or {},
        dataset="ixi_transmorph",
        objective=objective or Objective(),
        optimiser=optimiser,
        epochs=epochs,
        notes=notes,
    )


_UNTRAINED = {"epochs": 0}
_OURS = _on_ixi(
    "ad_regnet",
    "AD-RegNet (Ours)",
    "ad_regnet",
    {"mode": "paper", "region_voxels": 24},
    objective=ADRegNetObjective(),
    optimiser=OPTIMISER,
    epochs=EPOCHS,
    notes="Sections III and IV.C. The weights inside the loss are ours, as the paper states none; "
    "no early stopping, as no rule for its validation set is given: the last epoch counts.",
)
TABLE3 = (
    _on_ixi(
        "identity",
        "Initial",
        "identity",
        **_UNTRAINED,
        notes="Not in the paper's table: the error before registration.",
    ),
    _on_ixi("syn", "SyN", "syn", **_UNTRAINED, notes="ANTs SyN with its defaults."),
    _on_ixi("deeds", "deedsBCV", "deeds", **_UNTRAINED, notes="Our port, its defaults."),
    _on_ixi("voxelmorph1", "VoxelMorph-1", "voxelmorph1"),
    _on_ixi("voxelmorph2", "VoxelMorph-2", "voxelmorph2"),
    _on_ixi(
        "cyclemorph",
        "CycleMorph",
        "cyclemorph",
        optimiser=Optimiser(2e-4, betas=(0.5, 0.999)),
        notes="TransMorph's IXI script of CycleMorph: Adam, 2e-4, (0.5, 0.999), no decay, 500 "
        "epochs; the last one counts.",
    ),
    _on_ixi("vitvnet", "ViT-V-Net", "vitvnet"),
    _on_ixi("nnformer", "nnFormer", "nnformer"),
    _on_ixi("transmorph", "TransMorph", "transmorph"),
    _on_ixi("llnet_tiny", "LL-Net-Tiny", "llnet_tiny"),
    _on_ixi("llnet_small", "LL-Net-Small", "llnet_small"),
    _on_ixi("llnet_diff_small", "LL-Net-diff-Small", "llnet_diff_small"),
    _on_ixi("llnet_large", "LL-Net-Large", "llnet_large"),
    _OURS,
)

TABLES: dict[str, tuple[Experiment, ...]] = {
    "ad_regnet.table3": TABLE3,
    "ad_regnet.table4": (_OURS,),
}
