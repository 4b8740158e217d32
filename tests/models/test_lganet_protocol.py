"""Our losses and metrics against the numbers of the released training and evaluation code."""

import json

import numpy as np
import pytest
import torch

from regnet_lib.data.lpba40 import LABEL_IDS
from regnet_lib.losses import Objective, diffusion, local_ncc, mse
from regnet_lib.metrics import assd, dice, hd95, precision, recall
from regnet_lib.spatial import folding_fraction, warp, warp_labels

pytestmark = pytest.mark.golden
MM = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def scalars(lganet_folder):
    return json.loads((lganet_folder / "units.json").read_text())["scalars"]


@pytest.fixture(scope="module")
def arrays(lganet_folder):
    with np.load(lganet_folder / "units.npz") as stored:
        names = [name for name in stored if name.startswith(("loss.", "mask."))]
        return {name: torch.from_numpy(stored[name]) for name in names}


def test_losses_of_the_units(arrays, scalars):
    one, other, field = arrays["loss.I"], arrays["loss.J"], arrays["loss.flow"]
    assert local_ncc(one, other).item() == pytest.approx(scalars["ncc9_I_J"], rel=1e-4)
    assert local_ncc(one, one).item() == pytest.approx(scalars["ncc9_I_I"], abs=1e-3)
    assert local_ncc(0 * one, 0 * one).item() == scalars["ncc9_zero_zero"]
    assert diffusion(field).item() == pytest.approx(scalars["grad_l2"], rel=1e-5)
    assert mse(one, other).item() == pytest.approx(scalars["mse"], rel=1e-5)
    assert folding_fraction(field).mean().item() == pytest.approx(scalars["njd"], abs=1e-9)


def test_overlap_of_the_units(arrays, scalars):
    one, other = arrays["mask.A"].long(), arrays["mask.B"].long()
    nothing = torch.zeros_like(one)
    assert dice(one, other, [1])[0] == pytest.approx(scalars["dsc_A_B"], abs=1e-6)
    assert dice(one, nothing, [1])[0] == pytest.approx(scalars["dsc_A_empty"], abs=1e-6)
    assert dice(nothing, nothing, [1], absent="released")[0] == scalars["dsc_empty_empty"]


@pytest.mark.parametrize(
    ("dataset", "spacing"),
    [
        ("lpba", (1.0, 1.0, 1.0)),
        ("ixi", (2.0, 2.0, 2.0)),
        ("l2r", (1.75, 1.25, 1.75)),
        ("ctmr", (1.0, 1.0, 1.0)),
    ],
)
def test_surface_distances_of_the_units(arrays, scalars, dataset, spacing):
    one, other = arrays["mask.A"].long(), arrays["mask.B"].long()
    found = hd95(one, other, [1], spacing)[0]
    assert found == pytest.approx(scalars[f"hd95_{dataset}"], abs=1e-9)
    found = assd(one, other, [1], spacing)[0]
    assert found == pytest.approx(scalars[f"assd_{dataset}"], abs=1e-9)
    assert np.isnan(hd95(one, 0 * other, [1], spacing)[0])


@pytest.mark.parametrize("zoomed", [True, False])
def test_losses_of_the_network_output(golden, golden_values, zoomed):
    field, moving, fixed = golden["flow"], golden["moving"], golden["fixed"]
    _, parts = Objective(zoomed=zoomed)(field, moving, fixed)
    name = "ncc_loss_ac_false" if zoomed else "ncc_loss_ac_true"
    assert parts["local_ncc"].item() == pytest.approx(golden_values[name], rel=1e-4)
    assert parts["diffusion"].item() == pytest.approx(golden_values["gradient_loss_l2"], rel=1e-4)
    if zoomed:
        warped = warp(moving, field, zoomed=True)
        torch.testing.assert_close(warped, golden["warped_ac_false"], rtol=0, atol=1e-4)
        assert mse(warped, fixed).item() == pytest.approx(golden_values["mse_ac_false"], rel=1e-4)


def test_similarity_before_and_of_an_image_with_itself(golden, golden_values):
    moving, fixed = golden["moving"], golden["fixed"]
    unwarped = golden_values["ncc_loss_unwarped"]
    assert local_ncc(moving, fixed).item() == pytest.approx(unwarped, rel=1e-4)
    floor = golden_values["ncc_loss_fixed_fixed"]
    assert local_ncc(fixed, fixed).item() == pytest.approx(floor, rel=1e-2)


def test_folding_of_the_network_output(golden, golden_values):
    assert folding_fraction(golden["flow"]).item() == golden_values["njd_fraction"]
    found = folding_fraction(3 * golden["flow"]).item()
    assert found == pytest.approx(golden_values["njd_fraction_flow_x3"], abs=2e-5)


@pytest.mark.parametrize("name", ["ac_false", "ac_true"])
def test_labels_of_the_network_output(golden, golden_values, name):
    warped = warp_labels(golden["moving_label"], golden["flow"], zoomed=name == "ac_false")
    expected = golden[f"warped_label_{name}"]
    assert (warped != expected).double().mean() <= 1e-3
    fixed = golden["fixed_label"]
    overlap = dice(expected, fixed, LABEL_IDS, absent="released")
    assert overlap.mean() == pytest.approx(golden_values[f"dice_repo_56_{name}"], abs=1e-6)
    summary = golden_values[f"acc_f1_repo_56_{name}"]
    found = recall(expected, fixed, LABEL_IDS, absent="released").mean()
    assert found == pytest.approx(summary["recall"], abs=1e-9)
    found = precision(expected, fixed, LABEL_IDS, absent="released").mean()
    assert found == pytest.approx(summary["precision"], abs=1e-9)


@pytest.mark.parametrize("name", ["ac_false", "ac_true"])
def test_every_label_of_the_network_output(golden, golden_values, name):
    warped, fixed = golden[f"warped_label_{name}"], golden["fixed_label"]
    overlap = dice(warped, fixed, LABEL_IDS, absent="released")
    distances = hd95(warped, fixed, LABEL_IDS, MM)
    averages = assd(warped, fixed, LABEL_IDS, MM)
    expected = golden_values[f"per_label_{name}"]
    for index, label in enumerate(LABEL_IDS):
        values = expected[str(label)]
        # Their Dice adds 1e-5 to both terms of the fraction.
        assert overlap[index] == pytest.approx(values["dice"], abs=1e-5), label
        if "hd95" in values:
            assert distances[index] == pytest.approx(values["hd95"], abs=1e-9), label
            assert averages[index] == pytest.approx(values["assd"], abs=1e-9), label
        else:
            assert np.isnan(distances[index]) and np.isnan(averages[index]), label
    present = golden_values[f"present_in_both_{name}"]
    both = ~np.isnan(distances)
    assert both.sum() == present["n"]
    assert overlap[both].mean() == pytest.approx(present["dice"], abs=1e-6)
    assert distances[both].mean() == pytest.approx(present["hd95"], abs=1e-9)
