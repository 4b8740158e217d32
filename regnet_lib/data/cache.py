"""Prepared volumes on disk, mapped into memory: an epoch without unpacking `.nii.gz` again.

    dataset = CachedDataset(open_dataset("ixi"), "cache")
    case = dataset.case("IXI012-HH-1211")     # the first time from the set, then from the cache

One folder per set, preparation and state of the files; one `.npy` per volume, named by its content,
so that the atlas of all cases is kept once; one JSON file per case. Images become bytes where that
is exact (values k/255), else intensities in [0, 1] become 16-bit steps, right to within 1e-5
(half precision would take as much room, be 30 times coarser, and slower to read); label maps become
bytes. Anything else of a case is kept exactly.
"""

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regnet_lib.data import Dataset
from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.case import Case
from regnet_lib.data.volume import BadInputError

FORMAT = 1  # of the files here; a new number begins new caches
_POINTS = ("moving_landmarks", "fixed_landmarks")
_MAPS = ("moving_labels", "fixed_labels")


class CachedDataset:
    """A dataset whose cases come from a cache once they have been read.

    Args:
        dataset: an adapter with `root`, the folder of its files.
        folder: where caches are kept, several sets beside each other; created if needed.

    Attributes:
        folder: that of this set, `<name>-<key>`.
    """

    def __init__(self, dataset: Dataset, folder: str | os.PathLike) -> None:
        if not hasattr(dataset, "root"):
            raise BadInputError(
                f"{dataset.name}: expected a dataset with files of its own, found one that is "
                "computed. Use it without a cache."
            )
        self.dataset = dataset
        self.name = dataset.name
        self.label_ids = dataset.label_ids
        self.folder = Path(folder).expanduser() / f"{dataset.name}-{source_key(dataset)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._atlas: tuple[str, Tensor] = ("", torch.empty(0))

    def ids(self, split: str) -> tuple[str, ...]:
        """Names of the cases of a split."""
        return self.dataset.ids(split)

    def case(self, case_id: str, *, labels: bool = True) -> Case:
        """The case of that name, with images as the cache holds them from the first time on."""
        # Which two subjects a name stands for can depend on the split.
        pair = self.dataset.pair(case_id) if hasattr(self.dataset, "pair") else ()
        images, maps = (self.folder / _file_name(case_id, pair, kind) for kind in ("", "labels"))
        if not maps.exists() and (labels or not images.exists()):
            self._write(maps if labels else images, self.dataset.case(case_id, labels=labels))
        return self._read(maps if maps.exists() else images, labels)

    def _write(self, manifest: Path, case: Case) -> None:
        kept: dict[str, object] = {"id": case.id, "affine": case.affine.tolist()}
        other = case.moving_affine
        kept["moving_affine"] = None if other is None else other.tolist()
        kept["label_ids"] = list(case.label_ids)
        for name in ("moving", "fixed"):
            kept[name] = self._keep(*_compact_image(getattr(case, name)[0, 0].numpy()))
        for name in _MAPS:
            labels = getattr(case, name)
            kept[name] = None if labels is None else self._keep(_compact_labels(labels[0, 0]), 1)
        for name in _POINTS:
            points = getattr(case, name)
            kept[name] = None if points is None else points.tolist()
        field = case.displacement
        kept["displacement"] = None if field is None else self._keep(field[0].numpy(), 1)
        region = case.region
        kept["region"] = region and [[part.start, part.stop] for part in region]
        text = json.dumps(kept)
        write_atomically(manifest, lambda temporary: temporary.write_text(text), overwrite=True)

    def _keep(self, array: np.ndarray, divisor: int) -> dict[str, object]:
        """Write an array under the name of its content, unless it is there."""
        array = np.ascontiguousarray(array)
        digest = sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
        path = self.folder / f"{digest[:24]}.npy"
        if not path.exists():
            write_atomically(path, lambda temporary: _save(temporary, array), overwrite=True)
        return {"file": path.name, "divisor": divisor}

    def _read(self, manifest: Path, labels: bool) -> Case:
        try:
            kept = json.loads(manifest.read_text())
            maps = {name: kept[name] if labels else None for name in _MAPS}
            return Case(
                id=kept["id"],
                moving=self._image(kept["moving"]),
                fixed=self._fixed_image(kept["fixed"]),
                affine=np.array(kept["affine"]),
                moving_affine=kept["moving_affine"] and np.array(kept["moving_affine"]),
                label_ids=tuple(kept["label_ids"]),
                **{
                    name: None if entry is None else self._tensor(entry, np.int64)[None, None]
                    for name, entry in maps.items()
                },
                **{
                    name: None if kept[name] is None else torch.tensor(kept[name]).reshape(-1, 3)
                    for name in _POINTS
                },
                displacement=kept["displacement"]
                and self._tensor(kept["displacement"], np.float32)[None],
                region=kept["region"] and tuple(slice(*part) for part in kept["region"]),
            )
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise BadInputError(
                f"{manifest}: expected a case of this cache, found something else ({error!r}). "
                f"Delete the folder {self.folder}; it is made again."
            ) from error

    def _image(self, entry: dict) -> Tensor:
        mapped = np.load(self.folder / entry["file"], mmap_mode="r", allow_pickle=False)
        array = np.empty(mapped.shape, np.float32)
        np.divide(mapped, np.float32(entry["divisor"]), out=array, casting="same_kind")
        return torch.from_numpy(array)[None, None]

    def _fixed_image(self, entry: dict) -> Tensor:
        """As `_image`; the last one is kept, because most sets have one atlas."""
        if self._atlas[0] != entry["file"]:
            self._atlas = entry["file"], self._image(entry)
        return self._atlas[1]

    def _tensor(self, entry: dict, dtype: type) -> Tensor:
        mapped = np.load(self.folder / entry["file"], mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(mapped.astype(dtype))


def source_key(dataset: Dataset) -> str:
    """Twelve hexadecimal digits that change with the files of a set or how they are prepared.

    Names, sizes and times of all files below its root stand for their contents; the adapter's
    public attributes stand for its options.
    """
    root = Path(dataset.root)
    files = []
    for folder, inner, names in os.walk(root, followlinks=True):
        inner.sort()
        for name in sorted(names):
            path = Path(folder) / name
            status = path.stat()
            files.append((str(path.relative_to(root)), status.st_size, status.st_mtime_ns))
    hidden = ("root", "kept_mib")
    options = {
        name: repr(value)
        for name, value in sorted(vars(dataset).items())
        if not name.startswith("_") and name not in hidden
    }
    text = json.dumps([FORMAT, dataset.name, options, files])
    return sha256(text.encode()).hexdigest()[:12]


def _compact_image(array: np.ndarray) -> tuple[np.ndarray, int]:
    """What to store, and by what to divide it again."""
    if array.min() < 0 or array.max() > 1:
        return array, 1  # Hounsfield units and the like
    for dtype in (np.uint8, np.uint16):
        divisor = np.iinfo(dtype).max
        steps = np.rint(array.astype(np.float64) * divisor).astype(dtype)
        if dtype is np.uint16 or np.array_equal(steps / np.float32(divisor), array):
            break
    return steps, divisor


def _compact_labels(labels: Tensor) -> np.ndarray:
    array = labels.numpy()
    return array.astype(np.uint8 if array.max(initial=0) <= 255 else np.int32)


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _file_name(case_id: str, pair: Sequence[str], kind: str) -> str:
    """Readable at the start, unique at the end; a case may be named like a path."""
    digest = sha256("\n".join([case_id, *pair, kind]).encode()).hexdigest()[:12]
    readable = "".join(letter for letter in case_id if letter.isalnum() or letter in "-_")
    return f"{readable[:40]}-{digest}.json"
