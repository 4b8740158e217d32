"""Pickles of arrays are read; pickles that do anything else are refused before they do it."""

import io
import os
import pickle

import numpy as np
import pytest

from regnet_lib.data import BadInputError
from regnet_lib.data.pickles import read_pickled_arrays

IMAGE = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
LABELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


class Calls:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "subject_1.pkl"


class TestGood:
    @pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
    def test_every_protocol_that_python_wrote_by_default(self, path, protocol):
        image, labels = read_pickled_arrays(write(path, (IMAGE, LABELS), protocol), count=2)
        for found, expected in ((image, IMAGE), (labels, LABELS)):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype

    def test_both_names_of_the_module_in_numpy(self, path):
        data = pickle.dumps((IMAGE, LABELS), protocol=2)
        names = (b"numpy.core.multiarray", b"numpy._core.multiarray")
        assert any(name in data for name in names)
        for name in names:
            renamed = data.replace(names[1], names[0]).replace(names[0], name)
            path.write_bytes(renamed)
            np.testing.assert_array_equal(read_pickled_arrays(path, count=2)[0], IMAGE)

    def test_column_order_other_types_and_lists(self, path):
        arrays = [
            np.asfortranarray(IMAGE),
            IMAGE.astype(">f8"),
            LABELS.astype(np.uint8),
            LABELS > 3,
        ]
        found = read_pickled_arrays(write(path, arrays), count=4)
        for array, expected in zip(found, arrays, strict=True):
            np.testing.assert_array_equal(array, expected)

    def test_a_single_array(self, path):
        (array,) = read_pickled_arrays(write(path, IMAGE), count=1)
        np.testing.assert_array_equal(array, IMAGE)


class TestHostile:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda bad: bad,
            lambda bad: (IMAGE, bad),
            lambda bad: (IMAGE, LABELS, bad),
            lambda bad: ({"key": [bad]}, LABELS),
            lambda bad: (np.array([bad, None], dtype=object), LABELS),
        ],
        ids=["alone", "second", "third", "nested", "in an object array"],
    )
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_code_is_not_run(self, path, tmp_path, wrap, protocol):
        victim = tmp_path / "victim"
        bad = Calls(os.system, f"touch {victim}")
        write(path, wrap(bad), protocol)
        with pytest.raises(BadInputError, match=r"subject_1\.pkl: .*calls (posix|nt)\.system"):
            read_pickled_arrays(path, count=2)
        assert not victim.exists()

    def test_the_trap_would_have_worked(self, path, tmp_path):
        """Otherwise the test above proves nothing."""
        victim = tmp_path / "victim"
        write(path, Calls(os.mkdir, str(victim)))
        pickle.loads(path.read_bytes())
        assert victim.exists()

    @pytest.mark.parametrize(
        "call, name",
        [
            (Calls(eval, "1"), "builtins.eval"),
            (Calls(getattr, np.ndarray, "tofile"), "builtins.getattr"),
            (Calls(np.load, "x.npy", None, True), "numpy.load"),
            (Calls(np.fromfile, "x"), "numpy.fromfile"),
            (Calls(__import__, "os"), "builtins.__import__"),
        ],
        ids=["eval", "getattr", "numpy.load", "numpy.fromfile", "import"],
    )
    def test_the_function_is_named(self, path, call, name):
        with pytest.raises(BadInputError, match=f"one that calls {name}.*It was not run"):
            read_pickled_arrays(write(path, (call, LABELS)), count=2)

    @pytest.mark.parametrize("name", ["ndarray.tofile", "_core.multiarray.fromfile", "dtype.mro"])
    def test_attributes_of_allowed_names_are_not_allowed(self, path, name):
        """Protocol 4 looks up dotted names."""
        data = pickle.PROTO + b"\x04"
        data += b"\x8c\x05numpy" + b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
        path.write_bytes(data)
        with pytest.raises(BadInputError, match=f"calls numpy.{name}"):
            read_pickled_arrays(path, count=1)

    def test_objects_outside_the_file(self, path):
        class Outside(pickle.Pickler):
            def persistent_id(self, item):
                return "somewhere" if item is None else None

        stream = io.BytesIO()
        Outside(stream, 4).dump((None, LABELS))
        path.write_bytes(stream.getvalue())
        with pytest.raises(BadInputError, match="for an object outside the file"):
            read_pickled_arrays(path, count=2)

    def test_protocol_5_is_refused_with_the_way_out(self, path):
        with pytest.raises(BadInputError, match="_frombuffer.*store them with protocol 4"):
            read_pickled_arrays(write(path, (IMAGE, LABELS), 5), count=2)


class TestBad:
    @pytest.mark.parametrize(
        "content, found",
        [
            ((IMAGE, IMAGE, LABELS, LABELS), r"4 items \(float32 \(3, 4, 5\), .* 4 arrays, single"),
            ((IMAGE,), r"1 items \(float32"),
            (IMAGE, r"1 items \(float32"),
            ((IMAGE, "text"), r"2 items \(float32 \(3, 4, 5\), str\)"),
            ((IMAGE, LABELS.tolist()), r"\(3, 4, 5\), list\)"),
            ((IMAGE, LABELS.astype(object)), r"object \(3, 4, 5\)"),
            ((IMAGE, IMAGE.astype(complex)), "complex128"),
            ({"image": 1}, r"1 items \(dict\)"),
        ],
        ids=["pair", "one", "bare", "text", "list", "objects", "complex", "dictionary"],
    )
    def test_something_else_than_two_arrays(self, path, content, found):
        with pytest.raises(BadInputError, match=f"expected 2 arrays of numbers, found .*{found}"):
            read_pickled_arrays(write(path, content), count=2)

    def test_missing(self, path):
        with pytest.raises(BadInputError, match=r"subject_1\.pkl: the file does not exist"):
            read_pickled_arrays(path, count=2)

    @pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html>", b"\x80\x04"])
    def test_foreign(self, path, data):
        path.write_bytes(data)
        with pytest.raises(BadInputError, match="damaged or foreign file .*Fetch it again"):
            read_pickled_arrays(path, count=2)

    @pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
    def test_truncated(self, path, share):
        data = pickle.dumps((IMAGE, LABELS), protocol=4)
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(BadInputError, match="damaged or foreign file"):
            read_pickled_arrays(path, count=2)

    def test_more_memory_than_there_is(self, path):
        huge = Calls(np.zeros(0).__reduce__()[0], np.ndarray, (2**58,), b"d")
        with pytest.raises(BadInputError, match="damaged or foreign file"):
            read_pickled_arrays(write(path, (huge, LABELS)), count=2)
