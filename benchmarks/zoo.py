"""What every learned model costs at 96x112x80: counted, timed, and beside its published form.

    python -m benchmarks.zoo                 # all, a quarter of an hour on one core
    python -m benchmarks.zoo modet rdp       # some; the rows of the others stay as they are
    python -m benchmarks.zoo --count         # count alone, two minutes; known seconds stay

One thread, batches of one pair, float32; a size that a model does not take is padded to the
nearest one that it does. Operations and bytes are counted by `regnet_lib.profile`, without the loss
and without the work space of kernels; seconds are process time, the smaller of two runs (of one,
where a step takes more than ten seconds); `rss` is how far resident memory rose in the first one.

`official_costs.csv` holds what was measured or counted of the official code, on a machine of the
same kind: seconds and resident memory of one forward, and of one forward and backward pass at
96x112x80 (`step`; ours includes the loss), or the bytes kept for the backward pass at 160x192x224.
`python -m benchmarks.run modet` times two forms of ModeT against each other.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse  # noqa: E402
import csv  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.measure import peak_mib  # noqa: E402
from regnet_lib.data.phantoms import phantom_pair  # noqa: E402
from regnet_lib.experiments.zoo import LEARNED  # noqa: E402
from regnet_lib.losses import Objective  # noqa: E402
from regnet_lib.models import create_model  # noqa: E402
from regnet_lib.models.sizes import pad_to_valid_size, run_at_valid_size  # noqa: E402
from regnet_lib.profile import account  # noqa: E402

SHAPE = (96, 112, 80)
LARGE = (160, 192, 224)
OFFICIAL = Path(__file__).parent / "official_costs.csv"
RESULT = Path(__file__).parent / "results" / "zoo.json"
SLOW_SECONDS = 10.0
_TIMED = ("forward", "step")

# Other configurations than the default one: published ones of which official costs are known, and
# the large networks with activations computed again in the backward pass.
VARIANTS: Sequence[tuple[str, Mapping[str, object]]] = (
    ("transmorph", {"preset": "small"}),
    ("prnetpp", {"preset": "lganet"}),
    ("pcnet", {"channels": 8}),
    ("modet", {"preset": "lganet"}),
    ("corrmlp", {"checkpointing": True}),
    ("ad_regnet", {"checkpointing": True}),
    ("lganetpp", {"checkpointing": True}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="model", help="names in MODELS; default: all")
    parser.add_argument("--count", action="store_true", help="do not time anything")
    arguments = parser.parse_args()
    names = arguments.models or list(LEARNED)
    unknown = sorted(set(names) - set(LEARNED))
    if unknown:
        parser.error(f"expected learned models, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    for model, options in (*((name, {}) for name in LEARNED), *VARIANTS):
        if model in names:
            row = measure_model(model, options, timed=not arguments.count)
            print(describe(row), flush=True)
            save(row)


def measure_model(
    model: str, options: Mapping[str, object], *, timed: bool = True
) -> dict[str, object]:
    """One row: counts at both sizes, and if `timed` seconds and memory at the smaller one."""
    torch.manual_seed(0)
    network = create_model(model, **options)
    case = phantom_pair(SHAPE, seed=0)
    moving, fixed, _ = pad_to_valid_size(network, case.moving, case.fixed)
    row: dict[str, object] = {
        "model": model,
        "options": option_text(options),
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "shape": _text(moving.shape[2:]),
        "counted": {_text(SHAPE): count(network, SHAPE)},
    }
    if any(one["shape"] == _text(LARGE) for one in official_rows(model, row["options"])):
        row["counted"][_text(LARGE)] = count(network, LARGE)
    row["forward"] = row["step"] = None
    if not timed:
        return row
    network.eval()
    with torch.no_grad():
        row["forward"] = _measured(lambda: network(moving, fixed))
    network.train()
    row["step"] = _measured(lambda: _step(network, case.moving, case.fixed))
    return row


def count(network: nn.Module, shape: Sequence[int]) -> dict[str, float]:
    """Operations in GFLOP, of a registration and of a step; MiB at the peak, kept and moved.

    `traffic_mib` is what the kernels of a step read and write. The derivative starts at the
    displacement, so that no loss is counted.
    """
    valid = network.valid_shape(shape) if hasattr(network, "valid_shape") else shape
    forward = account(network, valid, training=False)
    step = account(network, valid, objective=lambda field, *_: (field.sum(), None))
    return {
        "gflop": round(forward.flops / 1e9, 1),
        "step_gflop": round(step.flops / 1e9, 1),
        "forward_mib": round(forward.peak_bytes / 2**20, 1),
        "saved_mib": round(step.saved_bytes / 2**20, 1),
        "step_mib": round(step.peak_bytes / 2**20, 1),
        "traffic_mib": round(step.traffic_bytes / 2**20, 1),
    }


def official_rows(model: str, options: str) -> list[dict[str, str]]:
    """What is known of the official code of one configuration."""
    with OFFICIAL.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["model"], row["options"]) == (model, options)]


def ratios(row: Mapping[str, object]) -> dict[str, float]:
    """Ours divided by official, for every official figure of the row's configuration."""
    measured = {name: row[name] or {"seconds": None, "rss_mib": None} for name in _TIMED}
    found = {}
    for official in official_rows(str(row["model"]), str(row["options"])):
        counted = row["counted"][official["shape"]]
        ours = {
            "forward": measured["forward"]["seconds"],
            "step": measured["step"]["seconds"],
            "forward_rss": measured["forward"]["rss_mib"],
            "step_rss": measured["step"]["rss_mib"],
            "saved": counted["saved_mib"] / 1024,
        }[official["quantity"]]
        if ours is not None:
            found[official["quantity"]] = round(ours / float(official["value"]), 3)
    return found


def describe(row: Mapping[str, object]) -> str:
    """One line for the terminal."""
    counted = row["counted"][_text(SHAPE)]
    against = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios(row).items())
    seconds = [f"{name} {row[name]['seconds']:.2f} s, " for name in _TIMED if row[name]]
    return (
        f"{row['model']} {row['options']}: {row['parameters']:,} parameters, "
        f"{counted['gflop']:.0f} GFLOP, {''.join(seconds)}kept {counted['saved_mib']:.0f} MiB"
        + (f"; ours / official: {against}" if against else "")
    )


def save(row: dict[str, object]) -> None:
    """Put a row in its place among the committed ones."""
    from benchmarks.run import environment

    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    key = (row["model"], row["options"])
    known = next((one for one in rows if (one["model"], one["options"]) == key), {})
    row |= {name: row[name] or known.get(name) for name in _TIMED}
    row |= {"environment": environment()}
    rows = [one for one in rows if (one["model"], one["options"]) != key] + [row]
    order = [(name, "") for name in LEARNED]
    order += [(name, option_text(options)) for name, options in VARIANTS]
    rows.sort(key=lambda one: order.index((one["model"], one["options"])))
    RESULT.write_text(json.dumps({"name": "zoo", "rows": rows}, indent=1) + "\n")


def option_text(options: Mapping[str, object]) -> str:
    """`preset=lganet`, as the file of official costs has it."""
    return " ".join(f"{name}={value}" for name, value in options.items())


def _measured(run: Callable[[], object]) -> dict[str, float | None]:
    seconds = []

    def timed() -> None:
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)

    _, rss = peak_mib(timed)
    if seconds[0] < SLOW_SECONDS:
        timed()
    return {"seconds": round(min(seconds), 3), "rss_mib": rss, "repetitions": len(seconds)}


def _step(network: nn.Module, moving: Tensor, fixed: Tensor) -> None:
    """Forward pass, loss, backward pass."""
    network.zero_grad()
    displacement = run_at_valid_size(network, moving, fixed).displacement
    loss, _ = Objective()(displacement, moving, fixed)
    loss.backward()


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


if __name__ == "__main__":
    main()
