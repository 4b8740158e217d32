"""Published weights: trained networks by name, each with a hash, a card and the rows it stands for.

    weights/<experiment>.safetensors    all parameters of the network, in half precision
    weights/<experiment>.json           the card: what it was trained on, the run, the hash

    published = find_weights("lganetpp.table2.pivit.2mm.short")
    register(moving="a.nii.gz", fixed="b.nii.gz", weights=published.name)

They are part of the repository, not of the installed package: a checkout, or `$REGNET_HOME` that
names one, has them.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from regnet_lib.data.catalogue import CATALOGUE
from regnet_lib.data.volume import BadInputError
from regnet_lib.paths import results_folder, weights_folder
from regnet_lib.results import Run

REPOSITORY = "https://github.com/regnet-book/regnet-book"
FORMAT = "regnet-weights-1"
SUFFIX = ".safetensors"
# What a file of weights may be called; any other word is the name of published ones.
FILE_SUFFIXES = (SUFFIX, ".pt", ".pth", ".ckpt", ".bin", ".npz", ".h5")


@dataclass(frozen=True)
class TrainedImages:
    """What a network was shown: it does as well on other images as they are like these.

    Attributes:
        what: in words, with what was done to them before.
        spacing_mm: voxel size of the grid.
        axes: the direction in which each array axis grows, for example "RAS".
        shape: voxels of the grid.
        window_hu: CT numbers that became 0 and 1; None where the whole range of a scan did.
    """

    what: str
    spacing_mm: tuple[float, ...]
    axes: str
    shape: tuple[int, ...]
    window_hu: tuple[float, float] | None = None


@dataclass(frozen=True)
class PublishedWeights:
    """A card.

    Attributes:
        name: of the experiment, and of the file.
        model, model_options: arguments of `create_model`.
        dataset, dataset_options: what it was trained on, arguments of `open_dataset`.
        images: what the network expects.
        parameters: how many numbers the file holds.
        sha256: of the file.
        steps, steps_planned: optimiser steps done, and those of the whole training.
        precision: of the training; the file is in float16 in any case.
        device, seconds: where it was trained, and how long.
        run: the committed run that tested these weights in float32, below the results folder.
        metric: the one that counts there, `dice` or `tre_mm`.
        score_float16: its mean over the same test cases with this file, at publication.
        created: day of publication.
    """

    name: str
    model: str
    model_options: dict[str, object]
    dataset: str
    dataset_options: dict[str, object]
    images: TrainedImages
    parameters: int
    sha256: str
    steps: int
    steps_planned: int
    precision: str
    device: str
    seconds: float
    run: str
    metric: str
    score_float16: float
    created: str

    @property
    def path(self) -> Path:
        """The file."""
        return weights_folder() / f"{self.name}{SUFFIX}"

    @property
    def tested(self) -> Run:
        """The committed run, for its rows."""
        folder = results_folder() / self.run
        return Run(folder, json.loads((folder / "run.json").read_text(encoding="utf-8")))

    def write(self) -> Path:
        """The card, next to the weights."""
        from regnet_lib.data.atomic import write_atomically

        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"
        card = self.path.with_name(f"{self.name}.json")
        write_atomically(card, lambda path: path.write_text(text), overwrite=True)
        return card

    def verified(self) -> Path:
        """The file, once its content has been compared with the card.

        Raises:
            BadInputError: the file is missing or another one.
        """
        if not self.path.is_file():
            raise BadInputError(
                f"{self.path}: expected the weights that {self.name}.json describes, found no "
                "file. Restore it from the repository."
            )
        found = digest(self.path)
        if found != self.sha256:
            raise BadInputError(
                f"{self.path}: expected the SHA-256 {self.sha256}, found {found}: the file is "
                "damaged or was changed. Restore it from the repository."
            )
        return self.path


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published_weights() -> dict[str, PublishedWeights]:
    """All cards by name; none without a checkout."""
    return {card.stem: _read(card) for card in sorted(weights_folder().glob("*.json"))}


def find_weights(name: str) -> PublishedWeights:
    """Published weights by name; an unknown name lists the near ones.

    Raises:
        BadInputError: no such name, or no published weights here at all.
    """
    folder = weights_folder()
    known = [card.stem for card in sorted(folder.glob("*.json"))]
    if name in known:
        return _read(folder / f"{name}.json")
    if not known:
        raise BadInputError(
            f"weights: expected the published weights {name!r} in {folder}, found none there. They "
            f"are part of the repository, not of the package: clone {REPOSITORY} and set "
            "REGNET_HOME to it, or give a file of your own."
        )
    contained = [one for one in known if name.lower() in one]
    near = contained or get_close_matches(name, known, n=3, cutoff=0.3) or known
    raise BadInputError(
        f"weights: expected the name of published weights or an existing file, got {name!r}. "
        f"Near: {', '.join(near[:4])}. `regnet weights list` shows all."
    )


def is_name(weights: str | os.PathLike | None) -> bool:
    """Whether this asks for published weights by name, not for a file."""
    if not isinstance(weights, str) or os.path.exists(weights):
        return False
    return not (weights.endswith(FILE_SUFFIXES) or set(weights) & {"/", os.sep})


def describe_weights(weights: PublishedWeights) -> dict[str, str]:
    """The card in words, by heading."""
    images, entry, run = weights.images, CATALOGUE[weights.dataset], weights.tested
    sides = " x ".join(map(str, images.shape))
    spacing = " x ".join(f"{size:g}" for size in images.spacing_mm)
    window = images.window_hu
    scaled = "[0, 1]" if window is None else f"{window[0]:g} to {window[1]:g} HU as 0 to 1"
    options = ", ".join(f"{name}={value!r}" for name, value in weights.model_options.items())
    metric = weights.metric
    words = {"dice": "mean Dice", "tre_mm": "mean landmark error"}[metric]
    cases, score = len(run.case_means(metric)), _shown(mean_of_cases(run, metric), metric)
    before = before_registration(weights)
    start = "" if before is None else f", {_shown(before, metric)} before registration"
    planned = weights.steps_planned
    stopped = "" if weights.steps == planned else f" of {planned}: stopped early"
    size_mb = weights.path.stat().st_size / 1e6 if weights.path.exists() else 0.0
    return {
        "model": f"{weights.model}({options})",
        "parameters": f"{weights.parameters:,} in float16, {size_mb:.1f} MB",
        "images": f"{images.what}; {sides} voxels of {spacing} mm, axes {images.axes}, {scaled}",
        "trained on": f"{weights.dataset}: {entry.what}",
        "terms": f"{entry.licence}. They apply to the images, which are not part of this file",
        "training": f"{weights.steps} steps{stopped}, {weights.precision}, "
        f"{weights.seconds / 60:.0f} min on {weights.device}",
        "test": f"{words} {_shown(weights.score_float16, metric)} over {cases} cases{start}; "
        f"{score} with the weights in float32",
        "run": f"results/{weights.run}",
        "SHA-256": weights.sha256,
        "published": weights.created,
    }


def before_registration(weights: PublishedWeights) -> float | None:
    """The metric of the same test cases when nothing is done, if that is among the results."""
    from regnet_lib.experiments import EXPERIMENTS
    from regnet_lib.results import read_runs

    def tested(run: Run) -> tuple[object, set[str]]:
        return run.info["evaluation"]["shape"], set(run.case_means(weights.metric).index)

    for experiment in EXPERIMENTS.values():
        if experiment.model == "identity" and experiment.dataset == weights.dataset:
            for run in reversed(read_runs(experiment.name)):
                if tested(run) == tested(weights.tested):
                    return mean_of_cases(run, weights.metric)
    return None


def mean_of_cases(run: Run, metric: str) -> float:
    """Mean over cases of the mean over structures or landmarks."""
    return float(np.mean(run.case_means(metric)))


def _shown(value: float, metric: str) -> str:
    return f"{value:.4f}" if metric == "dice" else f"{value:.2f} mm"


def _read(card: Path) -> PublishedWeights:
    try:
        kept = json.loads(card.read_text(encoding="utf-8"))
        if kept.pop("format") != FORMAT:
            raise ValueError("another format")
        images = kept.pop("images")
        window = images.pop("window_hu")
        trained = TrainedImages(
            images["what"],
            tuple(images["spacing_mm"]),
            images["axes"],
            tuple(images["shape"]),
            None if window is None else (window[0], window[1]),
        )
        return PublishedWeights(**kept, images=trained)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"{card}: expected a card of published weights, found something else ({error!r}). "
            "Restore it from the repository."
        ) from error
