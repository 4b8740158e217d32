"""The cards of the published weights, as Markdown for the end of `book/weights.md`."""

from regnet_lib.experiments import find_experiment
from regnet_lib.table_formats import RUNS_URL
from regnet_lib.weights import (
    REPOSITORY,
    PublishedWeights,
    describe_weights,
    published_weights,
)


def weights_page() -> str:
    """One section per card, with the command that uses it and a link to the rows."""
    sections = [_section(weights) for weights in published_weights().values()]
    return "\n\n".join(sections or [f"No weights here: they are part of {REPOSITORY}."]) + "\n"


def _section(weights: PublishedWeights) -> str:
    card = describe_weights(weights)
    run = card["run"].rpartition("/")[2]
    shown = card | {
        "model": f"`{card['model']}`",
        "run": f"[{run}]({RUNS_URL}{card['run']})",
        "SHA-256": f'<code style="overflow-wrap: anywhere">{card["SHA-256"]}</code>',
    }
    spacing = " x ".join(f"{size:g}" for size in dict.fromkeys(weights.images.spacing_mm))
    row = find_experiment(weights.name).row
    title = f"## {row}: {weights.dataset} at {spacing} mm, {weights.steps} steps"
    command = f"$ regnet register moving.nii.gz fixed.nii.gz --out result --weights {weights.name}"
    entries = "\n\n".join(f"{heading}\n: {text}" for heading, text in shown.items())
    return f"{title}\n\n```console\n{command}\n```\n\n{entries}"
