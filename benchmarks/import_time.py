"""What `import regnet_lib` adds to `import torch`, in fresh processes."""

import subprocess
import sys

from benchmarks.measure import timing

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
    found = []
    for statement in STATEMENTS:
        program = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
        runs = [
            float(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
            for _ in range(ROUNDS)
        ]
        target = TARGET_SECONDS if statement == STATEMENTS[0] else None
        found.append(timing(f"after import torch: {statement}", runs, target))
    return found
