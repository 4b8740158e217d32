"""Bad and unusual input of every kind, made on the spot: containers, geometry, intensities, labels,
landmarks, weights, output folders and settings.

Each kind starts from a good pair and spoils one thing. It knows whether `register` has to succeed
or what its one line of complaint has to contain.

    workspace = Workspace(folder)
    KINDS["gzip stream cut"].spoil(workspace)
    main(workspace.command())
"""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import save_file

SHAPE = (18, 16, 14)
AFFINE = np.array([[1.5, 0, 0, -10], [0, 1.5, 0, -12], [0, 0, 2.0, -9], [0, 0, 0, 1.0]])
PAGE = "<!DOCTYPE html><html><body>404 not found</body></html>\n" * 20


@dataclass
class Workspace:
    """A folder with a good pair, and the command that registers it."""

    folder: Path
    arguments: list[str] = field(default_factory=list)
    model: str = "identity"
    subcommand: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        self.array = random.random(SHAPE).astype(np.float32)
        self.labels = random.integers(0, 4, SHAPE).astype(np.uint8)
        self.moving = self.save("moving.nii.gz", self.array)
        self.fixed = self.save("fixed.nii.gz", self.array[::-1].copy())
        self.out = self.folder / "out"

    def save(self, name: str, array, affine=AFFINE) -> Path:
        """A NIfTI file, by nibabel alone."""
        path = self.folder / name
        nibabel.save(nibabel.Nifti1Image(np.asarray(array), affine), path)
        return path

    def raw(self, name: str = "moving.nii") -> bytearray:
        """The moving image becomes an uncompressed file, whose bytes are returned."""
        self.moving.unlink()
        self.moving = self.save(name, self.array)
        return bytearray(self.moving.read_bytes())

    def becomes(self, name: str, content: bytes | str = b"") -> None:
        """The moving image becomes a file of that name and content."""
        self.moving.unlink()
        self.moving = self.folder / name
        self.moving.write_bytes(content if isinstance(content, bytes) else content.encode())

    def patch(self, offset: int, form: str, *values) -> None:
        """Other values in the header of the moving image."""
        content = self.raw()
        struct.pack_into(form, content, offset, *values)
        self.moving.write_bytes(content)

    def header(self, change: Callable, affine=AFFINE) -> None:
        """The moving image is written anew, with `change(image)` applied before."""
        image = nibabel.Nifti1Image(self.array, affine)
        change(image)
        nibabel.save(image, self.moving)

    def text(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def give(self, *arguments: object) -> None:
        self.arguments += [str(argument) for argument in arguments]

    def command(self) -> list[str]:
        if self.subcommand:
            return [*self.subcommand, *self.arguments]
        files = [str(self.moving), str(self.fixed)]
        return ["register", *files, "--out", str(self.out), "--model", self.model, *self.arguments]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        group: what is unusual about it.
        spoil: makes it so in a workspace.
        words: in the message; none if the registration has to succeed.
        notes: words in the notes of a registration that succeeds.
        code: exit code.
    """

    group: str
    spoil: Callable[[Workspace], object]
    words: tuple[str, ...]
    notes: tuple[str, ...]
    code: int


KINDS: dict[str, Kind] = {}


def kind(group: str, name: str, *words: str, notes: tuple[str, ...] = (), code: int | None = None):
    """Register the function below as a kind; without words it must succeed."""

    def add(spoil: Callable[[Workspace], object]) -> Callable[[Workspace], object]:
        assert name not in KINDS
        expected = code if code is not None else (1 if words else 0)
        KINDS[name] = Kind(group, spoil, words, notes, expected)
        return spoil

    return add


# Containers ----------------------------------------------------------------------------------


@kind("container", "good pair")
def _(w):
    pass


@kind("container", "no such file", "moving.nii.gz", "does not exist", "Check the path")
def _(w):
    w.moving.unlink()


@kind("container", "a folder", "moving.nii.gz", "folder")
def _(w):
    w.moving.unlink()
    w.moving.mkdir()


@kind("container", "an empty file", "moving.nii.gz", "empty")
def _(w):
    w.moving.write_bytes(b"")


@kind("container", "a pipe", "moving.nii.gz", "pipe")
def _(w):
    w.moving.unlink()
    os.mkfifo(w.moving)


@kind("container", "a link that leads nowhere", "moving.nii.gz", "link points to", "annex")
def _(w):
    w.moving.unlink()
    w.moving.symlink_to(".git/annex/objects/xx/yy/moving.nii.gz")


@kind("container", "a link to a good file")
def _(w):
    w.moving.rename(w.folder / "elsewhere.nii.gz")
    w.moving.symlink_to("elsewhere.nii.gz")


for share in (0.01, 0.3, 0.6, 0.98):

    @kind("container", f"gzip stream cut at {share:.0%}", "moving.nii.gz", "again")
    def _(w, share=share):
        content = w.moving.read_bytes()
        w.moving.write_bytes(content[: int(share * len(content))])

    @kind("container", f"uncompressed file cut at {share:.0%}", "moving.nii", "again")
    def _(w, share=share):
        content = w.raw()
        w.moving.write_bytes(content[: int(share * len(content))])


@kind("container", "a wrong byte in the stream", "moving.nii.gz", "damaged")
def _(w):
    content = bytearray(w.moving.read_bytes())
    content[len(content) // 2] ^= 0xFF
    w.moving.write_bytes(content)


@kind("container", "wrong checksum", "moving.nii.gz", "damaged", "CRC")
def _(w):
    content = bytearray(w.moving.read_bytes())
    content[-6] ^= 0xFF
    w.moving.write_bytes(content)


@kind("container", "something after the stream", "moving.nii.gz", "damaged")
def _(w):
    w.moving.write_bytes(w.moving.read_bytes() + b"more")


@kind("container", "zeros after the stream")
def _(w):
    w.moving.write_bytes(w.moving.read_bytes() + bytes(512))


@kind("container", "uncompressed under .nii.gz", "moving.nii.gz", "uncompressed", "Rename")
def _(w):
    w.becomes("moving.nii.gz", gzip.decompress(w.moving.read_bytes()))


@kind("container", "compressed under .nii", "moving.nii", "gzip", "Rename it to .nii.gz")
def _(w):
    w.becomes("moving.nii", w.moving.read_bytes())


SIGNED = {
    "a web page": PAGE,
    "a Git LFS pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a git-annex pointer": "/annex/objects/MD5E-s1--0.nii.gz\n",
    "a zip archive": b"PK\x03\x04" + bytes(200),
    "a bzip2 file": bz2.compress(bytes(1000)),
    "an xz file": lzma.compress(bytes(1000)),
    "a zstd file": b"\x28\xb5\x2f\xfd" + bytes(100),
    "a PNG picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "an HDF5 or MINC 2 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a DICOM file": bytes(128) + b"DICM" + bytes(400),
    "a Python pickle": pickle.dumps(list(range(200))),
    "a NumPy array": b"\x93NUMPY\x01\x00" + bytes(500),
    "a JSON text": json.dumps({"Modality": "MR"}),
    "a MetaImage": "ObjectType = Image\nNDims = 3\n" * 20,
}
for what, content in SIGNED.items():

    @kind("container", f"{what} under .nii", "moving.nii", what)
    def _(w, content=content):
        w.becomes("moving.nii", content)

    @kind("container", f"{what} under .nii.gz", "moving.nii.gz", what)
    def _(w, content=content):
        w.becomes("moving.nii.gz", content)


@kind("container", "a compressed tar under .nii.gz", "a tar archive inside a gzip file", "Unpack")
def _(w):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(w.moving, "moving.nii.gz")
    w.becomes("moving.nii.gz", stream.getvalue())


@kind("container", "a compressed web page", "a web page inside a gzip file")
def _(w):
    w.becomes("moving.nii.gz", gzip.compress(PAGE.encode()))


@kind("container", "a zip archive by its own name", "moving.zip", "a zip archive", "Unpack")
def _(w):
    with zipfile.ZipFile(w.folder / "moving.zip", "w") as archive:
        archive.write(w.moving, "moving.nii.gz")
    w.moving = w.folder / "moving.zip"


for suffix in (".mgz", ".img", ".dcm", ".xyz", ""):

    @kind("container", f"the suffix {suffix or 'none'}", f"moving{suffix}", "expected a NIfTI file")
    def _(w, suffix=suffix):
        w.becomes(f"moving{suffix}", bytes(range(1, 256)) * 4)


@kind("container", "random bytes", "moving.nii", "header is not that of a NIfTI file")
def _(w):
    w.becomes("moving.nii", np.random.default_rng(1).bytes(4000))


@kind("container", "magic destroyed", "moving.nii", "header is not that of a NIfTI file")
def _(w):
    w.patch(344, "4s", b"oops")


@kind("container", "header size destroyed, all else intact")
def _(w):
    w.patch(0, "<i", 12345)


@kind("container", "voxels past the end", "moving.nii", "ends early or is damaged")
def _(w):
    w.patch(108, "<f", 1e6)


@kind("container", "more voxels than the file holds", "moving.nii", "60 x 60 x 60", "ends early")
def _(w):
    w.patch(42, "<hhh", 60, 60, 60)


@kind("container", "more voxels than the memory holds", "moving.nii", "30000", "GiB")
def _(w):
    w.patch(42, "<hhh", 30000, 30000, 30000)


@kind("container", "the same, compressed", "moving.nii.gz", "30000", "GiB")
def _(w):
    w.patch(42, "<hhh", 30000, 30000, 30000)
    w.becomes("moving.nii.gz", gzip.compress(w.moving.read_bytes()))


@kind("container", "a stream that cannot hold so much", "moving.nii.gz", "cannot unpack")
def _(w):
    w.patch(42, "<hhh", 600, 600, 600)
    w.becomes("moving.nii.gz", gzip.compress(w.moving.read_bytes()))


@kind("container", "a side of 0 voxels", "moving.nii")
def _(w):
    w.patch(42, "<h", 0)


@kind("container", "a negative side", "moving.nii")
def _(w):
    w.patch(42, "<h", -18)


@kind("container", "no dimensions", "moving.nii")
def _(w):
    w.patch(40, "<h", 0)


@kind("container", "99 dimensions", "moving.nii")
def _(w):
    w.patch(40, "<h", 99)


@kind("container", "an unknown data type", "moving.nii", "again")
def _(w):
    w.patch(70, "<h", 999)


@kind("container", "NIfTI-2")
def _(w):
    nibabel.save(nibabel.Nifti2Image(w.array, AFFINE), w.moving)


@kind("container", "big-endian")
def _(w):
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(w.array, AFFINE, header), w.moving)


@kind("container", "a header extension")
def _(w):
    comment = nibabel.nifti1.Nifti1Extension("comment", b"made by hand")
    w.header(lambda image: image.header.extensions.append(comment))


@kind("container", "capital suffix")
def _(w):
    w.moving = w.moving.rename(w.folder / "MOVING.NII.GZ")


@kind("container", "blanks and letters of other alphabets in the name")
def _(w):
    w.moving = w.moving.rename(w.folder / "Gehirn vörher 脳 (1).nii.gz")


@kind("container", "dots in the name")
def _(w):
    w.moving = w.moving.rename(w.folder / "sub-1.2.T1w.nii.gz")


def itk_copy(w, name, compress=False, pixel=None):
    """The moving image as SimpleITK writes it."""
    image = sitk.ReadImage(str(w.moving))
    if pixel is not None:
        image = sitk.Cast(image, pixel)
    w.moving = w.folder / name
    sitk.WriteImage(image, str(w.moving), useCompression=compress)


for suffix in (".mha", ".mhd", ".nrrd", ".nhdr"):
    for compress in (False, True):
        form = f"{suffix}{', compressed' if compress else ''}"

        @kind("container", f"good {form}")
        def _(w, suffix=suffix, compress=compress):
            itk_copy(w, f"moving{suffix}", compress)

        @kind("container", f"cut {form}", f"moving{suffix}", "ends early or is damaged")
        def _(w, suffix=suffix, compress=compress):
            itk_copy(w, f"moving{suffix}", compress)
            parts = sorted(w.folder.glob("moving.*raw*")) or [w.moving]
            content = parts[0].read_bytes()
            parts[0].write_bytes(content[: int(0.6 * len(content))])


@kind("container", "a wrong byte in a compressed .mha", "moving.mha", "damaged")
def _(w):
    itk_copy(w, "moving.mha", True)
    content = bytearray(w.moving.read_bytes())
    content[-len(content) // 3] ^= 0xFF
    w.moving.write_bytes(content)


@kind("container", "a .mhd without its voxels", "moving.mhd", "moving.raw", "Copy both")
def _(w):
    itk_copy(w, "moving.mhd")
    (w.folder / "moving.raw").unlink()


@kind("container", "a web page under .mha", "moving.mha", "a web page")
def _(w):
    w.becomes("moving.mha", PAGE)


@kind("container", "a web page under .nrrd", "moving.nrrd", "a web page")
def _(w):
    w.becomes("moving.nrrd", PAGE)


@kind("container", "a vector image in .mha", "moving.mha", "3 components")
def _(w):
    itk_copy(w, "moving.mha", pixel=sitk.sitkFloat32)
    image = sitk.ReadImage(str(w.moving))
    sitk.WriteImage(sitk.Compose(image, image, image), str(w.moving))


# Geometry ------------------------------------------------------------------------------------


def placed(w, affine, array=None):
    w.save("moving.nii.gz", w.array if array is None else array, affine)


OTHER_GRIDS = {
    "another shape": lambda w: placed(w, AFFINE, w.array[:-3]),
    "another voxel size": lambda w: placed(w, AFFINE @ np.diag([1.1, 1, 1, 1])),
    "a flipped axis": lambda w: placed(w, AFFINE @ np.diag([-1.0, 1, 1, 1])),
    "exchanged axes": lambda w: placed(w, AFFINE[:, [1, 0, 2, 3]], w.array.transpose(1, 0, 2)),
    "another origin": lambda w: placed(w, AFFINE + 2 * np.eye(4, k=3)),
}
for what, change in OTHER_GRIDS.items():

    @kind("geometry", f"{what}, unasked", "moving.nii.gz", "fixed.nii.gz", "--resample-to fixed")
    def _(w, change=change):
        change(w)

    if what != "a flipped axis":  # that one leaves the field of view

        @kind("geometry", f"{what}, resampled")
        def _(w, change=change):
            change(w)
            w.give("--resample-to", "fixed")


@kind("geometry", "no overlap", "moving.nii.gz", "overlaps", "mm apart", "--prealign")
def _(w):
    placed(w, AFFINE + 500 * np.eye(4, k=3))
    w.give("--resample-to", "fixed")


@kind("geometry", "no overlap, pre-aligned")
def _(w):
    placed(w, AFFINE + 500 * np.eye(4, k=3))
    w.give("--prealign", "rigid")


@kind("geometry", "oblique and left-handed on both sides")
def _(w):
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]]) @ np.diag([1.0, 1.2, 2.0])
    affine = np.block([[turn, np.array([[3.0], [4], [5]])], [np.zeros((1, 3)), np.ones((1, 1))]])
    placed(w, affine)
    w.save("fixed.nii.gz", w.array[::-1], affine)


def sform(w, matrix):
    w.patch(280, "<12f", *np.asarray(matrix, float)[:3].ravel())


@kind("geometry", "all-zero sform", "moving.nii", "invertible voxel-to-world matrix")
def _(w):
    sform(w, np.zeros((4, 4)))


@kind("geometry", "flat sform", "moving.nii", "invertible voxel-to-world matrix")
def _(w):
    sform(w, np.diag([1.0, 1, 0, 1]))


@kind("geometry", "NaN in the sform", "moving.nii", "invertible voxel-to-world matrix")
def _(w):
    sform(w, np.diag([1.0, np.nan, 1, 1]))


@kind("geometry", "parallel axes", "moving.nii", "invertible voxel-to-world matrix")
def _(w):
    sform(w, [[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])


@kind("geometry", "a shear", "moving.nii", "perpendicular", "degrees", "shear")
def _(w):
    sform(w, [[1.5, 0.3, 0, -10], [0, 1.5, 0, -12], [0, 0, 2, -9]])


for unit, factor in (("micron", 1e3), ("meter", 1e-3)):

    @kind("geometry", f"{unit}s", notes=(f"{unit}s", "converted"))
    def _(w, unit=unit, factor=factor):
        affine = AFFINE.copy()
        affine[:3] *= factor
        w.header(lambda image: image.header.set_xyzt_units(unit), affine)


@kind("geometry", "no unit")
def _(w):
    w.header(lambda image: image.header.set_xyzt_units("unknown"))


@kind("geometry", "neither qform nor sform", notes=("neither qform nor sform",))
def _(w):
    for name in ("moving.nii.gz", "fixed.nii.gz"):
        image = nibabel.Nifti1Image(w.array, None)
        image.header.set_zooms((1.5, 1.5, 2.0))
        nibabel.save(image, w.folder / name)


@kind("geometry", "qform and sform disagree", notes=("disagree by up to 20",))
def _(w):
    def change(image):
        image.set_qform(AFFINE + 20 * np.eye(4, k=3), code=1)
        image.set_sform(AFFINE, code=1)

    w.header(change)


@kind("geometry", "one volume in four dimensions", notes=("holds one volume",))
def _(w):
    placed(w, AFFINE, w.array[..., None])


@kind("geometry", "several volumes", "moving.nii.gz", "(18, 16, 14, 2)", "Extract")
def _(w):
    placed(w, AFFINE, np.stack([w.array, w.array], axis=-1))


@kind("geometry", "a displacement field", "moving.nii.gz", "displacement field")
def _(w):
    placed(w, AFFINE, np.zeros((*SHAPE, 1, 3), np.float32))


@kind("geometry", "a slice and a volume", "moving.nii.gz", "dimensions")
def _(w):
    placed(w, AFFINE, w.array[:, :, 3])


@kind("geometry", "two slices")
def _(w):
    placed(w, AFFINE, w.array[:, :, 3])
    w.save("fixed.nii.gz", w.array[:, :, 7:8])
    w.model = "gradient_descent"


@kind("geometry", "two slices across another axis", notes=("axial plane",))
def _(w):
    turned = AFFINE[:, [0, 2, 1, 3]]
    placed(w, turned, w.array[:, 3])
    w.save("fixed.nii.gz", w.array[:, 5], turned)
    w.model = "gradient_descent"


@kind("geometry", "two slices and a network", "fixed.nii.gz", "3-D image", "gradient_descent")
def _(w):
    placed(w, AFFINE, w.array[:, :, 3])
    w.save("fixed.nii.gz", w.array[:, :, 7])
    w.model = "voxelmorph1"
    w.give("--refine-steps", 1)


@kind("geometry", "a line", "moving.nii.gz", "(18, 1, 1)")
def _(w):
    placed(w, AFFINE, w.array[:, :1, :1])


@kind("geometry", "a middle side of 1 voxel", "moving.nii.gz", "(18, 1, 14)")
def _(w):
    placed(w, AFFINE, w.array[:, :1])


@kind("geometry", "sides of 2 voxels")
def _(w):
    placed(w, AFFINE, w.array[:, :2])
    w.save("fixed.nii.gz", w.array[:, 2:4])


# Intensities ---------------------------------------------------------------------------------


def one_voxel(w, value, dtype=np.float32):
    array = w.array.astype(dtype)
    array[2, 3, 4] = value
    placed(w, AFFINE, array)


for value in (np.nan, np.inf, -np.inf):

    @kind("intensity", f"{value} in one voxel", "moving.nii.gz", "(2, 3, 4)", "Replace")
    def _(w, value=value):
        one_voxel(w, value)


@kind("intensity", "beyond single precision", "moving.nii.gz", "infinite")
def _(w):
    one_voxel(w, 1e300, np.float64)


@kind("intensity", "NaN in the fixed image", "fixed.nii.gz", "1 that are NaN")
def _(w):
    array = w.array.copy()
    array[0, 0, 0] = np.nan
    w.save("fixed.nii.gz", array)


@kind("intensity", "one value everywhere", "moving.nii.gz", "contrast", "constant value 7")
def _(w):
    placed(w, AFFINE, np.full(SHAPE, 7, np.int16))


@kind("intensity", "complex numbers", "moving.nii.gz", "complex")
def _(w):
    placed(w, AFFINE, w.array.astype(np.complex64))


@kind("intensity", "colors", "moving.nii.gz", "RGB")
def _(w):
    placed(w, AFFINE, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))


@kind("intensity", "a broken slope", "moving.nii", "slope", "again")
def _(w):
    content = w.raw()
    struct.pack_into("<ff", content, 112, 2.0, float("nan"))
    w.moving.write_bytes(content)


for dtype in ("uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64", "int64"):

    @kind("intensity", f"{dtype}")
    def _(w, dtype=dtype):
        array = (100 * w.array).astype(dtype)
        nibabel.save(nibabel.Nifti1Image(array, AFFINE, dtype=dtype), w.moving)


for what, gain, offset in (
    ("Hounsfield units", 2000, -1000),
    ("very large values", 1e30, 0),
    ("very small values", 1e-30, 0),
    ("a small range far from zero", 10, 1e5),
):

    @kind("intensity", what)
    def _(w, gain=gain, offset=offset):
        placed(w, AFFINE, (gain * w.array.astype(np.float64) + offset).astype(np.float32))


@kind("intensity", "a mask")
def _(w):
    placed(w, AFFINE, (w.array > 0.5).astype(np.uint8))


@kind("intensity", "the fixed image twice")
def _(w):
    w.moving = w.fixed


# Labels --------------------------------------------------------------------------------------


def labelled(w, array, affine=AFFINE, name="ml.nii.gz"):
    w.give("--moving-labels", w.save(name, array, affine))


@kind("labels", "good labels of both images")
def _(w):
    labelled(w, w.labels)
    w.give("--fixed-labels", w.save("fl.nii.gz", w.labels[::-1]))


@kind("labels", "of the moving image alone")
def _(w):
    labelled(w, w.labels)


@kind("labels", "codes as in FreeSurfer")
def _(w):
    labelled(w, np.array([0, 17, 1035, 14175], np.int32)[w.labels])


@kind("labels", "whole numbers stored as floats")
def _(w):
    labelled(w, w.labels.astype(np.float32))


@kind("labels", "no label in common")
def _(w):
    labelled(w, w.labels)
    w.give("--fixed-labels", w.save("fl.nii.gz", np.where(w.labels > 0, w.labels + 10, 0)))


BAD_LABELS = {
    "fractions": (lambda a: a * 0.5, ("whole numbers", "nearest")),
    "NaN": (lambda a: np.where(a == 3, np.nan, a), ("whole numbers",)),
    "negative": (lambda a: a.astype(np.int16) - 2, ("labels >= 0", "-2")),
    "another shape": (lambda a: a[:-1], ("shape", "moving.nii.gz")),
    "background alone": (lambda a: 0 * a, ("value 0 everywhere",)),
    "an image": (lambda a: np.arange(a.size, dtype=np.int32).reshape(a.shape), ("different",)),
    "more than 32 bits": (lambda a: a.astype(np.float64) * 1e10, ("32 bits",)),
    "colors": (lambda a: np.zeros(a.shape, [(c, "u1") for c in "RGB"]), ("RGB",)),
}
for what, (change, words) in BAD_LABELS.items():

    @kind("labels", f"labels: {what}", "ml.nii.gz", *words)
    def _(w, change=change):
        labelled(w, change(w.labels))


@kind("labels", "labels: another place", "ml.nii.gz", "voxel-to-world", "belongs")
def _(w):
    labelled(w, w.labels, AFFINE + 3 * np.eye(4, k=3))


@kind("labels", "labels: no such file", "none.nii.gz", "does not exist")
def _(w):
    w.give("--fixed-labels", w.folder / "none.nii.gz")


# Landmarks -----------------------------------------------------------------------------------

POINTS = np.array([[2.0, 3, 4], [10, 8, 6], [15.5, 12, 11]])


def rows(points, separator=","):
    return "\n".join(separator.join(f"{value:g}" for value in row) for row in points)


def pointed(w, content, *more, name="points.csv"):
    w.give("--landmarks", w.text(name, content), *more)


GOOD_POINTS = {
    "commas": (rows(POINTS), ()),
    "blanks": (rows(POINTS, " "), ()),
    "semicolons": (rows(POINTS, ";"), ()),
    "heading, byte-order mark and CRLF": (
        "\ufeffx,y,z\r\n" + rows(POINTS).replace("\n", "\r\n") + "\r\n\r\n",
        (),
    ),
    "columns in reverse": (rows(POINTS[:, ::-1]), ("--landmark-axes", "zyx")),
    "counted from 1": (rows(POINTS + 1), ("--landmark-base", "1")),
    "millimetres, RAS": (
        rows(POINTS @ AFFINE[:3, :3].T + AFFINE[:3, 3]),
        ("--landmark-space", "ras"),
    ),
    "millimetres, LPS": (
        rows((POINTS @ AFFINE[:3, :3].T + AFFINE[:3, 3]) * [-1, -1, 1]),
        ("--landmark-space", "lps"),
    ),
}
for what, (content, more) in GOOD_POINTS.items():

    @kind("landmarks", f"landmarks: {what}")
    def _(w, content=content, more=more):
        pointed(w, content, *more)


BAD_POINTS = {
    "two columns": ("1,2\n3,4\n", ("3 finite numbers", "line 1")),
    "a word": ("1,2,3\n4,five,6\n", ("line 2",)),
    "NaN": ("1,2,3\n4,nan,6\n", ("line 2",)),
    "nothing": ("\n\n", ("none",)),
    "a heading alone": ("x,y,z\n", ("none",)),
    "a web page": (PAGE, ("finite numbers",)),
    "outside": ("1,2,3\n40,5,6\n", ("1 of 3", "40", "--landmark-space")),
    "below zero": ("-1,2,3\n4,5,6\n", ("outside", "--landmark-base")),
    "binary": (gzip.compress(bytes(100)), ("binary",)),
}
BAD_POINTS["outside"] = ("1,2,3\n40,5,6\n", ("1 of 2", "40", "--landmark-space"))
for what, (content, words) in BAD_POINTS.items():

    @kind("landmarks", f"landmarks: {what}", "points.csv", *words)
    def _(w, content=content):
        pointed(w, content)


@kind("landmarks", "landmarks: no such file", "none.csv", "does not exist")
def _(w):
    w.give("--landmarks", w.folder / "none.csv")


@kind("landmarks", "landmarks: unequal lists", "as many landmarks", "2", "3", "same place")
def _(w):
    pointed(w, rows(POINTS))
    w.give("--moving-landmarks", w.text("moving.csv", rows(POINTS[:2])))


@kind("landmarks", "landmarks: of the moving image alone", "as many landmarks")
def _(w):
    w.give("--moving-landmarks", w.text("moving.csv", rows(POINTS)))


@kind("landmarks", "landmarks: millimetres counted from 1", "points.csv", "base 0")
def _(w):
    pointed(w, rows(POINTS), "--landmark-space", "ras", "--landmark-base", "1")


@kind("landmarks", "landmarks: RAS given as LPS", "points.csv", "outside")
def _(w):
    shifted = AFFINE[:3, 3] + [30, 0, 0]
    w.save("fixed.nii.gz", w.array[::-1], np.vstack([np.c_[AFFINE[:3, :3], shifted], [0, 0, 0, 1]]))
    placed(w, np.vstack([np.c_[AFFINE[:3, :3], shifted], [0, 0, 0, 1]]))
    pointed(w, rows(POINTS @ AFFINE[:3, :3].T + shifted), "--landmark-space", "lps")


# Weights -------------------------------------------------------------------------------------

STATE: dict[str, torch.Tensor] = {}


def network_state():
    """Weights of the smallest network, made once."""
    from regnet_lib.models import create_model

    if not STATE:
        torch.manual_seed(0)
        STATE.update(create_model("voxelmorph1").state_dict())
    return dict(STATE)


def weighted(w, state=None, metadata=None, name="weights.safetensors"):
    w.model = "voxelmorph1"
    path = w.folder / name
    save_file(network_state() if state is None else state, path, metadata)
    w.give("--weights", path)
    return path


@kind("weights", "good weights")
def _(w):
    weighted(w)


@kind("weights", "weights: none for a network", "'voxelmorph1'", "expected weights")
def _(w):
    w.model = "voxelmorph1"


@kind("weights", "weights: no such file", "none.safetensors", "does not exist")
def _(w):
    w.model = "voxelmorph1"
    w.give("--weights", w.folder / "none.safetensors")


@kind("weights", "weights: cut", "weights.safetensors", "not a complete safetensors file")
def _(w):
    path = weighted(w)
    path.write_bytes(path.read_bytes()[:5000])


@kind("weights", "weights: empty", "weights.safetensors", "not a complete safetensors file")
def _(w):
    weighted(w).write_bytes(b"")


@kind("weights", "weights: a web page", "weights.safetensors", "not a complete safetensors file")
def _(w):
    weighted(w).write_text(PAGE)


@kind("weights", "weights: a pickle", "weights.pt", "Pickled", "convert")
def _(w):
    w.model = "voxelmorph1"
    torch.save(network_state(), w.folder / "weights.pt")
    w.give("--weights", w.folder / "weights.pt")


@kind("weights", "weights: a folder", "weights.safetensors", "does not exist")
def _(w):
    path = weighted(w)
    path.unlink()
    path.mkdir()


@kind("weights", "weights: of another network", "weights.safetensors", "missing", "unexpected")
def _(w):
    weighted(w, {"something.else": torch.zeros(3)})


@kind("weights", "weights: of other shapes", "weights.safetensors", "other shapes")
def _(w):
    state = network_state()
    name = next(iter(state))
    state[name] = torch.zeros(3, 3)
    weighted(w, state)


@kind("weights", "weights: NaN", "finite displacement", "weights")
def _(w):
    weighted(w, {name: tensor * torch.nan for name, tensor in network_state().items()})


@kind("weights", "weights: for a method without", "weights.safetensors", "has no weights")
def _(w):
    weighted(w)
    w.model = "identity"


@kind("weights", "weights: trained as another model", "found those of 'transmorph'", "--model")
def _(w):
    weighted(w, metadata={"settings": json.dumps({"model": "transmorph"})})


@kind("weights", "weights: unreadable settings")
def _(w):
    weighted(w, metadata={"settings": "{not json"})


# Output --------------------------------------------------------------------------------------


@kind("output", "results are there", "out", "results are already there", "--overwrite")
def _(w):
    w.out.mkdir()
    (w.out / "warped.nii.gz").write_text("precious")


@kind("output", "other files are there")
def _(w):
    w.out.mkdir()
    (w.out / "notes.txt").write_text("precious")


@kind("output", "replaced on request")
def _(w):
    w.out.mkdir()
    (w.out / "warped_labels.nii.gz").write_text("of an earlier run")
    w.give("--overwrite")


@kind("output", "a file in the place of the folder", "out", "is a file")
def _(w):
    w.out.write_text("precious")


@kind("output", "below a file", "out", "is a file")
def _(w):
    w.out.write_text("precious")
    w.out = w.out / "deeper" / "still"


@kind("output", "several folders to make")
def _(w):
    w.out = w.out / "deeper" / "still"


@kind("output", "a folder that refuses files", "/proc", "refuses new files")
def _(w):
    w.out = Path("/proc/out")


@kind("output", "would replace the input", "warped.nii.gz", "replace no input")
def _(w):
    w.out.mkdir()
    w.moving = w.moving.rename(w.out / "warped.nii.gz")
    w.give("--overwrite")


@kind("output", "would replace the input through a link", "warped.nii.gz", "replace no input")
def _(w):
    w.out.mkdir()
    (w.out / "warped.nii.gz").symlink_to(w.moving)
    w.give("--overwrite")


@kind("output", "FSL's form on an oblique grid", "axis-aligned", "convention='itk'")
def _(w):
    affine = AFFINE.copy()
    affine[:3, :3] = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ AFFINE[:3, :3]
    placed(w, affine)
    w.save("fixed.nii.gz", w.array[::-1], affine)
    w.give("--also", "fsl")


@kind("output", "every further form")
def _(w):
    w.give("--also", "h5", "tfm", "mha", "nrrd", "voxel", "fsl")


# Settings ------------------------------------------------------------------------------------


@kind("settings", "a misspelled model", "voxelmorf1", "voxelmorph1")
def _(w):
    w.model = "voxelmorf1"


@kind("settings", "an unknown device", "warp-drive")
def _(w):
    w.give("--device", "warp-drive")


@kind("settings", "negative steps", "refine_steps >= 0", "-3")
def _(w):
    w.give("--refine-steps", "-3")


@kind("settings", "steps that are no number", "many", code=2)
def _(w):
    w.give("--refine-steps", "many")


@kind("settings", "an unknown loss", "ncc", code=2)
def _(w):
    w.give("--loss", "ncc")


@kind("settings", "an unknown option", "--turbo", code=2)
def _(w):
    w.give("--turbo")


def listed(w, content):
    w.subcommand = ("register-pairs",)
    w.give(w.text("pairs.csv", content), "--out", w.out, "--model", "identity")


GOOD_LIST = "moving,fixed\nmoving.nii.gz,fixed.nii.gz\n"
BAD_LISTS = {
    "no heading": ("moving.nii.gz,fixed.nii.gz\n", ("heading", "moving, fixed")),
    "an unknown column": ("moving,fixed,age\na,b,3\n", ("heading", "age")),
    "a column twice": ("moving,fixed,fixed\na,b,c\n", ("heading",)),
    "a heading alone": ("moving,fixed\n", ("at least one pair",)),
    "nothing": ("\n", ("heading",)),
    "too few values": ("moving,fixed\nmoving.nii.gz\n", ("as many values", "line 2")),
    "too many values": ("moving,fixed\na,b,c\n", ("as many values", "line 2")),
    "no fixed image": ("moving,fixed\nmoving.nii.gz,\n", ("fixed image in line 2",)),
    "names twice": ("name,moving,fixed\na,b,c\na,d,e\n", ("different name", "a more than once")),
    "a name that leads elsewhere": ("name,moving,fixed\n../x,b,c\n", ("names of folders", "../x")),
    "binary": (b"\xff\xfe\x00\x01" * 20, ("binary",)),
}
for what, (content, words) in BAD_LISTS.items():

    @kind("settings", f"list of pairs: {what}", "pairs.csv", *words)
    def _(w, content=content):
        listed(w, content)


@kind("settings", "list of pairs: no such file", "none.csv", "does not exist")
def _(w):
    w.subcommand = ("register-pairs", str(w.folder / "none.csv"), "--out", str(w.out))


@kind("settings", "list of pairs: good")
def _(w):
    listed(w, GOOD_LIST)
    w.out = w.out / "pair-001"
    shutil.copy(w.moving, w.folder / "spare.nii.gz")


# Other commands ------------------------------------------------------------------------------

TEACHING = "teaching.phantom.voxelmorph2"


def evaluated(w, path):
    w.subcommand = ("evaluate", TEACHING, "--checkpoint", str(path), "--results", str(w.out))


@kind("commands", "evaluate: no such checkpoint", "none.safetensors", "no checkpoint", "Train")
def _(w):
    evaluated(w, w.folder / "none.safetensors")


@kind("commands", "evaluate: a cut checkpoint", "weights.safetensors", "not a complete")
def _(w):
    path = weighted(w)
    path.write_bytes(path.read_bytes()[:3000])
    w.arguments.clear()
    evaluated(w, path)


@kind("commands", "evaluate: a checkpoint of another network", "weights.safetensors", "missing")
def _(w):
    path = weighted(w, {"something.else": torch.zeros(3)})
    w.arguments.clear()
    evaluated(w, path)


@kind("commands", "train: a misspelled experiment", "teaching.fantom.voxelmorph2", TEACHING)
def _(w):
    w.subcommand = ("train", "teaching.fantom.voxelmorph2")


@kind("commands", "train: no such data", "lpba40", code=1)
def _(w):
    folder = str(w.folder / "nothing")
    run = str(w.folder / "run")
    w.subcommand = ("train", "lganetpp.table2.voxelmorph2", "--data", folder, "--folder", run)


@kind("commands", "table: a misspelled name", "lganetpp.table9", "lganetpp.table2")
def _(w):
    w.subcommand = ("table", "lganetpp.table9")


@kind("commands", "models: a misspelled name", "ad_regnett", "ad_regnet")
def _(w):
    w.subcommand = ("models", "ad_regnett")


@kind("commands", "no such command", "registre", code=2)
def _(w):
    w.subcommand = ("registre",)
