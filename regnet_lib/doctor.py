"""`regnet doctor`: what is installed, which devices and data there are, and a quick self-test."""

import time

import torch

from regnet_lib.data import MARKERS, available, phantom_pair
from regnet_lib.machine import device_name, versions
from regnet_lib.metrics import dice, tre_mm
from regnet_lib.models import MODELS, create_model
from regnet_lib.spatial import identity_grid, integrate, jacobian_determinant, warp, warp_labels


def examine() -> int:
    """Print the findings; 0 if the self-test passes, 1 otherwise."""
    for name, version in versions().items():
        print(f"{name:12s} {version}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            print(f"cuda:{index}       {torch.cuda.get_device_name(index)}, {memory:.0f} GiB")
    else:
        print(f"device       {device_name(torch.device('cpu'))}")
    for name in MARKERS:
        found = "found" if available(name) else "not found (set REGNET_DATA)"
        print(f"data         {name}: {found}")
    started = time.perf_counter()
    failures = [name for name, check in _CHECKS.items() if not check()]
    for name in _CHECKS:
        print(f"self-test    {name}: {'FAILED' if name in failures else 'ok'}")
    print(f"self-test    {time.perf_counter() - started:.1f} s")
    return 1 if failures else 0


def _identity_warp() -> bool:
    image = torch.rand(1, 1, 8, 9, 10)
    return torch.equal(warp(image, torch.zeros(1, 3, 8, 9, 10), interpolation="nearest"), image)


def _integer_shift() -> bool:
    image = torch.rand(1, 1, 8, 9, 10, dtype=torch.float64)
    shift = torch.zeros(1, 3, 8, 9, 10, dtype=torch.float64)
    shift[:, 0] = 1
    return torch.allclose(warp(image, shift)[:, :, :-1], image[:, :, 1:], atol=1e-12)


def _affine_jacobian() -> bool:
    matrix = torch.tensor([[0.1, 0.2, 0.0], [0.0, -0.1, 0.1], [0.05, 0.0, 0.2]]).double()
    grid = identity_grid((6, 7, 8), dtype=torch.float64)
    field = torch.einsum("ij,bjdhw->bidhw", matrix, grid)
    expected = torch.linalg.det(torch.eye(3).double() + matrix)
    return torch.allclose(jacobian_determinant(field), expected, atol=1e-10)


def _diffeomorphism() -> bool:
    velocity = torch.zeros(1, 2, 32, 32)
    velocity[:, 0] = 1.5
    return torch.allclose(integrate(velocity), velocity, atol=1e-5)


def _phantom_truth() -> bool:
    case = phantom_pair((24, 24, 24), seed=1)
    labels = warp_labels(case.moving_labels, case.displacement)
    errors = tre_mm(case.moving_landmarks, case.fixed_landmarks, case.displacement, case.spacing_mm)
    perfect = dice(labels, case.fixed_labels, case.label_ids)
    return bool((perfect == 1).all()) and float(errors.max()) < 1e-4


def _registration() -> bool:
    case = phantom_pair((32, 32, 32), seed=2)
    before = dice(case.moving_labels, case.fixed_labels, (1, 2)).mean()
    displacement = create_model("gradient_descent")(case.moving, case.fixed).displacement
    after = dice(warp_labels(case.moving_labels, displacement), case.fixed_labels, (1, 2)).mean()
    return after > before and "identity" in MODELS


_CHECKS = {
    "the identity keeps every voxel": _identity_warp,
    "an integer shift moves the array": _integer_shift,
    "the Jacobian of an affine map": _affine_jacobian,
    "integrating a constant velocity": _diffeomorphism,
    "phantoms know their answer": _phantom_truth,
    "a registration improves overlap": _registration,
}
