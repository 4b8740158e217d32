"""The NIfTI reader and writer: what goes in comes out, and what cannot be used is named."""

import gzip
import os
import struct

import nibabel
import numpy as np
import pytest

from regnet_lib.data import BadInputError, Volume, read_volume, write_volume
from regnet_lib.data.atomic import write_arrays, write_atomically
from regnet_lib.data.nifti import require_same_grid

SHAPE = (5, 6, 7)
# Turned about two axes, left-handed, anisotropic.
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = (
    np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    @ np.array([[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]])
    @ np.diag([-0.9, 1.1, 2.5])
)
OBLIQUE[:3, 3] = (30.0, -12.5, 7.0)
suffixes = pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])


def texture(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def save(path, array, affine=OBLIQUE):
    """Write with nibabel alone, so that the reader is tested without our writer."""
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def patch_header(path, offset, form, *values):
    """Overwrite bytes of the header of an uncompressed file."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)
    return path


def refused(path, *words, **options):
    """The reader refuses the file, names it and says every one of the words."""
    with pytest.raises(BadInputError) as caught:
        read_volume(path, **options)
    text = str(caught.value)
    assert text.startswith(str(path))
    for word in words:
        assert word in text
    return caught.value


class TestRoundTrip:
    @suffixes
    @pytest.mark.parametrize(
        "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.float16]
    )
    def test_images_of_every_type(self, tmp_path, suffix, dtype):
        array = (100 * texture()).astype(dtype)
        path = write_volume(tmp_path / f"image{suffix}", array, OBLIQUE)
        volume = read_volume(path)
        assert volume.array.dtype == np.float32
        np.testing.assert_array_equal(volume.array, array.astype(np.float32))
        np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
        np.testing.assert_allclose(
            volume.spacing_mm, np.linalg.norm(OBLIQUE[:3, :3], axis=0), atol=1e-6
        )

    @suffixes
    @pytest.mark.parametrize(
        "dtype", [np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64, np.bool_]
    )
    @pytest.mark.parametrize("largest", [1, 182, 40000])
    def test_labels_of_every_type(self, tmp_path, suffix, dtype, largest):
        if dtype != np.bool_ and np.dtype(dtype).kind != "f":
            largest = min(largest, np.iinfo(dtype).max)
        array = np.random.default_rng(1).choice([0, largest], SHAPE).astype(dtype)
        path = write_volume(tmp_path / f"labels{suffix}", array, OBLIQUE)
        volume = read_volume(path, labels=True)
        assert volume.array.dtype == np.int64
        np.testing.assert_array_equal(volume.array, array.astype(np.int64))

    def test_negative_64_bit_integers_do_not_wrap_around(self, tmp_path):
        array = np.random.default_rng(2).integers(-3, 200, SHAPE)
        volume = read_volume(write_volume(tmp_path / "hu.nii.gz", array, OBLIQUE))
        np.testing.assert_array_equal(volume.array, array)

    def test_integers_beyond_32_bits_are_refused(self, tmp_path):
        array = np.full(SHAPE, 2**40)
        with pytest.raises(BadInputError, match="at most 32 bits.*1099511627776"):
            write_volume(tmp_path / "labels.nii.gz", array, OBLIQUE)
        assert list(tmp_path.iterdir()) == []

    def test_other_programs_read_it(self, tmp_path):
        array = texture()
        path = write_volume(tmp_path / "image.nii.gz", array, OBLIQUE, intent="vector")
        image = nibabel.load(path)
        np.testing.assert_array_equal(image.get_fdata(), array)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.header.get_intent()[0] == "vector"
        assert image.header["sform_code"] > 0

    def test_axes_are_not_transposed(self, tmp_path):
        array = np.zeros(SHAPE, dtype=np.float32)
        array[1, 2, 3] = 9
        volume = read_volume(write_volume(tmp_path / "marker.nii", array, OBLIQUE))
        assert np.argwhere(volume.array == 9).tolist() == [[1, 2, 3]]

    def test_a_single_volume_in_four_dimensions(self, tmp_path):
        array = texture((*SHAPE, 1))
        volume = read_volume(save(tmp_path / "image.nii", array))
        np.testing.assert_array_equal(volume.array, array[..., 0])

    def test_slope_and_intercept_are_applied(self, tmp_path):
        stored = (100 * texture()).astype(np.int16)
        path = patch_header(save(tmp_path / "scaled.nii", stored), 112, "<ff", 0.5, -3.0)
        np.testing.assert_allclose(read_volume(path).array, 0.5 * stored - 3, rtol=0, atol=1e-5)

    def test_nifti_2(self, tmp_path):
        path = tmp_path / "second.nii"
        nibabel.save(nibabel.Nifti2Image(texture(), OBLIQUE), path)
        np.testing.assert_array_equal(read_volume(path).array, texture())


class TestBadFiles:
    @suffixes
    def test_missing(self, tmp_path, suffix):
        refused(tmp_path / f"nowhere{suffix}", "does not exist", "Check the path")

    @suffixes
    def test_folder(self, tmp_path, suffix):
        path = tmp_path / f"folder{suffix}"
        path.mkdir()
        refused(path, "folder or an empty file")

    @suffixes
    def test_empty(self, tmp_path, suffix):
        path = tmp_path / f"empty{suffix}"
        path.touch()
        refused(path, "folder or an empty file")

    @suffixes
    def test_text(self, tmp_path, suffix):
        path = tmp_path / f"page{suffix}"
        path.write_text("<html>404 not found</html>" * 40)
        refused(path, "header is not that of a NIfTI file", "again")

    def test_other_format(self, tmp_path):
        path = tmp_path / "image.xyz"
        path.write_text("ObjectType = Image")
        refused(path, ".nii or .nii.gz", "a MetaImage")

    def test_plain_file_under_a_compressed_name(self, tmp_path):
        path = save(tmp_path / "image.nii", texture())
        refused(path.rename(tmp_path / "image.nii.gz"), "header is not that")

    @suffixes
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
    def test_truncated(self, tmp_path, suffix, share):
        """Other readers fill the missing voxels with zeros and say nothing."""
        path = save(tmp_path / f"cut{suffix}", texture((20, 20, 20)))
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        refused(path, "20 x 20 x 20", "ends early or is damaged", "again")

    @pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
    def test_damaged_stream(self, tmp_path, where):
        """Noise hardly compresses: a wrong byte decodes without error, only the checksum knows."""
        path = save(tmp_path / "flipped.nii.gz", texture((20, 20, 20)))
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= 0xFF
        path.write_bytes(content)
        refused(path, "damaged")

    def test_wrong_checksum(self, tmp_path):
        path = save(tmp_path / "checksum.nii.gz", texture())
        content = bytearray(path.read_bytes())
        content[-8] ^= 0xFF
        path.write_bytes(content)
        refused(path, "damaged", "CRC")

    def test_destroyed_magic(self, tmp_path):
        """SimpleITK would read this as ANALYZE and lose the orientation."""
        path = patch_header(save(tmp_path / "magic.nii", texture()), 344, "4s", b"oops")
        refused(path, "header is not that of a NIfTI file")

    def test_voxels_promised_past_the_end(self, tmp_path):
        path = patch_header(save(tmp_path / "offset.nii", texture()), 108, "<f", 1e6)
        refused(path, "ends early or is damaged")

    @suffixes
    def test_header_that_claims_more_voxels_than_the_file_holds(self, tmp_path, suffix):
        path = patch_header(save(tmp_path / "liar.nii", texture()), 42, "<hhh", 50, 60, 70)
        if suffix == ".nii.gz":
            path = tmp_path / "liar.nii.gz"
            path.write_bytes(gzip.compress((tmp_path / "liar.nii").read_bytes()))
        refused(path, "50 x 60 x 70", "ends early")

    @suffixes
    def test_header_that_claims_more_than_the_memory(self, tmp_path, suffix):
        path = patch_header(save(tmp_path / "huge.nii", texture()), 42, "<hhh", 30000, 30000, 30000)
        if suffix == ".nii.gz":
            path = tmp_path / "huge.nii.gz"
            path.write_bytes(gzip.compress((tmp_path / "huge.nii").read_bytes()))
        refused(path, "30000 x 30000 x 30000", "GiB", "Check the header")

    @pytest.mark.parametrize("shape", [(5, 6, 7, 3), (5, 6, 7, 1, 3), (5, 6), (5, 6, 1)])
    def test_other_than_one_volume(self, tmp_path, shape):
        refused(save(tmp_path / "many.nii", texture(shape)), "one 3-D volume", str(shape))

    @pytest.mark.parametrize(
        "matrix",
        [np.diag([1.0, 1, 0, 1]), np.diag([1.0, 1, np.nan, 1]), np.zeros((4, 4))],
        ids=["flat", "NaN", "zero"],
    )
    def test_unusable_affine(self, tmp_path, matrix):
        path = save(tmp_path / "affine.nii", texture(), np.eye(4))
        patch_header(path, 280, "<12f", *matrix[:3].ravel())
        refused(path, "invertible voxel-to-world matrix", "qform or sform")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_voxels_that_are_not_finite(self, tmp_path, value):
        array = texture()
        array[2, 3, 4] = array[4, 5, 6] = value
        refused(save(tmp_path / "nan.nii.gz", array), "found 2", "(2, 3, 4)", "Replace")

    @pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
    def test_values_beyond_float32(self, tmp_path):
        array = texture().astype(np.float64)
        array[0, 0, 0] = 1e300
        refused(save(tmp_path / "large.nii", array), "infinite")

    def test_complex_voxels(self, tmp_path):
        refused(save(tmp_path / "complex.nii", texture().astype(np.complex64)), "real numbers")

    def test_colour_voxels(self, tmp_path):
        array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        refused(save(tmp_path / "colour.nii", array), "real numbers")


class TestBadLabels:
    def test_fractions(self, tmp_path):
        array = np.full(SHAPE, 2, dtype=np.float32)
        array[0, 0, 0] = 1.5
        refused(
            save(tmp_path / "soft.nii", array), "whole numbers", "nearest-neighbour", labels=True
        )

    def test_not_a_number(self, tmp_path):
        array = np.full(SHAPE, np.nan, dtype=np.float32)
        refused(save(tmp_path / "nan.nii", array), "fractions or NaN", labels=True)

    @pytest.mark.parametrize("dtype", [np.int16, np.float32])
    def test_negative(self, tmp_path, dtype):
        array = np.full(SHAPE, 2, dtype=dtype)
        array[1, 1, 1] = -4
        refused(save(tmp_path / "minus.nii", array), "labels >= 0", "-4", labels=True)


class TestWriting:
    def test_existing_files_are_kept(self, tmp_path):
        path = write_volume(tmp_path / "image.nii.gz", texture(), OBLIQUE)
        before = path.read_bytes()
        with pytest.raises(BadInputError, match="the file exists") as caught:
            write_volume(path, texture(seed=1), OBLIQUE)
        assert str(path) in str(caught.value)
        assert path.read_bytes() == before

    def test_overwriting_on_request(self, tmp_path):
        path = write_volume(tmp_path / "image.nii.gz", texture(), OBLIQUE)
        write_volume(path, texture(seed=1), OBLIQUE, overwrite=True)
        np.testing.assert_array_equal(read_volume(path).array, texture(seed=1))
        assert list(tmp_path.iterdir()) == [path]

    def test_other_suffixes_are_refused(self, tmp_path):
        with pytest.raises(BadInputError, match=r"\.nii, \.nii\.gz"):
            write_volume(tmp_path / "image.png", texture(), OBLIQUE)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(BadInputError, match="the folder .* does not exist. Create it"):
            write_volume(tmp_path / "nowhere" / "image.nii", texture(), OBLIQUE)

    @pytest.mark.parametrize(
        "failure", [OSError(28, "No space left on device"), KeyboardInterrupt()]
    )
    @pytest.mark.parametrize("existing", [False, True])
    def test_a_failure_in_the_middle_leaves_nothing_half_written(
        self, tmp_path, monkeypatch, failure, existing
    ):
        path = tmp_path / "image.nii.gz"
        if existing:
            write_volume(path, texture(), OBLIQUE)
        before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

        def half(image, name):
            with open(name, "wb") as file:
                file.write(b"half a file")
            raise failure

        monkeypatch.setattr(nibabel, "save", half)
        with pytest.raises(type(failure)):
            write_volume(path, texture(seed=1), OBLIQUE, overwrite=True)
        assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before

    def test_a_failing_rename_keeps_the_old_file(self, tmp_path, monkeypatch):
        path = write_volume(tmp_path / "image.nii", texture(), OBLIQUE)
        before = path.read_bytes()

        def fail(source, target):
            raise PermissionError(f"cannot replace {target}")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(PermissionError):
            write_volume(path, texture(seed=1), OBLIQUE, overwrite=True)
        assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before

    def test_the_target_is_untouched_while_writing(self, tmp_path):
        path = tmp_path / "note.txt"
        path.write_text("old")

        def write(temporary):
            temporary.write_text("new")
            assert path.read_text() == "old" and temporary.parent == path.parent

        write_atomically(path, write, overwrite=True)
        assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]

    def test_arrays_come_back_and_are_not_replaced_by_chance(self, tmp_path):
        path, plane = tmp_path / "planes.npz", texture()
        write_arrays(path, plane=plane)
        with pytest.raises(BadInputError, match="planes.npz: the file exists"):
            write_arrays(path, plane=0 * plane)
        with np.load(path) as kept:
            assert np.array_equal(kept["plane"], plane)
        write_arrays(path, overwrite=True, plane=0 * plane)
        with np.load(path) as kept:
            assert not kept["plane"].any()
        assert list(tmp_path.iterdir()) == [path]

    def test_permissions_are_the_usual_ones(self, tmp_path):
        ordinary = tmp_path / "ordinary"
        ordinary.touch()
        path = write_volume(tmp_path / "image.nii", texture(), OBLIQUE)
        assert path.stat().st_mode == ordinary.stat().st_mode


class TestSameGrid:
    def test_equal_grids_pass(self):
        volume = Volume(texture(), OBLIQUE)
        require_same_grid(volume, Volume(texture(seed=1), OBLIQUE + 1e-5), "a.nii", "b.nii")

    def test_shapes(self):
        with pytest.raises(
            BadInputError, match=r"a\.nii: expected the shape of b\.nii, \(5, 6, 7\)"
        ):
            require_same_grid(
                Volume(texture((5, 6, 8)), OBLIQUE), Volume(texture(), OBLIQUE), "a.nii", "b.nii"
            )

    def test_affines(self):
        """A flipped axis has the same shape and spacing, and must not pass."""
        flipped = Volume(texture(), OBLIQUE @ np.diag([-1.0, 1, 1, 1]))
        with pytest.raises(
            BadInputError, match=r"a\.nii: expected the voxel-to-world matrix of b\.nii"
        ):
            require_same_grid(flipped, Volume(texture(), OBLIQUE), "a.nii", "b.nii")
