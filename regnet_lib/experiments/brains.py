"""Brains across data sets and modalities, as far as data reach that anyone can have.

* Table 3 of LGANet++ and Table III of AD-RegNet on 125 brains of one hospital of IXI, at 2 and at
  4 mm, with an equal, small budget for every network;
* Table 4: the same weights, untouched, on two brains of OASIS and on LPBA40;
* Table 5: two contrasts, on the brains with moving images in a T2-like contrast and on 27 prostate
  MR and ultrasound pairs, with three losses.

A row on other data than the paper's is never compared with the paper's numbers.

    regnet sweep lganetpp.table4
"""

from collections.abc import Mapping
from dataclasses import replace

from regnet_lib.experiments.ad_regnet import NARROW
from regnet_lib.experiments.experiment import Experiment, Optimiser, PolynomialDecay, shortened
from regnet_lib.experiments.lganetpp import (
    BASELINES,
    GROUPMORPH,
    MODET,
    PAPER,
    PIVIT,
    TABLE2,
    VOXELMORPH,
    Method,
)
from regnet_lib.losses import Objective

RDP = next(method for method in BASELINES if method.name == "rdp")
AD_REGNET = Method("ad_regnet", "AD-RegNet", "ad_regnet", NARROW)
LPBA40_AT_4MM = {row.name: row for row in TABLE2 if row.dataset_options.get("spacing_mm") == 4}
# The networks that are trained on IXI and tested on three sets, cheapest first.
TRAINED = (PIVIT, VOXELMORPH, GROUPMORPH, MODET, RDP, PAPER, AD_REGNET)

IXI_SHAPE = (80, 112, 96)  # at 2 mm
EPOCHS = 4  # of 70 subjects: 280 steps
_BATCH = "Batches of 1 where the paper has 4: our choice, four times as many steps per hour."
_HAMMERSMITH = (
    "125 subjects of one hospital of IXI with other labels: our choice, freely available."
)
_NARROW_NOTE = "A narrow network (8 to 128 channels) in recommended mode."


def _experiment(
    name: str,
    row: str,
    model: str,
    dataset: str,
    dataset_options: Mapping[str, object],
    notes: str,
    model_options: Mapping[str, object] | None = None,
) -> Experiment:
    """A row without training."""
    return Experiment(
        name,
        row=row,
        model=model,
        dataset=dataset,
        dataset_options=dataset_options,
        model_options=model_options or {},
        faithful=False,
        notes=notes,
    )


def _untrained(
    prefix: str, suffix: str, dataset: str, dataset_options: Mapping[str, object], notes: str
) -> tuple[Experiment, ...]:
    """Identity, SyN and ConvexAdam on one set."""
    rows = {
        "identity": ("Initial", "The error before registration."),
        "syn": ("SyN", "antspy 'SyN', all defaults: affine, then deformable, mutual information."),
        "convexadam": ("ConvexAdam", "MIND-SSC features, the package's default settings."),
    }
    return tuple(
        _experiment(
            f"{prefix}.{model}{suffix}", row, model, dataset, dataset_options, f"{text} {notes}"
        )
        for model, (row, text) in rows.items()
    )


def _descent(
    prefix: str,
    suffix: str,
    dataset_options: Mapping[str, object],
    notes: str,
    row: str = "Gradient descent",
    **model_options: object,
) -> Experiment:
    return _experiment(
        f"{prefix}.gradient_descent{suffix}",
        row,
        "gradient_descent",
        "ixi_hh_2mm",
        dataset_options,
        f"No network: the objective minimised pair by pair on three levels. {notes}",
        model_options,
    )


def _trained(
    table: str,
    method: Method,
    spacing_mm: int,
    *,
    contrast: str = "t1",
    name: str = "",
    epochs: int = EPOCHS,
) -> Experiment:
    """A method on the Hammersmith brains, at the common budget if not told otherwise."""
    shape = tuple(2 * side // spacing_mm for side in IXI_SHAPE)
    options = {} if spacing_mm == 2 else {"spacing_mm": spacing_mm}
    whole = Experiment(
        f"lganetpp.{table}.{name or method.name}.{spacing_mm}mm",
        row=method.row,
        model=method.model,
        model_options={**method.model_options, **({"shape": shape} if method.sized else {})},
        dataset="ixi_hh_2mm",
        dataset_options=options | ({} if contrast == "t1" else {"moving_contrast": contrast}),
        objective=method.objective,
        notes=" ".join(
            (
                f"{_NARROW_NOTE} " * (method is AD_REGNET) + _HAMMERSMITH,
                f"{shape[0]}x{shape[1]}x{shape[2]} voxels of {spacing_mm} mm. {_BATCH}",
            )
        ),
    )
    return shortened(whole, epochs)


_FOUR = {"spacing_mm": 4}
_HH4 = f"{_HAMMERSMITH} At 4 mm."
_AD_REGNET_EPOCHS = 2  # its steps take several times as long; with the schedule of its own tables
_AD_REGNET_AT_4MM = _trained("table3.hh", AD_REGNET, 4, epochs=_AD_REGNET_EPOCHS)
_AT_4MM = {method.name: _trained("table3.hh", method, 4) for method in TRAINED} | {
    AD_REGNET.name: replace(
        _AD_REGNET_AT_4MM,
        optimiser=Optimiser(1e-3, decay=PolynomialDecay(_AD_REGNET_EPOCHS)),
        notes=_AD_REGNET_AT_4MM.notes.replace("rate 4e-4", "rate from 1e-3 to 0"),
    )
}
_AT_2MM = tuple(_trained("table3.hh", method, 2) for method in (PIVIT, VOXELMORPH))
TABLE3 = (
    # identity and SyN at 2 mm are in experiments/lganetpp.py
    _untrained("lganetpp.table3.hh", "", "ixi_hh_2mm", {}, _HAMMERSMITH)[2],
    *_untrained("lganetpp.table3.hh", ".4mm", "ixi_hh_2mm", _FOUR, _HH4),
    _descent("lganetpp.table3.hh", ".4mm", _FOUR, _HH4),
    *_AT_4MM.values(),
    *_AT_2MM,
)

# Table 4: what other data cost. The weights are those of Table 3, never adapted.
_EXTERNAL: Mapping[str, tuple[str, Mapping[str, object], str]] = {
    "samples": (
        "oasis_samples",
        {"spacing_mm": 4, "both_ways": True},
        "Two labelled brains of OASIS, each onto the other, at 4 mm.",
    ),
    "lpba40": (
        "lpba40",
        {"spacing_mm": 4, "like_ixi": True},
        "LPBA40 at 4 mm, turned to the frame of the training brains; other structures than theirs.",
    ),
}


def _external(key: str, method: Method) -> Experiment:
    dataset, options, notes = _EXTERNAL[key]
    trained = _AT_4MM[method.name]
    return replace(
        trained,
        name=f"lganetpp.table4.{key}.{method.name}.4mm",
        dataset=dataset,
        dataset_options=options,
        epochs=0,
        weights_of=trained.name,
        notes=f"Trained on IXI, {70 * trained.epochs} steps. {notes}",
    )


_AS_STORED = replace(
    _external("lpba40", VOXELMORPH),
    name="lganetpp.table4.lpba40.voxelmorph2.as_stored.4mm",
    row=f"{VOXELMORPH.row}, LPBA40 as stored",
    dataset_options=_FOUR,
    notes="As the row before, on LPBA40 as it is stored, upside down and back to front for this "
    "network: what a forgotten turn costs.",
)
# The other way round: trained on LPBA40, 300 steps at 4 mm, tested on the heads of the two other
# sets, which are turned to stand as LPBA40 does.
_BACK = {"samples": "oasis_samples", "hh": "ixi_hh_2mm"}
_FROM_LPBA40 = (PIVIT, VOXELMORPH, GROUPMORPH, MODET, RDP, PAPER)
_BACK_NOTES = "Tested on another set, turned to the frame of the training brains."


def _turned(key: str) -> dict[str, object]:
    options: dict[str, object] = {"spacing_mm": 4, "like_lpba40": True}
    return options | ({"both_ways": True} if key == "samples" else {})


def _turned_identity(key: str) -> Experiment:
    """Halving takes every second label voxel: counted from the other end, these are others."""
    return _experiment(
        f"lganetpp.table4.from_lpba40.{key}.identity.4mm",
        "Initial",
        "identity",
        _BACK[key],
        _turned(key),
        f"The error before registration. {_BACK_NOTES}",
    )


def _from_lpba40(key: str, method: Method) -> Experiment:
    trained = LPBA40_AT_4MM[f"lganetpp.table2.{method.name}.4mm.short"]
    return replace(
        trained,
        name=f"lganetpp.table4.from_lpba40.{key}.{method.name}.4mm",
        dataset=_BACK[key],
        dataset_options=_turned(key),
        epochs=0,
        weights_of=trained.name,
        notes=f"{trained.notes} {_BACK_NOTES}",
    )


# Same set, same networks, another fixed image than the one of every training pair.
_OTHER_FIXED = {"spacing_mm": 4, "fixed": "S02"}
_OTHER_FIXED_NOTES = "LPBA40 at 4 mm, eight test subjects onto S02, which no training has seen."


def _onto_another(method: Method) -> Experiment:
    trained = LPBA40_AT_4MM[f"lganetpp.table2.{method.name}.4mm.short"]
    return replace(
        trained,
        name=f"lganetpp.table4.other_fixed.{method.name}.4mm",
        dataset_options=_OTHER_FIXED,
        epochs=0,
        weights_of=trained.name,
        notes=f"{trained.notes} {_OTHER_FIXED_NOTES}",
    )


TABLE4 = tuple(
    row
    for key, (dataset, options, notes) in _EXTERNAL.items()
    for row in (
        *_untrained(f"lganetpp.table4.{key}", ".4mm", dataset, options, notes),
        *(_external(key, method) for method in TRAINED),
    )
) + (
    _AS_STORED,
    *map(_turned_identity, _BACK),
    *(_from_lpba40(key, method) for key in _BACK for method in _FROM_LPBA40),
    *_untrained("lganetpp.table4.other_fixed", ".4mm", "lpba40", _OTHER_FIXED, _OTHER_FIXED_NOTES),
    *map(_onto_another, _FROM_LPBA40),
)

# Table 5: two contrasts. Mutual information is worth less than a nat, and MIND a few hundredths, so
# each loss has its own weight of the smoothness: 1 or 10, whichever gave gradient descent the
# higher Dice without folds on the first two training pairs.
LOSSES: Mapping[str, tuple[str, Objective]] = {
    "local_ncc": ("", Objective()),
    "mind": (", MIND", Objective("mind_ssc", diffusion_weight=1.0)),
    "mi": (", mutual information", Objective("mutual_information", diffusion_weight=10.0)),
}
_T2_LIKE = {"spacing_mm": 4, "moving_contrast": "t2"}
_T2_NOTES = f"Moving images in a T2-like contrast, the atlas T1-weighted. {_HH4}"


def _with_loss(method: Method, loss: str) -> Method:
    suffix, objective = LOSSES[loss]
    return replace(method, row=f"{method.row}{suffix}", objective=objective)


def _across_contrasts(method: Method, loss: str, epochs: int = EPOCHS) -> Experiment:
    trained = _trained(
        "table5.t2like",
        _with_loss(method, loss),
        4,
        contrast="t2",
        name=f"{method.name}.{loss}",
        epochs=epochs,
    )
    return replace(trained, notes=f"{_T2_NOTES} {trained.notes}")


_PROSTATE = {"test": 9}
_PROSTATE_NOTES = (
    "27 prostate MR and ultrasound pairs, coarse; the last nine test, the others train; aligned by "
    "the centres of their boxes only; millimetres are nominal."
)


def _on_prostate(loss: str) -> Experiment:
    suffix, objective = LOSSES[loss]
    whole = _experiment(
        f"lganetpp.table5.prostate.voxelmorph2.{loss}",
        f"VoxelMorph{suffix}",
        "voxelmorph2",
        "prostate_mr_us",
        _PROSTATE,
        _PROSTATE_NOTES,
    )
    return shortened(replace(whole, objective=objective), epochs=10)


TABLE5 = (
    *_untrained("lganetpp.table5.t2like", ".4mm", "ixi_hh_2mm", _T2_LIKE, _T2_NOTES),
    *(
        _descent(
            "lganetpp.table5.t2like",
            f".{loss}.4mm",
            _T2_LIKE,
            _T2_NOTES,
            f"Gradient descent{suffix}",
            similarity=objective.similarity,
            diffusion_weight=objective.diffusion_weight,
        )
        for loss, (suffix, objective) in LOSSES.items()
    ),
    *(_across_contrasts(PIVIT, loss) for loss in LOSSES),
    *(_across_contrasts(VOXELMORPH, loss) for loss in LOSSES),
    *(_across_contrasts(GROUPMORPH, loss) for loss in LOSSES),
    *(_across_contrasts(MODET, loss) for loss in LOSSES),
    *(_across_contrasts(method, "mind", epochs=2) for method in (RDP, PAPER)),
    *_untrained("lganetpp.table5.prostate", "", "prostate_mr_us", _PROSTATE, _PROSTATE_NOTES),
    *map(_on_prostate, LOSSES),
)

# Table III of AD-RegNet: the same runs under its names of the methods.
_IN_TABLE_III = {
    "Initial": "Initial",
    "SyN": "SyN",
    "VoxelMorph": "VoxelMorph-2",
    "AD-RegNet": "AD-RegNet (Ours)",
}
AD_REGNET_TABLE3 = tuple(
    replace(one, row=_IN_TABLE_III[one.row])
    for one in TABLE3
    if one.row in _IN_TABLE_III and ".4mm" in one.name
)

TABLES: dict[str, tuple[Experiment, ...]] = {
    "lganetpp.table3": TABLE3,
    "lganetpp.table4": TABLE4,
    "lganetpp.table5": TABLE5,
    "ad_regnet.table3": AD_REGNET_TABLE3,
}
