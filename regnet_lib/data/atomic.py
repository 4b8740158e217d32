"""Writing files so that a final name always holds a complete file: the old one or the new one.

write_atomically(path, lambda temporary: temporary.write_text(text), overwrite=True)
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from regnet_lib.data.volume import BadInputError


def write_atomically(
    path: Path, write: Callable[[Path], object], *, overwrite: bool = False
) -> None:
    """Call `write(temporary)` and rename the result to `path` once it is complete on disk.

    Raises:
        BadInputError: the file exists and may not be replaced, or its folder is missing.
        OSError: the disk is full or read-only, with the name of the file; nothing has changed.
    """
    if path.exists() and not overwrite:
        raise BadInputError(
            f"{path}: the file exists. Choose another name or allow overwriting (overwrite=True)."
        )
    if not path.parent.is_dir():
        raise BadInputError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    # The suffix stays at the end: nibabel chooses the format and the compression by it.
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp is private by default; the final file gets the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno is None or error.filename == str(path):
            raise
        raise type(error)(
            error.errno,
            f"cannot be written ({error.strerror}); what was there before is unchanged. Free some "
            "space or choose another folder",
            str(path),
        ) from error
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_arrays(path: Path, *, overwrite: bool = False, **arrays: np.ndarray) -> None:
    """One compressed `.npz` of named arrays, complete or not at all.

    Raises:
        BadInputError, OSError: as `write_atomically`.
    """
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays), overwrite=overwrite)
