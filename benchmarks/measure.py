"""The measurement itself: equality first, then interleaved rounds on one thread.

Process CPU time rather than wall time, so that a busy machine disturbs little; contenders take
turns, so that what disturbs one disturbs the other; the ratio is taken per round. On a GPU it is
wall time between two synchronizations.
"""

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

CPU = torch.device("cpu")
MIB = 1024


@dataclass(frozen=True)
class Comparison:
    """One contest.

    Attributes:
        case: what is computed, with its size.
        ours, other: run one contender and return its result.
        other_name: who the other is.
        check: raises AssertionError unless the two results agree; says how closely they do.
        target: the ratio other / ours that we hold ourselves to; None without one.
        rounds: measured rounds, after the one that checks.
        share: part of the whole job that `other` runs; its time is divided by it.
        growth: a point of a curve of time over size, as ("voxels", 860160); None if it is none.
    """

    case: str
    ours: Callable[[], object]
    other: Callable[[], object]
    other_name: str
    check: Callable[[object, object], str]
    target: float | None = None
    rounds: int = 5
    share: float = 1.0
    growth: tuple[str, int] | None = None


def measure(comparison: Comparison, device: torch.device = CPU) -> dict[str, object]:
    """Check, time and weigh both contenders; a JSON-ready row."""
    ours, ours_mib = peak_mib(comparison.ours, device)
    other, other_mib = peak_mib(comparison.other, device)
    agreement = comparison.check(ours, other)
    del ours, other
    seconds: dict[str, list[float]] = {"ours": [], "other": []}
    for number in range(comparison.rounds):
        turns = [("ours", comparison.ours), ("other", comparison.other)]
        for name, run in turns if number % 2 == 0 else turns[::-1]:
            gc.collect()
            start = now(device)
            run()
            seconds[name].append(now(device) - start)
    seconds["other"] = [value / comparison.share for value in seconds["other"]]
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["other"], strict=True)]
    ratio = statistics.median(ratios)
    return {
        "case": comparison.case,
        "other": comparison.other_name,
        "agreement": agreement,
        "share_measured": comparison.share,
        "cpu_seconds": {name: [round(v, 4) for v in values] for name, values in seconds.items()},
        "ratio": round(ratio, 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "peak_mib": {"ours": ours_mib, "other": other_mib},
        "target": comparison.target,
        "met": None if comparison.target is None else ratio >= comparison.target,
        "growth": comparison.growth,
    }


def timing(
    case: str, seconds: list[float], target: float | None, clock: str = "process"
) -> dict[str, object]:
    """A row that is held to seconds instead of to another program.

    Args:
        clock: `process` for CPU seconds of this process, `wall` for what a user waits.
    """
    median = statistics.median(seconds)
    return {
        "case": case,
        "clock": clock,
        "cpu_seconds": [round(value, 4) for value in seconds],
        "median_seconds": round(median, 4),
        "target_seconds": target,
        "met": None if target is None else median <= target,
    }


def describe(row: dict[str, object]) -> str:
    """One line for the terminal."""
    if "ratio" not in row:
        low, high = min(row["cpu_seconds"]), max(row["cpu_seconds"])
        verdict = {None: "no target", True: "met", False: "MISSED"}[row["met"]]
        target = "" if row["target_seconds"] is None else f"target {row['target_seconds']:g} s, "
        return (
            f"{row['case']}: {row['median_seconds']:.3f} s [{low:.3f}..{high:.3f}], "
            f"{row['clock']} clock ({target}{verdict})"
        )
    low, high = row["ratio_range"]
    ours, other = (statistics.median(row["cpu_seconds"][name]) for name in ("ours", "other"))
    verdict = {None: "", True: ", met", False: ", MISSED"}[row["met"]]
    target = "" if row["target"] is None else f" (target {row['target']:g}x{verdict})"
    memory = row["peak_mib"]
    return (
        f"{row['case']}: {ours:.3f} s against {other:.3f} s of {row['other']}, "
        f"{row['ratio']:.2f}x [{low:.2f}..{high:.2f}]{target}; peak {memory['ours']} against "
        f"{memory['other']} MiB; {row['agreement']}"
    )


def now(device: torch.device = CPU) -> float:
    """Seconds on the clock of a device: CPU time of this process, or synchronized wall time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def installed(package: str) -> bool:
    """Whether a program to compare with can be imported."""
    return find_spec(package) is not None


@contextmanager
def kept_storages() -> Iterator[dict[int, int]]:
    """What autograd keeps of the computations inside: bytes per storage, by its address."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def peak_mib(run: Callable[[], object], device: torch.device = CPU) -> tuple[object, int | None]:
    """The result of a run, and how far memory rose above where it started.

    Resident memory on the CPU (Linux only), allocated memory on a GPU.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        torch.cuda.synchronize(device)
        return result, (torch.cuda.max_memory_allocated(device) - before) // 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _status_kib("VmRSS")
        result = run()
        return result, (_status_kib("VmHWM") - before) // MIB
    except (OSError, AttributeError):
        return run(), None


def _status_kib(field: str) -> int:
    return int(re.search(field + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])
