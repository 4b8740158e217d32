"""`regnet data list`, `check` and `fetch`."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

commands = tyro.extras.SubcommandApp()


@commands.command(name="list")
def data_list(name: Annotated[Positional[str | None], arg(metavar="NAME")] = None, /) -> int:
    """Say what each dataset is, where it comes from, its licence, and whether it is here.

    Args:
        name: A dataset, with instructions to get it; without it, a line for all of them.
    """
    from regnet_lib.data import MARKERS, available
    from regnet_lib.data.catalogue import CATALOGUE, find_entry, instructions

    if name is not None:
        entry = find_entry(name)
        print(instructions(entry, f"$REGNET_DATA/{name}"))
        for archive in entry.archives:
            address = archive.urls[0] if archive.urls else "on request"
            print(f"archive: {archive.name}, {address}, {archive.digest}")
        return 0
    for entry in CATALOGUE.values():
        here = "here" if available(entry.name) else "not here"
        how = "regnet data fetch" if entry.fetchable else "by hand: regnet data list NAME"
        print(f"{entry.name} ({here}): {entry.what}")
        print(f"  for      {entry.used_by}\n  from     {entry.origin}")
        print(f"  licence  {entry.licence}")
        if entry.registration:
            print(f"  you      {entry.registration}")
        if entry.name in MARKERS:
            print(f"  get it   {how}")
    return 0


@commands.command(name="check")
def data_check(folder: Annotated[Positional[Path], arg(metavar="DIR")], /) -> int:
    """Say which datasets a folder holds, and what is missing or broken; reads every file.

    Args:
        folder: A dataset, or a folder of datasets.
    """
    from regnet_lib.data.check import check_folder

    findings = check_folder(folder, report=print)
    for finding in findings:
        for split, (found, expected) in finding.counts.items():
            wanted = "" if expected is None else f" of {expected}"
            print(f"{finding.name}: {split:10s} {found}{wanted} cases")
        print(f"{finding.name}: {'complete' if finding.complete else 'INCOMPLETE OR BROKEN'}")
    return 0 if all(finding.complete for finding in findings) else 1


@commands.command(name="fetch")
def data_fetch(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    /,
    root: Path | None = None,
    archives: Path | None = None,
    accept_terms: bool = False,
    keep_archives: bool = False,
) -> int:
    """Download a dataset, verify it and unpack it; goes on where it was interrupted.

    Args:
        name: A dataset; those that cannot be downloaded get instructions.
        root: Folder of all datasets; default $REGNET_DATA.
        archives: Folder with archives that you have already.
        accept_terms: You have read and accept the owner's terms.
        keep_archives: Leave the downloaded archives in .archives.
    """
    import os

    from regnet_lib.data.catalogue import find_entry, instructions
    from regnet_lib.data.fetch import fetch

    entry = find_entry(name)
    if archives is None and not entry.fetchable:
        print(instructions(entry, f"$REGNET_DATA/{name}"))
        return 1
    root = root or (Path(os.environ["REGNET_DATA"]) if os.environ.get("REGNET_DATA") else None)
    if root is None:
        raise ValueError("expected a folder: set REGNET_DATA, or give --root.")
    folder = fetch(
        name,
        root,
        archives=archives,
        accept_terms=accept_terms,
        keep_archives=keep_archives,
        report=print,
    )
    print(f"wrote {folder}; look with: regnet data check {folder}")
    return 0
