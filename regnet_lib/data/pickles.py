"""Arrays out of pickle files that strangers made.

A pickle is a program, and `pickle.load` runs it, whatever it does. The TransMorph authors publish
IXI as pickles; arrays need exactly four functions, so this reader offers those four and refuses a
file that asks for anything else, before anything of it has run.

    image, labels = read_pickled_arrays("Test/subject_3.pkl", count=2)
"""

import _codecs
import pickle
from pathlib import Path

import numpy as np

from regnet_lib.data.nifti import BadInputError


def read_pickled_arrays(path: Path, *, count: int) -> tuple[np.ndarray, ...]:
    """The arrays of real numbers in a pickled tuple (or list) of `count` of them.

    Raises:
        BadInputError: missing or damaged file, one that asks for other functions than arrays
            need, or one that holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInputError(f"{path}: the file does not exist. Check the path.")
    try:
        with path.open("rb") as stream:
            content = _ArrayUnpickler(stream).load()
    except _RefusedError as error:
        raise BadInputError(
            f"{path}: expected a pickle of plain arrays, found one that calls {error}. It was not "
            "run. Do not load this file in another way; fetch it again from its authors. (Arrays "
            "pickled with protocol 5 look like this too: store them with protocol 4.)"
        ) from None
    except Exception as error:  # a damaged pickle can fail in almost any way
        raise BadInputError(
            f"{path}: expected a pickle, found a damaged or foreign file "
            f"({error or type(error).__name__}). Fetch it again."
        ) from error
    if not isinstance(content, (tuple, list)):
        content = (content,)
    if len(content) != count or not all(_is_numbers(item) for item in content):
        found = ", ".join(_describe(item) for item in content[:8])
        raise BadInputError(
            f"{path}: expected {count} arrays of numbers, found {len(content)} items ({found}). "
            "Collections of the same authors differ: pairs with their label maps hold 4 arrays, "
            "single subjects 2."
        )
    return tuple(content)


class _RefusedError(Exception):
    """The name of a function that a pickle asked for and does not get."""


# The function that array pickles call; NumPy 2 renamed its module, and files carry either name.
_reconstruct = np.zeros(0).__reduce__()[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _codecs.encode,  # how the oldest protocols write bytes
}


class _ArrayUnpickler(pickle.Unpickler):
    """Looks nothing up by name: what is not in the table does not exist."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, reference: object) -> object:
        raise _RefusedError("for an object outside the file")


def _is_numbers(item: object) -> bool:
    return isinstance(item, np.ndarray) and item.dtype.kind in "biuf"


def _describe(item: object) -> str:
    if isinstance(item, np.ndarray):
        return f"{item.dtype} {item.shape}"
    return type(item).__name__
