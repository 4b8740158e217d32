"""The workloads on a GPU, in one command of at most eight minutes.

    python -m benchmarks.gpu                       # writes benchmarks/results/gpu-<device>.json
    python -m benchmarks.gpu --device cpu --small  # rehearsal without a GPU

Training steps of whole volumes first, with seconds and peak memory; then the contests of
`benchmarks.run` at the sizes of the papers. Wall time between two synchronizations. When time is
up, what has been measured is kept and the rest is named as skipped. A rehearsal writes its file to
the folder for temporary files.
"""

import argparse
import json
import re
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks import (
    ad_regnet,
    attention,
    correlation,
    inference,
    jacobian,
    lganetpp,
    local_ncc,
    measure,
    modet,
    norm,
    velocity,
    voxelmorph,
    warp,
)
from benchmarks.run import RESULTS, Row, environment
from regnet_lib.losses import ADRegNetObjective, Objective
from regnet_lib.machine import device_name, versions
from regnet_lib.models import create_model
from regnet_lib.models.sizes import run_at_valid_size
from regnet_lib.nn.blocks import channels_innermost

BRAIN, IXI, SMALL = (144, 176, 144), (160, 192, 224), (48, 48, 48)
ROUNDS = 10
WARM_UP = 3
# So that a first run that is cut off still has the steps.
MINUTES = 8.0


@dataclass(frozen=True)
class Step:
    """A training step, or a registration, of one network on one volume.

    Attributes:
        group: section of the page.
        target_seconds, target_gib: what we hold ourselves to; None without one.
    """

    group: str
    model: str
    shape: tuple[int, ...]
    autocast: bool = True
    checkpointing: bool = False
    training: bool = True
    target_seconds: float | None = None
    target_gib: float | None = None


STEPS = (
    Step("B7", "lganetpp", BRAIN, target_seconds=0.1, target_gib=8.0),
    Step("B7", "lganetpp", BRAIN, autocast=False, target_gib=14.0),
    Step("B7", "lganetpp", BRAIN, checkpointing=True, target_gib=4.0),
    Step("B10", "lganetpp", BRAIN, training=False, target_seconds=0.035),
    Step("B8", "ad_regnet", IXI, target_seconds=0.13),
    Step("B8", "ad_regnet", IXI, checkpointing=True, target_gib=12.0),
    Step("B8", "ad_regnet", (256, 256, 96), checkpointing=True, target_gib=12.0),
    Step("B9", "voxelmorph2", IXI, target_seconds=0.02),
    Step("B9", "transmorph", IXI, target_seconds=0.05),
)


def contests(device: torch.device, small: bool) -> dict[str, Callable[[], list]]:
    """By name of the workload, the cheap ones first."""
    shape = SMALL if small else BRAIN
    shapes = (SMALL,) if small else ((96, 112, 80), BRAIN, IXI)
    levels = ((8, (16, 16, 16)),) if small else ((8, BRAIN), (24, (72, 88, 72)), (64, (36, 44, 36)))
    return {
        "local_ncc": partial(local_ncc.comparisons, device, shapes),
        "warp": partial(warp.comparisons, device, shapes[-1:]),
        "velocity": partial(velocity.comparisons, device, shapes[-1:]),
        "correlation": partial(correlation.comparisons, device, levels),
        "norm": partial(norm.comparisons, device, shape, compiled=not small),
        "attention": partial(attention.comparisons, device, *((500, 300) if small else ())),
        "jacobian": partial(jacobian.comparisons, device, shape),
        "voxelmorph": partial(voxelmorph.comparisons, device, shape if small else IXI),
        "modet": partial(modet.comparisons, device, shape),
        "inference": partial(inference.comparisons, device, (64, 64, 64) if small else BRAIN),
        "lganetpp": partial(lganetpp.comparisons, device, shape),
        "checkpointing": partial(lganetpp.checkpointing_comparisons, device, shape),
        "ad_regnet": partial(ad_regnet.comparisons, device, shape if small else (96, 96, 96)),
    }


def step_row(step: Step, device: torch.device, small: bool) -> Row:
    """Seconds and peak memory of one kind of step, with Adam."""
    torch.manual_seed(0)
    shape = SMALL if small else step.shape
    options = {"checkpointing": True} if step.checkpointing else {}
    model = create_model(step.model, **options).to(device).train(step.training)
    if step.autocast:
        channels_innermost(model)
    moving, fixed = torch.rand(2, 1, 1, *shape, device=device).unbind()
    objective = ADRegNetObjective() if step.model == "ad_regnet" else Objective()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=step.autocast):
            displacement = run_at_valid_size(model, moving, fixed).displacement
        if step.training:
            optimizer.zero_grad()
            objective(displacement, moving, fixed)[0].backward()
            optimizer.step()

    rounds = 1 if small else ROUNDS
    seconds = []
    with torch.set_grad_enabled(step.training):
        _, peak = measure.peak_mib(run, device)
        for _ in range(1 if small else WARM_UP):
            run()
        for _ in range(rounds):
            start = measure.now(device)
            run()
            seconds.append(measure.now(device) - start)
    what = [
        step.model,
        "x".join(map(str, shape)),
        "training step" if step.training else "registration",
        "bfloat16, channels last" if step.autocast else "TF32",
        *(["checkpointing"] if step.checkpointing else []),
    ]
    row = measure.timing(", ".join(what), seconds, step.target_seconds, clock="wall")
    fits = None
    if step.target_gib is not None and peak is not None:
        fits = peak / 1024 <= step.target_gib
    return row | {
        "group": step.group,
        "peak_mib": peak,
        "target_gib": step.target_gib,
        "fits": fits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny volumes: does it run?")
    parser.add_argument("--max-minutes", type=float, default=MINUTES)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    folder = Path(tempfile.gettempdir()) if arguments.small else RESULTS
    file = folder / f"gpu-{slug}.json"
    end = time.monotonic() + 60 * arguments.max_minutes
    record: dict[str, object] = {
        "name": "gpu",
        "device": device_name(device),
        "environment": environment() | {"versions": versions()},
        "steps": [],
        "contests": {},
        "skipped": [],
    }
    tasks: list[tuple[str, Callable[[], None]]] = [
        (f"{step.model} {step.group}", partial(_take_step, record, step, device, arguments.small))
        for step in STEPS
    ]
    for name, find in contests(device, arguments.small).items():
        tasks.append((name, partial(_take_contest, record, name, find, device)))
    for name, task in tasks:
        if time.monotonic() > end:
            record["skipped"].append(f"{name}: no time left")
            continue
        try:
            task()
        except Exception as error:  # one contender without a kernel must not cost the others
            traceback.print_exc()
            record["skipped"].append(f"{name}: {type(error).__name__}: {error}")
        file.write_text(json.dumps(record, indent=1) + "\n")
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {file}; skipped: {record['skipped'] or 'nothing'}")


def _take_step(record: dict, step: Step, device: torch.device, small: bool) -> None:
    row = step_row(step, device, small)
    print(measure.describe(row), f"peak {row['peak_mib']} MiB", flush=True)
    record["steps"].append(row)


def _take_contest(record: dict, name: str, find: Callable[[], list], device: torch.device) -> None:
    rows = record["contests"].setdefault(name, [])
    for comparison in find():
        rows.append(measure.measure(comparison, device))
        print(measure.describe(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
