"""Which dataset a folder holds, and whether it is complete and undamaged.

    for finding in check_folder("from-a-colleague"):
        print(finding.name, finding.counts, finding.faults)

Every case is read through its adapter, to the last byte: truncated files, label maps of another
grid and missing landmarks are all found before a training would find them, and all at once.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from regnet_lib.data.catalogue import find_entry
from regnet_lib.data.nifti import BadInputError


@dataclass(frozen=True)
class Finding:
    """What a check saw in one folder.

    Attributes:
        name: the dataset whose layout it is.
        counts: cases by split, those read without a fault and those expected (None: any number).
        faults: one complaint each, with the file, and what to do.
    """

    name: str
    folder: Path
    counts: Mapping[str, tuple[int, int | None]]
    faults: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """No fault, and as many cases as there should be."""
        enough = all(expected in (None, found) for found, expected in self.counts.values())
        return enough and not self.faults


def check_folder(
    folder: str | os.PathLike, report: Callable[[str], object] = lambda line: None
) -> tuple[Finding, ...]:
    """Recognise the datasets of a folder and read every case of them, to the last byte.

    Args:
        folder: a dataset, or a folder of datasets such as `$REGNET_DATA`.
        report: is told which dataset is being read, and of each fault as it is found.

    Raises:
        BadInputError: no folder, or nothing in it that is known.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInputError(f"{folder}: expected a folder with a dataset, found none.")
    found = [(name, folder) for name in recognise(folder)]
    if not found:
        inner = sorted(path for path in folder.iterdir() if path.is_dir())
        found = [(name, path) for path in inner for name in recognise(path)]
    if not found:
        raise BadInputError(
            f"{folder}: expected the layout of a known dataset, found none of "
            f"{', '.join(sorted(_all_markers()))}. The layouts are on the book's data page."
        )
    return tuple(_read_all(name, path, report) for name, path in found)


def recognise(folder: Path) -> list[str]:
    """Names of the datasets whose marks the folder bears."""
    from regnet_lib.data import MARKERS

    return [
        name
        for name, markers in MARKERS.items()
        if any((folder / marker).exists() for marker in markers)
    ]


def _all_markers() -> Iterator[str]:
    from regnet_lib.data import MARKERS

    return (marker for markers in MARKERS.values() for marker in markers)


def _read_all(name: str, folder: Path, report: Callable[[str], object]) -> Finding:
    from regnet_lib.data import open_dataset

    entry = find_entry(name)
    report(f"{name}: reading {folder}")
    faults: list[str] = []
    counts: dict[str, tuple[int, int | None]] = {}

    def fault(error: Exception) -> None:
        text = str(error) or repr(error)
        if text not in faults:  # the atlas belongs to every case
            faults.append(text)
            report(f"{name}: {text}")

    try:
        dataset = open_dataset(name, folder, **entry.options)
        if hasattr(dataset, "kept_mib"):
            dataset.kept_mib = 256
    except (BadInputError, OSError) as error:
        fault(error)
        counts = {split: (0, expected) for split, expected in entry.cases.items()}
        return Finding(name, folder, counts, tuple(faults))
    for split, expected in entry.cases.items():
        good = 0
        for case_id in dataset.ids(split):
            try:
                dataset.case(case_id)
                good += 1
            except (BadInputError, OSError) as error:
                fault(error)
        counts[split] = (good, expected)
    return Finding(name, folder, counts, tuple(faults))
