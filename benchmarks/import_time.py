"""What `import regnet_lib` adds to `import torch`, in fresh processes."""

import statistics
import subprocess
import sys

TARGET_SECONDS = 0.3
ROUNDS = 5
STATEMENTS = ("import regnet_lib", "import regnet_lib; regnet_lib.warp, regnet_lib.MODELS")
_PROGRAM = """
import time, torch
start = time.process_time()
{statement}
print(time.process_time() - start)
"""


def rows() -> list[dict[str, object]]:
    """Added CPU seconds per statement; the first is held to the target."""
    result = []
    for statement in STATEMENTS:
        program = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
        runs = [
            float(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
            for _ in range(ROUNDS)
        ]
        seconds = statistics.median(runs)
        result.append(
            {
                "case": statement,
                "cpu_seconds": [round(value, 4) for value in runs],
                "median_seconds": round(seconds, 4),
                "target_seconds": TARGET_SECONDS,
                "met": seconds <= TARGET_SECONDS,
            }
        )
    return result


def describe(row: dict[str, object]) -> str:
    low, high = min(row["cpu_seconds"]), max(row["cpu_seconds"])
    verdict = "met" if row["met"] else "MISSED"
    return (
        f"{row['case']}: {row['median_seconds']:.3f} s [{low:.3f}..{high:.3f}] after import torch "
        f"(target {row['target_seconds']:g} s, {verdict})"
    )
