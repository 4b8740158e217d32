"""Which run of ours stands in which line of a table.

    for line in lines_of("lganetpp.table2"):
        print(line.row, line.state, line.label)

A run at the paper's budget on the paper's data shares the line of the paper's numbers. Any other
has a line of its own. Folds of one data set (`<name>.fold1` and so on) are one run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from regnet_lib.experiments import EXPERIMENTS, TABLES, Experiment
from regnet_lib.paper import paper_cells, quoted_rows
from regnet_lib.results import Run, pooled, read_runs
from regnet_lib.table_formats import RunLink

_FOLD = re.compile(r"\.fold\d+$")


@dataclass(frozen=True)
class Line:
    """A row with one run of ours, or with none.

    Attributes:
        state: `comparable` with the paper's numbers, or the verdict that says why not.
        label: what the run was, in a few words.
    """

    row: str
    state: str
    run: Run | None = None
    label: str = ""

    @property
    def beside_paper(self) -> bool:
        """Whether the paper's numbers stand in this line."""
        return self.run is None or self.state == "comparable"


def lines_of(name: str) -> list[Line]:
    """Rows that only we have, then those of the paper: the comparable run, then the others."""
    experiments = TABLES.get(name, ())
    printed = list(paper_cells(name)["row"].unique())
    quoted = set(quoted_rows().query("table == @name")["row"])
    ours = dict.fromkeys(one.row for one in experiments if one.row not in printed)
    lines = []
    for row in (*ours, *printed):
        found = [
            Line(row, _state(name, experiment, run), run, run_label(name, experiment, run))
            for experiment, run in latest(experiments)
            if experiment.row == row
        ]
        if row in printed and not any(line.beside_paper for line in found):
            lines.append(Line(row, "not rerun (quoted)" if row in quoted else "missing"))
        lines += sorted(found, key=lambda line: not line.beside_paper)
    return lines


def latest(experiments: Sequence[Experiment]) -> list[tuple[Experiment, Run]]:
    """Experiments that have a run, with the latest one; folds are pooled into one run."""
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        groups.setdefault(_FOLD.sub("", experiment.name), []).append(experiment)
    found = []
    for group in groups.values():
        runs = [runs[-1] for one in group if (runs := read_runs(one.name))]
        if runs:
            found.append((group[0], pooled(runs) if _FOLD.search(group[0].name) else runs[0]))
    return found


def _own_datasets(name: str) -> set[str]:
    """The data of the paper's table."""
    return {one.dataset for one in TABLES[name] if one.faithful}


def _planned_folds(name: str, experiment: Experiment) -> int:
    stem = _FOLD.sub("", experiment.name)
    return sum(_FOLD.sub("", one.name) == stem for one in TABLES[name])


def _state(name: str, experiment: Experiment, run: Run) -> str:
    if experiment.dataset not in _own_datasets(name):
        return "other data"
    trained = EXPERIMENTS[experiment.weights_of] if experiment.weights_of else experiment
    complete = not run.folds or len(run.folds) == _planned_folds(name, experiment)
    for training in (one.info["training"] for one in run.folds or (run,)):
        if training is not None:
            complete &= (training.get("epochs_planned") or 0) >= trained.epochs
            complete &= training["step"] >= (training.get("steps_planned") or 0)
    return "comparable" if experiment.faithful and complete else "reduced budget"


def count_cases(run: Run) -> int:
    """Number of cases that a run evaluated."""
    return int(run.info["evaluation"]["cases"])


def run_label(name: str, experiment: Experiment, run: Run) -> str:
    """Variant, data where not the table's own, resolution, steps and device of a run."""
    evaluation, training = run.info["evaluation"], run.info["training"]
    options = run.info["experiment"]["model_options"]
    parts = [str(options[key]) for key in ("variant", "mode") if key in options]
    if experiment.dataset not in _own_datasets(name):
        parts.append(experiment.dataset)
    if experiment.dataset_options.get("leaky"):
        parts.append("leaky")
    if "moving_contrast" in experiment.dataset_options:
        parts.append(f"{experiment.dataset_options['moving_contrast']}-like moving images")
    if "fixed" in experiment.dataset_options:
        parts.append(f"onto {experiment.dataset_options['fixed']}")
    if experiment.refine_steps:
        parts.append(f"{experiment.refine_steps} steps of instance optimization")
    sides = [f"{side:.3g}" for side in evaluation["spacing_mm"]]
    parts.append(f"{sides[0] if len(set(sides)) == 1 else ' × '.join(sides)} mm")
    if run.folds:
        parts.append(f"{len(run.folds)} of {_planned_folds(name, experiment)} folds")
    if training:
        of = EXPERIMENTS[experiment.weights_of].dataset if experiment.weights_of else ""
        elsewhere = f" on {of}" if of not in ("", *_own_datasets(name)) else ""
        parts.append(f"{training['step']} steps{elsewhere}")
    parts.append("CPU" if "thread" in str(run.info["device"]) else str(run.info["device"]))
    return ", ".join(parts)


def links(line: Line) -> list[RunLink]:
    """What the caption says about a run, fold by fold: budget, device, cases, parameters."""
    found = []
    for run in (line.run.folds or (line.run,)) if line.run else ():
        details = [f"{line.row}: {line.label}", str(run.info["device"]), f"n = {count_cases(run)}"]
        if run.info.get("parameters"):
            details.append(f"{run.info['parameters']:,} parameters")
        if seconds := run.info["evaluation"].get("seconds_per_case"):
            details.append(f"{seconds:.3g} s per case")
        found.append(RunLink("; ".join(details), f"results/{run.experiment}/{run.run_id}"))
    return found


def missing_commands(name: str) -> tuple[str, ...]:
    """Commands for the experiments at the paper's budget that have no run yet; folds in one."""
    groups: dict[str, list[Experiment]] = {}
    for experiment in TABLES.get(name, ()):
        if experiment.faithful and not read_runs(experiment.name):
            groups.setdefault(_FOLD.sub("", experiment.name), []).append(experiment)
    return tuple(_command(stem, group) for stem, group in groups.items())


def _command(stem: str, group: Sequence[Experiment]) -> str:
    first = group[0]
    name = first.name if len(group) == 1 else f"{stem}.fold$fold"
    trained = first.weights_of or (name if first.epochs else "")
    train = f"regnet train {trained} && " if trained else ""
    command = f"{train}regnet evaluate {name}"
    if len(group) == 1:
        return command
    folds = " ".join(one.name.rpartition(".fold")[2] for one in group)
    return f"for fold in {folds}; do {command}; done"
