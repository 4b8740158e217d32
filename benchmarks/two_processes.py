"""Training on two processes of one machine: pairs per second against one process, and whether both
take the same step.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks.two_processes FILE

VoxelMorph-2 on pairs of 64^3 voxels, gloo, one thread per process, a step per pair in each. Wall
seconds: the point is how long it takes.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import CPU
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.losses import Objective
from regnet_lib.models import create_model
from regnet_lib.parallel import team

SHAPE = (64, 64, 64)
STEPS = 4
ROUNDS = 3
TARGET = 1.8
LIMIT = 1e-6
EXPLANATION = ""


def rows() -> list[dict[str, object]]:
    """One row: throughput of two processes over that of one."""
    one, two, difference = [], [], 0.0
    for _ in range(ROUNDS):
        alone, together = _launch(1), _launch(2)
        one.append(alone["pairs_per_second"])
        two.append(together["pairs_per_second"])
        weights = [torch.tensor(run["weights"]) for run in (alone, together)]
        difference = max(difference, (weights[0] - weights[1]).abs().max().item())
    assert difference <= LIMIT, difference
    ratios = [b / a for a, b in zip(one, two, strict=True)]
    return [
        {
            "case": f"VoxelMorph-2 {'x'.join(map(str, SHAPE))}, training on two processes",
            "other": "one process",
            "agreement": f"after two steps weights differ by {difference:.1e} at most",
            "clock": "wall",
            "cpu_seconds": {
                "ours": [round(1 / value, 4) for value in two],
                "other": [round(1 / value, 4) for value in one],
            },
            "ratio": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "peak_mib": {"ours": None, "other": None},
            "target": TARGET,
            "met": statistics.median(ratios) >= TARGET,
            "growth": None,
        }
    ]


def _launch(processes: int) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.two_processes"]
    if processes > 1:
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, "-m", *launcher, "-m", "benchmarks.two_processes"]
    with tempfile.TemporaryDirectory(prefix="regnet-processes-") as folder:
        file = Path(folder) / "result.json"
        subprocess.run([*command, str(file)], check=True, capture_output=True, timeout=300)
        return json.loads(file.read_text())


def _work(file: Path) -> None:
    """What each process runs; the first one writes."""
    torch.set_num_threads(1)
    processes = team(CPU)
    torch.manual_seed(0)
    model = create_model("voxelmorph2")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    pairs = [phantom_pair(SHAPE, seed=seed) for seed in (0, 1)]

    def step(moving: torch.Tensor, fixed: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss, _ = Objective()(model(moving, fixed).displacement, moving, fixed)
        loss.backward()
        processes.average_gradients(model)
        optimizer.step()

    mine = processes.share(pairs)
    batch = [torch.cat([getattr(pair, name) for pair in mine]) for name in ("moving", "fixed")]
    for _ in range(2):
        step(*batch)
    weights = torch.cat([one.detach().flatten() for one in model.parameters()])
    pair = mine[0].moving, mine[0].fixed
    processes.wait()
    start = time.perf_counter()
    for _ in range(STEPS):
        step(*pair)
    processes.wait()
    pairs_per_second = STEPS * processes.size / (time.perf_counter() - start)
    if processes.leads:
        result = {"pairs_per_second": pairs_per_second, "weights": weights.tolist()}
        file.write_text(json.dumps(result))


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
