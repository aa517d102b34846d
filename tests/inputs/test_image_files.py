"""Image files: which way up, whether whole, and what is said of those that cannot be read."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mlx_rcnn.inputs.image_files import file_sizes, load_image_file
from mlx_rcnn.inputs.images import ImageError


def photo(height=40, width=60):
    """Noise, so that files are long and any turn shows."""
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def stored(upright, orientation):
    """How a camera stores a picture under each orientation (EXIF 2.32, tag 0x0112)."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(turned[orientation])


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "lzw.tif", "a.jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_turn_once_and_sizes_are_those_of_pixels(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, upright = tmp_path / name, photo()
    options = {"a.webp": {"lossless": True}, "lzw.tif": {"compression": "tiff_lzw"}}
    image = Image.fromarray(stored(upright, orientation))
    image.save(path, exif=exif, **options.get(name, {"quality": 95, "subsampling": 0}))
    as_stored, turned = file_sizes(path)
    assert turned == (40, 60) and as_stored == image.size[::-1]
    for way, want, size in ((True, upright, turned), (False, np.asarray(image), as_stored)):
        pixels = load_image_file(path, upright=way)
        assert pixels.shape[:2] == size
        if name == "a.jpg":
            assert np.abs(pixels.astype(int) - want).mean() < 40  # lossy; other turns are at 85
        else:
            np.testing.assert_array_equal(pixels, want)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_damaged_exif_turns_nothing(tmp_path):
    image = Image.fromarray(photo())
    image.save(tmp_path / "a.png")
    raw = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(raw[:33] + chunk(b"eXIf", b"garbage") + raw[33:])
    (tmp_path / "late.png").write_bytes(raw[:-12] + chunk(b"eXIf", b"garbage") + raw[-12:])
    image.save(tmp_path / "a.webp", exif=b"garbage", lossless=True)
    for name in ("a.png", "late.png", "a.webp"):
        np.testing.assert_array_equal(load_image_file(tmp_path / name), photo())
        assert file_sizes(tmp_path / name) == ((40, 60), (40, 60))


def test_orientation_behind_the_pixels_of_a_png(tmp_path):
    Image.fromarray(stored(photo(), 6)).save(tmp_path / "a.png")
    raw, exif = (tmp_path / "a.png").read_bytes(), Image.Exif()
    exif[0x0112] = 6
    block = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "a.png").write_bytes(raw[:-12] + block + raw[-12:])
    np.testing.assert_array_equal(load_image_file(tmp_path / "a.png"), photo())
    assert file_sizes(tmp_path / "a.png") == ((60, 40), (40, 60))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.tif", "lzw.tif", "a.bmp"])
def test_the_check_finds_what_is_cut_off(tmp_path, name, share):
    path = tmp_path / name
    Image.fromarray(photo()).save(path, compression="tiff_lzw" if name == "lzw.tif" else None)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    try:
        load_image_file(path)
    except ImageError as error:
        with pytest.raises(ImageError, match="cannot read") as caught:
            file_sizes(path)
        assert str(path) in str(error) and "\n" not in str(caught.value)
    else:
        assert name == "a.gif"  # Pillow shows what there is
        assert file_sizes(path)


def test_jpeg_with_something_behind_its_end_passes(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(photo()).save(path)
    whole = path.read_bytes()
    for tail in (b"\0" * 300, b"SEFT and what phones append" * 9, b"\r\n"):
        path.write_bytes(whole + tail)
        assert file_sizes(path)[1] == load_image_file(path).shape[:2]


def test_float_files_are_judged_by_the_check_as_by_loading(tmp_path):
    grey = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "unit.tif")
    Image.fromarray(grey - 5).save(tmp_path / "negative.tif")
    assert file_sizes(tmp_path / "unit.tif")[1] == (3, 4)
    for read in (file_sizes, load_image_file):
        with pytest.raises(ImageError, match=r"negative\.tif has floats from -5"):
            read(tmp_path / "negative.tif")


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(photo()), Image.new("RGB", (60, 40))]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(load_image_file(tmp_path / "a.webp"), photo())


FTYP = b"\0\0\0\x18ftyp"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (FTYP + b"heic\0\0\0\0mif1heic" + b"\0" * 200, "HEIC is not supported"),
        (FTYP + b"mif1" + b"\0" * 200, "HEIC is not supported"),
        (FTYP + b"isom" + b"\0" * 200, "a video"),
        (FTYP + b"crx " + b"\0" * 200, "raw file"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "SVG"),
        (b"\n<!DOCTYPE HTML><html>", "a web page"),
        (b"8BPS\0\x01" + b"\0" * 9, "Photoshop"),
        (b"\xff\x0a" + b"\0" * 90, "JPEG XL"),
        (b"PK\x03\x04" + b"\0" * 90, "an archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\0" * 5000, "it holds zeros"),
        (b"\xff\xd8\xff\xe0", "starts as a JPEG does"),
        (b"II*\0\x10\0\0\0CR\x02\0", "starts as a TIFF does"),
        (b"some text", "not an image, or a format Pillow does not know"),
        (b"", "the file is empty"),
    ],
)
def test_what_a_file_is_that_is_no_image(tmp_path, data, what):
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for read in (file_sizes, load_image_file):
        with pytest.raises(ImageError) as caught:
            read(path)
        assert str(caught.value).startswith(f"cannot read {path}: ") and what in str(caught.value)


def test_raw_photos_are_no_thumbnails(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.dng", "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    for read in (file_sizes, load_image_file):
        with pytest.raises(ImageError, match="a camera's raw file"):
            read(tmp_path / "a.dng")


def test_too_many_pixels_are_said(tmp_path):
    Image.new("1", (20000, 10000)).save(tmp_path / "large.png")
    for read in (file_sizes, load_image_file):
        with pytest.raises(ImageError, match="larger than Pillow opens: .*200000000 pixels"):
            read(tmp_path / "large.png")


def test_folders_and_missing_files(tmp_path):
    for read in (file_sizes, load_image_file):
        with pytest.raises(IsADirectoryError, match="is a folder"):
            read(tmp_path)
        with pytest.raises(FileNotFoundError, match="no such image"):
            read(tmp_path / "none.jpg")


def test_good_files_are_read_without_a_word(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.jpg", "a.png", "a.webp", "a.tif", "a.gif", "a.bmp"):
            Image.fromarray(photo()).save(tmp_path / name)
            assert file_sizes(tmp_path / name)[1] == load_image_file(tmp_path / name).shape[:2]
