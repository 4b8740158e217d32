"""Speed and memory of the library against what people use today; run with `python -m
benchmarks.run`."""
