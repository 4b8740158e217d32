"""Image files that SimpleITK reads and writes: MetaImage, NRRD, and flat pictures.

SimpleITK orders arrays backwards and counts its world in LPS; both are turned round here, so that
the rest of the library sees array axes in file order and RAS+ millimetres. Needs the extra `io`.

    volume = read_image(Path("brain.nrrd"))
    write_itk(Path("brain.mha"), itk_image(volume.array, volume.affine))
"""

import zlib
from pathlib import Path
from types import ModuleType

import numpy as np

from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.contents import first_bytes, require_memory, require_regular_file
from regnet_lib.data.geometry import planar_affine, require_usable_affine, spatial_shape
from regnet_lib.data.nifti import PICTURE_SUFFIXES, real_voxels
from regnet_lib.data.volume import BadInputError, Volume

# What a file of this suffix begins with, lower case.
BEGINNINGS = {
    ".mha": (b"objecttype", b"comment", b"ndims"),
    ".mhd": (b"objecttype", b"comment", b"ndims"),
    ".nrrd": (b"nrrd",),
    ".nhdr": (b"nrrd",),
}


def import_simpleitk() -> ModuleType:
    """SimpleITK, or an error that says how to get it."""
    try:
        import SimpleITK
    except ImportError as error:
        raise ModuleNotFoundError(
            "This needs the package SimpleITK, which is not installed. Install the extra: "
            "pip install 'regnet_lib[io]'."
        ) from error
    return SimpleITK


def read_image(path: Path, *, planar: bool = False) -> Volume:
    """The scalar image of a file, as stored, with its checks; see `read_volume`."""
    image = _read(path)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise BadInputError(
            f"{path}: expected real numbers per voxel, found "
            f"{image.GetNumberOfComponentsPerPixel()} components (a colour picture or a vector "
            "field). Convert to a scalar image."
        )
    shape = spatial_shape(path, tuple(image.GetSize()), planar=planar)
    affine = itk_affine(image)
    require_usable_affine(path, affine)
    notes: tuple[str, ...] = ()
    if path.suffix.lower() in PICTURE_SUFFIXES:
        notes = ("a picture has no voxel size; 1 mm is assumed",)
    elif len(shape) == 2:
        affine, notes = planar_affine(affine)
    array = real_voxels(path, itk_array(image)).reshape(shape)
    return Volume(array, affine, notes)


def read_vectors(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A vector image `(*shape, n)` as stored, and its voxel -> RAS+ matrix."""
    image = _read(path)
    return itk_array(image), itk_affine(image)


def write_itk(path: Path, image, *, overwrite: bool = False) -> Path:
    """Write a SimpleITK image atomically and read its header back."""
    sitk = import_simpleitk()

    def write(temporary: Path) -> None:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            stored = _information(temporary).GetSize()
        except RuntimeError as error:
            raise OSError(5, _last_line(error), str(temporary)) from error
        if stored != image.GetSize():
            raise OSError(28, f"the file holds {stored} voxels of {image.GetSize()}")

    write_atomically(path, write, overwrite=overwrite)
    return path


def itk_image(array: np.ndarray, affine: np.ndarray, *, vector: bool = False):
    """A SimpleITK image of `(*shape)`, or with `vector=True` of `(*shape, n)`.

    Args:
        affine: voxel -> RAS+ mm, without shear.
    """
    sitk = import_simpleitk()
    axes = array.ndim - vector
    order = (*range(axes)[::-1], axes) if vector else tuple(range(axes)[::-1])
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(order)), isVector=vector)
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    spacing = np.linalg.norm(lps[:axes, :axes], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:axes, 3].tolist())
    # ITK checks the determinant; rounding of float32 headers is removed first
    left, _, right = np.linalg.svd(lps[:axes, :axes] / spacing)
    image.SetDirection((left @ right).ravel().tolist())
    return image


def itk_array(image) -> np.ndarray:
    """`(*shape)` or `(*shape, n)` in file order."""
    array = import_simpleitk().GetArrayFromImage(image)
    axes = image.GetDimension()
    return array.transpose(*range(axes)[::-1], *range(axes, array.ndim))


def itk_affine(image) -> np.ndarray:
    """Voxel -> RAS+ mm `(4, 4)` of an image in two or three dimensions."""
    axes = image.GetDimension()
    affine = np.eye(4)
    if axes > 3:
        return affine
    direction = np.array(image.GetDirection()).reshape(axes, axes)
    affine[:axes, :axes] = direction * np.array(image.GetSpacing())
    affine[:axes, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine if axes == 3 else _planar_ras(affine)


def _planar_ras(affine: np.ndarray) -> np.ndarray:
    turned = affine.copy()
    turned[:2] *= -1
    return turned


def _read(path: Path):
    """Read a file, after a look at whether it can be complete."""
    suffix = path.suffix.lower()
    require_regular_file(path)
    sitk = import_simpleitk()
    beginnings = BEGINNINGS.get(suffix)
    if beginnings and not first_bytes(path, 64).lower().startswith(beginnings):
        from regnet_lib.data.contents import describe

        what, remedy = describe(first_bytes(path)) or ("something else", "Export it again.")
        raise BadInputError(f"{path}: expected a {suffix} image, found {what}. {remedy}")
    try:
        information = _information(path)
        size = information.GetSize()
        require_memory(path, (*size, information.GetNumberOfComponents()))
        if suffix in (".mha", ".mhd"):
            _require_complete_metaimage(path, information)
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise BadInputError(
            f"{path}: the file ends early or is damaged ({_last_line(error)}). Fetch or copy it "
            "again."
        ) from error


def _information(path: Path):
    sitk = import_simpleitk()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _require_complete_metaimage(path: Path, information) -> None:
    """ITK returns noise for a damaged compressed MetaImage, and says so on the terminal only."""
    content = path.read_bytes()
    fields: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in fields:
        end = content.find(b"\n", start)
        if end < 0:
            raise BadInputError(f"{path}: the header has no ElementDataFile. Export it again.")
        key, _, value = content[start:end].decode("latin-1").partition("=")
        fields[key.strip()] = value.strip()
        start = end + 1
    name = fields["ElementDataFile"]
    if name == "LOCAL":
        data = content[start:]
    elif name == "LIST" or "%" in name:
        return  # one file per slice, which ITK checks
    else:
        voxels = path.parent / name
        if not voxels.is_file():
            raise BadInputError(
                f"{path}: expected its voxels in {voxels}, which does not exist. Copy both files."
            )
        data = voxels.read_bytes()
    sitk = import_simpleitk()
    pixel = sitk.Image([1] * len(information.GetSize()), information.GetPixelID(), 1)
    sized = pixel.GetSizeOfPixelComponent() * information.GetNumberOfComponents()
    expected = int(np.prod(information.GetSize(), dtype=np.int64)) * sized
    found = len(data)
    if fields.get("CompressedData", "").lower() == "true":
        try:
            found = len(zlib.decompress(data))
        except zlib.error as error:
            raise BadInputError(
                f"{path}: the header promises {expected} bytes of voxels, but the file ends early "
                f"or is damaged ({error}). Fetch or copy it again."
            ) from error
    if found < expected:
        raise BadInputError(
            f"{path}: the header promises {expected} bytes of voxels, but the file ends early or "
            f"is damaged ({found} bytes). Fetch or copy it again."
        )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
