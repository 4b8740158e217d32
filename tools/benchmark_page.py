"""The benchmark page: what is fast, what is not, and why, from the committed results.

    python -m tools.benchmark_page            # write book/benchmarks.md
    python -m tools.benchmark_page --check    # only say whether the page is today's

Reads `benchmarks/results/`: one file per workload, `estimates.json` for what can be counted without
a GPU, `gpu-<device>.json` where one was at hand, and `zoo.json` for every network of the book.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from html import escape

from benchmarks.run import GROUPS, RESULTS, WORKLOADS, Row, Workload
from tools.contents import ROOT

PAGE = ROOT / "book" / "benchmarks.md"
MAIN_COMMAND = "python -m benchmarks.run"
GPU_COMMAND = "python -m benchmarks.gpu"


def page() -> str:
    """The text of `book/benchmarks.md`."""
    records = {name: _read(name) for name in WORKLOADS}
    measured = {name: record for name, record in records.items() if record}
    parts = [_INTRODUCTION, _where(measured), _summary(measured)]
    parts += [_section(group, measured) for group in GROUPS]
    parts += [_TRIED, _zoo()]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = f"""(benchmarks)=
# Benchmarks

<!-- Written by `python -m tools.benchmark_page` from benchmarks/results/; run the benchmarks. -->

How fast is the library, compared with what people use instead? Every line below is a contest: both
programs first have to agree on the result, then they take turns in one process on one thread, and
the ratio of their times is formed in every turn. **The ratio is the result, with its smallest and
largest value; seconds depend on the machine**, which also did other work at the same time. Times
are CPU seconds of the process unless a line says otherwise. Memory is how far the process grew in a
first run.

```console
$ pip install "regnet_lib[peers,test]"   # programs to compare with; absent ones are skipped
$ make benchmarks                        # or: {MAIN_COMMAND} local_ncc jacobian
```

A target that is missed is named as such, with what holds it back. What could not be measured for
want of a GPU says so; the estimate beside it is a count of operations and memory traffic at the
rates of a data sheet, which no program beats as long as its kernels read and write their tensors,
and which real steps exceed by about three times."""


_TRIED = f"""## What was tried and is not used

**`torch.compile`** makes one graph of VoxelMorph-2. Compiling it took 47 to 218 s on two cores, and
a step was no faster: it consists of convolutions, which are not compiled but called. LGANet++ takes
88 s to trace alone. A normalization by itself does gain (B5). The training loop therefore compiles
nothing; `torch.compile(model)` around a network of convolutions works.

**CUDA graphs** would take the launches of some thousand kernels (B7) off the processor. The shapes
of a training are static, and the loop reads nothing back from the device between two looks at the
loss, twenty steps apart. Capturing it cannot be tested without a GPU, so the loop does not.

**Triton kernels** for local NCC, warping, correlation and normalization exist for speed alone.
Triton's interpreter can check their values without a GPU and cannot say whether they pay, so there
are none; `{GPU_COMMAND}` measures what they would have to beat."""


def _read(name: str) -> dict | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _where(measured: dict[str, dict]) -> str:
    """Machines and versions."""
    machines = sorted(
        {
            f"{record['environment']['cpu']} with {record['environment']['cores']} cores"
            for record in measured.values()
        }
    )
    versions: dict[str, set[str]] = {}
    for record in measured.values():
        for package, number in record["environment"]["versions"].items():
            if number != "not installed" and package != "regnet_lib":
                versions.setdefault(package, set()).add(number)
    listed = ", ".join(f"{package} {' and '.join(sorted(v))}" for package, v in versions.items())
    return f"Measured on: {'; '.join(machines)}. Versions: {listed}."


def _summary(measured: dict[str, dict]) -> str:
    """Met and missed, by section."""
    lines = ["| | | targets met | missed |", "|:--|:--|--:|--:|"]
    for group, about in GROUPS.items():
        rows = [row for _, found in _of_group(group, measured) for row in found]
        verdicts = [row["met"] for row in rows]
        if rows:
            cells = f"{verdicts.count(True)} | {verdicts.count(False)}"
        else:
            absent = any(workload.group == group for workload in WORKLOADS.values())
            cells = f"{'not measured' if absent else 'needs a GPU'} | "
        lines.append(f"| {group} | {about.title} | {cells} |")
    return "\n".join(lines)


def _of_group(group: str, measured: dict[str, dict]) -> list[tuple[Workload, list[Row]]]:
    return [
        (workload, measured[name]["rows"])
        for name, workload in WORKLOADS.items()
        if workload.group == group and name in measured
    ]


def _section(group: str, measured: dict[str, dict]) -> str:
    about = GROUPS[group]
    parts = [f"## {group}: {about.title}", f"*Target on a CPU: {about.cpu}.*"]
    found = _of_group(group, measured)
    rows = [row for _, some in found for row in some]
    contests = [row for row in rows if "ratio" in row]
    timings = [row for row in rows if "ratio" not in row]
    if contests:
        parts.append(_contest_table(contests))
    if timings:
        parts.append(_timing_table(timings))
    curves = _growth(contests)
    if curves:
        parts.append(curves)
    for workload, some in found:
        if any(row["met"] is False for row in some) and workload.explanation:
            parts.append(f"**Why a target is missed.** {workload.explanation}")
        skipped = measured[workload.name].get("skipped")
        if skipped:
            parts.append(f"Not installed, and left out: {', '.join(skipped)}.")
    absent = [n for n, w in WORKLOADS.items() if w.group == group and n not in measured]
    if absent:
        parts.append(f"Not measured yet on a CPU: `{MAIN_COMMAND} {' '.join(absent)}` does it.")
    parts.append(_gpu(group))
    return "\n\n".join(parts)


def _contest_table(rows: Sequence[Row]) -> str:
    head = [
        "| computed | against | seconds | theirs | ratio | peak memory (MiB) | target |",
        "|:--|:--|--:|--:|--:|--:|:--|",
    ]
    lines = []
    for row in rows:
        ours, other = (statistics.median(row["cpu_seconds"][name]) for name in ("ours", "other"))
        low, high = row["ratio_range"]
        memory = row["peak_mib"]
        used = "" if memory["ours"] is None else f"{memory['ours']} / {memory['other']}"
        clock = row.get("clock", "process")
        case = row["case"] if clock == "process" else f"{row['case']} ({clock} time)"
        cells = [
            f"{case}<br><small>{row['agreement']}</small>",
            row["other"],
            _number(ours),
            _number(other),
            f"**{row['ratio']:.3g}** [{low:.3g} to {high:.3g}]",
            used,
            _verdict(row["met"], row["target"]),
        ]
        lines.append("| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |")
    return _scrolling([*head, *lines])


def _timing_table(rows: Sequence[Row]) -> str:
    head = [
        "| measured | seconds | clock | peak memory (MiB) | target |",
        "|:--|--:|:--|--:|:--|",
    ]
    lines = []
    for row in rows:
        low, high = min(row["cpu_seconds"]), max(row["cpu_seconds"])
        cells = [
            row["case"],
            f"**{_number(row['median_seconds'])}** [{_number(low)} to {_number(high)}]",
            row.get("clock", "process"),
            row.get("peak_mib") or "",
            _verdict(row["met"], row["target_seconds"], " s"),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return _scrolling([*head, *lines])


def _verdict(met: bool | None, target: float | None, unit: str = "") -> str:
    return "" if met is None else f"{'met' if met else 'missed'} ({target:.3g}{unit})"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _scrolling(lines: Sequence[str]) -> str:
    """Sideways on a phone; wrapped cells would make every line five lines tall."""
    return "\n".join([":::{div} rg-table", *lines, ":::"])


def _growth(rows: Sequence[Row]) -> str:
    """Exponents of time over size, and the curves."""
    curves: dict[str, list[tuple[int, float]]] = {}
    unit = ""
    for row in rows:
        if row.get("growth"):
            unit, amount = row["growth"]
            for name, who in (("ours", "ours"), (row["other"], "other")):
                curves.setdefault(name, []).append(
                    (amount, statistics.median(row["cpu_seconds"][who]))
                )
    curves = {name: _one_per_size(points) for name, points in curves.items()}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return ""
    laws = ", ".join(f"{unit}^{exponent(points):.2f} ({name})" for name, points in curves.items())
    return f"Time grows as {laws}.\n\n{_drawing(curves, unit)}"


def _one_per_size(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    sizes = sorted({size for size, _ in points})
    return [(size, statistics.median(t for s, t in points if s == size)) for size in sizes]


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Slope of a least-squares line through the logarithms of size and time."""
    x, y = ([math.log(point[i]) for point in points] for i in (0, 1))
    return statistics.linear_regression(x, y).slope


def _drawing(curves: dict[str, list[tuple[int, float]]], unit: str) -> str:
    """Both axes logarithmic; ours in the first color."""
    width, height, left, top = 720, 300, 60, 16
    sizes = [size for points in curves.values() for size, _ in points]
    times = [seconds for points in curves.values() for _, seconds in points]

    def x(size: float) -> float:
        return left + 420 * math.log(size / min(sizes)) / math.log(max(sizes) / min(sizes))

    def y(seconds: float) -> float:
        return top + 230 * (1 - math.log(seconds / min(times)) / math.log(max(times) / min(times)))

    title = f"CPU seconds over {unit}, both axes logarithmic"
    lines = [
        f'<svg class="diagram" role="img" aria-label="{escape(title)}" viewBox="0 0 {width} '
        f'{height}" xmlns="http://www.w3.org/2000/svg">'
    ]
    label_rows: list[float] = []
    for name, points in sorted(curves.items(), key=lambda item: y(item[1][-1][1])):
        style = "a" if name == "ours" else "b"
        path = " ".join(f"{x(size):.1f},{y(seconds):.1f}" for size, seconds in points)
        lines.append(f'<polyline class="{style}" fill="none" stroke-width="2" points="{path}"/>')
        at_x, at_y = x(points[-1][0]) + 8, y(points[-1][1]) + 5
        if label_rows:
            at_y = max(at_y, label_rows[-1] + 18)
        label_rows.append(at_y)
        short = escape(name.split(" (")[0])
        lines.append(f'<text class="{style}" x="{at_x:.1f}" y="{at_y:.1f}">{short}</text>')
    for size in sorted(set(sizes)):
        lines.append(f'<text x="{x(size):.1f}" y="270" text-anchor="middle">{size:,}</text>')
    lines.append(f'<text x="{left + 210}" y="292" text-anchor="middle">{unit}</text>')
    for seconds in (min(times), max(times)):
        lines.append(
            f'<text x="{left - 8}" y="{y(seconds) + 5:.1f}" text-anchor="end">'
            f"{_number(seconds)} s</text>"
        )
    return "\n".join([*lines, "</svg>"])


def _gpu(group: str) -> str:
    """What was measured on a GPU, or the command that would, and the estimate."""
    about = GROUPS[group]
    parts = [f"*Target on an H200: {about.h200}.*"]
    measured = False
    for path in sorted(RESULTS.glob("gpu-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        names = [name for name, workload in WORKLOADS.items() if workload.group == group]
        contests = [row for name in names for row in record["contests"].get(name, [])]
        steps = [row for row in record["steps"] if row["group"] == group]
        if contests or steps:
            measured = True
            parts.append(f"Measured on {record['device']}:")
            parts += [_contest_table(contests)] if contests else []
            parts += [_step_table(steps)] if steps else []
    if not measured:
        parts[0] += _NO_GPU.get(group, f" Not measured: needs a GPU; `{GPU_COMMAND}` measures it.")
    estimates = _read("estimates") or {"rows": []}
    rows = [row for row in estimates["rows"] if row["group"] == group]
    if rows:
        parts.append(_estimate_table(rows))
        parts += [_COUNTED[group]] if group in _COUNTED else []
    return "\n\n".join(parts)


_NO_GPU = {
    "B11": " The metrics run on the CPU; there is no GPU form.",
    "B13": " Files are read by the CPU; the share of a step follows from B7.",
    "B14": " Not measured: needs several GPUs; `torchrun --nproc-per-node N -m regnet_lib train "
    "EXPERIMENT` is the command.",
    "B15": " The engine does not depend on the device.",
    "B16": " Measured on the CPU; nothing in the library is compiled before its first use.",
    "B17": " Not measured: needs an H200 for 15 minutes per training; `regnet train "
    "lganetpp.table2.lganetpp.official --max-minutes 25` and `regnet evaluate "
    "lganetpp.table2.lganetpp.official` are the commands, and `--resume` continues.",
}


# What lies behind a count that is above its limit.
_COUNTED = {
    "B7": "The operations are 2 % above the aim of 11.0 TFLOP: attention weights with dropout are "
    "computed twice, because the CPU's kernel knows no dropout and its stand-in would keep the "
    "whole map.",
    "B8": "The limits of 20 and 13.5 GiB were set for attention on levels 3 and 4 alone. The paper "
    "attends on every level, and the windows of the fine ones (tokens, queries, keys and values of "
    "both images in both directions) take the larger part of the difference; the affine instance "
    "normalization, which keeps its input beside its result, takes most of the rest. With "
    "checkpointing the peak is one decoder block of both images at full resolution. Passing the "
    "images through it one by one would save a seventh, and was tried: gradients are then no "
    "longer bit-equal to those without checkpointing, so it was not kept.",
}


def _step_table(rows: Sequence[Row]) -> str:
    head = ["| step | ms | peak memory (GiB) | target |", "|:--|--:|--:|:--|"]
    lines = []
    for row in rows:
        targets = []
        if row["target_seconds"] is not None:
            verdict = "met" if row["met"] else "missed"
            targets.append(f"{verdict} ({1e3 * row['target_seconds']:g} ms)")
        if row["target_gib"] is not None:
            verdict = {True: "met", False: "missed", None: "unknown"}[row["fits"]]
            targets.append(f"{verdict} ({row['target_gib']:g} GiB)")
        memory = "" if row["peak_mib"] is None else f"{row['peak_mib'] / 1024:.1f}"
        milliseconds = f"{1e3 * row['median_seconds']:.1f}"
        lines.append(f"| {row['case']} | {milliseconds} | {memory} | {', '.join(targets)} |")
    return _scrolling([*head, *lines])


def _estimate_table(rows: Sequence[Row]) -> str:
    head = [
        "Estimate, counted and not measured:",
        "",
        ":::{div} rg-table",
        "| counted | TFLOP | traffic (GB) | kernels | peak (GiB) | at least (ms) | target (ms) |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    lines = []
    for row in rows:
        target = "" if row["target_ms"] is None else f"{row['target_ms']:g}"
        cells = [
            row["case"],
            f"{row['tflop']:.3g}",
            f"{row['traffic_gb']:.3g}",
            f"{row['kernels']:,}",
            f"{row['peak_gib']:.3g}{_limit(row)}",
            f"{row['bound_ms']:.3g}",
            target,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*head, *lines, ":::"])


def _limit(row: Row) -> str:
    limit = row.get("limit_gib")
    if limit is None:
        return ""
    return f", {'met' if row['peak_gib'] <= limit else 'missed'} ({limit:g})"


def _zoo() -> str:
    """Every network: counted, and timed where it was."""
    rows = (_read("zoo") or {"rows": []})["rows"]
    head = [
        "| model | options | parameters | GFLOP | registration (s) | its peak (MiB) | step (s) | "
        "kept for the backward pass (MiB) | peak of a step (MiB) |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines = []
    for row in rows:
        counted = row["counted"]["96x112x80"]
        forward, step = (
            "" if row[k] is None else _number(row[k]["seconds"]) for k in ("forward", "step")
        )
        cells = [
            row["model"],
            row["options"],
            f"{row['parameters']:,}",
            f"{counted['gflop']:.0f}",
            forward,
            f"{counted['forward_mib']:.0f}",
            step,
            f"{counted['saved_mib']:.0f}",
            f"{counted['step_mib']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    text = (
        "## Every network of the book\n\nAt 96x112x80, one thread, float32, one pair "
        "(`python -m benchmarks.zoo`). Operations and memory are counted; an empty cell was not "
        "timed. {doc}`../notebooks/15_the_baselines` compares them with their official code."
    )
    return f"{text}\n\n{_scrolling([*head, *lines])}"


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or say whether it is today's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    if not parser.parse_args(arguments).check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print("book/benchmarks.md is not what the results say; run: python -m tools.benchmark_page")
    return 1


if __name__ == "__main__":
    sys.exit(main())
