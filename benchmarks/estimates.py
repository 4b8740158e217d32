"""What the workloads cost on a GPU, counted without one.

    python -m benchmarks.estimates        # a minute; writes benchmarks/results/estimates.json
    python -m benchmarks.estimates B7     # some

`regnet_lib.profile` counts operations and memory traffic of the real code. The bound is the larger
of two times: operations at the peak rate of an H200, and traffic at its peak bandwidth (data sheet
of the H200 SXM, without sparsity). No program runs faster than that as long as every kernel reads
and writes its tensors; a step of small convolutions takes about three times as long.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.run import RESULTS
from regnet_lib.losses import ADRegNetObjective, local_ncc
from regnet_lib.models import create_model
from regnet_lib.nn.attention import attend
from regnet_lib.nn.blocks import InstanceNormActivation, channels_innermost
from regnet_lib.nn.correlation import local_correlation
from regnet_lib.profile import Cost, account
from regnet_lib.spatial import integrate, jacobian_determinant, warp

BYTES_PER_SECOND = 4.8e12
FLOPS_PER_SECOND = {"TF32": 494.7e12, "bfloat16": 989.4e12}
RESULT = RESULTS / "estimates.json"
BRAIN, IXI = (144, 176, 144), (160, 192, 224)
Objective = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, object]]


@dataclass(frozen=True)
class Estimate:
    """One line: what is counted, in which section of the page, and what it is held to."""

    group: str
    case: str
    count: Callable[[], Cost]
    precision: str = "TF32"
    target_ms: float | None = None
    limit_gib: float | None = None


class Layer(nn.Module):
    """A function of maps as a network that can be counted: maps are images times a weight."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], channels: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1, 1))
        self.function = function

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        return self.function(moving * self.weight, fixed * self.weight)


def _network(name: str, *, autocast: bool = False, training: bool = True, **options: object):
    """A training step, or a registration, of a model of the book."""

    def count(shape: tuple[int, ...]) -> Cost:
        model = create_model(name, **options)
        if autocast:
            channels_innermost(model)
        return account(
            model,
            shape,
            training=training,
            autocast=torch.bfloat16 if autocast else None,
            objective=ADRegNetObjective() if name == "ad_regnet" else None,
        )

    return count


def _layer(function: Callable[[Tensor, Tensor], Tensor], channels: int, shape: tuple[int, ...]):
    def count() -> Cost:
        return account(Layer(function, channels), shape, objective=lambda x, *_: (x.mean(), None))

    return count


def _local_ncc() -> Cost:
    layer = Layer(lambda moving, fixed: moving)
    return account(
        layer, BRAIN, objective=lambda warped, _, fixed: (local_ncc(warped, fixed), None)
    )


def _position_attention(moving: Tensor, fixed: Tensor) -> Tensor:
    tokens = moving.flatten(2).mT
    return attend(tokens[..., :8], tokens[..., 8:16], tokens, 8**-0.5)


def _steps(
    group: str,
    title: str,
    model: str,
    shape: tuple[int, ...],
    targets: Sequence[tuple[float | None, float | None]],
) -> list[Estimate]:
    """Training steps in both precisions, without and with checkpointing.

    Args:
        targets: milliseconds and GiB of the four.
    """
    kinds = ((precision, again) for precision in ("TF32", "bfloat16") for again in (False, True))
    return [
        Estimate(
            group,
            f"{title} {'x'.join(map(str, shape))}, training step, {precision}"
            + ", checkpointing" * again,
            partial(_network(model, autocast=precision == "bfloat16", checkpointing=again), shape),
            precision,
            *target,
        )
        for (precision, again), target in zip(kinds, targets, strict=True)
    ]


ESTIMATES = (
    Estimate("B1", "144x176x144, forward and backward", _local_ncc),
    Estimate(
        "B2",
        "8 channels, 144x176x144, forward and backward",
        _layer(lambda moving, fixed: warp(moving, fixed[:, :3]), 8, BRAIN),
    ),
    Estimate(
        "B3",
        "7 steps, 144x176x144, forward and backward",
        _layer(lambda moving, fixed: integrate(moving, 7), 3, BRAIN),
    ),
    Estimate(
        "B4",
        "8 channels, 144x176x144, forward and backward",
        _layer(local_correlation, 8, BRAIN),
    ),
    Estimate(
        "B5",
        "24 channels, 144x176x144, forward and backward",
        _layer(lambda moving, fixed: InstanceNormActivation(0.1)(moving), 24, BRAIN),
    ),
    Estimate(
        "B6",
        "position attention, 18x22x18, forward and backward",
        _layer(_position_attention, 64, (18, 22, 18)),
    ),
    *_steps(
        "B7", "LGANet++", "lganetpp", BRAIN, ((None, 13.5), (None, 6.0), (100.0, None), (None, 4.0))
    ),
    *_steps(
        "B8",
        "AD-RegNet",
        "ad_regnet",
        IXI,
        ((None, 20.0), (None, 13.5), (130.0, None), (130.0, 12.0)),
    ),
    *(
        Estimate(
            "B9",
            f"{name} 160x192x224, training step, bfloat16",
            partial(_network(name, autocast=True), IXI),
            "bfloat16",
            target,
        )
        for name, target in (("voxelmorph2", 20.0), ("transmorph", 50.0))
    ),
    Estimate(
        "B10",
        "LGANet++ 144x176x144, registration, bfloat16",
        partial(_network("lganetpp", autocast=True, training=False), BRAIN),
        "bfloat16",
        35.0,
    ),
    Estimate(
        "B12",
        "determinant, 144x176x144, forward and backward",
        _layer(lambda moving, fixed: jacobian_determinant(moving), 3, BRAIN),
    ),
)


def row(estimate: Estimate) -> dict[str, object]:
    """Counts and the bound, JSON-ready."""
    cost = estimate.count()
    seconds = max(
        cost.flops / FLOPS_PER_SECOND[estimate.precision], cost.traffic_bytes / BYTES_PER_SECOND
    )
    return {
        "group": estimate.group,
        "case": estimate.case,
        "precision": estimate.precision,
        "tflop": round(cost.flops / 1e12, 4),
        "traffic_gb": round(cost.traffic_bytes / 1e9, 2),
        "kernels": cost.kernels,
        "peak_gib": round(cost.peak_bytes / 2**30, 2),
        "bound_ms": round(1e3 * seconds, 2),
        "target_ms": estimate.target_ms,
        "limit_gib": estimate.limit_gib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", help="as B7; the lines of the others stay")
    groups = parser.parse_args().groups or {one.group for one in ESTIMATES}
    known = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    rows = {(one["group"], one["case"]): one for one in known}
    order = [(one.group, one.case) for one in ESTIMATES]
    for estimate in ESTIMATES:
        if estimate.group in groups:
            rows[estimate.group, estimate.case] = row(estimate)
            print(rows[estimate.group, estimate.case], flush=True)
            record = {
                "name": "estimates",
                "torch": torch.__version__.split("+")[0],
                "rows": [rows[key] for key in order if key in rows],
            }
            RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
