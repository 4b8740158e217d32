"""Landmarks in the rows of an evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from regnet_lib.data import phantom_pair
from regnet_lib.evaluate import evaluate, measure
from regnet_lib.experiments import EXPERIMENTS
from regnet_lib.metrics import tre_mm
from regnet_lib.results import read_runs
from regnet_lib.spatial import half_voxel_zoom, warp_points

SHAPE = (24, 26, 28)


@pytest.fixture(scope="module")
def case():
    return phantom_pair(SHAPE, seed=3, landmarks=12, spacing_mm=(1.0, 1.5, 2.5))


def rows(case, displacement, **options):
    records = measure(case, displacement, **options)
    errors = {structure: value for _, structure, metric, value, _ in records if metric == "tre_mm"}
    (outside,) = (value for _, _, metric, value, _ in records if metric == "landmarks_outside")
    return errors, outside


def test_one_row_per_landmark_numbered_from_one(case):
    errors, outside = rows(case, torch.zeros(1, 3, *SHAPE))
    assert list(errors) == [str(number) for number in range(1, 13)] and outside == 0
    expected = tre_mm(
        case.moving_landmarks, case.fixed_landmarks, torch.zeros(1, 3, *SHAPE), case.spacing_mm
    )
    np.testing.assert_allclose(list(errors.values()), expected, rtol=1e-6)
    assert max(rows(case, case.displacement)[0].values()) < 1e-4 < min(errors.values())


def test_snapped_errors_are_means_over_landmarks(case):
    still = torch.zeros(1, 3, *SHAPE)
    (snapped,) = (value for *_, name, value, _ in measure(case, still) if name == "tre_snapped_mm")
    points = case.fixed_landmarks.round(), case.moving_landmarks
    spacing = torch.tensor(case.spacing_mm)
    expected = ((points[0] - points[1]) * spacing).norm(dim=1).mean()
    assert snapped == pytest.approx(float(expected), rel=1e-5)
    assert snapped != pytest.approx(float(np.mean(list(rows(case, still)[0].values()))), rel=1e-3)


def test_without_landmarks_no_rows(case):
    bare = replace(case, moving_landmarks=None, fixed_landmarks=None)
    metrics = {record[2] for record in measure(bare, case.displacement)}
    assert "dice" in metrics and not {"tre_mm", "landmarks_outside"} & metrics


def test_outside_the_grid_the_nearest_displacement_counts(case):
    """A crop of a constant motion still moves every landmark the right way."""
    motion = torch.tensor([1.0, -2.0, 0.5])
    displacement = motion.reshape(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    fixed = torch.tensor([[-4.0, 3.0, 5.0], [23.5, 30.0, 27.0], [5.0, 6.0, 7.0]])
    moved = replace(case, fixed_landmarks=fixed, moving_landmarks=fixed + motion)
    errors, outside = rows(moved, displacement)
    assert outside == 2 and max(errors.values()) < 1e-5


def test_landmarks_look_where_the_zoomed_warp_looks(case):
    moving = half_voxel_zoom(
        warp_points(case.fixed_landmarks, case.displacement).T[None, :, :, None, None], SHAPE
    )
    zoomed = replace(case, moving_landmarks=moving[0, :, :, 0, 0].T.contiguous())
    assert max(rows(zoomed, case.displacement, zoomed=True)[0].values()) < 1e-4
    assert max(rows(zoomed, case.displacement)[0].values()) > 0.05


def test_rows_on_disk(tmp_path):
    experiment = replace(
        EXPERIMENTS["lganetpp.table2.identity"],
        name="phantom.landmarks",
        dataset="phantom",
        dataset_options={"shape": (20, 20, 20), "test": 2},
    )
    evaluate(experiment, root=tmp_path, progress=False)
    run = read_runs(experiment.name, root=tmp_path)[0]
    assert run.values("tre_mm").shape == (2, 32)
    assert (run.case_means("tre_mm") > 0).all()
