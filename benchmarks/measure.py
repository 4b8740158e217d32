"""The measurement itself: equality first, then interleaved rounds on one thread.

Process CPU time rather than wall time, so that a busy machine disturbs little; contenders take
turns, so that what disturbs one disturbs the other; the ratio is taken per round.
"""

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    """

    case: str
    ours: Callable[[], object]
    other: Callable[[], object]
    other_name: str
    check: Callable[[object, object], str]
    target: float | None = None
    rounds: int = 5
    share: float = 1.0


def measure(comparison: Comparison) -> dict[str, object]:
    """Check, time and weigh both contenders; a JSON-ready row."""
    ours, ours_mib = peak_mib(comparison.ours)
    other, other_mib = peak_mib(comparison.other)
    agreement = comparison.check(ours, other)
    del ours, other
    seconds: dict[str, list[float]] = {"ours": [], "other": []}
    for number in range(comparison.rounds):
        turns = [("ours", comparison.ours), ("other", comparison.other)]
        for name, run in turns if number % 2 == 0 else turns[::-1]:
            gc.collect()
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
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
    }


def describe(row: dict[str, object]) -> str:
    """One line for the terminal."""
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


def peak_mib(run: Callable[[], object]) -> tuple[object, int | None]:
    """The result of a run and how far resident memory rose above where it started (Linux only)."""
    gc.collect()
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
